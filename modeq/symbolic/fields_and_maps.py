"""B-series as objects that can be computed with: fields, and maps of the parameters."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import sympy as sp

from modeq.errors import InvalidSeries, InvalidTree
from modeq.methods.base import RESERVED
from modeq.methods.exact import exact
from modeq.symbolic import algebra, structure
from modeq.symbolic.b_series import BSeries, Written
from modeq.symbolic.modified_loss import ModifiedLoss, gradient_part
from modeq.symbolic.rooted_trees import Tree, TreeTable, as_tree, checked_order, tree_table
from modeq.symbolic.series import Coefficients


class _Computable(BSeries):
    """What fields and maps have in common."""

    @classmethod
    def from_coefficients(cls, coefficients: Mapping[Any, Any], order: int, colours: int = 1) -> Self:
        """Return the series with given coefficients c(τ), not divided by σ(τ), and 0 for every other tree.

        Parameters
        ----------
        coefficients : mapping from trees to numbers or rational functions of symbols
        order : positive int
            Trees with at most this many vertices.
        colours : positive int
            The number of fields.

        Raises
        ------
        InvalidTree
            If a tree has more vertices, or another colour.

        Examples
        --------
        >>> import modeq as mq
        >>> mq.BSeriesField.from_coefficients({mq.Tree([]): 1, mq.Tree([[]]): -0.5}, order=3)[[[]]]
        -1/2
        """
        table = tree_table(checked_order(order), checked_order(colours, "colours"))
        if not isinstance(coefficients, Mapping):
            raise InvalidSeries(f"coefficients is {coefficients!r}: give a mapping from trees to numbers")
        given = {as_tree(tree): exact(value, f"the coefficient of {tree!r}") for tree, value in coefficients.items()}
        for tree in given:
            if tree not in table.index:
                raise InvalidTree(
                    f"{tree!r} is not among the trees with at most {order} vertices in {colours} colour(s): raise "
                    "order or colours"
                )
        return cls(series_of(table, given), cls.offset)

    def _beside(self, other: Any, kind: type["_Computable"]) -> int:
        """The order to which it can be combined with a series of a kind; an error if it cannot."""
        if not isinstance(other, kind):
            raise InvalidSeries(f"{other!r} is no {kind.__name__}: build one with {kind.__name__}.from_coefficients")
        order = min(self.order, other.order)
        mine, others = (
            (series.colour_count, dict(series.decay), series.series.table.starts[: order + 2], series.meaning)
            for series in (self, other)
        )
        if mine != others:
            raise InvalidSeries(
                f"{self!r} and {other!r} are series of different fields: give them the same number of colours, the "
                "same rates of weight decay and the same given vectors, of one loss, one game, or as many batches"
            )
        return order

    def _one_field(self) -> Mapping[Tree, sp.Expr]:
        structure.one_field(self)
        return self.coefficients

    def truncated(self, order: int) -> Self:
        """Return the series with the trees of at most `order` vertices only.

        Examples
        --------
        >>> import modeq as mq
        >>> equation = mq.modified_equation(mq.GradientDescent(), order=5)
        >>> equation.truncated(3) == mq.modified_equation(mq.GradientDescent(), order=3)
        True
        """
        number = min(checked_order(order), self.order)
        table = self.series.table.truncated(number)
        return replace(self, series=Coefficients(table, self.series.values[: len(table)], self.series.field))

    def of_colour(self, colour: int) -> Self:
        """Return the part whose trees have a root of one colour: how the block of one player moves.

        Trees in which all vertices have that colour are the self terms of a player, the others its interaction
        with the other players.

        Parameters
        ----------
        colour : int from 0
            The number of the player.

        Raises
        ------
        InvalidTree
            If the series lacks the colour.

        Examples
        --------
        Of the two players of a game the second one, who sees what the first has just done:

        >>> import modeq as mq
        >>> game = mq.Alternating([mq.GradientDescent(), mq.GradientDescent()])
        >>> second = mq.modified_equation(game, order=2).of_colour(1)
        >>> print(second)
        f̃ = -g_2 + h/2·H_2 g_1 - h/2·H_2 g_2
        >>> {tree: b for tree, b in second.items() if tree.colour == 1 and tree.colours != {1}}
        {Tree(1, [(0, [])]): 1/2}
        """
        if isinstance(colour, bool) or not isinstance(colour, int) or not 0 <= colour < self.colour_count:
            raise InvalidTree(f"colour is {colour!r}: {self!r} has the colours 0 to {self.colour_count - 1}")
        return self._result({tree: c for tree, c in self.items() if tree.colour == colour}, self.order)

    def rescaled(self, factor: Any) -> Self:
        """Return the series with `factor`·h for h.

        Examples
        --------
        A symmetric method has a modified equation in even powers of h:

        >>> import modeq as mq, sympy as sp
        >>> midpoint = mq.modified_equation(mq.RungeKutta([[sp.Rational(1, 2)]], [1]), order=4)
        >>> midpoint.rescaled(-1) == midpoint
        True
        """
        number = exact(factor, "factor")
        return self._result({tree: number ** (tree.order - self.offset) * c for tree, c in self.items()}, self.order)

    def _result(self, coefficients: Mapping[Tree, sp.Expr], order: int) -> Self:
        """A series of the same kind and fields, derived from no method."""
        kind: Any = BSeriesField if isinstance(self, BSeriesField) else BSeriesMap
        series = series_of(self.series.table.truncated(order), coefficients)
        result: Self = kind(series, self.offset, self.decay, players=self.players)
        return result


class BSeriesField(_Computable):
    """A vector field Σ_τ h^{|τ|−1} b(τ)/σ(τ) F(τ).

    ``field[tree]`` is b(τ), *not* divided by the symmetry σ(τ). Fields are added, subtracted and multiplied
    by numbers; two fields of different orders give one of the lower order.

    Notes
    -----
    Built by :meth:`from_coefficients`. Source: Hairer, Lubich, Wanner, *Geometric Numerical Integration*, III.1.

    Examples
    --------
    >>> import modeq as mq
    >>> f = mq.BSeriesField.from_coefficients({mq.Tree([]): 1}, order=3)
    >>> drift = mq.modified_equation(mq.GradientDescent(), order=3) - f
    >>> drift[[]], drift[[[]]]
    (0, -1/2)
    >>> (2 * f).exponential() == f.exponential() @ f.exponential()
    True
    """

    offset: int = 1
    _left = Written("f̃", r"\tilde f")

    def __add__(self, other: Any) -> "BSeriesField":
        order = self._beside(other, BSeriesField)
        return self._result({t: c + other[t] for t, c in self.items() if t.order <= order}, order)

    def __neg__(self) -> "BSeriesField":
        return self._result({tree: -c for tree, c in self.items()}, self.order)

    def __sub__(self, other: Any) -> "BSeriesField":
        order = self._beside(other, BSeriesField)
        return self._result({t: c - other[t] for t, c in self.items() if t.order <= order}, order)

    def __mul__(self, factor: Any) -> "BSeriesField":
        number = exact(factor, "factor")
        return self._result({tree: number * c for tree, c in self.items()}, self.order)

    __rmul__ = __mul__

    def exponential(self) -> "BSeriesMap":
        """Return the map of the field's flow over the time h; see :func:`modeq.symbolic.algebra.flow_map`.

        Examples
        --------
        >>> import modeq as mq
        >>> equation = mq.modified_equation(mq.HeavyBall(momentum=0.5), order=4)
        >>> equation.exponential() == mq.memoryless_map(mq.HeavyBall(momentum=0.5), order=4)
        True
        """
        weights = algebra.flow_map(self.coefficients, self.order)
        return BSeriesMap(series_of(self.series.table, weights), 0, self.decay, players=self.players)

    def adjoint(self) -> "BSeriesField":
        """Return the field of the adjoint method: the same with −h for h.

        Examples
        --------
        >>> import modeq as mq
        >>> implicit = mq.modified_equation(mq.ImplicitEuler(), order=4)
        >>> mq.modified_equation(mq.GradientDescent(), order=4).adjoint() == implicit
        True
        """
        return self.rescaled(-1)

    def substitute(self, field: "BSeriesField") -> "BSeriesField":
        """Return this series with the elementary differentials of `field` instead of those of f.

        For one colour. If this is the modified equation of a method, the result is that of the method run on
        `field`. See :func:`modeq.symbolic.algebra.substitute`.

        Notes
        -----
        Source: Chartier, Hairer, Vilmart 2010, *Algebraic structures of B-series* (Found. Comput. Math. 10).

        Examples
        --------
        >>> import modeq as mq
        >>> descent, f = mq.GradientDescent(), mq.BSeriesField.from_coefficients({mq.Tree([]): 1}, order=4)
        >>> mq.modified_equation(descent, order=4).substitute(mq.modifying_equation(descent, order=4)) == f
        True
        """
        order = self._beside(field, BSeriesField)
        return self._result(algebra.substitute(field._one_field(), self._one_field(), order), order)

    def substitution_inverse(self) -> "BSeriesField":
        """Return the field whose substitution into this one gives f; for one colour.

        See :func:`modeq.symbolic.algebra.substitution_inverse`.

        Examples
        --------
        >>> import modeq as mq
        >>> equation = mq.modified_equation(mq.GradientDescent(), order=4)
        >>> equation.substitution_inverse() == mq.modifying_equation(mq.GradientDescent(), order=4)
        True
        """
        return self._result(algebra.substitution_inverse(self._one_field(), self.order), self.order)

    def gradient_part(self) -> tuple[ModifiedLoss, "BSeriesField"]:
        """Return L̃ and the remainder of the field, f̃ = −∇L̃ + remainder, for f = −∇L.

        On each unrooted tree the gradient part has the mean of b(τ) over all vertices taken as the root. The
        remainder vanishes exactly where :meth:`gradient_test` holds.

        Examples
        --------
        The third order of gradient descent, 1/3·HHg + 1/12·∇³L[g,g], has a part that is no gradient:

        >>> import modeq as mq
        >>> loss, remainder = mq.modified_equation(mq.GradientDescent(), order=3).gradient_part()
        >>> print(loss)
        L + h/4·|g|^2 + 5*h**2/36·⟨g,H g⟩
        >>> {tree: b for tree, b in remainder.items() if b}
        {Tree([[[]]]): 1/18, Tree([[], []]): -1/9}
        """
        loss, remainder = gradient_part(self)
        return loss, self._result(remainder, self.order)

    def order_of_accuracy(self) -> int:
        """Return the largest p, at most the order of the series, with f̃ = f + O(hᵖ), and 0 if f̃ = f + O(1).

        Examples
        --------
        >>> import modeq as mq
        >>> mq.modified_equation(mq.LinearMultistep([0, -1, 1], [-0.5, 1.5]), order=5).order_of_accuracy()
        2
        """
        return structure.largest_order(lambda p: structure.is_exact_field(self.coefficients, p), self.order)

    def is_hamiltonian(self) -> bool:
        """Whether the field is Hamiltonian whenever f is; see :func:`modeq.symbolic.structure.is_hamiltonian`.

        Examples
        --------
        >>> import modeq as mq
        >>> midpoint, euler = mq.RungeKutta([[0.5]], [1]), mq.GradientDescent()
        >>> [mq.modified_equation(method, order=4).is_hamiltonian() for method in (midpoint, euler)]
        [True, False]
        """
        return structure.is_hamiltonian(self._one_field(), self.order)

    def hamiltonian_order(self) -> int:
        """Return the largest p, at most the order of the series, to which the field is Hamiltonian whenever f is.

        Examples
        --------
        >>> import modeq as mq
        >>> mq.modified_equation(mq.RungeKutta([[0, 0], [0.5, 0]], [0, 1]), order=4).hamiltonian_order()
        2
        """
        weights = self._one_field()
        return structure.largest_order(lambda p: structure.is_hamiltonian(weights, p), self.order)

    def is_energy_preserving(self) -> bool:
        """Whether it preserves H for f = J∇H; see :func:`modeq.symbolic.structure.is_energy_preserving`.

        Examples
        --------
        The exact flow does, symplectic methods do not:

        >>> import modeq as mq
        >>> f = mq.BSeriesField.from_coefficients({mq.Tree([]): 1}, order=4)
        >>> f.is_energy_preserving(), mq.modified_equation(mq.RungeKutta([[0.5]], [1]), order=4).is_energy_preserving()
        (True, False)
        """
        return structure.is_energy_preserving(self._one_field(), self.order)

    def energy_preserving_order(self) -> int:
        """Return the largest p, at most the order of the series, to which it preserves H for f = J∇H.

        Examples
        --------
        >>> import modeq as mq
        >>> mq.modified_equation(mq.RungeKutta([[0, 0], [0.5, 0]], [0, 1]), order=4).energy_preserving_order()
        2
        """
        weights = self._one_field()
        return structure.largest_order(lambda p: structure.is_energy_preserving(weights, p), self.order)

    def is_even(self) -> bool:
        """Whether it is the same for −h as for h, as for symmetric methods."""
        return structure.is_even(self.coefficients, self.order)


class BSeriesMap(_Computable):
    """A map θ⁺ = θ + Σ_τ h^{|τ|} a(τ)/σ(τ) F(τ)(θ).

    ``map[tree]`` is a(τ), *not* divided by the symmetry σ(τ). ``second @ first`` is `second` after `first`.

    Notes
    -----
    Built by :meth:`from_coefficients`. Source: Hairer, Lubich, Wanner, *Geometric Numerical Integration*, III.1.

    Examples
    --------
    >>> import modeq as mq
    >>> step = mq.memoryless_map(mq.GradientDescent(), order=3)
    >>> (step @ step).coefficients
    {Tree([]): 2, Tree([[]]): 1, Tree([[[]]]): 0, Tree([[], []]): 1}
    """

    offset: int = 0
    _left = Written("θ⁺", r"\theta^+")
    _first = Written("θ", r"\theta")

    def __matmul__(self, first: "BSeriesMap") -> "BSeriesMap":
        order = self._beside(first, BSeriesMap)
        return self._result(algebra.compose(first.coefficients, self.coefficients, order), order)

    def inverse(self) -> "BSeriesMap":
        """Return the inverse map.

        Examples
        --------
        >>> import modeq as mq
        >>> step = mq.memoryless_map(mq.GradientDescent(), order=4)
        >>> set((step.inverse() @ step).coefficients.values())
        {0}
        """
        return self._result(algebra.inverse(self.coefficients, self.order), self.order)

    def adjoint(self) -> "BSeriesMap":
        """Return the adjoint map: the inverse, with −h for h.

        Examples
        --------
        >>> import modeq as mq
        >>> implicit = mq.memoryless_map(mq.ImplicitEuler(), order=4)
        >>> mq.memoryless_map(mq.GradientDescent(), order=4).adjoint() == implicit
        True
        """
        return self._result(algebra.adjoint(self.coefficients, self.order), self.order)

    def logarithm(self) -> BSeriesField:
        """Return the field whose flow over the time h is the map: its modified equation.

        Examples
        --------
        >>> import modeq as mq
        >>> step = mq.memoryless_map(mq.HeavyBall(momentum=0.5), order=4)
        >>> step.logarithm() == mq.modified_equation(mq.HeavyBall(momentum=0.5), order=4)
        True
        """
        weights = algebra.logarithm(self.coefficients, self.order)
        return BSeriesField(series_of(self.series.table, weights), 1, self.decay, players=self.players)

    def substitute(self, field: BSeriesField) -> "BSeriesMap":
        """Return the map with `field` instead of f, for one colour; see :meth:`BSeriesField.substitute`.

        Examples
        --------
        Gradient descent on its modifying equation is the exact flow:

        >>> import modeq as mq
        >>> f = mq.BSeriesField.from_coefficients({mq.Tree([]): 1}, order=4)
        >>> step = mq.memoryless_map(mq.GradientDescent(), order=4)
        >>> step.substitute(mq.modifying_equation(mq.GradientDescent(), order=4)) == f.exponential()
        True
        """
        order = self._beside(field, BSeriesField)
        return self._result(algebra.substitute(field._one_field(), self._one_field(), order), order)

    def is_symplectic(self) -> bool:
        """Whether the map is symplectic for f = J∇H; see :func:`modeq.symbolic.structure.is_symplectic`.

        Examples
        --------
        >>> import modeq as mq
        >>> midpoint, euler = mq.RungeKutta([[0.5]], [1]), mq.GradientDescent()
        >>> [mq.memoryless_map(method, order=4).is_symplectic() for method in (midpoint, euler)]
        [True, False]
        """
        return structure.is_symplectic(self._one_field(), self.order)

    def symplectic_order(self) -> int:
        """Return the largest p, at most the order of the series, to which the map is symplectic for f = J∇H.

        Examples
        --------
        Of the explicit midpoint rule, which is of second order:

        >>> import modeq as mq
        >>> mq.memoryless_map(mq.RungeKutta([[0, 0], [0.5, 0]], [0, 1]), order=4).symplectic_order()
        2
        """
        weights = self._one_field()
        return structure.largest_order(lambda p: structure.is_symplectic(weights, p), self.order)

    def order_of_accuracy(self) -> int:
        """Return the largest p, at most the order of the series, to which the map is the flow of f over the time h.

        Examples
        --------
        >>> import modeq as mq
        >>> mq.memoryless_map(mq.RungeKutta([[0, 0], [0.5, 0]], [0, 1]), order=4).order_of_accuracy()
        2
        """
        return structure.largest_order(lambda p: structure.is_exact_flow(self.coefficients, p), self.order)


def series_of(table: TreeTable, weights: Mapping[Tree, sp.Expr]) -> Coefficients:
    """Return coefficients in the smallest field that holds them; 0 for trees that are not among the weights.

    Examples
    --------
    >>> series_of(tree_table(2), {Tree([]): sp.Rational(1, 2)}).expressions
    [1/2, 0]
    """
    values = [weights.get(tree, sp.Integer(0)) for tree in table.trees]
    taken = sorted({symbol.name for value in values for symbol in value.free_symbols} & RESERVED)
    if taken:
        raise InvalidSeries(
            f"a coefficient has the symbol {taken[0]}: the names {', '.join(sorted(RESERVED))} are reserved for the "
            "learning rate and for variables of equations; rename the symbol"
        )
    K, elements = algebra.in_one_field(values)
    return Coefficients(table, tuple(elements), K)
