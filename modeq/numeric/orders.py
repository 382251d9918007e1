"""Observed orders: how fast the error of a form falls with the step size, and how fast it should."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, zip_longest
from typing import Any

import numpy as np
import sympy as sp

from modeq.displays import Table, Tabular
from modeq.errors import InvalidMethod, InvalidProblem, choice
from modeq.methods.base import GeneralLinearMethod, require_method
from modeq.numeric.colours import is_game
from modeq.numeric.comparison import DERIVE, PHASE_SPACE, FormName, step_errors
from modeq.numeric.curvature import curvature_seen, require_series_limit
from modeq.numeric.fields import FieldName
from modeq.numeric.flow_settings import Layer, has_series_limit
from modeq.numeric.flows import flow
from modeq.numeric.iteration import iterate
from modeq.numeric.protocol import Problem, positive, start_on, whole
from modeq.symbolic.equation import modified_equation
from modeq.symbolic.initial_layer import initial_layer as initial_layer_of
from modeq.symbolic.phase_space import phase_space_form
from modeq.symbolic.rooted_trees import checked_order
from modeq.symbolic.state_space import state_space_form
from modeq.symbolic.temporal import time_derivative_form

_NOISE = 1e-12  # rounding and integration errors, relative to the parameters


@dataclass(frozen=True, repr=False)
class ObservedOrder(Tabular):
    """How fast the error falls with the step size; see :func:`observed_order`.

    Attributes
    ----------
    step_sizes, errors : the learning rates, and the largest error of the trajectory at each
    slopes : log₂ ratios of successive errors (scaled to the ratio of the step sizes); nan where an error is
        below the noise floor
    expected : the slope that the coefficients predict
    window : the largest and the smallest h·λ_max used, as fractions of the series limit
    noise_floor : errors below this are rounding and integration errors, and have no slope

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
    >>> observed = mq.observed_order(mq.GradientDescent(), problem, [1.0], time=1.0, order=1)
    >>> observed.expected, len(observed.step_sizes), len(observed.slopes)
    (1, 5, 4)
    """

    step_sizes: tuple[float, ...]
    errors: tuple[float, ...]
    slopes: tuple[float, ...]
    expected: int
    window: tuple[float, float]
    noise_floor: float

    def within(self, tolerance: float = 0.15) -> bool:
        """Return whether the last two slopes above the noise floor are within `tolerance` of the expected one.

        Examples
        --------
        >>> observed = ObservedOrder((0.4, 0.2, 0.1), (8.0, 4.1, 2.0), (0.96, 1.04), 1, (0.2, 0.05), 1e-12)
        >>> observed.within(), observed.within(tolerance=0.01)
        (True, False)
        """
        last = [slope for slope in self.slopes if np.isfinite(slope)][-2:]
        return bool(last) and all(abs(slope - self.expected) <= tolerance for slope in last)

    def table(self) -> str:
        """Return a line for each step size: its error, and the slope from the size before.

        Examples
        --------
        >>> print(ObservedOrder((0.2, 0.1), (4.1, 2.0), (1.04,), 1, (0.2, 0.1), 1e-12).table())
        h    error     slope
        0.2  4.10e+00
        0.1  2.00e+00  1.04
        expected slope 1; h·λ_max from 0.2 to 0.1 of the series limit
        """
        return super().table()

    def _tables(self) -> list[Table]:
        slopes = ("", *("rounding" if np.isnan(slope) else f"{slope:.2f}" for slope in self.slopes))
        sizes = zip(self.step_sizes, self.errors, slopes, strict=True)
        rows = [(f"{h:.4g}", f"{error:.2e}", slope) for h, error, slope in sizes]
        window = "" if np.isnan(self.window[0]) else "; h·λ_max from {:.3g} to {:.3g} of the series limit"
        note = f"expected slope {self.expected}{window.format(*self.window)}"
        return [Table(("h", "error", "slope"), rows, notes=[note])]

    def __repr__(self) -> str:
        slopes = ", ".join(f"{slope:.2f}" for slope in self.slopes[:8])
        return f"ObservedOrder(slopes {slopes}, expected {self.expected})"

    def plot(self, ax: Any = None, **kwargs: Any) -> list[Any]:
        """Plot the errors against the step sizes; see :func:`modeq.plots.plot_order`.

        Parameters
        ----------
        ax : matplotlib axes, optional
        **kwargs : passed to ``Axes.plot``

        Examples
        --------
        >>> import matplotlib
        >>> matplotlib.use("agg")
        >>> len(ObservedOrder((0.2, 0.1), (4.1, 2.0), (1.04,), 1, (0.2, 0.1), 1e-12).plot())
        3
        """
        from modeq.plots import plot_order

        return plot_order(self.step_sizes, self.errors, self.slopes, self.expected, ax=ax, **kwargs)


def observed_order(
    method: GeneralLinearMethod,
    problem: Problem,
    start: Any = None,
    *,
    time: float,
    order: int,
    step_sizes: Sequence[float] | None = None,
    form: FormName = "field",
    field: FieldName = "auto",
    initial_layer: Layer = True,
    halvings: int = 4,
) -> ObservedOrder:
    """Measure the order with which a modified equation follows the optimizer itself.

    Parameters
    ----------
    method, problem, start : as in :func:`modeq.flow`
    time : positive number
        The length of the trajectories, in units of h·n. The largest error over each counts, for a vector
        field from the time on at which the initial layer has died out at the largest step size.
    order : positive int
        The truncation order.
    step_sizes : decreasing sequence, optional
        The learning rates. By default halvings from 0.2 times the series limit over λ_max, rounded so that `time` is
        a whole number of steps: as many as `halvings`, or, from two on, as keep the error ten times above the noise
        floor.
    form, field, initial_layer : as in :func:`modeq.flow`
    halvings : int
        How often the largest learning rate is halved.

    Returns
    -------
    ObservedOrder
        With the errors, the slopes between them, and the slope to expect.

    Raises
    ------
    InvalidMethod
        If the method follows its equation exactly, or has free symbols.
    InvalidProblem
        If the problem computes in less than float64, or has minibatches that are no fields of the method, or if
        `time` or `step_sizes` cannot be measured on.
    InvalidOrder, NoTimeDerivativeForm, OutsideSeriesLimit, Diverged
        As the derivation of the form, and :func:`modeq.flow`.

    Notes
    -----
    Only smooth losses have clean slopes (tanh, not ReLU). Flows are integrated to rtol = 1e-13.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(sp.cos(x) + x**2, [x])
    >>> result = observed_order(mq.GradientDescent(), problem, [1.0], time=1.0, order=2)
    >>> result.expected, [round(slope, 1) for slope in result.slopes]
    (2, [2.0, 2.0, 2.0, 2.0])
    """
    if form not in DERIVE:
        raise InvalidProblem(f"form is {choice(form, DERIVE)}")
    time, order, halvings = positive(time, "time"), checked_order(order), whole(halvings, "halvings", least=1)
    require_method(method)
    theta = start_on(problem, start)
    single = method.colour_count - len(method.decay) == 1
    if single and problem.parts > 1 and not is_game(problem):
        raise InvalidProblem(
            f"{problem!r} has {problem.parts} minibatches, which {method} sees one after the other: its law is that of "
            f"Epoch(method, batches={problem.parts}), not of the mean loss"
        )
    if problem.epsilon > 1e-12:
        raise InvalidProblem(
            f"{problem!r} computes with a rounding of {problem.epsilon:.1e}, which hides the slopes: use "
            "module.double()"
        )
    epoch = method.steps > 1
    limit = float("nan") if method.players else float(method.series_limit())
    curvature = curvature_seen(method, problem, theta, epoch)
    layer_steps = _layer_steps(method, form, order)
    chosen_here = step_sizes is None
    if chosen_here:
        if not curvature > 0:
            raise InvalidProblem("the Hessian at the start is zero: give step_sizes")
        if method.players:
            raise InvalidProblem(f"{method} is a game, without a series limit to choose by: give step_sizes")
        steps = max(int(np.ceil(time * curvature / (0.2 * min(limit, 2.0)))), 2 * layer_steps)
        steps = -(-steps // method.steps) * method.steps
        step_sizes = [time / (steps * 2**k) for k in range(halvings + 1)]
    sizes = _decreasing(step_sizes)
    if odd := [h for h in sizes if round(time / h) % method.steps]:
        raise InvalidProblem(
            f"at h = {odd[0]:g} the time {time:g} is {round(time / odd[0])} steps, no multiple of the {method.steps} "
            f"of {method}: choose time and step_sizes so that it is"
        )
    settled = layer_steps * sizes[0]
    if settled > 0.8 * time:
        raise InvalidProblem(
            f"time is {time:g}, but at h = {sizes[0]:g} the initial layer of {method} lasts until {settled:.3g}: take "
            "a longer time or smaller step_sizes"
        )
    equation = DERIVE[form](method, order)
    if has_series_limit(equation):
        require_series_limit(method, problem, theta, sizes[0], epoch, curvature=curvature)
    expected = expected_order(method, order, initial_layer=initial_layer, form=form)
    layer = initial_layer if form != "rest" else False
    sharp_flow = partial(flow, equation, field=field, initial_layer=layer, rtol=1e-13, atol=1e-15, series_limit=False)
    errors: list[float] = []
    scale = 0.0
    for h in sizes:
        if chosen_here and len(errors) > 2 and errors[-1] < 2**expected * 10 * _NOISE * scale:
            break
        iterates = iterate(method, problem, theta, h=h, steps=round(time / h))
        flowed = sharp_flow(problem=problem, start=theta, h=h, time=float(iterates.t[-1]))
        counted = iterates.t >= settled * (1 - 1e-12)
        errors.append(float(np.max(step_errors(flowed, iterates)[counted])))
        scale = max(scale, float(np.max(abs(iterates.y))))
    sizes, floor = sizes[: len(errors)], _NOISE * scale
    window = (sizes[0] * curvature / limit, sizes[-1] * curvature / limit)
    return ObservedOrder(sizes, tuple(errors), _slopes(sizes, errors, floor), expected, window, floor)


def _decreasing(step_sizes: Any) -> tuple[float, ...]:
    """The step sizes, after a check."""
    sizes: tuple[float, ...] = ()
    if isinstance(step_sizes, Sequence | np.ndarray):
        sizes = tuple(positive(size, "a step size") for size in step_sizes)
    if len(sizes) < 2 or any(b >= a for a, b in pairwise(sizes)):
        raise InvalidProblem(f"step_sizes is {step_sizes!r}: give at least two, the largest first")
    return sizes


def _slopes(sizes: Sequence[float], errors: Sequence[float], floor: float) -> tuple[float, ...]:
    """The logarithmic slopes between successive errors; nan where one is at the noise floor."""
    return tuple(
        float(np.log(a / b) / np.log(g / h)) if min(a, b) > floor else float("nan")
        for (a, b), (g, h) in zip(pairwise(errors), pairwise(sizes), strict=True)
    )


def _layer_steps(method: GeneralLinearMethod, form: FormName, order: int) -> int:
    """The number of steps in which the transients that the form lacks fall below rounding, with some room.

    At h = 0 those of an eigenvalue 0 end after as many steps as there are further states, and each power of h
    that counts adds as many.
    """
    if form == "state":
        moduli = []
    elif form in PHASE_SPACE:
        moduli = [abs(complex(root)) for root in phase_space_form(method, 1).left_out]
    else:
        moduli = [method.parasitic_radius] if method.state_count > 1 else []
    radius = max(moduli, default=0.0)
    decayed = int(np.ceil(1.1 * np.log(1e-17) / np.log(radius))) if radius > 0 else 0
    return method.steps * max(decayed, order * (method.state_count - 1)) if moduli else 0


def expected_order(
    method: GeneralLinearMethod, order: int, *, initial_layer: Layer = True, form: FormName = "field"
) -> int:
    """Return the k of the error O(hᵏ) of a form of truncation order p, from its exact coefficients.

    It is the order of the first neglected term. Of a vector field these are the terms with k + 1 vertices,
    and those of the initial layer (through h^{p−1}, or as given) with k vertices; of the forms in time
    derivatives and in phase space the first coefficient that is not the exact one; of the state-space form
    those with k + 1 fields and buffers together. Whatever the truncation is,
    there stay an error O(h) from rest, and in phase space from buffers off the slow manifold one O(h²), or
    O(h³) where r is interpolated at the poles.

    Examples
    --------
    >>> import modeq as mq
    >>> expected_order(mq.GradientDescent(), 2), expected_order(mq.HeavyBall(momentum=0.5), 3, initial_layer=1)
    (2, 2)
    >>> expected_order(mq.GradientDescent(), 3, form="phase")  # the third Bernoulli number is 0
    4
    """
    search = order + 4
    off_manifold = any(value != 0 for value in initial_layer_of(method, 1).values())
    if form in PHASE_SPACE:
        used, exact = DERIVE[form](method, order), phase_space_form(method, search)
        found = []
        for colour, row in exact.r.items():
            pairs = zip_longest(row, used.r[colour][:search], fillvalue=sp.Integer(0))
            found += [k for k, (a, b) in enumerate(pairs) if abs(sp.N(a - b, 30, maxn=1000)) > 1e-25]
        if used.left_out:  # the flow starts by a series, of as many terms
            layer = initial_layer_of(method, order + 2)
            found += [tree.order for tree, value in layer.items() if tree.order > order and value != 0]
        if used.poles and off_manifold:
            # Interpolation removes the shift of the transients' own modes, not of their products and resonances.
            found.append(2 if form == "phase" else 3)
    elif form == "state":
        found = []
        for size in range(order + 1, search + 1):  # one by one: with momentum the trees soon are too many
            terms = state_space_form(method, size)
            found = [size - 1 for (_, tree), value in terms.items() if tree.order == size and value != 0]
            if found:
                break
    elif form in ("time", "rest"):
        c = time_derivative_form(method, search).coefficients
        found = [k for k in range(order, search) if c[k] != 0]
        if form == "rest" and order > 1:
            found.append(1)
        elif off_manifold and order < 3:
            found.append(order)
    else:
        included = order - 1 if initial_layer is True else int(initial_layer)
        layer = initial_layer_of(method, included + 1)
        found = [tree.order for tree, value in layer.items() if tree.order > included and value != 0]
        for size in range(order + 1, search + 1):  # one by one: with many fields the trees soon are too many
            equation = modified_equation(method, size)
            if any(tree.order == size and value != 0 for tree, value in equation.items()):
                found.append(size - 1)
                break
    if not found:
        raise InvalidMethod(
            f"{method} has no neglected term through order {search}: it may follow its equation exactly, without an "
            "order to observe"
        )
    return min(found)
