"""The state-space form: the logarithm of the one-step map, as a vector field on the parameters and the buffers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import mpmath
import sympy as sp

from modeq.displays import MOST, Formula
from modeq.errors import InvalidProblem, InvalidTree
from modeq.methods.arithmetic import Element
from modeq.methods.base import GeneralLinearMethod, require_method
from modeq.methods.composition import coordinates
from modeq.methods.exact import tidy
from modeq.symbolic.differentials import Notation, checked_notation, h, latex_sum, printable, step_latex, text_sum
from modeq.symbolic.explicit_fields import ExplicitDifferentials, ExplicitField, checked_step, concrete_fields
from modeq.symbolic.rooted_trees import Tree, as_tree, checked_order
from modeq.symbolic.step_logarithm import StepLogarithm, Terms
from modeq.symbolic.temporal import require_single_step

Key = tuple[int, Tree]


@dataclass(frozen=True, eq=False, repr=False)
class StateSpaceForm(Formula, Mapping[Key, sp.Expr]):
    """The field on (θ, v₁, …, v_m) whose flow for the time h is one step of the method, to some order.

        θ'   =   Σ_{|τ| ≤ order} h^{|τ|−1} c(0, τ)/σ(τ) F(τ)(θ, v),
        v_i' = − Σ_{|τ| ≤ order} h^{|τ|−2} c(i, τ)/σ(τ) F(τ)(θ, v),    time = h·n.

    The buffers v_i of a method with the states X are −h v_i = X_k − u_k θ, k over all states but the first
    one that enters θ; for torch's heavy ball and Nesterov v is the momentum buffer. The trees have vertices
    of the method's colours and, as leaves only, of the colours ``method.colour_count + i − 1``, which
    stand for −v_i. A tree is counted by all its vertices, so that hv_i is as small as h·f.

    ``form[component, tree]`` is c(component, τ), component 0 for θ and i for v_i, *not* divided by the
    symmetry σ(τ). Each is linear in the logarithms of the parasitic eigenvalues, with coefficients that
    are rational in the entries of the method.

    Attributes
    ----------
    method : GeneralLinearMethod
    order : the largest number of vertices of a tree
    logarithm : the coefficients, in the numbers they are computed with

    Examples
    --------
    >>> import modeq as mq
    >>> form = state_space_form(mq.HeavyBall(momentum=0.5), order=1)
    >>> {(component, tree.text()): c for (component, tree), c in form.items()}
    {(0, '•'): 2 - 2*log(2), (0, '•1'): log(2), (1, '•'): 2*log(2), (1, '•1'): -log(2)}
    """

    method: GeneralLinearMethod
    order: int
    logarithm: StepLogarithm

    def __reduce__(self) -> tuple[Any, ...]:
        # sympy's extensions of ℚ cannot be pickled.
        return state_space_form, (self.method, self.order)

    @property
    def trees(self) -> tuple[Tree, ...]:
        """All trees of the form, by their number of vertices."""
        return self.logarithm.trees

    @property
    def buffer_count(self) -> int:
        """The number m of buffers."""
        return self.method.state_count - 1

    @cached_property
    def _index(self) -> dict[Tree, int]:
        return {tree: i for i, tree in enumerate(self.trees)}

    @cached_property
    def _expressions(self) -> dict[Key, sp.Expr]:
        return {}

    def __getitem__(self, key: Any) -> sp.Expr:
        if not (isinstance(key, tuple) and len(key) == 2) or key[0] not in range(self.buffer_count + 1):
            raise InvalidTree(
                f"{key!r} is no coefficient of {self!r}: give (component, tree) with component 0 for θ, or 1 to "
                f"{self.buffer_count} for a buffer"
            )
        component, tree = int(key[0]), as_tree(key[1])
        if tree not in self._index:
            self._require_meaning(tree)
            return sp.Integer(0)  # a vertex of weight decay with two children: its derivative vanishes
        if (component, tree) not in self._expressions:
            self._expressions[component, tree] = self._expression(self.logarithm.terms[component][self._index[tree]])
        return self._expressions[component, tree]

    def _expression(self, terms: Terms) -> sp.Expr:
        K, poles = self.logarithm.field, self.logarithm.poles
        rational, *factors = (K.to_sympy(c) for c in terms)
        value = sp.Add(rational, *(c * sp.log(pole) for c, pole in zip(factors, poles, strict=True)))
        return _tidied(sp.expand_complex(sp.re(value)) if K.is_Algebraic else value)

    def _require_meaning(self, tree: Tree) -> None:
        colours = self.method.colour_count + self.buffer_count
        if max(tree.colours) >= colours:
            raise InvalidTree(
                f"{tree!r} has the colour {max(tree.colours)}, but {self!r} has {self.method.colour_count} for the "
                f"fields, counted from 0, and {self.buffer_count} for the buffers"
            )
        if any(vertex.children for vertex in _vertices(tree) if vertex.colour >= self.method.colour_count):
            raise InvalidTree(f"{tree!r} has a vertex of a buffer with children: a buffer is a leaf")
        if tree.order > self.order:
            raise InvalidTree(
                f"{tree!r} has {tree.order} vertices, beyond the truncation order {self.order}: ask for "
                f"order={tree.order}"
            )

    def __contains__(self, key: object) -> bool:
        return (
            isinstance(key, tuple)
            and len(key) == 2
            and key[0] in range(self.buffer_count + 1)
            and isinstance(key[1], Tree)
            and key[1] in self._index
        )

    def __iter__(self) -> Iterator[Key]:
        return ((component, tree) for component in range(self.buffer_count + 1) for tree in self.trees)

    def __len__(self) -> int:
        return (self.buffer_count + 1) * len(self.trees)

    def __hash__(self) -> int:
        return hash((self.order, len(self)))

    def __repr__(self) -> str:
        return f"StateSpaceForm({self.method}, order={self.order}, {self.buffer_count} buffers)"

    @cached_property
    def buffer_rows(self) -> sp.ImmutableMatrix:
        """The rows P, buffers × states, with −h v = P X.

        Examples
        --------
        >>> import modeq as mq
        >>> state_space_form(mq.TripleMomentum(0.5, 0.5, 0.25), order=1).buffer_rows
        Matrix([[0, 1]])
        """
        return coordinates(self.method)[0]

    def numbers(self) -> dict[Key, float]:
        """Return the coefficients as floats, evaluated with as many guard digits as they need.

        The rational part and the logarithms cancel heavily as an eigenvalue nears 1.

        Raises
        ------
        InvalidMethod
            If the method has symbols.

        Examples
        --------
        >>> import modeq as mq
        >>> form = state_space_form(mq.HeavyBall(momentum=0.99), order=2)
        >>> form.numbers()[0, mq.Tree([[]])]
        -0.084005...
        """
        self.method.require_numbers()
        evaluate = _Evaluation(self.logarithm)
        rows = enumerate(self.logarithm.terms)
        return {(i, tree): evaluate(c) for i, row in rows for tree, c in zip(self.trees, row, strict=True)}

    def on(self, loss_or_field: Any, variables: Any, h: Any = h, buffers: Any = None) -> ExplicitField:
        """Return the fields of θ and of all v_i written out on a concrete loss or vector field.

        Parameters
        ----------
        loss_or_field, variables, h : as in :meth:`modeq.symbolic.b_series.BSeries.on`
        buffers : sequence of m sequences of symbols, optional
            Names for the components of v₁, …, v_m; by default ``v_x`` for the variable x, and with
            several buffers ``v1_x``, ``v2_x``, ….

        Returns
        -------
        ExplicitField
            On the variables θ, v₁, …, v_m, laid end to end.

        Raises
        ------
        InvalidProblem

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> x, h = sp.symbols("x h")
        >>> state_space_form(mq.HeavyBall(momentum=0.5), order=1).on(x**2 / 2, [x], h=h).components
        (-v_x*log(2) - x*(2 - 2*log(2)), -v_x*log(2)/h + 2*x*log(2)/h)
        """
        fields, symbols = concrete_fields(loss_or_field, variables, self.method)
        names = self._buffer_symbols(symbols, buffers)
        step = checked_step(h, (*symbols, *(name for row in names for name in row)), divides=True)
        differentials = ExplicitDifferentials([*fields, *(tuple(-name for name in row) for row in names)], symbols)
        components: list[sp.Expr] = []
        for component in range(self.buffer_count + 1):
            sums: list[list[sp.Expr]] = [[] for _ in symbols]
            for tree in self.trees:
                if (value := self[component, tree]) != 0:
                    factor = _sign(component) * value / tree.symmetry * step ** _power(component, tree)
                    for total, entry in zip(sums, differentials.vector(tree), strict=True):
                        total.append(factor * entry)
            components += [sp.Add(*total) for total in sums]
        return ExplicitField((*symbols, *(name for row in names for name in row)), tuple(components), step)

    def _buffer_symbols(self, symbols: tuple[sp.Symbol, ...], buffers: Any) -> list[tuple[sp.Symbol, ...]]:
        labels = _labels("v", self.buffer_count)
        if buffers is None:
            buffers = [[sp.Symbol(f"{label}_{symbol}") for symbol in symbols] for label in labels]
        try:
            rows = [tuple(row) for row in buffers]
        except TypeError as error:
            raise InvalidProblem(f"buffers are {buffers!r}: give one sequence of symbols for each buffer") from error
        flat = [*symbols, *(name for row in rows for name in row)]
        if [len(row) for row in rows] != [len(symbols)] * self.buffer_count or not all(
            isinstance(name, sp.Symbol) for name in flat
        ):
            raise InvalidProblem(
                f"buffers are {buffers!r}: give {self.buffer_count} sequences of {len(symbols)} symbols each"
            )
        if len(set(flat)) < len(flat) or set(flat) & self.method.free_symbols:
            raise InvalidProblem(
                f"the variables and buffers {flat} must be distinct, and no coefficients of {self.method}: rename them"
            )
        return rows

    def latex(self, notation: Notation = "loss") -> str:
        r"""Return the equations as LaTeX.

        Parameters
        ----------
        notation : "loss" or "field"
            With g, H and ∇ᵏL for f = −∇L, or with f, f', f''.

        Examples
        --------
        >>> import modeq as mq
        >>> print(state_space_form(mq.GradientDescent(), order=2).latex())
        \dot{\theta} = -g - \frac{1}{2}\,h\,H g
        """
        lines = []
        for component, name in enumerate((r"\theta", *_labels("v", self.buffer_count, "{}_{{{}}}"))):
            pieces = [(value, step_latex(power) + text) for power, value, text in self._printed(component, notation)]
            lines.append(rf"\dot{{{name}}} = {latex_sum(pieces)}")
        return r",\qquad ".join(lines)

    def text(self) -> str:
        """Return a line for θ and one for each buffer; ``str`` gives them too.

        Examples
        --------
        >>> import modeq as mq
        >>> print(state_space_form(mq.HeavyBall(momentum=0.5), order=1))
        θ' = (-2 + 2*log(2))·g - log(2)·v
        v' = 2*log(2)/h·g - log(2)/h·v
        """
        lines = []
        for component, name in enumerate(("θ", *_labels("v", self.buffer_count, "{}_{}"))):
            pieces = [(h**power * value, symbol) for power, value, symbol in self._printed(component, "loss")]
            lines.append(f"{name}' = {text_sum(pieces)}")
        return "\n".join(lines)

    def _shortened(self) -> tuple["StateSpaceForm", int]:
        counts = [0] * (self.order + 1)
        for terms in self.logarithm.terms:
            for tree, factors in zip(self.trees, terms, strict=True):
                counts[tree.order] += any(factors)
        totals = list(accumulate(counts))
        order = max([1, *(k for k, total in enumerate(totals) if total <= MOST)])
        if order >= self.order:
            return self, 0
        return state_space_form(self.method, order), totals[-1] - totals[order]

    def _printed(self, component: int, notation: Notation) -> list[tuple[int, sp.Expr, str]]:
        """The terms of one component: a power of h, a coefficient, and the LaTeX of a differential."""
        notation, count = checked_notation(notation), self.method.colour_count
        buffers = {count + i: (-1, name) for i, name in enumerate(_labels("v", self.buffer_count, "{}_{{{}}}"))}
        single = count - len(self.method.decay) == 1
        totals: dict[tuple[int, str], sp.Expr] = {}
        for tree in self.trees:
            if (value := self[component, tree]) != 0:
                factor, symbol = printable(tree, notation, self.method.decay, single, buffers)
                key = (_power(component, tree), symbol)
                weight = _sign(component) * factor * value / tree.symmetry
                totals[key] = _tidied(totals[key] + weight) if key in totals else weight
        return [(power, value, symbol) for (power, symbol), value in totals.items() if value != 0]


def _tidied(expression: sp.Expr) -> sp.Expr:
    """A rational function of symbols and of logarithms of them, factored; sums of numbers are left alone."""
    if not expression.free_symbols:
        return expression
    marks = {atom: sp.Dummy("log") for atom in expression.atoms(sp.Function)}
    return tidy(expression.xreplace(marks)).xreplace({mark: atom for atom, mark in marks.items()})


def _sign(component: int) -> int:
    return -1 if component else 1


def _power(component: int, tree: Tree) -> int:
    """The power of h in front of F(τ)."""
    return tree.order - (2 if component else 1)


def _labels(name: str, count: int, pattern: str = "{}{}") -> list[str]:
    return [name] if count == 1 else [pattern.format(name, i + 1) for i in range(count)]


def _vertices(tree: Tree) -> Iterator[Tree]:
    yield tree
    for child in tree.children:
        yield from _vertices(child)


class _Evaluation:
    """c₀ + Σ c_i ln λ_i as a float, with more digits until cancellation leaves enough of them."""

    def __init__(self, logarithm: StepLogarithm) -> None:
        self.field, self.poles = logarithm.field, logarithm.poles
        self._constants: dict[int, tuple[Any, list[Any]]] = {}

    def __call__(self, terms: Terms) -> float:
        digits = 40
        while True:
            with mpmath.workdps(digits):
                generator, logs = self._at(digits)
                products = [self._number(c, generator) * log for c, log in zip(terms, logs, strict=True)]
                total = mpmath.re(mpmath.fsum(products))
                if max(map(abs, products)) * mpmath.mpf(10) ** (20 - digits) <= abs(total):
                    return float(total)
            if digits > 1000:
                return 0.0  # logarithms of dependent eigenvalues that cancel exactly
            digits *= 2

    def _at(self, digits: int) -> tuple[Any, list[Any]]:
        """The generator of the field (1 for ℚ), and the factors of the terms: 1 and the logarithms."""
        if digits not in self._constants:
            numbers = [sp.N(self.field.ext if self.field.is_Algebraic else 1, digits + 5)]
            numbers += [sp.N(sp.log(pole), digits + 5) for pole in self.poles]
            generator, *logs = (mpmath.mpmathify(number) for number in numbers)
            self._constants[digits] = generator, [mpmath.mpf(1), *logs]
        return self._constants[digits]

    def _number(self, value: Element, generator: Any) -> Any:
        coefficients = value.to_list() if self.field.is_Algebraic else [value]
        return mpmath.polyval([mpmath.mpf(int(q.numerator)) / int(q.denominator) for q in coefficients], generator)


def state_space_form(method: GeneralLinearMethod, order: int) -> StateSpaceForm:
    """Derive the logarithm of the one-step map of a method, on its parameters and all its buffers.

    The iterates from any θ₀ and v₀ are series in f and v, whose coefficients are sums of μⁿ·poly(n), μ
    the products of the eigenvalues of A. With μⁿ = e^{n ln μ} they are a flow, and the derivative at
    n = 0 is its field. The linear part in v is the matrix logarithm of A. The flow starts at the
    method's own (θ₀, v₀), without an initial layer, and passes within O(h^order) of the iterates.

    It is of use for momentum near 1 too: as β → 1 the coefficients of the heavy ball stay bounded, and
    tend to those of the modified equation of the symplectic Euler method; on quadratics the series
    converges for h·λ < (1 + √β)², up to the stability limit nearly.

    Parameters
    ----------
    method : GeneralLinearMethod
    order : positive int
        The largest number of f plus the number of v in a term.

    Returns
    -------
    StateSpaceForm
        A mapping from (component, tree) to exact coefficients.

    Raises
    ------
    NoTimeDerivativeForm
        If an eigenvalue is 0 or negative, so that there is no real logarithm, or if complex ones have a
        common power up to `order` but different powers of their logarithms. Symbols must stand for
        values with positive eigenvalues.
    NotZeroStable, InvalidOrder, InvalidMethod

    Notes
    -----
    Source for the logarithms of B-series: Hairer, Lubich, Wanner, *Geometric Numerical Integration*, IX.9; the
    symplectic Euler method: IX.3; parasitic components beside the slow manifold: XV.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> form = state_space_form(mq.HeavyBall(momentum=sp.Symbol("beta")), order=2)
    >>> form[1, [[]]], form[1, [(1, [])]]
    ((beta*log(beta) - 2*beta + log(beta) + 2)/(1 - beta)**3, -(beta*log(beta) - beta + 1)/(1 - beta)**2)
    """
    require_method(method)
    number = checked_order(order)
    method.require_zero_stable()
    require_single_step(method)
    return StateSpaceForm(method, number, StepLogarithm(method, number))
