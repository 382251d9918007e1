"""The dimension of the Lie algebra that gradients generate, exactly, at a random point modulo a random prime.

Let θ' = f(θ, t) = Σ_s u_s(t) ∇ψ_s(θ) with functions u_s of time, the weights that a stream of data gives the samples.
What a change of the weights at one time does to θ later on is moved along by the flow, so that the directions that θ
can be pushed in are spanned by the fields ∇ψ_s, taken back from later times: by all Γᵏ∇ψ_s, k = 0, 1, …, with

    ΓB = (∂f/∂θ) B − dB/dt = [B, f] − ∂B/∂t,        d/dt along the flow.

Each is a combination of Lie brackets of the ∇ψ_s, so their span V lies in the Lie algebra at θ. Conversely, let θ and
all Taylor coefficients of u be generic, and Γ map V_k = span{Γʲ∇ψ_s, j ≤ k} into itself. V_k depends on u, …, u^(k−1),
and ΓV_k on u^(k) too, linearly, by the derivative of V_k along u^(k−1): as u^(k) is arbitrary, that derivative lies in
V_k, which hence does not depend on u^(k−1); then, by the same argument, not on u^(k−2), and in the end on θ alone. So
[∇ψ_s, V_k] lies in V_k for every s, and V_k is the Lie algebra at θ (compare Coron 1994, Sontag 1992 on generic
controls). One step that adds nothing ends the search, and one trajectory replaces all nested brackets.

With a drift, θ' = v, v' = −τv − λθ + f or θ' = −λθ + f, the same V is the smallest space of fields that contains the
∇ψ_s and brackets with the drift and with them; time adds one dimension to the phase space and the drift one to the
algebra.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log2

import torch
from torch import Tensor

from modeq.symmetry.modular import BITS, PRIMES, Echelon, PrimeField, random_prime
from modeq.symmetry.prime_series import Ring
from modeq.symmetry.programs import Program

# Repeated with new primes and points until an error is less likely than this.
CERTAINTY = 1e-9
_MOST_RUNS = 5
_LARGEST_BLOCK = 2**24  # entries of a value of the program, over all directions


@dataclass(frozen=True)
class Flow:
    """What moves beside the gradients: nothing, friction τ that makes a momentum flow, weight decay λ.

    τ and λ are random numbers, so that the dimension is that of almost all of them.
    """

    momentum: bool = False
    weight_decay: bool = False

    @property
    def blocks(self) -> int:
        """θ, or θ and θ'."""
        return 2 if self.momentum else 1

    def drift(self, field: PrimeField) -> Tensor:
        """Return the drift as a matrix on (θ, θ'), or on θ."""
        decay = field.random(1) if self.weight_decay else torch.zeros(1, dtype=torch.float64)
        if not self.momentum:
            return field.reduce(-decay).reshape(1, 1)
        friction = field.random(1)
        one = torch.ones(1, dtype=torch.float64)
        return field.reduce(torch.stack([torch.cat([0 * one, one]), torch.cat([-decay, -friction])]))


@dataclass(frozen=True)
class Span:
    """The space of all directions.

    Attributes
    ----------
    dimension : int
        Never too large.
    depth : int
        So many factors has the longest bracket that is needed.
    probability : float
        Bounds the probability that the random choices show this dimension where the true one is larger.
    """

    dimension: int
    depth: int
    probability: float


def span(program: Program, flow: Flow, seed: int, tell: Callable[[str], None]) -> Span:
    """Return the dimension of the algebra at a generic point.

    Parameters
    ----------
    program : Program
    flow : Flow
    seed : int
    tell : callable
        Is told what is being done.
    """
    source = random.Random(seed)
    best, probability = Span(0, 0, 1.0), 1.0
    for _ in range(_MOST_RUNS):
        if probability <= CERTAINTY:
            break
        field = PrimeField(random_prime(source), source.getrandbits(60))
        trajectory = _Trajectory.start(program, flow, field)
        found = trajectory.span(tell)
        if found.dimension > best.dimension:
            best, probability = found, 1.0
        if found.dimension == best.dimension:
            probability *= found.probability
    return Span(best.dimension, best.depth, probability)


