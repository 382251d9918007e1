"""Problems written out with sympy: a loss, the losses of minibatches, a vector field, a game."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import sympy as sp

from modeq.displays import Formulas, cut
from modeq.errors import InvalidProblem
from modeq.numeric.compiled import compiled
from modeq.numeric.protocol import Vector, checked_numbers, flat_start
from modeq.symbolic.explicit_fields import ExplicitDifferentials

Expressions = tuple[sp.Expr, ...]


class WrittenOut(Formulas):
    """A field f of sympy expressions, in one part or in several: what the classes below share.

    Attributes
    ----------
    variables : the symbols θ
    part_expressions : the components of each part of the field
    field_expressions : the components of the whole field
    default_start : the numbers to start at if no start is given, or None
    """

    variables: Sequence[sp.Symbol]
    default_start: Any

    @property
    def part_expressions(self) -> tuple[Expressions, ...]:
        """The components of each part of the field."""
        raise NotImplementedError

    @property
    def field_expressions(self) -> Expressions:
        """The components of the whole field."""
        raise NotImplementedError

    @property
    def description(self) -> str:
        """The problem as it is written in Python, in full."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """The number of variables."""
        return len(self.variables)

    @property
    def parts(self) -> int:
        """The number of parts of the field: of minibatches or players."""
        return len(self.part_expressions)

    @property
    def epsilon(self) -> float:
        """The relative rounding of float64."""
        return float(np.finfo(np.float64).eps)

    def start(self, start: Any = None) -> Vector:
        """Return a start, given as a sequence of numbers, as a vector: the default one for None."""
        start = self.default_start if start is None else start
        if start is None:
            raise InvalidProblem(
                f"start is None: give {self.size} numbers, one for each of {list(self.variables)}, or the problem a "
                "default_start"
            )
        return flat_start(start, self.size)

    def _check_default_start(self) -> None:
        if self.default_start is not None:
            try:
                numbers = tuple(flat_start(self.default_start, self.size).tolist())
            except InvalidProblem as error:
                raise InvalidProblem(f"default_start: {error}") from error
            object.__setattr__(self, "default_start", numbers)

    def __repr__(self) -> str:
        return cut(self.description, 150)

    def native(self, theta: Vector) -> Vector:
        """θ itself: sympy's code computes with numpy arrays."""
        return theta

    def label(self, index: int) -> str:
        """The name of a variable."""
        return str(self.variables[index])

    def checked_batches(self, batches: Any = None) -> Sequence[int] | None:
        """None, after a check: there are no minibatches."""
        if batches is not None:
            raise InvalidProblem(
                f"batches are given, but {self!r} has no minibatches: use a TorchProblem, or a SymbolicProblem with a "
                "list of losses"
            )
        return None

    def of_batch(self, batch: int) -> "WrittenOut":
        """Raise `InvalidProblem`: there are no minibatches."""
        raise InvalidProblem(f"batch is {batch!r}, but {self!r} has no minibatches: give a list of losses")

    def field(self, theta: Vector, part: int | None = None) -> Vector:
        """f(θ), or that of one part."""
        return self.derivative(theta, (), part)

    def derivative(self, theta: Vector, vectors: Sequence[Vector] = (), part: int | None = None) -> Vector:
        """f⁽ᵐ⁾(θ)[v₁, …, v_m], or that of one part."""
        return np.array(self._code(len(vectors), part)(theta, *vectors), dtype=np.float64)

    def _code(self, count: int, part: int | None) -> Any:
        cache = self.__dict__.setdefault("_derivatives", {})
        if (count, part) not in cache:
            expressions = self.field_expressions if part is None else self.part_expressions[part]
            names = [tuple(sp.Dummy(f"v{k}_{i}") for i in range(self.size)) for k in range(count)]
            differentials = ExplicitDifferentials([expressions], self.variables)
            components = [
                differentials.multilinear(partial(differentials.derivative, 0, i), names) for i in range(self.size)
            ]
            cache[count, part] = compiled([list(self.variables), *names], components)
        return cache[count, part]

    def jacobian(self, part: int | None = None) -> sp.Matrix:
        """Return f' as a sympy matrix d × d, or that of one `part`."""
        expressions = self.field_expressions if part is None else self.part_expressions[part]
        return sp.Matrix(expressions).jacobian(sp.Matrix(self.variables))

    @property
    def is_quadratic(self) -> bool:
        """Whether the field, and each of its parts, is affine: minus the gradient of a quadratic loss, say."""
        return not any(self.jacobian(part).free_symbols for part in range(self.parts))

    def __getstate__(self) -> dict[str, Any]:
        return {
            key: value
            for key, value in self.__dict__.items()
            if key not in ("_derivatives", "_loss_function", "_batches")
        }


