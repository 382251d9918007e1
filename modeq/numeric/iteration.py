"""The discrete optimizer: the real torch one where there is one, else the general linear method in numpy."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import NoConvergence, newton_krylov

from modeq.errors import Diverged, InvalidProblem, UnsupportedOptimizer
from modeq.methods.base import GeneralLinearMethod, require_method
from modeq.numeric.colours import ColourFields
from modeq.numeric.protocol import Problem, Vector, positive, whole
from modeq.numeric.torch_problem import TorchProblem
from modeq.numeric.trajectory import Trajectory

Schedule = float | Callable[[int], float]


def iterate(
    method: GeneralLinearMethod,
    problem: Problem,
    start: Any = None,
    *,
    h: Schedule,
    steps: int,
    batches: Sequence[Any] | None = None,
    check: bool = True,
) -> Trajectory:
    """Run the optimizer itself.

    On a `TorchProblem` a method that torch has (gradient descent, heavy ball, Nesterov, with coupled
    weight decay) is run by torch.optim.SGD on a copy of the module; every other case by the general
    linear method in float64.

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
    check : bool
        Whether to raise `Diverged` if the parameters leave the finite numbers, or to return what there is.

    Returns
    -------
    Trajectory
        θ₀, …, θ_steps at the times h·n, for n a multiple of ``method.steps``.

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
    theta = problem.start(start)
    batches = problem.checked_batches(batches)
    if isinstance(problem, TorchProblem) and method.sgd is not None:
        return _checked(_iterate_torch(method, problem, theta, rates, batches), check)
    return _checked(_iterate_method(method, problem, theta, rates, batches), check)


def learning_rates(h: Schedule, steps: int) -> list[float]:
    """Return h at each step, after a check."""
    steps = whole(steps, "steps", least=0)
    if not callable(h):
        return [positive(h, "the learning rate h")] * steps
    return [positive(h(n), f"the learning rate h({n})") for n in range(steps)]


def _checked(trajectory: Trajectory, check: bool) -> Trajectory:
    return trajectory.checked() if check else trajectory


def _result(points: list[Vector], rates: list[float], gradients: int, name: str, steps: int = 1) -> Trajectory:
    """Cut the trajectory before the first point that is not finite; between two points are so many steps."""
    y = np.array(points)
    constant = len(set(rates)) == 1
    t = np.arange(len(rates) + 1) * steps * rates[0] if constant else steps * np.cumsum([0.0, *rates])
    finite = np.all(np.isfinite(y), axis=1)
    if np.all(finite) and len(y) == len(t):
        return Trajectory(t, y, gradients, 0, "reached the last step", name)
    end = int(np.argmin(finite)) if not np.all(finite) else len(y)
    message = f"the parameters are not finite after step {end}; use a smaller learning rate than {max(rates):g}"
    return Trajectory(t[:end], y[:end], gradients, -1, message, name)


def _iterate_torch(
    method: GeneralLinearMethod, problem: TorchProblem, theta: Vector, rates: list[float], batches: Sequence[Any] | None
) -> Trajectory:
    assert method.sgd is not None
    module = problem.torch_module(theta)
    options = {key: value if isinstance(value, bool) else float(value) for key, value in method.sgd.items()}
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=rates[0] if rates else 1.0, **options)
    points = [theta]
    for n, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        inputs, targets = problem.data(batches[n % len(batches)] if batches else None)
        problem.loss_function(module(inputs), targets).backward()
        optimizer.step()
        points.append(problem.flat_parameters(module))
        if not np.all(np.isfinite(points[-1])):
            break
    return _result(points, rates, len(points) - 1, f"torch.optim.SGD as {method}")


def _iterate_method(
    method: GeneralLinearMethod, problem: Problem, theta: Vector, rates: list[float], batches: Sequence[Any] | None
) -> Trajectory:
    A, B, C, D, readout, start, u = (
        np.array(m.tolist(), dtype=np.float64)
        for m in (method.A, method.B, method.C, method.D, method.readout, method.start, method.preconsistency)
    )
    fields = _colour_fields(method, problem, batches)
    X = u * theta
    rates = rates[:: method.steps]
    if method.step_powers is None and len(set(rates)) > 1:
        raise UnsupportedOptimizer(f"{method} has no rule for a changing learning rate: give a constant h")
    powers = np.array(method.step_powers or [0] * method.state_count)[:, None]
    if rates:
        for colour in range(method.colour_count):
            if method.start.col(colour).is_zero_matrix is not True:
                X = X + rates[0] * np.outer(start[:, colour], fields[colour](theta, 0))
    points, gradients = [theta], 0
    queried = [j for j, c in enumerate(method.colours) if c not in method.decay]
    with np.errstate(over="ignore", invalid="ignore"):
        for n, h in enumerate(rates):
            if n and h != rates[n - 1]:
                X *= (h / rates[n - 1]) ** powers
            if method.query_order is None:
                F, sweeps = _implicit_gradients(method, fields, C @ X, h * D, n)
                gradients += sweeps * len(queried)
            else:
                F = np.zeros((method.query_count, theta.size))
                for i in method.query_order:
                    F[i] = fields[method.colours[i]](C[i] @ X + h * (D[i] @ F), n)
                gradients += len(queried)
            X = A @ X + h * (B @ F)
            points.append((readout @ X)[0])
            if not np.all(np.isfinite(points[-1])):
                break
    return _result(points, rates, gradients, str(method), method.steps)


def _implicit_gradients(
    method: GeneralLinearMethod, fields: list[Callable[[Vector, int], Vector]], known: Vector, hD: Vector, n: int
) -> tuple[Vector, int]:
    """Solve y = known + hD f(y) to rounding: by sweeps, and where they do not contract by Newton–Krylov."""
    sweeps = 0

    def evaluate(y: Vector) -> Vector:
        nonlocal sweeps
        sweeps += 1
        return np.array([fields[c](row, n) for c, row in zip(method.colours, y, strict=True)])

    y, change = known, np.inf
    for _ in range(200):
        updated = known + hD @ evaluate(y)
        previous, change = change, float(np.max(abs(updated - y)))
        y = updated
        if change <= 4e-16 * np.max(abs(y)) or not change < previous:
            break
    rounding = 1e-13 * max(1.0, float(np.max(abs(y)))) if np.all(np.isfinite(y)) else 0.0
    if not change <= rounding:
        try:
            y = newton_krylov(lambda y: y - known - hD @ evaluate(y), known, f_tol=1e-12, maxiter=200)
        except (NoConvergence, ValueError) as error:
            raise Diverged(
                f"{method}: the implicit equation of step {n} could not be solved; use a smaller learning rate"
            ) from error
    return evaluate(y), sweeps


def _colour_fields(
    method: GeneralLinearMethod, problem: Problem, batches: Sequence[Any] | None
) -> list[Callable[[Vector, int], Vector]]:
    """For each colour a function of θ and the step n."""
    fields = ColourFields(method, problem)

    def seen(colour: int) -> Callable[[Vector, int], Vector]:
        if batches and colour in fields.parts and len(fields.parts) == 1:
            return lambda theta, n: problem.of_batch(batches[n % len(batches)]).field(theta)
        return lambda theta, n: fields(colour, theta)

    return [seen(colour) for colour in range(method.colour_count)]
