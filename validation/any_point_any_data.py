"""Gradients and Hessians obey the constraints of every symmetry at any point of a training, for any labels and loss.

VGG-16, ResNet-18 and a GPT, all narrow, at the start, in the middle and at the end of a training on true and on random
labels, under three losses. The translations before a softmax are no symmetry of the third, and say how large a
residual is where there is none.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor, nn
from torch.nn import functional as F

import modeq as mq
from modeq.numeric.data import minibatches
from modeq.numeric.networks.gpt import gpt
from modeq.numeric.networks.resnet import resnet18
from modeq.numeric.networks.vgg import vgg16
from modeq.symmetry.found import Charges, Found
from validation.claims import Cell, Merit, Numbers, Setting
from validation.pictures import SIZE, pictures
from validation.real_training import Sequences

NETWORKS = ("VGG-16", "ResNet-18", "GPT")
POINTS = ("start", "middle", "end")
WITHOUT = "end, no ε"
FAMILIES = {"translation": "o", "scale": "s", "rescale": "^"}
WIDTH, RATE, MOMENTUM, BATCH, VERIFIED = 1 / 16, 0.02, 0.9, 16, 4
NO_EPSILON = 1e-30  # torch refuses 0
_SOURCE = "Kunin et al. 2021, section 3"
MERITS = {
    "gradient": Merit(f"⟨g, ξ⟩ = 0 at any point, for any data ({_SOURCE})", "largest |⟨g, ξ⟩| / (‖g‖‖ξ‖)", 1e-12),
    "explained": Merit(
        "A norm's ε breaks it by as much as it predicts", "largest |⟨g, ξ⟩ − prediction| / (‖g‖‖ξ‖)", 1e-12
    ),
    "hessian": Merit(
        f"Hξ + (∂ξ)ᵀg = 0 at any point, for any data ({_SOURCE})", "largest ‖Hξ + (∂ξ)ᵀg‖ / (‖Hη‖ + ‖(∂ξ)ᵀg‖)", 1e-10
    ),
    "action": Merit("A finite element of the group leaves the loss as it is", "largest relative change", 1e-12),
    "control": Merit(
        "Under a loss that does not keep a symmetry, ⟨g, ξ⟩ is not 0", "|⟨g, ξ⟩| / (‖g‖‖ξ‖)", 1e-3, above=True
    ),
}
MEASURES = ("gradient", "unexplained", "hessian", "action")
_COLOURS = {"exact": "C0", "up to ε": "0.6", "less prediction": "C2", "no symmetry": "C3"}
_SMALLEST = 1e-20  # what is drawn of a residual
Read = Callable[[Tensor], tuple[Tensor, Tensor]]


def probabilities(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of the probabilities behind a softmax."""
    return F.mse_loss(output.softmax(-1), F.one_hot(target, output.shape[-1]).to(output))


