"""Straight-line programs: functions of the parameters as few kinds of operations, run on power series modulo a prime.

A program computes one number ψ(θ) for each sample. All samples share θ and differ in what is drawn: inputs, activation
patterns, weights of the outputs. A value is a tensor (T, 1 + C, S, n): T coefficients of a series in t; the value
itself and its derivatives in C directions, or the value alone where these are 0; S samples, or 1 for what is shared; n
entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import log2, prod

import torch
from torch import Tensor

from modeq.errors import InvalidProblem
from modeq.symmetry.modular import PrimeField

# Letters of the axes of every value: coefficient, coefficient of a factor, direction, sample.
_COEFFICIENT, _FACTOR, _DIRECTION, _SAMPLE = "TUCS"


@dataclass(frozen=True)
class Size:
    """A bound of an array of rational functions N_i/Q, with integer coefficients, of all that is random.

    Attributes
    ----------
    degree, degree_below : degrees of the N_i and of their common denominator Q
    height, height_below : log₂ of the sums of the absolute values of their coefficients
    """

    degree: int
    degree_below: int = 0
    height: float = 0.0
    height_below: float = 0.0

    def plus(self, other: "Size") -> "Size":
        """Bound a sum."""
        return Size(
            max(self.degree + other.degree_below, other.degree + self.degree_below),
            self.degree_below + other.degree_below,
            max(self.height + other.height_below, other.height + self.height_below) + 1,
            self.height_below + other.height_below,
        )

    def times(self, other: "Size", terms: int = 1) -> "Size":
        """Bound a sum of so many products."""
        return Size(
            self.degree + other.degree,
            self.degree_below + other.degree_below,
            self.height + other.height + log2(terms),
            self.height_below + other.height_below,
        )

    def inverse(self, entries: int) -> "Size":
        """Bound the inverses of all entries: their common denominator is the product of the numerators."""
        return Size(
            self.degree_below + (entries - 1) * self.degree,
            entries * self.degree,
            self.height_below + (entries - 1) * self.height,
            entries * self.height,
        )


class Ring:
    """Series with directions over a prime field, and what was drawn for the samples."""

    def __init__(self, field: PrimeField, draws: dict[int, Tensor]) -> None:
        self.field, self.draws = field, draws
        self._constants: dict[int, Tensor] = {}

    def constants(self, numbers: tuple[Fraction, ...]) -> Tensor:
        """Return fixed numbers as elements of the field."""
        if id(numbers) not in self._constants:
            self._constants[id(numbers)] = self.field.of(numbers)
        return self._constants[id(numbers)]

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the sum; coefficients and directions that one lacks are 0."""
        shape = [max(a.shape[k], b.shape[k]) for k in range(2)]
        return self.field.reduce(_padded(a, shape) + _padded(b, shape))

    def multiply(self, equation: str, a: Tensor, b: Tensor, shared: bool = False) -> Tensor:
        """Return `torch.einsum` of two values, summed over the samples too if the result is shared."""
        found = self._series(equation, a[:, :1], b[:, :1], shared)
        if a.shape[1] == b.shape[1] == 1:
            return found
        parts = [self._series(equation, a[:, 1:], b[:, :1], shared)] if a.shape[1] > 1 else []
        parts += [self._series(equation, a[:, :1], b[:, 1:], shared)] if b.shape[1] > 1 else []
        return torch.cat([found, self.field.reduce(sum(parts[1:], parts[0]))], 1)

    def _series(self, equation: str, a: Tensor, b: Tensor, shared: bool) -> Tensor:
        one, other, out = _words(equation)
        if a.numel() > b.numel():  # the first is taken apart
            a, b, one, other = b, a, other, one
        if one == other == out and not shared:
            return self._entrywise(a, b)
        lead, kept = _DIRECTION + _SAMPLE, _DIRECTION if shared else _DIRECTION + _SAMPLE
        row = column = _COEFFICIENT
        if len(a) > 1 and len(b) > 1:
            a, row, column = _toeplitz(a), _COEFFICIENT + _FACTOR, _FACTOR
        found = self.field.contract(f"{row}{lead}{one},{column}{lead}{other}->{_COEFFICIENT}{kept}{out}", a, b)
        return found.unsqueeze(2) if shared else found

    def _entrywise(self, a: Tensor, b: Tensor) -> Tensor:
        if len(a) == 1 or len(b) == 1:
            return self.field.multiply(a, b)
        return self.field.convolve(a, b)

    def shared(self, a: Tensor) -> Tensor:
        """Return the sum over the samples."""
        return a if a.shape[2] == 1 else self.field.reduce(a.sum(2, keepdim=True))

    def inverse(self, a: Tensor) -> Tensor:
        """Return the inverses of entries.

        Raises
        ------
        InvalidProblem
            If a constant coefficient is 0.
        """
        if not a[0, 0].all():
            raise InvalidProblem(
                "the network divides by 0, always or modulo a random prime: see whether another seed helps"
            )
        two = torch.zeros_like(a[:, :1])
        two[0] = 2
        found, terms = _padded(self.field.inverse(a[:1, :1]), [len(a), 1]), 1
        while terms < len(a) or (a.shape[1] > 1 and terms < 2 * len(a)):
            product = self.multiply("n,n->n", a, found)
            found = self.multiply("n,n->n", found, self.add(two, self.field.reduce(-product)))
            terms *= 2
        return found


