"""Each form of the modified equation follows the optimizer with the order in h that its exact coefficients predict.

Vector fields, time derivatives, phase space and state space; gradient descent, momentum, weight decay, several
gradients in a step, epochs; a loss, and a field that is the gradient of none. observed_orders measures the vector field
on networks and on more losses.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import sympy as sp
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import modeq as mq
from modeq.numeric import problems
from modeq.numeric.curvature import largest_curvature
from modeq.numeric.orders import expected_order
from validation.claims import Cell, Merit, Numbers, Setting

HALF = sp.Rational(1, 2)
TOLERANCE = 0.15
FORMS = {
    "field": "vector field",
    "time": "time derivatives",
    "rest": "time derivatives, from rest",
    "phase": "phase space",
    "hermite": "phase space, Hermite",
    "powers": "phase space, powers",
    "state": "state space",
}
MERITS = {
    form: Merit(f"Order of the form: {title}", "largest |slope − expected|, of the last two above rounding", TOLERANCE)
    for form, title in FORMS.items()
} | {
    # Constants of two step sizes, a factor of two apart, whose slope is off by 0.15 differ by 2^0.15 = 1.11.
    "constant": Merit(
        "error/hᵏ has a limit as h falls: it is extrapolated from two step sizes",
        "|constant at the smallest h / extrapolated − 1|",
        TOLERANCE,
    )
}
# The longest step, h·λ, and the time, times λ, the curvature at the start; by form, or by expected slope. Vector fields
# need a small fraction of the series limit. What is off the slow manifold, for momentum 1/2 some 60 steps, is not
# counted for them and for time derivatives. In phase space and state space all steps count; the higher the slope, the
# longer the steps have to be whose errors are above rounding.
FRACTION, FIELD_TIME = 0.05, 2.0
WINDOWS: dict[str | int, tuple[float, float]] = {
    "time": (1 / 96, 1.0),
    "rest": (1 / 96, 1.0),
    1: (1 / 192, 1 / 8),
    2: (1 / 192, 1 / 8),
    3: (1 / 96, 1 / 4),
    4: (1 / 48, 1 / 2),
}
HALVINGS = {"field": 2, "time": 2, "rest": 2}  # in the other forms 3
# Of time derivatives, order 1 is that of the vector field; of the expansions in phase space, for the heavy ball.
ORDERS = dict.fromkeys(FORMS, (1, 2, 3)) | {"time": (2, 3), "rest": (2,), "hermite": (2, 3), "powers": (2, 3)}


@dataclass(frozen=True)
class Optimizer:
    """A method, what it runs on, the forms to follow it with, and the largest order of its time derivatives."""

    build: Callable[[], mq.GeneralLinearMethod]
    forms: tuple[str, ...]
    decay: str = "none"
    time_order: int = 2
    problems: tuple[str, ...] = ("himmelblau", "Lotka–Volterra")


def _runge_kutta_4() -> mq.GeneralLinearMethod:
    A = [[0, 0, 0, 0], [HALF, 0, 0, 0], [0, HALF, 0, 0], [0, 0, 1, 0]]
    return mq.RungeKutta(A, [sp.Rational(weight, 6) for weight in (1, 2, 2, 1)])


# Without buffers state space is the vector field, and the expansions in phase space are one. With several gradients in
# a step there is the vector field alone; time derivatives of order 3 are ill-posed for Nesterov and quasi-hyperbolic.
_HEAVY_BALL = partial(mq.HeavyBall, HALF)
_ONE_EACH = ("field", "time", "phase", "state")
OPTIMIZERS = {
    "gradient descent": Optimizer(mq.GradientDescent, ("field", "time", "rest", "phase"), time_order=3),
    "heavy ball": Optimizer(_HEAVY_BALL, tuple(FORMS), time_order=3),
    "heavy ball, coupled decay": Optimizer(_HEAVY_BALL, _ONE_EACH, "coupled"),
    "heavy ball, decoupled decay": Optimizer(_HEAVY_BALL, _ONE_EACH, "decoupled"),
    "Nesterov": Optimizer(partial(mq.Nesterov, HALF), tuple(FORMS)),
    "quasi-hyperbolic": Optimizer(partial(mq.QuasiHyperbolic, HALF, HALF), _ONE_EACH),
    "extragradient": Optimizer(mq.Extragradient, ("field",)),
    "Runge–Kutta 4": Optimizer(_runge_kutta_4, ("field",)),
    "epoch, gradient descent": Optimizer(
        partial(mq.Epoch, mq.GradientDescent(), batches=3), ("field",), problems=("three batches",)
    ),
    "epoch, heavy ball": Optimizer(
        partial(mq.Epoch, mq.HeavyBall(HALF), batches=3), ("field",), problems=("three batches",)
    ),
}


@dataclass(frozen=True)
class Case:
    """One form of one optimizer on one problem."""

    problem: str
    optimizer: str
    form: str
    orders: tuple[int, ...]


def cases(setting: Setting) -> dict[str, Case]:
    """All of them; in a quick run the heavy ball on one loss, through order 2."""
    found = {}
    for name, optimizer in OPTIMIZERS.items():
        for problem in optimizer.problems:
            for form in optimizer.forms:
                largest = min(setting.choose(2, 3), optimizer.time_order if form == "time" else 3)
                orders = tuple(order for order in ORDERS[form] if order <= largest)
                if not setting.quick or (name, problem) == ("heavy ball", "himmelblau"):
                    found[f"{problem}, {name}, {FORMS[form]}"] = Case(problem, name, form, orders)
    return found


def measure(case: Case, setting: Setting) -> dict[str, Any]:
    """Measure errors at three or four step sizes, and their slopes, for each order."""
    problem = _problem(case.problem)
    curvature = largest_curvature(problem, problem.start())
    method = _method(OPTIMIZERS[case.optimizer], curvature)
    found = {}
    for order in case.orders:
        expected = expected_order(method, order, form=case.form, initial_layer=True)
        largest, time = _window(method, case.form, expected)
        steps = int(np.ceil(time / largest / method.steps)) * method.steps
        sizes = [time / curvature / (steps * 2**k) for k in range(HALVINGS.get(case.form, 3) + 1)]
        observed = mq.observed_order(
            method, problem, time=time / curvature, order=order, step_sizes=sizes, form=case.form
        )
        found[str(order)] = {
            "sizes": sizes,
            "errors": observed.errors,
            "slopes": [slope if np.isfinite(slope) else None for slope in observed.slopes],
            "expected": expected,
        }
    return {**asdict(case), "curvature": curvature, "method": repr(method), "found": found}


def _window(method: mq.GeneralLinearMethod, form: str, expected: int) -> tuple[float, float]:
    if form == "field":
        return FRACTION * float(method.series_limit()), FIELD_TIME
    return WINDOWS[form if form in WINDOWS else expected]


def _problem(name: str) -> Any:
    x, y = sp.symbols("x y")
    if name == "Lotka–Volterra":
        return mq.VectorField([x * (1 - y), y * (x - 1)], [x, y], default_start=[1.5, 0.5])
    if name == "three batches":
        losses = [sp.cos(x) + x**2 + y**2 / 2, sp.sin(x * y) / 2 + x**2 + y**2, (x - y) ** 2 / 2 + y**4 / 4]
        return mq.SymbolicProblem(losses, [x, y], default_start=[0.8, -0.4])
    return problems.by_name(name)


def _method(optimizer: Optimizer, curvature: float) -> mq.GeneralLinearMethod:
    """The method, with a tenth of the curvature, in one figure, as its weight decay."""
    method = optimizer.build()
    if optimizer.decay == "none":
        return method
    return method.with_weight_decay(sp.Rational(f"{curvature / 10:.0e}"), decoupled=optimizer.decay == "decoupled")


def cells(numbers: Numbers) -> list[Cell]:
    """The slopes and the error constants of every form, optimizer, problem and order."""
    found = []
    for name, case in numbers.items():
        for order, one in case["found"].items():
            expected, slopes = one["expected"], _slopes(one)
            words = f"{name}, order {order}"
            shown = ", ".join(f"{slope:.2f}" for slope in slopes)
            deviation = float(np.max(np.abs(slopes - expected)))
            found.append(Cell(case["form"], f"{words}: {shown}, expected {expected}", deviation))
            last, limit = _constants(one)
            scaled = f"{limit / case['curvature'] ** expected:.2g}·(hλ)^{expected}"
            found.append(Cell("constant", f"{words}: {scaled}", abs(last / limit - 1)))
    return found


def _above(one: Mapping[str, Any]) -> list[int]:
    """Where the last two slopes are whose errors are above rounding; none if there are fewer."""
    places = [place for place, slope in enumerate(one["slopes"]) if slope is not None][-2:]
    return places if len(places) == 2 else []


def _slopes(one: Mapping[str, Any]) -> Any:
    return np.array([one["slopes"][place] for place in _above(one)] or [np.nan])


def _constants(one: Mapping[str, Any]) -> tuple[float, float]:
    """error/hᵏ at the smallest step size above rounding, and extrapolated to 0 from the last two, whose ratio is 2."""
    if not _above(one):
        return float("nan"), float("nan")
    pairs = list(zip(one["errors"], one["sizes"], strict=True))[_above(one)[-1] :][:2]
    before, last = (error / h ** one["expected"] for error, h in pairs)
    return last, 2 * last - before


MARKERS = {1: "o", 2: "s", 3: "^"}


def draw(numbers: Numbers, setting: Setting) -> Mapping[str, tuple[Figure, str]]:
    """Errors against step sizes for one optimizer a panel; and all slopes less the expected ones."""
    first: Mapping[str, Any] = next(iter(numbers.values()))
    shown = [name for name in ("gradient descent", "heavy ball", "Nesterov") if any(_own(numbers, name))]
    figure, axes = plt.subplots(1, len(shown), figsize=(5 * len(shown) + 2, 5.5), layout="constrained", squeeze=False)
    for axis, name in zip(axes[0], shown, strict=True):
        for case in _own(numbers, name):
            _draw_lines(axis, case)
        axis.set_title(f"{name} on {first['problem']}", fontsize=10)
        axis.set_xlabel("h·λ, λ the curvature at the start")
    axes[0, 0].set_ylabel("largest difference from the iterates")
    _legend(figure, numbers, shown)
    caption = (
        "Errors (marks) against the step size, with lines of the expected slopes through the smallest above rounding. "
        f"Momentum 1/2. The largest step is {FRACTION:g} of the series limit for vector fields, for the other forms "
        "h·λ = 1/192 to 1/48, the longer the higher the expected slope; the time is 2/λ for vector fields, 1/λ for "
        "time derivatives, 1/(8λ) to 1/(2λ) for the other forms. Vector fields and time derivatives count after their "
        "initial layer. Float64, flows to a tolerance of 1e-13."
    )
    return {"orders": (figure, caption), "orders_slopes": _draw_slopes(numbers)}


def _own(numbers: Numbers, optimizer: str) -> list[Mapping[str, Any]]:
    return [case for case in numbers.values() if (case["optimizer"], case["problem"]) == (optimizer, "himmelblau")]


def _draw_lines(axis: Any, case: Mapping[str, Any]) -> None:
    colour = f"C{list(FORMS).index(case['form'])}"
    for order, one in case["found"].items():
        h = np.array(one["sizes"]) * case["curvature"]
        axis.loglog(h, one["errors"], MARKERS[int(order)], color=colour, markersize=5, markerfacecolor="none")
        last = _above(one)[-1] + 1 if _above(one) else 0
        axis.loglog(h, one["errors"][last] * (h / h[last]) ** one["expected"], color=colour, linewidth=0.8)


def _legend(figure: Figure, numbers: Numbers, shown: list[str]) -> None:
    forms = [form for form in FORMS if any(case["form"] == form for name in shown for case in _own(numbers, name))]
    handles = [Line2D([], [], color=f"C{list(FORMS).index(form)}", label=FORMS[form]) for form in forms]
    orders = sorted({int(order) for name in shown for case in _own(numbers, name) for order in case["found"]})
    style = {"color": "k", "linestyle": "", "markerfacecolor": "none"}
    handles += [Line2D([], [], marker=MARKERS[order], label=f"order {order}", **style) for order in orders]
    figure.legend(handles=handles, loc="outside upper center", ncols=5, fontsize=9)


def _draw_slopes(numbers: Numbers) -> tuple[Figure, str]:
    """The slope at the smallest steps in each cell, its colour the deviation from the expected one."""
    rows = list(dict.fromkeys((case["problem"], case["optimizer"]) for case in numbers.values()))
    columns = [
        (form, order)
        for form in FORMS
        for order in ORDERS[form]
        if any(case["form"] == form and str(order) in case["found"] for case in numbers.values())
    ]
    deviations = np.full((len(rows), len(columns)), np.nan)
    figure, axis = plt.subplots(figsize=(14, 1.6 + 0.42 * len(rows)), layout="constrained")
    for case in numbers.values():
        for order, one in case["found"].items():
            place = rows.index((case["problem"], case["optimizer"])), columns.index((case["form"], int(order)))
            slopes = _slopes(one)
            deviations[place] = slopes[-1] - one["expected"]
            weight = "bold" if one["expected"] != int(order) else "normal"
            axis.text(*place[::-1], f"{slopes[-1]:.2f}", ha="center", va="center", fontsize=8, weight=weight)
    image = axis.imshow(deviations, cmap="coolwarm", vmin=-TOLERANCE, vmax=TOLERANCE, aspect="auto", alpha=0.8)
    figure.colorbar(image, ax=axis, label="slope − expected", pad=0.01)
    axis.set_yticks(range(len(rows)), [f"{problem}: {optimizer}" for problem, optimizer in rows], fontsize=8)
    axis.set_xticks(range(len(columns)), [f"order {order}" for _, order in columns], fontsize=7)
    for form in dict.fromkeys(form for form, _ in columns):
        own = [place for place, column in enumerate(columns) if column[0] == form]
        axis.text(np.mean(own), -0.7, FORMS[form].replace(", ", ",\n").replace(" ", "\n", 1), ha="center", fontsize=8)
        axis.axvline(own[-1] + 0.5, color="w", linewidth=3)
    caption = (
        "Slopes between the two smallest step sizes above rounding; blank where a form does not exist, is ill-posed, "
        "or was not run. Bold: the expected slope is not the truncation order, since coefficients vanish, since the "
        "start at rest is wrong by O(h), or since a shift O(h²) stays in phase space from zero buffers. Settings as in "
        "orders."
    )
    return figure, caption
