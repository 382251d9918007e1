"""What is minimised: one small protocol, and the checks that its kinds share.

Parameters are flat float64 vectors everywhere in the numeric layer; a torch module's are laid end to
end in the order of ``named_parameters``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from modeq.errors import InvalidProblem

Vector = NDArray[np.float64]


@runtime_checkable
class Problem(Protocol):
    """A field f of d parameters, −∇L for a loss L, in one part or in several.

    Parts are the minibatches of a loss, of which f is the mean, or the players of a game, of which it is the sum.

    Attributes
    ----------
    size : the number d of parameters
    parts : the number of parts that the field has, 1 if it is not divided
    epsilon : the relative rounding of the numbers it computes with

    Notes
    -----
    In the methods, `theta` and each of `vectors` is a vector of shape (d,), `part` the number of a part from 0, None
    for the whole field, and `index` the number of a parameter; `start` is in any form that the problem takes, None for
    its default; `batches` is a sequence of what single steps see, None for the problem's own, and `batch` an entry of
    what :meth:`checked_batches` returns.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> isinstance(mq.SymbolicProblem(x**2, [x]), Problem)
    True
    """

    @property
    def size(self) -> int:
        """The number of parameters."""
        ...

    @property
    def parts(self) -> int:
        """The number of parts."""
        ...

    @property
    def epsilon(self) -> float:
        """The relative rounding of the numbers it computes with."""
        ...

    def start(self, start: Any = None) -> Vector:
        """Return a start as a flat vector."""
        ...

    def native(self, theta: Vector) -> Any:
        """Return θ as the kind of array that the problem computes with: a tensor on a device, say."""
        ...

    def label(self, index: int) -> str:
        """Return what parameter number `index` is called."""
        ...

    def checked_batches(self, batches: Any = None) -> Sequence[Any] | None:
        """Return what each step of an optimizer sees, in turn; None if there is but the whole field."""
        ...

    def of_batch(self, batch: Any) -> "Problem":
        """Return the problem whose whole field is that of one of the checked batches."""
        ...

    def field(self, theta: Vector, part: int | None = None) -> Vector:
        """f(θ), or that of one part."""
        ...

    def derivative(self, theta: Vector, vectors: Sequence[Vector], part: int | None = None) -> Vector:
        """f⁽ᵐ⁾(θ)[v₁, …, v_m], m the number of vectors, or that of one part."""
        ...


def positive(value: Any, argument: str) -> float:
    """Return a finite positive number, or raise `InvalidProblem` naming the argument."""
    try:
        number = float("nan") if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidProblem(f"{argument} is {value!r}: give a positive number") from error
    if not (np.isfinite(number) and number > 0):
        raise InvalidProblem(f"{argument} is {value!r}: give a positive number, 0.01 for instance")
    return number


def whole(value: Any, argument: str, least: int) -> int:
    """Return an integer from `least`, or raise `InvalidProblem` naming the argument."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        wanted = "a positive integer" if least == 1 else f"an integer from {least}"
        raise InvalidProblem(f"{argument} is {value!r}: give {wanted}")
    return int(value.__index__())


_MEMBERS = (
    "size",
    "parts",
    "epsilon",
    "start",
    "native",
    "label",
    "checked_batches",
    "of_batch",
    "field",
    "derivative",
)


def start_on(problem: Any, start: Any = None) -> Vector:
    """Return a start on a problem as a flat vector, after a check that it is a problem.

    Examples
    --------
    >>> start_on(lambda theta: -theta, [1.0])
    Traceback (most recent call last):
    ...
    modeq.errors.InvalidProblem: problem is <function <lambda> at ...>: give a SymbolicProblem, a NumpyProblem, ...
    """
    missing = [name for name in _MEMBERS if not hasattr(problem, name)]
    if missing:
        raise InvalidProblem(
            f"problem is {problem!r}: give a SymbolicProblem, a NumpyProblem, a TorchProblem(module, loss, inputs, "
            f"targets), or an object of one's own with all that these have, here without {', '.join(missing)}"
        )
    return problem.start(start)


def loss_of(problem: Any) -> Callable[[Any], float] | None:
    """Return the loss θ ↦ L(θ) of a problem, None for one that has none: a vector field, or a gradient alone.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> loss_of(mq.SymbolicProblem(x**2, [x]))([3.0]), loss_of(mq.VectorField([x], [x]))
    (9.0, None)
    """
    return problem.loss if getattr(problem, "has_loss", hasattr(problem, "loss")) else None


def checked_numbers(batches: Any, count: int) -> list[int]:
    """Return numbers of minibatches, after a check.

    Examples
    --------
    >>> checked_numbers((0, 1, 1), 2)
    [0, 1, 1]
    """
    if not isinstance(batches, Sequence | np.ndarray):
        raise InvalidProblem(f"batches are {batches!r}: give a sequence of numbers of the {count} losses")
    numbers = [whole(batch, f"batches[{n}]", least=0) for n, batch in enumerate(batches)]
    if not numbers or max(numbers) >= count:
        raise InvalidProblem(f"batches are {numbers}: give numbers of the {count} losses, from 0 to {count - 1}")
    return numbers


def time_grid(h: float, time: float) -> Vector:
    """Return the times 0, h, 2h, … up to `time`, and `time` itself.

    Examples
    --------
    >>> time_grid(0.1, 0.25).tolist()
    [0.0, 0.1, 0.2, 0.25]
    """
    if time / h > 1e8:
        raise InvalidProblem(f"time/h is {time / h:.3g} steps, too many to store: take a larger h or a shorter time")
    times = h * np.arange(int(np.floor(time / h * (1 + 1e-12))) + 1, dtype=np.float64)
    return np.append(times, time) if time - times[-1] > 1e-9 * h else times


def flat_start(start: Any, size: int) -> Vector:
    """Return numbers as a float64 vector of that size, or raise `InvalidProblem`."""
    if hasattr(start, "detach"):
        start = start.detach().double().cpu().numpy()
    try:
        theta = np.array(start, dtype=np.float64).ravel()
        numeric = np.asarray(start).dtype.kind not in "USb"
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidProblem(f"start is {start!r}: give {size} numbers") from error
    if not numeric:
        raise InvalidProblem(f"start is {start!r}: give {size} numbers")
    if theta.size != size:
        raise InvalidProblem(f"start has {theta.size} numbers, the problem has {size} parameters: give as many")
    if not np.all(np.isfinite(theta)):
        raise InvalidProblem(
            f"start has entries that are not finite, {theta[~np.isfinite(theta)][:3]}: give finite numbers"
        )
    return theta


def named_start(start: Mapping[str, Any], names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> Vector:
    """Return a dict of arrays, one for each name, as a flat vector."""
    missing, unknown = set(names) - set(start), set(start) - set(names)
    if missing or unknown:
        raise InvalidProblem(
            f"start misses the parameters {sorted(missing)} and has the unknown {sorted(unknown)}: give an array for "
            f"each of {list(names)}"
        )
    parts = []
    for name, shape in zip(names, shapes, strict=True):
        value = start[name]
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=np.float64)
        if array.shape != shape:
            raise InvalidProblem(f"start[{name!r}] has shape {array.shape}, the parameter has {shape}: give that")
        parts.append(array.ravel())
    return flat_start(np.concatenate(parts), sum(int(np.prod(shape)) for shape in shapes))
