"""Integrate a modified equation, in any of its forms."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from modeq.errors import Diverged, IllPosed, InvalidProblem, OutsideSeriesLimit
from modeq.numeric.checkpoints import Checkpoint, fingerprint
from modeq.numeric.curvature import require_series_limit
from modeq.numeric.fields import FieldName
from modeq.numeric.flow_settings import (
    FlowSettings,
    Form,
    Layer,
    batch_keys,
    given_points,
    has_series_limit,
    require_options,
    whole_steps,
)
from modeq.numeric.flow_systems import first_order_system
from modeq.numeric.integration import integrate
from modeq.numeric.minibatch_flow import minibatch_flow
from modeq.numeric.protocol import Problem, Vector, positive, start_on, time_grid, whole
from modeq.numeric.scheduled_flow import scheduled_system
from modeq.numeric.trajectory import Status, Trajectory
from modeq.symbolic.expected_equation import ExpectedEquation
from modeq.symbolic.scheduled_forms import ScheduledForm


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
    substeps: int | None = None,
    series_limit: bool = True,
    check: bool = True,
    through: Any = None,
    buffers: Any = None,
    batches: Sequence[Any] | None = None,
    jumps: int = 2,
    checkpoint: Any = None,
) -> Trajectory:
    """Integrate a modified equation on a problem.

    It is integrated in the kind of array in which the problem computes: a network in float32 or on a GPU stays there.

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
        How the field is evaluated; in the phase-space form, how its derivatives along the path are: written
        out ("lambdify"), by nested derivatives ("autodiff") or from gradients ("gradients"). The time-derivative
        form needs gradients alone, and takes "auto" or "gradients"; the state-space form and scheduled equations
        take nested derivatives, "auto" or "autodiff".
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
        After this many evaluations, over all steps, the flow is given up as too stiff.
    substeps : positive int, optional
        For a loss with kinks (ReLU, max pooling), at which an error-controlled step size falls without end: the
        number of steps of RK4 in each step h. Their error is not estimated: see that doubling them changes nothing.
    series_limit : bool
        Whether to refuse a `ModifiedEquation` of order ≥ 2, or a `TimeDerivativeForm` of order ≥ 3 (which
        starts on the slow manifold), if h·λ_max at the start is beyond the method's series limit. For a
        `ScheduledEquation` h is multiplied with the largest φ on the way.
    check : bool
        Whether to raise an error if the flow cannot be started or followed to the end, or to return what there
        is: the start alone with the status SERIES_DIVERGES, ILL_POSED or DIVERGED, or the points until then.
    through : array (m − 1) × d, optional
        For a `PhaseSpaceForm` with m modes: the iterates θ₁, …, θ_{m−1} after `start`, if they are not the
        method's own first ones, as in the middle of a training, with the buffers it has there.
    buffers : None, 0, or array m × d, optional
        For a `StateSpaceForm`: its buffers v₁, …, v_m at the start, if they are not the method's own first
        ones; for torch's optimizers the momentum buffer. See
        :meth:`modeq.numeric.state_space_field.StateSpaceField.start`.
    batches : sequence, optional
        What step n sees, taken in turn, as for :func:`modeq.iterate`; the whole field at all times by default. The
        flow of each step is that of its batch. From one step to the next θ is continuous, and so are the
        derivatives in a time-derivative form, the buffers in a state-space form, and in a phase-space form the
        momentum buffer, so that θ' jumps. A field on θ alone follows a method of one state only.
    jumps : int
        For a `PhaseSpaceForm` with two modes and batches: the number of terms of the jump of θ', 0 for none, 1
        for that in the gradients alone, 2 with their product with Hessians. See `VelocityJump`.
    checkpoint : path of a folder, optional
        Where finished parts are kept, and taken up again by a later call with the same arguments.

    Returns
    -------
    Trajectory
        At the times 0, h, 2h, …, `time`, for an `Epoch` at its ends; ``nfev`` counts evaluations of the form's
        right-hand side.

    Raises
    ------
    InvalidMethod, InvalidProblem, OutsideSeriesLimit, IllPosed, UnsupportedOptimizer, Diverged

    Notes
    -----
    Minibatches in a continuous equation for momentum: Lyu et al. 2025 (arXiv 2506.14806), piecewise as here.

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
    (form if isinstance(form, ExpectedEquation) else form.method).require_numbers()
    h, time = positive(h, "h"), positive(time, "time")
    require_options(form, field, initial_layer, buffers, batches, jumps)
    theta = start_on(problem, start)
    # Below the rounding of the problem's own numbers an integrator would resolve noise.
    rtol = max(positive(rtol, "rtol"), 20 * problem.epsilon)
    atol = max(positive(atol, "atol"), 2 * problem.epsilon)
    settings = FlowSettings(
        h, field, initial_layer, rtol, given_points(form, theta, through), buffers, _substeps(substeps)
    )
    keys = None if batches is None else batch_keys(form, problem, batches)
    budget = whole(max_evaluations, "max_evaluations", least=1)
    kept = (
        None if checkpoint is None else _checkpoint(checkpoint, form, problem, theta, time, settings, atol, keys, jumps)
    )
    try:
        if keys is None:
            trajectory = _one_field(form, problem, theta, time, settings, atol, budget, series_limit, kept)
        else:
            assert not isinstance(form, ExpectedEquation | ScheduledForm)  # batch_keys refuses them
            steps = whole_steps(h, time)
            if series_limit and has_series_limit(form):
                require_series_limit(form.method, problem.of_batch(keys[0]), theta, h)
            trajectory = minibatch_flow(form, problem, theta, keys, steps, settings, jumps, atol, budget, kept)
    except (OutsideSeriesLimit, IllPosed, Diverged) as error:
        if check:
            raise
        status = next(status for kind, status in _REFUSALS.items() if isinstance(error, kind))
        return Trajectory(np.zeros(1), theta[None, :], 0, status, str(error), repr(form))
    return trajectory.checked() if check else trajectory


