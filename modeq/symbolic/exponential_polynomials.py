"""Sequences Σ μⁿ·poly(n), exactly: what iterates are before their parasitic parts have died out.

An eigenvalue 0 gives a part that lives on finitely many n; it is kept as a head of explicit values.
"""

from dataclasses import dataclass
from functools import cached_property
from math import comb, factorial, prod
from typing import Any

import sympy as sp
from sympy.polys.domains.domain import Domain

from modeq.errors import InvalidMethod
from modeq.methods.arithmetic import Element, Matrix, Vector, elements, matrix_product, product, series_product

LARGEST_NUMBER_FIELD = 4  # its degree; sympy finds the one of a cubic and its roots, of degree 6, in minutes if at all

Tail = dict[Element, Vector]  # μ -> coefficients of n⁰, n¹, …


@dataclass(frozen=True)
class Sequence:
    """Values head[n] for n < len(head), and Σ_μ μⁿ·tail[μ](n) from there on."""

    head: tuple[Element, ...]
    tail: Tail
    field: Domain

    def at(self, n: int) -> Element:
        """The value at n."""
        if n < len(self.head):
            return self.head[n]
        return sum((mu**n * _evaluate(p, n, self.field) for mu, p in self.tail.items()), self.field.zero)

    def __mul__(self, other: "Sequence") -> "Sequence":
        length = max(len(self.head), len(other.head))
        tail: Tail = {}
        for mu, p in self.tail.items():
            for nu, q in other.tail.items():
                _add(tail, mu * nu, product(p, q, self.field))
        return Sequence(tuple(self.at(n) * other.at(n) for n in range(length)), tail, self.field)

    @property
    def slow_start(self) -> Element:
        """The part without parasitic factors, at n = 0."""
        return self.tail.get(self.field.one, [self.field.zero])[0]


def combine(coefficients: Vector, sequences: list[Sequence], K: Domain) -> Sequence:
    """Σ coefficient·sequence."""
    pairs = [(c, s) for c, s in zip(coefficients, sequences, strict=True) if c]
    length = max((len(s.head) for _, s in pairs), default=0)
    tail: Tail = {}
    for c, s in pairs:
        for mu, p in s.tail.items():
            _add(tail, mu, [c * x for x in p])
    return Sequence(tuple(sum((c * s.at(n) for c, s in pairs), K.zero) for n in range(length)), tail, K)


class LinearRecurrence:
    """X(n+1) = A X(n) + V(n), solved for sequences V.

    Parameters
    ----------
    A : square matrix over `field`
    field : coefficient field; it is extended if the eigenvalues of A are irrational numbers

    Raises
    ------
    InvalidMethod
        If the eigenvalues depend on symbols and are no rational functions of them.
    """

    def __init__(self, A: sp.MatrixBase, field: Domain) -> None:
        self.field, self.eigenvalues = _split(A, field)
        self.one = self.field.one  # the factor μ of what does not grow or decay
        self.A = elements(A, self.field)

    def solve(self, first: Vector, forcing: list[Sequence]) -> list[Sequence]:
        """Return the sequences X with X(0) = `first`."""
        K, size = self.field, len(self.A)
        transient = max(len(s.head) for s in forcing)
        length = transient + self.eigenvalues.get(K.zero, 0)
        values = [first]
        for n in range(length):
            step = [s.at(n) for s in forcing]
            values.append([a + b for a, b in zip(_apply(self.A, values[-1], K), step, strict=True)])
        tails: list[Tail] = [{} for _ in range(size)]
        for mu in {mu for s in forcing for mu in s.tail}:
            for i, polynomial in enumerate(self._particular(mu, [s.tail.get(mu, []) for s in forcing])):
                _add(tails[i], mu, polynomial)
        particular = [Sequence((), tail, K).at(length) for tail in tails]
        rest = [a - b for a, b in zip(values[length], particular, strict=True)]
        for mu, polynomials in self._homogeneous(rest, length).items():
            for i, polynomial in enumerate(polynomials):
                _add(tails[i], mu, polynomial)
        return [Sequence(tuple(v[i] for v in values[:length]), tails[i], K) for i in range(size)]

    def _particular(self, mu: Element, forcing: list[Vector]) -> list[Vector]:
        """Polynomials Y with μ Y(n+1) − A Y(n) = V(n); at a resonance their degree is higher."""
        K, size = self.field, len(self.A)
        degree = max(len(p) for p in forcing) + self.eigenvalues.get(mu, 0)
        rows, right = [], []
        for k in range(degree):
            for i in range(size):
                row = [K.zero] * (size * degree)
                for m in range(k, degree):
                    row[m * size + i] += mu * K(comb(m, k))
                for j in range(size):
                    row[k * size + j] -= self.A[i][j]
                rows.append(row)
                right.append(forcing[i][k] if k < len(forcing[i]) else K.zero)
        solution = _solve(rows, right, K)
        return [[solution[k * size + i] for k in range(degree)] for i in range(size)]

    @cached_property
    def _projections(self) -> dict[Element, list[Matrix]]:
        """For each eigenvalue μ ≠ 0 the matrices (A − μ)ʲ P_μ, j below its multiplicity."""
        K, size = self.field, len(self.A)
        result = {}
        for mu, multiplicity in self.eigenvalues.items():
            if mu == K.zero:
                continue
            others = [nu for nu, m in self.eigenvalues.items() if nu != mu for _ in range(m)]
            Q = [[K.one if i == j else K.zero for j in range(size)] for i in range(size)]
            taylor = [K.one] + [K.zero] * (multiplicity - 1)  # of Π 1/(z − ν) about μ
            for nu in others:
                Q = matrix_product(self._minus(nu), Q, K)
                inverse = [K(-1) ** k / (mu - nu) ** (k + 1) for k in range(multiplicity)]
                taylor = series_product(taylor, inverse, K)
            shifted = self._minus(mu)
            powers = [Q]
            for _ in range(multiplicity - 1):
                powers.append(matrix_product(shifted, powers[-1], K))
            zero = [[K.zero] * size for _ in range(size)]
            projections = []
            for j in range(multiplicity):
                total = zero
                for k in range(multiplicity - j):
                    total = [
                        [t + taylor[k] * p for t, p in zip(r, q, strict=True)]
                        for r, q in zip(total, powers[j + k], strict=True)
                    ]
                projections.append(total)
            result[mu] = projections
        return result

    def _minus(self, mu: Element) -> Matrix:
        return [[a - mu if i == j else a for j, a in enumerate(row)] for i, row in enumerate(self.A)]

    def _homogeneous(self, value: Vector, at: int) -> dict[Element, list[Vector]]:
        """Aⁿ⁻ᵃᵗ value as exponential polynomials in n."""
        K = self.field
        result = {}
        for mu, projections in self._projections.items():
            polynomials = [[K.zero] * len(projections) for _ in value]
            for j, projection in enumerate(projections):
                part = _apply(projection, value, K)
                for k, c in enumerate(_shifted_binomial(at, j)):
                    factor = K.from_sympy(c) / mu ** (at + j)
                    for i, x in enumerate(part):
                        polynomials[i][k] += factor * x
            result[mu] = polynomials
        return result


