"""Figure 1: single parameters wander chaotically through a training while the squared norms of filters move smoothly.

VGG-16 with batch norm. How far a path winds is its length over its range: 1 if it is monotone, 2 if it comes back
once, and about √n/2 for a random walk of n steps.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray

import modeq as mq
from validation.claims import Cell, Merit, Numbers, Setting
from validation.pictures import pictures
from validation.training import BATCH, QUICK_WIDTH, SGD, first_example, train, vgg

SAMPLED, DRAWN = 40, 2  # parameters of each layer
BLOCKS = {"block 1": 2, "block 2": 2, "block 3": 3, "block 4": 3, "block 5": 3}  # convolutions before each pool
_FIGURE = "Kunin et al. 2021, Figure 1"
MERITS = {
    # A random walk of the 80 steps of a quick run has 4.5.
    "against": Merit(
        f"Parameters move chaotically, squared norms of filters smoothly ({_FIGURE})",
        "median length / range of the paths of parameters, over that of squared norms, in a block",
        2,
        above=True,
    ),
    "smooth": Merit(
        f"Squared norms hardly turn back ({_FIGURE})",
        "median length / range of the paths of squared norms in a block",
        2,
    ),
    "law": Merit(
        "The article's scale law predicts the squared norms (Kunin et al. 2021, equation 19)",
        "largest |N − law| / ‖θ‖² in a block",
        0.05,
    ),
}


def cases(setting: Setting) -> dict[str, SGD]:
    """One training."""
    return {"VGG-16 with batch norm": SGD(0.1, weight_decay=1e-4)}


def measure(case: SGD, setting: Setting) -> dict[str, Any]:
    """Train, and return paths of parameters and of squared norms with their windings, by block."""
    data = pictures(setting.data, setting.seed)
    steps = setting.choose(80, 400)
    network = vgg(data.classes, batch_norm=True, seed=setting.seed)
    found = mq.find_charges(network, first_example(data), loss="cross_entropy")
    charges = [charge for charge in found if isinstance(charge, mq.Scale)]
    chosen = _sampled(network, [charge.name for charge in charges], setting.seed)

    def watch(network: torch.nn.Module) -> NDArray[np.float64]:
        weights = dict(network.named_parameters())
        return np.stack([weights[f"{n}.weight"].detach().flatten()[at].cpu().double() for n, at in chosen.items()])

    trained = train(
        network,
        case.optimizer(network),
        data,
        charges,
        steps=steps,
        seed=setting.seed,
        device=setting.device,
        laws=("article",),
        watch=watch,
    )
    parameters = np.stack(trained.watched)
    layers = {name: _layer(parameters[:, number], trained.record[name]) for number, name in enumerate(chosen)}
    names = iter(layers.values())
    return {
        "data": data.name,
        "width": QUICK_WIDTH,
        "steps": steps,
        "sgd": asdict(case),
        "loss": [trained.losses[0], trained.losses[-1]],
        "step": trained.record.step[_rows(steps + 1)].tolist(),
        "blocks": {block: [next(names) for _ in range(count)] for block, count in BLOCKS.items()},
    }


def _sampled(network: torch.nn.Module, layers: list[str], seed: int) -> dict[str, torch.Tensor]:
    """Indices of some weights of each layer, drawn without repetition."""
    weights, generator = dict(network.named_parameters()), torch.Generator().manual_seed(seed)
    return {n: torch.randperm(weights[f"{n}.weight"].numel(), generator=generator)[:SAMPLED] for n in layers}


def _layer(parameters: NDArray[np.float64], norms: Any) -> dict[str, Any]:
    """Windings of all paths of a layer, and some of the paths."""
    row = _rows(len(parameters))
    column = np.unique(np.linspace(0, norms.measured.shape[1] - 1, DRAWN).round().astype(int))
    return {
        "name": norms.name,
        "windings": {"parameters": _windings(parameters).tolist(), "filters": _windings(norms.measured).tolist()},
        "deviation": float(norms.residual("article").max()),
        "parameters": parameters[row, :DRAWN].T.tolist(),
        "filters": norms.measured[np.ix_(row, column)].T.tolist(),
        "law": norms.predicted["article"][np.ix_(row, column)].T.tolist(),
    }


def _rows(count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, 201).round().astype(int))


def _windings(paths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Length over range of each column."""
    return np.abs(np.diff(paths, axis=0)).sum(0) / np.ptp(paths, axis=0)


def _joined(layers: list[Mapping[str, Any]], kind: str) -> NDArray[np.float64]:
    return np.concatenate([layer["windings"][kind] for layer in layers])


def cells(numbers: Numbers) -> list[Cell]:
    """The windings of each block, and how far the law is off."""
    found = []
    for block, layers in _only(numbers)["blocks"].items():
        parameters, filters = (float(np.median(_joined(layers, kind))) for kind in ("parameters", "filters"))
        found.append(Cell("against", f"{block}: {parameters:.2f} / {filters:.2f}", parameters / filters))
        found.append(Cell("smooth", block, filters))
        found.append(Cell("law", block, max(layer["deviation"] for layer in layers)))
    return found


