"""Weights before a normalisation settle at the norm, and turn at the rate, that decay and their gradients' size say.

A convolutional network with batch norm on handwritten digits, with fresh noise in its labels and without, under six
variants of SGD. Each is trained twice, from filters of squared norm 16 and 1/16, on different batches; when all has
settled, the learning rate changes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor
from torch.nn import functional as F

import modeq as mq
from modeq.numeric.data import digits, minibatches
from modeq.numeric.networks.small import digits_cnn
from validation.claims import Cell, Merit, Numbers, Setting

BATCH, NOISE, SETTLED = 16, 0.2, 0.05
# The starts by their squared norm, and what the learning rate is multiplied with when all has settled.
STARTS = {16.0: 0.5, 1 / 16: 2.0}
LAYERS = ("conv1", "conv2")
PARTS = ("from the start", "settled", "after the change")
# Of one relaxation time, 125 steps, so that first order in hλ is off by parts of a thousand.
STEPS = {
    "gradient descent": mq.SGDStep(0.2, weight_decay=1e-2),
    "heavy ball": mq.SGDStep(0.05, momentum=0.9, weight_decay=4e-3),
    "dampened": mq.SGDStep(0.1, momentum=0.9, dampening=0.5, weight_decay=4e-3),
    "Nesterov": mq.SGDStep(0.05, momentum=0.9, weight_decay=4e-3, nesterov=True),
    "heavy ball, decoupled": mq.SGDStep(0.05, momentum=0.9, weight_decay=4e-2, decoupled=True),
    "Nesterov, decoupled": mq.SGDStep(0.05, momentum=0.9, weight_decay=4e-2, nesterov=True, decoupled=True),
}
_NORM = "|Σ‖θ‖² / Σ predicted − 1| over the filters of a layer"
MERITS = {
    "norm": Merit(
        "Norms settle where gradients of another time say, taken as independent",
        f"{_NORM}, G of the other half",
        SETTLED,
    ),
    "memory": Merit(
        "So they do with what the gradients remember, G = E‖θ‖²(‖g‖² + 2β⟨g, v⟩/(1 − α)), Nesterov 2β²⟨g, v⟩",
        f"{_NORM}, G of the other half",
        SETTLED,
    ),
    "half": Merit("So they do at the same time", f"{_NORM}, G of the same half", SETTLED),
    "other": Merit("G is the same in a training from the other side, on other batches", f"{_NORM}, its G", 2 * SETTLED),
    "angle": Merit(
        "The angle of a step is that of the hyper-parameters alone (Wan et al. 2021 for heavy ball)",
        "|root of the mean squared angle / predicted − 1| over the filters of a layer",
        SETTLED,
    ),
    "path": Merit(
        "From either side, and after a change of the learning rate, ‖θ‖⁴ relaxes to what its G of the moment says",
        "largest |Σ‖θ‖² / Σ predicted − 1| over the filters of a layer on the way",
        SETTLED,
    ),
    "level": Merit(
        "After a change of the learning rate norms go where G from before says, were that to stay",
        "|limit of mean ‖θ‖⁴ / predicted − 1| over all filters, fitted",
        4 * SETTLED,
    ),
    "time": Merit(
        "They go there in the predicted time, were G to stay", "fitted time / predicted, or its inverse", 1.5
    ),
}


@dataclass(frozen=True)
class Case:
    """An optimizer, and the share of labels that are drawn anew for each batch."""

    step: mq.SGDStep
    noise: float


@dataclass(frozen=True)
class Spans:
    """How many steps norms have to settle, are measured in each half, and follow another learning rate."""

    settling: int
    half: int
    relaxing: int

    @property
    def halves(self) -> tuple[slice, slice]:
        """The steps of both halves."""
        middle = self.settling + self.half
        return slice(self.settling, middle), slice(middle, self.changed)

    @property
    def changed(self) -> int:
        """The first step of the other learning rate."""
        return self.settling + 2 * self.half

    @property
    def parts(self) -> tuple[slice, slice, slice]:
        """The steps from the start, the settled ones, and those of the other learning rate."""
        return slice(self.settling), slice(self.settling, self.changed), slice(self.changed, None)

    @property
    def thinning(self) -> int:
        """One of so many steps is drawn."""
        return max(1, self.steps // 400)

    @property
    def steps(self) -> int:
        """All of them."""
        return self.changed + self.relaxing


@dataclass(frozen=True)
class Path:
    """What was measured before each step, [steps, filters]: ‖θ‖², ‖g‖², ⟨g, v⟩; and the squared angle of the step."""

    norm: Any
    gradient: Any
    memory: Any
    angle: Any


def cases(setting: Setting) -> dict[str, Case]:
    """All optimizers with noisy labels, two of them also with the given ones; the first two in a quick run."""
    found = {f"{name}, noisy labels": Case(step, NOISE) for name, step in STEPS.items()}
    plain = {f"{name}, given labels": Case(step, 0.0) for name, step in list(STEPS.items())[:2]}
    return setting.choose(dict(list(found.items())[:2]), found | plain)


def measure(case: Case, setting: Setting) -> dict[str, Any]:
    """Train from both sides, and return what the cells and the figure need."""
    spans = Spans(*setting.choose((60, 40, 40), (1250, 1000, 1000)))
    found = {}
    for number, (start, factor) in enumerate(STARTS.items()):
        network = digits_cnn(
            setting.seed, eps=1e-30, channels=setting.choose((3, 4), (6, 12)), activation="gelu", dtype=torch.float64
        )
        path = _trained(network.to(setting.device), case, start, factor, spans, 2 * setting.seed + number)
        found[f"{start:g}"] = _summary(path, case.step, factor, spans, len(network.conv1.weight))
    return {"step": asdict(case.step), "spans": asdict(spans), "from": found}


def _trained(network: Any, case: Case, start: float, factor: float, spans: Spans, seed: int) -> Path:
    """Train filters that begin at a squared norm, with another learning rate at the end."""
    step, device = case.step, network.fc.weight.device
    charges = [mq.Scale(layer, {f"{layer}.weight": 0}) for layer in LAYERS]
    decaying = [network.conv1.weight, network.conv2.weight, network.fc.weight]
    names = {"conv1.weight": decaying[0], "conv2.weight": decaying[1]}
    with torch.no_grad():
        for filters in names.values():
            filters.mul_((start / filters.square().sum((1, 2, 3), keepdim=True)).sqrt())
    # A decay of batch norms would switch channels off.
    others = {
        "params": [p for name, p in network.named_parameters() if "bn" in name or "bias" in name],
        "weight_decay": 0,
    }
    optimizer = torch.optim.SGD(
        [{"params": decaying}, others],
        lr=step.h,
        momentum=step.momentum,
        dampening=step.dampening,
        weight_decay=0.0 if step.decoupled else step.weight_decay,
        nesterov=step.nesterov,
    )

    def paired(x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([charge.pairing(x, y) for charge in charges])

    images, labels = digits(standardise=True, dtype=torch.float64)
    random, rows = torch.Generator().manual_seed(seed), []
    for number, indices in enumerate(minibatches(len(images), BATCH, spans.steps, seed)):
        rate = step.h * (factor if number >= spans.changed else 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        drawn, which = torch.randint(10, (BATCH,), generator=random), torch.rand(BATCH, generator=random)
        target = torch.where(which < case.noise, drawn, labels[indices])
        optimizer.zero_grad()
        F.cross_entropy(network(images[indices].to(device)), target.to(device)).backward()
        with torch.no_grad():
            before = {name: p.clone() for name, p in names.items()}
            gradients = {name: p.grad for name, p in names.items()}
            # before the first step there is none, which counts as 0
            buffers = {name: optimizer.state[p].get("momentum_buffer", 0 * p) for name, p in names.items()}
            norm, gradient, memory = paired(before, before), paired(gradients, gradients), paired(gradients, buffers)
            if step.decoupled:
                for p in decaying:
                    p.mul_(1 - rate * step.weight_decay)
            optimizer.step()
            cosine = paired(before, names) / (norm * paired(names, names)).sqrt()
        rows.append(torch.stack([norm, gradient, memory, 2 * (1 - cosine)]))
    return Path(*torch.stack(rows, 1).cpu().numpy())


def _summary(path: Path, step: mq.SGDStep, factor: float, spans: Spans, first: int) -> dict[str, Any]:
    """Means of both halves, angles, the path and the fit of what follows them, as plain values, by layer."""
    beta, unit = step.momentum, mq.equilibrium(step, 1.0)
    weight = 2 * beta**2 if step.nesterov else 2 * beta / (1 - step.dampening)
    plain, remembering = path.norm * path.gradient, path.norm * (path.gradient + weight * path.memory)
    settled = slice(spans.settling, spans.changed)
    rates = np.where(np.arange(spans.steps) < spans.changed, 1.0, factor)
    predicted = np.sqrt(
        _relaxed(path.norm[0] ** 2, unit.squared_norm**2 * rates[:, None] * remembering, step.h * rates / unit.time)
    )
    relaxing = (path.norm[spans.changed :] ** 2 / (path.norm[settled] ** 2).mean(0)).mean(1)
    limit, time = _fitted(relaxing, unit.time / (step.h * factor))
    by_layer = {
        layer: {
            "measured": [path.norm[half, own].mean(0).tolist() for half in spans.halves],
            # ‖θ‖⁴ is proportional to G
            "plain": [(unit.squared_norm * np.sqrt(plain[half, own].mean(0))).tolist() for half in spans.halves],
            "memory": [(unit.squared_norm * np.sqrt(remembering[half, own].mean(0))).tolist() for half in spans.halves],
            "angle": float(np.sqrt(path.angle[settled, own].mean()) / unit.angle),
            "missed": [_farthest(path.norm[part, own], predicted[part, own]) for part in spans.parts],
            "path": path.norm[:: spans.thinning, own].mean(1).tolist(),
            "predicted": predicted[:: spans.thinning, own].mean(1).tolist(),
        }
        for layer, own in zip(LAYERS, (slice(first), slice(first, None)), strict=True)
    }
    thin = relaxing[:: spans.thinning].tolist()
    # ... and to h
    return {"layers": by_layer, "level": limit / factor, "time": time, "relaxing": thin}


def _farthest(measured: Any, predicted: Any) -> float:
    return float(np.abs(measured.sum(1) / predicted.sum(1) - 1).max())


def _relaxed(start: Any, targets: Any, shares: Any) -> Any:
    """The values that go to the target of each step, by e^(−share) of the way that is left."""
    found = [start]
    for target, share in zip(targets[:-1], shares[:-1], strict=True):
        found.append(target + (found[-1] - target) * np.exp(-share))
    return np.array(found)


def _fitted(values: Any, time: float) -> tuple[float, float]:
    """The limit of values that go there as e^(−n/τ) from 1, and τ over a given time, to factors of 4."""
    found = []
    for ratio in np.geomspace(0.25, 4, 201):
        rest = np.exp(-np.arange(len(values)) / (ratio * time))
        (limit,), (residual,), *_ = np.linalg.lstsq((1 - rest)[:, None], values - rest, rcond=None)
        found.append((residual, limit, ratio))
    _, limit, ratio = min(found)
    return float(limit), float(ratio)


def cells(numbers: Numbers) -> list[Cell]:
    """One for each training and layer, for each half where there is one."""
    found = []
    for name, one in numbers.items():
        for (start, training), (_, other) in zip(one["from"].items(), reversed(one["from"].items()), strict=True):
            own = f"{name}, from {start}"
            found.append(Cell("level", own, abs(training["level"] - 1)))
            found.append(Cell("time", own, max(training["time"], 1 / training["time"])))
            for layer, entry in training["layers"].items():
                where = f"{own}, {layer}"
                for half, measured in enumerate(entry["measured"]):
                    for merit in ("norm", "memory"):
                        predicted = entry["plain" if merit == "norm" else merit][1 - half]
                        found.append(Cell(merit, f"{where}, half {half + 1}", _off(measured, predicted)))
                    found.append(Cell("half", f"{where}, half {half + 1}", _off(measured, entry["memory"][half])))
                elsewhere = np.mean(other["layers"][layer]["memory"], 0)
                found.append(Cell("other", where, _off(np.mean(entry["measured"], 0), elsewhere)))
                found.append(Cell("angle", where, abs(entry["angle"] - 1)))
                for part, missed in zip(PARTS, entry["missed"], strict=True):
                    found.append(Cell("path", f"{where}, {part}", missed))
    return found


def _off(measured: Any, predicted: Any) -> float:
    return float(abs(np.sum(measured) / np.sum(predicted) - 1))


def draw(numbers: Numbers, setting: Setting) -> Mapping[str, tuple[Figure, str]]:
    """Paths of two optimizers from both sides; norms against predictions, angles, and what follows another rate."""
    figure, axes = plt.subplots(2, 3, figsize=(13.5, 8), layout="constrained")
    for axis, (name, one) in zip(axes[0], list(numbers.items())[:2], strict=False):
        _draw_paths(axis, name, one)
    axes[0, 0].set_ylabel("mean ‖θ‖² of a layer")
    _draw_angles(axes[0, 2], numbers)
    for axis, key in zip(axes[1], ("plain", "memory"), strict=False):
        _draw_norms(axis, numbers, key)
    axes[1, 0].legend(fontsize=7)
    axes[1, 0].set_ylabel("‖θ‖² of a filter, measured in the other half")
    _draw_relaxations(axes[1, 2], numbers)
    return {"equilibrium": (figure, _caption(numbers, setting))}


def _draw_paths(axis: Any, name: str, one: Mapping[str, Any]) -> None:
    spans = Spans(**one["spans"])
    for style, (start, training) in zip(("-", "--"), one["from"].items(), strict=True):
        for colour, (layer, entry) in zip(("C0", "C1"), training["layers"].items(), strict=True):
            steps = np.arange(len(entry["path"])) * spans.thinning
            axis.semilogy(steps, entry["path"], style, color=colour, linewidth=1, label=f"{layer}, from {start}")
            axis.semilogy(steps, entry["predicted"], ":", color="black", linewidth=1)
    axis.axvspan(spans.settling, spans.changed, color="0.93")
    axis.axvline(spans.halves[1].start, color="white")
    axis.set_title(name, fontsize=10)
    axis.set_xlabel("step")
    axis.legend(fontsize=7)


def _draw_angles(axis: Any, numbers: Numbers) -> None:
    for place, one in enumerate(numbers.values()):
        for training in one["from"].values():
            for colour, entry in zip(("C0", "C1"), training["layers"].values(), strict=True):
                axis.plot(entry["angle"], -place, "o", color=colour, markersize=4)
    axis.axvspan(1 - SETTLED, 1 + SETTLED, color="0.93")
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_yticks(-np.arange(len(numbers)), list(numbers), fontsize=7)
    axis.set_xlabel("angle of a step / predicted")
    axis.set_title("conv1 blue, conv2 orange", fontsize=10)


def _draw_norms(axis: Any, numbers: Numbers, key: str) -> None:
    ends = []
    for number, (name, one) in enumerate(numbers.items()):
        entries = [entry for training in one["from"].values() for entry in training["layers"].values()]
        predicted = np.concatenate([np.concatenate(entry[key][::-1]) for entry in entries])
        measured = np.concatenate([np.concatenate(entry["measured"]) for entry in entries])
        axis.loglog(predicted, measured, ".", markersize=3, color=f"C{number}", label=name)
        ends += [measured.min(), measured.max()]
    axis.plot([min(ends), max(ends)], [min(ends), max(ends)], color="black", linewidth=0.8)
    for side in (axis.xaxis, axis.yaxis):
        side.set_minor_formatter(NullFormatter())
    axis.set_title({"plain": "gradients as independent", "memory": "with their memory"}[key], fontsize=10)
    axis.set_xlabel("‖θ‖² predicted from G of one half")


def _draw_relaxations(axis: Any, numbers: Numbers) -> None:
    for number, one in enumerate(numbers.values()):
        step, spans = mq.SGDStep(**one["step"]), Spans(**one["spans"])
        for factor, training in zip(STARTS.values(), one["from"].values(), strict=True):
            relaxing = np.array(training["relaxing"])
            times = np.arange(len(relaxing)) * spans.thinning * step.h * factor / mq.equilibrium(step, 1.0).time
            axis.semilogy(times, relaxing, color=f"C{number}", linewidth=0.7)
    for factor in STARTS.values():
        axis.plot(times, factor + (1 - factor) * np.exp(-times), ":", color="black")
    axis.set_xlim(0, 5)
    axis.set_title("after another learning rate: mean ‖θ‖⁴ / before", fontsize=10)
    axis.set_xlabel("t / predicted relaxation time")


def _caption(numbers: Numbers, setting: Setting) -> str:
    spans = Spans(**next(iter(numbers.values()))["spans"])
    return (
        f"Squared norms of the filters of a convolutional network on 1,797 handwritten digits, whose batch norms have "
        f"ε = 1e-30; batch {BATCH}, reshuffled at every epoch; of noisy labels each batch draws {NOISE:.0%} anew. "
        f"Above, mean squared norms of each layer from ‖θ‖² = 16 and 1/16, dotted what relaxes to the G of the moment "
        f"(grey: the {2 * spans.half} steps of the two halves; after them the learning rate is halved, or doubled), "
        f"and angles, relative to √(2hλ(1 − α)/(1 + β)) and its like, grey the bound. Below, filters in one half "
        f"against the prediction from the other, and what follows the other learning rate, dotted for a G that stays. "
        f"{'; '.join(f'{name}: {_words(step)}' for name, step in STEPS.items())}; only weights decay; float64; seed "
        f"{setting.seed}."
    )


def _words(step: mq.SGDStep) -> str:
    words = [f"learning rate {step.h:g}", f"weight decay {step.weight_decay:g}"]
    words += [f"momentum {step.momentum:g}"] if step.momentum else []
    return ", ".join([*words, f"dampening {step.dampening:g}"] if step.dampening else words)
