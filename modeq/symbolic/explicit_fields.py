"""Series written out on a concrete loss or vector field, and code made from them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import sympy as sp

from modeq.errors import InvalidProblem
from modeq.symbolic.rooted_trees import Tree

if TYPE_CHECKING:
    from modeq.symbolic.b_series import BSeries

Vector = tuple[sp.Expr, ...]


@dataclass(frozen=True)
class ExplicitField:
    """A vector field in explicit variables: θ' = components(θ)."""

    variables: tuple[sp.Symbol, ...]
    components: Vector
    h: sp.Expr

    @property
    def parameters(self) -> tuple[sp.Symbol, ...]:
        """The symbols besides the variables, sorted by name (h always among them if it is a symbol)."""
        free = self.h.free_symbols.union(*(c.free_symbols for c in self.components)) - set(self.variables)
        return tuple(sorted(free, key=lambda s: s.name))

    def lambdify(self, modules: str = "numpy") -> Callable[..., Any]:
        """Return a function of (θ, parameters…) with common subexpressions computed once.

        θ is a sequence of the variables' values; the free parameters follow in the order of
        :attr:`parameters`. The function returns a list of the components.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> x, h = sp.symbols("x h")
        >>> field = mq.modified_equation(mq.GradientDescent(), order=2).on(x**2 / 2, [x], h=h)
        >>> field.lambdify()([2.0], 0.1)
        [-2.1]
        """
        function = sp.lambdify([list(self.variables), *self.parameters], list(self.components), modules, cse=True)
        return function  # type: ignore[no-any-return]


class ExplicitDifferentials:
    """Elementary differentials on concrete fields; every subtree and derivative is computed once.

    Parameters
    ----------
    fields : one vector of expressions per colour
    variables : the parameters θ
    """

    def __init__(self, fields: Sequence[Vector], variables: Sequence[sp.Symbol]) -> None:
        self.fields = fields
        self.variables = tuple(variables)
        self._derivatives: dict[tuple[int, int, tuple[int, ...]], sp.Expr] = {}
        self._vectors: dict[Tree, Vector] = {}

    def derivative(self, colour: int, component: int, axes: tuple[int, ...]) -> sp.Expr:
        """The partial derivative of one component along sorted axes."""
        key = (colour, component, axes)
        if key not in self._derivatives:
            if not axes:
                self._derivatives[key] = self.fields[colour][component]
            else:
                lower = self.derivative(colour, component, axes[:-1])
                self._derivatives[key] = sp.diff(lower, self.variables[axes[-1]])
        return self._derivatives[key]

    def multilinear(self, component: Callable[[tuple[int, ...]], sp.Expr], vectors: Sequence[Vector]) -> sp.Expr:
        """Σ over axes of (a partial derivative)·(components of the vectors)."""
        terms = []
        for axes in product(range(len(self.variables)), repeat=len(vectors)):
            derivative = component(tuple(sorted(axes)))
            if derivative != 0:
                terms.append(derivative * sp.Mul(*(v[a] for v, a in zip(vectors, axes, strict=True))))
        return sp.Add(*terms)

    def vector(self, tree: Tree) -> Vector:
        """F(τ)."""
        if tree not in self._vectors:
            children = [self.vector(child) for child in tree.children]
            self._vectors[tree] = tuple(
                self.multilinear(partial(self.derivative, tree.colour, i), children) for i in range(len(self.variables))
            )
        return self._vectors[tree]


def concrete_fields(loss_or_field: Any, variables: Any, method: Any) -> tuple[list[Vector], tuple[sp.Symbol, ...]]:
    """Return one field per colour, f = −∇L for a loss and −λθ for weight decay, and the variables."""
    symbols = tuple(variables) if isinstance(variables, Iterable) else ()
    if not symbols or not all(isinstance(v, sp.Symbol) for v in symbols) or len(set(symbols)) < len(symbols):
        raise InvalidProblem(f"variables are {variables!r}: give a sequence of distinct sympy symbols")
    clash = method.free_symbols & set(symbols)
    if clash:
        raise InvalidProblem(f"the variables {sorted(map(str, clash))} are also coefficients of {method}: rename them")
    colours = [c for c in range(method.colour_count) if c not in method.decay]
    given = [loss_or_field] if len(colours) == 1 else list(loss_or_field)
    if len(given) != len(colours):
        raise InvalidProblem(f"{method} needs {len(colours)} losses or fields, {len(given)} were given")
    result: list[Vector] = []
    for colour in range(method.colour_count):
        if colour in method.decay:
            result.append(tuple(-method.decay[colour] * v for v in symbols))
        else:
            result.append(_field_of(given[colours.index(colour)], symbols))
    return result, symbols


def _field_of(loss_or_field: Any, variables: tuple[sp.Symbol, ...]) -> Vector:
    if isinstance(loss_or_field, list | tuple | sp.MatrixBase):
        components = tuple(sp.sympify(c) for c in loss_or_field)
        if len(components) != len(variables):
            raise InvalidProblem(f"the field has {len(components)} components for {len(variables)} variables")
        return components
    try:
        loss = sp.sympify(loss_or_field)
    except sp.SympifyError as error:
        raise InvalidProblem(f"the loss is {loss_or_field!r}: give a sympy expression") from error
    if not isinstance(loss, sp.Expr):
        raise InvalidProblem(f"the loss is {loss_or_field!r}: give a sympy expression")
    if loss.has(sp.nan, sp.zoo, sp.oo, -sp.oo):
        raise InvalidProblem(f"the loss is {loss}: it must be finite")
    return tuple(-sp.diff(loss, v) for v in variables)


def checked_step(h: Any, variables: tuple[sp.Symbol, ...]) -> sp.Expr:
    """Return the learning rate as a sympy expression without the variables."""
    step = sp.sympify(h)
    if not isinstance(step, sp.Expr):
        raise InvalidProblem(f"h is {h!r}: give a symbol or a number")
    if step.free_symbols & set(variables):
        raise InvalidProblem(f"h is {h!r}, which is also a variable: rename one of them")
    return step


def explicit(series: "BSeries", loss_or_field: Any, variables: Any, h: Any) -> ExplicitField:
    """Write a B-series out on a loss or field; see :meth:`BSeries.on`."""
    fields, symbols = concrete_fields(loss_or_field, variables, series.method)
    step = checked_step(h, symbols)
    differentials = ExplicitDifferentials(fields, symbols)
    components = [[] for _ in symbols]  # type: list[list[sp.Expr]]
    for tree, value in series.coefficients.items():
        if value != 0:
            factor = step ** (tree.order - series.offset) * value / tree.symmetry
            for total, entry in zip(components, differentials.vector(tree), strict=True):
                total.append(factor * entry)
    summed = tuple(sp.Add(*terms) for terms in components)
    polynomial = all(entry.is_polynomial(*symbols) for entry in summed)
    return ExplicitField(symbols, tuple(sp.expand(entry) for entry in summed) if polynomial else summed, step)
