"""What is minimised: one small protocol, and the two kinds of problems behind it.

Parameters are flat float64 vectors everywhere in the numeric layer; a torch module's are laid end to
end in the order of ``named_parameters``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from modeq.errors import InvalidProblem
from modeq.symbolic.explicit_fields import ExplicitDifferentials

Vector = NDArray[np.float64]


@runtime_checkable
class Problem(Protocol):
    """A loss L of d parameters, and its field f = −∇L.

    Attributes
    ----------
    size : the number d of parameters
    epsilon : the relative rounding of the numbers it computes with

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
    def epsilon(self) -> float:
        """The relative rounding of the numbers it computes with."""
        ...

    def start(self, start: Any = None) -> Vector:
        """Return a start as a flat vector."""
        ...

    def loss(self, theta: Vector) -> float:
        """L(θ)."""
        ...

    def field(self, theta: Vector) -> Vector:
        """−∇L(θ)."""
        ...

    def derivative(self, theta: Vector, vectors: Sequence[Vector]) -> Vector:
        """f⁽ᵐ⁾(θ)[v₁, …, v_m], m the number of vectors."""
        ...


@dataclass(frozen=True, repr=False)
class SymbolicProblem:
    """A loss given as a sympy expression.

    Parameters
    ----------
    loss_expression : sympy expression L, without free symbols besides the variables
    variables : sequence of sympy symbols θ

    Raises
    ------
    InvalidProblem

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x, y = sp.symbols("x y")
    >>> problem = mq.SymbolicProblem(x**2 * y, [x, y])
    >>> problem.field([2.0, 3.0]).tolist()
    [-12.0, -4.0]
    """

    loss_expression: sp.Expr
    variables: tuple[sp.Symbol, ...]

    def __post_init__(self) -> None:
        given = self.variables
        symbols = tuple(given) if isinstance(given, list | tuple | sp.MatrixBase) else ()
        if not symbols or not all(isinstance(v, sp.Symbol) for v in symbols) or len(set(symbols)) < len(symbols):
            raise InvalidProblem(f"variables are {self.variables!r}: give a sequence of distinct sympy symbols")
        try:
            expression = sp.sympify(self.loss_expression)
        except sp.SympifyError as error:
            raise InvalidProblem(f"the loss is {self.loss_expression!r}: give a sympy expression") from error
        if not isinstance(expression, sp.Expr):
            raise InvalidProblem(f"the loss is {self.loss_expression!r}: give a sympy expression")
        if expression.has(sp.nan, sp.oo, -sp.oo, sp.zoo, sp.I) or expression.atoms(sp.core.function.AppliedUndef):
            raise InvalidProblem(f"the loss {expression} is not finite, not real, or has an undefined function")
        free = expression.free_symbols - set(symbols)
        if free:
            raise InvalidProblem(
                f"the loss has the free symbols {sorted(map(str, free))}: substitute numbers, or name them in variables"
            )
        object.__setattr__(self, "variables", symbols)
        object.__setattr__(self, "loss_expression", expression)
        object.__setattr__(self, "_derivatives", {})

    @property
    def size(self) -> int:
        """The number of variables."""
        return len(self.variables)

    @property
    def epsilon(self) -> float:
        """The relative rounding of float64."""
        return float(np.finfo(np.float64).eps)

    def start(self, start: Any = None) -> Vector:
        """Return a start, given as a sequence of numbers, as a vector."""
        if start is None:
            raise InvalidProblem(f"start is None: give {self.size} numbers, one for each of {list(self.variables)}")
        return flat_start(start, self.size)

    @cached_property
    def field_expressions(self) -> tuple[sp.Expr, ...]:
        """−∂L/∂θ_i."""
        return tuple(-sp.diff(self.loss_expression, v) for v in self.variables)

    @cached_property
    def _loss_function(self) -> Any:
        return sp.lambdify([list(self.variables)], self.loss_expression, cse=True)

    def loss(self, theta: Vector) -> float:
        """L(θ)."""
        return float(self._loss_function(theta))

    def field(self, theta: Vector) -> Vector:
        """−∇L(θ)."""
        return self.derivative(theta, ())

    def derivative(self, theta: Vector, vectors: Sequence[Vector] = ()) -> Vector:
        """f⁽ᵐ⁾(θ)[v₁, …, v_m]."""
        cache: dict[int, Any] = self._derivatives  # type: ignore[attr-defined]
        count = len(vectors)
        if count not in cache:
            names = [[sp.Dummy(f"v{k}_{i}") for i in range(self.size)] for k in range(count)]
            differentials = ExplicitDifferentials([self.field_expressions], self.variables)
            components = [
                differentials.multilinear(lambda axes, i=i: differentials.derivative(0, i, axes), names)
                for i in range(self.size)
            ]
            cache[count] = sp.lambdify([list(self.variables), *names], components, cse=True)
        return np.array(cache[count](theta, *vectors), dtype=np.float64)

    @cached_property
    def hessian(self) -> sp.Matrix:
        """The Hessian as a sympy matrix."""
        return sp.hessian(self.loss_expression, self.variables)

    @property
    def is_quadratic(self) -> bool:
        """Whether the Hessian is constant."""
        return not self.hessian.free_symbols

    def __repr__(self) -> str:
        return f"SymbolicProblem({self.loss_expression}, {list(self.variables)})"


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