@dataclass(frozen=True, repr=False)
class SymbolicProblem(WrittenOut):
    """A loss given as a sympy expression, or as one for each minibatch.

    Parameters
    ----------
    loss_expression : sympy expression L, or a sequence L₁, …, L_m of them
        Without free symbols besides the variables. Of several, which are minibatches, L is the mean; step n of
        an optimizer sees L_k, k = n mod m, an `Epoch` of m batches each of them in turn, and a flow the mean.
    variables : sequence of sympy symbols θ
    default_start : numbers, one for each variable, optional
        Where flows and optimizers start if no start is given. Problems that differ in it alone are equal.

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
    >>> batches = mq.SymbolicProblem([x**2, y**2], [x, y])
    >>> batches.field([2.0, 3.0]).tolist(), batches.field([2.0, 3.0], part=0).tolist()
    ([-2.0, -3.0], [-4.0, 0.0])
    """

    loss_expression: sp.Expr
    variables: Sequence[sp.Symbol]
    losses: Expressions = field(init=False, default=())
    default_start: Any = field(default=None, kw_only=True, compare=False)

    def __post_init__(self) -> None:
        variables = checked_variables(self.variables)
        given = self.loss_expression
        several = isinstance(given, list | tuple)
        if several and not given:
            raise InvalidProblem("the losses are empty: give at least one")
        losses = tuple(checked_expression(loss, variables, "loss") for loss in (given if several else [given]))
        object.__setattr__(self, "variables", variables)
        object.__setattr__(self, "losses", losses)
        object.__setattr__(self, "loss_expression", losses[0] if len(losses) == 1 else sp.Add(*losses) / len(losses))
        self._check_default_start()

    @cached_property
    def part_expressions(self) -> tuple[Expressions, ...]:
        """−∂L_k/∂θ_i of each minibatch."""
        return tuple(tuple(-sp.diff(loss, v) for v in self.variables) for loss in self.losses)

    @cached_property
    def field_expressions(self) -> Expressions:
        """−∂L/∂θ_i."""
        return tuple(-sp.diff(self.loss_expression, v) for v in self.variables)

    @cached_property
    def _loss_function(self) -> Any:
        return sp.lambdify([list(self.variables)], self.loss_expression, cse=True)

    @cached_property
    def _batches(self) -> dict[int, "SymbolicProblem"]:
        return {}

    def checked_batches(self, batches: Any = None) -> Sequence[int] | None:
        """Return the number of the loss that each step sees: in turn by default, None if there is but one."""
        count = len(self.losses)
        if count == 1:
            return super().checked_batches(batches)
        return range(count) if batches is None else checked_numbers(batches, count)

    def of_batch(self, batch: int) -> "SymbolicProblem":
        """Return the problem of one of the losses."""
        if batch not in self._batches:
            loss = self.losses[batch]
            self._batches[batch] = SymbolicProblem(loss, self.variables, default_start=self.default_start)
        return self._batches[batch]

    def loss(self, theta: Vector) -> float:
        """L(θ)."""
        return float(self._loss_function(theta))

    @cached_property
    def hessian(self) -> sp.Matrix:
        """The Hessian as a sympy matrix."""
        return sp.hessian(self.loss_expression, self.variables)

    @property
    def description(self) -> str:
        """The problem as it is written in Python, in full."""
        shown = self.loss_expression if self.parts == 1 else list(self.losses)
        return f"SymbolicProblem({shown}, {list(self.variables)})"

    def text(self) -> str:
        """Return a line for the loss, or for that of each minibatch.

        Examples
        --------
        >>> x = sp.Symbol("x")
        >>> print(SymbolicProblem([x**2, x**2 / 2 - x], [x]))
        L_1 = x**2
        L_2 = x**2/2 - x
        """
        return "\n".join(f"L{_index(k, self.parts)} = {loss}" for k, loss in enumerate(self.losses))

    def latex(self) -> str:
        """Return the loss, or that of each minibatch, as LaTeX.

        Examples
        --------
        >>> x = sp.Symbol("x")
        >>> SymbolicProblem(x**2, [x]).latex()
        'L = x^{2}'
        """
        named = (f"L{_index(k, self.parts)} = {sp.latex(loss)}" for k, loss in enumerate(self.losses))
        return r",\qquad ".join(named)


