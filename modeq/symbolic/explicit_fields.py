"""Series written out on a concrete loss or vector field, and code made from them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import sympy as sp
from sympy.polys.domains.domain import Domain
from sympy.polys.rings import PolyElement, PolyRing

from modeq.displays import Formulas, listed
from modeq.errors import InvalidNotation, InvalidProblem
from modeq.methods.exact import tidy_element
from modeq.symbolic.rooted_trees import Tree

if TYPE_CHECKING:
    from modeq.symbolic.b_series import BSeries

Vector = tuple[sp.Expr, ...]  # or elements of a ring of polynomials


@dataclass(frozen=True, repr=False)
class ExplicitField(Formulas):
    """A vector field in explicit variables: θ' = components(θ)."""

    variables: tuple[sp.Symbol, ...]
    components: Vector
    h: sp.Expr

    def text(self) -> str:
        """Return a line for each component.

        Examples
        --------
        >>> import modeq as mq
        >>> x, y = sp.symbols("x y")
        >>> print(mq.modified_equation(mq.GradientDescent(), order=2).on(x**2 / 2 + y**2, [x, y]))
        x' = -h*x/2 - x
        y' = -2*h*y - 2*y
        """
        return "\n".join(f"{v}' = {c}" for v, c in zip(self.variables, self.components, strict=True))

    def latex(self) -> str:
        r"""Return the equations as LaTeX.

        Examples
        --------
        >>> import modeq as mq
        >>> x = sp.Symbol("x")
        >>> print(mq.modified_equation(mq.GradientDescent(), order=2).on(x**2 / 2, [x]).latex())
        \dot{x} = - \frac{h x}{2} - x
        """
        pairs = zip(self.variables, self.components, strict=True)
        return r",\qquad ".join(rf"\dot{{{sp.latex(v)}}} = {sp.latex(c)}" for v, c in pairs)

    def __repr__(self) -> str:
        return f"ExplicitField({len(self.components)} components, in {listed(self.variables)})"

    @property
    def parameters(self) -> tuple[sp.Symbol, ...]:
        """The symbols besides the variables, sorted by name (h always among them if it is a symbol)."""
        free = self.h.free_symbols.union(*(c.free_symbols for c in self.components)) - set(self.variables)
        return tuple(sorted(free, key=lambda s: s.name))

    def lambdify(self, modules: Literal["numpy", "torch"] = "numpy") -> Callable[..., Any]:
        """Return a function of (θ, parameters…) with common subexpressions computed once.

        θ is a sequence of the variables' values (numbers or arrays of one shape, or a tensor whose first
        axis counts the variables); the free parameters follow in the order of :attr:`parameters`, as numbers
        or arrays. The function returns a list of the components; with "torch" they can be differentiated.

        Raises
        ------
        InvalidNotation
            If `modules` is neither "numpy" nor "torch".

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> x, h = sp.symbols("x h")
        >>> field = mq.modified_equation(mq.GradientDescent(), order=2).on(x**2 / 2, [x], h=h)
        >>> field.lambdify()([2.0], 0.1)
        [-2.1]
        """
        if modules not in ("numpy", "torch"):
            raise InvalidNotation(f"modules is {modules!r}: give 'numpy' or 'torch'")
        components = list(self.components)
        if modules == "torch":  # its functions take no plain numbers, neither constants like √2 nor parameters
            components = [
                c.replace(lambda e: e.is_number and not e.is_Rational, lambda e: e.evalf(17)) for c in components
            ]
        function: Callable[..., Any] = sp.lambdify(
            [list(self.variables), *self.parameters], components, modules, cse=True
        )
        if modules == "numpy":
            return function

        def of_tensors(theta: Any, *parameters: Any) -> Any:
            return function(theta, *(p if hasattr(p, "new_tensor") else theta[0].new_tensor(p) for p in parameters))

        return of_tensors


def _sum_of_products(products: Iterable[Sequence[sp.Expr]]) -> sp.Expr:
    return sp.Add(*(sp.Mul(*factors) for factors in products))


