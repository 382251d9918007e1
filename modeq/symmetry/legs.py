"""The legs of a value: along which of its entries it is a vector that a matrix may act on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor

from modeq.symmetry.shifts import compact

_sources = count()


@dataclass(frozen=True, eq=False)
class Leg:
    """A vector that the entries of a value are made of.

    An entry is Σ factor · coordinate over the terms. Entries of one position have coordinates of one vector, those of
    other positions of another one, on which the same matrix acts.

    Attributes
    ----------
    source : int
        Which vectors these are: those of legs with one source are the same at the same position.
    terms : tuple of (slots, factors)
        For each entry the slot of the coordinate, 0 for what is none, and its factor; None for a factor that is not
        known, but the same for all entries of a position.
    position : Tensor
        For each entry the number of its position.
    """

    source: int
    terms: tuple[tuple[Tensor, Tensor | None], ...]
    position: Tensor

    @staticmethod
    def of(slots: Tensor, position: Tensor, factors: Tensor | None = None) -> "Leg":
        """Return a leg with vectors of its own, and the factor 1."""
        factors = torch.ones((), dtype=torch.float64).expand(slots.shape) if factors is None else factors
        return Leg(next(_sources), ((slots, factors),), position)

    @property
    def slots(self) -> Tensor:
        """Those of the first term, in most legs the only one."""
        return self.terms[0][0]

    @property
    def plain(self) -> bool:
        """Whether each entry is one coordinate, with factors that are the same for a position."""
        if len(self.terms) > 1:
            return False
        factors = self.terms[0][1]
        return factors is None or varies_not(factors) or refines(self.position, numbered(factors))

    def changes(self, axes: Sequence[int]) -> bool:
        """Whether the entries are other sums of coordinates along some axes."""
        several = len(self.terms) > 1
        return any(varies(slots, axes) or (several and f is not None and varies(f, axes)) for slots, f in self.terms)

    def all_slots(self) -> Tensor:
        """Return every slot that occurs."""
        return torch.cat([torch.unique(compact(slots)) for slots, _ in self.terms])

    def mapped(self, function: Any) -> "Leg":
        """Return the leg of a value whose entries are moved by a function."""
        terms = tuple((function(slots), None if f is None else function(f)) for slots, f in self.terms)
        return Leg(self.source, terms, function(self.position))

    def expanded(self, shape: Sequence[int]) -> "Leg":
        """Return the leg of the value expanded to a shape."""
        return self.mapped(lambda tensor: tensor.expand(shape))

    def scaled(self, factor: Any) -> "Leg":
        """Return the leg of the value times known numbers."""
        terms = tuple((slots, None if f is None else f * factor) for slots, f in self.terms)
        return replace(self, terms=terms)

    def forgotten(self) -> "Leg":
        """Return the same with factors that are not known, of vectors of its own."""
        return Leg(next(_sources), ((self.slots, None),), self.position)


def varies_not(tensor: Tensor) -> bool:
    """Whether all entries of a tensor are equal.

    Examples
    --------
    >>> varies_not(torch.zeros(2, 3)), varies_not(torch.arange(2))
    (True, False)
    """
    small = compact(tensor)
    return small.numel() == 0 or bool((small == small.flatten()[0]).all())


def varies(tensor: Tensor, axes: Sequence[int]) -> bool:
    """Whether a tensor changes along some of its axes.

    Examples
    --------
    >>> varies(torch.arange(3).expand(2, 3), [0]), varies(torch.arange(3).expand(2, 3), [1])
    (False, True)
    """
    small = compact(tensor)
    return any(small.shape[axis] > 1 and bool((small != small.narrow(axis, 0, 1)).any()) for axis in axes)


def numbered(tensor: Tensor) -> Tensor:
    """Return for each entry of a tensor of numbers an integer, the same for equal ones.

    Examples
    --------
    >>> numbered(torch.tensor([0.5, 2.0, 0.5])).tolist()
    [0, 1, 0]
    """
    small = compact(tensor)
    if small.is_complex():
        real, imaginary = (numbered(part.contiguous()) for part in (small.real, small.imag))
        return paired(real, imaginary).expand(tensor.shape)
    return torch.unique(small, return_inverse=True)[1].reshape(small.shape).expand(tensor.shape)


def together(*tensors: Tensor) -> list[Tensor]:
    """Return tensors broadcast against each other, of axes along which all repeat only the first entries.

    Examples
    --------
    >>> [part.shape for part in together(torch.zeros(2, 1, 1), torch.zeros(1, 5).expand(4, 5))]
    [torch.Size([2, 1, 5]), torch.Size([2, 1, 5])]
    """
    spread = torch.broadcast_tensors(*tensors)
    index = tuple(
        slice(None) if any(part.stride(axis) for part in spread) else slice(0, 1) for axis in range(spread[0].dim())
    )
    return [part[index] for part in spread]


def paired(one: Tensor, other: Tensor) -> Tensor:
    """Return for each entry a number that is the same where both of two tensors of integers are.

    Examples
    --------
    >>> paired(torch.tensor([0, 0, 1]), torch.tensor([5, 6, 6])).tolist()
    [0, 1, 2]
    """
    shape = torch.broadcast_shapes(one.shape, other.shape)
    first, second = together(one, other)
    span = int(second.max()) - int(second.min()) + 1 if second.numel() else 1
    both = (first - (first.min() if first.numel() else 0)) * span + second - (second.min() if second.numel() else 0)
    return torch.unique(both, return_inverse=True)[1].reshape(both.shape).expand(shape)


def refines(one: Tensor, other: Tensor) -> bool:
    """Whether the second of two tensors of integers is the same wherever the first is.

    Examples
    --------
    >>> refines(torch.tensor([0, 0, 1]), torch.tensor([5, 5, 5])), refines(torch.tensor([0, 0]), torch.tensor([1, 2]))
    (True, False)
    """
    if varies_not(other):
        return True
    return len(torch.unique(compact(paired(one, other)))) == len(torch.unique(compact(one)))


def places(shape: Sequence[int], axes: Sequence[int]) -> Tensor:
    """Return a tensor that numbers the places along some axes, and is the same along all others.

    Examples
    --------
    >>> places((2, 3), [1])[0].tolist(), places((2, 3), [0])[:, 2].tolist()
    ([0, 1, 2], [0, 1])
    """
    form = [length if axis in axes else 1 for axis, length in enumerate(shape)]
    size = 1
    for length in form:
        size *= length
    return torch.arange(size).reshape(form).expand(shape)
