"""Sums over steps k₁ < k₂ < … < k_r < m of products of powers, in closed form for a symbolic m."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import comb

from sympy.polys.domains.domain import Domain

from modeq.methods.arithmetic import Element, Vector

Exponents = tuple[int, ...]


@dataclass(frozen=True)
class LaurentSum:
    """Σ coefficient·x^exponents, the exponents of any sign: for each tuple of them the coefficient, not 0.

    Such sums are added, multiplied by each other and by elements of the field, and are false if they are empty.
    Nothing has to be put over a common denominator, which makes them much faster than rational functions.

    Examples
    --------
    >>> x = LaurentSum({(1, 0): 1})
    >>> (x * LaurentSum({(-1, 2): 3}) + x).terms
    {(0, 2): 3, (1, 0): 1}
    """

    terms: Mapping[Exponents, Element]

    def __add__(self, other: "LaurentSum") -> "LaurentSum":
        total = dict(self.terms)
        for key, value in other.terms.items():
            total[key] = total[key] + value if key in total else value
        return LaurentSum({key: value for key, value in total.items() if value})

    def __mul__(self, other: "LaurentSum | Element") -> "LaurentSum":
        if not isinstance(other, LaurentSum):
            return LaurentSum({key: value * other for key, value in self.terms.items()} if other else {})
        total: dict[Exponents, Element] = {}
        for left, x in self.terms.items():
            for right, y in other.terms.items():
                key = tuple([a + b for a, b in zip(left, right, strict=True)])
                total[key] = total[key] + x * y if key in total else x * y
        return LaurentSum({key: value for key, value in total.items() if value})

    def __bool__(self) -> bool:
        return bool(self.terms)


@lru_cache(maxsize=10_000)
def nested_sum(steps: tuple[Exponents, ...], bases: tuple[Element, ...], K: Domain) -> Mapping[Exponents, Vector]:
    """Return Σ over 0 ≤ k₁ < … < k_r < m of Π_l μ^{a_l k_l}, as Σ_a μ^{a m} P_a(m).

    Parameters
    ----------
    steps : for each k_l the exponents a_l of the bases
    bases : the numbers μ_i, none of them 0

    Returns
    -------
    mapping from exponents a to the coefficients of the polynomials P_a

    Examples
    --------
    Σ_{k < m} 2ᵏ = 2ᵐ − 1, and m(m − 1)/2 pairs:

    >>> import sympy as sp
    >>> nested_sum(((1,),), (sp.QQ(2),), sp.QQ) == {(1,): [1], (0,): [-1]}
    True
    >>> nested_sum(((0,), (0,)), (sp.QQ(2),), sp.QQ) == {(0,): [0, -sp.QQ(1, 2), sp.QQ(1, 2)]}
    True
    """
    unit = (0,) * len(bases)
    left: dict[Exponents, Vector] = {unit: [K.one]}  # what the sums so far have left, in the next variable
    for exponents in steps:
        summed: dict[Exponents, Vector] = {}
        for before, polynomial in left.items():
            at = tuple(a + b for a, b in zip(before, exponents, strict=True))
            rho = K.one
            for base, exponent in zip(bases, at, strict=True):
                rho *= base**exponent if exponent >= 0 else (K.one / base) ** -exponent
            antidifference = _antidifference(polynomial, rho, K)
            _add(summed, unit if rho == K.one else at, antidifference)
            _add(summed, unit, [-antidifference[0]])
        left = summed
    return left


def _antidifference(polynomial: Vector, rho: Element, K: Domain) -> Vector:
    """P with ρ P(k + 1) − P(k) = polynomial(k), so that Σ_{k<n} ρᵏ polynomial(k) = ρⁿ P(n) − P(0)."""
    resonant = int(rho == K.one)
    P = [K.zero] * (len(polynomial) + resonant)
    for j in range(len(polynomial) - 1, -1, -1):
        # At kʲ there are (ρ − 1) P_j and ρ C(i, j) P_i from i > j.
        rest = polynomial[j] - sum((rho * K(comb(i, j)) * P[i] for i in range(j + 1 + resonant, len(P))), K.zero)
        P[j + resonant] = rest / K(j + 1) if resonant else rest / (rho - K.one)
    return P


def _add(total: dict[Exponents, Vector], key: Exponents, polynomial: Vector) -> None:
    old = total.get(key, [])
    if len(old) < len(polynomial):
        old, polynomial = polynomial, old
    total[key] = [*(a + b for a, b in zip(old, polynomial, strict=False)), *old[len(polynomial) :]]
