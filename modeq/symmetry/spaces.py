"""Coordinates of the spaces between linear maps: which are one, which are dual, and which may be mixed.

Each index of each axis of a parameter has a number, its slot. Where two values are added, their coordinates are the
same; where they are contracted, those of one are dual to those of the other. Whatever treats some coordinates alike
leaves them together, and parts them from all others. What is together in the end may be mixed by any matrix.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeq.symmetry.log_scales import signed_classes

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Coupling:
    """Two rows of slots, dual to each other in their order, which meet in several bilinear forms, aᵀCb.

    Attributes
    ----------
    slots : array (n,), those of a
    forms : array (forms, n, n)
    """

    slots: Ids
    forms: NDArray[np.float64]


@dataclass(frozen=True)
class Piece:
    """Slots of one axis of one parameter, in the order of the coordinates of a block, and the side they are on."""

    name: str
    axis: int
    sign: int
    indices: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Block:
    """Coordinates that may be mixed.

    Attributes
    ----------
    pieces : tuple of Piece
        All that carries them.
    forms : arrays (forms, r, r) with which the matrices must commute
    self_dual : bool
        Whether each coordinate is its own dual, so that the matrices must be antisymmetric.
    """

    pieces: tuple[Piece, ...]
    forms: tuple[NDArray[np.float64], ...]
    self_dual: bool


@dataclass
class Spaces:
    """The slots of a network, and what is known of them.

    Examples
    --------
    >>> spaces = Spaces()
    >>> written, read = spaces.slots("0.weight", 0, 3), spaces.slots("1.weight", 1, 3)
    >>> spaces.equate(written, -1, read)
    >>> [[(p.name, p.sign, p.indices) for p in block.pieces] for block in spaces.blocks()]
    [[('0.weight', 1, (0, 1, 2)), ('1.weight', -1, (0, 1, 2))]]
    """

    size: int = 1  # slot 0 is what does not move
    _starts: dict[tuple[str, int], int] = field(default_factory=dict)
    _owners: list[tuple[str, int]] = field(default_factory=list)
    _pairs: list[Ids] = field(default_factory=list)
    _rows: dict[bytes, Ids] = field(default_factory=dict)
    _alone: list[Ids] = field(default_factory=list)
    _couplings: list[Coupling] = field(default_factory=list)

    def slots(self, name: str, axis: int, length: int) -> Tensor:
        """Return the slots of an axis of a parameter."""
        if (name, axis) not in self._starts:
            self._starts[name, axis] = self.size
            self._owners.append((name, axis))
            self.size += length
            self.together(torch.arange(self.size - length, self.size)[None])
        start = self._starts[name, axis]
        return torch.arange(start, start + length)

    def equate(self, one: Tensor, sign: int, other: Tensor) -> None:
        """State that coordinates are the same, or dual; what meets slot 0 cannot move."""
        a, b = torch.broadcast_tensors(one, other)
        index = tuple(
            slice(None) if any(strides) else slice(0, 1) for strides in zip(a.stride(), b.stride(), strict=True)
        )
        pairs = np.unique(np.stack([a[index].reshape(-1).numpy(), b[index].reshape(-1).numpy()]), axis=1)
        met = (pairs > 0).all(0)
        self.alone(torch.from_numpy(pairs[:, ~met].max(0, initial=0)))
        a, b = pairs[:, met]
        self._pairs.append(np.stack([a, np.full_like(a, sign), b], axis=1))

    def together(self, rows: Tensor) -> None:
        """State that something treats the slots of each row alike, and no others."""
        for row in np.unique(rows.numpy(), axis=0):
            self._rows.setdefault(row.tobytes(), row.copy())

    def alone(self, slots: Tensor) -> None:
        """State that nothing can be mixed with any of some slots."""
        self._alone.append(np.unique(slots.numpy()))

    def couple(self, slots: Tensor, forms: NDArray[np.float64]) -> None:
        """State that a row of slots and its dual meet in several bilinear forms."""
        self._couplings.append(Coupling(slots.numpy(), forms))

    def blocks(self) -> Iterator[Block]:
        """Yield what may be mixed, in the order of the slots."""
        pairs = np.concatenate([np.zeros((1, 3), dtype=np.int64), *self._pairs])
        sign, leader = signed_classes(self.size, pairs)
        rows = list(self._rows.values())
        of_row = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        slot = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
        firsts = np.unique(leader[1:])
        _, mark, count = np.unique(self._marks(leader, of_row, slot)[firsts], return_inverse=True, return_counts=True)
        several = firsts[count[mark] > 1]
        inside = np.isin(leader[slot], several)
        listed: dict[int, list[tuple[int, int]]] = defaultdict(list)  # leader -> (row, slot)
        for row, one in zip(of_row[inside].tolist(), slot[inside].tolist(), strict=True):
            listed[int(leader[one])].append((row, one))
        together: dict[int, list[int]] = defaultdict(list)
        for first, number in zip(several.tolist(), mark[count[mark] > 1].tolist(), strict=True):
            together[number].append(first)
        owners = np.repeat(np.arange(len(self._starts) + 1), np.diff([0, *self._starts.values(), self.size])) - 1
        added: dict[int, list[int]] = defaultdict(list)  # slot -> those that are added to it
        for one, how, other in pairs[np.isin(leader[pairs[:, 0]], several)].tolist():
            if how > 0:
                added[one].append(other)
                added[other].append(one)
        for leaders in together.values():
            yield from self._block(leaders, sign, leader, listed, owners, added)

    def _marks(self, leader: Ids, of_row: Ids, slot: Ids) -> Ids:
        """For each leader a number that is the same for those that all rows treat alike."""
        draw = np.random.default_rng(0)
        marks = np.zeros(self.size, dtype=np.int64)

        def number(count: int) -> Ids:
            return draw.integers(-(2**62), 2**62, count)

        with np.errstate(over="ignore"):
            np.add.at(marks, leader[slot], number(int(of_row.max(initial=0)) + 1)[of_row])
            alone = leader[np.concatenate([np.zeros(1, dtype=np.int64), *self._alone])]
            np.add.at(marks, np.unique(alone), number(len(np.unique(alone))))
        return marks

    def _block(
        self, leaders: list[int], sign: Ids, leader: Ids, listed: Any, owners: Ids, added: Any
    ) -> Iterator[Block]:
        """The block of some leaders, unless its parts cannot be put in an order."""
        order = {first: k for k, first in enumerate(leaders)}
        found: dict[tuple[str, int, int], dict[int, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
        slots: dict[tuple[str, int, int], set[int]] = defaultdict(set)
        for first in leaders:
            for row, slot in listed[first]:
                owner = (*self._owners[owners[slot]], int(sign[slot]) or 1)
                found[owner][row].append((order[first], slot))
                slots[owner].add(slot)
        orders = {owner: _rows_of_one_each(rows.values(), len(leaders)) for owner, rows in found.items()}
        orders = {owner: own | _added_to(slots[owner], orders, added) for owner, own in orders.items()}
        orientation, pieces = 0, []
        for owner in sorted(slots, key=lambda owner: min(slots[owner])):
            listed_slots = [slot for row in orders[owner] for slot in row]
            if len(listed_slots) != len(set(listed_slots)) or len(listed_slots) != len(slots[owner]):
                return
            name, axis, side = owner
            orientation = orientation or side
            start = self._starts[name, axis]
            pieces += [
                Piece(name, axis, side * orientation, tuple(i - start for i in row)) for row in sorted(orders[owner])
            ]
        self_dual = not sign[leaders].any()
        forms = self._forms(leaders, leader)
        if forms is not None and (self_dual or len({piece.sign for piece in pieces}) == 2):
            yield Block(tuple(pieces), tuple(forms), self_dual)

    def _forms(self, leaders: list[int], leader: Ids) -> list[NDArray[np.float64]] | None:
        """What their matrices must commute with; None if a form leads out of the block."""
        found = []
        inside = set(leaders)
        for coupling in self._couplings:
            own = leader[coupling.slots]
            places = {int(first): k for k, first in enumerate(own) if int(first) in inside}
            if not places:
                continue
            if len(places) < len(leaders):
                return None
            chosen = np.array([places[first] for first in leaders])
            rest = np.setdiff1d(np.arange(len(own)), chosen)
            across = [coupling.forms[:, chosen][:, :, rest], coupling.forms[:, rest][:, :, chosen]]
            if any(np.abs(part).max(initial=0) > 1e-6 * np.abs(coupling.forms).max() for part in across):
                return None
            found.append(coupling.forms[:, chosen][:, :, chosen])
        return found


def _rows_of_one_each(rows: Any, size: int) -> set[tuple[int, ...]]:
    """The rows that have one slot for each coordinate, in the order of these."""
    found = set()
    for row in rows:
        placed = dict(row)
        if len(placed) == len(row) == size:
            found.add(tuple(placed[k] for k in range(size)))
    return found


def _added_to(slots: set[int], orders: Any, added: Any) -> set[tuple[int, ...]]:
    """Rows of some slots that are added to those of other rows, one by one."""
    found = set()
    for order in (order for rows in orders.values() for order in rows):
        partners = [[other for other in added.get(slot, ()) if other in slots] for slot in order]
        if all(len(set(own)) == 1 for own in partners):
            found.add(tuple(own[0] for own in partners))
    return found