_REFUSALS = {
    OutsideSeriesLimit: Status.SERIES_DIVERGES,
    IllPosed: Status.ILL_POSED,
    Diverged: Status.DIVERGED,
}


def _one_field(
    form: Form,
    problem: Problem,
    theta: Vector,
    time: float,
    settings: FlowSettings,
    atol: float,
    max_evaluations: int,
    series_limit: bool,
    checkpoint: Checkpoint | None,
) -> Trajectory:
    """The flow of the whole field."""
    if isinstance(form, ExpectedEquation):
        assert form.epoch is not None
        method, steps = form.epoch.method, form.batches
    else:
        method, steps = form.method, form.method.steps
    h = settings.h
    if series_limit and has_series_limit(form):
        require_series_limit(method, problem, theta, h, epoch=steps > 1)
    times = time_grid(h * int(steps), time)
    if settings.substeps is not None:
        settings = replace(settings, substeps=settings.substeps * int(steps))
    if isinstance(form, ScheduledForm):
        system = scheduled_system(form, problem, theta, h, times, settings.initial_layer, series_limit)
        system = replace(system, substeps=settings.substeps)
    else:
        system = first_order_system(form, problem, theta, settings)
    return integrate(system, times, problem.size, settings.rtol, atol, max_evaluations, checkpoint)


def _substeps(substeps: Any) -> int | None:
    return None if substeps is None else whole(substeps, "substeps", least=1)


def _checkpoint(
    path: Any,
    form: Form,
    problem: Problem,
    theta: Vector,
    time: float,
    settings: FlowSettings,
    atol: float,
    keys: Sequence[Any] | None,
    jumps: int,
) -> Checkpoint:
    """The folder `path` with all that the flow depends on as its key; f(θ₀) stands for the loss and its data."""
    key = fingerprint(
        form=form,
        problem=problem,
        theta=theta,
        field=problem.field(theta),
        time=time,
        atol=atol,
        points=settings.points,
        buffers=settings.buffers,
        settings=replace(settings, points=None, buffers=None),
    )
    if keys is not None:
        seen = "".join(fingerprint(key=key)["key"] for key in keys)
        key |= fingerprint(batches=np.frombuffer(seen.encode(), np.uint8), jumps=jumps)
    return Checkpoint(path, key)