@dataclass
class _Trajectory:
    """A random start, samples whose gradients are a basis there, and a random stream of data.

    Attributes
    ----------
    ring : with what was drawn for the S samples
    drift : tensor (blocks, blocks)
    states : tensor (T, blocks, D), coefficients in t
    weights : tensor (T, 1, S, 1), of the samples
    """

    program: Program
    ring: Ring
    drift: Tensor
    states: Tensor
    weights: Tensor

    @classmethod
    def start(cls, program: Program, flow: Flow, field: PrimeField) -> "_Trajectory":
        states = field.random(1, flow.blocks, program.parameters)
        ring = generic_samples(program, field, states[:, :1, None])
        samples = len(next(iter(ring.draws.values()))[0, 0]) if ring.draws else 1
        return cls(program, ring, flow.drift(field), states, field.random(1, 1, samples, 1))

    def span(self, tell: Callable[[str], None]) -> Span:
        terms = 2
        while True:
            self._extend(terms)
            found = self._span(tell)
            if found is not None:
                return found
            terms *= 2

    def _extend(self, terms: int) -> None:
        """Solve for more coefficients."""
        field, samples = self.ring.field, self.weights.shape[2]
        self.weights = torch.cat([self.weights, field.random(terms - len(self.weights), 1, samples, 1)])
        for k in range(len(self.states), terms):
            gradient = self.program.gradient(self.ring, self.states[:, None, :1], self.weights[:k])[-1, 0]
            change = field.contract("ab,bd->ad", self.drift, self.states[-1])
            change[-1:] = field.reduce(change[-1:] + gradient)
            inverse = field.inverse(torch.tensor(float(k), dtype=torch.float64))
            self.states = torch.cat([self.states, field.multiply(change, inverse.expand_as(change))[None]])

    def _span(self, tell: Callable[[str], None]) -> Span | None:
        """Γᵏ of the gradients until one step adds nothing; None if the series are too short for that."""
        blocks, size = self.states.shape[1:]
        columns = self._gradients()
        echelon = Echelon(self.ring.field, blocks * size)
        counts: list[int] = []
        while True:
            independent = echelon.add(columns[0].flatten(1))
            tell(f"depth {len(counts) + 1}: dimension {len(echelon.pivots)}")
            if not independent:
                return Span(len(echelon.pivots), len(counts), self._probability(counts))
            counts.append(len(independent))
            if len(columns) == 1:
                return None
            columns = self._bracketed(columns[:, independent])

    def _gradients(self) -> Tensor:
        """∇ψ_s (T, S, blocks, D) along the trajectory: they push θ' in a momentum flow."""
        samples = self.weights.shape[2]
        theta = self.states[:, None, :1].expand(-1, -1, samples, -1)
        one = torch.ones(1, 1, samples, 1, dtype=torch.float64)
        found = self.program.gradient(self.ring, theta, one).movedim(1, 2)
        blocks = self.states.shape[1]
        return torch.cat([found.new_zeros(*found.shape[:2], blocks - 1, found.shape[3]), found], 2)

    def _bracketed(self, columns: Tensor) -> Tensor:
        """ΓB (T − 1, C, blocks, D) of B (T, C, blocks, D)."""
        field, terms = self.ring.field, len(columns) - 1
        order = torch.arange(1.0, terms + 1, dtype=torch.float64)[:, None, None, None]
        found = field.contract("ab,tcbd->tcad", self.drift, columns[:-1]) - field.multiply(order, columns[1:])
        entries = terms**2 * self.weights.shape[2] * self.program.longest
        for part in torch.arange(columns.shape[1]).split(max(1, _LARGEST_BLOCK // entries)):
            theta = torch.cat([self.states[:terms, None, :1], columns[:-1, part, :1]], 1)
            found[:, part, -1] += self.program.gradient(self.ring, theta, self.weights[:terms])[:, 1:, 0]
        return field.reduce(found)

    def _probability(self, counts: Sequence[int]) -> float:
        """Bound the probability of this outcome if the dimension is larger, for so many new directions of each level.

        Then a minor of these and of one direction more is not 0, but vanishes here. So does the coefficient of some
        monomial in the weights u, or else a polynomial in u that is not 0. A column of level k is in that coefficient a
        bracket of k + 1 gradients ∇ψ_s = ∇(N_s/Q_s), a polynomial over powers of their Q_s. By the lemma of Schwartz
        and Zippel a polynomial P vanishes with a probability of at most deg P/p, unless p divides it, which at most so
        many primes do as its height has bits, over 29.
        """
        one, levels = self.program.size(), len(counts)
        first, *others = [*counts, 1]
        nested = sum(n * (level + 1) for level, n in enumerate(others, 1))
        power = 3 * levels + 1 if one.degree_below else 0  # a constant denominator is no zero modulo p
        alone = min(power, 1)
        degree = first * (one.degree + alone * one.degree_below) + nested * (one.degree + power * one.degree_below + 2)
        height = first * (one.height + alone * one.height_below) + nested * (one.height + power * one.height_below)
        height += (first + nested) * (2 * log2(4 * degree) + log2(first + nested))
        events = levels + 2  # at each level, and for the samples
        return min(1.0, events * ((degree + nested) / self.ring.field.prime + height / (BITS - 1) / PRIMES))


def generic_samples(program: Program, field: PrimeField, theta: Tensor) -> Ring:
    """Draw samples whose gradients at θ are a basis of the span of all.

    Parameters
    ----------
    program : Program
    field : PrimeField
    theta : tensor (1, 1, 1, D)
    """
    echelon, kept, batch = Echelon(field, program.parameters), [], 4
    while True:
        draws = program.draw(field, batch)
        one = torch.ones(1, 1, batch, 1, dtype=torch.float64)
        gradients = program.gradient(Ring(field, draws), theta.expand(-1, -1, batch, -1), one)
        independent = echelon.add(gradients[0, 0])
        kept.append({k: draw[:, :, independent] for k, draw in draws.items()})
        if program.exhausted(len(independent), batch, len(echelon.pivots)):
            return Ring(field, {k: torch.cat([part[k] for part in kept], 2) for k in draws})
        batch *= 2
