"""Exact arithmetic modulo primes just below 2³⁰, on integers that float64 holds without error."""

import random
from collections.abc import Sequence
from fractions import Fraction
from math import gcd, isqrt

import torch
from torch import Tensor

BITS = 30
# Of the primes between 2²⁹ and 2³⁰ there are so many.
PRIMES = 26_207_278
# Sums stay below this power of 2; float64 is exact below 2⁵³.
_EXACT = 52
_BLOCK = 64
_FEW = 1000


def random_prime(source: random.Random) -> int:
    """Return a prime between 2²⁹ and 2³⁰, each with the same probability.

    Examples
    --------
    >>> random_prime(random.Random(0))
    686921803
    """
    while True:
        number = source.randrange(2 ** (BITS - 1) + 1, 2**BITS, 2)
        if _is_prime(number):
            return number


def _is_prime(number: int) -> bool:
    """The test of Miller and Rabin; these three bases decide below 4,759,123,141 (Jaeschke 1993)."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 7, 61):
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


class PrimeField:
    """Tensors of integers 0 ≤ a < p, held in float64.

    Parameters
    ----------
    prime : int, at most 2³⁰
    seed : int, of `random`

    Examples
    --------
    >>> field = PrimeField(1_000_003, seed=0)
    >>> a = torch.tensor([[999_999.0, 2.0]], dtype=torch.float64)
    >>> field.contract("ij,kj->ik", a, a)
    tensor([[20.]], dtype=torch.float64)
    """

    def __init__(self, prime: int, seed: int) -> None:
        self.prime = prime
        self.generator = torch.Generator().manual_seed(seed)

    def random(self, *shape: int, least: int = 0) -> Tensor:
        """Return uniform elements, from the least on."""
        return torch.randint(least, self.prime, shape, generator=self.generator).to(torch.float64)

    def of(self, numbers: Sequence[Fraction | int]) -> Tensor:
        """Return the images of fractions; a denominator that the prime divides is an error."""
        p = self.prime
        images = [n.numerator * pow(n.denominator, -1, p) % p for n in map(Fraction, numbers)]
        return torch.tensor(images, dtype=torch.float64)

    def reduce(self, x: Tensor) -> Tensor:
        """Return integers of at most 52 bits and a sign modulo p."""
        return torch.remainder(x, self.prime)

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the products of entries."""
        return ((a.long() * b.long()) % self.prime).to(torch.float64)

    def convolve(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the entrywise products of two series, Σ_i a_i b_{k−i}, of the same number of coefficients."""
        a, b = a.long(), b.long()
        found = a[0] * b % self.prime
        for i in range(1, len(a)):
            found[i:] += a[i] * b[: len(b) - i] % self.prime
        return (found % self.prime).to(torch.float64)

    def contract(self, equation: str, a: Tensor, b: Tensor) -> Tensor:
        """Return `torch.einsum` of two tensors; sizes of 1 are broadcast.

        The first factor is taken in pieces of so few bits that every sum stays below 2⁵².
        """
        inputs, output = equation.split("->")
        sizes: dict[str, int] = {}
        for word, tensor in zip(inputs.split(","), (a, b), strict=True):
            for letter, size in zip(word, tensor.shape, strict=True):
                sizes[letter] = max(size, sizes.get(letter, 1))
        terms = 1
        for letter in set(sizes) - set(output):
            terms *= sizes[letter]
        bits = _EXACT - BITS - terms.bit_length()
        if bits < 1:
            raise OverflowError(f"a sum of {terms} products does not fit into float64")
        total, shift = None, 2.0**bits
        for k in reversed(range(-(-BITS // bits))):
            piece = torch.fmod(torch.floor(a * shift**-k), shift)
            part = torch.einsum(equation, piece, b)
            total = part.fmod_(self.prime) if total is None else (total * shift + part).fmod_(self.prime)
        assert total is not None
        return total

    def inverse(self, x: Tensor) -> Tensor:
        """Return the inverses of entries, and 0 for 0."""
        if x.numel() < _FEW:
            inverses = [pow(int(entry), -1, self.prime) if entry else 0 for entry in x.flatten().tolist()]
            return torch.tensor(inverses, dtype=torch.float64).reshape(x.shape)
        found, power, exponent = torch.ones_like(x), x, self.prime - 2  # by the little theorem of Fermat
        while exponent:
            if exponent & 1:
                found = self.multiply(found, power)
            power, exponent = self.multiply(power, power), exponent >> 1
        return found


class Echelon:
    """Linearly independent vectors modulo a prime, in reduced row echelon form.

    Parameters
    ----------
    field : PrimeField
    length : int, of the vectors

    Examples
    --------
    >>> echelon = Echelon(PrimeField(7, seed=0), 3)
    >>> echelon.add(torch.tensor([[1.0, 2, 3], [2, 4, 6], [0, 1, 1]], dtype=torch.float64))
    [0, 2]
    >>> echelon.null_space()
    tensor([[6., 6., 1.]], dtype=torch.float64)
    """

    def __init__(self, field: PrimeField, length: int) -> None:
        self.field = field
        self.rows = torch.zeros(0, length, dtype=torch.float64)
        self.pivots: list[int] = []

    def add(self, vectors: Tensor) -> list[int]:
        """Add vectors; return the numbers of those that were independent of all before."""
        starts = range(0, len(vectors), _BLOCK)
        return [start + k for start in starts for k in self._add(vectors[start : start + _BLOCK])]

    def _add(self, vectors: Tensor) -> list[int]:
        """Few vectors are reduced among themselves; so all others change once for many, by one product."""
        field = self.field
        rest = self._less(vectors, self.pivots, self.rows)
        added, pivots = [], []
        for k in range(len(rest)):
            places = rest[k].nonzero()
            if not len(places):
                continue
            pivot = int(places[0])
            row = field.multiply(rest[k], field.inverse(rest[k, pivot]))
            rest = field.reduce(rest - field.multiply(rest[:, pivot, None], row))
            rest[k] = row
            added.append(k)
            pivots.append(pivot)
        new = rest[added]
        self.rows = torch.cat([self._less(self.rows, pivots, new), new])
        self.pivots += pivots
        return added

    def _less(self, vectors: Tensor, pivots: list[int], rows: Tensor) -> Tensor:
        return self.field.reduce(vectors - self.field.contract("ip,pn->in", vectors[:, pivots], rows))

    def null_space(self) -> Tensor:
        """Return a basis (dimension, length) of what is orthogonal to all rows, each with a 1 where others have 0."""
        length = self.rows.shape[1]
        taken = set(self.pivots)
        free = [k for k in range(length) if k not in taken]
        found = torch.zeros(len(free), length, dtype=torch.float64)
        found[torch.arange(len(free)), free] = 1
        found[:, self.pivots] = self.field.reduce(-self.rows[:, free].T)
        return found


def invertible(field: PrimeField, matrices: Tensor) -> list[bool]:
    """Whether square matrices (B, n, n) have inverses.

    Examples
    --------
    >>> matrices = torch.tensor([[[0.0, 1], [1, 0]], [[1, 2], [3, 6]]], dtype=torch.float64)
    >>> invertible(PrimeField(7, seed=0), matrices)
    [True, False]
    """
    every = torch.arange(len(matrices))
    regular = torch.ones(len(matrices), dtype=torch.bool)
    while matrices.shape[1]:
        pivot, place = (matrices[:, :, 0] != 0).max(1)
        regular &= pivot
        row = matrices[every, place]
        matrices = matrices.index_put((every, place), matrices[:, 0])
        row = field.multiply(row, field.inverse(row[:, :1]))
        below = matrices[:, 1:]
        matrices = field.reduce(below - field.multiply(below[:, :, :1], row[:, None]))[:, :, 1:]
    return regular.tolist()


def fraction(residue: int, modulus: int) -> Fraction | None:
    """Return the fraction a/b with |a|, b ≤ √(modulus/2) of a residue, or None (Wang 1981).

    Examples
    --------
    >>> fraction(-2 * pow(3, -1, 1_000_003) % 1_000_003, 1_000_003)
    Fraction(-2, 3)
    """
    bound = isqrt(modulus // 2)
    before, now, factor_before, factor = modulus, residue, 0, 1
    while now > bound:
        quotient = before // now
        before, now = now, before - quotient * now
        factor_before, factor = factor, factor_before - quotient * factor
    if factor == 0 or abs(factor) > bound or gcd(now, factor) != 1:
        return None
    return Fraction(now, factor)
