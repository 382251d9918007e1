"""The parameters of a charge, and which of their axes counts its generators."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from modeq.errors import InvalidCharge

# An axis; an axis cut in so many contiguous pieces; an axis, or None for the flattened tensor, with the indices that
# each generator moves; None for one generator over the whole tensor.
Axis = int | tuple[int, int] | tuple[int | None, tuple[tuple[int, ...], ...]] | None


@dataclass(frozen=True)
class Member:
    """One parameter of a charge: which axis counts the generators, and the sign, or exponent, it enters with."""

    parameter: str
    axis: int | None
    groups: int | tuple[tuple[int, ...], ...] | None = None
    sign: float = 1

    def generators(self, shape: torch.Size, owner: str) -> int:
        """Return the number of generators that a tensor of this shape gives, or refuse it."""
        if isinstance(self.groups, tuple):
            return self._generators_of_table(shape, owner)
        if self.axis is None:
            return 1
        if not -len(shape) <= self.axis < len(shape):
            raise InvalidCharge(
                f"{owner}: {self.parameter!r} has shape {tuple(shape)} and no axis {self.axis}; "
                f"give an axis from 0 to {len(shape) - 1}, or None for one generator over the whole tensor"
            )
        size = shape[self.axis]
        if self.groups is None:
            return size
        if self.groups < 1 or size % self.groups:
            raise InvalidCharge(
                f"{owner}: axis {self.axis} of {self.parameter!r} has length {size}, which does not split "
                f"into {self.groups} equal groups; give a divisor of {size}"
            )
        return self.groups

    def _generators_of_table(self, shape: torch.Size, owner: str) -> int:
        assert isinstance(self.groups, tuple)
        if self.axis is not None and not -len(shape) <= self.axis < len(shape):
            raise InvalidCharge(
                f"{owner}: {self.parameter!r} has shape {tuple(shape)} and no axis {self.axis}; give an axis from 0 to "
                f"{len(shape) - 1}"
            )
        length = shape.numel() if self.axis is None else shape[self.axis]
        largest = max(max(indices) for indices in self.groups)
        if largest >= length:
            raise InvalidCharge(
                f"{owner}: {self.parameter!r} has shape {tuple(shape)}, where index {largest} lies outside; give "
                f"indices up to {length - 1}"
            )
        return len(self.groups)

    def reduce(self, tensor: Tensor) -> Tensor:
        """Sum a tensor of the parameter's shape over all but the generators, shape [generators]."""
        if isinstance(self.groups, tuple):
            along = (
                tensor.flatten()
                if self.axis is None
                else tensor.movedim(self.axis, 0).flatten(1).sum(1)
                if tensor.dim() > 1
                else tensor
            )
            return along[index_of(self.groups, tensor.device)].sum(1)
        if self.axis is None:
            return tensor.sum().reshape(1)
        moved = tensor.movedim(self.axis, 0)
        return moved.reshape(self.groups or moved.shape[0], -1).sum(1)

    def spread(self, values: Tensor, like: Tensor) -> Tensor:
        """Return for each entry of a tensor the sum of the values, shape [generators], of those that move it."""
        values = values.to(like)
        if isinstance(self.groups, tuple):
            length = like.numel() if self.axis is None else like.shape[self.axis]
            index = index_of(self.groups, like.device)
            along = values.new_zeros(length).index_add_(0, index.flatten(), values.repeat_interleave(index.shape[1]))
            if self.axis is None:
                return along.reshape(like.shape)
        elif self.axis is None:
            return values.expand(like.shape)
        else:
            along = values if self.groups is None else values.repeat_interleave(like.shape[self.axis] // self.groups)
        return along.reshape([-1 if d == self.axis % like.dim() else 1 for d in range(like.dim())]).expand(like.shape)

    def __str__(self) -> str:
        if isinstance(self.groups, tuple):
            first, last = min(map(min, self.groups)), max(map(max, self.groups))
            return f"{self.parameter!r}: ({self.axis}, {len(self.groups)} × {len(self.groups[0])} in {first}…{last})"
        axis = self.axis if self.groups is None else (self.axis, self.groups)
        return f"{self.parameter!r}: {axis}"


def members_of(owner: str, table: Mapping[str, Axis], sign: int = 1) -> tuple[Member, ...]:
    """The members that a table of names and axes stands for; raises `InvalidCharge`."""
    if not isinstance(table, Mapping):
        raise InvalidCharge(
            f"{owner} gets {table!r} for its parameters; give a mapping of names to axes, such as {{'fc.weight': 1}}"
        )
    if not table:
        raise InvalidCharge(f"{owner} names no parameter; give at least one, such as {{'fc.weight': 1}}")
    members = []
    for parameter, axis in table.items():
        if not isinstance(parameter, str):
            raise InvalidCharge(f"{owner} names the parameter {parameter!r}; give a string, such as 'fc.weight'")
        index, groups = axis if isinstance(axis, tuple | list) and len(axis) == 2 else (axis, None)
        if isinstance(groups, tuple | list):
            groups = table_of(owner, parameter, groups)
        elif any(isinstance(part, bool) or not isinstance(part, int | None) for part in (index, groups)):
            raise InvalidCharge(
                f"{owner}: the axis of {parameter!r} is {axis!r}; give an integer, a pair (axis, groups), or None"
            )
        members.append(Member(parameter, index, groups, sign))
    return tuple(members)


def both_sides(owner: str, sides: dict[str, Mapping[str, Axis]]) -> tuple[Member, ...]:
    """Members with the sign 1, then those with −1; a parameter that lies on both sides names its entries."""
    (one, plus), (other, minus) = sides.items()
    members = members_of(f"{owner}, {one},", plus) + members_of(f"{owner}, {other},", minus, sign=-1)
    tables = {m.parameter for m in members if isinstance(m.groups, tuple)}
    both = sorted((plus.keys() & minus.keys()) - tables)
    if both:
        raise InvalidCharge(f"{owner} has {both[0]!r} both {one} and {other}; a parameter lies on one side")
    return members


def table_of(owner: str, parameter: str, rows: Any) -> tuple[tuple[int, ...], ...]:
    """Indices for each generator, as many for each."""
    table = tuple(tuple(row) if isinstance(row, tuple | list) else () for row in rows)
    whole = all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for row in table for i in row)
    if not table or not whole or len({len(row) for row in table}) != 1 or not table[0]:
        raise InvalidCharge(
            f"{owner}: the indices of {parameter!r} are {rows!r}; give for each generator as many integers from 0"
        )
    return table


@lru_cache(maxsize=1024)
def index_of(groups: tuple[range | tuple[int, ...], ...], device: torch.device) -> Tensor:
    """Return the indices of each generator or head as a tensor, of which there is one for all readings.

    Examples
    --------
    >>> index_of((range(2), (5, 3)), torch.device("cpu")).tolist()
    [[0, 1], [5, 3]]
    """
    return torch.tensor([list(group) for group in groups], device=device)
