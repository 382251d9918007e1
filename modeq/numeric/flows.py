"""Integrate a modified equation, in any of its forms, with SciPy's DOP853."""

from typing import Any

import numpy as np
from scipy.linalg import expm

from modeq.errors import Diverged, InvalidProblem
from modeq.numeric.curvature import decay_rate, require_series_limit
from modeq.numeric.fields import FieldName, modified_field, series_value
from modeq.numeric.integration import System, integrate
from modeq.numeric.iteration import iterate
from modeq.numeric.jets import PathDerivatives, path_derivatives
from modeq.numeric.protocol import Problem, Vector, positive, time_grid
from modeq.numeric.scheduled_flow import scheduled_system
from modeq.numeric.state_space_field import StateSpaceField
from modeq.numeric.trajectory import Trajectory
from modeq.symbolic.equation import ModifiedEquation
from modeq.symbolic.expected_equation import ExpectedEquation
from modeq.symbolic.phase_space import PhaseSpaceForm
from modeq.symbolic.scheduled_forms import ScheduledForm
from modeq.symbolic.state_space import StateSpaceForm
from modeq.symbolic.temporal import TimeDerivativeForm

Form = ModifiedEquation | ExpectedEquation | TimeDerivativeForm | PhaseSpaceForm | StateSpaceForm | ScheduledForm
Layer = bool | int


def flow(
    form: Form,
    problem: Problem,
    start: Any = None,
    *,
    h: float,
    time: float,
    field: FieldName = "auto",
    initial_layer: Layer = True,
    rtol: float = 1e-10,
    atol: float = 1e-12,
    max_evaluations: int = 200_000,
    series_limit: bool = True,
    check: bool = True,
    through: Any = None,
    buffers: Any = None,
) -> Trajectory:
    """Integrate a modified equation on a problem.

    Parameters
    ----------
    form : ModifiedEquation, ExpectedEquation, TimeDerivativeForm, PhaseSpaceForm, StateSpaceForm, or a scheduled form
        With numbers for the symbols of its method and, but for the time, of its schedule.
    problem, start : the problem, and θ₀ in a form it takes
    h : positive number
        The learning rate; of a scheduled form the base rate h in h·φ(t).
    time : positive number
        The end, in units of h·n: `time` = h·steps reaches step number `steps`.
    field : see :func:`modeq.numeric.fields.modified_field`
        How the field is evaluated; in the phase-space form, whether its derivatives along the path are
        written out ("lambdify") or found from gradients ("gradients"). The time-derivative form needs
        gradients alone, the state-space form takes nested derivatives, and a scheduled equation gradients and
        their first derivative, whatever is given here.
    initial_layer : bool or int
        Where to start. True: where the optimizer's own first step puts the flow, to the order of the
        equation (for the time-derivative form the right first derivative, for the phase-space form so
        that it passes through the first iterates, or, if poles are left out, by `PhaseSpaceForm.start`,
        without their transients). False: at θ₀, at rest. An integer, for a `ModifiedEquation`: the
        initial layer through that power of h; for a `ScheduledEquation` 0 or 1. The state-space form has no
        layer: it starts at its `buffers`.
    rtol, atol : tolerances of the integrator
        Raised to 20 and 2 units of rounding for a network in float32 or less.
    max_evaluations : int
        After this many evaluations the flow is given up as too stiff.
    series_limit : bool
        Whether to refuse a `ModifiedEquation` of order ≥ 2, or a `TimeDerivativeForm` of order ≥ 3 (which
        starts on the slow manifold), if h·λ_max at the start is beyond the method's series limit. For a
        `ScheduledEquation` h is multiplied with the largest φ on the way.
    check : bool
        Whether to raise `Diverged` if the integration fails, or to return what there is.
    through : array (m − 1) × d, optional
        For a `PhaseSpaceForm` with m modes: the iterates θ₁, …, θ_{m−1} after `start`, if they are not the
        method's own first ones, as in the middle of a training, with the buffers it has there.
    buffers : None, 0, or array m × d, optional
        For a `StateSpaceForm`: its buffers v₁, …, v_m at the start, if they are not the method's own first
        ones; for torch's optimizers the momentum buffer. See :meth:`StateSpaceField.start`.

    Returns
    -------
    Trajectory
        At the times 0, h, 2h, …, `time`, for an `Epoch` at its ends; ``nfev`` counts evaluations of the form's
        right-hand side.

    Raises
    ------
    InvalidMethod, InvalidProblem, OutsideSeriesLimit, IllPosed, Diverged

    Examples
    --------
    The second-order flow of gradient descent on x²/2 decays at the rate 1 + h/2:

    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
    >>> equation = mq.modified_equation(mq.GradientDescent(), order=2)
    >>> end = flow(equation, problem, [1.0], h=0.1, time=1.0).y[-1, 0]
    >>> bool(abs(end - np.exp(-1.05)) < 1e-9)
    True
    """
    if not isinstance(form, Form):
        raise InvalidProblem(f"{form!r} is no equation: give modified_equation(method, order), or another form")
    expected = isinstance(form, ExpectedEquation)
    method, steps = (form.epoch.method, form.batches) if expected else (form.method, form.method.steps)
    (form if expected else method).require_numbers()
    h, time = positive(h, "h"), positive(time, "time")
    if not isinstance(initial_layer, bool | int) or initial_layer < 0:
        raise InvalidProblem(f"initial_layer is {initial_layer!r}: give True, False, or the highest power of h, from 0")
    theta = problem.start(start)
    points = _given_points(form, theta, through)
    if buffers is not None and not isinstance(form, StateSpaceForm):
        raise InvalidProblem(f"buffers are for a state-space form, not for {form!r}: leave them out")
    # Below the rounding of the problem's own numbers an integrator would resolve noise.
    rtol = max(positive(rtol, "rtol"), 20 * problem.epsilon)
    atol = max(positive(atol, "atol"), 2 * problem.epsilon)
    if series_limit and has_series_limit(form):
        require_series_limit(method, problem, theta, h, epoch=steps > 1)
    times = time_grid(h * int(steps), time)
    if isinstance(form, ModifiedEquation | ExpectedEquation):
        system = _vector_field_system(form, problem, theta, h, field, initial_layer)
    elif isinstance(form, TimeDerivativeForm):
        system = _time_derivative_system(form, problem, theta, h, initial_layer)
    elif isinstance(form, ScheduledForm):
        system = scheduled_system(form, problem, theta, h, times, initial_layer, series_limit)
    elif isinstance(form, StateSpaceForm):
        state = StateSpaceField(form, problem, h)
        system = System(state, state.start(theta, buffers), f"state-space form of order {form.order}")
    else:
        system = _phase_space_system(form, problem, theta, h, field, initial_layer, rtol, points)
    trajectory = integrate(system, times, problem.size, rtol, atol, max_evaluations)
    return trajectory.checked() if check else trajectory