class ExplicitDifferentials:
    """Elementary differentials on concrete fields; every subtree and derivative is computed once.

    Parameters
    ----------
    fields : one vector of expressions, or of elements of a ring, per colour
    variables : the parameters θ, in the same terms
    sum_of_products : how such elements are multiplied and added; by default as expressions, not expanded
    """

    def __init__(
        self,
        fields: Sequence[Vector],
        variables: Sequence[sp.Symbol],
        sum_of_products: Callable[[Iterable[Sequence[sp.Expr]]], sp.Expr] = _sum_of_products,
    ) -> None:
        self.fields = fields
        self.variables = tuple(variables)
        self._sum_of_products = sum_of_products
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
                self._derivatives[key] = lower.diff(self.variables[axes[-1]])
        return self._derivatives[key]

    def multilinear(self, component: Callable[[tuple[int, ...]], sp.Expr], vectors: Sequence[Vector]) -> sp.Expr:
        """Σ over axes of (a partial derivative)·(components of the vectors)."""
        products = []
        for axes in product(range(len(self.variables)), repeat=len(vectors)):
            derivative = component(tuple(sorted(axes)))
            if derivative != 0:
                products.append((derivative, *(v[a] for v, a in zip(vectors, axes, strict=True))))
        return self._sum_of_products(products)

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
        raise InvalidProblem(
            f"the variables {sorted(map(str, clash))} are also coefficients of {method!r}: rename them"
        )
    colours = [c for c in range(method.colour_count) if c not in method.decay]
    if len(colours) > 1 and not isinstance(loss_or_field, list | tuple):
        raise InvalidProblem(
            f"the fields are {loss_or_field!r}: {method!r} needs a list of {len(colours)} losses or fields"
        )
    given = [loss_or_field] if len(colours) == 1 else list(loss_or_field)
    if len(given) != len(colours):
        raise InvalidProblem(f"{method!r} needs {len(colours)} losses or fields, {len(given)} were given")
    if method.players and not all(isinstance(f, list | tuple | sp.MatrixBase) for f in given):
        raise InvalidProblem(
            f"the fields are {given!r}: of a game give each player's field, zero outside its own parameters, such as "
            "mq.VectorField.of_losses(losses, players).part_expressions"
        )
    result: list[Vector] = []
    for colour in range(method.colour_count):
        if colour in method.decay:
            result.append(tuple(-method.decay[colour] * v for v in symbols))
        else:
            result.append(_field_of(given[colours.index(colour)], symbols))
    _check_names({*symbols, *method.free_symbols}.union(*(c.free_symbols for vector in result for c in vector)))
    return result, symbols


def _check_names(symbols: Iterable[sp.Symbol]) -> None:
    """Raise an error if two different symbols print alike: a loss of the one would be constant in the other."""
    seen: dict[str, sp.Symbol] = {}
    for symbol in symbols:
        if seen.setdefault(str(symbol), symbol) != symbol:
            raise InvalidProblem(
                f"two different symbols share the name {symbol}: create it once, with the same assumptions, for the "
                "method, the variables, h and the loss"
            )


def _expression(value: Any) -> sp.Expr | None:
    """A number or expression of sympy; None for anything else, strings among it."""
    try:
        expression = None if isinstance(value, str | bytes) else sp.sympify(value)
    except (sp.SympifyError, TypeError):
        return None
    if not isinstance(expression, sp.Expr) or not expression.is_commutative:
        return None
    return None if expression.has(sp.nan, sp.zoo, sp.oo, -sp.oo) else expression


def checked_expression(value: Any, what: str = "loss") -> sp.Expr:
    """Return a finite sympy expression, or raise `InvalidProblem`.

    Examples
    --------
    >>> checked_expression(sp.Symbol("x"))
    x
    """
    expression = _expression(value)
    if expression is None:
        raise InvalidProblem(f"the {what} is {value!r}: give a finite sympy expression")
    return expression


def _field_of(loss_or_field: Any, variables: tuple[sp.Symbol, ...]) -> Vector:
    if isinstance(loss_or_field, list | tuple | sp.MatrixBase):
        if len(loss_or_field) != len(variables):
            raise InvalidProblem(
                f"the field has {len(loss_or_field)} components for {len(variables)} variables: give one for each"
            )
        components = [_expression(component) for component in loss_or_field]
        if None in components:
            raise InvalidProblem(f"the field is {loss_or_field!r}: give finite sympy expressions as its components")
        return tuple(components)
    loss = checked_expression(loss_or_field)
    _check_names({*variables, *loss.free_symbols})
    return tuple(-sp.diff(loss, v) for v in variables)


