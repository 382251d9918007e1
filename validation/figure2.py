"""Figure 2: the gradient of a real loss stands at a right angle to the generator of each symmetry, at every point.

Three networks of two weights each see handwritten threes and fives, reduced to their first two principal components:
a neuron for each class before a softmax (translation), one neuron before a batch norm (scale), and a path of two
linear neurons (rescale). Each is also taken without what makes the symmetry, where the angle is no right one.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

import modeq as mq
from modeq.numeric.data import digits
from validation.claims import Cell, Merit, Numbers, Setting

CLASSES, REACH = (3, 5), 2.0
EPSILON, NO_EPSILON = 1e-5, 1e-30  # torch refuses 0
MERITS = {
    "angle": Merit(
        "Gradients are orthogonal to the generators (Kunin et al. 2021, section 3)",
        "largest |cos ∠(g, ξ)| over the grid, batch norm with ε = 1e-30",
        1e-12,
    ),
    "explained": Merit(
        "What batch norm's ε = 1e-5 leaves is ε/(σ² + ε)·⟨∂L/∂y, y⟩",
        "largest |⟨g, ξ⟩ − prediction| / (‖g‖‖ξ‖) over the grid",
        1e-12,
    ),
    # ε/σ² for the smallest weight of the grid is 7e-4.
    "size": Merit(
        "What batch norm's ε = 1e-5 leaves is as small as ε/σ²", "largest |⟨g, ξ⟩| / largest ‖g‖‖ξ‖ over the grid", 1e-3
    ),
    "control": Merit(
        "Without softmax, batch norm or linearity the angle is no right one",
        "largest |cos ∠(g, ξ)| over the grid",
        0.1,
        above=True,
    ),
}
TITLES = {
    "translation": "two neurons before a softmax\ntranslation, ξ = (1, 1)",
    "scale": "neuron before a batch norm\nscale, ξ = θ",
    "rescale": "path of two linear neurons\nrescale, ξ = (θ₁, −θ₂)",
}
COUNTERPARTS = {"translation": "squared error", "scale": "no batch norm", "rescale": "tanh between them"}
_SMALLEST = 1e-18  # what is drawn of a cosine of 0


@dataclass(frozen=True)
class Neuron:
    """A network of two weights with its loss on inputs and labels."""

    module: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    inputs: Tensor
    labels: Tensor


def cases(setting: Setting) -> dict[str, str]:
    """The three families."""
    return {family: family for family in TITLES}


def measure(case: str, setting: Setting) -> dict[str, Any]:
    """Return the loss, its gradient and the generator on a grid, and cosines with and without the symmetry."""
    points = setting.choose(12, 24)
    axis = torch.linspace(-REACH, REACH, points, dtype=torch.float64)  # even, so that 0 is not among them
    grid = torch.cartesian_prod(axis, axis)
    neurons = _neurons(case)
    kept = neurons["kept"]
    (charge,) = mq.find_charges(kept.module, kept.inputs, loss="cross_entropy" if case == "translation" else None)
    values, gradients = _on_grid(kept, grid)
    cosines = {}
    for name, neuron in neurons.items():
        pairing, size = _pairing(neuron, charge, grid)
        cosines[name] = (pairing / size).abs().tolist()
        if name == "epsilon":
            missed = (pairing - _of_epsilon(neuron, grid)) / size
            cosines["explained"], largest = missed.abs().tolist(), float((pairing.abs() / size.max()).max())
    return {
        "data": f"{len(kept.labels)} handwritten digits {CLASSES[0]} and {CLASSES[1]} of scikit-learn",
        "charge": repr(charge),
        "axis": axis.tolist(),
        "loss": values.reshape(points, points).tolist(),
        "gradient": gradients.T.reshape(2, points, points).tolist(),
        "generator": _generator(kept, charge, grid).T.reshape(2, points, points).tolist(),
        "cosines": cosines,
        **({"size": largest} if "epsilon" in neurons else {}),
    }


def _neurons(family: str) -> dict[str, Neuron]:
    """The network that has the symmetry, that with the usual ε if it matters, and one that does not have it."""
    features, labels = _features()
    second, target = features[:, 1:], labels[:, None].double()
    logistic = F.binary_cross_entropy_with_logits
    if family == "translation":
        logits = _network(fc=_linear(1, 2))
        return {
            "kept": Neuron(logits, F.cross_entropy, second, labels),
            "control": Neuron(logits, lambda out, y: F.mse_loss(out, F.one_hot(y, 2).to(out)), second, labels),
        }
    if family == "scale":
        layers = {"kept": NO_EPSILON, "epsilon": EPSILON}
        normalised = {
            name: Neuron(_network(fc=_linear(2, 1), norm=_batch_norm(eps)), logistic, features, target)
            for name, eps in layers.items()
        }
        return {**normalised, "control": Neuron(_network(fc=_linear(2, 1)), logistic, features, target)}
    path, bent = (_network(fc1=_linear(1, 1), **middle, fc2=_linear(1, 1)) for middle in ({}, {"tanh": nn.Tanh()}))
    return {"kept": Neuron(path, logistic, second, target), "control": Neuron(bent, logistic, second, target)}


def _features() -> tuple[Tensor, Tensor]:
    """The first two principal components of the images, of variance 1, the larger for the second class; and labels."""
    images, numbers = digits(dtype=torch.float64)
    chosen = (numbers == CLASSES[0]) | (numbers == CLASSES[1])
    pixels, labels = images[chosen].flatten(1), (numbers[chosen] == CLASSES[1]).long()
    left, _, _ = torch.linalg.svd(pixels - pixels.mean(0), full_matrices=False)
    features = left[:, :2] * len(left) ** 0.5
    return features * (features[labels == 1].mean(0) - features[labels == 0].mean(0)).sign(), labels


def _network(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False, dtype=torch.float64)


def _batch_norm(eps: float) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(1, eps=eps, affine=False, track_running_stats=False)


def _named(neuron: Neuron, grid: Tensor) -> dict[str, Tensor]:
    """The weights of each point of the grid by parameter."""
    shapes = {name: p.shape for name, p in neuron.module.named_parameters()}
    parts = grid.split([shape.numel() for shape in shapes.values()], dim=1)
    return {name: part.reshape(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _on_grid(neuron: Neuron, grid: Tensor) -> tuple[Tensor, Tensor]:
    """The loss at each point, and its gradient, shape [points, 2]."""

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return neuron.loss(functional_call(neuron.module, weights, (neuron.inputs,)), neuron.labels)

    gradients, values = vmap(grad_and_value(loss))(_named(neuron, grid))
    return values, torch.cat([g.flatten(1) for g in gradients.values()], 1)


def _generator(neuron: Neuron, charge: Any, grid: Tensor) -> Tensor:
    fields = vmap(lambda own: charge.moved(own, torch.ones(1)))(_named(neuron, grid))
    return torch.cat([fields[name].flatten(1) for name, _ in neuron.module.named_parameters()], 1)


def _pairing(neuron: Neuron, charge: Any, grid: Tensor) -> tuple[Tensor, Tensor]:
    """⟨g, ξ⟩ at each point, and ‖g‖‖ξ‖."""
    _, gradients = _on_grid(neuron, grid)
    generators = _generator(neuron, charge, grid)
    return (gradients * generators).sum(1), gradients.norm(dim=1) * generators.norm(dim=1)


def _of_epsilon(neuron: Neuron, grid: Tensor) -> Tensor:
    """ε/(σ² + ε)·⟨∂L/∂y, y⟩ at each point, y what the batch norm puts out."""
    before = neuron.inputs @ grid.T
    variance = before.var(0, correction=0)
    y = (before - before.mean(0)) / (variance + EPSILON).sqrt()
    slope = (y.sigmoid() - neuron.labels) / len(y)
    return EPSILON / (variance + EPSILON) * (slope * y).sum(0)


def cells(numbers: Numbers) -> list[Cell]:
    """The largest cosine of each family, with and without its symmetry, and what ε leaves."""
    found = []
    for family, one in numbers.items():
        found.append(Cell("angle", family, max(one["cosines"]["kept"])))
        found.append(Cell("control", f"{family}: {COUNTERPARTS[family]}", max(one["cosines"]["control"])))
    scale = numbers["scale"]
    found.append(Cell("explained", "scale", max(scale["cosines"]["explained"])))
    found.append(Cell("size", "scale", scale["size"]))
    return found


def draw(numbers: Numbers, setting: Setting) -> Mapping[str, tuple[Figure, str]]:
    """Gradients and generators on the contours of the loss; below, how the cosines of their angles are spread."""
    figure, axes = plt.subplots(2, 3, figsize=(13, 7.6), layout="constrained", height_ratios=[3, 1.3])
    for column, (family, one) in enumerate(numbers.items()):
        _draw_fields(axes[0, column], one)
        axes[0, column].set_title(TITLES[family], fontsize=11)
        _draw_cosines(axes[1, column], family, one["cosines"])
    axes[0, 0].set_ylabel("θ₂")
    axes[1, 0].set_ylabel("points of the grid")
    figure.legend(*_legend(), loc="outside upper center", ncols=2, frameon=False)
    return {"figure2": (figure, _caption(numbers))}


def _draw_fields(axis: Any, one: Mapping[str, Any]) -> None:
    ticks, loss = np.array(one["axis"]), np.array(one["loss"]).T
    axis.contourf(ticks, ticks, loss, levels=16, cmap="Blues")
    axis.contour(ticks, ticks, loss, levels=16, colors="white", linewidths=0.5)
    # The first index counts θ₁, which is drawn to the right.
    downhill, generator = -np.array(one["gradient"]), np.array(one["generator"])
    every = len(ticks) // 12
    _arrows(axis, ticks, downhill, slice(every // 2, -1, every), "black", 22, 0.004)
    _arrows(axis, ticks, generator, slice(every, None, 3 * every), "C1", 12, 0.009)
    axis.set_aspect("equal")
    axis.set_xlabel("θ₁")
    axis.set_xlim(-REACH, REACH)
    axis.set_ylim(-REACH, REACH)


def _arrows(axis: Any, ticks: Any, field: Any, chosen: slice, colour: str, scale: float, width: float) -> None:
    first, second = field[:, chosen, chosen]
    length = np.hypot(first, second)
    at = ticks[chosen]
    axis.quiver(
        at, at, (first / length).T, (second / length).T, color=colour, scale=scale, width=width, pivot="mid", zorder=3
    )


def _legend() -> tuple[list[Any], list[str]]:
    handles = [Line2D([], [], color=colour, marker=">", linewidth=2) for colour in ("black", "C1")]
    return handles, ["−g, downhill", "generator ξ"]


def _draw_cosines(axis: Any, family: str, cosines: Mapping[str, Any]) -> None:
    shown = {
        "kept": ("C0", "ε = 1e-30" if "epsilon" in cosines else "with the symmetry"),
        "epsilon": ("C1", "ε = 1e-5"),
        "explained": ("C2", "ε = 1e-5, less prediction"),
        "control": ("C3", COUNTERPARTS[family]),
    }
    bins = np.linspace(np.log10(_SMALLEST), 0, 55)
    for name, (colour, label) in shown.items():
        if name in cosines:
            logarithms = np.log10(np.maximum(cosines[name], _SMALLEST))
            axis.hist(logarithms, bins, histtype="stepfilled", color=colour, alpha=0.55, label=label)
    axis.axvline(np.log10(MERITS["angle"].bound), color="black", linestyle=":", linewidth=1)
    axis.set_xlabel("log₁₀ |cos ∠(g, ξ)|")
    axis.set_xticks(range(-18, 1, 3))
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0.35, 1.0))


def _caption(numbers: Numbers) -> str:
    first: Mapping[str, Any] = next(iter(numbers.values()))
    degrees = {family: np.degrees(np.arcsin(max(one["cosines"]["kept"]))) for family, one in numbers.items()}
    usual = np.degrees(np.arcsin(max(numbers["scale"]["cosines"]["epsilon"])))
    angles = ", ".join(f"{family} {angle:.0e}°" for family, angle in degrees.items())
    points = len(first["axis"])
    return (
        f"Gradients (black, downhill) and generators (orange) of two weights, all drawn with one length, on the loss "
        f"(darker is larger). {first['data']}, their first two principal components as features (the second one alone "
        f"left and right); cross-entropy; float64; {points}×{points} points. Below, cosines of the angles between the "
        f"two; the dotted line is the bound, and those of 0 are drawn at {_SMALLEST:.0e}. Largest departures from 90°: "
        f"{angles}; with batch norm's ε = 1e-5 it is {usual:.1g}°."
    )