def _given_points(form: Form, theta: Vector, through: Any) -> Vector | None:
    """θ₀ and the iterates that the flow of a phase-space form shall pass through, after a check."""
    if through is None:
        return None
    modes = len(form.q) if isinstance(form, PhaseSpaceForm) else 1
    points = np.array(through, dtype=np.float64)
    if modes == 1 or points.shape != (modes - 1, theta.size) or not np.all(np.isfinite(points)):
        wanted = f"{modes - 1} x {theta.size} finite numbers" if modes > 1 else "nothing, it starts at θ₀ alone"
        raise InvalidProblem(f"through has shape {points.shape}: give {form!r} {wanted}")
    return np.vstack([theta, points])


def has_series_limit(form: Form) -> bool:
    """Whether a form means nothing outside the series limit: a field, or a form that starts on the slow manifold."""
    if isinstance(form, ModifiedEquation):
        return form.order > 1 and not form.method.players  # of several players there is no single curvature
    if isinstance(form, ExpectedEquation):
        return form.order > 1
    return isinstance(form, TimeDerivativeForm) and form.order > 2


def _vector_field_system(
    equation: ModifiedEquation | ExpectedEquation,
    problem: Problem,
    theta: Vector,
    h: float,
    field: FieldName,
    initial_layer: Layer,
) -> System:
    right_hand_side = modified_field(equation, problem, h, field)
    order = equation.order - 1 if initial_layer is True else int(initial_layer)
    layer = equation.initial_layer(order)
    start = theta + series_value(layer, problem, theta, h)
    return System(right_hand_side, start, f"modified field of order {equation.order}")


def _time_derivative_system(
    form: TimeDerivativeForm, problem: Problem, theta: Vector, h: float, initial_layer: Layer
) -> System:
    """The state is θ, hθ', …, h^{p−1}θ^{(p−1)}."""
    form.require_well_posed()
    c = [float(value) for value in form.coefficients]
    d = [h * decay_rate(form.method) * float(value) for value in form.decay_coefficients] or [0.0] * form.order
    size = theta.size

    def right_hand_side(u: Vector) -> Vector:
        levels = u.reshape(form.order, size)
        highest = h * problem.field(levels[0])
        for k in range(form.order):
            highest -= (d[k] + (c[k - 1] if k else 0.0)) * levels[k]
        return np.concatenate([*levels[1:], highest / c[-1]]) / h

    start = np.zeros((form.order, size))
    start[0] = theta
    if initial_layer:
        start[0] = theta + series_value(form.start[0], problem, theta, h)
        for k, series in enumerate(form.start[1:], start=1):
            start[k] = h**k * series_value(series, problem, start[0], h)
    return System(right_hand_side, start.ravel(), f"time-derivative form of order {form.order}")


