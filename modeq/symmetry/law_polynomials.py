"""Polynomial laws that were found: without products of others, their rank, as expressions, and symbolic checks."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import gcd, lcm
from random import Random
from typing import Any

import sympy as sp
import torch
from torch import Tensor

from modeq.symmetry.lie_algebra import Flow
from modeq.symmetry.modular import Echelon, PrimeField, random_prime


@dataclass(frozen=True)
class Law:
    """A polynomial in θ, or in (a, b): the coefficient of each monomial, by its variables' numbers; and its rate."""

    coefficients: dict[tuple[int, ...], Fraction]
    rate: int

    def degree(self, one: int) -> int:
        """Return its degree, where `one` stands for 1."""
        return max(sum(k != one for k in monomial) for monomial in self.coefficients)


def law_of(monomials: Sequence[Sequence[int]], row: Sequence[Fraction], rate: int) -> Law:
    """Return a law with coprime integers as coefficients, the first of them positive.

    Examples
    --------
    >>> law_of([[0, 0], [1, 1]], [Fraction(-1, 2), Fraction(1, 3)], rate=0).coefficients
    {(0, 0): Fraction(3, 1), (1, 1): Fraction(-2, 1)}
    """
    found = {tuple(m): c for m, c in zip(monomials, row, strict=True) if c}
    common = lcm(*(c.denominator for c in found.values()))
    unit = Fraction(common, gcd(*(int(c * common) for c in found.values())))
    unit = unit if found[min(found)] > 0 else -unit
    return Law({monomial: c * unit for monomial, c in found.items()}, rate)


def generators(laws: Sequence[Law], one: int, degree: int, field: PrimeField) -> list[Law]:
    """Return those that are no linear combinations of products of others, by degree.

    Parameters
    ----------
    laws : a basis of all up to a degree
    one : the number of the variable that stands for 1
    degree : int
    field : PrimeField
    """
    places: dict[tuple[int, tuple[int, ...]], int] = {}
    for law in laws:
        for monomial in law.coefficients:
            places.setdefault((law.rate, monomial), len(places))
    echelon = Echelon(field, len(places))
    kept: list[Law] = []

    def row(law: Law) -> Tensor:
        found = torch.zeros(1, len(places), dtype=torch.float64)
        columns = [places[law.rate, monomial] for monomial in law.coefficients]
        found[0, columns] = field.of(list(law.coefficients.values()))
        return found

    for total in range(1, degree + 1):
        products = [_product(chosen, one, degree) for chosen in _chosen(kept, one, total)]
        if products:
            echelon.add(torch.cat([row(product) for product in products]))
        kept += [law for law in laws if law.degree(one) == total and echelon.add(row(law))]
    return kept


def _chosen(laws: Sequence[Law], one: int, total: int, first: int = 0) -> Iterator[tuple[Law, ...]]:
    """All choices, with repetition, of two laws or more whose degrees sum to a total."""
    for k in range(first, len(laws)):
        left = total - laws[k].degree(one)
        if left > 0:
            yield from ((laws[k], law) for law in laws[k:] if law.degree(one) == left)
            yield from ((laws[k], *rest) for rest in _chosen(laws, one, left, k))


def _product(laws: Sequence[Law], one: int, degree: int) -> Law:
    found: dict[tuple[int, ...], Fraction] = {(): Fraction(1)}
    for law in laws:
        terms: dict[tuple[int, ...], Fraction] = defaultdict(Fraction)
        for (a, c), (b, d) in product(found.items(), law.coefficients.items()):
            terms[tuple(sorted((*a, *(k for k in b if k != one))))] += c * d
        found = {monomial: c for monomial, c in terms.items() if c}
    padded = {(*monomial, *[one] * (degree - len(monomial))): c for monomial, c in found.items()}
    return Law(padded, sum(law.rate for law in laws))


def derivatives(field: PrimeField, factors: Tensor, point: Tensor, along: Tensor) -> Tensor:
    """Return Σ_k X_k ∂m/∂z_k for each row X and each monomial m.

    Examples
    --------
    >>> field = PrimeField(101, seed=0)
    >>> point, along = torch.tensor([2.0, 3.0]).double(), torch.tensor([[1.0, 10.0]]).double()
    >>> derivatives(field, torch.tensor([[0, 1], [1, 1]]), point, along)  # of xy: 3 + 2·10; of y²: 6·10
    tensor([[23., 60.]], dtype=torch.float64)
    """
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(len(along), 1, dtype=torch.float64)
    entries = torch.cat([point, one])[factors]
    relative = torch.cat([field.multiply(along, field.inverse(point)), zero], 1)[:, factors].sum(2)
    values = entries[:, 0]
    for column in entries.T[1:]:
        values = field.multiply(values, column)
    return field.multiply(field.reduce(relative), values)


