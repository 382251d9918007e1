"""The recursion: coefficients of the modified equation of any method, over all trees, exactly."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from math import comb, factorial, lcm
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray
from sympy.polys.domains.domain import Domain

from modeq.methods.base import GeneralLinearMethod
from modeq.methods.exact import tidy_element
from modeq.methods.shift_operator import Element, ShiftOperator
from modeq.symbolic.rooted_trees import TreeTable, tree_table

Array = NDArray[np.object_]


@dataclass(frozen=True)
class Coefficients:
    """One exact coefficient per tree of a table."""

    table: TreeTable
    values: tuple[Element, ...]
    field: Domain

    def __reduce__(self) -> tuple[Any, ...]:
        # sympy's extensions of ℚ cannot be pickled; how they were made, and expressions, can.
        K = self.field
        extension: tuple[Any, ...] = ()
        if K.is_FractionField:
            extension = ("frac_field", *K.symbols)
        elif K.is_Algebraic:
            extension = ("algebraic_field", *K.orig_ext)
        return _restored, (self.table, tuple(K.to_sympy(value) for value in self.values), extension)

    @cached_property
    def expressions(self) -> list[sp.Expr]:
        """The coefficients as sympy expressions, factored."""
        return [tidy_element(value, self.field) for value in self.values]


def _restored(table: TreeTable, values: tuple[sp.Expr, ...], extension: tuple[Any, ...]) -> Coefficients:
    K: Domain = getattr(sp.QQ, extension[0])(*extension[1:]) if extension else sp.QQ
    return Coefficients(table, tuple(K.from_sympy(value) for value in values), K)


def modified_coefficients(method: GeneralLinearMethod, order: int, derivative: int = 1) -> Coefficients:
    """Return b(τ) = p_τ'(0) for every tree with at most `order` vertices, or a higher derivative of p_τ at 0.

    p_τ(n) is the coefficient of θ on the slow manifold, see :class:`SlowManifold`. The k-th derivative
    gives θ⁽ᵏ⁾ along the modified flow, as a B-series times h^{−k}.

    Examples
    --------
    >>> import modeq as mq
    >>> [str(b) for b in modified_coefficients(mq.GradientDescent(), 3).expressions]
    ['1', '-1/2', '1/3', '1/6']
    """
    manifold = SlowManifold(method, order)
    return manifold.functional({derivative: 1})


def map_coefficients(method: GeneralLinearMethod, order: int) -> Coefficients:
    """Return a(τ) = p_τ(1), the one-step map on the slow manifold, for every tree with at most `order` vertices.

    Examples
    --------
    >>> import modeq as mq
    >>> [str(a) for a in map_coefficients(mq.GradientDescent(), 3).expressions]
    ['1', '0', '0', '0']
    """
    manifold = SlowManifold(method, order)
    K = manifold.field
    return manifold.functional({k: K.one / K(factorial(k)) for k in range(1, order + 1)})


class SlowManifold:
    """The recursion: polynomials p_τ(n) with θ_n = θ₀ + Σ h^{|τ|} p_τ(n)/σ(τ) F(τ)(θ₀) on the slow manifold.

    There every query is a B-series in θ₀ whose coefficients are polynomials in n. With τ = u∘v the
    gradient's coefficient is R_τ = R_u Q_v, where Q are those of the queries; the method's operator maps R
    to Q and to the coefficient p of θ, less one constant so that p(0) = 0.

    Polynomials are kept in divided powers n^k/k!, in which the operator is a shift, for all trees of one
    order together: an array trees × queries × coefficients. The coefficients are integers, or polynomials
    in the symbols, without denominators: g_{m−1} has the denominator s^{m+1} W at most, with
    s = Π(1 − p_i) over the parasitic eigenvalues and one W for all, and each vertex applies the operator
    once, so that the k-th coefficient of Q is scaled by W^{|τ|} s^{2|τ|−k}, and of R by W^{|τ|−1} s^{2(|τ|−1)−k}.
    The highest order needs no Q.

    Examples
    --------
    >>> import modeq as mq
    >>> manifold = SlowManifold(mq.GradientDescent(), 2)
    >>> manifold.functional({1: 1}).expressions, manifold.functional({2: 1}).expressions  # n(n − 1)/2 for [•]
    ([1, -1/2], [0, 1])
    """

    def __init__(self, method: GeneralLinearMethod, order: int) -> None:
        operator = ShiftOperator(method)
        self.method, self.order, self.field = method, order, operator.field
        self.table = tree_table(order, method.colour_count, method.decay.keys())
        K = self.field
        self._s = K.from_sympy(method.parasitic_polynomial.eval(1) / method.parasitic_polynomial.LC())
        laurent = operator.laurent(order + 1)
        scaled = [[[g * self._s ** (m + 1) for g in row] for row in level] for m, level in enumerate(laurent)]
        denominators = [g.denominator if K.is_QQ else g.denom for level in scaled for row in level for g in row]
        self._W = _least_common_multiple(denominators, K)
        self._laurent = [[[_whole(g * self._W, K) for g in row] for row in level] for level in scaled]
        self._zero: Element = 0 if K.is_QQ else K.field.ring.zero
        self._distinct = _distinct_queries(method)
        self._gradients = self._recursion()

    def _recursion(self) -> list[Array]:
        """R for the trees of each order 1, 2, …, `order`."""
        left, right = np.array(self.table.left), np.array(self.table.right)
        orders, roots = np.array(self.table.orders), np.array(self.table.root)
        starts = np.searchsorted(orders, np.arange(self.order + 2))
        sees = np.array(self.method.colours)
        zero = self._zero
        one = zero + 1
        gradients: list[Array] = []
        positions: list[Array] = []
        for size in range(1, self.order + 1):
            level = slice(starts[size], starts[size + 1])
            R = np.full((starts[size + 1] - starts[size], len(sees), size), zero, dtype=object)
            if size == 1:
                R[roots[level][:, None] == sees[None, :], 0] = one
            else:
                for part in range(1, size):
                    rows = np.nonzero(orders[left[level]] == part)[0]
                    u = left[level][rows] - starts[part]
                    v = right[level][rows] - starts[size - part]
                    R[rows] = _times(gradients[part - 1][u], positions[size - part - 1][v], zero)
            gradients.append(R)
            if size < self.order:
                positions.append(self._positions(R))
        return gradients

    def _positions(self, R: Array) -> Array:
        """Q of every query, from R."""
        count, queries, size = R.shape
        constant = self._image(R, queries, 0)
        Q = np.full((count, queries, size + 1), self._zero, dtype=object)
        for i, first in enumerate(self._distinct):
            if first < i:
                Q[:, i] = Q[:, first]
            else:
                for power in range(size + 1):
                    Q[:, i, power] = self._image(R, i, power)
                Q[:, i, 0] -= constant
        return Q

    def _image(self, R: Array, row: int, power: int) -> Array:
        """The coefficient of n^power/power! in one row of the operator applied to R.

        n^k/k! goes to Σ_m g_{m−1} n^{k+1−m}/(k + 1 − m)!.
        """
        total = np.full(len(R), self._zero, dtype=object)
        for k in range(max(power - 1, 0), R.shape[2]):
            for j in range(R.shape[1]):
                g = self._laurent[k + 1 - power][row][j]
                if g:
                    total = total + R[:, j, k] * g
        return total

    def functional(self, weights: Mapping[int, Any]) -> Coefficients:
        """Return Σ_k weight_k·(the k-th derivative of p_τ at 0) for every tree, k ≥ 1."""
        K, row = self.field, self.method.query_count
        values: list[Element] = []
        for size, R in enumerate(self._gradients, start=1):
            totals: list[Element] = [K.zero] * len(R)
            for power, weight in weights.items():
                if power <= size:
                    factor = K.convert(weight) / (self._W**size * self._s ** (2 * size - power))
                    image = self._image(R, row, power)
                    totals = [total + factor * x if x else total for total, x in zip(totals, image, strict=True)]
            values += totals
        return Coefficients(self.table, tuple(values), K)


def _least_common_multiple(denominators: list[Element], K: Domain) -> Element:
    if K.is_QQ:
        return K(lcm(*(int(d) for d in denominators)))
    return K.field.new(reduce(lambda a, b: a.lcm(b), denominators))


def _whole(value: Element, K: Domain) -> Element:
    """An element of the field without denominator, as an integer or a polynomial."""
    if K.is_QQ:
        return int(value)
    return value.numer.mul_ground(1 / value.denom.LC)


def _distinct_queries(method: GeneralLinearMethod) -> list[int]:
    """For each query the first one at the same point (weight decay repeats the gradient's points)."""
    points = [(tuple(method.C.row(i)), tuple(method.D.row(i))) for i in range(method.query_count)]
    return [points.index(point) for point in points]


def _times(a: Array, b: Array, zero: Element) -> Array:
    """The products of polynomials in divided powers, along the last axis."""
    result = np.full((*a.shape[:-1], a.shape[-1] + b.shape[-1] - 1), zero, dtype=object)
    for i in range(a.shape[-1]):
        for j in range(b.shape[-1]):
            factor = comb(i + j, i)
            result[..., i + j] += a[..., i] * b[..., j] if factor == 1 else a[..., i] * b[..., j] * factor
    return result
