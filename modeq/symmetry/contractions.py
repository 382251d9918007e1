"""What a product of two values, summed over some axes, makes of their legs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeq.symmetry.legs import Leg, paired, places, together, varies
from modeq.symmetry.spaces import Spaces

_FORMS = 4  # random sums of the bilinear forms in which two legs meet, enough to tell what commutes with all


@dataclass(frozen=True)
class Operand:
    """A factor of a product: its legs, its shape, and a letter for each axis."""

    legs: tuple[Leg, ...]
    shape: tuple[int, ...]
    word: str

    def aligned(self, letters: str) -> list[Leg]:
        """Return the legs with an axis for each of some letters, of length 1 where there is none."""
        order = [self.word.index(letter) for letter in letters if letter in self.word]

        def align(tensor: Tensor) -> Tensor:
            found = tensor.permute(order)
            for axis, letter in enumerate(letters):
                found = found if letter in self.word else found.unsqueeze(axis)
            return found

        return [leg.mapped(align) for leg in self.legs]


def contracted(spaces: Spaces, one: Operand, other: Operand, out: str) -> tuple[Leg, ...]:
    """Return the legs of Σ one·other, summed over all letters that are not in `out`.

    A leg along the axes that are summed over meets another there, whose coordinates are dual to its own; if there is
    none, nothing can be mixed. A leg along other axes stays.

    Examples
    --------
    >>> spaces = Spaces()
    >>> first = Leg.of(spaces.slots("0.weight", 0, 3).expand(2, 3), places((2, 3), [0]))  # of two samples
    >>> rows, columns = spaces.slots("1.weight", 0, 4)[:, None], spaces.slots("1.weight", 1, 3)[None]
    >>> legs = [Leg.of(slots.expand(4, 3), places((4, 3), [axis])) for slots, axis in ((rows, 1), (columns, 0))]
    >>> weight = Operand(tuple(legs), (4, 3), "oi")
    >>> found = contracted(spaces, Operand((first,), (2, 3), "bi"), weight, "bo")
    >>> [leg.slots[0].tolist() for leg in found]
    [[4, 5, 6, 7]]
    """
    letters = out + "".join(dict.fromkeys(letter for letter in one.word + other.word if letter not in out))
    sizes = dict(zip(one.word + other.word, one.shape + other.shape, strict=True))
    summed = range(len(out), len(letters))
    staying: list[tuple[Leg, Operand]] = []
    ending: tuple[list[Leg], list[Leg]] = ([], [])
    for k, (part, partner) in enumerate(((one, other), (other, one))):
        for leg in part.aligned(letters):
            if leg.changes(summed):
                ending[k].append(leg)
            else:
                staying.append((leg, partner))
    for leg in list(ending[0]):
        for partner_leg in list(ending[1]):
            along = [k for k in summed if leg.changes([k]) and partner_leg.changes([k])]
            if along:
                _meet(spaces, leg, partner_leg, along)
                ending[0].remove(leg)
                ending[1].remove(partner_leg)
                break
    for leg in (*ending[0], *ending[1]):
        spaces.alone(leg.all_slots())
    shape = [sizes[letter] for letter in out]
    kept = []
    for leg, partner in staying:
        found = _kept(leg, shape, [k for k, letter in enumerate(out) if letter in partner.word])
        if found is None:
            spaces.alone(leg.all_slots())
        else:
            kept.append(found)
    return tuple(kept)


def _kept(leg: Leg, shape: list[int], beside: list[int]) -> Leg | None:
    """A leg that is not summed over, on the result, whose entries differ along the axes of the other factor."""
    first: tuple[slice | int, ...] = (*[slice(None)] * len(shape), *[0] * (leg.position.dim() - len(shape)))
    position = leg.position[first]
    spread = position.reshape(*position.shape, *[1] * (leg.position.dim() - len(shape)))
    if not leg.plain or varies(torch.sub(*together(leg.position, spread)), range(len(shape))):
        return None
    return Leg.of(leg.slots[first].expand(shape), paired(position.expand(shape), places(shape, beside)))


def _meet(spaces: Spaces, one: Leg, other: Leg, along: list[int]) -> None:
    """Two legs are contracted with each other along some axes."""
    one, other = (leg.mapped(lambda tensor: _last(tensor, along)) for leg in (one, other))
    groups = _groups(one.position, other.position)
    for group in groups or ():
        parts = [leg.mapped(lambda tensor, group=group: tensor[..., group]) for leg in (one, other)]
        if not (_dual(spaces, *parts) if all(map(_even, parts)) else _coupled(spaces, *parts)):
            groups = None
    if groups is None:
        spaces.alone(torch.cat([one.all_slots(), other.all_slots()]))


def _last(tensor: Tensor, along: Sequence[int]) -> Tensor:
    """A tensor with some axes as the last one."""
    rest = [axis for axis in range(tensor.dim()) if axis not in along]
    return tensor.permute(*rest, *along).flatten(len(rest))


def _groups(one: Tensor, other: Tensor) -> list[Tensor] | None:
    """The places along the last axis in groups of one position of both; None if these differ along other axes."""
    found = []
    for position in (one, other):
        difference = torch.sub(*together(position, position[..., :1]))
        if varies(difference, range(difference.dim() - 1)):
            return None
        found.append(difference.reshape(-1, difference.shape[-1])[0].expand(position.shape[-1]))
    number = paired(*found)
    return [torch.nonzero(number == k).flatten() for k in range(int(number.max()) + 1)]


def _even(leg: Leg) -> bool:
    """Whether each entry is one coordinate, all with the same factor along the last axis."""
    return len(leg.terms) == 1 and (leg.terms[0][1] is None or not varies(leg.terms[0][1], [leg.position.dim() - 1]))


def _dual(spaces: Spaces, one: Leg, other: Leg) -> bool:
    pair = _rows([one.slots, other.slots])
    spaces.side_by_side(pair[0])
    spaces.side_by_side(pair[1])
    spaces.equate(pair[0], -1, pair[1])
    return True


def _rows(tensors: list[Tensor]) -> list[Tensor]:
    """The different rows along the last axis of several tensors that are broadcast against each other."""
    narrow = []
    for tensor in tensors:
        same = [axis for axis in range(tensor.dim() - 1) if not varies(tensor, [axis])]
        narrow.append(tensor[tuple(slice(0, 1) if axis in same else slice(None) for axis in range(tensor.dim()))])
    stacked = torch.stack(torch.broadcast_tensors(*narrow), -2)
    return list(torch.unique(stacked.flatten(0, -3), dim=0).unbind(1))


def _coupled(spaces: Spaces, one: Leg, other: Leg) -> bool:
    """Legs whose entries are known sums of coordinates meet in bilinear forms, one for each pair of positions."""
    if any(factors is None or bool((slots == 0).any()) for leg in (one, other) for slots, factors in leg.terms):
        return False
    rest = one.position.dim() - 1
    shared = [k for k in range(rest) if any(varies(slots, [k]) for leg in (one, other) for slots, _ in leg.terms)]
    if any(one.position.shape[k] != other.position.shape[k] for k in shared):
        return False
    maps = []
    for seed, (leg, partner) in enumerate(((one, other), (other, one))):
        free = [k for k in range(rest) if k not in shared and leg.position.shape[k] > 1 == partner.position.shape[k]]
        if not free:  # at a single position a rotation by it would be none
            return False
        maps.append(_images(leg, shared, seed))
    if maps[0][0].shape != maps[1][0].shape:
        return False
    for a, b, left, right in zip(*(m[0] for m in maps), *(m[1] for m in maps), strict=True):
        forms = np.einsum("men,mek->mnk", left, right)
        spaces.side_by_side(a[None])
        spaces.side_by_side(b[None])
        spaces.equate(a, -1, b)
        spaces.couple(a, forms)
    return True


def _images(leg: Leg, shared: list[int], seed: int) -> tuple[Tensor, list[NDArray[np.float64]]]:
    """For each place along the shared axes the coordinates, and random sums of the maps to entries over all others."""
    rest = [k for k in range(leg.position.dim() - 1) if k not in shared]
    draw = np.random.default_rng(seed)
    length = leg.position.shape[-1]
    terms = []
    for slots, factors in leg.terms:
        assert factors is not None
        parts = [tensor.permute(*shared, *rest, tensor.dim() - 1) for tensor in (slots, factors)]
        count = int(np.prod([leg.position.shape[k] for k in shared]))
        terms.append([part.reshape(count, -1, length) for part in parts])
    slots = torch.stack([slots[:, 0] for slots, _ in terms])  # (terms, places, entries)
    listed = [torch.unique(row) for row in slots.flatten(2).unbind(1)]
    if len({len(row) for row in listed}) > 1:
        return torch.zeros(0), []
    weights = draw.normal(size=(_FORMS, terms[0][1].shape[1]))
    found = []
    for place, row in enumerate(listed):
        image = np.zeros((_FORMS, length, len(row)))
        for (_, factors), own in zip(terms, slots[:, place], strict=True):
            sums = np.einsum("mp,pe->me", weights, factors[place].numpy())
            column = np.searchsorted(row.numpy(), own.numpy())
            entries: Any = (slice(None), np.arange(length), column)
            np.add.at(image, entries, sums)
        found.append(image)
    return torch.stack(listed), found
