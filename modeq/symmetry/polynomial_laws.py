"""Polynomial conservation laws: unknown coefficients, linear conditions at random points modulo a prime, fractions.

A law h of gradient flow has ⟨∇h, ∇ψ⟩ = 0 for every ψ. Under weight decay it also has to be homogeneous, of degree d,
and e^{dλt}h is conserved. In a momentum flow, with the friction τ as the unit of time, θ' pushes nothing and a = θ +
θ'/τ and b = θ'/τ evolve by themselves, as constants and as e^{−τt}; a law is e^{jτt}P(a, b) with P of degree j in b,
where the derivative of P along ∇ψ in θ' vanishes. With weight decay only laws are looked for that hold for every λ,
which adds one condition: that along θ in θ' vanishes too.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations_with_replacement
from math import comb, lcm
from typing import Any

import torch
from torch import Tensor

from modeq.errors import InvalidProblem
from modeq.symmetry.law_polynomials import Law, derivatives, generators, law_of
from modeq.symmetry.lie_algebra import Flow, generic_samples
from modeq.symmetry.modular import Echelon, PrimeField, fraction, invertible, random_prime
from modeq.symmetry.programs import Program

# Unknowns in all, and in one linear system.
MOST_MONOMIALS = 500_000
LARGEST_SYSTEM = 3_000
_PRIMES = 4
_ROWS = 64
_FEW = 4  # conditions of each point in a first look
_LARGEST_BATCH = 2**22


@dataclass(frozen=True)
class Ansatz:
    """Monomials with unknown coefficients.

    Attributes
    ----------
    factors : tensor (M, degree) of numbers of variables; that after the last one stands for 1
    rate : int
        The law is e^{rate·t} times the polynomial, in units of λ or τ.
    """

    factors: Tensor
    rate: int


def polynomial_laws(program: Program, flow: Flow, degree: int, seed: int, tell: Callable[[str], None]) -> list[Law]:
    """Return polynomial laws, of which all up to a degree are combinations of products.

    They are verified at fresh points modulo a fresh prime.

    Parameters
    ----------
    program : Program
    flow : Flow
    degree : int
    seed : int
    tell : callable
        Is told what is being done.

    Raises
    ------
    InvalidProblem
        If there are too many unknowns.
    """
    source = random.Random(seed)
    charges = _charges(program, source)
    systems = [part for ansatz in _ansatzes(program.parameters, degree, flow) for part in _apart(ansatz, charges)]
    largest = max(len(system.factors) for system in systems)
    if largest > LARGEST_SYSTEM:
        raise InvalidProblem(
            f"degree is {degree}: a linear system with {largest} unknowns, more than {LARGEST_SYSTEM}, would have to "
            "be solved; give a lower degree or a smaller network"
        )
    tell(f"{len(systems)} systems, at most {largest} unknowns")
    rows, check = (_Conditions(program, flow, source) for _ in range(2))
    found = [law for system in rows.solvable(systems) for law in _laws(rows, check, system)]
    return generators(found, program.parameters * flow.blocks, degree, rows.field)


def _ansatzes(parameters: int, degree: int, flow: Flow) -> list[Ansatz]:
    """The polynomials that may be laws, by their rates."""
    variables = flow.blocks * parameters
    unknowns = comb(variables + degree, degree)
    if unknowns > MOST_MONOMIALS:
        raise InvalidProblem(
            f"degree is {degree}: a polynomial in {variables} variables has {unknowns} coefficients, more than "
            f"{MOST_MONOMIALS}; give a lower degree or a smaller network"
        )
    chosen = torch.tensor(list(combinations_with_replacement(range(variables + 1), degree)))[:-1]
    totals = (chosen < variables).sum(1)
    order = totals.argsort(stable=True)  # so that each law has its free coefficient in its highest degree
    chosen, totals = chosen[order], totals[order]
    if flow.momentum:
        rates = ((chosen >= parameters) & (chosen < variables)).sum(1)
    else:
        rates = totals if flow.weight_decay else torch.zeros_like(totals)
    return [Ansatz(chosen[rates == rate], int(rate)) for rate in rates.unique()]


def _charges(program: Program, source: random.Random) -> Tensor:
    """A number for each parameter, whose exclusive or over the factors of a monomial tells its kind.

    Let ψ be the same after z_k → e^{a_k s} z_k of all its variables z, with integers a_k. Then it is after changes of
    sign by (−1)^{a_k}, which turn gradients into gradients. So monomials that change sign otherwise are in different
    laws.
    """
    field = PrimeField(random_prime(source), source.getrandbits(60))
    echelon = Echelon(field, program.logarithmic(field, 1).shape[1])
    samples = _ROWS
    while not program.exhausted(len(echelon.add(program.logarithmic(field, samples))), samples, len(echelon.pivots)):
        samples *= 2
    numbers = torch.zeros(program.parameters, dtype=torch.int64)
    for row in echelon.null_space():
        fractions = [f for r in row if (f := fraction(int(r), field.prime)) is not None]
        if len(fractions) < len(row):
            continue
        common = lcm(*(f.denominator for f in fractions))
        odd = torch.tensor([int(f * common) % 2 for f in fractions[: program.parameters]])
        numbers ^= odd * source.getrandbits(62)
    return numbers


def _apart(ansatz: Ansatz, charges: Tensor) -> list[Ansatz]:
    """Monomials of one kind each."""
    variables = int(ansatz.factors.max())
    of_factor = torch.cat([charges.repeat(-(-variables // len(charges))), torch.zeros(1, dtype=torch.int64)])
    kinds = torch.zeros(len(ansatz.factors), dtype=torch.int64)
    for column in ansatz.factors.T:
        kinds ^= of_factor[column]
    order = kinds.argsort(stable=True)
    _, counts = kinds[order].unique_consecutive(return_counts=True)
    return [Ansatz(ansatz.factors[part], ansatz.rate) for part in order.split(counts.tolist())]


def _laws(rows: "_Conditions", check: "_Conditions", ansatz: Ansatz) -> list[Law]:
    """Solve modulo primes until the fractions that they determine are laws at fresh points, modulo a fresh prime."""
    modulus, residues = 1, None
    for _ in range(_PRIMES):
        images = rows.null_space(ansatz).long().tolist()
        if residues is None or len(images) < len(residues):  # a prime can show too many laws, not too few
            modulus, residues = rows.field.prime, images
        elif len(images) == len(residues):
            residues = _combined(residues, modulus, images, rows.field.prime)
            modulus *= rows.field.prime
        found: Any = [[fraction(r, modulus) for r in row] for row in residues]
        if all(c is not None for row in found for c in row) and check.hold(ansatz, found):
            return [law_of(ansatz.factors.tolist(), row, ansatz.rate) for row in found]
        rows = rows.afresh()
    raise InvalidProblem(
        f"the coefficients of laws do not fit into {_PRIMES} primes of 30 bits: ask for a lower degree"
    )


def _combined(one: list[list[int]], modulus: int, other: list[list[int]], prime: int) -> list[list[int]]:
    """Residues modulo the product (Chinese remainder theorem)."""
    inverse = pow(modulus, -1, prime)
    return [
        [a + modulus * ((b - a) * inverse % prime) for a, b in zip(row, new, strict=True)]
        for row, new in zip(one, other, strict=True)
    ]


class _Conditions:
    """The linear conditions on coefficients, those of one random point after the other, modulo a random prime."""

    def __init__(self, program: Program, flow: Flow, source: random.Random) -> None:
        self.program, self.flow, self.source = program, flow, source
        self.field = PrimeField(random_prime(source), source.getrandbits(60))
        self.ring = generic_samples(program, self.field, self.field.random(1, 1, 1, program.parameters))
        self.points: list[tuple[Tensor, Tensor]] = []

    def afresh(self) -> "_Conditions":
        """Return others."""
        return _Conditions(self.program, self.flow, self.source)

    def point(self, k: int) -> tuple[Tensor, Tensor]:
        """The k-th random point, and the directions (pushes, variables) along which laws do not change there."""
        while len(self.points) <= k:
            field, count = self.field, self.program.parameters
            point = field.random(self.flow.blocks, count, least=1)
            theta = field.reduce(point[0] - point[1]) if self.flow.momentum else point[0]
            samples = max((draw.shape[2] for draw in self.ring.draws.values()), default=0)
            one = torch.ones(1, 1, samples, 1, dtype=torch.float64)
            pushes = self.program.gradient(self.ring, theta.expand(1, 1, samples, -1), one)[0, 0]
            if self.flow.momentum and self.flow.weight_decay:
                pushes = torch.cat([pushes, theta[None]])
            self.points.append((point.flatten(), pushes.repeat(1, self.flow.blocks)))
        return self.points[k]

    def solvable(self, systems: Sequence[Ansatz]) -> list[Ansatz]:
        """Return those that a few conditions do not rule out, many systems of one size at once."""
        found = []
        for unknowns in sorted({len(system.factors) for system in systems}):
            same = [system for system in systems if len(system.factors) == unknowns]
            size = max(1, _LARGEST_BATCH // unknowns**2)
            for batch in (same[k : k + size] for k in range(0, len(same), size)):
                factors = torch.cat([system.factors for system in batch])
                rows = [self._few(factors, k) for k in range(-(-unknowns // _FEW))]
                matrices = torch.cat(rows)[:unknowns].unflatten(1, (len(batch), unknowns)).transpose(0, 1)
                regular = invertible(self.field, matrices)
                found += [system for system, no_law in zip(batch, regular, strict=True) if not no_law]
        return found

    def _few(self, factors: Tensor, k: int) -> Tensor:
        """Random combinations of the conditions at one point."""
        point, pushes = self.point(k)
        return derivatives(
            self.field, factors, point, self.field.contract("ij,jk->ik", self.field.random(_FEW, len(pushes)), pushes)
        )

    def null_space(self, ansatz: Ansatz) -> Tensor:
        """Return a basis of the coefficients that meet the conditions; at one more point, nothing changes any more."""
        unknowns = len(ansatz.factors)
        echelon, k, full = Echelon(self.field, unknowns), 0, False
        while not full and len(echelon.pivots) < unknowns:
            rows = torch.zeros(0, unknowns, dtype=torch.float64)
            while len(rows) < min(_ROWS, unknowns + 1):
                rows = torch.cat([rows, derivatives(self.field, ansatz.factors, *self.point(k))])
                k += 1
            full = len(echelon.add(rows)) == 0
        return echelon.null_space()

    def hold(self, ansatz: Ansatz, rows: Sequence[Sequence[Fraction]]) -> bool:
        """Whether coefficients meet the conditions at two points."""
        if not rows:
            return True
        try:
            laws = torch.stack([self.field.of(row) for row in rows])
        except ValueError:  # the prime divides a denominator
            return False
        conditions = (derivatives(self.field, ansatz.factors, *self.point(k)) for k in range(2))
        return not any(self.field.contract("im,jm->ij", rows, laws).any() for rows in conditions)
