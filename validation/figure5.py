"""Figure 5: column sums, squared norms and their differences follow the article's laws through a training.

Column sums of the last layer and squared norms of conv4 less those of conv5, channel by channel, on VGG-16; squared
norms of conv2 on VGG-16 with batch norm; four weight decays each.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

import modeq as mq
from validation.claims import Cell, Merit, Numbers, Setting
from validation.pictures import pictures
from validation.training import BATCH, QUICK_WIDTH, SGD, deviations, first_example, series, train, vgg

DECAYS = (0.0, 1e-4, 5e-4, 1e-3)
# With the published 0.1 at batches of 256, the network without batch norm stops learning at batches of 32.
RATES = {"VGG-16": 0.03, "VGG-16 with batch norm": 0.1}
CHARGES = {
    "translation": ("VGG-16", "fc3.weight", "column sums of the last layer"),
    "scale": ("VGG-16 with batch norm", "conv2", "squared norms of conv2"),
    "rescale": ("VGG-16", "conv4-conv5", "squared norms of conv4 less conv5"),
}
_EQUATION = "Kunin et al. 2021, equation"
MERITS = {
    "translation": Merit(f"Translation law ({_EQUATION} 18)", "largest |S − law| / Σ|θ|(0)", 0.01),
    "scale": Merit(f"Scale law ({_EQUATION} 19)", "largest |N − law| / ‖θ‖²", 0.05),
    "rescale": Merit(f"Rescale law ({_EQUATION} 20)", "largest |N − law| / (‖θ₁‖² + ‖θ₂‖²)", 0.05),
    "exact": Merit("Exact discrete laws, in float32", "largest deviation, relative as above", 1e-5),
    "explained": Merit(
        "Exact laws with the measured ⟨g, ξ⟩, in float32: batch norm's ε breaks the scale symmetry",
        "largest deviation, relative as above",
        1e-5,
    ),
}
LAWS = ("discrete", "article", "corrected", "with_defect")


@dataclass(frozen=True)
class Case:
    """One training."""

    network: str
    sgd: SGD


def cases(setting: Setting) -> dict[str, Case]:
    """Two networks with four weight decays each."""
    return {
        f"{network}, λ = {decay:g}": Case(network, SGD(rate, weight_decay=decay))
        for network, rate in RATES.items()
        for decay in DECAYS
    }


def measure(case: Case, setting: Setting) -> dict[str, Any]:
    """Train, and return the charges of the figure."""
    data = pictures(setting.data, setting.seed)
    width, steps = QUICK_WIDTH, setting.choose(30, 1000)
    network = vgg(data.classes, batch_norm="batch norm" in case.network, width=width, seed=setting.seed)
    wanted = {name for owner, name, _ in CHARGES.values() if owner == case.network}
    found = mq.find_charges(network, first_example(data), loss="cross_entropy")
    charges = [charge for charge in found if charge.name in wanted]
    trained = train(
        network,
        case.sgd.optimizer(network),
        data,
        charges,
        steps=steps,
        seed=setting.seed,
        device=setting.device,
        laws=LAWS,
    )
    kept = {charge.name: trained.record[charge.name] for charge in charges}
    return {
        "data": data.name,
        "width": width,
        "steps": steps,
        "sgd": asdict(case.sgd),
        "loss": [trained.losses[0], trained.losses[-1]],
        "charges": {name: series(record) for name, record in kept.items()},
        "deviations": {
            name: deviations(record, "start" if name == "fc3.weight" else "now") for name, record in kept.items()
        },
    }


def cells(numbers: Numbers) -> list[Cell]:
    """The largest deviation of each law, for each charge and weight decay."""
    found = []
    for family, (network, charge, _) in CHARGES.items():
        for decay in DECAYS:
            deviation = numbers[f"{network}, λ = {decay:g}"]["deviations"][charge]
            name = f"{family}, λ = {decay:g}"
            found.append(Cell(family, name, deviation["article"]))
            found.append(Cell("exact", name, deviation["discrete"]))
            found.append(Cell("explained", name, deviation["with_defect"]))
    return found


def draw(numbers: Numbers, setting: Setting) -> Mapping[str, tuple[Figure, str]]:
    """A column for each family: charges above, residuals of the laws below."""
    figure, axes = plt.subplots(
        2 * len(DECAYS), 3, figsize=(13, 15), layout="constrained", height_ratios=[3, 1.4] * len(DECAYS)
    )
    for column, (network, charge, title) in enumerate(CHARGES.values()):
        axes[0, column].set_title(f"{network}\n{title}", fontsize=10)
        for row, decay in enumerate(DECAYS):
            one = numbers[f"{network}, λ = {decay:g}"]["charges"][charge]
            _draw_charges(axes[2 * row, column], one, decay)
            _draw_residuals(axes[2 * row + 1, column], one)
    axes[0, 0].legend(loc="lower left", fontsize=8)
    axes[1, 0].legend(loc="lower right", fontsize=8)
    return {"figure5": (figure, _caption(numbers, setting))}


def _draw_charges(axis: Any, one: Mapping[str, Any], decay: float) -> None:
    measured, article = np.array(one["measured"]), np.array(one["predicted"]["article"])
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, measured.shape[1]))
    for generator, colour in enumerate(colours):
        axis.plot(one["step"], measured[:, generator], color=colour, linewidth=1.5)
        label = "the article's law" if generator == 0 else None
        axis.plot(one["step"], article[:, generator], "k--", linewidth=0.7, label=label)
    axis.text(0.98, 0.95, f"λ = {decay:g}", transform=axis.transAxes, ha="right", va="top", fontsize=9)
    axis.tick_params(labelbottom=False)


def _draw_residuals(axis: Any, one: Mapping[str, Any]) -> None:
    styles = {"article": ("C3", "article"), "corrected": ("C1", "corrected"), "discrete": ("C0", "exact")}
    for law, (colour, label) in styles.items():
        residual = np.abs(np.array(one["predicted"][law]) - one["measured"]) / np.array(one["normaliser"])
        axis.semilogy(one["step"][1:], residual.max(axis=1)[1:], color=colour, linewidth=1, label=label)
    axis.set_ylim(1e-9, 1)
    axis.set_ylabel("residual", fontsize=8)
    axis.set_xlabel("step", fontsize=8)


def _caption(numbers: Numbers, setting: Setting) -> str:
    first: Mapping[str, Any] = next(iter(numbers.values()))
    rates = ", ".join(f"{rate:g} for {network}" for network, rate in RATES.items())
    return (
        f"Charges measured (coloured, one line for each of up to 12 channels) and by the article's laws (dashed); "
        f"below, residuals relative to the sizes of the weights. {first['data']}; width {first['width']:g}; SGD "
        f"without momentum, learning rate {rates}, batch {BATCH}, {first['steps']} steps; seed {setting.seed}."
    )
