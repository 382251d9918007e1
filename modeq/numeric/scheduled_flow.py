"""The equations of a method under a learning-rate schedule as first-order systems, the time among their states."""

from collections.abc import Callable

import numpy as np

from modeq.errors import InvalidProblem, ModeqError
from modeq.numeric.colours import ColourFields
from modeq.numeric.curvature import require_series_limit
from modeq.numeric.fields import series_value
from modeq.numeric.integration import System
from modeq.numeric.protocol import Problem, Vector
from modeq.symbolic.scheduled import scheduled_time_derivative_form
from modeq.symbolic.scheduled_forms import Factor, ScheduledForm, ScheduledTimeDerivativeForm

TimeDependent = Callable[[float, Vector], Vector]


def scheduled_system(
    form: ScheduledForm,
    problem: Problem,
    theta: Vector,
    h: float,
    times: Vector,
    initial_layer: bool | int = True,
    series_limit: bool = True,
) -> System:
    """Return a scheduled form on a problem as a first-order system whose last state is the time.

    Parameters
    ----------
    form : ScheduledEquation or ScheduledTimeDerivativeForm
        With numbers for all symbols but t.
    problem, theta : the problem, and θ₀
    h : positive number
        The base learning rate.
    times : array
        The steps of the trajectory, on which φ must be positive and, at order 2, its slope finite.
    initial_layer : bool or int
        Whether the start is the optimizer's own; of a `ScheduledEquation` also the highest power of h, 0 or 1.
    series_limit : bool
        Whether to refuse a `ScheduledEquation` of order 2 if h·φ·λ_max, with the largest φ and the curvature at the
        start, is beyond the method's series limit.

    Raises
    ------
    InvalidProblem, OutsideSeriesLimit, IllPosed, UnsupportedOptimizer

    Examples
    --------
    >>> import modeq as mq, numpy as np, sympy as sp
    >>> x, t = sp.symbols("x t")
    >>> equation = mq.scheduled_equation(mq.GradientDescent(), sp.exp(-t))
    >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
    >>> system = scheduled_system(equation, problem, np.array([2.0]), 0.1, np.array([0.0, 0.1]))
    >>> system.right_hand_side(system.start).round(12).tolist()  # −x − h x/2 − h x/2, and 1
    [-2.2, 1.0]
    """
    phi, slope = form.factors()
    largest = _largest(form, phi, times)
    _require_finite_slope(form, slope, times)
    if isinstance(form, ScheduledTimeDerivativeForm):
        right_hand_side, start = _time_derivatives(form, problem, theta, h, phi, slope, bool(initial_layer))
    else:
        if series_limit and form.order > 1 and not form.method.players:  # of players there is no single curvature
            require_series_limit(
                form.method,
                problem,
                theta,
                h * largest,
                epoch=form.method.steps > 1,
                step="h·φ",
                where="for the largest φ and the curvature at the start",
                others=lambda: _others(form),
            )
        right_hand_side, start = _vector_field(form, problem, theta, h, phi, slope, initial_layer)

    def with_time(u: Vector) -> Vector:
        return np.append(right_hand_side(u[-1], u[:-1]), 1.0)

    return System(with_time, np.append(start, 0.0), f"{type(form).__name__} of order {form.order}")


def _largest(form: ScheduledForm, phi: Factor, times: Vector) -> float:
    """The largest φ, after a check of all; no step is taken at the last time, where only a damping φ'/φ counts."""
    divides = isinstance(form, ScheduledTimeDerivativeForm) and form.order > 1
    checked = times if divides else times[:-1]
    values = np.array([phi(time) for time in checked])
    if not np.all(np.isfinite(values) & (values > 0)):
        bad = int(np.argmin(np.isfinite(values) & (values > 0)))
        raise InvalidProblem(
            f"schedule is {form.schedule}, at {form.t} = {checked[bad]:g} it is {values[bad]:g}: it must stay "
            "positive; end the flow before"
        )
    return float(np.max(values))