@dataclass(frozen=True, repr=False)
class VectorField(WrittenOut):
    """A vector field given as sympy expressions, for a game one with players.

    Parameters
    ----------
    components : sequence of sympy expressions f_i, one for each variable
    variables : sequence of sympy symbols θ
    players : sequence of sequences of variables, optional
        What each player moves, each variable once. Part c of the field is f in the variables of player c and 0
        in the others; a method with as many fields (`Simultaneous`, `Alternating`) sees them as its colours.
    default_start : numbers, one for each variable, optional
        Where flows and optimizers start if no start is given. Fields that differ in it alone are equal.

    Raises
    ------
    InvalidProblem

    Examples
    --------
    A bilinear game, min over x and max over y of x·y:

    >>> import modeq as mq, sympy as sp
    >>> x, y = sp.symbols("x y")
    >>> game = mq.VectorField([-y, x], [x, y], players=[[x], [y]])
    >>> game.field([1.0, 2.0]).tolist(), game.field([1.0, 2.0], part=1).tolist()
    ([-2.0, 1.0], [0.0, 1.0])
    """

    components: Sequence[sp.Expr]
    variables: Sequence[sp.Symbol]
    players: Sequence[Sequence[sp.Symbol]] | None = None
    default_start: Any = field(default=None, kw_only=True, compare=False)

    def __post_init__(self) -> None:
        variables = checked_variables(self.variables)
        given = self.components
        if not isinstance(given, list | tuple | sp.MatrixBase) or len(given) != len(variables):
            raise InvalidProblem(f"components are {given!r}: give one expression for each of {list(variables)}")
        object.__setattr__(self, "variables", variables)
        object.__setattr__(self, "components", tuple(checked_expression(c, variables, "component") for c in given))
        if self.players is not None:
            object.__setattr__(self, "players", _checked_players(self.players, variables))
        self._check_default_start()

    @classmethod
    def of_losses(
        cls, losses: Sequence[Any], players: Sequence[Sequence[sp.Symbol]], *, default_start: Any = None
    ) -> "VectorField":
        """Return the game in which player c descends its own loss L_c in its own variables, f_c = −∂L_c/∂θ_c.

        Parameters
        ----------
        losses : sequence of sympy expressions L_c
        players, default_start : as for :class:`VectorField`

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> x, y = sp.symbols("x y")
        >>> mq.VectorField.of_losses([x * y, -x * y], [[x], [y]])
        VectorField((-y, x), [x, y], players=[[x], [y]])
        """
        if not isinstance(players, list | tuple) or not isinstance(losses, list | tuple | sp.MatrixBase):
            raise InvalidProblem(
                f"losses are {losses!r} and players {players!r}: give a list of losses, and one of lists of variables"
            )
        groups = [tuple(group) if isinstance(group, Iterable) else () for group in players]
        variables = checked_variables([v for group in groups for v in group])
        if len(losses) != len(groups):
            raise InvalidProblem(f"there are {len(losses)} losses for {len(groups)} players: give one for each")
        checked = [checked_expression(loss, variables, "loss") for loss in losses]
        components = [-sp.diff(loss, v) for loss, group in zip(checked, groups, strict=True) for v in group]
        return cls(tuple(components), variables, tuple(groups), default_start=default_start)

    @property
    def field_expressions(self) -> Expressions:
        """The components."""
        return tuple(self.components)

    @cached_property
    def part_expressions(self) -> tuple[Expressions, ...]:
        """The components of each player, 0 in the variables of the others; of the whole field without players."""
        if self.players is None:
            return (self.field_expressions,)
        pairs = list(zip(self.variables, self.components, strict=True))
        return tuple(tuple(c if v in group else sp.Integer(0) for v, c in pairs) for group in self.players)

    @property
    def description(self) -> str:
        """The field as it is written in Python, in full."""
        players = "" if self.players is None else f", players={[list(group) for group in self.players]}"
        return f"VectorField({self.components}, {list(self.variables)}{players})"

    def text(self) -> str:
        """Return a line for each component.

        Examples
        --------
        >>> x, y = sp.symbols("x y")
        >>> print(VectorField([y, -x], [x, y]))
        x' = y
        y' = -x
        """
        return "\n".join(f"{v}' = {c}" for v, c in zip(self.variables, self.components, strict=True))

    def latex(self) -> str:
        r"""Return the field as LaTeX.

        Examples
        --------
        >>> x = sp.Symbol("x")
        >>> print(VectorField([-x], [x]).latex())
        \dot{x} = - x
        """
        pairs = zip(self.variables, self.components, strict=True)
        return r",\qquad ".join(rf"\dot{{{sp.latex(v)}}} = {sp.latex(c)}" for v, c in pairs)


