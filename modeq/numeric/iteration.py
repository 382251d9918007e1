"""The discrete optimizer: the real torch one where there is one, else the general linear method itself."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from modeq.errors import InvalidProblem, UnsupportedOptimizer
from modeq.methods.base import GeneralLinearMethod, require_method
from modeq.numeric.method_steps import MethodSteps, NotFinite, TorchSteps, as_numbers
from modeq.numeric.protocol import Problem, Vector, positive, start_on, whole
from modeq.numeric.torch_problem import TorchProblem
from modeq.numeric.trajectory import Status, Trajectory

Schedule = float | Callable[[int], float]


def iterate(
    method: GeneralLinearMethod,
    problem: Problem,
    start: Any = None,
    *,
    h: Schedule,
    steps: int,
    batches: Sequence[Any] | None = None,
    every: int = 1,
    check: bool = True,
) -> Trajectory:
    """Run the optimizer itself.

    On a `TorchProblem` a method that torch has (gradient descent, heavy ball, Nesterov, with coupled
    weight decay) is run by torch.optim.SGD on a copy of the module; every other case by the general
    linear method, in the numbers and on the device that the problem computes with (an implicit one in float64).

    Parameters
    ----------
    method : GeneralLinearMethod
        With numbers for its symbols. The queries of an implicit one are solved for to rounding.
    problem, start : the problem, and a start in a form it takes
    h : positive number, or function of the step n
        The learning rate.
    steps : int from 0
        A multiple of ``method.steps``: whole epochs, for instance.
    batches : sequence, optional
        What step n sees, taken in turn: index tensors on a `TorchProblem`, numbers of the losses on a
        `SymbolicProblem` with several. The problem's own batches, one after the other, by default. Not for a
        method with as many fields as batches (`Epoch`), which has those of the problem as its colours.
    every : positive integer
        Keep the points of every so many applications of the method, and the last.
    check : bool
        Whether to raise `Diverged` if the parameters or a gradient leave the finite numbers, or to return what
        there is until then: its `status` and `message` say what happened, in which step and which parameter.

    Returns
    -------
    Trajectory
        θ₀, …, θ_steps at the times h·n, for n a multiple of ``method.steps`` and of `every` times that. Status
        ``NON_FINITE_GRADIENT`` if a gradient is not finite at parameters that are finite, and not a thousand times
        larger than the start; ``DIVERGED`` if the parameters left the finite numbers, or run away so far.

    Raises
    ------
    InvalidMethod, InvalidProblem, UnsupportedOptimizer, Diverged

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
    >>> iterate(mq.HeavyBall(momentum=0.5), problem, [1.0], h=0.5, steps=2).y.ravel().tolist()
    [1.0, 0.5, 0.0]
    >>> iterate(mq.HeavyBall(momentum=0.5), problem, [1.0], h=0.5, steps=5, every=2).t.tolist()
    [0.0, 1.0, 2.0, 2.5]
    """
    require_method(method)
    method.require_numbers()
    if batches is not None and method.colour_count - len(method.decay) > 1:
        raise InvalidProblem(
            f"batches are {batches!r}: {method} has the batches or players of the problem as its colours, in their "
            "order; leave batches out, and order those of the problem"
        )
    rates = learning_rates(h, steps)
    if len(rates) % method.steps or any(rate != rates[n - n % method.steps] for n, rate in enumerate(rates)):
        raise InvalidProblem(
            f"steps is {steps}: {method} counts {method.steps} steps in one application, give a multiple of that and a "
            "learning rate that is constant within each"
        )
    theta = start_on(problem, start)
    every = whole(every, "every", least=1)
    batches = problem.checked_batches(batches)
    if isinstance(problem, TorchProblem) and method.sgd is not None:
        trajectory = _iterate_torch(method, problem, theta, rates, batches, every)
    else:
        trajectory = _iterate_method(method, problem, theta, rates, batches, every)
    return trajectory.checked() if check else trajectory


def learning_rates(h: Schedule, steps: int) -> list[float]:
    """Return h at each step, after a check.

    Examples
    --------
    >>> learning_rates(lambda n: 0.1 / (n + 1), 2)
    [0.1, 0.05]
    """
    steps = whole(steps, "steps", least=0)
    if not callable(h):
        return [positive(h, "the learning rate h")] * steps
    return [positive(h(n), f"the learning rate h({n})") for n in range(steps)]


def _iterate_torch(
    method: GeneralLinearMethod,
    problem: TorchProblem,
    theta: Vector,
    rates: list[float],
    batches: Sequence[Any] | None,
    every: int = 1,
) -> Trajectory:
    run = TorchSteps(method, problem, theta, batches, rates[0] if rates else 1.0)
    return _recorded(run, problem, theta, rates, every, 1, f"torch.optim.SGD as {method}")


def _iterate_method(
    method: GeneralLinearMethod,
    problem: Problem,
    theta: Vector,
    rates: list[float],
    batches: Sequence[Any] | None,
    every: int = 1,
) -> Trajectory:
    rates = rates[:: method.steps]
    if method.step_powers is None and len(set(rates)) > 1:
        raise UnsupportedOptimizer(f"{method} has no rule for a changing learning rate: give a constant h")
    run = MethodSteps(method, problem, theta, batches, rates[0] if rates else 0.0)
    return _recorded(run, problem, theta, rates, every, method.steps, str(method))


def _recorded(
    run: MethodSteps | TorchSteps,
    problem: Problem,
    theta: Vector,
    rates: list[float],
    every: int,
    steps: int,
    name: str,
) -> Trajectory:
    """Keep every so many points, and the last, until one is not finite; between two points are so many steps."""
    count = len(rates)
    kept = np.unique([*range(0, count + 1, every), count])
    y = np.empty((len(kept), theta.size))
    y[0], points, status, message = theta, 1, Status.DONE, "reached the last step"
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for n, h in enumerate(rates, start=1):
            try:
                point = run.step(n - 1, h)
            except NotFinite as stop:
                status, message = _failure(stop, problem, n * steps, max(rates))
                break
            if n == kept[points]:
                y[points] = as_numbers(point)
                points += 1
    constant = len(set(rates)) == 1
    t = np.arange(count + 1) * steps * rates[0] if constant else steps * np.cumsum([0.0, *rates])
    return Trajectory(t[kept[:points]], y[:points], run.gradients, status, message, name)


def _failure(stop: NotFinite, problem: Problem, step: int, h: float) -> tuple[Status, str]:
    label = problem.label(stop.index)
    if stop.gradient:
        return Status.NON_FINITE_GRADIENT, (
            f"the gradient in step {step} is not finite, first in {label}, at parameters that are: look for a division "
            "by 0, a logarithm or a root at 0, or data that are not finite"
        )
    return Status.DIVERGED, (
        f"the parameters are not finite after step {step}, first {label}; use a smaller learning rate than {h:g}"
    )