def independent(laws: Sequence[Law], parameters: int, flow: Flow, seed: int) -> int:
    """Return the rank of the gradients at a random point modulo a random prime; it is never too large."""
    if not laws:
        return 0
    source = Random(seed)
    field = PrimeField(random_prime(source), source.getrandbits(60))
    count = flow.blocks * parameters
    point = field.random(count, least=1)
    echelon = Echelon(field, count)
    for law in laws:
        slopes = derivatives(field, torch.tensor(list(law.coefficients)), point, torch.eye(count, dtype=torch.float64))
        echelon.add(field.contract("km,m->k", slopes, field.of(list(law.coefficients.values())))[None])
    return len(echelon.pivots)


def expression(law: Law, variables: Sequence[sp.Symbol], flow: Flow) -> sp.Expr:
    """Return a law in θ, θ' and t, without denominators in τ.

    Examples
    --------
    >>> law = Law({(0, 3): Fraction(1), (1, 2): Fraction(-1)}, rate=1)
    >>> expression(law, sp.symbols("x y"), Flow(momentum=True))
    (x*y' - x'*y)*exp(t*tau)
    """
    time, friction, decay = sp.symbols("t tau lambda")
    if not flow.momentum:
        return _sum(law, variables) * sp.exp(law.rate * decay * time)
    inverse = sp.Dummy()
    speeds = [sp.Symbol(f"{x}'") * inverse for x in variables]
    places = [*(x + v for x, v in zip(variables, speeds, strict=True)), *speeds]
    powers = sp.Poly(_sum(law, places), inverse)
    terms = (c * friction ** (powers.degree() - k) for (k,), c in powers.terms())
    return sp.expand(sp.Add(*terms)) * sp.exp(law.rate * friction * time)


def _sum(law: Law, places: Sequence[sp.Expr]) -> sp.Expr:
    one = [*places, sp.Integer(1)]
    terms = (
        sp.Rational(c.numerator, c.denominator) * sp.Mul(*(one[k] for k in m)) for m, c in law.coefficients.items()
    )
    return sp.Add(*terms)


def vanish(laws: Sequence[Law], phi: Sequence[sp.Poly], flow: Flow) -> bool:
    """Whether laws do not change, symbolically: their derivatives along all gradients and the drift are 0.

    With momentum the friction is 1, and θ' the variables after those of θ.
    """
    count = len(phi[0].gens)
    ring, *variables = sp.ring([f"z{k}" for k in range(flow.blocks * count)], sp.QQ)
    theta, speeds = variables[:count], variables[count:]
    gradients = [_gradient(polynomial, ring) for polynomial in phi]
    if flow.momentum and flow.weight_decay:
        gradients.append(theta)
    places = [*(x + v for x, v in zip(theta, speeds, strict=True)), *speeds] if flow.momentum else theta
    pushed = speeds if flow.momentum else theta
    for law in laws:
        h = _in_ring(law, [*places, ring.one], ring)
        slopes = [h.diff(x) for x in pushed]
        if any(sum((s * g for s, g in zip(slopes, gradient, strict=True) if s), ring.zero) for gradient in gradients):
            return False
        if flow.momentum:
            drift = sum((v * (h.diff(x) - h.diff(v)) for x, v in zip(theta, speeds, strict=True)), law.rate * h)
        else:
            drift = sum((x * h.diff(x) for x in theta), -law.rate * h) if flow.weight_decay else ring.zero
        if drift:
            return False
    return True


def _gradient(polynomial: sp.Poly, ring: Any) -> list[Any]:
    """The derivatives, in a ring whose first variables are those of the polynomial."""
    rest = (0,) * (ring.ngens - len(polynomial.gens))
    h = ring.from_dict({(*powers, *rest): c for powers, c in polynomial.rep.to_dict().items()})
    return [h.diff(x) for x in ring.gens[: len(polynomial.gens)]]


def _in_ring(law: Law, places: Sequence[Any], ring: Any) -> Any:
    found = ring.zero
    for factors, coefficient in law.coefficients.items():
        term = ring.one * sp.QQ(coefficient.numerator, coefficient.denominator)
        for k in factors:
            term *= places[k]
        found += term
    return found