def time_grid(h: float, time: float) -> Vector:
    """Return the times 0, h, 2h, … up to `time`, and `time` itself.

    Examples
    --------
    >>> time_grid(0.1, 0.25).tolist()
    [0.0, 0.1, 0.2, 0.25]
    """
    if time / h > 1e8:
        raise InvalidProblem(f"time/h is {time / h:.3g} steps, too many to store: take a larger h or a shorter time")
    times = h * np.arange(int(np.floor(time / h * (1 + 1e-12))) + 1)
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
        raise InvalidProblem(f"start has {theta.size} numbers, the problem has {size} parameters")
    if not np.all(np.isfinite(theta)):
        raise InvalidProblem(f"start has entries that are not finite: {theta[~np.isfinite(theta)][:3]}")
    return theta


def largest_curvature(problem: Problem, theta: Vector, iterations: int = 60, tolerance: float = 1e-6) -> float:
    """Return the largest |λ| of the Hessian at θ, by power iteration from a fixed start.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x, y = sp.symbols("x y")
    >>> round(largest_curvature(mq.SymbolicProblem(x**2 + 3 * y**2, [x, y]), [0.0, 0.0]), 4)
    6.0
    """
    theta = np.asarray(theta, dtype=np.float64)
    vector = np.random.default_rng(0).standard_normal(problem.size)
    value = 0.0
    for _ in range(iterations):
        norm = np.linalg.norm(vector)
        if norm == 0:
            return 0.0
        vector /= norm
        image = -problem.derivative(theta, (vector,))
        previous, value = value, float(np.linalg.norm(image))
        if abs(value - previous) <= tolerance * value:
            break
        vector = image
    return value


def named_start(start: Mapping[str, Any], names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> Vector:
    """Return a dict of arrays, one for each name, as a flat vector."""
    missing, unknown = set(names) - set(start), set(start) - set(names)
    if missing or unknown:
        raise InvalidProblem(f"start misses the parameters {sorted(missing)} and has the unknown {sorted(unknown)}")
    parts = []
    for name, shape in zip(names, shapes, strict=True):
        value = start[name]
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=np.float64)
        if array.shape != shape:
            raise InvalidProblem(f"start[{name!r}] has shape {array.shape}, the parameter has {shape}")
        parts.append(array.ravel())
    return flat_start(np.concatenate(parts), sum(int(np.prod(shape)) for shape in shapes))
