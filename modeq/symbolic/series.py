"""The recursion: coefficients of the modified equation of any method, over all trees, exactly."""

from dataclasses import dataclass
from functools import cached_property
from math import comb, factorial
from typing import Any

import sympy as sp
from sympy.polys.domains.domain import Domain

from modeq.methods.base import GeneralLinearMethod
from modeq.methods.exact import tidy
from modeq.methods.shift_operator import Element, ShiftOperator
from modeq.symbolic.rooted_trees import TreeTable, tree_table

Polynomial = list[Element]  # Σ_k a_k n^k/k!, as the list of a_k


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
        if self.field.is_QQ:
            return [self.field.to_sympy(value) for value in self.values]
        return [tidy(self.field.to_sympy(value)) for value in self.values]


def _restored(table: TreeTable, values: tuple[sp.Expr, ...], extension: tuple[Any, ...]) -> Coefficients:
    K: Domain = getattr(sp.QQ, extension[0])(*extension[1:]) if extension else sp.QQ
    return Coefficients(table, tuple(K.from_sympy(value) for value in values), K)


def modified_coefficients(method: GeneralLinearMethod, order: int, derivative: int = 1) -> Coefficients:
    """Return b(τ) = p_τ'(0) for every tree with at most `order` vertices, or a higher derivative of p_τ at 0.

    p_τ(n) is the coefficient of θ on the slow manifold, see :func:`slow_manifold`. The k-th derivative
    gives θ⁽ᵏ⁾ along the modified flow, as a B-series times h^{−k}.

    Examples
    --------
    >>> import modeq as mq
    >>> [str(b) for b in modified_coefficients(mq.GradientDescent(), 3).expressions]
    ['1', '-1/2', '1/3', '1/6']
    """
    table, polynomials, K = slow_manifold(method, order)
    values = (p[derivative] if derivative < len(p) else K.zero for p in polynomials)
    return Coefficients(table, tuple(values), K)


def map_coefficients(method: GeneralLinearMethod, order: int) -> Coefficients:
    """Return a(τ) = p_τ(1), the one-step map on the slow manifold, for every tree with at most `order` vertices.

    Examples
    --------
    >>> import modeq as mq
    >>> [str(a) for a in map_coefficients(mq.GradientDescent(), 3).expressions]
    ['1', '0', '0', '0']
    """
    table, polynomials, K = slow_manifold(method, order)
    values = (sum((c / K(factorial(k)) for k, c in enumerate(p)), K.zero) for p in polynomials)
    return Coefficients(table, tuple(values), K)


def slow_manifold(method: GeneralLinearMethod, order: int) -> tuple[TreeTable, list[Polynomial], Domain]:
    """Return the polynomials p_τ(n) of θ on the slow manifold, θ_n = θ₀ + Σ h^{|τ|} p_τ(n)/σ(τ) F(τ)(θ₀).

    On the slow manifold every query is a B-series in θ₀ whose coefficients are polynomials in n. With
    τ = u∘v the gradient's coefficient is R_τ = R_u Q_v, where Q are those of the queries; the method's
    operator maps R to Q and to the coefficient p of θ, less one constant so that p(0) = 0. Polynomials are
    kept in divided powers n^k/k!, in which the operator is a shift.

    Examples
    --------
    >>> import modeq as mq
    >>> [[str(c) for c in p] for p in slow_manifold(mq.GradientDescent(), 2)[1]]  # n, and n(n − 1)/2
    [['0', '1'], ['0', '-1/2', '1']]
    """
    operator = ShiftOperator(method)
    K: Domain = operator.field
    table = tree_table(order, method.colour_count, method.decay.keys())
    laurent = operator.laurent(order + 1)
    queries = range(method.query_count)
    seen_by = [[j for j in queries if method.colours[j] == c] for c in range(method.colour_count)]
    distinct = _distinct_queries(method)
    gradients: list[dict[int, Polynomial]] = []
    positions: list[list[Polynomial]] = []
    polynomials: list[Polynomial] = []
    for u, v, colour, size in zip(table.left, table.right, table.root, table.orders, strict=True):
        if u < 0:
            R = {j: [K.one] for j in seen_by[colour]}
        else:
            R = {j: _times(polynomial, positions[v][j], K) for j, polynomial in gradients[u].items()}
        gradients.append(R)
        theta = _apply(laurent, method.query_count, R, size, K)
        Q: list[Polynomial] = []
        if size < order:
            for i in queries:
                if distinct[i] < i:
                    Q.append(Q[distinct[i]])
                    continue
                row = _apply(laurent, i, R, size, K)
                row[0] -= theta[0]
                Q.append(row)
        positions.append(Q)
        theta[0] = K.zero
        polynomials.append(theta)
    return table, polynomials, K


def _distinct_queries(method: GeneralLinearMethod) -> list[int]:
    """For each query the first one at the same point (weight decay repeats the gradient's points)."""
    points = [(tuple(method.C.row(i)), tuple(method.D.row(i))) for i in range(method.query_count)]
    return [points.index(point) for point in points]


def _apply(laurent: list[list[list[Element]]], row: int, R: dict[int, Polynomial], size: int, K: Domain) -> Polynomial:
    """One row of the operator applied to the gradients' polynomials of degree < size."""
    image = [K.zero] * (size + 1)
    for j, polynomial in R.items():
        for k, a in enumerate(polynomial):
            if a:
                for m in range(k + 2):
                    image[k + 1 - m] += laurent[m][row][j] * a
    return image


def _times(a: Polynomial, b: Polynomial, K: Domain) -> Polynomial:
    """The product of two polynomials in divided powers."""
    result = [K.zero] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        if x:
            for j, y in enumerate(b):
                result[i + j] += x * y * comb(i + j, i)
    return result
