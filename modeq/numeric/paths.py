"""Random paths of the parameters: what is kept of them, and what those of the model and of the optimizer share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeq.errors import Diverged, InvalidProblem
from modeq.numeric.compiled import compiled
from modeq.numeric.protocol import Problem
from modeq.numeric.symbolic_problems import VectorField

Array = NDArray[np.float64]  # d × paths while they run


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
        observable : function of θ, an array times × paths × parameters, to an array times × paths
            Or to one with more axes after these two.

        Raises
        ------
        InvalidProblem
            If it is no function, or does not keep the axes of times and paths.

        Examples
        --------
        >>> paths = Paths(np.array([0.0]), np.array([[[1.0], [3.0]]]), "two points")
        >>> [value.tolist() for value in paths.expectation(lambda theta: theta[..., 0] ** 2)]
        [[5.0], [2.82842712474619]]
        """
        wanted = f"give a function of θ, an array {self.y.shape}, to an array of numbers {self.y.shape[:2]}"
        if not callable(observable):
            raise InvalidProblem(f"observable is {observable!r}: {wanted}")
        values = np.asarray(observable(self.y))
        if values.shape[:2] != self.y.shape[:2] or values.dtype.kind not in "biuf":
            raise InvalidProblem(f"observable returned shape {values.shape} and dtype {values.dtype}: {wanted}")
        return values.mean(axis=1), values.std(axis=1) / np.sqrt(self.y.shape[1])

    def __repr__(self) -> str:
        return f"Paths({self.name}, {self.y.shape[1]} paths to t = {self.t[-1]:.6g})"


class Recorder:
    """What is kept of paths as they run; a path that is not finite any more stops all of them."""

    def __init__(self, times: Array, every: int, name: str) -> None:
        self.times, self.every, self.name = times, every, name
        self.kept: list[tuple[float, Array]] = []

    def __call__(self, n: int, Y: Array) -> None:
        """Keep the points after step n if they are to be recorded, or raise `Diverged`."""
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
        """Return what was kept."""
        return Paths(np.array([t for t, _ in self.kept]), np.array([y for _, y in self.kept]), self.name)


def require_batches(problem: Problem) -> None:
    """Raise `InvalidProblem` for what has no minibatches, or one."""
    if not isinstance(problem, Problem):
        raise InvalidProblem(
            f"problem is {problem!r}: give a SymbolicProblem with a list of losses, or a TorchProblem with batches="
        )
    if isinstance(problem, VectorField):
        raise InvalidProblem(f"{problem!r} has no minibatches: give a SymbolicProblem with a list of losses")
    if problem.parts == 1:
        raise InvalidProblem(
            f"{problem!r} has one batch, and so no noise: give a list of losses, or batches=, or use flow and iterate"
        )


def generator_of(rng: Any) -> np.random.Generator:
    """The generator of a seed, or the one given."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise InvalidProblem(f"rng is {rng!r}: give a seed from 0, a numpy random generator, or None") from error


def given_numbers(values: Any, argument: str, rng: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Numbers in place of those of a generator, as an array of that shape."""
    if rng is not None:
        raise InvalidProblem(f"both rng and {argument} are given: leave one of them out")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InvalidProblem(f"{argument} has rows of different lengths: give {shape} finite numbers") from error
    if array.shape != shape or array.dtype.kind not in "iuf" or not np.all(np.isfinite(array)):
        raise InvalidProblem(f"{argument} has shape {array.shape} and dtype {array.dtype}: give {shape} finite numbers")
    return array


def elementwise(parts: Any, variables: Any) -> Callable[[Array], Array]:
    """A function from θ, d × paths, to an array parts × d × paths of fields given as expressions."""
    code = compiled([list(variables)], [component for part in parts for component in part])
    return lambda Y: stacked(code(Y), Y).reshape(len(parts), *Y.shape)


def stacked(components: list[Any], Y: Array) -> Array:
    """Components that are constant have lost the axis of the paths."""
    return np.array([np.broadcast_to(component, Y.shape[1:]) for component in components], dtype=np.float64)
