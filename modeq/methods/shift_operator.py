"""The operator G(e^{d/dn}) of a method on polynomials in the step number n, exactly.

It is the one place where a method's coefficients become a series; the symbolic layer applies it to
tree polynomials, the numeric layer to gradient values.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from math import comb
from typing import Any

import sympy as sp
from sympy.polys.domains.domain import Domain

from modeq.methods.base import GeneralLinearMethod, require_method
from modeq.methods.exact import coefficient_field

Element = Any  # an element of the coefficient field
Series = Callable[[list[Element], int, Domain], list[Element]]


class ShiftOperator:
    """The operator of a method on polynomials of the step number n.

    If the fields seen by the queries are polynomials F_j(n), then on the slow manifold query i is at
    Σ_j G_ij(e^{d/dn}) F_j, with G the transfer function and

        G(e^ζ) = g₋₁/ζ + g₀ + g₁ ζ + …,    1/ζ read as ∫₀ⁿ.

    Parameters
    ----------
    method : GeneralLinearMethod
        Strictly zero-stable (for symbols: assumed to satisfy its conditions).

    Attributes
    ----------
    field : the coefficient field, ℚ or ℚ(symbols), as a sympy domain.

    Examples
    --------
    >>> import modeq as mq
    >>> operator = ShiftOperator(mq.GradientDescent())
    >>> [str(g[0][0]) for g in operator.laurent(4)]
    ['1', '-1/2', '1/12', '0']
    """

    def __init__(self, method: GeneralLinearMethod) -> None:
        require_method(method)
        method.require_zero_stable()
        self.method = method
        self.field: Domain = coefficient_field(method.entries)

    @cached_property
    def _rational(self) -> tuple[list[list[list[Element]]], list[Element]]:
        """Numerators of all rows (queries, then θ) and the denominator, as polynomials in z, lowest first."""
        K, method = self.field, self.method

        def elements(matrix: sp.MatrixBase) -> list[list[Element]]:
            return [[K.from_sympy(entry) for entry in matrix.row(i)] for i in range(matrix.rows)]

        A, B = elements(method.A), elements(method.B)
        rows = [*elements(method.C), *elements(method.readout)]
        feedthrough = [*elements(method.D), [K.zero] * method.query_count]
        denominator, adjugate = _adjugate(A, K)
        numerators = []
        for row, direct in zip(rows, feedthrough, strict=True):
            left = [_product([row], matrix, K)[0] for matrix in adjugate]
            columns = [[_product([r], B, K)[0][j] for r in left] for j in range(method.query_count)]
            numerators.append(
                [
                    [(c[k] if k < len(c) else K.zero) + d * denominator[k] for k in range(len(denominator))]
                    for c, d in zip(columns, direct, strict=True)
                ]
            )
        return numerators, denominator

    def laurent(self, terms: int) -> list[list[list[Element]]]:
        """Return the coefficients g₋₁, g₀, …, `terms` of them.

        Each is a matrix (queries + 1) × queries of elements of :attr:`field`; its last row belongs to
        the parameters θ.
        """
        return self._expansion(_exponential_series, terms)

    def difference_expansion(self, terms: int) -> list[list[list[Element]]]:
        """Return γ₋₁, γ₀, …, `terms` of them, of G = γ₋₁/Δ + γ₀ + γ₁Δ + …, with the forward difference Δ = z − 1.

        They have the shape of :meth:`laurent`'s.

        Examples
        --------
        >>> import modeq as mq
        >>> operator = ShiftOperator(mq.HeavyBall(momentum=0.5))
        >>> [str(g[0][0]) for g in operator.difference_expansion(4)]
        ['2', '-2', '4', '-8']
        """
        return self._expansion(_difference_series, terms)

    def _expansion(self, series: Series, terms: int) -> list[list[list[Element]]]:
        """The Laurent coefficients of G, where `series` expands a polynomial in z about z = 1."""
        K = self.field
        numerators, denominator = self._rational
        inverse = _reciprocal(series(denominator, terms + 1, K)[1:], K)
        result = [[[K.zero] * self.method.query_count for _ in numerators] for _ in range(terms)]
        for i, row in enumerate(numerators):
            for j, polynomial in enumerate(row):
                top = series(polynomial, terms, K)
                for k in range(terms):
                    result[k][i][j] = sum((top[m] * inverse[k - m] for m in range(k + 1)), K.zero)
        return result

    def collocation(
        self, nodes: Sequence[sp.Expr], positions: Sequence[sp.Expr] | None = None
    ) -> tuple[list[sp.Matrix], list[sp.Matrix]]:
        """Return the operator on values at `nodes`, exact on polynomials of degree below their number.

        For a method whose queries are all at θ: from values F_c(n_l) of each colour c,

            θ(m_j) − θ(0) = h Σ_c Σ_l M^c_jl F_c(n_l),    h⁻¹ dθ/dn (0) = Σ_c Σ_l d^c_l F_c(n_l).

        Parameters
        ----------
        nodes : sequence of distinct numbers or expressions n_l, in steps
        positions : the m_j; the nodes themselves by default

        Returns
        -------
        Two lists with one entry per colour: the matrices M (positions × nodes) and the rows d.

        Examples
        --------
        The three-term field of gradient descent, (11 F₀ − 7 F₁ + 2 F₂)/6:

        >>> import modeq as mq
        >>> ShiftOperator(mq.GradientDescent()).collocation([0, 1, 2])[1][0]
        Matrix([[11/6, -7/6, 1/3]])
        """
        count = len(nodes)
        at = list(nodes if positions is None else positions)
        laurent = self.laurent(count + 1)
        vandermonde = sp.Matrix(count, count, lambda row, k: nodes[row] ** k / sp.factorial(k))
        to_coefficients = vandermonde.inv()
        matrices, rows = [], []
        for colour in range(self.method.colour_count):
            g = [
                self.field.to_sympy(
                    sum(
                        (level[-1][j] for j, c in enumerate(self.method.colours) if c == colour),
                        self.field.zero,
                    )
                )
                for level in laurent
            ]
            # n^k/k! goes to Σ_m g_{m-1} n^{k+1-m}/(k+1-m)!, less its value at n = 0.
            image = sp.Matrix(
                len(at),
                count,
                lambda row, k, g=g: sum(g[m] * at[row] ** (k + 1 - m) / sp.factorial(k + 1 - m) for m in range(k + 1)),
            )
            matrices.append((image * to_coefficients).applyfunc(sp.cancel))
            rows.append((sp.Matrix([g[:count]]) * to_coefficients).applyfunc(sp.cancel))
        return matrices, rows


def _product(a: list[list[Element]], b: list[list[Element]], K: Domain) -> list[list[Element]]:
    return [
        [sum((x * y for x, y in zip(row, column, strict=True)), K.zero) for column in zip(*b, strict=True)] for row in a
    ]


def _adjugate(A: list[list[Element]], K: Domain) -> tuple[list[Element], list[list[list[Element]]]]:
    """det(zI − A) and adj(zI − A), as coefficients of powers of z, lowest first (Faddeev–LeVerrier)."""
    size = len(A)
    polynomial = [K.one]
    M = [[K.one if i == j else K.zero for j in range(size)] for i in range(size)]
    adjugate = [M]
    for k in range(1, size + 1):
        AM = _product(A, M, K)
        c = -sum((AM[i][i] for i in range(size)), K.zero) / K(k)
        polynomial.append(c)
        M = [[AM[i][j] + (c if i == j else K.zero) for j in range(size)] for i in range(size)]
        adjugate.append(M)
    return polynomial[::-1], adjugate[:size][::-1]


def _exponential_series(polynomial: list[Element], terms: int, K: Domain) -> list[Element]:
    """Taylor coefficients in ζ of a polynomial in z = e^ζ."""
    series, factorial = [], K.one
    for j in range(terms):
        factorial = factorial * K(j) if j else factorial
        series.append(sum((c * K(k**j) for k, c in enumerate(polynomial)), K.zero) / factorial)
    return series


def _difference_series(polynomial: list[Element], terms: int, K: Domain) -> list[Element]:
    """Coefficients in Δ of a polynomial in z = 1 + Δ."""
    return [sum((c * K(comb(k, j)) for k, c in enumerate(polynomial)), K.zero) for j in range(terms)]


def _reciprocal(series: list[Element], K: Domain) -> list[Element]:
    """The power series 1/series; its first coefficient is not zero."""
    result = [K.one / series[0]]
    for k in range(1, len(series)):
        result.append(-sum((series[m] * result[k - m] for m in range(1, k + 1)), K.zero) / series[0])
    return result
