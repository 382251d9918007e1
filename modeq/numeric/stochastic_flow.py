"""Paths of the stochastic model, and of the optimizer that it models, on minibatches drawn with replacement."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from modeq.errors import Diverged, InvalidProblem
from modeq.methods.base import GeneralLinearMethod
from modeq.numeric.fields import FieldName, modified_field, series_value
from modeq.numeric.flows import require_series_limit
from modeq.numeric.iteration import iterate
from modeq.numeric.protocol import Problem, Vector, positive, time_grid, whole
from modeq.numeric.symbolic_problems import VectorField, WrittenOut
from modeq.numeric.torch_problem import TorchProblem
from modeq.symbolic.stochastic import StochasticEquation, field_colour

Array = NDArray[np.float64]  # d × paths inside of this module


@dataclass(frozen=True, repr=False)
class Paths:
    """Random paths of the parameters.

    Attributes
    ----------
    t : array (times,), in units of h·n
    y : array (times, paths, parameters)
    name : what was computed

    Examples
    --------
    >>> paths = Paths(np.array([0.0]), np.array([[[1.0], [3.0]]]), "two points")
    >>> paths.mean.tolist(), paths.std.tolist(), paths
    ([[2.0]], [[1.0]], Paths(two points, 2 paths to t = 0))
    """

    t: Array
    y: Array
    name: str

    @property
    def mean(self) -> Array:
        """The mean over the paths, times × parameters."""
        return self.y.mean(axis=1)

    @property
    def std(self) -> Array:
        """The standard deviation over the paths, times × parameters."""
        return self.y.std(axis=1)

    def expectation(self, observable: Callable[[Array], Array]) -> tuple[Array, Array]:
        """Return the mean of φ(θ) over the paths, and its standard error, at each time.

        Parameters
        ----------
        observable : function of θ, an array whose last axis counts the parameters, to an array without it

        Examples
        --------
        >>> paths = Paths(np.array([0.0]), np.array([[[1.0], [3.0]]]), "two points")
        >>> [value.tolist() for value in paths.expectation(lambda theta: theta[..., 0] ** 2)]
        [[5.0], [2.82842712474619]]
        """
        values = observable(self.y)
        return values.mean(axis=1), values.std(axis=1) / np.sqrt(self.y.shape[1])

    def __repr__(self) -> str:
        return f"Paths({self.name}, {self.y.shape[1]} paths to t = {self.t[-1]:.6g})"


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
    initial_layer: bool = True,
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
    initial_layer : bool
        Whether to start where the optimizer's own first step puts the mean, to the order of the equation, or at θ₀.
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
    Euler–Maruyama: for dt = h all are O(h³), below the model's own error O(hᵖ). Splitting of stochastic equations:
    Milstein, Tretyakov, *Stochastic Numerics for Mathematical Physics* (2004).

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
    _require_batches(problem)
    h, paths = positive(h, "h"), whole(paths, "paths", least=1)
    substeps, every = whole(substeps, "substeps", least=1), whole(every, "every", least=1)
    times = time_grid(h, positive(time, "time"))
    normal = _normal_numbers((len(times) - 1) * substeps, paths, problem.parts, rng, increments)
    mean = problem if isinstance(problem, WrittenOut) else _MeanOfBatches(problem)
    theta = problem.start(start)
    if series_limit and equation.order > 1:
        require_series_limit(equation.method, mean, theta, h)
    if initial_layer:
        theta = theta + series_value(equation.drift.initial_layer(), mean, theta, h)
    drift, fields = _drift(equation, mean, h, field), _batch_fields(problem)
    scale = float(equation.noise) * np.sqrt(h / problem.parts)
    recorder = _Recorder(times, every, f"stochastic model of order {equation.order} of {equation.method}")
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


def sample_iterates(
    method: GeneralLinearMethod,
    problem: Problem,
    start: Any = None,
    *,
    h: float,
    steps: int,
    paths: int,
    rng: Any = None,
    choices: Any = None,
    every: int = 1,
) -> Paths:
    """Run the optimizer itself along many paths, each step on a batch drawn with replacement.

    Parameters
    ----------
    method : GeneralLinearMethod
        With one field, besides weight decay, and numbers for its symbols. All queries of a step see one batch.
    problem : SymbolicProblem with a list of losses, or TorchProblem with batches
    start : θ₀ in a form the problem takes, the same for all paths
    h : positive number
        The learning rate.
    steps, paths : positive int
    rng : None, seed, or numpy random generator, optional
    choices : array of int, steps × paths, optional
        Which batch each step sees, from 0, in place of `rng`.
    every : positive int
        Steps between two recorded times; the start and the end are always recorded.

    Returns
    -------
    Paths

    Raises
    ------
    InvalidMethod, InvalidProblem, Diverged

    Examples
    --------
    All four ways to draw from two batches in two steps:

    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem([x**2 / 2, x**2], [x])
    >>> four = [[0, 0, 1, 1], [0, 1, 0, 1]]
    >>> sample_iterates(mq.GradientDescent(), problem, [4.0], h=0.25, steps=2, paths=4, choices=four).y[-1].ravel()
    array([2.25, 1.5 , 1.5 , 1.  ])
    """
    field_colour(method)
    method.require_numbers()
    _require_batches(problem)
    h, steps, paths = positive(h, "h"), whole(steps, "steps", least=1), whole(paths, "paths", least=1)
    recorder = _Recorder(h * np.arange(steps + 1), whole(every, "every", least=1), str(method))
    drawn = _choices(steps, paths, problem.parts, rng, choices)
    theta = problem.start(start)
    if isinstance(problem, WrittenOut) and method.is_explicit:
        _sample_all(method, problem, theta, h, drawn, recorder)
        return recorder.paths()
    points = []
    for path in drawn.T.tolist():
        batches = [problem.batches[k] for k in path] if isinstance(problem, TorchProblem) else path
        points.append(iterate(method, problem, theta, h=h, steps=steps, batches=batches, check=False).y)
    for n in range(steps + 1):
        recorder(n, np.array([y[n] if n < len(y) else np.full(theta.size, np.nan) for y in points]).T)
    return recorder.paths()


def _sample_all(
    method: GeneralLinearMethod, problem: WrittenOut, theta: Vector, h: float, drawn: NDArray[np.int64], recorder: Any
) -> None:
    """Run an explicit method along all paths at once; the states X are an array states × d × paths."""
    A, B, C, D, readout, start, u = (
        np.array(m.tolist(), dtype=np.float64)
        for m in (method.A, method.B, method.C, method.D, method.readout, method.start, method.preconsistency)
    )
    decay = {colour: float(rate) for colour, rate in method.decay.items()}
    parts = [_elementwise([part], problem.variables) for part in problem.part_expressions]

    def value(colour: int, Y: Array, chosen: NDArray[np.int64]) -> Array:
        if colour in decay:
            return -decay[colour] * Y
        F = np.empty_like(Y)
        for k, part in enumerate(parts):
            seen = chosen == k
            F[:, seen] = part(Y[:, seen])[0]
        return F

    paths = drawn.shape[1]
    Y = np.repeat(theta[:, None], paths, axis=1)
    recorder(0, Y)
    X = u[:, :, None] * Y + h * sum(
        start[:, colour, None, None] * value(colour, Y, drawn[0]) for colour in range(method.colour_count)
    )
    with np.errstate(over="ignore", invalid="ignore"):
        for n, chosen in enumerate(drawn):
            F = np.zeros((method.query_count, theta.size, paths))
            for i in method.query_order:
                query = np.tensordot(C[i], X, 1) + h * np.tensordot(D[i], F, 1)
                F[i] = value(method.colours[i], query, chosen)
            X = np.tensordot(A, X, 1) + h * np.tensordot(B, F, 1)
            recorder(n + 1, np.tensordot(readout[0], X, 1))


class _Recorder:
    """What is kept of paths as they run; a path that is not finite any more stops all of them."""

    def __init__(self, times: Array, every: int, name: str) -> None:
        self.times, self.every, self.name = times, every, name
        self.kept: list[tuple[float, Array]] = []

    def __call__(self, n: int, Y: Array) -> None:
        finite = np.all(np.isfinite(Y), axis=0)
        if not np.all(finite):
            raise Diverged(
                f"{self.name}: {np.sum(~finite)} of {Y.shape[1]} paths left the finite numbers in step {n}, number "
                f"{np.argmin(finite)} among them; use a smaller learning rate",
                self.paths(),
            )
        if n % self.every == 0 or n == len(self.times) - 1:
            self.kept.append((self.times[n], Y.T))

    def paths(self) -> Paths:
        return Paths(np.array([t for t, _ in self.kept]), np.array([y for _, y in self.kept]), self.name)


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


def _require_batches(problem: Problem) -> None:
    if isinstance(problem, VectorField):
        raise InvalidProblem(f"{problem!r} has no minibatches: give a SymbolicProblem with a list of losses")
    if problem.parts == 1:
        raise InvalidProblem(
            f"{problem!r} has one batch, and so no noise: give a list of losses, or batches=, or use flow and iterate"
        )


def _generator(rng: Any) -> np.random.Generator:
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise InvalidProblem(f"rng is {rng!r}: give a seed from 0, a numpy random generator, or None") from error


def _given(values: Any, argument: str, rng: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    if rng is not None:
        raise InvalidProblem(f"both rng and {argument} are given: leave one of them out")
    array = np.asarray(values)
    if array.shape != shape or array.dtype.kind not in "iuf" or not np.all(np.isfinite(array)):
        raise InvalidProblem(f"{argument} has shape {array.shape} and dtype {array.dtype}: give {shape} finite numbers")
    return array


def _normal_numbers(count: int, paths: int, parts: int, rng: Any, increments: Any) -> Callable[[int], Array]:
    """A function of the substep: paths × parts standard normal numbers."""
    if increments is None:
        generator = _generator(rng)
        return lambda n: generator.standard_normal((paths, parts))
    return _given(increments, "increments", rng, (count, paths, parts)).__getitem__


def _choices(steps: int, paths: int, parts: int, rng: Any, choices: Any) -> NDArray[np.int64]:
    if choices is None:
        return _generator(rng).integers(parts, size=(steps, paths))
    array = _given(choices, "choices", rng, (steps, paths))
    if array.dtype.kind == "f" or array.min() < 0 or array.max() >= parts:
        raise InvalidProblem(f"choices go from {array.min()} to {array.max()}: give integers from 0 to {parts - 1}")
    return array


def _elementwise(parts: Any, variables: Any) -> Callable[[Array], Array]:
    """A function from θ, d × paths, to an array parts × d × paths of fields given as expressions."""
    code = sp.lambdify([list(variables)], [component for part in parts for component in part], cse=True)
    return lambda Y: _stacked(code(Y), Y).reshape(len(parts), *Y.shape)


def _stacked(components: list[Any], Y: Array) -> Array:
    """Components that are constant have lost the axis of the paths."""
    return np.array([np.broadcast_to(component, Y.shape[1:]) for component in components], dtype=np.float64)


def _batch_fields(problem: Problem) -> Callable[[Array], Array]:
    if isinstance(problem, WrittenOut):
        return _elementwise(problem.part_expressions, problem.variables)
    parts = range(problem.parts)
    return lambda Y: np.stack([[problem.field(theta, part=k) for k in parts] for theta in Y.T], axis=-1)


def _drift(equation: StochasticEquation, mean: Problem, h: float, field: FieldName) -> Callable[[Array], Array]:
    if isinstance(mean, WrittenOut) and field in ("auto", "lambdify"):
        written = equation.drift.on(list(mean.field_expressions), mean.variables, h=sp.Dummy("h"))
        code = written.lambdify()
        return lambda Y: _stacked(code(Y, h), Y)
    one = modified_field(equation.drift, mean, h, field)
    return lambda Y: np.stack([one(theta) for theta in Y.T], axis=1)


def _runge_kutta_step(field: Callable[[Array], Array], y: Array, dt: float) -> Array:
    k1 = field(y)
    k2 = field(y + dt / 2 * k1)
    k3 = field(y + dt / 2 * k2)
    k4 = field(y + dt * k3)
    return y + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
