"""Momentum: charges are damped oscillators, by the article's laws, closer by the corrected ones, and exactly.

A grid of momentum, dampening and weight decay at the learning rate 0.1 on VGG-16 with batch norm in float32, and on a
small network in float64. The article's oscillators start at rest and are driven by 2‖v‖²; the corrected ones start as
torch's first step does, and are driven by 2‖v‖²/(1 − α)² in the article's time. The two are one law without decay and
dampening. An under-damped charge is followed for longer than its period.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import nn

import modeq as mq
from modeq.numeric.data import digits
from modeq.numeric.networks.small import digits_cnn
from validation.claims import Cell, Merit, Numbers, Setting
from validation.pictures import Pictures, pictures
from validation.training import BATCH, QUICK_WIDTH, SGD, deviations, first_example, series, train, vgg

LAWS = {"article": "article", "corrected": "corrected", "discrete": "exact", "with_defect": "exact with ⟨g, ξ⟩"}
VGG, DIGITS, LONG = "VGG-16", "digits", "digits, a period"
CHARGES = {
    VGG: {"translation": "fc3.weight", "scale": "conv2", "rescale": "fc1-fc2"},
    DIGITS: {"translation": "fc.weight", "scale": "conv2", "rescale": "bn1-conv2"},
}
DEGREES = {"translation": 1, "scale": 2, "rescale": 2}
SIZES = {"translation": "Σ|θ|(0)", "scale": "‖θ‖²", "rescale": "(‖θ₁‖² + ‖θ₂‖²)"}
ROUNDING = 1e-6  # of float32
LAST = 0.1  # factor of the initial weights of VGG-16's last layer
MERITS = {
    **{
        family: Merit(
            f"{family.capitalize()} law with momentum (Kunin et al. 2021)",
            f"largest |charge − law| / {size}",
            0.01 if family == "translation" else 0.05,
        )
        for family, size in SIZES.items()
    },
    "closer": Merit(
        "The corrected laws are closer than the article's, or as close",
        f"corrected deviation / article's deviation, 1 where both are below {ROUNDING:g} (rounding, a tie)",
        1,
    ),
    "exact": Merit("Exact discrete laws of translation and rescale, in float32", "largest deviation, as above", 1e-5),
    "explained": Merit(
        "Exact law of scale with the measured ⟨g, ξ⟩, in float32: batch norm's ε breaks the symmetry",
        "largest deviation, as above",
        1e-5,
    ),
    "float64": Merit("Exact discrete laws, small network in float64, ε = 1e-30", "largest deviation, as above", 1e-12),
}
# Those of which the first figure shows the charges.
SHOWN = (SGD(0.1, 0.8, 0, 1e-3), SGD(0.1, 0.99, 0, 1e-3), SGD(0.1, 0.99, 0.01, 1e-3))


@dataclass(frozen=True)
class Case:
    """One training."""

    network: str
    sgd: SGD
    steps: int

    def __str__(self) -> str:
        return f"{self.network}, {_hyperparameters(self.sgd)}"


def _hyperparameters(sgd: SGD) -> str:
    return f"β = {sgd.momentum:g}, α = {sgd.dampening:g}, λ = {sgd.weight_decay:g}"


def cases(setting: Setting) -> dict[str, Case]:
    """The grid on two networks, four cells of it in a quick run, and a long training of the smaller one."""
    momenta, decays = setting.choose(((0.8, 0.99), (1e-3,)), ((0.8, 0.9, 0.99), (0.0, 1e-4, 5e-4, 1e-3)))
    grid = [SGD(0.1, beta, alpha, decay) for beta, alpha, decay in product(momenta, (0.0, 0.01), decays)]
    found = [Case(VGG, sgd, setting.choose(8, 120)) for sgd in grid]
    found += [Case(DIGITS, sgd, setting.choose(30, 100)) for sgd in grid]
    return {str(case): case for case in found} | {
        LONG: Case(DIGITS, SGD(0.1, 0.99, 0, 1e-3), setting.choose(750, 1500))
    }


def measure(case: Case, setting: Setting) -> dict[str, Any]:
    """Train, and return how far a charge of each family is from each law."""
    data, network = _network(case.network, setting)
    dtype = next(network.parameters()).dtype
    found = mq.find_charges(network, first_example(data).to(dtype), loss="cross_entropy")
    names = CHARGES[case.network]
    trained = train(
        network,
        case.sgd.optimizer(network),
        data,
        [charge for charge in found if charge.name in names.values()],
        steps=case.steps,
        seed=setting.seed,
        device=setting.device,
        laws=tuple(LAWS),
    )
    records = {family: trained.record[name] for family, name in names.items()}
    is_drawn = case.sgd in SHOWN
    return {
        "data": data.name,
        "parameters": sum(p.numel() for p in network.parameters()),
        "steps": case.steps,
        "sgd": asdict(case.sgd),
        "loss": [trained.losses[0], trained.losses[-1]],
        "damping": {family: _damping(case.sgd, degree) for family, degree in DEGREES.items()},
        "deviations": {
            family: deviations(record, "start" if family == "translation" else "now")
            for family, record in records.items()
        },
        "charges": {family: series(record) for family, record in records.items() if is_drawn},
    }


def _network(name: str, setting: Setting) -> tuple[Pictures, nn.Module]:
    if name == VGG:
        data = pictures(setting.data, setting.seed)
        network = vgg(data.classes, batch_norm=True, seed=setting.seed)
        with torch.no_grad():  # with large logits the first gradients are so large that with momentum nothing is learnt
            network.fc3.weight.mul_(LAST)
        return data, network
    images, labels = digits()
    pixels = images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    data = Pictures("1,797 handwritten digits of scikit-learn", labels, 10, lambda chosen: pixels[np.asarray(chosen)])
    return data, digits_cnn(setting.seed, eps=1e-30, dtype=torch.float64)


def _damping(sgd: SGD, degree: int) -> dict[str, Any]:
    """γ and ω in units of 1/t, and the regime."""
    step = mq.SGDStep(sgd.lr, sgd.momentum, sgd.dampening, sgd.weight_decay)
    return asdict(mq.damping_regime(step, degree=degree))


def cells(numbers: Numbers) -> list[Cell]:
    """Each law, family and cell of the grid on VGG-16, and of the long training; the grid in float64."""
    found = []
    for name, one in numbers.items():
        for family, deviation in one["deviations"].items():
            cell = f"{family}, {name}, {one['damping'][family]['regime']}-damped"
            if name.startswith(VGG) or name == LONG:
                found.append(Cell(family, cell, deviation["article"]))
                found.append(Cell("closer", cell, _ratio(deviation)))
            if not name.startswith(VGG):
                found.append(Cell("float64", cell, deviation["discrete"]))
            elif family == "scale":
                found.append(Cell("explained", cell, deviation["with_defect"]))
            else:
                found.append(Cell("exact", cell, deviation["discrete"]))
    return found


def _ratio(deviation: Mapping[str, float]) -> float:
    corrected, article = deviation["corrected"], deviation["article"]
    return 1.0 if max(corrected, article) < ROUNDING else corrected / article


def draw(numbers: Numbers, setting: Setting) -> Mapping[str, tuple[Figure, str]]:
    """Charges of some cells, deviations of all, and a period of an under-damped charge."""
    grid = {name: one for name, one in numbers.items() if name.startswith(VGG)}
    return {
        "momentum": (_draw_charges(grid), _caption(grid, setting)),
        "momentum_grid": (_draw_grid(grid), _grid_caption(numbers, setting)),
        "momentum_period": (_draw_period(numbers[LONG]), _period_caption(numbers[LONG], setting)),
    }


COLOURS = {"article": "C3", "corrected": "C1", "discrete": "C0", "with_defect": "C2"}


def _draw_charges(grid: Numbers) -> Figure:
    figure, axes = plt.subplots(6, len(SHOWN), figsize=(13, 13), layout="constrained", height_ratios=[3, 1.5] * 3)
    for column, sgd in enumerate(SHOWN):
        one = grid[str(Case(VGG, sgd, 0))]
        axes[0, column].set_title(_hyperparameters(sgd), fontsize=10)
        for row, (family, charge) in enumerate(CHARGES[VGG].items()):
            above, below = axes[2 * row : 2 * row + 2, column]
            _draw_charge(above, one["charges"][family])
            _draw_residuals(below, one["charges"][family], family)
            regime = one["damping"][family]["regime"]
            above.text(0.02, 0.95, f"{regime}-damped", transform=above.transAxes, va="top", fontsize=8)
            if column == 0:
                above.set_ylabel(f"{family}, {charge}")
                below.set_ylabel("residual", fontsize=8)
        axes[-1, column].set_xlabel("step")
    figure.legend(handles=_handles(), loc="outside upper center", ncols=6, frameon=False, fontsize=9)
    return figure


def _handles() -> list[Any]:
    measured = plt.Line2D([], [], color="C7", linewidth=1.5, label="measured")
    article = plt.Line2D([], [], color="black", linestyle="--", linewidth=0.8, label="the article's law")
    residuals = [plt.Line2D([], [], color=COLOURS[law], label=f"residual: {title}") for law, title in LAWS.items()]
    return [measured, article, *residuals]


def _draw_charge(axis: Any, one: Mapping[str, Any]) -> None:
    measured, article = np.array(one["measured"]), np.array(one["predicted"]["article"])
    for generator, colour in enumerate(plt.get_cmap("viridis")(np.linspace(0, 0.9, measured.shape[1]))):
        axis.plot(one["step"], measured[:, generator], color=colour, linewidth=1.5)
        axis.plot(one["step"], article[:, generator], "k--", linewidth=0.7)
    axis.margins(x=0, y=0.15)
    axis.tick_params(labelbottom=False, labelsize=8)


def _draw_residuals(axis: Any, one: Mapping[str, Any], family: str) -> None:
    scale = np.array(one["normaliser"])[:1] if family == "translation" else np.array(one["normaliser"])
    for law, colour in COLOURS.items():
        residual = np.abs(np.array(one["predicted"][law]) - one["measured"]) / scale
        width = 1 if law in ("corrected", "with_defect") else 2.5  # some are the same as the one before
        axis.semilogy(one["step"][1:], residual.max(axis=1)[1:], color=colour, linewidth=width)
    axis.set_ylim(1e-9, 1)
    axis.set_xlim(one["step"][0], one["step"][-1])
    axis.tick_params(labelsize=8)


def _draw_grid(grid: Numbers) -> Figure:
    """A table for each family: a row for each cell of the grid, a column for each law."""
    figure, axes = plt.subplots(
        1, 3, figsize=(13, 1.6 + 0.3 * len(grid)), layout="constrained", sharey=True, squeeze=False
    )
    rows = [_hyperparameters(SGD(**one["sgd"])) for one in grid.values()]
    for axis, family in zip(axes[0], DEGREES, strict=True):
        table = np.array([[one["deviations"][family][law] for law in LAWS] for one in grid.values()])
        shown = axis.imshow(
            np.maximum(table, 1e-10), cmap="viridis_r", norm=LogNorm(1e-9, 1e-1), aspect="auto", interpolation="none"
        )
        for (row, column), value in np.ndenumerate(table):
            colour = "white" if value > 1e-5 else "black"
            axis.text(column, row, f"{value:.1e}", ha="center", va="center", fontsize=8, color=colour)
        under = [k for k, one in enumerate(grid.values()) if one["damping"][family]["regime"] == "under"]
        axis.plot([-0.43] * len(under), under, "k>", markersize=4)
        axis.set_title(f"{family}: {CHARGES[VGG][family]}\nof {SIZES[family]}", fontsize=10)
        axis.set_xticks(range(len(LAWS)), ["article", "corrected", "exact", "exact,\n⟨g, ξ⟩"], fontsize=9)
        axis.tick_params(length=0)
    axes[0, 0].set_yticks(range(len(rows)), rows, fontsize=8)
    figure.colorbar(shown, ax=axes[0], label="largest deviation of a law", shrink=0.6, extend="both")
    return figure


def _draw_period(one: Mapping[str, Any]) -> Figure:
    figure, axes = plt.subplots(2, 3, figsize=(13, 6.5), layout="constrained", height_ratios=[3, 1.7], sharex=True)
    for (above, below), (family, charge) in zip(axes.T, CHARGES[DIGITS].items(), strict=True):
        _draw_charge(above, one["charges"][family])
        _draw_residuals(below, one["charges"][family], family)
        below.set_ylim(1e-16, 1)
        below.set_xlabel("step")
        above.axhline(0, color="black", linewidth=0.5)
        period = _period(one, family)
        for axis in (above, below):
            axis.axvline(period, color="black", linestyle=":", linewidth=1)
        above.text(period, 0.97, f"period: {period:.0f} steps ", transform=above.get_xaxis_transform(), **_TOP_RIGHT)
        above.set_title(f"{family}, {charge}", fontsize=10)
    axes[1, 0].set_ylabel("residual")
    figure.legend(handles=_handles(), loc="outside upper center", ncols=6, frameon=False, fontsize=9)
    return figure


_TOP_RIGHT: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": 8}


def _period(one: Mapping[str, Any], family: str) -> float:
    """Of a charge that is under-damped, in steps."""
    damping = one["damping"][family]
    return float(2 * np.pi / np.sqrt(damping["omega"] ** 2 - damping["gamma"] ** 2) / one["sgd"]["lr"])


def _caption(grid: Numbers, setting: Setting) -> str:
    one: Mapping[str, Any] = next(iter(grid.values()))
    return (
        f"Charges measured (coloured, one line for each of up to 12 channels) and by the article's law (dashed) in "
        f"three cells of the grid; below, the largest residual of each law, relative to {SIZES['translation']}, "
        f"{SIZES['scale']}, {SIZES['rescale']}. {_training(one)}; seed {setting.seed}."
    )


def _grid_caption(numbers: Numbers, setting: Setting) -> str:
    small: Mapping[str, Any] = next(one for name, one in numbers.items() if name.startswith(DIGITS))
    ratios = [cell.value for cell in cells(numbers) if cell.merit == "closer" and VGG in cell.name]
    closer, worse = sum(ratio < 1 for ratio in ratios), sum(ratio > 1 for ratio in ratios)
    exact = max(cell.value for cell in cells(numbers) if cell.merit == "float64")
    grid = {name: one for name, one in numbers.items() if name.startswith(VGG)}
    return (
        f"Largest deviation of each law over all steps and channels; triangles mark under-damped cells, all others are "
        f"over-damped. Corrected laws are closer than the article's in {closer} of {len(ratios)} cells, as close in "
        f"{len(ratios) - closer - worse} (one law, or rounding), and less close in {worse}, by a factor of at most "
        f"{max(ratios):.3g}; without dampening the two differ in their start alone. "
        f"{_training(next(iter(grid.values())))}. In float64 the exact laws keep {exact:.0e} in all cells: "
        f"{small['data']}, network of {small['parameters']:,} parameters, {small['steps']} steps, one training of "
        f"{numbers[LONG]['steps']}; seed {setting.seed}."
    )


def _training(one: Mapping[str, Any]) -> str:
    return (
        f"{one['data']}; VGG-16 with batch norm, width {QUICK_WIDTH:g}, last layer drawn with a factor {LAST:g}; "
        f"learning rate {one['sgd']['lr']:g}, batch {BATCH}, {one['steps']} steps"
    )


def _period_caption(one: Mapping[str, Any], setting: Setting) -> str:
    worst = ", ".join(
        f"{family} {deviation['article']:.1g} (corrected {deviation['corrected']:.1g})"
        for family, deviation in one["deviations"].items()
    )
    return (
        f"Under-damped charges, measured (coloured, one line for each of up to 12 channels) and by the article's law "
        f"(dashed), through more than a period; sums of weights need no data for it. Below, the largest residual of "
        f"each law, relative to {', '.join(SIZES.values())}, with peaks where weights pass close to 0; the article's "
        f"is at most, for {worst}. {one['data']}; network of {one['parameters']:,} parameters in float64; "
        f"{SGD(**one['sgd'])}, batch {BATCH}, {one['steps']} steps; seed {setting.seed}."
    )
