"""What a flow can be asked for: the forms, and which options each has a use for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modeq.errors import InvalidProblem, UnsupportedOptimizer
from modeq.numeric.fields import FieldName, require_field_name
from modeq.numeric.protocol import Problem, Vector, whole
from modeq.symbolic.equation import ModifiedEquation
from modeq.symbolic.expected_equation import ExpectedEquation
from modeq.symbolic.phase_space import PhaseSpaceForm
from modeq.symbolic.scheduled_forms import ScheduledEquation, ScheduledForm
from modeq.symbolic.state_space import StateSpaceForm
from modeq.symbolic.temporal import TimeDerivativeForm

AutonomousForm = ModifiedEquation | ExpectedEquation | TimeDerivativeForm | PhaseSpaceForm | StateSpaceForm
Form = AutonomousForm | ScheduledForm
Layer = bool | int


@dataclass(frozen=True)
class FlowSettings:
    """How a form becomes a first-order system on a problem; see :func:`modeq.flow`.

    Attributes
    ----------
    h : the learning rate
    field, initial_layer : as in `flow`
    rtol : the tolerance of the integrator, to which implicit equations are solved too
    points : array m × d, the first iterates, or None for the method's own
    buffers : those of a state-space form at the start
    substeps : steps of RK4 in each h, or None for an integrator that controls its error

    Examples
    --------
    >>> FlowSettings(h=0.1).field
    'auto'
    """

    h: float
    field: FieldName = "auto"
    initial_layer: Layer = True
    rtol: float = 1e-10
    points: Vector | None = None
    buffers: Any = None
    substeps: int | None = None


def has_series_limit(form: Form) -> bool:
    """Whether a form means nothing outside the series limit: a field, or a form that starts on the slow manifold.

    Examples
    --------
    >>> import modeq as mq
    >>> [has_series_limit(mq.modified_equation(mq.HeavyBall(0.9), order)) for order in (1, 2)]
    [False, True]
    """
    if isinstance(form, ModifiedEquation):
        return form.order > 1 and not form.method.players  # of several players there is no single curvature
    if isinstance(form, ExpectedEquation):
        return form.order > 1
    return isinstance(form, TimeDerivativeForm) and form.order > 2


def require_options(form: Form, field: str, initial_layer: Layer, buffers: Any, batches: Any, jumps: int) -> None:
    """Raise `InvalidProblem` for an option that does not exist, or that the form has no use for.

    Examples
    --------
    >>> import modeq as mq
    >>> form = mq.time_derivative_form(mq.HeavyBall(0.9), order=2)
    >>> require_options(form, "lambdify", True, None, None, 2)
    Traceback (most recent call last):
    ...
    modeq.errors.InvalidProblem: field is 'lambdify': TimeDerivativeForm(...) takes 'auto' or ...
    """
    _require_field(form, field)
    _require_layer(form, initial_layer)
    if buffers is not None and not isinstance(form, StateSpaceForm):
        raise InvalidProblem(f"buffers are for a state-space form, not for {form!r}: leave them out")
    if whole(jumps, "jumps", least=0) != 2 and (batches is None or not isinstance(form, PhaseSpaceForm)):
        raise InvalidProblem(
            f"jumps is {jumps}: only a phase-space form with batches has jumps, and this is {form!r}"
            f"{' without' if batches is None else ''}; leave it out"
        )


def _require_field(form: Form, field: str) -> None:
    require_field_name(field)
    if isinstance(form, TimeDerivativeForm) and field not in ("auto", "gradients"):
        raise InvalidProblem(f"field is {field!r}: {form!r} takes 'auto' or 'gradients', it needs nothing else")
    if isinstance(form, StateSpaceForm | ScheduledForm) and field not in ("auto", "autodiff"):
        raise InvalidProblem(f"field is {field!r}: {form!r} takes 'auto' or 'autodiff', nested derivatives")


def _require_layer(form: Form, layer: Layer) -> None:
    if not isinstance(layer, bool | int) or layer < 0:
        raise InvalidProblem(f"initial_layer is {layer!r}: give True, False, or the highest power of h, from 0")
    if isinstance(form, StateSpaceForm) and layer is not True:
        raise InvalidProblem(f"initial_layer is {layer!r}: {form!r} has none, it starts at its buffers; give these")
    powers = isinstance(form, ModifiedEquation | ExpectedEquation | ScheduledEquation)
    if not powers and not isinstance(layer, bool):
        raise InvalidProblem(f"initial_layer is {layer!r}: powers of h are for a vector field; give {form!r} a bool")


def given_points(form: Form, theta: Vector, through: Any) -> Vector | None:
    """Return θ₀ and the iterates that the flow of a phase-space form shall pass through, after a check.

    Examples
    --------
    >>> import modeq as mq
    >>> form = mq.phase_space_form(mq.HeavyBall(0.9), order=2)
    >>> given_points(form, np.array([1.0]), [[0.9]]).tolist()
    [[1.0], [0.9]]
    """
    if through is None:
        return None
    modes = len(form.q) if isinstance(form, PhaseSpaceForm) else 1
    points = np.array(through, dtype=np.float64)
    if modes == 1 or points.shape != (modes - 1, theta.size) or not np.all(np.isfinite(points)):
        wanted = f"{modes - 1} x {theta.size} finite numbers" if modes > 1 else "nothing, it starts at θ₀ alone"
        raise InvalidProblem(f"through has shape {points.shape}: give {form!r} {wanted}")
    return np.vstack([theta, points])


def whole_steps(h: float, time: float) -> int:
    """Return time/h, or raise `InvalidProblem` if it is no whole number of steps.

    Examples
    --------
    >>> whole_steps(0.1, 0.3)
    3
    """
    steps = round(time / h)
    if steps < 1 or abs(time - steps * h) > 1e-9 * time:
        raise InvalidProblem(
            f"time is {time:g}, {time / h:.6g} steps of h = {h:g}: with batches it must be a whole number of steps"
        )
    return steps


def require_batch_form(form: Form) -> None:
    """Raise an error unless the form can see another batch at each step.

    Raises
    ------
    InvalidProblem
        If the fields of the method are batches or players already, or its learning rate follows a schedule.
    UnsupportedOptimizer
        If θ, or the states of the form, do not determine how the method goes on after a switch.

    Examples
    --------
    >>> import modeq as mq
    >>> require_batch_form(mq.phase_space_form(mq.HeavyBall(0.9), order=2))
    >>> require_batch_form(mq.modified_equation(mq.HeavyBall(0.9), order=2))
    Traceback (most recent call last):
    ...
    modeq.errors.UnsupportedOptimizer: HeavyBall(momentum=9/10) keeps 2 states from one minibatch to the next, ...
    """
    if isinstance(form, ExpectedEquation | ScheduledForm):
        raise InvalidProblem(f"batches are given, but {form!r} takes none: leave them out")
    method = form.method
    if method.steps > 1 or method.colour_count - len(method.decay) > 1:
        raise InvalidProblem(
            f"batches are given, but {method} has batches or players as its fields, or counts several steps at once: "
            "leave them out"
        )
    if isinstance(form, ModifiedEquation) and method.state_count > 1:
        raise UnsupportedOptimizer(
            f"{method} keeps {method.state_count} states from one minibatch to the next, which no field on θ alone "
            "follows: use time_derivative_form, phase_space_form or state_space_form"
        )
    if isinstance(form, PhaseSpaceForm) and (len(form.q) > 2 or form.left_out):
        held = f"has {len(form.q)} modes" if len(form.q) > 2 else f"leaves out the poles {list(form.left_out)}"
        raise UnsupportedOptimizer(
            f"{form!r} {held}: where the minibatch switches, θ' jumps by a rule for at most two modes, all of them "
            "kept; use state_space_form or time_derivative_form"
        )


def batch_keys(form: Form, problem: Problem, batches: Any) -> Sequence[Any]:
    """Return what each step sees, in turn, after a check that the form and the problem take batches.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> batch_keys(mq.time_derivative_form(mq.HeavyBall(0.9), 2), mq.SymbolicProblem([x, 2 * x], [x]), (1, 0))
    [1, 0]
    """
    require_batch_form(form)
    keys = problem.checked_batches(batches)
    if keys is None:
        raise InvalidProblem(f"batches are {batches!r}, but {problem!r} has none: leave them out")
    return keys
