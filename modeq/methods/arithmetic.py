"""Polynomials, power series and matrices over a coefficient field, as lists of elements; lowest powers first."""

from typing import Any

import sympy as sp
from sympy.polys.domains.domain import Domain

Element = Any  # of a sympy domain
Vector = list[Element]
Matrix = list[Vector]


def elements(matrix: sp.MatrixBase, K: Domain) -> Matrix:
    """Return the rows of a sympy matrix as elements of the field K.

    Examples
    --------
    >>> elements(sp.Matrix([[1, 2]]), sp.QQ) == [[sp.QQ(1), sp.QQ(2)]]
    True
    """
    return [[K.from_sympy(entry) for entry in matrix.row(i)] for i in range(matrix.rows)]


def matrix_product(a: Matrix, b: Matrix, K: Domain) -> Matrix:
    """Return the product of two matrices, l × m and m × n.

    Examples
    --------
    >>> matrix_product([[1, 2]], [[3], [4]], sp.ZZ)
    [[11]]
    """
    columns = list(zip(*b, strict=True))
    return [[sum((x * y for x, y in zip(row, column, strict=True)), K.zero) for column in columns] for row in a]


def product(a: Vector, b: Vector, K: Domain) -> Vector:
    """Return the product of two polynomials.

    Examples
    --------
    >>> product([1, 1], [1, 1], sp.ZZ)
    [1, 2, 1]
    """
    result = [K.zero] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            result[i + j] += x * y
    return result


def integral(polynomial: Vector, K: Domain) -> Vector:
    """Return the antiderivative that is 0 at 0.

    Examples
    --------
    >>> integral([sp.QQ(1), sp.QQ(2)], sp.QQ) == [0, 1, 1]
    True
    """
    return [K.zero, *(c / K(k + 1) for k, c in enumerate(polynomial))]


def series_product(a: Vector, b: Vector, K: Domain) -> Vector:
    """Return the product of two power series, to as many terms as both have.

    Examples
    --------
    >>> series_product([1, 1, 1], [1, -1], sp.ZZ)
    [1, 0]
    """
    return [sum((a[i] * b[k - i] for i in range(k + 1)), K.zero) for k in range(min(len(a), len(b)))]


def reciprocal(series: Vector, K: Domain) -> Vector:
    """Return the power series 1/series, to as many terms; its first coefficient must not be 0.

    Examples
    --------
    >>> reciprocal([sp.QQ(1), sp.QQ(-1), sp.QQ(0)], sp.QQ) == [1, 1, 1]
    True
    """
    result = [K.one / series[0]]
    for k in range(1, len(series)):
        result.append(-sum((series[m] * result[k - m] for m in range(1, k + 1)), K.zero) / series[0])
    return result


def exponential_series(polynomial: Vector, terms: int, K: Domain) -> Vector:
    """Return the first Taylor coefficients in ζ of a polynomial in z = e^ζ.

    Examples
    --------
    >>> exponential_series([sp.QQ(-1), sp.QQ(1)], 3, sp.QQ) == [0, 1, sp.QQ(1, 2)]
    True
    """
    series, factorial = [], K.one
    for j in range(terms):
        factorial = factorial * K(j) if j else factorial
        series.append(sum((c * K(k**j) for k, c in enumerate(polynomial)), K.zero) / factorial)
    return series
