"""Straight-line programs: functions of the parameters as few kinds of operations, run on power series modulo a prime.

A program computes one number ψ(θ) for each sample. All samples share θ and differ in what is drawn: inputs, activation
patterns, weights of the outputs. Values are tensors (T, 1 + C, S, n) as in `prime_series`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import cast

import torch
from torch import Tensor

from modeq.symmetry.modular import PrimeField
from modeq.symmetry.prime_series import Ring, padded, words
from modeq.symmetry.sizes import Size, heights


def tokens(generator: torch.Generator, samples: int, places: int, choices: int) -> Tensor:
    """Return random tokens (samples, places): few different ones in a sample as often as many, and each in its turn.

    Examples
    --------
    >>> sorted(tokens(torch.Generator(), samples=6, places=1, choices=3).flatten().tolist())
    [0, 0, 1, 1, 2, 2]
    """
    turns = torch.rand(-(-samples // choices), choices, places, generator=generator).argsort(1).flatten(0, 1)[:samples]
    different = torch.randint(1, places + 1, (samples, 1), generator=generator)
    chosen = torch.rand(samples, places, generator=generator) * different
    return turns.gather(1, chosen.long())


@dataclass(frozen=True)
class Draw:
    """Random numbers for each sample, uniform modulo the prime; or tokens, one 1 in each run of `choices`."""

    length: int
    choices: int = 0
    sources = ()

    def draw(self, field: PrimeField, samples: int) -> Tensor:
        """Return what it is for some new samples."""
        if not self.choices:
            return field.random(1, 1, samples, self.length)
        chosen = tokens(field.generator, samples, self.length // self.choices, self.choices)
        return torch.nn.functional.one_hot(chosen, self.choices).to(torch.float64).reshape(1, 1, samples, -1)

    def size(self, sizes: Sequence[Size]) -> Size:
        """Return how large its numbers may be, for bounds on the probability of an error."""
        return Size(0 if self.choices else 1)


@dataclass(frozen=True)
class Constant:
    """Fixed numbers."""

    numbers: tuple[Fraction, ...]
    sources = ()

    @property
    def length(self) -> int:
        """The number of entries."""
        return len(self.numbers)

    def size(self, sizes: Sequence[Size]) -> Size:
        """Return how large its numbers may be, for bounds on the probability of an error."""
        return Size(0, 0, *heights(self.numbers))

    def value(self, ring: Ring, values: list[Tensor]) -> Tensor:
        """Return the value for all samples, from those of the nodes before."""
        return ring.constants(self.numbers).reshape(1, 1, 1, -1)


@dataclass(frozen=True)
class Linear:
    """Σ weight·entry of the concatenated sources: entries `take` are added to those in the places `put`."""

    sources: tuple[int, ...]
    length: int
    take: Tensor
    put: Tensor | None = None
    weights: tuple[Fraction, ...] | None = None

    def size(self, sizes: Sequence[Size]) -> Size:
        """Return how large its numbers may be, for bounds on the probability of an error."""
        first, *rest = (sizes[k] for k in self.sources)
        for other in rest:
            first = first.plus(other)
        counts = 1 if self.put is None or not len(self.put) else int(torch.bincount(self.put).max())
        return first.times(Size(0, 0, *heights(self.weights or ())), counts)

    def value(self, ring: Ring, values: list[Tensor]) -> Tensor:
        """Return the value for all samples, from those of the nodes before."""
        parts = [values[k] for k in self.sources]
        shape = [max(part.shape[k] for part in parts) for k in range(3)]
        joined = [padded(part, shape[:2]).expand(*shape, -1) for part in parts]
        return self._moved(
            ring, torch.cat(joined, -1) if len(joined) > 1 else joined[0], self.take, self.put, self.length
        )

    def adjoint(self, ring: Ring, values: list[Tensor], bar: Tensor, which: int) -> Tensor:
        """Return what the derivative by this node adds to that by one of its sources."""
        lengths = [values[k].shape[3] for k in self.sources]
        found = self._moved(ring, bar, self.put, self.take, sum(lengths)).split(lengths, -1)[which]
        return ring.shared(found) if values[self.sources[which]].shape[2] == 1 else found

    def _moved(self, ring: Ring, x: Tensor, take: Tensor | None, put: Tensor | None, length: int) -> Tensor:
        x = x if take is None else x[..., take]
        x = x if self.weights is None else ring.field.multiply(x, ring.constants(self.weights))
        if put is None:
            return x
        return ring.field.reduce(x.new_zeros(*x.shape[:3], length).index_add_(3, put, x))


@dataclass(frozen=True)
class Add:
    """The sum of two values."""

    sources: tuple[int, int]
    length: int

    def size(self, sizes: Sequence[Size]) -> Size:
        """Return how large its numbers may be, for bounds on the probability of an error."""
        return sizes[self.sources[0]].plus(sizes[self.sources[1]])

    def value(self, ring: Ring, values: list[Tensor]) -> Tensor:
        """Return the value for all samples, from those of the nodes before."""
        return ring.add(*(values[k] for k in self.sources))

    def adjoint(self, ring: Ring, values: list[Tensor], bar: Tensor, which: int) -> Tensor:
        """Return what the derivative by this node adds to that by one of its sources."""
        return ring.shared(bar) if values[self.sources[which]].shape[2] == 1 else bar


@dataclass(frozen=True)
class Multiply:
    """`torch.einsum` of two values in given shapes; each letter of a factor is in the other or in the result."""

    sources: tuple[int, int]
    equation: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def letters(self) -> dict[str, int]:
        """The size of each letter."""
        factors = words(self.equation)[:2]
        return {
            letter: n
            for word, shape in zip(factors, self.shapes, strict=True)
            for letter, n in zip(word, shape, strict=True)
        }

    @property
    def length(self) -> int:
        """The number of entries."""
        return prod(self.letters[letter] for letter in words(self.equation)[2])

    def size(self, sizes: Sequence[Size]) -> Size:
        """Return how large its numbers may be, for bounds on the probability of an error."""
        terms = prod(n for letter, n in self.letters.items() if letter not in words(self.equation)[2])
        return sizes[self.sources[0]].times(sizes[self.sources[1]], terms)

    def value(self, ring: Ring, values: list[Tensor]) -> Tensor:
        """Return the value for all samples, from those of the nodes before."""
        a, b = (values[k].unflatten(3, shape) for k, shape in zip(self.sources, self.shapes, strict=True))
        return ring.multiply(self.equation, a, b).flatten(3)

    def adjoint(self, ring: Ring, values: list[Tensor], bar: Tensor, which: int) -> Tensor:
        """Return what the derivative by this node adds to that by one of its sources."""
        *factors, result = words(self.equation)
        wanted, other = factors[which], factors[1 - which]
        bar = bar.unflatten(3, [self.letters[letter] for letter in result])
        factor = values[self.sources[1 - which]].unflatten(3, self.shapes[1 - which])
        shared = values[self.sources[which]].shape[2] == 1 < max(bar.shape[2], factor.shape[2])
        return ring.multiply(f"{result},{other}->{wanted}", bar, factor, shared).flatten(3)


@dataclass(frozen=True)
class Inverse:
    """The inverse of each entry."""

    sources: tuple[int]
    length: int

    def size(self, sizes: Sequence[Size]) -> Size:
        """Return how large its numbers may be, for bounds on the probability of an error."""
        return sizes[self.sources[0]].inverse(self.length)

    def value(self, ring: Ring, values: list[Tensor]) -> Tensor:
        """Return the value for all samples, from those of the nodes before."""
        return ring.inverse(values[self.sources[0]])

    def adjoint(self, ring: Ring, values: list[Tensor], bar: Tensor, which: int) -> Tensor:
        """Return what the derivative by this node adds to that by one of its sources."""
        found = ring.inverse(values[self.sources[0]])
        square = ring.multiply("n,n->n", found, found)
        found = ring.field.reduce(-ring.multiply("n,n->n", square, bar))
        return ring.shared(found) if values[self.sources[0]].shape[2] == 1 else found


Instruction = Draw | Constant | Linear | Add | Multiply | Inverse


@dataclass(frozen=True)
class Program:
    """Instructions; value 0 is θ, value k the result of the k-th, and the last one, of length 1, is ψ.

    Attributes
    ----------
    parameters : int
        The length D of θ.
    instructions : tuple
    """

    parameters: int
    instructions: tuple[Instruction, ...]

    @property
    def longest(self) -> int:
        """The length of the longest value."""
        return max(self.parameters, *(instruction.length for instruction in self.instructions))

    @property
    def choices(self) -> int:
        """The most tokens that one is drawn from; 0 without tokens."""
        return max((one.choices for one in self.instructions if isinstance(one, Draw)), default=0)

    def exhausted(self, added: int, samples: int, rank: int) -> bool:
        """Whether new samples, so many of which added a dimension to a space, show that none is missing.

        One that adds nothing shows it if samples differ in numbers alone; with tokens it may be one that came again.
        """
        return not added and samples >= 8 * max(self.choices, rank) if self.choices else added < samples

    def size(self) -> Size:
        """Return a bound of ψ as a function of θ and all that is drawn."""
        sizes = [Size(1)]
        for instruction in self.instructions:
            sizes.append(instruction.size(sizes))
        return sizes[-1]

    def draw(self, field: PrimeField, samples: int) -> dict[int, Tensor]:
        """Draw what new samples differ in."""
        found = {}
        for k, instruction in enumerate(self.instructions, 1):
            if isinstance(instruction, Draw):
                found[k] = instruction.draw(field, samples)
        return found

    def gradient(self, ring: Ring, theta: Tensor, weights: Tensor) -> Tensor:
        """Return ∇Σ_s weight_s ψ_s along θ, with its derivatives in the directions that θ has.

        Parameters
        ----------
        ring : Ring
        theta : tensor (T, 1 + C, 1, D), or (T, 1 + C, S, D) for the gradients of all samples apart
        weights : tensor (T, 1, S, 1)

        Returns
        -------
        tensor of the shape of theta
        """
        values = self._values(ring, theta)
        found = self._adjoints(ring, values, weights, {0}).get(0, torch.zeros_like(theta))
        return padded(found, theta.shape[:2])

    def logarithmic(self, field: PrimeField, samples: int) -> Tensor:
        """Return z∂ψ/∂z (samples, all) for all that is random: the entries of θ first, then those that are drawn."""
        theta = field.random(1, 1, samples, self.parameters)
        ring = Ring(field, self.draw(field, samples))
        values = self._values(ring, theta)
        wanted = [0, *(k for k in ring.draws if not cast(Draw, self.instructions[k - 1]).choices)]
        bars = self._adjoints(ring, values, torch.ones(1, 1, samples, 1, dtype=torch.float64), set(wanted))
        found = [field.multiply(values[k], bars[k]) if k in bars else torch.zeros_like(values[k]) for k in wanted]
        return torch.cat(found, 3)[0, 0]

    def _values(self, ring: Ring, theta: Tensor) -> list[Tensor]:
        values = [theta]
        for k, instruction in enumerate(self.instructions, 1):
            values.append(ring.draws[k] if isinstance(instruction, Draw) else instruction.value(ring, values))
        return values

    def _adjoints(self, ring: Ring, values: list[Tensor], weights: Tensor, wanted: set[int]) -> dict[int, Tensor]:
        """The derivatives by the wanted values, where there are any."""
        active = [0 in wanted]
        for k, instruction in enumerate(self.instructions, 1):
            active.append(k in wanted or any(active[source] for source in instruction.sources))
        bars: dict[int, Tensor] = {len(self.instructions): weights}
        for k in range(len(self.instructions), 0, -1):
            if k not in bars or k in wanted:
                continue
            instruction, bar = self.instructions[k - 1], bars.pop(k)
            for which, source in enumerate(instruction.sources):
                if active[source]:
                    assert not isinstance(instruction, Draw | Constant)  # which have no sources
                    part = instruction.adjoint(ring, values, bar, which)
                    bars[source] = ring.add(bars[source], part) if source in bars else part
        return bars