def _shifted_binomial(at: int, j: int) -> list[sp.Rational]:
    """Coefficients of the polynomial binomial(n − at, j) in n."""
    n = sp.Symbol("n")
    polynomial = sp.Poly(sp.Mul(*(n - at - k for k in range(j))) / factorial(j), n)
    return list(polynomial.all_coeffs()[::-1])


def _split(A: sp.MatrixBase, field: Domain) -> tuple[Domain, dict[Any, int]]:
    """A field that holds all eigenvalues, and their multiplicities."""
    z = sp.Symbol("z")
    roots: dict[sp.Expr, int] = {}
    hard = []
    for polynomial, multiplicity in sp.factor_list(sp.Poly(A.charpoly(z).as_expr(), z))[1]:
        if polynomial.degree() == 1:
            lead, constant = polynomial.all_coeffs()
            roots[sp.cancel(-constant / lead)] = multiplicity
        elif polynomial.degree() > 1:
            hard.append((polynomial, multiplicity))
    if hard:
        if not field.is_QQ:
            raise InvalidMethod(
                f"the parasitic eigenvalues, roots of {hard[0][0].as_expr()}, are no rational functions of the "
                "symbols: substitute numbers with .subs first"
            )
        if prod(_splitting_degree(polynomial) for polynomial, _ in hard) > LARGEST_NUMBER_FIELD:
            raise InvalidMethod(
                f"the parasitic eigenvalues are the roots of {[polynomial.as_expr() for polynomial, _ in hard]}, in a "
                "number field too large for exact transients: there is a modified equation, but no initial layer or "
                "state-space form; pass initial_layer=False to flow"
            )
        for polynomial, multiplicity in hard:
            roots.update(dict.fromkeys(polynomial.all_roots(), multiplicity))
        field = sp.QQ.algebraic_field(*(root for root in roots if not root.is_Rational))
    return field, {field.from_sympy(root): multiplicity for root, multiplicity in roots.items()}


def _splitting_degree(polynomial: sp.Poly) -> int:
    """The degree of the field of all roots of an irreducible polynomial, or a bound of it."""
    degree = int(polynomial.degree())
    cyclic = degree == 3 and sp.sqrt(polynomial.discriminant()).is_Rational
    return degree if cyclic else factorial(degree)


def _add(tail: Tail, mu: Element, polynomial: Vector) -> None:
    old = tail.get(mu, [])
    if len(old) < len(polynomial):
        old, polynomial = polynomial, old
    total = [*(a + b for a, b in zip(old, polynomial, strict=False)), *old[len(polynomial) :]]
    while total and not total[-1]:
        total.pop()
    if total:
        tail[mu] = total
    else:
        tail.pop(mu, None)


def _evaluate(polynomial: Vector, n: int, K: Domain) -> Element:
    return sum((c * K(n**k) for k, c in enumerate(polynomial)), K.zero)


def _apply(A: Matrix, x: Vector, K: Domain) -> Vector:
    return [sum((a * b for a, b in zip(row, x, strict=True)), K.zero) for row in A]


def _solve(rows: Matrix, right: Vector, K: Domain) -> Vector:
    """One solution of a consistent linear system, free unknowns 0 (Gauss–Jordan)."""
    system = [[*row, b] for row, b in zip(rows, right, strict=True)]
    unknowns = len(rows[0])
    pivots: list[int] = []
    for column in range(unknowns):
        found = next((r for r in range(len(pivots), len(system)) if system[r][column]), None)
        if found is None:
            continue
        top = len(pivots)
        system[top], system[found] = system[found], system[top]
        pivot = system[top][column]
        system[top] = [x / pivot for x in system[top]]
        for r, row in enumerate(system):
            if r != top and row[column]:
                factor = row[column]
                system[r] = [x - factor * y for x, y in zip(row, system[top], strict=True)]
        pivots.append(column)
    solution = [K.zero] * unknowns
    for r, column in enumerate(pivots):
        solution[column] = system[r][-1]
    return solution