def _only(numbers: Numbers) -> Mapping[str, Any]:
    (one,) = numbers.values()
    return one


def draw(numbers: Numbers, setting: Setting) -> Mapping[str, tuple[Figure, str]]:
    """Paths of parameters and of squared norms, each over its own range, and below how far all of them wind."""
    one = _only(numbers)
    figure = plt.figure(figsize=(13, 11), layout="constrained")
    axes = figure.subplot_mosaic([["parameters", "filters"], ["windings", "windings"]], height_ratios=[2.6, 1])
    colours = dict(zip(one["blocks"], plt.get_cmap("viridis")(np.linspace(0, 0.85, len(BLOCKS))), strict=True))
    layers = [(layer, colours[block]) for block, layers in one["blocks"].items() for layer in layers]
    for kind, title in (("parameters", "parameters"), ("filters", "squared norms of filters")):
        for number, (layer, colour) in enumerate(layers):
            _draw_layer(axes[kind], kind, one["step"], layer, colour, len(layers) - number)
        axes[kind].set_title(title, fontsize=11)
        axes[kind].set_xlabel("step")
        axes[kind].set_yticks(np.arange(len(layers), 0, -1), [layer["name"] for layer, _ in layers])
        axes[kind].tick_params(axis="y", length=0)
        axes[kind].margins(x=0, y=0.01)
    handles = [plt.Line2D([], [], color=colour, label=block) for block, colour in colours.items()]
    law = plt.Line2D([], [], color="black", linestyle="--", linewidth=0.8, label="the article's law")
    figure.legend(handles=[*handles, law], loc="outside upper center", ncols=6, frameon=False)
    _draw_windings(axes["windings"], one["blocks"], colours, one["steps"])
    return {"figure1": (figure, _caption(one, setting))}


def _draw_layer(axis: Any, kind: str, step: list[int], layer: Mapping[str, Any], colour: Any, place: int) -> None:
    """Each path in a strip of its own, as high as its range."""
    for strip, path in enumerate(layer[kind]):
        low, high = min(path), max(path)
        bottom = place + (strip - DRAWN / 2) / DRAWN

        def scaled(values: Any, low: float = low, high: float = high, bottom: float = bottom) -> Any:
            return bottom + 0.85 / DRAWN * (np.array(values) - low) / (high - low)

        axis.plot(step, scaled(path), color=colour, linewidth=0.8 if kind == "parameters" else 1.8)
        if kind == "filters":
            axis.plot(step, scaled(layer["law"][strip]), "k--", linewidth=0.6)


def _draw_windings(axis: Any, blocks: Mapping[str, Any], colours: Mapping[str, Any], steps: int) -> None:
    for place, (block, layers) in enumerate(blocks.items()):
        for side, kind in enumerate(("parameters", "filters")):
            drawn = axis.violinplot(
                np.log10(_joined(layers, kind)), [place + 0.36 * side - 0.18], widths=0.33, showmedians=True
            )
            for part in ("cmedians", "cbars", "cmins", "cmaxes"):
                drawn[part].set_color("black")
                drawn[part].set_linewidth(0.8)
            for body in drawn["bodies"]:
                body.set(facecolor=colours[block], alpha=0.8 if side else 0.4)
    axis.axhline(np.log10(np.sqrt(steps) / 2), color="black", linestyle=":", linewidth=1)
    axis.text(len(blocks) - 0.52, np.log10(np.sqrt(steps) / 2), "random walk ", ha="right", va="bottom", fontsize=8)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50) if tick <= 1.5 * np.sqrt(steps)]
    axis.set_yticks(np.log10(ticks), [str(tick) for tick in ticks])
    axis.set_xticks(range(len(blocks)), [f"{block}\nparameters | filters" for block in blocks])
    axis.set_xlim(-0.5, len(blocks) - 0.5)
    axis.set_ylabel("length / range of a path")


def _caption(one: Mapping[str, Any], setting: Setting) -> str:
    counts = {
        kind: sum(len(_joined(layers, kind)) for layers in one["blocks"].values()) for kind in ("parameters", "filters")
    }
    return (
        f"Paths of {DRAWN} parameters and {DRAWN} filters of each convolution of VGG-16 with batch norm, each over its "
        f"own range, coloured by block, with the article's law for the latter (dashed); below, how far "
        f"{counts['parameters']} sampled parameters and all {counts['filters']} filters wind (1 is monotone; bars are "
        f"medians and extremes; dotted, a random walk). {one['data']}; width {one['width']:g}; {SGD(**one['sgd'])}, "
        f"no momentum, batch {BATCH}, {one['steps']} steps; seed {setting.seed}."
    )
