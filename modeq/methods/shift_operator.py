"""The operator G(e^{d/dn}) of a method on polynomials in the step number n, exactly.

It is the one place where a method's coefficients become a series; the symbolic layer applies it to
tree polynomials, the numeric layer to gradient values.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from math import comb

import sympy as sp
from sympy.polys.domains.domain import Domain

from modeq.methods.arithmetic import (
    Matrix,
    Vector,
    elements,
    exponential_series,
    matrix_product,
    reciprocal,
    series_product,
)
from modeq.methods.base import GeneralLinearMethod, require_method
from modeq.methods.exact import coefficient_field

Series = Callable[[Vector, int, Domain], Vector]


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
    def _rational(self) -> tuple[list[Matrix], Vector]:
        """Numerators of all rows (queries, then θ) and the denominator, as polynomials in z, lowest first."""
        K, method = self.field, self.method
        A, B = elements(method.A, K), elements(method.B, K)
        rows = [*elements(method.C, K), *elements(method.readout, K)]
        feedthrough = [*elements(method.D, K), [K.zero] * method.query_count]
        denominator, adjugate = _adjugate(A, K)
        numerators = []
        for row, direct in zip(rows, feedthrough, strict=True):
            left = [matrix_product([row], matrix, K)[0] for matrix in adjugate]
            columns = list(zip(*matrix_product(left, B, K), strict=True))
            numerators.append(
                [
                    [(c[k] if k < len(c) else K.zero) + d * denominator[k] for k in range(len(denominator))]
                    for c, d in zip(columns, direct, strict=True)
                ]
            )
        return numerators, denominator

    def laurent(self, terms: int) -> list[Matrix]:
        """Return the coefficients g₋₁, g₀, …, `terms` of them.

        Each is a matrix (queries + 1) × queries of elements of :attr:`field`; its last row belongs to
        the parameters θ.
        """
        return self._expansion(exponential_series, terms)

    def readout_laurent(self, terms: int) -> dict[int, Vector]:
        """Return for each colour the first `terms` of g₋₁, g₀, … from its field to θ, its queries added.

        Examples
        --------
        >>> import modeq as mq
        >>> [str(g) for g in ShiftOperator(mq.HeavyBall(momentum=0.5)).readout_laurent(3)[0]]
        ['2', '-3', '25/6']
        """
        return {
            colour: [
                sum((level[-1][j] for j, c in enumerate(self.method.colours) if c == colour), self.field.zero)
                for level in self.laurent(terms)
            ]
            for colour in range(self.method.colour_count)
        }

    def difference_expansion(self, terms: int) -> list[Matrix]:
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

    def _expansion(self, series: Series, terms: int) -> list[Matrix]:
        """The Laurent coefficients of G, where `series` expands a polynomial in z about z = 1."""
        K = self.field
        numerators, denominator = self._rational
        inverse = reciprocal(series(denominator, terms + 1, K)[1:], K)
        result = [[[K.zero] * self.method.query_count for _ in numerators] for _ in range(terms)]
        for i, row in enumerate(numerators):
            for j, polynomial in enumerate(row):
                for k, g in enumerate(series_product(series(polynomial, terms, K), inverse, K)):
                    result[k][i][j] = g
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
        laurent = self.readout_laurent(count + 1)
        vandermonde = sp.Matrix(count, count, lambda row, k: nodes[row] ** k / sp.factorial(k))
        to_coefficients = vandermonde.inv()
        matrices, rows = [], []
        for colour in range(self.method.colour_count):
            g = [self.field.to_sympy(c) for c in laurent[colour]]
            # n^k/k! goes to Σ_m g_{m-1} n^{k+1-m}/(k+1-m)!, less its value at n = 0.
            image = sp.Matrix(
                len(at),
                count,
                lambda row, k, g=g: sum(g[m] * at[row] ** (k + 1 - m) / sp.factorial(k + 1 - m) for m in range(k + 1)),
            )
            matrices.append((image * to_coefficients).applyfunc(sp.cancel))
            rows.append((sp.Matrix([g[:count]]) * to_coefficients).applyfunc(sp.cancel))
        return matrices, rows


def _adjugate(A: Matrix, K: Domain) -> tuple[Vector, list[Matrix]]:
    """det(zI − A) and adj(zI − A), as coefficients of powers of z, lowest first (Faddeev–LeVerrier)."""
    size = len(A)
    polynomial = [K.one]
    M = [[K.one if i == j else K.zero for j in range(size)] for i in range(size)]
    adjugate = [M]
    for k in range(1, size + 1):
        AM = matrix_product(A, M, K)
        c = -sum((AM[i][i] for i in range(size)), K.zero) / K(k)
        polynomial.append(c)
        M = [[AM[i][j] + (c if i == j else K.zero) for j in range(size)] for i in range(size)]
        adjugate.append(M)
    return polynomial[::-1], adjugate[:size][::-1]


def _difference_series(polynomial: Vector, terms: int, K: Domain) -> Vector:
    """Coefficients in Δ of a polynomial in z = 1 + Δ."""
    return [sum((c * K(comb(k, j)) for k, c in enumerate(polynomial)), K.zero) for j in range(terms)]