def _phase_space_system(
    form: PhaseSpaceForm,
    problem: Problem,
    theta: Vector,
    h: float,
    field: FieldName,
    initial_layer: Layer,
    rtol: float,
    points: Vector | None,
) -> System:
    """The state is θ, Dθ, …, D^{m−1}θ with D the derivative per step."""
    q, r = form.numbers()
    m, size = len(q), theta.size
    derivatives = path_derivatives(problem, max(len(r[0]) - 1, m - 1), field)
    solver = _HighestDerivative(q, r, form, derivatives, h, tolerance=1e-2 * rtol)

    def right_hand_side(u: Vector) -> Vector:
        levels = u.reshape(m, size)
        return np.concatenate([*levels[1:], solver(levels)]) / h

    start = np.zeros((m, size))
    start[0] = theta
    system = System(right_hand_side, start.ravel(), f"phase-space form of order {form.order}")
    if not np.all(np.isfinite(right_hand_side(system.start))):
        raise Diverged(
            f"{system.name}: at the start its highest derivative cannot be solved for, the sweeps do not contract at "
            f"h = {h:g}; use a smaller learning rate or a lower order"
        )
    if points is None and initial_layer and form.left_out:
        for k, series in enumerate(form.start()):
            start[k] += h**k * series_value(series, problem, theta, h)
        return System(right_hand_side, start.ravel(), system.name)
    if m > 1 and (initial_layer or points is not None):
        if points is None:
            points = iterate(form.method, problem, theta, h=h, steps=m - 1).y
        return System(right_hand_side, _through_iterates(system, points, q, h, rtol), system.name)
    return system


class _HighestDerivative:
    """Solve q(D)θ = h Σ_c Σ_k r_k^c D^k f_c for D^mθ, the derivatives of f taken along the flow itself.

    The unknown derivatives D^mθ, …, D^Kθ of the path obey the equation and its derivatives, cut where
    D^{K+1} f would be needed; the system is solved by fixed-point sweeps, which contract like h·r_k·λ/q_m, λ the
    curvature. Where they do not, the value is nan.
    """

    def __init__(
        self,
        q: list[float],
        r: dict[int, list[float]],
        form: PhaseSpaceForm,
        derivatives: PathDerivatives,
        h: float,
        tolerance: float,
    ) -> None:
        self.q, self.r, self.h, self.derivatives, self.tolerance = q, r, h, derivatives, tolerance
        self.decay = {colour: float(rate) for colour, rate in form.method.decay.items()}
        self.levels = max(len(r[0]) - 1, len(q))  # highest derivative of the path that is kept

    def __call__(self, known: Vector) -> Vector:
        m, top = len(self.q), self.levels
        path = np.zeros((top + 1, known.shape[1]))
        path[:m] = known
        change = np.inf
        for sweep in range(100):
            old = path[m:].copy()
            F = self.derivatives(path[: max(len(self.r[0]), m)])
            for j in range(top - m + 1):
                total = -sum(self.q[i] * path[i + 1 + j] for i in range(m - 1))
                for colour, r in self.r.items():
                    for k in range(len(r) - j):  # derivatives of f up to the form's own highest
                        value = -self.decay[colour] * path[k + j] if colour in self.decay else F[k + j]
                        total = total + self.h * r[k] * value
                path[m + j] = total / self.q[-1]
            previous, change = change, np.max(abs(path[m:] - old))
            if len(self.r[0]) <= m:  # nothing is implicit
                return path[m]
            # The first sweeps reach one derivative after the other; the last ones only move rounding.
            if change <= self.tolerance * np.max(abs(path[1:])) or (sweep > top and change >= previous):
                break
        converged = change <= 1e-6 * np.max(abs(path[1:]))
        return path[m] if converged else np.full_like(path[m], np.nan)  # the integrator takes a smaller step


def _through_iterates(system: System, points: Vector, q: list[float], h: float, rtol: float) -> Vector:
    """The start from which the flow passes through the first iterates, by a simplified Newton iteration.

    The derivative of the flow at n = 1, …, m − 1 with respect to Dθ, …, D^{m−1}θ is that of q(D)θ = 0.
    """
    m, size = len(q), points.shape[1]
    companion = np.diag(np.ones(m - 1), 1)
    companion[-1, 1:] = [-c / q[-1] for c in q[:-1]]
    jacobian = np.array([expm(n * companion)[0, 1:] for n in range(1, m)])
    correction = np.linalg.inv(jacobian)
    start = system.start.reshape(m, size).copy()
    scale = np.max(abs(points[1:] - points[0]))
    if scale <= np.finfo(np.float64).eps * np.max(abs(points)):
        return start.ravel()  # nothing moves
    times = h * np.arange(m, dtype=np.float64)
    best, found = np.inf, start
    inner = max(0.1 * rtol, 5e-14)  # SciPy's integrators take no tolerance below 100 ulp
    for _ in range(60):
        trial = System(system.right_hand_side, start.ravel(), system.name)
        reached = integrate(trial, times, size, inner, 0.1 * inner * scale, max_evaluations=20_000).checked()
        miss = points[1:] - reached.y[1:]
        if not np.max(abs(miss)) < 0.9 * best:
            break
        best, found = float(np.max(abs(miss))), start.copy()
        if best <= 0.1 * rtol * scale:
            break
        start[1:] += correction @ miss
    if not best <= 1e-3 * scale:
        raise Diverged(
            f"{system.name}: no start was found from which the flow passes through the first iterates (it misses them "
            f"by {best / scale:.1e} of their distance); use a smaller learning rate"
        )
    return found.ravel()
