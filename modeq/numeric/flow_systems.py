"""The autonomous forms as first-order systems: right-hand side, start and name."""

from collections.abc import Callable
from typing import Any

import numpy as np

from modeq.numeric.arrays import combination, namespace
from modeq.numeric.curvature import decay_rate
from modeq.numeric.fields import modified_field, series_value
from modeq.numeric.flow_settings import AutonomousForm, FlowSettings
from modeq.numeric.integration import System
from modeq.numeric.native_states import native_state
from modeq.numeric.phase_space_flow import phase_space_right_hand_side, phase_space_system
from modeq.numeric.protocol import Problem, Vector
from modeq.numeric.state_space_field import StateSpaceField
from modeq.symbolic.equation import ModifiedEquation
from modeq.symbolic.expected_equation import ExpectedEquation
from modeq.symbolic.phase_space import PhaseSpaceForm
from modeq.symbolic.state_space import StateSpaceForm
from modeq.symbolic.temporal import TimeDerivativeForm

RightHandSide = Callable[[Any], Any]


def right_hand_side(form: AutonomousForm, problem: Problem, settings: FlowSettings) -> RightHandSide:
    """Return u ↦ u' of a form on a problem, for numpy arrays and for torch tensors u.

    The first d entries of the state u are θ; then follow, d each, in the time-derivative form hθ', …,
    h^{p−1}θ^{(p−1)}, in the phase-space form Dθ, …, D^{m−1}θ with D the derivative per step, and in the
    state-space form the buffers.

    Raises
    ------
    InvalidMethod, InvalidProblem, NoTimeDerivativeForm, IllPosed, UnsupportedOptimizer

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> form = mq.time_derivative_form(mq.HeavyBall(0.5), order=2)  # θ'/2 + 3hθ''/4 = −g
    >>> right = right_hand_side(form, mq.SymbolicProblem(x, [x]), FlowSettings(h=0.1))
    >>> right(np.array([0.0, 0.3])).round(12).tolist()
    [3.0, -3.333333333333]
    """
    if isinstance(form, ModifiedEquation | ExpectedEquation):
        return modified_field(form, problem, settings.h, settings.field)
    if isinstance(form, TimeDerivativeForm):
        return _time_derivatives(form, problem, settings.h)
    if isinstance(form, StateSpaceForm):
        return StateSpaceField(form, problem, settings.h)
    return phase_space_right_hand_side(form, problem, settings.h, settings.field, settings.rtol)


def first_order_system(
    form: AutonomousForm,
    problem: Problem,
    theta: Vector,
    settings: FlowSettings,
    right: RightHandSide | None = None,
) -> System:
    """Return a form on a problem as a first-order system with its start, of the kind of array the problem takes.

    Parameters
    ----------
    form, problem, settings : as in `right_hand_side`
    theta : θ₀
    right : optional, the right-hand side, if it is known already

    Raises
    ------
    Diverged, and what `right_hand_side` raises

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> form = mq.time_derivative_form(mq.HeavyBall(0.5), order=2)
    >>> system = first_order_system(form, mq.SymbolicProblem(x, [x]), np.array([1.0]), FlowSettings(h=0.3))
    >>> system.start.round(12).tolist()  # θ₀ and −h/(1 + β)
    [1.0, -0.2]
    """
    if right is None:
        right = right_hand_side(form, problem, settings)
    if isinstance(form, PhaseSpaceForm):
        return phase_space_system(
            form,
            problem,
            theta,
            settings.h,
            settings.field,
            settings.initial_layer,
            settings.rtol,
            settings.points,
            right_hand_side=right,
            substeps=settings.substeps,
        )
    if isinstance(form, TimeDerivativeForm):
        start, name = _time_derivative_start(form, problem, theta, settings), "time-derivative form"
    elif isinstance(form, StateSpaceForm):
        assert isinstance(right, StateSpaceField)
        start, name = right.start(theta, settings.buffers), "state-space form"
    else:
        power = form.order - 1 if settings.initial_layer is True else int(settings.initial_layer)
        start = theta + series_value(form.initial_layer(power), problem, theta, settings.h)
        name = "modified field"
    start = native_state(problem, start)
    return System(right, start, f"{name} of order {form.order}", problem.label, settings.substeps)


def _time_derivatives(form: TimeDerivativeForm, problem: Problem, h: float) -> RightHandSide:
    form.require_well_posed()
    c = [float(value) for value in form.coefficients]
    d = [h * decay_rate(form.method) * float(value) for value in form.decay_coefficients] or [0.0] * form.order
    weights = [h, *(-(d[k] + (c[k - 1] if k else 0.0)) for k in range(form.order))]
    scaled = [weight / c[-1] for weight in weights]

    def right(u: Any) -> Any:
        levels = u.reshape(form.order, problem.size)
        highest = combination(scaled, [problem.field(levels[0]), *levels])
        return namespace(u).concatenate([*levels[1:], highest]) / h

    return right


def _time_derivative_start(form: TimeDerivativeForm, problem: Problem, theta: Vector, settings: FlowSettings) -> Vector:
    start, h = np.zeros((form.order, theta.size)), settings.h
    start[0] = theta
    if settings.initial_layer:
        start[0] = theta + series_value(form.start[0], problem, theta, h)
        for k, series in enumerate(form.start[1:], start=1):
            start[k] = h**k * series_value(series, problem, start[0], h)
    return start.ravel()
