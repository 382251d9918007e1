"""Flows that see another minibatch at each step, as the optimizer does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from modeq.errors import Diverged
from modeq.numeric.arrays import namespace
from modeq.numeric.checkpoints import Checkpoint
from modeq.numeric.flow_settings import AutonomousForm, FlowSettings
from modeq.numeric.flow_systems import RightHandSide, first_order_system, right_hand_side
from modeq.numeric.integration import System, integrate
from modeq.numeric.method_steps import as_numbers
from modeq.numeric.native_states import native_state
from modeq.numeric.protocol import Problem, Vector
from modeq.numeric.state_space_field import StateSpaceField
from modeq.numeric.symbolic_problems import WrittenOut
from modeq.numeric.trajectory import Status, Trajectory
from modeq.symbolic.phase_space import PhaseSpaceForm
from modeq.symbolic.rooted_trees import Tree
from modeq.symbolic.state_space import state_space_form

SEGMENTS = 20


def minibatch_flow(
    form: AutonomousForm,
    problem: Problem,
    theta: Vector,
    batches: Sequence[Any],
    steps: int,
    settings: FlowSettings,
    jumps: int = 2,
    atol: float = 1e-12,
    max_evaluations: int = 200_000,
    checkpoint: Checkpoint | None = None,
) -> Trajectory:
    """Integrate a form step by step, with batch n mod m on step n.

    θ is continuous. So is the rest of the state, but for the velocity of a phase-space form with two modes: with
    the buffer v continuous it jumps where the batch switches, see `VelocityJump`.

    Parameters
    ----------
    form : that `require_batch_form` accepts, with numbers
    problem, theta : the problem, and θ₀
    batches : the keys of the problem's batches
    steps : how many
    settings : those of the flow
    jumps : number of terms of the jump of a phase-space form, 0 for none
    atol, max_evaluations : of the integrator; the evaluations are counted over all steps
    checkpoint : optional, keeps some 20 segments as they are finished

    Returns
    -------
    Trajectory
        At the times 0, h, …, up to the step that failed, if one did.

    Raises
    ------
    Diverged, and what the form raises on one batch

    Examples
    --------
    Gradient descent on x²/2 and 0 in turn stands still on every second step:

    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem([x**2 / 2, 0], [x])
    >>> form = mq.phase_space_form(mq.GradientDescent(), order=6)
    >>> flowed = minibatch_flow(form, problem, np.array([1.0]), [0, 1], 4, FlowSettings(h=0.1))
    >>> flowed.y.ravel().round(6).tolist()
    [1.0, 0.9, 0.9, 0.81, 0.81]
    """
    h = settings.h
    sides = _right_hand_sides(form, problem, batches, settings)
    first = first_order_system(form, problem.of_batch(batches[0]), theta, settings, sides(0))
    first = replace(first, name=f"{first.name}, a minibatch a step")
    jump = None
    if jumps and isinstance(form, PhaseSpaceForm) and len(form.q) == 2:
        jump = VelocityJump(form, problem, batches, h, jumps, settings.rtol)
    walk = _Walk(sides, jump, first, settings.rtol, atol, max_evaluations)
    done = [] if checkpoint is None else checkpoint.segments()
    points = [as_numbers(first.start)[None, : theta.size], *(segment["y"] for segment in done)]
    n, u = sum(len(rows) for rows in points) - 1, first.start
    if done:
        u, walk.evaluations = native_state(problem, done[-1]["u"]), int(done[-1]["nfev"])
    status, message = Status.DONE, "reached the last step"
    length = -(-steps // SEGMENTS)
    while n < steps and status == Status.DONE:
        rows = np.zeros((min(length, steps - n), theta.size))
        for k in range(len(rows)):
            leg = walk.step(problem, n + k, u, h)
            if not leg.success:
                status, message, rows = Status(leg.status), walk.message(n + k, leg), rows[:k]
                break
            rows[k] = leg.y[-1][: theta.size]
            u = native_state(problem, leg.y[-1])
        points.append(rows)
        n += len(rows)
        if checkpoint is not None and status == Status.DONE:
            checkpoint.append(len(points) - 2, y=rows, u=as_numbers(u), nfev=walk.evaluations)
    times = h * np.arange(n + 1, dtype=np.float64)
    return Trajectory(times, np.concatenate(points), walk.evaluations, status, message, first.name)


@dataclass
class _Walk:
    """The integrations of single steps, and their evaluations so far."""

    sides: Callable[[int], RightHandSide]
    jump: "VelocityJump | None"
    first: System
    rtol: float
    atol: float
    limit: int
    evaluations: int = 0

    def step(self, problem: Problem, n: int, u: Any, h: float) -> Trajectory:
        """The whole state at the ends of step n."""
        if n and self.jump is not None:
            u = self.jump(u, n)
        system = replace(
            self.first, right_hand_side=self.sides(n), start=u, label=lambda index: problem.label(index % problem.size)
        )
        leg = integrate(system, np.array([0.0, h]), len(u), self.rtol, self.atol, self.limit - self.evaluations)
        self.evaluations += leg.nfev
        return leg

    def message(self, n: int, leg: Trajectory) -> str:
        if leg.status != Status.TOO_STIFF:
            return f"in step {n}: {leg.message}"
        return (
            f"given up in step {n} after {self.limit} evaluations in all: use a smaller learning rate, a larger rtol, "
            "or a larger max_evaluations, or substeps for a loss with kinks (ReLU)"
        )


class VelocityJump:
    """The velocity after a switch of the minibatch, from that before it.

    With one batch throughout, θ' = S(θ, v) is a B-series in f and in the buffer v. Steps n − 1 and n see different
    batches, but share θ and v: from S_{n−1}(θ, v) = θ' the buffer is found, by fixed-point sweeps that contract like
    h·λ, and the velocity after the switch is S_n(θ, v). For the heavy ball, with s = 1 − β, a = −ln β and κ = aβ/s,
    S = −κv + (1 − κ)/s·f + …, so that to first order θ' jumps by (1 − κ)/s·(f_n − f_{n−1}).

    Parameters
    ----------
    form : a phase-space form with two modes
    problem, batches, h : as in `minibatch_flow`
    jumps : number of terms: trees with at most so many vertices
    tolerance : relative, to which the buffer is solved for

    Raises
    ------
    UnsupportedOptimizer, NoTimeDerivativeForm

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> form, problem = mq.phase_space_form(mq.HeavyBall(0.5), 1), mq.SymbolicProblem([x, 3 * x], [x])
    >>> jump = VelocityJump(form, problem, [0, 1], h=0.1, jumps=1, tolerance=1e-10)
    >>> ((jump(np.array([0.0, 0.0]), 1) / (1 - np.log(2))).round(12) + 0.0).tolist()  # h·(1 − κ)/s·(−3 + 1)
    [0.0, -0.4]
    """

    def __init__(
        self,
        form: PhaseSpaceForm,
        problem: Problem,
        batches: Sequence[Any],
        h: float,
        jumps: int,
        tolerance: float,
    ) -> None:
        series = state_space_form(form.method, jumps)
        self.h, self.size, self.tolerance = h, problem.size, tolerance
        self.slope = -series.numbers()[0, Tree(form.method.colour_count, [])]  # of S in v
        self.velocity = _per_batch(problem, batches, lambda seen: StateSpaceField(series, seen, h).velocity)

    def __call__(self, u: Any, n: int) -> Any:
        """(θ, Dθ) at the start of step n, from its value at the end of step n − 1."""
        theta, slope = u.reshape(2, self.size)
        buffer = self._buffer(self.velocity(n - 1), theta, slope / self.h, n)
        return namespace(u).concatenate([theta, self.h * self.velocity(n)(theta, [buffer])])

    def _buffer(self, velocity: Callable[[Any, Sequence[Any]], Any], theta: Any, wanted: Any, n: int) -> Any:
        buffer, change = wanted / self.slope, np.inf
        for sweep in range(60):
            correction = (wanted - velocity(theta, [buffer])) / self.slope
            buffer = buffer + correction
            previous, change = change, float(abs(correction).max())
            size = float(abs(buffer).max())
            if change <= self.tolerance * size or (sweep > 2 and not change < previous):
                break
        if not change <= max(1e-6, self.tolerance) * size:
            raise Diverged(
                f"the buffer at step {n} cannot be found from the velocity, the sweeps do not contract at "
                f"h = {self.h:g}; use a smaller learning rate, or jumps=1"
            )
        return buffer


class _SwitchedProblem:
    """A problem whose field is that of the batch chosen last, so that what is built upon it is built once."""

    def __init__(self, problem: Problem) -> None:
        self._whole, self.seen = problem, problem
        self.size, self.epsilon, self.parts = problem.size, problem.epsilon, 1
        self.native, self.label = problem.native, problem.label

    def field(self, theta: Any) -> Any:
        return self.seen.field(theta)

    def derivative(self, theta: Any, vectors: Sequence[Any]) -> Any:
        return self.seen.derivative(theta, vectors)

    def __repr__(self) -> str:
        return repr(self._whole)


def _per_batch(problem: Problem, batches: Sequence[Any], build: Callable[[Any], Any]) -> Callable[[int], Any]:
    """The function from the step n to what is built on its batch, to be used before the next call.

    Of what is written out each batch has its own code. Else one object serves all batches, on a problem that
    switches between them: weights are computed once, and no copies of the data are kept.
    """
    if isinstance(problem, WrittenOut):
        known: dict[int, Any] = {}

        def written(n: int) -> Any:
            k = n % len(batches)
            if k not in known:
                known[k] = build(problem.of_batch(batches[k]))
            return known[k]

        return written
    switched = _SwitchedProblem(problem)
    built = build(switched)

    def chosen(n: int) -> Any:
        switched.seen = problem.of_batch(batches[n % len(batches)])
        return built

    return chosen


def _right_hand_sides(
    form: AutonomousForm, problem: Problem, batches: Sequence[Any], settings: FlowSettings
) -> Callable[[int], RightHandSide]:
    return _per_batch(problem, batches, lambda seen: right_hand_side(form, seen, settings))
