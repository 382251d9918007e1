"""The recursion: coefficients of the modified equation of any method, over all trees, exactly."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, reduce
from math import comb, factorial, lcm
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray
from sympy.functions.combinatorial.numbers import stirling
from sympy.polys.domains.domain import Domain

from modeq.methods.arithmetic import Element
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.exact import tidy_element
from modeq.methods.shift_operator import ShiftOperator
from modeq.symbolic.rooted_trees import TreeTable, tree_table

Array = NDArray[Any]  # of int64 while that is exact, of Python integers, or of polynomials over the integers

Linear = Callable[[Array, int], Array]


@dataclass(frozen=True, eq=False)
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
        elif K.is_EX:
            extension = ("EX",)
        return _restored, (self.table, tuple(K.to_sympy(value) for value in self.values), extension)

    @property
    def free_symbols(self) -> frozenset[sp.Symbol]:
        """The symbols of the field of coefficients."""
        if self.field.is_FractionField:
            return frozenset(self.field.symbols)
        return frozenset() if self.field.is_QQ else frozenset().union(*(v.free_symbols for v in self.expressions))

    @cached_property
    def expressions(self) -> list[sp.Expr]:
        """The coefficients as sympy expressions, factored."""
        # Many trees share one value, and the recursion hands out one object for all of them.
        different = {id(value): value for value in self.values}
        found = {key: tidy_element(value, self.field) for key, value in different.items()}
        return [found[id(value)] for value in self.values]


def _restored(table: TreeTable, values: tuple[sp.Expr, ...], extension: tuple[Any, ...]) -> Coefficients:
    K: Domain = sp.QQ
    if extension:
        K = sp.EX if extension[0] == "EX" else getattr(sp.QQ, extension[0])(*extension[1:])
    return Coefficients(table, tuple(K.from_sympy(value) for value in values), K)


def modified_coefficients(method: GeneralLinearMethod, order: int, derivative: int = 1) -> Coefficients:
    """Return b(τ) = p_τ'(0) for every tree with at most `order` vertices, or a higher derivative of p_τ at 0.

    p_τ(n) is the coefficient of θ on the slow manifold, see :class:`SlowManifold`. The k-th derivative
    gives θ⁽ᵏ⁾ along the modified flow, as a B-series times h^{−k}. For a method that counts several steps in
    one application, n counts those steps.

    Examples
    --------
    >>> import modeq as mq
    >>> [str(b) for b in modified_coefficients(mq.GradientDescent(), 3).expressions]
    ['1', '-1/2', '1/3', '1/6']
    """
    manifold = SlowManifold(method, order)
    # The derivative of C(n, k) at 0, with Stirling numbers of the first kind.
    weights = [
        Fraction(
            factorial(derivative) * int(stirling(k, derivative, kind=1, signed=True)),
            factorial(k) * method.steps**derivative,
        )
        for k in range(1, order + 1)
    ]
    return manifold.functional(weights)


def map_coefficients(method: GeneralLinearMethod, order: int) -> Coefficients:
    """Return a(τ) = p_τ(1), the one-step map on the slow manifold, for every tree with at most `order` vertices.

    Examples
    --------
    >>> import modeq as mq
    >>> [str(a) for a in map_coefficients(mq.GradientDescent(), 3).expressions]
    ['1', '0', '0', '0']
    """
    manifold = SlowManifold(method, order)
    return manifold.functional([Fraction(k == 1) for k in range(1, order + 1)])


class SlowManifold:
    """The recursion: polynomials p_τ(n) with θ_n = θ₀ + Σ h^{|τ|} p_τ(n)/σ(τ) F(τ)(θ₀) on the slow manifold.

    There every query is a B-series in θ₀ whose coefficients are polynomials in n. With τ = u∘v the
    gradient's coefficient is R_τ = R_u Q_v, where Q are those of the queries; the method's operator maps R
    to Q and to the coefficient p of θ, less one constant so that p(0) = 0.

    Polynomials are kept as their values at n = 0, …, order − 1, for all trees of one order together: an
    array trees × queries × nodes, so that products are entrywise. With z = 1 + Δ, Δ the forward
    difference, the operator is G = γ₋₁/Δ + γ₀ + γ₁Δ + …, and 1/Δ is a running sum. All numbers are integers,
    or polynomials in the symbols with integer coefficients: γ_j has the denominator W σ^{j+2} at most, with
    σ/ρ = Π(1 − p_i) over the parasitic eigenvalues and one W for all. R is scaled by (Wσ²)^{|τ|−1} and Q by
    (Wσ²)^{|τ|}; then ΔᵏR and ΔᵏQ can be divided by σᵏ, since each power of n takes one σ less. The highest
    order needs no Q.

    Examples
    --------
    >>> import modeq as mq
    >>> manifold = SlowManifold(mq.GradientDescent(), 2)
    >>> manifold.functional([Fraction(0), Fraction(1)]).expressions  # p = n for •, C(n, 2) for [•]
    [0, 1]
    """

    def __init__(self, method: GeneralLinearMethod, order: int) -> None:
        operator = ShiftOperator(method)
        self.method, self.order, self.field = method, order, operator.field
        self.table = tree_table(order, method.colour_count, method.decay.keys())
        K = self.field
        parasitic = [_fraction(K.from_sympy(c), K) for c in method.parasitic_polynomial.monic().all_coeffs()]
        common = reduce(_lcm, (bottom for _, bottom in parasitic))
        self._sigma = sum(top * _quotient(common, bottom) for top, bottom in parasitic)
        expansion = [
            [[_fraction(g * _element(self._sigma, K) ** (j + 1), K) for g in row] for row in level]
            for j, level in enumerate(operator.difference_expansion(order + 1))
        ]
        self._W = reduce(_lcm, (bottom for level in expansion for row in level for _, bottom in row))
        # W σ^{j+2} γ_j, counted from j = −1.
        self._gammas = [
            [[top * _quotient(self._W, bottom) for top, bottom in row] for row in level] for level in expansion
        ]
        self._distinct = _distinct_queries(method)
        self._gradients: list[Array] = []
        self._positions: list[Array] = []
        operate = self._compiled(self._operated)
        for size in range(1, order):
            R = np.concatenate(list(self._products(size)))
            self._gradients.append(R)
            self._positions.append(operate(R, size))

    def _products(self, size: int) -> Iterator[Array]:
        """R for the trees with `size` vertices, in pieces: one for each order of the left factor."""
        level = self.table.level(size)
        if size == 1:
            seen = self.table.root[level, None] == np.array(self.method.colours)
            yield np.repeat(seen[:, :, None], self.order, axis=2).astype(np.int64)
            return
        left, right = self.table.left[level], self.table.right[level]
        for part in range(1, size):
            piece = slice(*np.searchsorted(left, self.table.starts[part : part + 2]))
            u = self._gradients[part - 1][left[piece] - self.table.starts[part]]
            v = self._positions[size - part - 1][right[piece] - self.table.starts[size - part]]
            yield _exact(u, v, 1) * v

    def _compiled(self, function: Linear) -> Linear:
        """The same linear function of R as one matrix, where that has whole entries: for σ = 1."""
        if self._sigma != 1:
            return function
        entries = self.method.query_count * self.order
        images = function(np.eye(entries, dtype=object).reshape(entries, -1, self.order), self.order)
        matrix = _narrow(images.reshape(entries, -1))

        def compiled(R: Array, size: int) -> Array:
            image = _exact(R.reshape(len(R), -1), matrix, entries) @ matrix
            return image.reshape(len(R), *images.shape[1:])

        return compiled

    def _differences(self, R: Array, size: int) -> list[Array]:
        """ΔᵏR(0)/σᵏ for k < size, which is the degree and one."""
        R = R.astype(object)
        result = []
        for k in range(size):
            result.append(_divided(R[..., 0], self._sigma**k))
            R = R[..., 1:] - R[..., :-1]
        return result

    def _shifted(self, D: list[Array], row: int, power: int) -> Array:
        """The `power`-th difference at 0, over σ^power, of one row of the operator applied to R."""
        total = np.zeros(len(D[0]), dtype=object)
        for k in range(max(power - 1, 0), len(D)):
            for j, g in enumerate(self._gammas[k + 1 - power][row]):
                if g:
                    total = total + D[k][:, j] * g
        return total

    def _operated(self, R: Array, size: int) -> Array:
        """Q of every query, at the nodes."""
        D = self._differences(R, size)
        constant = self._shifted(D, self.method.query_count, 0)
        Q = np.zeros(R.shape, dtype=object)
        for i, first in enumerate(self._distinct):
            if first < i:
                Q[:, i] = Q[:, first]
                continue
            for power in range(min(size + 1, self.order)):
                difference = self._shifted(D, i, power) * self._sigma**power
                for n in range(power, self.order):
                    Q[:, i, n] += difference * comb(n, power)
            Q[:, i] -= constant[:, None]
        return Q

    def functional(self, weights: Sequence[Fraction]) -> Coefficients:
        """Return Σ_k weight_k·(the k-th forward difference of p_τ at 0) for every tree, k = 1, …, order."""
        K, row = self.field, self.method.query_count
        common = lcm(*(weight.denominator for weight in weights))
        whole = [int(weight * common) for weight in weights]

        def numerators(R: Array, size: int) -> Array:
            D = self._differences(R, size)
            total = np.zeros(len(R), dtype=object)
            for power, weight in enumerate(whole[:size], start=1):
                if weight:
                    total = total + self._shifted(D, row, power) * (weight * self._sigma**power)
            return total

        function = self._compiled(numerators)
        values: list[Element] = []
        scale = common
        for size in range(1, self.order + 1):
            scale = scale * self._W * self._sigma**2
            found: dict[Element, Element] = {}  # many trees share one value
            for R in [self._gradients[size - 1]] if size < self.order else self._products(size):
                for numerator in function(R, size).tolist():
                    if numerator not in found:
                        found[numerator] = _element(numerator, K) / _element(scale, K)
                    values.append(found[numerator])
        return Coefficients(self.table, tuple(values), K)


def _narrow(array: Array) -> Array:
    """The array in 64-bit integers, if its entries are integers and fit."""
    fits = all(isinstance(x, int) and -(2**63) < x < 2**63 for x in array.flat)
    return array.astype(np.int64) if fits else array


def _exact(a: Array, b: Array, terms: int) -> Array:
    """The array a, wide enough for sums of so many products of its entries and those of b."""
    if a.dtype == object or b.dtype == object:
        return a.astype(object)
    bound = int(np.abs(a).max(initial=0)) * int(np.abs(b).max(initial=0)) * terms
    return a if bound < 2**63 else a.astype(object)


def _distinct_queries(method: GeneralLinearMethod) -> list[int]:
    """For each query the first one at the same point (weight decay repeats the gradient's points)."""
    points = [(tuple(method.C.row(i)), tuple(method.D.row(i))) for i in range(method.query_count)]
    return [points.index(point) for point in points]


def _fraction(value: Element, K: Domain) -> tuple[Element, Element]:
    """Numerator and denominator of an element of the field, as integers or polynomials over the integers."""
    if K.is_QQ:
        return int(value.numerator), int(value.denominator)
    (below, top), (above, bottom) = value.numer.clear_denoms(), value.denom.clear_denoms()
    ring = K.field.ring.clone(domain=sp.ZZ)
    top, bottom = top.set_ring(ring) * above, bottom.set_ring(ring) * below
    common = top.gcd(bottom)
    return top.exquo(common), bottom.exquo(common)


def _element(value: Element, K: Domain) -> Element:
    """An integer, or a polynomial over the integers, as an element of the field."""
    return K(value) if isinstance(value, int) else K.field(value.set_ring(K.field.ring))


def _lcm(a: Element, b: Element) -> Element:
    return lcm(a, b) if isinstance(a, int) else a.lcm(b)


def _quotient(a: Element, b: Element) -> Element:
    """a/b, where b divides a: an error otherwise, for integers as for polynomials."""
    if not isinstance(a, int):
        return a.exquo(b)
    quotient, remainder = divmod(a, b)
    if remainder:
        raise ArithmeticError(f"{b} does not divide {a}")
    return quotient


def _divided(array: Array, divisor: Element) -> Array:
    """Every entry over a common factor."""
    if divisor == 1:
        return array
    quotients = (x and _quotient(x, divisor) for x in array.flat)
    # Not np.array, which looks for sequences among its entries.
    return np.fromiter(quotients, dtype=object, count=array.size).reshape(array.shape)