def outputs(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of the outputs themselves."""
    return F.mse_loss(output, F.one_hot(target, output.shape[-1]).to(output))


LOSSES: dict[str, Any] = {"cross-entropy": "cross_entropy", "probabilities": probabilities, "outputs": outputs}


@dataclass(frozen=True)
class Case:
    """A training."""

    network: str
    labels: str


def cases(setting: Setting) -> dict[str, Case]:
    """Each network with true and with random labels."""
    chosen = setting.choose(("random",), ("true", "random"))
    return {f"{network}, {labels} labels": Case(network, labels) for network in NETWORKS for labels in chosen}


def measure(case: Case, setting: Setting) -> dict[str, Any]:
    """Train, and verify the charges of each loss on the way; at the end also without the ε of norms."""
    read, count, classes, data = _data(case, setting)
    network = _network(case.network, classes, setting.seed).to(setting.device).train()
    batch = read(torch.arange(VERIFIED) * (count // VERIFIED))
    charges = {
        name: mq.find_charges(network, batch[0], loss=loss, target=batch[1] if callable(loss) else None)
        for name, loss in LOSSES.items()
    }
    lost = [charge for charge in charges["cross-entropy"] if charge not in list(charges["outputs"])]
    order = list(minibatches(count, BATCH, setting.choose(4, 120), setting.seed))
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM)
    losses: list[float] = []
    found, control = [], {}
    for point in setting.choose(POINTS[::2], POINTS):
        until = len(order) * POINTS.index(point) // 2
        losses += [_step(network, optimizer, *read(indices)) for indices in order[len(losses) : until]]
        for name, loss in LOSSES.items():
            found += _verified(_thinned(charges[name], setting), network, loss, batch, point=point, loss=name)
        broken = mq.verify(lost, network, outputs, batch)
        control[point] = {entry.charge.name: entry.gradient for entry in broken}
    if _without_epsilon(network):
        chosen = _thinned(charges["cross-entropy"], setting)
        found += _verified(chosen, network, "cross_entropy", batch, point=WITHOUT, loss="cross-entropy")
    return {
        "data": data,
        "parameters": sum(p.numel() for p in network.parameters()),
        "charges": len(charges["cross-entropy"]),
        "generators": charges["cross-entropy"].generators,
        "steps": len(order),
        "losses": losses,
        "found": found,
        "control": control,
    }


def _data(case: Case, setting: Setting) -> tuple[Read, int, int, str]:
    """What returns inputs and labels of given indices, how many there are, of how many classes, and what it is."""
    data: Any = Sequences() if case.network == "GPT" else pictures(setting.data, setting.seed)
    classes = 17 if case.network == "GPT" else data.classes
    shape = data.batch(torch.arange(1))[1].shape[1:]
    random = torch.Generator().manual_seed(setting.seed)
    labels = torch.randint(classes, (len(data), *shape), generator=random)

    def read(indices: Tensor) -> tuple[Tensor, Tensor]:
        inputs, targets = data.batch(indices, setting.device, torch.float64)
        if case.network == "VGG-16":
            inputs = F.avg_pool2d(inputs, 2)
        return inputs, targets if case.labels == "true" else labels[indices].to(setting.device)

    return read, len(data), classes, data.name


def _network(name: str, classes: int, seed: int) -> nn.Module:
    """The network in float64; linear layers of VGG-16 as in `validation.training.vgg`, but for half the image size."""
    if name == "GPT":
        return gpt(
            layers=2, heads=2, dim=16, vocabulary=classes, context=63, tied=False, seed=seed, dtype=torch.float64
        )
    if name == "ResNet-18":
        return resnet18(classes=classes, width=WIDTH, seed=seed, dtype=torch.float64)
    network = vgg16(seed, width=WIDTH, dropout=0, classes=classes, image_size=SIZE // 2, dtype=torch.float64)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(math.sqrt(2 / layer.in_features) / 0.01)
    return network


def _thinned(charges: Charges, setting: Setting) -> Charges:
    """All charges; in a quick run the first of each family."""
    if not setting.quick:
        return charges
    families: dict[str, Found] = {}
    for entry in charges.found:
        families.setdefault(_family(entry.charge), entry)
    return Charges(list(families.values()))


def _family(charge: Any) -> str:
    return type(charge).__name__.lower()


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> float:
    optimizer.zero_grad()
    value = F.cross_entropy(network(inputs).flatten(0, -2), targets.flatten())
    value.backward()
    optimizer.step()
    return value.item()


def _verified(charges: Charges, network: nn.Module, function: Any, batch: Any, **where: str) -> list[dict[str, Any]]:
    """The largest residuals of each family, of charges that are exact and of those up to ε apart."""
    groups: dict[tuple[str, bool], list[Any]] = defaultdict(list)
    for entry, known in zip(mq.verify(charges, network, function, batch), charges.found, strict=True):
        groups[_family(entry.charge), known.exact or where["point"] == WITHOUT].append(entry)
    return [
        {**where, "family": family, "exact": exact, "charges": len(entries)}
        | {measure: float(np.max([getattr(entry, measure) for entry in entries])) for measure in MEASURES}
        for (family, exact), entries in groups.items()
    ]


def _without_epsilon(network: nn.Module) -> bool:
    """Take the ε of all norms away; return whether there are any."""
    norms = [layer for layer in network.modules() if hasattr(layer, "eps")]
    for layer in norms:
        layer.eps = NO_EPSILON
    return bool(norms)


def cells(numbers: Numbers) -> list[Cell]:
    """For each network, point and loss the worst over charges and labels; the best of controls."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for case, one in numbers.items():
        network = case.split(", ")[0]
        for row in one["found"]:
            where = f"{network}, {row['point']}, {row['loss']}"
            if row["exact"]:
                for merit in ("gradient", "hessian", "action"):
                    values[merit, where].append(row[merit])
            else:
                values["explained", where].append(row["unexplained"])
        for point, controls in one["control"].items():
            for charge, value in controls.items():
                values["control", f"{network}, {point}, outputs, {charge}"].append(value)
    # numpy's largest and smallest of nan are nan, which no bound lets pass.
    return [
        Cell(merit, where, float(np.min(found) if MERITS[merit].above else np.max(found)))
        for (merit, where), found in values.items()
    ]


def draw(numbers: Numbers, setting: Setting) -> Mapping[str, tuple[Figure, str]]:
    """Residuals of gradients above, of Hessians below, by network, point, loss, labels and family."""
    figure, axes = plt.subplots(2, len(NETWORKS), figsize=(13, 8.5), layout="constrained", sharey="row", sharex="col")
    for column, network in enumerate(NETWORKS):
        own = {case: one for case, one in numbers.items() if case.startswith(f"{network}, ")}
        first: Mapping[str, Any] = next(iter(own.values()))
        title = f"{network}: {first['generators']} generators in {first['charges']} charges"
        axes[0, column].set_title(title, fontsize=10)
        for axis, residual in zip(axes[:, column], ("gradient", "hessian"), strict=True):
            places = _dress(axis, first, MERITS[residual].bound)
            for case, one in own.items():
                _draw_residuals(axis, one, residual, places, case.endswith("true labels"))
    axes[0, 0].set_ylabel("|⟨g, ξ⟩| / (‖g‖‖ξ‖)")
    axes[1, 0].set_ylabel("‖Hξ + (∂ξ)ᵀg‖ / (‖Hη‖ + ‖(∂ξ)ᵀg‖)")
    figure.legend(*_legend(), loc="outside upper center", ncols=9, fontsize=9, frameon=False)
    return {"any_point_any_data": (figure, _caption(numbers, setting))}


def _dress(axis: Any, one: Mapping[str, Any], bound: float) -> dict[tuple[str, str], int]:
    """Name the points and losses; return where each is."""
    order = dict.fromkeys((row["point"], row["loss"]) for row in one["found"])
    # A gap between points.
    places = {where: k + list(dict.fromkeys(p for p, _ in order)).index(where[0]) for k, where in enumerate(order)}
    axis.set_xticks(list(places.values()), [f"{point}: {loss}" for point, loss in places], rotation=90, fontsize=8)
    axis.axhline(np.finfo(float).eps, color="grey", linewidth=0.8)
    axis.axhline(bound, color="black", linestyle=":", linewidth=1)
    axis.set_yscale("log")
    axis.set_ylim(_SMALLEST / 3, 3)
    return places


def _draw_residuals(
    axis: Any, one: Mapping[str, Any], residual: str, places: Mapping[tuple[str, str], int], true: bool
) -> None:
    shift = -0.15 if true else 0.15
    for row in one["found"]:
        place, marker = places[row["point"], row["loss"]] + shift, FAMILIES[row["family"]]
        shown = {_COLOURS["exact"]: row[residual]}
        if not row["exact"]:
            shown = {_COLOURS["up to ε"]: row[residual]}
            if residual == "gradient":
                shown[_COLOURS["less prediction"]] = row["unexplained"]
        for colour, value in shown.items():
            face = colour if true else "none"
            axis.plot(place, max(value, _SMALLEST), marker, color=colour, markerfacecolor=face, markersize=5)
    if residual == "gradient":
        for point, controls in one["control"].items():
            face = _COLOURS["no symmetry"] if true else "none"
            at = [places[point, "outputs"] + shift] * len(controls)
            axis.plot(at, list(controls.values()), "D", color="C3", markerfacecolor=face, markersize=5)


def _legend() -> tuple[list[Any], list[str]]:
    entries = {family: {"marker": marker, "color": "black"} for family, marker in FAMILIES.items()}
    entries |= {f"{labels} labels": {"marker": "o", "color": "black"} for labels in ("true", "random")}
    entries["random labels"]["markerfacecolor"] = "none"
    entries |= {name: {"marker": "D" if name == "no symmetry" else "s", "color": c} for name, c in _COLOURS.items()}
    return [Line2D([], [], linestyle="", markersize=6, **style) for style in entries.values()], list(entries)


def _caption(numbers: Numbers, setting: Setting) -> str:
    parts = []
    for network in NETWORKS:
        own = {case: one for case, one in numbers.items() if case.startswith(f"{network}, ")}
        first: Mapping[str, Any] = next(iter(own.values()))
        losses = ", ".join(
            f"{one['losses'][0]:.2f} to {one['losses'][-1]:.2f} on {case.split(', ')[1]}" for case, one in own.items()
        )
        pixels = ", averaged to 32×32" if network == "VGG-16" else ""
        parts.append(f"{network}, {first['parameters']:,} parameters, {first['data']}{pixels}, loss {losses}")
        steps = first["steps"]
    return (
        f"The largest residual of each family (filled: true labels, open: random ones) under three losses: "
        f"cross-entropy, and squared errors of the probabilities and of the outputs; diamonds: translations before a "
        f"softmax under the last, which does not keep them. Grey line: rounding; dotted: bound; 0 is drawn at "
        f"{_SMALLEST:.0e}. {'; '.join(parts)}; SGD, learning rate {RATE:g}, momentum {MOMENTUM:g}, batch {BATCH}, "
        f"{steps} steps; verified on {VERIFIED} samples; float64; seed {setting.seed}."
    )