def checked_step(h: Any, variables: tuple[sp.Symbol, ...], divides: bool = False) -> sp.Expr:
    """Return the learning rate as a finite sympy expression without the variables; not 0 if it `divides`."""
    step = _expression(h)
    if step is None or (divides and step == 0):
        raise InvalidProblem(f"h is {h!r}: give a symbol or a finite number{', not 0' if divides else ''}")
    _check_names({*variables, *step.free_symbols})
    if step.free_symbols & set(variables):
        raise InvalidProblem(f"h is {h!r}, which is also a variable: rename one of them")
    return step


def explicit(series: "BSeries", loss_or_field: Any, variables: Any, h: Any) -> ExplicitField:
    """Write a B-series out on a loss or field; see :meth:`BSeries.on`.

    A polynomial field stays one: like monomials in θ are added, the coefficients of each are exact and
    reduced, and none is zero. Other fields are sums over the trees, not expanded, since expanding them
    helps neither a reader nor the code generated from them.
    """
    fields, symbols = concrete_fields(loss_or_field, variables, series)
    step = checked_step(h, symbols)
    ring = _ring_of(fields, symbols, series.series.field)
    components = (
        _expressions(series, fields, symbols, step) if ring is None else _polynomials(series, fields, step, ring)
    )
    return ExplicitField(symbols, components, step)


def _expressions(series: "BSeries", fields: list[Vector], symbols: tuple[sp.Symbol, ...], step: sp.Expr) -> Vector:
    differentials = ExplicitDifferentials(fields, symbols)
    components = [[] for _ in symbols]  # type: list[list[sp.Expr]]
    for tree, value in series.coefficients.items():
        if value != 0:
            factor = step ** (tree.order - series.offset) * value / tree.symmetry
            for total, entry in zip(components, differentials.vector(tree), strict=True):
                total.append(factor * entry)
    summed = tuple(sp.Add(*terms) for terms in components)
    polynomial = all(entry.is_polynomial(*symbols) for entry in summed)
    return tuple(sp.expand(entry) for entry in summed) if polynomial else summed


def _ring_of(fields: list[Vector], symbols: tuple[sp.Symbol, ...], field: Domain) -> PolyRing | None:
    """The ring of polynomials in which series with coefficients in `field` can be written out, variables first.

    None if a component is no polynomial in the variables, or has coefficients other than rational functions
    with rational numbers: floats, roots.
    """
    components = [component for vector in fields for component in vector]
    if not all(component.is_polynomial(*symbols) for component in components):
        return None
    given = reduce(lambda K, component: K.unify(sp.Poly(component, *symbols).domain), components, sp.QQ)
    domain = field.unify(given)
    parameters = domain.symbols if domain.is_PolynomialRing else ()
    base = domain.domain if parameters else domain
    ground = base.domain if base.is_FractionField else base
    return PolyRing((*symbols, *parameters), base) if ground.is_QQ else None


def _polynomials(series: "BSeries", fields: list[Vector], step: sp.Expr, ring: PolyRing) -> Vector:
    def element(component: sp.Expr) -> PolyElement:
        return ring.from_dict(sp.Poly(component, *ring.symbols, domain=ring.domain).as_dict(native=True))

    def sum_of_products(products: Iterable[Sequence[PolyElement]]) -> PolyElement:
        return sum((prod(factors, start=ring.one) for factors in products), start=ring.zero)

    elements = [tuple(element(component) for component in vector) for vector in fields]
    dimension = len(elements[0])
    differentials = ExplicitDifferentials(elements, ring.gens[:dimension], sum_of_products)
    K = series.series.field
    levels = [[ring.zero] * dimension for _ in range(series.order + 1)]
    for tree, value in zip(series, series.series.values, strict=True):
        if value:
            scale = ring.domain.convert(value / K(tree.symmetry), K)
            level = levels[tree.order]
            for i, entry in enumerate(differentials.vector(tree)):
                level[i] += entry.mul_ground(scale)

    def terms(component: int) -> Iterable[sp.Expr]:
        for order, level in enumerate(levels[1:], start=1):
            power = step ** (order - series.offset)
            for exponents, coefficient in level[component].terms():
                factors = (symbol**exponent for symbol, exponent in zip(ring.symbols, exponents, strict=True))
                yield sp.Mul(tidy_element(coefficient, ring.domain), power, *factors)

    return tuple(sp.Add(*terms(i)) for i in range(dimension))
