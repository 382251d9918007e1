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

from modeq.symmetry.legs import together
from modeq.symmetry.log_scales import signed_classes

Ids = NDArray[np.int64]
_LARGE = 2**31  # more than there are slots


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
            self.side_by_side(torch.arange(self.size - length, self.size)[None])
        start = self._starts[name, axis]
        return torch.arange(start, start + length)

    def equate(self, one: Tensor, sign: int, other: Tensor) -> None:
        """State that coordinates are the same, or dual; what meets slot 0 cannot move."""
        a, b = together(one, other)
        both = np.unique(a.reshape(-1).numpy() * _LARGE + b.reshape(-1).numpy())
        pairs = np.stack(np.divmod(both, _LARGE))
        met = (pairs > 0).all(0)
        self.alone(torch.from_numpy(pairs[:, ~met].max(0, initial=0)))
        a, b = pairs[:, met]
        self._pairs.append(np.stack([a, np.full_like(a, sign), b], axis=1))

    def side_by_side(self, rows: Tensor) -> None:
        """State that something treats the slots of each row alike, and no others."""
        for row in rows.numpy():
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
        marks = self._marks(leader, of_row, slot)[firsts]
        _, mark, count = np.unique(marks, return_inverse=True, return_counts=True)
        several = count[mark] > 1
        classes = _Classes(self._owners, sign, leader)
        inside = np.isin(leader, firsts[several])
        for row, one in zip(of_row[inside[slot]].tolist(), slot[inside[slot]].tolist(), strict=True):
            classes.rows[int(leader[one])].append((row, one))
        for one, how, other in pairs[inside[pairs[:, 0]]].tolist():
            if how > 0:
                classes.added[one].append(other)
                classes.added[other].append(one)
        starts = [0, *self._starts.values(), self.size]
        classes.owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts)) - 1
        classes.starts = starts[1:-1]
        alike: dict[int, list[int]] = defaultdict(list)
        for first, number in zip(firsts[several].tolist(), mark[several].tolist(), strict=True):
            alike[number].append(first)
        for leaders in alike.values():
            pieces = classes.pieces(leaders)
            forms = self._forms(leaders, leader) if pieces else None
            if pieces and forms is not None:
                yield Block(pieces, tuple(forms), not sign[leaders].any())

    def _marks(self, leader: Ids, of_row: Ids, slot: Ids) -> Ids:
        """For each leader a number that is the same for those that all rows treat alike."""
        draw = np.random.default_rng(0)
        marks = np.zeros(self.size, dtype=np.int64)

        def number(count: int) -> Ids:
            return draw.integers(-(2**62), 2**62, count)

        with np.errstate(over="ignore"):
            np.add.at(marks, leader[slot], number(len(self._rows))[of_row])
            alone = np.unique(leader[np.concatenate([np.zeros(1, dtype=np.int64), *self._alone])])
            np.add.at(marks, alone, number(len(alone)))
        return marks

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


@dataclass
class _Classes:
    """The slots by what they are the same as, or dual to: s = sign · s_leader.

    Attributes
    ----------
    owners : the parameter and axis of each range of slots
    sign, leader : for each slot; sign 0 where it is its own dual
    rows : leader -> the rows in which its slots are, as (row, slot)
    added : slot -> those that are added to it
    owner : for each slot the number of its range
    starts : of each range the first slot
    """

    owners: list[tuple[str, int]]
    sign: Ids
    leader: Ids
    rows: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    added: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    owner: Ids = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    starts: list[int] = field(default_factory=list)

    def pieces(self, leaders: list[int]) -> tuple[Piece, ...]:
        """The slots of some leaders, in rows of one for each; none if there is but one side, or no such order."""
        found: dict[tuple[int, int], dict[int, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
        slots: dict[tuple[int, int], set[int]] = defaultdict(set)
        for k, first in enumerate(leaders):
            for row, slot in self.rows[first]:
                side = int(self.owner[slot]), int(self.sign[slot])
                found[side][row].append((k, slot))
                slots[side].add(slot)
        if {sign for _, sign in slots} in ({1}, {-1}):
            return ()
        orders = {side: _rows_of_one_each(rows.values(), len(leaders)) for side, rows in found.items()}
        for side, own in slots.items():
            if sum(map(len, orders[side])) < len(own):
                orders[side] = orders[side] | _added_to(own, orders, self.added)
        pieces: list[Piece] = []
        orientation = 0  # the first ones have the sign 1
        for side in sorted(slots, key=lambda side: min(slots[side])):
            listed = [slot for row in orders[side] for slot in row]
            if len(listed) != len(set(listed)) or len(listed) != len(slots[side]):
                return ()
            orientation = orientation or side[1] or 1
            (name, axis), start, sign = self.owners[side[0]], self.starts[side[0]], orientation * (side[1] or 1)
            pieces += [Piece(name, axis, sign, tuple(slot - start for slot in row)) for row in sorted(orders[side])]
        return tuple(pieces)


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
