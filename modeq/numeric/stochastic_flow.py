"""Paths of the stochastic model on minibatches drawn with replacement."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp

from modeq.errors import InvalidProblem, OutsideSeriesLimit
from modeq.numeric.curvature import require_series_limit
from modeq.numeric.fields import FieldName, modified_field, series_value
from modeq.numeric.paths import (
    Array,
    Paths,
    Recorder,
    elementwise,
    generator_of,
    given_numbers,
    require_batches,
    stacked,
)
from modeq.numeric.protocol import Problem, Vector, positive, start_on, time_grid, whole
from modeq.numeric.symbolic_problems import WrittenOut
from modeq.symbolic.stochastic import StochasticEquation


def simulate(
    equation: StochasticEquation,
    problem: Problem,
    start: Any = None,
    *,
    h: float,
    time: float,
    paths: int,
    rng: Any = None,
    increments: Any = None,
    substeps: int = 1,
    every: int = 1,
    field: FieldName = "auto",
    initial_layer: bool | int = True,
    series_limit: bool = True,
) -> Paths:
    """Simulate paths of the stochastic model on a problem with minibatches.

    The noise is √h b₁ m^(−1/2) Σ_k (f_k(θ) − f̄(θ)) dW_k with one Brownian motion for each of the m batches: it has
    the covariance h b₁² Σ without a root of Σ, and where all f_k obey a symmetry, so does it.

    Parameters
    ----------
    equation : StochasticEquation
        With numbers for the symbols of its method.
    problem : SymbolicProblem with a list of losses, or TorchProblem with batches
        f̄ is the mean of the batches' fields, each batch with the same weight.
    start : θ₀ in a form the problem takes, the same for all paths
    h : positive number
        The learning rate.
    time : positive number
        The end, in units of h·n.
    paths : positive int
        How many; on a written-out problem all at once, else one after the other.
    rng : None, seed, or numpy random generator, optional
    increments : array (steps·substeps) × paths × m, optional
        Standard normal numbers to use in place of `rng`; W_k moves by their product with the root of the substep.
    substeps : positive int
        Of the integrator, for each optimizer step.
    every : positive int
        Steps between two recorded times; the start and the end are always recorded.
    field : see :func:`modeq.numeric.fields.modified_field`
        How the drift is evaluated.
    initial_layer : bool or int
        True: to start where the optimizer's own first step puts the mean, to the order of the equation. False: at θ₀.
        0 or 1: the highest power of h in the way from θ₀ to that start.
    series_limit : bool
        Whether to refuse a model of order 2 if h·λ_max at the start is beyond the method's series limit.

    Returns
    -------
    Paths

    Raises
    ------
    InvalidMethod, InvalidProblem, OutsideSeriesLimit, Diverged

    Notes
    -----
    Strang splitting: half a step of the drift by the classical Runge–Kutta method, one step of the noise by
    Euler–Maruyama, half a step of the drift. With a step dt the generators are D of size 1 and N of size h, so that
    the weak error is O(dt⁴) of the drift alone, O(h dt²) of the commutators with two D and one N, and O(h² dt) of
    Euler–Maruyama: for dt = h all are O(h³), below the model's own error O(hᵖ). Source for the splitting of
    stochastic equations: Milstein, Tretyakov, *Stochastic Numerics for Mathematical Physics*, 2004.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem([(x - 1) ** 2 / 2, (x + 1) ** 2 / 2], [x])
    >>> model = mq.stochastic_equation(mq.GradientDescent(), order=2)
    >>> end = simulate(model, problem, [3.0], h=0.1, time=10.0, paths=4000, rng=0, every=100)
    >>> bool(abs(end.std[-1, 0] - np.sqrt(0.1 / 2 / 1.05)) < 0.01)
    True
    """
    if not isinstance(equation, StochasticEquation):
        raise InvalidProblem(f"{equation!r} is no stochastic equation: give stochastic_equation(method, order)")
    equation.method.require_numbers()
    require_batches(problem)
    h, paths = positive(h, "h"), whole(paths, "paths", least=1)
    substeps, every = whole(substeps, "substeps", least=1), whole(every, "every", least=1)
    times = time_grid(h, positive(time, "time"))
    power = _layer_power(initial_layer, equation.order)
    normal = _normal_numbers((len(times) - 1) * substeps, paths, problem.parts, rng, increments)
    mean: Any = problem if isinstance(problem, WrittenOut) else _MeanOfBatches(problem)
    theta = start_on(problem, start)
    if series_limit and equation.order > 1:
        _require_series_limit(equation, mean, theta, h)
    theta = theta + series_value(equation.drift.initial_layer(power), mean, theta, h)
    drift, fields = _drift(equation, mean, h, field), _batch_fields(problem)
    scale = float(equation.noise) * np.sqrt(h / problem.parts)
    recorder = Recorder(times, every, f"stochastic model of order {equation.order} of {equation.method}")
    Y = np.repeat(theta[:, None], paths, axis=1)
    recorder(0, Y)
    with np.errstate(over="ignore", invalid="ignore"):
        for n, dt in enumerate(np.diff(times) / substeps):
            for k in range(substeps):
                Y = _runge_kutta_step(drift, Y, dt / 2)
                F = fields(Y)
                Y = Y + scale * np.sqrt(dt) * np.einsum("kdp,pk->dp", F - F.mean(axis=0), normal(n * substeps + k))
                Y = _runge_kutta_step(drift, Y, dt / 2)
            recorder(n + 1, Y)
    return recorder.paths()


def _layer_power(initial_layer: bool | int, order: int) -> int:
    if not isinstance(initial_layer, bool | int) or initial_layer not in (0, 1):
        raise InvalidProblem(f"initial_layer is {initial_layer!r}: give True, False, or the highest power of h, 0 or 1")
    return order - 1 if initial_layer is True else int(initial_layer)


def _require_series_limit(equation: StochasticEquation, mean: Problem, theta: Vector, h: float) -> None:
    try:
        require_series_limit(equation.method, mean, theta, h)
    except OutsideSeriesLimit as error:  # whose advice is of deterministic forms
        found = str(error).partition("; use ")[0]
        raise OutsideSeriesLimit(f"{found}; use order=1, a smaller h, or series_limit=False") from None


class _MeanOfBatches:
    """The mean of the fields of a problem's batches, as a problem of one part.

    The loss on the full data is another if batches overlap, leave samples out or differ in size, and with batch norm.
    """

    parts = 1

    def __init__(self, problem: Problem) -> None:
        self.problem, self.size, self.epsilon = problem, problem.size, problem.epsilon

    def start(self, start: Any = None) -> Vector:
        return self.problem.start(start)

    def field(self, theta: Vector, part: int | None = None) -> Vector:
        return self.derivative(theta, ())

    def derivative(self, theta: Vector, vectors: Any, part: int | None = None) -> Vector:
        batches = range(self.problem.parts)
        return np.mean([self.problem.derivative(theta, vectors, part=k) for k in batches], axis=0)


def _normal_numbers(count: int, paths: int, parts: int, rng: Any, increments: Any) -> Callable[[int], Array]:
    """A function of the substep: paths × parts standard normal numbers."""
    if increments is None:
        generator = generator_of(rng)
        return lambda n: generator.standard_normal((paths, parts))
    return given_numbers(increments, "increments", rng, (count, paths, parts)).__getitem__


def _batch_fields(problem: Problem) -> Callable[[Array], Array]:
    if isinstance(problem, WrittenOut):
        return elementwise(problem.part_expressions, problem.variables)
    parts = range(problem.parts)
    return lambda Y: np.stack([[problem.field(theta, part=k) for k in parts] for theta in Y.T], axis=-1)


def _drift(equation: StochasticEquation, mean: Problem, h: float, field: FieldName) -> Callable[[Array], Array]:
    if isinstance(mean, WrittenOut) and field in ("auto", "lambdify"):
        written = equation.drift.on(list(mean.field_expressions), mean.variables, h=sp.Dummy("h"))
        code = written.lambdify()
        return lambda Y: stacked(code(Y, h), Y)
    one = modified_field(equation.drift, mean, h, field)
    return lambda Y: np.stack([one(theta) for theta in Y.T], axis=1)


def _runge_kutta_step(field: Callable[[Array], Array], y: Array, dt: float) -> Array:
    k1 = field(y)
    k2 = field(y + dt / 2 * k1)
    k3 = field(y + dt / 2 * k2)
    k4 = field(y + dt * k3)
    return y + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
