"""The parameters of a matrix charge as stacks of matrices: one for each head, of which one axis is mixed."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from modeq.errors import InvalidCharge
from modeq.symmetry.members import index_of

# An axis, mixed as a whole; an axis cut in so many contiguous heads; an axis with the indices of each head.
Mixed = int | tuple[int, int] | tuple[int, tuple[tuple[int, ...] | range, ...]]


@dataclass(frozen=True)
class Factor:
    """One parameter that a matrix charge mixes: along which axis, in which heads, and on which side it stands.

    Attributes
    ----------
    parameter : str
    axis : int
    groups : int, tuple of the indices of each head, or None
        None for one head over the whole axis, an integer for so many contiguous ones. A head that is longer than the
        matrices are large is mixed in pieces of their size, each alike.
    sign : 1 or -1
        1 for U, −1 for V.
    """

    parameter: str
    axis: int
    groups: int | tuple[range | tuple[int, ...], ...] | None = None
    sign: int = 1

    def lengths(self, shape: torch.Size, owner: str) -> tuple[int, int]:
        """Return the number of heads and how many indices each has; raises `InvalidCharge` if they do not fit."""
        if not -len(shape) <= self.axis < len(shape):
            raise InvalidCharge(
                f"{owner}: {self.parameter!r} has shape {tuple(shape)} and no axis {self.axis}; give an axis from 0 to "
                f"{len(shape) - 1}"
            )
        size = shape[self.axis]
        if isinstance(self.groups, tuple):
            largest = max(map(max, self.groups))
            if largest >= size:
                raise InvalidCharge(
                    f"{owner}: axis {self.axis} of {self.parameter!r} has length {size}, and index {largest} lies "
                    f"outside; give indices up to {size - 1}"
                )
            return len(self.groups), len(self.groups[0])
        heads = 1 if self.groups is None else self.groups
        if heads < 1 or size % heads:
            raise InvalidCharge(
                f"{owner}: axis {self.axis} of {self.parameter!r} has length {size}, which does not split into {heads} "
                f"equal heads; give a divisor of {size}"
            )
        return heads, size // heads

    def stack(self, tensor: Tensor, size: int) -> Tensor:
        """Return the matrices [heads, size, others] of a tensor of the parameter's shape: Uᵀ, or Vᵀ."""
        rows = _first(tensor, self.axis)
        if isinstance(self.groups, tuple):
            rows = _selected(rows, self.groups)
        else:
            rows = rows.unflatten(0, (self.groups or 1, -1))
        if rows.shape[1] == size:
            return rows
        return rows.unflatten(1, (-1, size)).transpose(1, 2).flatten(2)

    def placed(self, stack: Tensor, like: Tensor) -> Tensor:
        """Return a tensor shaped as the parameter with these matrices in it, and 0 elsewhere."""
        rows = _first(like, self.axis)
        if isinstance(self.groups, tuple):
            index = index_of(self.groups, like.device)
        else:
            index = torch.arange(len(rows), device=like.device).reshape(self.groups or 1, -1)
        pieces = stack.unflatten(2, (-1, rows.shape[1])).transpose(1, 2).flatten(0, 2)
        found = pieces.new_zeros(rows.shape).index_add(0, index.flatten(), pieces)
        others = [length for axis, length in enumerate(like.shape) if axis != self.axis % like.dim()]
        return found.reshape(found.shape[0], *others).movedim(0, self.axis % like.dim())

    def heads(self, like: Tensor) -> Tensor:
        """Return for each entry of a tensor the number of its head, from 1; 0 where it is in none."""
        count, length = self.lengths(like.shape, self.parameter)
        numbers = torch.arange(1.0, count + 1).reshape(-1, 1, 1)
        others = like.numel() // like.shape[self.axis]
        return self.placed(numbers.expand(count, length, others), like.detach().cpu()).long()

    def __str__(self) -> str:
        if isinstance(self.groups, tuple):
            first, last = min(map(min, self.groups)), max(map(max, self.groups))
            return f"{self.parameter!r}: ({self.axis}, {len(self.groups)} × {len(self.groups[0])} in {first}…{last})"
        return f"{self.parameter!r}: {self.axis if self.groups is None else (self.axis, self.groups)}"


def factors_of(owner: str, table: Any, sign: int) -> tuple[Factor, ...]:
    """Return the factors that a table of parameters and axes stands for; raises `InvalidCharge`.

    Examples
    --------
    >>> factors_of("charge 'q-k', left,", {"qkv.weight": (0, ((0, 1), (2, 3)))}, 1)[0].groups
    (range(0, 2), range(2, 4))
    """
    if not isinstance(table, Mapping):
        raise InvalidCharge(
            f"{owner} gets {table!r} for its parameters; give a mapping of names to axes, such as {{'q.weight': 0}}"
        )
    found = []
    for parameter, given in table.items():
        if not isinstance(parameter, str):
            raise InvalidCharge(f"{owner} names the parameter {parameter!r}; give a string, such as 'q.weight'")
        axis, groups = given if isinstance(given, tuple | list) and len(given) == 2 else (given, None)
        if isinstance(groups, tuple | list):
            groups = _rows(owner, parameter, groups)
        elif any(isinstance(part, bool) or not isinstance(part, int | None) for part in (axis, groups)):
            axis = None
        if not isinstance(axis, int):
            raise InvalidCharge(
                f"{owner}: the axis of {parameter!r} is {given!r}; give an integer, a pair (axis, heads), or a pair of "
                "an axis and the indices of each head"
            )
        found.append(Factor(parameter, axis, groups, sign))
    return tuple(found)


def _rows(owner: str, parameter: str, given: Any) -> tuple[range | tuple[int, ...], ...]:
    """Indices of each head, as many for each, as ranges where they are such."""
    rows = [tuple(row) if isinstance(row, tuple | list | range) else () for row in given]
    whole = all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for row in rows for i in row)
    if not rows or not whole or len({len(row) for row in rows}) != 1 or not rows[0]:
        raise InvalidCharge(
            f"{owner}: the heads of {parameter!r} are {given!r}; give for each head as many indices from 0"
        )
    return tuple(_range(row) for row in rows)


def _range(row: tuple[int, ...]) -> range | tuple[int, ...]:
    steps = {b - a for a, b in pairwise(row)} or {1}
    step = steps.pop()
    return range(row[0], row[-1] + (1 if step > 0 else -1), step) if not steps and step else row


def _first(tensor: Tensor, axis: int) -> Tensor:
    """A tensor with one axis first and all others as one."""
    moved = tensor.movedim(axis, 0)
    return moved.reshape(len(moved), -1)


def _selected(rows: Tensor, groups: tuple[range | tuple[int, ...], ...]) -> Tensor:
    """The rows of each head, [heads, rows, others]; a view where the heads are equally spaced."""
    if all(isinstance(group, range) and group.step == 1 for group in groups):
        starts, length = [group[0] for group in groups], len(groups[0])
        strides = {b - a for a, b in pairwise(starts)} or {length}
        if len(strides) == 1 and min(strides) >= length:
            stop = starts[-1] + length
            return rows[starts[0] : stop].unfold(0, length, strides.pop()).transpose(1, 2)
    return rows[index_of(groups, rows.device)]
