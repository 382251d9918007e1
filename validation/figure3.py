"""Figure 3: gradient flow stays on planes, spheres and hyperboloids; SGD leaves the curved ones by h²gᵀ𝒜g a step.

Losses of three weights on handwritten digits, written out: three neurons before a softmax, a neuron with normalised
weights, and a neuron with two weights before and one behind it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

import modeq as mq
from modeq.numeric.data import digits
from validation.claims import Cell, Merit, Numbers, Setting

RTOL, ATOL = 1e-12, 1e-13
RATES = (0.8, 0.2, 0.05, 0.025)
SAMPLES, BATCHES = 8, 4  # of each class, and how many minibatches they make
MERITS = {
    "flow": Merit(
        "Gradient flow conserves the charge (Kunin et al. 2021, section 4)",
        f"largest |charge − start| / size, integrated to {RTOL:g}",
        1e-9,
    ),
    "law": Merit(
        "SGD leaves by the sum of h²gᵀ𝒜g, where 𝒜θ is the generator",
        "largest |charge − start − sum| / size, float64",
        1e-12,
    ),
    "translation": Merit("SGD does not leave the plane", "largest |charge − start| / size, float64", 1e-12),
    "departure": Merit(
        f"SGD does leave spheres and hyperboloids, h = {RATES[0]:g}",
        "largest |charge − start| / size",
        1e-2,
        above=True,
    ),
    "order": Merit(
        "In a given time the departure is proportional to h",
        f"|logarithmic slope − 1| from h = {RATES[-1]:g} to {RATES[-2]:g}",
        0.15,
    ),
}
Vector = NDArray[np.float64]
_VIEWS = {"translation": (24, -12), "scale": (22, -40), "rescale": (24, -60)}
_SMALLEST = 1e-17


@dataclass(frozen=True)
class Family:
    """A loss of three weights, what gradient flow conserves, and where trajectories start.

    Attributes
    ----------
    title : str
        With the charge.
    classes : tuple of int
        Which digits.
    degree : int
        1 if the charge is ⟨a, θ⟩, 2 if it is ⟨θ, 𝒜θ⟩ with the diagonal a of 𝒜.
    signs : tuple of float
        The entries of a.
    starts : sequence of three numbers each
    """

    title: str
    classes: tuple[int, ...]
    degree: int
    signs: tuple[float, float, float]
    starts: Sequence[tuple[float, float, float]]

    def charge(self, theta: Vector) -> Vector:
        """Return the charge of each row."""
        return theta**self.degree @ np.array(self.signs)

    def size(self, theta: Vector) -> Vector:
        """Return Σ|θ|, or ‖θ‖², of each row: of the terms that the charge adds up."""
        return np.sum(np.abs(theta) ** self.degree, axis=1)


FAMILIES = {
    "translation": Family(
        "three neurons before a softmax\nθ₁ + θ₂ + θ₃ is conserved",
        (0, 4, 7),
        1,
        (1, 1, 1),
        ((0.4, -1.6, -0.3), (1.5, 0.1, -1.6), (1.7, 0.9, -1.1)),
    ),
    "scale": Family(
        "neuron with normalised weights\nθ₁² + θ₂² + θ₃² is conserved",
        (3, 5),
        2,
        (1, 1, 1),
        ((0.1, -0.4, -0.4), (0.8, -0.4, -0.6), (-0.9, -0.5, 0.9)),
    ),
    "rescale": Family(
        "neuron with two weights before and one behind\nθ₁² + θ₂² − θ₃² is conserved",
        (3, 5),
        2,
        (1, 1, -1),
        ((-0.3, -0.5, 1.2), (0.3, -0.4, 0.5), (1.2, -0.5, 0.45)),
    ),
}


def cases(setting: Setting) -> dict[str, str]:
    """The three families."""
    return {family: family for family in FAMILIES}


def measure(case: str, setting: Setting) -> dict[str, Any]:
    """Integrate gradient flow from each start, and run SGD from there at each learning rate."""
    family, time = FAMILIES[case], setting.choose(8.0, 24.0)
    problem = _problem(case)
    equation = mq.modified_equation(mq.GradientDescent(), order=1)
    flows = [
        mq.flow(equation, problem, start, h=RATES[-1], time=time, rtol=RTOL, atol=ATOL).y for start in family.starts
    ]
    runs = [{str(h): _sgd(family, problem, start, h, round(time / h)) for h in RATES} for start in family.starts]
    return {
        "data": f"{SAMPLES} handwritten digits each of {', '.join(map(str, family.classes))}",
        "time": time,
        "flows": [_flow(family, y, time) for y in flows],
        "charges": [round(float(family.charge(y)[0]), 12) + 0.0 for y in flows],
        "runs": runs,
    }


def _problem(name: str) -> mq.SymbolicProblem:
    """The mean loss of each minibatch; digit k of every class is in the minibatch k mod BATCHES."""
    features, labels = _features(FAMILIES[name].classes)
    weights = sp.symbols("theta1:4", real=True)
    write: dict[str, Callable[..., sp.Expr]] = {"translation": _softmax, "scale": _normalised, "rescale": _behind}
    losses = [write[name](weights, x, label) for x, label in zip(features.tolist(), labels, strict=True)]
    batches = [losses[k::BATCHES] for k in range(BATCHES)]
    return mq.SymbolicProblem([sp.Add(*batch) / len(batch) for batch in batches], weights)


def _features(classes: Sequence[int]) -> tuple[Vector, list[int]]:
    """The ink in the upper and in the left half of the first images of each class, standardised over all."""
    images, numbers = digits(dtype=torch.float64)
    chosen = torch.isin(numbers, torch.tensor(classes))
    images, numbers = images[chosen, 0], numbers[chosen]
    ink = torch.stack([images[:, :4].mean((1, 2)), images[:, :, :4].mean((1, 2))], 1)
    ink = ((ink - ink.mean(0)) / ink.std(0)).round(decimals=4)
    first = torch.cat([torch.nonzero(numbers == number)[:SAMPLES, 0] for number in classes])
    return ink[first].numpy(), [list(classes).index(number) for number in numbers[first].tolist()]


def _softmax(weights: Sequence[sp.Symbol], x: Sequence[float], label: int) -> sp.Expr:
    """Cross-entropy of a neuron for each of three classes, which see one feature."""
    return sp.log(sp.Add(*(sp.exp(w * x[0]) for w in weights))) - weights[label] * x[0]


def _normalised(weights: Sequence[sp.Symbol], x: Sequence[float], label: int) -> sp.Expr:
    """Cross-entropy of two classes behind ⟨θ, (x, 1)⟩/‖θ‖."""
    product = sp.Add(*(w * value for w, value in zip(weights, [*x, 1], strict=True)))
    return _logistic(product / sp.sqrt(sp.Add(*(w**2 for w in weights))), label)


def _behind(weights: Sequence[sp.Symbol], x: Sequence[float], label: int) -> sp.Expr:
    """Cross-entropy of two classes behind θ₃(θ₁x₁ + θ₂x₂)."""
    return _logistic(weights[2] * (weights[0] * x[0] + weights[1] * x[1]), label)


def _logistic(output: sp.Expr, label: int) -> sp.Expr:
    return sp.log(1 + sp.exp((1 - 2 * label) * output))


def _flow(family: Family, theta: Vector, time: float) -> dict[str, Any]:
    departure = np.abs(family.charge(theta) - family.charge(theta)[0]) / family.size(theta)
    times = np.linspace(0, time, len(theta))
    return {
        "path": _thin(theta),
        "time": _thin(times),
        "departure": _thin(departure),
        "largest": float(departure.max()),
    }


def _sgd(family: Family, problem: mq.SymbolicProblem, start: Any, h: float, steps: int) -> dict[str, Any]:
    """Run SGD; how far its charge goes, and what is left of that by the exact law."""
    found = mq.iterate(mq.GradientDescent(), problem, start, h=h, steps=steps)
    departure = family.charge(found.y) - family.charge(found.y)[0]
    law = np.zeros_like(departure)
    if family.degree == 2:
        gradients = np.array([problem.field(theta, part=n % BATCHES) for n, theta in enumerate(found.y[:-1])])
        law[1:] = h**2 * np.cumsum(gradients**2 @ np.array(family.signs))
    size = family.size(found.y)
    return {
        "path": _thin(found.y),
        "time": _thin(found.t),
        "departure": _thin(departure / size),
        "remainder": _thin(np.abs(departure - law) / size),
        "largest": float(np.abs(departure / size).max()),
        "missed": float(np.abs((departure - law) / size).max()),
        "end": float(departure[-1]),
    }


def _thin(values: Any) -> Any:
    return values[np.unique(np.linspace(0, len(values) - 1, 120).round().astype(int))].tolist()


def cells(numbers: Numbers) -> list[Cell]:
    """One for each start, the worst over learning rates."""
    found = []
    for family, one in numbers.items():
        quadratic = FAMILIES[family].degree == 2
        for charge, flowed, runs in zip(one["charges"], one["flows"], one["runs"], strict=True):
            name = f"{family}, charge {charge:.2f}"
            found.append(Cell("flow", name, flowed["largest"]))
            missed = max(run["missed"] for run in runs.values())
            found.append(Cell("law" if quadratic else "translation", name, missed))
            if quadratic:
                large, small = (abs(runs[str(h)]["end"]) for h in RATES[-2:])
                found.append(Cell("departure", name, runs[str(RATES[0])]["largest"]))
                found.append(Cell("order", name, float(abs(np.log(large / small) / np.log(RATES[-2] / RATES[-1]) - 1))))
    return found


def draw(numbers: Numbers, setting: Setting) -> Mapping[str, tuple[Figure, str]]:
    """Surfaces with the trajectories on them and off them, and below how far these go."""
    figure = plt.figure(figsize=(13, 8.4), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=[2.4, 1])
    for column, (name, one) in enumerate(numbers.items()):
        space = figure.add_subplot(grid[0, column], projection="3d", computed_zorder=False)
        space.set_title(FAMILIES[name].title, fontsize=11)
        _draw_space(space, name, one)
        below = figure.add_subplot(grid[1, column])
        _draw_departures(below, one)
        if column == 0:
            below.set_ylabel("|charge − start| / size")
            first = below
    first.legend(*below.get_legend_handles_labels(), loc="upper center", ncols=2, fontsize=8)
    return {"figure3": (figure, _caption(numbers))}


def _draw_space(space: Any, name: str, one: Mapping[str, Any]) -> None:
    shades = plt.get_cmap("viridis")(np.linspace(0.1, 0.9, len(one["charges"])))
    for charge, shade, flowed, runs in zip(one["charges"], shades, one["flows"], one["runs"], strict=True):
        surface = _surface(name, charge)
        space.plot_surface(*surface, color=shade, alpha=0.25, linewidth=0, shade=False, zorder=1)
        space.plot_wireframe(*surface, color=shade, alpha=0.5, linewidth=0.4, rcount=9, ccount=13, zorder=2)
        path, left = np.array(flowed["path"]), np.array(runs[str(RATES[0])]["path"])
        space.plot(*path.T, color="black", linewidth=1.8, zorder=4)
        space.plot(*left.T, color="C3", marker=".", markersize=4, linewidth=0.8, zorder=5)
        space.plot(*path[:1].T, color="black", marker="o", markersize=5, zorder=6)
    space.set_xlabel("θ₁", labelpad=-8)
    space.set_ylabel("θ₂", labelpad=-8)
    space.set_zlabel("θ₃", labelpad=-8)
    space.tick_params(labelsize=7, pad=-2)
    space.locator_params(nbins=5)
    space.set_box_aspect((1, 1, 1), zoom=1.18)
    space.view_init(*_VIEWS[name])
    patches = [
        Patch(color=shade, alpha=0.6, label=f"{charge:.2f}")
        for shade, charge in zip(shades, one["charges"], strict=True)
    ]
    space.legend(handles=patches, title="charge", fontsize=8, title_fontsize=8, loc="upper left")


def _surface(name: str, charge: float) -> tuple[Vector, Vector, Vector]:
    """The points with a charge: a plane, a sphere, or the part of a hyperboloid with θ₃ > 0."""
    if name == "translation":
        u, v = np.meshgrid(np.linspace(-2.2, 2.2, 21), np.linspace(-2.2, 2.2, 21))
        one, other = np.array([1, -1, 0]) / np.sqrt(2), np.array([1, 1, -2]) / np.sqrt(6)
        x, y, z = (charge / 3 + one[k] * u + other[k] * v for k in range(3))
        return x, y, z
    angle = np.linspace(0, 2 * np.pi, 61)
    if name == "scale":
        latitude, longitude = np.meshgrid(np.linspace(-np.pi / 2, np.pi / 2, 31), angle)
        radius, height = np.sqrt(charge) * np.cos(latitude), np.sqrt(charge) * np.sin(latitude)
    else:
        radius, longitude = np.meshgrid(np.sqrt(max(charge, 0) + np.linspace(0, 2.3, 21) ** 2), angle)
        height = np.sqrt(np.maximum(radius**2 - charge, 0))
    return radius * np.cos(longitude), radius * np.sin(longitude), height


def _draw_departures(axis: Any, one: Mapping[str, Any]) -> None:
    flowed, runs = one["flows"][-1], one["runs"][-1]
    colours = plt.get_cmap("Reds")(np.linspace(0.95, 0.4, len(RATES)))
    for h, colour in zip(RATES, colours, strict=True):
        run = runs[str(h)]
        axis.plot(run["time"][1:], _drawn(run["departure"]), color=colour, label=f"SGD, h = {h:g}")
    remainder = runs[str(RATES[0])]["remainder"]
    axis.plot(runs[str(RATES[0])]["time"][1:], _drawn(remainder), "C0", label="less exact law")
    axis.plot(flowed["time"][1:], _drawn(flowed["departure"]), color="black", label="gradient flow")
    axis.axhline(MERITS["flow"].bound, color="grey", linestyle="--", linewidth=0.8)
    axis.set_yscale("log")
    axis.set_ylim(_SMALLEST, 10)
    axis.set_xlabel("time h·n")


def _drawn(values: Sequence[float]) -> Vector:
    """Sizes without the first, which is 0, no smaller than what the axis shows."""
    return np.maximum(np.abs(values[1:]), _SMALLEST)


def _caption(numbers: Numbers) -> str:
    data = "; ".join(dict.fromkeys(one["data"] for one in numbers.values()))
    first: Mapping[str, Any] = next(iter(numbers.values()))
    return (
        f"Surfaces of three charges each, with gradient flow (black, from the dot) and SGD with h = {RATES[0]:g} (red, "
        f"a dot for each step). Below, how far the charge goes along the last of the three, relative to Σ|θ| or ‖θ‖², "
        f"and what is left of that for h = {RATES[0]:g} by the exact law (blue), a sum of h²gᵀAg where Aθ is the "
        f"generator, 0 for a translation; the smallest is drawn at {_SMALLEST:g}. {data}, ink in the upper and in the "
        f"left half as features; cross-entropy; {BATCHES} minibatches in turn; flows integrated by DOP853 with rtol "
        f"{RTOL:g}, their bound dashed; time {first['time']:g}; float64."
    )
