"""A loss of which the gradient is given as a callable of numpy vectors."""

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from modeq.errors import InvalidProblem
from modeq.numeric.differences import directional_derivative
from modeq.numeric.pickling import pickled
from modeq.numeric.protocol import Vector, checked_numbers, flat_start, whole

Gradient = Callable[[Vector], Any]


class NumpyProblem:
    """A loss L of d parameters by its gradient, or that of each of its minibatches.

    Derivatives f⁽ᵐ⁾[v₁, …, v_m] of the field f = −∇L are central differences of the sixth order along lines, mixed
    ones by polarisation: with equal vectors 6, 7, 8, 9 gradients for m = 1, 2, 3, 4. Where ∇L is smooth on the
    length `scale`, their relative errors are about 1e-13, 1e-11, 1e-9, 1e-8; with a `hessian_product`, those of m − 1.

    Parameters
    ----------
    gradient : callable θ ↦ ∇L(θ), or a list of them, one for each minibatch
        In float64, of shape (d,); of several, L is the mean.
    size : the number d
    loss : callable θ ↦ L(θ), or a list of as many
    hessian_product : callable (θ, v) ↦ L''(θ)v, or a list of as many
    default_start : d numbers, optional
        Where flows and optimizers start if no start is given.
    scale : positive number, optional
        The length over which ∇L varies, which sets the step of the differences; max(1, max |θ_i|) by default.

    Raises
    ------
    InvalidProblem
        At the construction, or at the first call of one of the callables if it returns anything but finite real
        numbers of the right shape, or something else when it is called again.

    Examples
    --------
    >>> import modeq as mq, numpy as np
    >>> problem = NumpyProblem(lambda theta: theta**3, 2, loss=lambda theta: np.sum(theta**4) / 4)
    >>> problem.field([1.0, 2.0]).tolist(), problem.loss([1.0, 2.0])
    ([-1.0, -8.0], 4.25)
    >>> np.round(problem.derivative([1.0, 2.0], [[1.0, 0.0], [1.0, 1.0]]), 9).tolist()
    [-6.0, 0.0]
    """

    def __init__(
        self,
        gradient: Gradient | Sequence[Gradient],
        size: int,
        *,
        loss: Any = None,
        hessian_product: Any = None,
        default_start: Any = None,
        scale: float | None = None,
    ) -> None:
        self._size = whole(size, "size", least=1)
        self._gradients = _callables(gradient, "gradient")
        several = isinstance(gradient, list | tuple)
        self._losses = None if loss is None else _callables(loss, "loss", several, len(self._gradients))
        self._products = (
            None
            if hessian_product is None
            else _callables(hessian_product, "hessian_product", several, len(self._gradients))
        )
        try:
            self._default_start = None if default_start is None else flat_start(default_start, self._size)
        except InvalidProblem as error:
            raise InvalidProblem(f"default_start: {error}") from error
        if scale is not None and not (isinstance(scale, int | float) and 0 < scale < np.inf):
            raise InvalidProblem(
                f"scale is {scale!r}: give a positive number, the length over which the gradient varies"
            )
        self._scale = scale
        self._checked: set[tuple[str, int]] = set()
        self._batches: dict[int, NumpyProblem] = {}

    @property
    def size(self) -> int:
        """The number of parameters."""
        return self._size

    @property
    def parts(self) -> int:
        """The number of minibatches."""
        return len(self._gradients)

    @property
    def epsilon(self) -> float:
        """The relative rounding of float64."""
        return float(np.finfo(np.float64).eps)

    def start(self, start: Any = None) -> Vector:
        """Return a start as a vector: the default one for None."""
        if start is not None:
            return flat_start(start, self.size)
        if self._default_start is None:
            raise InvalidProblem(f"start is None: give {self.size} numbers, or the problem a default_start")
        return self._default_start.copy()

    def native(self, theta: Vector) -> Vector:
        """θ itself."""
        return theta

    def label(self, index: int) -> str:
        """Return the name θ[index]."""
        return f"θ[{index}]"

    def checked_batches(self, batches: Any = None) -> Sequence[int] | None:
        """Return the number of the gradient that each step sees: in turn by default, None if there is but one."""
        if self.parts > 1:
            return range(self.parts) if batches is None else checked_numbers(batches, self.parts)
        if batches is not None:
            raise InvalidProblem(f"batches are given, but {self!r} has no minibatches: give it a list of gradients")
        return None

    def of_batch(self, batch: int) -> "NumpyProblem":
        """Return the problem of one of the minibatches."""
        if batch not in self._batches:
            problem = copy.copy(self)
            problem._gradients = [self._gradients[batch]]
            problem._losses = None if self._losses is None else [self._losses[batch]]
            problem._products = None if self._products is None else [self._products[batch]]
            self._batches[batch] = problem
        return self._batches[batch]

    @property
    def has_loss(self) -> bool:
        """Whether a loss was given."""
        return self._losses is not None

    def loss(self, theta: Vector) -> float:
        """L(θ).

        Raises
        ------
        InvalidProblem
            If no loss was given.
        """
        if self._losses is None:
            raise InvalidProblem(f"{self!r} has no loss: give it one, NumpyProblem(gradient, {self.size}, loss=...)")
        theta = self._vector(theta, "theta")
        values = [self._called("loss", k, function, (theta,), ()) for k, function in enumerate(self._losses)]
        return float(np.mean(values))

    def field(self, theta: Vector, part: int | None = None) -> Vector:
        """−∇L(θ), or that of one minibatch; entries that are not finite are returned as they are."""
        return self._mean("gradient", self._gradients, (self._vector(theta, "theta"),), part)

    def derivative(self, theta: Vector, vectors: Sequence[Vector], part: int | None = None) -> Vector:
        """f⁽ᵐ⁾(θ)[v₁, …, v_m], or that of one minibatch."""
        theta = self._vector(theta, "theta")
        checked = [self._vector(vector, "a direction") for vector in vectors]
        scale = max(1.0, float(np.max(abs(theta)))) if self._scale is None else float(self._scale)
        if self._products is None or not checked:
            return directional_derivative(lambda point: self.field(point, part), theta, checked, scale)
        products, first = self._products, checked[0]

        def along_first(point: Vector) -> Vector:
            return self._mean("hessian_product", products, (point, first), part)

        return directional_derivative(along_first, theta, checked[1:], scale)

    def _mean(self, what: str, functions: Sequence[Any], arguments: tuple[Vector, ...], part: int | None) -> Vector:
        """Minus the mean of the callables, or minus one of them."""
        numbers = range(self.parts) if part is None else [part]
        total = np.zeros(self.size)
        for k in numbers:
            total -= self._called(what, k, functions[k], arguments, (self.size,))
        return total / len(numbers)

    def _called(
        self, what: str, k: int, function: Any, arguments: tuple[Vector, ...], shape: tuple[int, ...]
    ) -> Vector:
        # Each call gets arguments of its own, and its result is copied: it may write on the one and reuse the other.
        value = _real(function(*(argument.copy() for argument in arguments)), what, shape)
        if (what, k) not in self._checked:
            again = _real(function(*(argument.copy() for argument in arguments)), what, shape)
            if not np.all(np.isfinite(value)):
                raise InvalidProblem(
                    f"{what} returns numbers that are not finite at theta = {arguments[0][:4]}: give another start, or "
                    "a function that is finite there"
                )
            if np.max(abs(value - again)) > 64 * self.epsilon * np.max(abs(value)):
                raise InvalidProblem(
                    f"two calls of {what} at one theta differ by {np.max(abs(value - again)):.3g}: it must be a "
                    "function of its arguments, fix the seed or the batch"
                )
            self._checked.add((what, k))
        return value

    def _vector(self, given: Any, what: str) -> Vector:
        try:
            array = np.asarray(given)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidProblem(f"{what} is {given!r}: give {self.size} numbers") from error
        if array.dtype.kind not in "iuf" or array.shape != (self.size,):
            raise InvalidProblem(
                f"{what} has dtype {array.dtype} and shape {array.shape}: give a vector of {self.size} real numbers"
            )
        return array.astype(np.float64)

    def __copy__(self) -> "NumpyProblem":
        problem = object.__new__(type(self))
        problem.__dict__.update(self.__dict__, _checked=set(), _batches={})
        return problem

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__, _batches={})
        for key, name in (("_gradients", "gradient"), ("_losses", "loss"), ("_products", "hessian_product")):
            state[key] = pickled(state[key], name)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        functions = {key: pickle.loads(state[key]) for key in ("_gradients", "_losses", "_products")}
        self.__dict__.update(state, **functions)

    def __deepcopy__(self, memo: dict[int, Any]) -> "NumpyProblem":
        problem = object.__new__(type(self))
        problem.__dict__.update(copy.deepcopy(dict(self.__dict__, _batches={}), memo))
        return problem

    def __repr__(self) -> str:
        batches = "" if self.parts == 1 else f", {self.parts} minibatches"
        return f"NumpyProblem({self.size} parameters{batches})"


def _callables(given: Any, what: str, several: bool | None = None, count: int | None = None) -> list[Any]:
    functions = list(given) if isinstance(given, list | tuple) else [given]
    if not functions or not all(callable(function) for function in functions):
        raise InvalidProblem(f"{what} is {given!r}: give a callable, or a list of one for each minibatch")
    if several is not None and (isinstance(given, list | tuple) != several or len(functions) != count):
        wanted = f"a list of {count}, one for each gradient" if several else "one callable, as for the gradient"
        raise InvalidProblem(f"{what} is {given!r}: give {wanted}")
    return functions


def _real(value: Any, what: str, shape: tuple[int, ...]) -> Vector:
    """Return what a callable gave as a new float64 array of the shape, or raise `InvalidProblem`."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidProblem(f"{what} returns {type(value).__name__}: return real numbers of shape {shape}") from error
    if array.shape != shape:
        raise InvalidProblem(f"{what} returns shape {array.shape}: return real numbers of shape {shape}")
    if array.dtype.kind not in "iuf" or (array.dtype.kind == "f" and array.dtype.itemsize < 8):
        raise InvalidProblem(f"{what} returns {array.dtype}: compute and return it in float64")
    return np.array(array, dtype=np.float64)
