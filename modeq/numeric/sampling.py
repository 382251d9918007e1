"""Paths of the optimizer itself on minibatches drawn with replacement."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeq.errors import InvalidProblem
from modeq.methods.base import GeneralLinearMethod
from modeq.numeric.iteration import iterate
from modeq.numeric.paths import Array, Paths, Recorder, elementwise, generator_of, given_numbers, require_batches
from modeq.numeric.protocol import Problem, Vector, positive, start_on, whole
from modeq.numeric.symbolic_problems import WrittenOut
from modeq.numeric.torch_problem import TorchProblem
from modeq.symbolic.stochastic import field_colour


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
    require_batches(problem)
    h, steps, paths = positive(h, "h"), whole(steps, "steps", least=1), whole(paths, "paths", least=1)
    recorder = Recorder(h * np.arange(steps + 1, dtype=np.float64), whole(every, "every", least=1), str(method))
    drawn = _choices(steps, paths, problem.parts, rng, choices)
    theta = start_on(problem, start)
    if isinstance(problem, WrittenOut) and method.is_explicit:
        _sample_all(method, problem, theta, h, drawn, recorder)
        return recorder.paths()
    points = []
    for path in drawn.T.tolist():
        kept = problem.batches if isinstance(problem, TorchProblem) else None
        batches = path if kept is None else [kept[k] for k in path]
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
    parts = [elementwise([part], problem.variables) for part in problem.part_expressions]

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
            for i in method.query_order or ():
                query = np.tensordot(C[i], X, 1) + h * np.tensordot(D[i], F, 1)
                F[i] = value(method.colours[i], query, chosen)
            X = np.tensordot(A, X, 1) + h * np.tensordot(B, F, 1)
            recorder(n + 1, np.tensordot(readout[0], X, 1))


def _choices(steps: int, paths: int, parts: int, rng: Any, choices: Any) -> NDArray[np.int64]:
    if choices is None:
        return generator_of(rng).integers(parts, size=(steps, paths))
    array = given_numbers(choices, "choices", rng, (steps, paths))
    if array.dtype.kind == "f" or array.min() < 0 or array.max() >= parts:
        raise InvalidProblem(f"choices go from {array.min()} to {array.max()}: give integers from 0 to {parts - 1}")
    return array
