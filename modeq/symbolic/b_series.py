"""A B-series with exact coefficients, as a mapping from trees: the shape shared by fields and by starts."""

from collections.abc import ItemsView, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

import sympy as sp

from modeq.displays import MOST, Formula
from modeq.errors import InvalidTree
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.exact import FrozenMapping, tidy
from modeq.symbolic.differentials import (
    ElementaryDifferential,
    Notation,
    checked_notation,
    h,
    latex_sum,
    plain,
    printable,
    step_latex,
    text_sum,
)
from modeq.symbolic.explicit_fields import ExplicitField, explicit
from modeq.symbolic.modified_loss import GradientTest, ModifiedLoss, gradient_test, modified_loss
from modeq.symbolic.rooted_trees import Tree, as_tree
from modeq.symbolic.series import Coefficients


class Written(NamedTuple):
    """Something as text and as LaTeX."""

    text: str
    latex: str


@dataclass(frozen=True, eq=False, repr=False)
class BSeries(Formula, Mapping[Tree, sp.Expr]):
    """Σ_τ h^{|τ| − offset} c(τ)/σ(τ) F(τ) over the trees with at most `order` vertices.

    Indexing gives c(τ), *not* divided by the symmetry σ(τ); a tree may be written as nested lists. Two
    series are equal if they have the same coefficients for the same trees, offset and rates of decay,
    whatever they were derived from.

    Attributes
    ----------
    series : the coefficients, in the numbers they are computed with
    offset : 1 for a field, 0 for what is added to θ
    decay : mapping from the colours of weight decay to their rates
    method : what the series was derived from; None for the result of an operation on series
    players : whether the colours are the players of a game, each field being zero outside its own block
    """

    series: Coefficients
    offset: int = 1
    decay: Mapping[int, sp.Expr] = field(default_factory=lambda: FrozenMapping({}))
    method: GeneralLinearMethod | None = None
    players: bool = False

    __array_ufunc__ = None  # a numpy number times a field is the field's product
    _left: ClassVar[Written] = Written("y", "y")
    _first: ClassVar[Written] = Written("", "")
    labels: ClassVar[Mapping[int, str]] = MappingProxyType({})  # indices of colours that are not numbered

    @classmethod
    def of(cls, method: GeneralLinearMethod, series: Coefficients, offset: int | None = None) -> Self:
        """Return the `series` of a `method`, with the usual `offset` of its kind if none is given."""
        return cls(series, cls.offset if offset is None else offset, method.decay, method, method.players)

    @property
    def order(self) -> int:
        """The largest number of vertices of a tree of the series."""
        return self.series.table.order

    @property
    def colour_count(self) -> int:
        """The number of colours."""
        return self.series.table.colours

    def __getitem__(self, tree: Any) -> sp.Expr:
        key = as_tree(tree)
        index = self.series.table.index.get(key)
        if index is not None:
            return self.series.expressions[index]
        unknown = [c for c in key.colours if c >= self.colour_count]
        if unknown:
            raise InvalidTree(
                f"{key!r} has the colour {unknown[0]}, but {self!r} has the colours 0 to {self.colour_count - 1}"
            )
        if key.order > self.order:
            raise InvalidTree(
                f"{key!r} has {key.order} vertices, beyond the truncation order {self.order}: ask for order={key.order}"
            )
        return sp.Integer(0)  # a vertex of weight decay with two children: its derivative vanishes

    def __iter__(self) -> Iterator[Tree]:
        return iter(self.series.table.trees)

    def __len__(self) -> int:
        return len(self.series.table)

    def items(self) -> ItemsView[Tree, sp.Expr]:
        """The pairs (tree, c(τ)), in the order of the table."""
        return _Pairs(self)

    def __repr__(self) -> str:
        source = "" if self.method is None else f"{self.method}, "
        return f"{type(self).__name__}({source}order={self.order}, {len(self)} trees)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BSeries):
            return NotImplemented
        mine, others = (
            (series.order, series.offset, series.colour_count, dict(series.decay), len(series), series.meaning)
            for series in (self, other)
        )
        if mine != others:
            return False
        pairs = zip(self.series.expressions, other.series.expressions, strict=True)
        return all(a == b or sp.cancel(a - b) == 0 for a, b in pairs)

    def __hash__(self) -> int:
        # Equal coefficients may be written differently, so that they take no part.
        return hash((self.order, self.offset, self.colour_count, len(self)))

    def __contains__(self, tree: object) -> bool:
        try:
            return as_tree(tree) in self.series.table.index
        except InvalidTree:
            return False

    @cached_property
    def coefficients(self) -> dict[Tree, sp.Expr]:
        """All coefficients c(τ), not divided by σ(τ)."""
        return dict(self.items())

    @property
    def free_symbols(self) -> frozenset[sp.Symbol]:
        """The symbols in the coefficients and in the rates of weight decay."""
        rates = (rate.free_symbols for rate in self.decay.values())
        return self.series.free_symbols.union(*rates)

    @cached_property
    def field(self) -> sp.Expr:
        """The series as a sympy expression in h, its symbols, and elementary differentials."""
        return sp.Add(
            *(
                h ** (tree.order - self.offset) * value / tree.symmetry * ElementaryDifferential(tree)
                for tree, value in self.coefficients.items()
            )
        )

    def on(self, loss_or_field: Any, variables: Any, h: Any = h) -> ExplicitField:
        """Return the series written out on a concrete loss or vector field.

        Parameters
        ----------
        loss_or_field : sympy expression, or sequence of them
            A loss L (then f = −∇L), or the components of a field f. For a method with several fields, a
            list with one of these per colour, weight decay left out.
        variables : sequence of sympy symbols
            The parameters θ.
        h : symbol or number
            The learning rate.

        Returns
        -------
        ExplicitField, with ``.components`` and ``.lambdify()``.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> x, h = sp.symbols("x h")
        >>> mq.modified_equation(mq.GradientDescent(), order=2).on(x**4 / 4, [x], h=h).components
        (-3*h*x**5/2 - x**3,)
        """
        return explicit(self, loss_or_field, variables, h)

    def gradient_test(self) -> GradientTest:
        """Return whether the truncated field is a gradient for every loss, and up to which order.

        See :func:`modeq.symbolic.modified_loss.gradient_test`.

        Examples
        --------
        >>> import modeq as mq
        >>> test = mq.modified_equation(mq.GradientDescent(), order=3).gradient_test()
        >>> test.holds, test.order
        (False, 2)
        """
        return gradient_test(self)

    def modified_loss(self, order: int | None = None) -> ModifiedLoss:
        """Return L̃ with f̃ = −∇L̃, up to `order`, or the largest order at which f̃ is a gradient.

        Raises
        ------
        NotAGradientFlow
            If the field is no gradient at the order asked for.

        Examples
        --------
        >>> import modeq as mq
        >>> print(mq.modified_equation(mq.GradientDescent(), order=2).modified_loss())
        L + h/4·|g|^2
        """
        return modified_loss(self, order)

    def _terms(self, notation: Notation) -> list[tuple[int, list[tuple[sp.Expr, str]]]]:
        """For each power of h the coefficients and the LaTeX of the differentials, equal ones added."""
        notation = checked_notation(notation)
        own = self.colour_count if self.method is None else self.method.colour_count
        given = {colour: (1, f"w_{{{colour - own}}}") for colour in range(own, self.colour_count)}
        single = own - len(self.decay) == 1
        groups = []
        for size in range(1, self.order + 1):
            weights: dict[str, sp.Expr] = {}
            for tree, value in self.coefficients.items():
                if tree.order == size and value != 0:
                    factor, symbol = printable(tree, notation, self.decay, single, given, self.labels)
                    symbol = self.averaged(tree, symbol)
                    weights[symbol] = weights.get(symbol, sp.Integer(0)) + factor * value / tree.symmetry
            terms = [(tidy(weight), symbol) for symbol, weight in weights.items()]
            groups.append((size - self.offset, [(weight, symbol) for weight, symbol in terms if weight != 0]))
        return groups

    @property
    def meaning(self) -> tuple[Any, ...]:
        """What the colours stand for: series of different meanings are not equal, and cannot be combined."""
        return ("players",) if self.players else ()

    def resolved(self, given: Any) -> "BSeries":
        """Return the series for what is `given` for the colours: a number put in for that of batches, say."""
        return self

    def draws(self, given: Any) -> list[Any]:
        """Return what is `given` for the colours, once for each draw that the series is averaged over."""
        return [given]

    def averaged(self, tree: Tree, symbol: str) -> str:
        """Return the LaTeX `symbol` of the differential of a `tree`, with a sign for what it is averaged over."""
        return symbol

    def latex(self, notation: Notation = "loss") -> str:
        r"""Return the series as LaTeX.

        Parameters
        ----------
        notation : "loss" or "field"
            With g, H and ∇ᵏL for f = −∇L, or with f, f', f''.

        Examples
        --------
        >>> import modeq as mq
        >>> print(mq.modified_equation(mq.GradientDescent(), order=3).latex())
        \dot\theta = -g - \frac{1}{2}\,h\,H g - h^{2}\,\left(\frac{1}{3}\,H H g + \frac{1}{12}\,\nabla^3L[g,g]\right)
        """
        pieces = [(sp.Integer(1), self._first.latex)] if self._first.latex else []
        for power, terms in self._terms(notation):
            step = step_latex(power)
            if power == 0 or len(terms) <= 1:
                pieces += [(weight, step + symbol) for weight, symbol in terms]
            else:
                sign = -1 if all(weight.as_coeff_Mul()[0] < 0 for weight, _ in terms) else 1
                inner = latex_sum([(tidy(sign * weight), symbol) for weight, symbol in terms])
                pieces.append((sp.Integer(sign), rf"{step}\left({inner}\right)"))
        return f"{self._left.latex} = {latex_sum(pieces)}"

    def text(self, notation: Notation = "loss") -> str:
        """Return the series as one line of text, each term as coefficient·differential; ``str`` gives it for a loss.

        Parameters
        ----------
        notation : as in :meth:`BSeries.latex`

        Examples
        --------
        >>> import modeq as mq
        >>> print(mq.modified_equation(mq.GradientDescent(), order=3).text("field"))
        θ' = f - h/2·f'(f) + h**2/3·f'(f'(f)) + h**2/12·f''(f,f)
        """
        pieces = [(sp.Integer(1), self._first.text)] if self._first.text else []
        for power, terms in self._terms(notation):
            pieces += [(h**power * weight, symbol) for weight, symbol in terms]
        return f"{self._left.text} = {text_sum(pieces)}"

    def pretty(self, notation: Notation = "loss") -> str:
        """Return the series as text in two dimensions, with fractions and powers as they are written by hand.

        Parameters
        ----------
        notation : as in :meth:`BSeries.latex`

        Examples
        --------
        >>> import modeq as mq
        >>> print(mq.modified_equation(mq.GradientDescent(), order=2).pretty())
                  H g⋅h
        θ' = -g - ─────
                    2
        """
        terms = [sp.Symbol(self._first.text)] if self._first.text else []
        for power, group in self._terms(notation):
            terms += [weight * h**power * sp.Symbol(plain(symbol)) for weight, symbol in group]
        right = sp.Add(*terms, evaluate=False)
        equation = sp.Eq(sp.Symbol(self._left.text), right, evaluate=False)
        text: str = sp.pretty(equation, order="none", use_unicode=True, wrap_line=False)
        return text

    def _shortened(self) -> tuple["BSeries", int]:
        series, table = self.series, self.series.table
        kept = [i for i, value in enumerate(series.values) if value != 0]
        if len(kept) <= MOST:
            return self, 0
        end = kept[MOST]
        shorter = table.truncated(table.trees[end - 1].order)
        values = (*series.values[:end], *([series.field.zero] * (len(shorter) - end)))
        return replace(self, series=Coefficients(shorter, values, series.field)), len(kept) - MOST


class _Pairs(ItemsView[Tree, sp.Expr]):
    """The pairs of a series, without looking each tree up."""

    _mapping: BSeries

    def __iter__(self) -> Iterator[tuple[Tree, sp.Expr]]:
        return zip(self._mapping, self._mapping.series.expressions, strict=True)