def _index(k: int, parts: int) -> str:
    return "" if parts == 1 else f"_{k + 1}" if k < 9 else f"_{{{k + 1}}}"


def checked_variables(variables: Any) -> tuple[sp.Symbol, ...]:
    """Return distinct sympy symbols as a tuple, or raise `InvalidProblem`."""
    symbols = tuple(variables) if isinstance(variables, list | tuple | sp.MatrixBase) else ()
    if not symbols or not all(isinstance(v, sp.Symbol) for v in symbols) or len(set(symbols)) < len(symbols):
        raise InvalidProblem(f"variables are {variables!r}: give a sequence of distinct sympy symbols")
    return symbols


def checked_expression(given: Any, variables: tuple[sp.Symbol, ...], what: str) -> sp.Expr:
    """Return a finite real sympy expression in the variables alone, or raise `InvalidProblem`."""
    try:
        expression = sp.sympify(given)
    except sp.SympifyError as error:
        raise InvalidProblem(f"the {what} is {given!r}: give a sympy expression") from error
    if not isinstance(expression, sp.Expr):
        raise InvalidProblem(f"the {what} is {given!r}: give a sympy expression")
    if expression.has(sp.nan, sp.oo, -sp.oo, sp.zoo, sp.I) or expression.atoms(sp.core.function.AppliedUndef):
        raise InvalidProblem(
            f"the {what} {expression} is not finite, not real, or has an undefined function: give a real expression"
        )
    free = expression.free_symbols - set(variables)
    if free:
        raise InvalidProblem(
            f"the {what} has the free symbols {sorted(map(str, free))}: substitute numbers, or name them in variables"
        )
    return expression


def _checked_players(players: Any, variables: tuple[sp.Symbol, ...]) -> tuple[tuple[sp.Symbol, ...], ...]:
    groups = [tuple(g) if isinstance(g, list | tuple) else () for g in players] if isinstance(players, Iterable) else []
    listed = [v for group in groups for v in group]
    if not all(groups) or len(listed) != len(variables) or set(listed) != set(variables):
        raise InvalidProblem(
            f"players are {players!r}: give the variables of each player, so that each of {list(variables)} occurs once"
        )
    return tuple(groups)