def _require_finite_slope(form: ScheduledForm, slope: Factor, times: Vector) -> None:
    values = np.array([slope(time) for time in times]) if form.order > 1 else np.zeros(1)
    if not np.all(np.isfinite(values)):
        bad = int(np.argmin(np.isfinite(values)))
        advice = "end the flow before" if bad else "use order=1"
        raise InvalidProblem(
            f"schedule is {form.schedule}, at {form.t} = {times[bad]:g} its slope is {values[bad]:g}: give one with a "
            f"finite slope, or {advice}"
        )


def _others(form: ScheduledForm) -> str:
    """Which other forms of the method mean something outside of the series limit."""
    try:
        scheduled_time_derivative_form(form.method, form.schedule, form.t).autonomous.require_well_posed()
    except ModeqError:
        return "order=1"
    return "scheduled_time_derivative_form, order=1,"


def _vector_field(
    form: ScheduledForm,
    problem: Problem,
    theta: Vector,
    h: float,
    phi: Factor,
    slope: Factor,
    initial_layer: bool | int,
) -> tuple[TimeDependent, Vector]:
    power = form.order - 1 if initial_layer is True else int(initial_layer)
    if power > 1:
        raise InvalidProblem(
            f"initial_layer is {initial_layer!r}: under a schedule it is derived through h^1, give True, False, 0 or 1"
        )
    fields = ColourFields(form.method, problem)
    colours = range(form.method.colour_count)
    first, second = np.zeros(len(colours)), np.zeros((len(colours), len(colours)))
    for tree, value in form.coefficients.items():
        if tree.order == 1:
            first[tree.colour] = float(value)
        else:
            second[tree.colour, tree.children[0].colour] = float(value)
    slopes = np.array([float(k) for k in form.schedule_coefficients] or [0.0] * len(colours))
    curved = [colour for colour in colours if np.any(second[colour] != 0)]

    def right_hand_side(time: float, theta: Vector) -> Vector:
        values = np.array([fields(colour, theta) for colour in colours])
        factor = phi(time)
        total = factor * first @ values
        if form.order > 1:
            total += h * slope(time) * slopes @ values
        for colour in curved:
            total += h * factor**2 * fields(colour, theta, [second[colour] @ values])
        return total

    layer = form.autonomous.initial_layer(power)  # through h, in which the rate is that of the first step
    return right_hand_side, theta + series_value(layer, problem, theta, h * phi(0.0))


def _time_derivatives(
    form: ScheduledTimeDerivativeForm,
    problem: Problem,
    theta: Vector,
    h: float,
    phi: Factor,
    slope: Factor,
    initial_layer: bool,
) -> tuple[TimeDependent, Vector]:
    """The state is θ and, at order 2, hθ'."""
    form.autonomous.require_well_posed()
    c = [float(value) for value in form.coefficients]
    rate = h * float(form.autonomous.decay_rate)
    d = [rate * float(value) for value in form.autonomous.decay_coefficients] or [0.0] * form.order
    e, e_decay = [float(value) for value in (*form.schedule_coefficients, 0, 0)][:2]
    size = theta.size

    def right_hand_side(time: float, u: Vector) -> Vector:
        levels = u.reshape(form.order, size)
        factor, step_slope = phi(time), h * slope(time)
        highest = factor * (h * problem.field(levels[0]) - d[0] * levels[0])
        if form.order > 1:
            highest -= (c[0] + e * step_slope / factor + d[1] * factor) * levels[1]
            highest -= rate * e_decay * step_slope * levels[0]
        return np.concatenate([*levels[1:], highest / c[-1]]) / h

    start = np.zeros((form.order, size))
    start[0] = theta
    if initial_layer and form.order > 1:
        start[1] = h * phi(0.0) * series_value(form.autonomous.start[1], problem, theta, h)
    return right_hand_side, start.ravel()