def _padded(a: Tensor, shape: Sequence[int]) -> Tensor:
    if list(a.shape[:2]) == list(shape):
        return a
    found = a.new_zeros(*shape, *a.shape[2:])
    found[: a.shape[0], : a.shape[1]] = a
    return found


def _words(equation: str) -> tuple[str, str, str]:
    inputs, out = equation.split("->")
    one, other = inputs.split(",")
    return one, other, out


def _toeplitz(a: Tensor) -> Tensor:
    """The coefficients a_{k−j} as a square matrix (k, j)."""
    found = a.new_zeros(len(a), *a.shape)
    for j in range(len(a)):
        found[j:, j] = a[: len(a) - j]
    return found


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
        return Size(0, 0, *_heights(self.numbers))

    def value(self, ring: Ring, values: list[Tensor]) -> Tensor:
        """Return the value for all samples, from those of the nodes before."""
        return ring.constants(self.numbers).reshape(1, 1, 1, -1)


def _heights(numbers: Sequence[Fraction]) -> tuple[float, float]:
    """Of fractions over a common denominator, which the product of the different ones is."""
    below = sum(log2(d) for d in {n.denominator for n in numbers})
    return below + max((log2(abs(n) + 1) for n in numbers), default=0.0), below


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
        return first.times(Size(0, 0, *_heights(self.weights or ())), counts)

    def value(self, ring: Ring, values: list[Tensor]) -> Tensor:
        """Return the value for all samples, from those of the nodes before."""
        parts = [values[k] for k in self.sources]
        shape = [max(part.shape[k] for part in parts) for k in range(3)]
        joined = [_padded(part, shape[:2]).expand(*shape, -1) for part in parts]
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
        words = _words(self.equation)[:2]
        return {
            letter: n
            for word, shape in zip(words, self.shapes, strict=True)
            for letter, n in zip(word, shape, strict=True)
        }

    @property
    def length(self) -> int:
        """The number of entries."""
        return prod(self.letters[letter] for letter in _words(self.equation)[2])

    def size(self, sizes: Sequence[Size]) -> Size:
        """Return how large its numbers may be, for bounds on the probability of an error."""
        terms = prod(n for letter, n in self.letters.items() if letter not in _words(self.equation)[2])
        return sizes[self.sources[0]].times(sizes[self.sources[1]], terms)

    def value(self, ring: Ring, values: list[Tensor]) -> Tensor:
        """Return the value for all samples, from those of the nodes before."""
        a, b = (values[k].unflatten(3, shape) for k, shape in zip(self.sources, self.shapes, strict=True))
        return ring.multiply(self.equation, a, b).flatten(3)

    def adjoint(self, ring: Ring, values: list[Tensor], bar: Tensor, which: int) -> Tensor:
        """Return what the derivative by this node adds to that by one of its sources."""
        *words, result = _words(self.equation)
        wanted, other = words[which], words[1 - which]
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
        return _padded(found, theta.shape[:2])

    def logarithmic(self, field: PrimeField, samples: int) -> Tensor:
        """Return z∂ψ/∂z (samples, all) for all that is random: the entries of θ first, then those that are drawn."""
        theta = field.random(1, 1, samples, self.parameters)
        ring = Ring(field, self.draw(field, samples))
        values = self._values(ring, theta)
        wanted = [0, *(k for k in ring.draws if not self.instructions[k - 1].choices)]
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
                    part = instruction.adjoint(ring, values, bar, which)
                    bars[source] = ring.add(bars[source], part) if source in bars else part
        return bars
