"""Straight-line programs, built from values with shapes: sums, products, moved entries, and functions made general.

A function of one entry gets a value and a slope that are drawn, a softmax a value that sums to 1 and a slope that maps
constants to 0, a norm a direction.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modeq.symmetry.programs import Add, Constant, Draw, Instruction, Inverse, Linear, Multiply

_LARGEST_MATRIX = 2**24


class Unlowered(Exception):
    """An operation without a rule."""


class Entries(NamedTuple):
    """A value of the program, and its shape in the network."""

    number: int
    shape: tuple[int, ...]

    def reshaped(self, *shape: int) -> "Entries":
        """Return the same entries in another shape."""
        return Entries(self.number, tuple(shape))

    def positions(self) -> Tensor:
        """Return the numbers of its entries, in its shape."""
        return torch.arange(prod(self.shape)).reshape(self.shape)


Value = Any  # Entries, or a tensor of fixed numbers


@dataclass
class Builder:
    """The instructions of a program that is being built, and what is taken for granted.

    Examples
    --------
    >>> builder = Builder()
    >>> builder.plus(builder.draw(2, 3), torch.ones(3)).shape
    (2, 3)
    >>> [type(instruction).__name__ for instruction in builder.instructions]
    ['Draw', 'Constant', 'Linear', 'Add']
    """

    instructions: list[Instruction] = field(default_factory=list)
    granted: list[str] = field(default_factory=list)

    def emit(self, instruction: Instruction, shape: Sequence[int]) -> Entries:
        """Add an instruction."""
        self.instructions.append(instruction)
        return Entries(len(self.instructions), tuple(shape))

    def draw(self, *shape: int) -> Entries:
        """Random numbers, others for each sample."""
        return self.emit(Draw(prod(shape)), shape)

    def lifted(self, value: Value) -> Entries:
        """Fixed numbers as a value of the program."""
        if isinstance(value, Entries):
            return value
        tensor = torch.as_tensor(value)
        if not torch.isfinite(tensor).all():
            raise Unlowered("a constant that is not finite")
        numbers = tuple(Fraction(float(x)) for x in tensor.detach().flatten())
        return self.emit(Constant(numbers), tensor.shape)

    def take(self, sources: Sequence[Entries], index: Tensor) -> Entries:
        """Entries of the concatenated sources; 0 where the index is −1."""
        flat = index.flatten()
        numbers, length = tuple(source.number for source in sources), sum(prod(source.shape) for source in sources)
        if (flat < 0).any():
            put = (flat >= 0).nonzero().flatten()
            return self.emit(Linear(numbers, len(flat), flat[put], put), index.shape)
        if len(sources) == 1 and len(flat) == length and torch.equal(flat, torch.arange(length)):
            return Entries(numbers[0], tuple(index.shape))
        return self.emit(Linear(numbers, len(flat), flat), index.shape)

    def expanded(self, value: Entries, shape: Sequence[int]) -> Entries:
        """Entries repeated as by `torch.Tensor.expand`."""
        return self.take([value], value.positions().expand(*shape))

    def _broadcast(self, a: Value, b: Value) -> tuple[Entries, Entries]:
        a, b = self.lifted(a), self.lifted(b)
        shape = torch.broadcast_shapes(a.shape, b.shape)
        return self.expanded(a, shape), self.expanded(b, shape)

    def times(self, a: Value, b: Value) -> Entries:
        """The products of entries, with broadcasting."""
        a, b = self._broadcast(a, b)
        count = (prod(a.shape),)
        return self.emit(Multiply((a.number, b.number), "n,n->n", (count, count)), a.shape)

    def plus(self, a: Value, b: Value) -> Entries:
        """The sums of entries, with broadcasting."""
        a, b = self._broadcast(a, b)
        return self.emit(Add((a.number, b.number), prod(a.shape)), a.shape)

    def inverse(self, value: Entries) -> Entries:
        """The inverse of each entry."""
        return self.emit(Inverse((value.number,), prod(value.shape)), value.shape)

    def product(self, equation: str, a: Entries, b: Entries) -> Entries:
        """`torch.einsum` without broadcasting."""
        inputs, out = equation.split("->")
        sizes = dict(zip(inputs.replace(",", ""), (*a.shape, *b.shape), strict=True))
        instruction = Multiply((a.number, b.number), equation, (a.shape, b.shape))
        return self.emit(instruction, [sizes[letter] for letter in out])

    def summed(self, value: Entries, dim: int) -> Entries:
        """The sum along an axis, which is kept."""
        shape = list(value.shape)
        shape[dim] = 1
        put = torch.arange(prod(shape)).reshape(shape).expand(value.shape).flatten()
        return self.emit(Linear((value.number,), prod(shape), value.positions().flatten(), put), shape)

    def linear(self, value: Entries, function: Callable[[Tensor], Tensor]) -> Entries:
        """A linear function without parameters, with what it adds, from its matrix."""
        count = prod(value.shape)
        added = function(torch.zeros(value.shape, dtype=torch.float64))
        if added.any():
            return self.plus(self.linear(value, lambda x: function(x) - added), added)
        if added.numel() * count > _LARGEST_MATRIX:
            raise Unlowered(f"a linear map from {count} to {added.numel()} entries")
        unit = torch.eye(count, dtype=torch.float64).reshape(count, *value.shape)
        matrix = torch.stack([function(x).flatten() for x in unit])
        take, put = matrix.nonzero(as_tuple=True)
        weights = tuple(Fraction(float(x)).limit_denominator(2**16) for x in matrix[take, put])
        plain = all(weight == 1 for weight in weights)
        linear = Linear((value.number,), added.numel(), take, put, None if plain else weights)
        return self.emit(linear, added.shape)

    def affine(self, value: Entries, weight: Value, bias: Value, shape: Sequence[int]) -> Entries:
        """Entries times a weight plus a bias, if they are given, in a shape that is broadcast."""
        if weight is not None:
            value = self.times(value, self.lifted(weight).reshaped(*shape))
        return value if bias is None else self.plus(value, self.lifted(bias).reshaped(*shape))

    # --- functions made general --------------------------------------------------------------------------------------

    def curved(self, value: Entries, name: str) -> Entries:
        """A function of each entry, whose value and slope there are unrelated."""
        self.granted.append(f"value and slope of {name} are unrelated")
        return self.affine(value, self.draw(*value.shape), self.draw(*value.shape), value.shape)

    def shares(self, allowed: Tensor, dim: int) -> Entries:
        """Equal numbers that sum to 1 along an axis, and 0 where it is not allowed."""
        counts = allowed.sum(dim, keepdim=True).expand(allowed.shape)
        pairs = zip(allowed.flatten().tolist(), counts.flatten().tolist(), strict=True)
        return self.emit(Constant(tuple(Fraction(int(one), count) for one, count in pairs)), allowed.shape)

    def centred(self, value: Entries, dim: int, allowed: Tensor | None = None) -> Entries:
        """Less the mean along an axis, of the allowed entries; the others are 0."""
        if allowed is None:
            allowed = torch.ones(value.shape, dtype=torch.bool)
        elif not allowed.all():
            value = self.times(value, allowed)
        mean = self.times(self.summed(value, dim), self.shares(allowed, dim))
        return self.plus(value, self.times(mean, -1))

    def chosen(self, value: Entries, dim: int, allowed: Tensor) -> Entries:
        """One of the entries along an axis, which is kept: their sum with weights that sum to 1."""
        weights = self.plus(self.centred(self.draw(*value.shape), dim, allowed), self.shares(allowed, dim))
        return self.summed(self.times(value, weights), dim)

    def softmax(self, value: Entries, dim: int, allowed: Tensor) -> Entries:
        """A value that sums to 1, and a slope that neither sees nor changes sums."""
        if not allowed.any(dim).all():
            raise Unlowered("a softmax over nothing")
        places = value.positions().movedim(dim, -1)
        rows = self.take([self.centred(value, dim, allowed)], places.reshape(-1, value.shape[dim]))
        mixed = self.product("rmn,rn->rm", self.draw(*rows.shape, rows.shape[1]), rows)
        sloped = self.take([mixed], places.flatten().argsort().reshape(value.shape))
        both = self.centred(self.plus(sloped, self.draw(*value.shape)), dim, allowed)
        return self.plus(both, self.shares(allowed, dim))

    def normalised(self, value: Entries, groups: Tensor, centre: bool) -> Entries:
        """Each group (G, n) of entries z divided by its size |z|.

        It is z⟨c,z⟩/⟨z,z⟩ with a random c, whose value and derivative are those of z/|z| where c = z/|z|.
        """
        if centre and groups.shape[1] == 1:
            return self.lifted(torch.zeros(value.shape))
        self.granted.append("norms divide by the size alone: ε is 0")
        z = self.take([value], groups)
        z = self.centred(z, 1) if centre else z
        along = self.product("gn,gn->g", z, self.draw(*z.shape))
        factor = self.times(along, self.inverse(self.product("gn,gn->g", z, z)))
        found = self.product("gn,g->gn", z, factor)
        return self.take([found], groups.flatten().argsort().reshape(value.shape))
