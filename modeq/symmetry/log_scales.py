"""Unknown log-scales of the entries of tensors, the linear relations between them, and all their solutions."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import sympy as sp
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sympy.polys.matrices import DomainMatrix

Ids = NDArray[np.int64]
_LARGE = 2**31  # more than there are unknowns
Row = tuple[tuple[int, ...], tuple[int, ...]]  # unknowns, and their coefficients


class LogScales:
    """Unknowns s_1, s_2, …, of which s_0 = 0, with relations Σ_k c_k s_{i_k} = 0 that are given for whole arrays.

    Examples
    --------
    >>> scales = LogScales()
    >>> a, b, c = scales.fresh(2), scales.fresh(2), scales.fresh(2)
    >>> scales.equate(a, -1, b)
    >>> scales.relate([a, b[:1], c], [1, 2, -1])  # c = a + 2b_0
    >>> scales.vanish(c[:1])
    >>> solved = scales.solve()
    >>> [[solved.on(ids, k).tolist() for ids in (a, b, c)] for k in range(len(solved.basis))]
    [[[0, 1], [0, -1], [0, 1]]]
    """

    def __init__(self) -> None:
        self._next = count(1)
        self._pairs: list[NDArray[np.int64]] = []  # rows (i, sign, j): s_i = sign · s_j
        self._rows: list[tuple[Ids, Ids]] = []  # arrays (n, terms) of unknowns and of their coefficients

    def fresh(self, *shape: int) -> Ids:
        """Return new unknowns."""
        size = int(np.prod(shape))
        first = next(self._next)
        self._next = count(first + size)
        return np.arange(first, first + size).reshape(shape)

    def equate(self, one: Ids, sign: int, other: Ids) -> None:
        """State that s_one = sign · s_other, entry by entry."""
        i, j = map(np.ravel, _without_repeats(one, other))
        if sign > 0:
            differ = i != j
            i, j = i[differ], j[differ]
        first, second = np.divmod(np.unique(i * _LARGE + j), _LARGE)
        self._pairs.append(np.stack([first, np.full_like(first, sign), second], axis=1))

    def mention(self, ids: Ids) -> None:
        """State nothing, but that these unknowns count."""
        known = np.unique(_without_repeats(ids)[0])
        self._pairs.append(np.stack([known, np.ones_like(known), known], axis=1))

    def vanish(self, ids: Ids) -> None:
        """State that s = 0."""
        self.equate(ids, 1, np.zeros(1, dtype=np.int64))

    def relate(self, ids: Sequence[Ids], coefficients: Sequence[int]) -> None:
        """State that Σ_k c_k s_{ids_k} = 0, entry by entry."""
        rows = np.unique(np.stack([np.ravel(array) for array in _without_repeats(*ids)], axis=1), axis=0)
        self._rows.append((rows, np.broadcast_to(np.array(coefficients), rows.shape)))

    def solve(self) -> "Solutions":
        """Return all solutions; unknowns that no relation mentions are left out."""
        size = next(self._next)
        self._next = count(size)
        rows = [(tuple(ids), tuple(cs)) for block, given in self._rows for ids, cs in zip(block, given, strict=True)]
        pairs = np.concatenate([np.zeros((1, 3), dtype=np.int64), *self._pairs])
        while True:
            sign, leader = signed_classes(size, pairs)
            rows, found = _substituted(rows, sign, leader)
            if not len(found):
                seen = np.zeros(size, dtype=bool)
                for ids in (*(pairs[:, ::2] for pairs in self._pairs), *(ids for ids, _ in self._rows)):
                    seen[ids.ravel()] = True
                held = set(leader[seen].tolist())
                return Solutions(sign, leader, [s for s in _basis(rows, sign, leader) if not held.isdisjoint(s)])
            pairs = np.concatenate([pairs, found])


def _without_repeats(*arrays: Ids) -> list[Ids]:
    """Arrays broadcast against each other, of axes along which all repeat only the first entries."""
    spread = np.broadcast_arrays(*arrays)
    first = tuple(
        slice(0, 1) if not any(array.strides[axis] for array in spread) else slice(None)
        for axis in range(spread[0].ndim)
    )
    return [array[first] for array in spread]


@dataclass(frozen=True, eq=False)
class Solutions:
    """A basis of the integer solutions of the relations.

    Attributes
    ----------
    sign, leader : arrays over all unknowns
        s_i = sign_i · s_{leader_i}; sign 0 where s_i = 0 in all solutions.
    basis : for each solution its coefficients on leaders; most are 1 on one leader

    Examples
    --------
    >>> scales = LogScales()
    >>> a, b = scales.fresh(2), scales.fresh(2)
    >>> scales.equate(a, -1, b)
    >>> solved = scales.solve()
    >>> [solved.on(b, k).tolist() for k in range(len(solved.basis))]
    [[-1, 0], [0, -1]]
    """

    sign: Ids
    leader: Ids
    basis: list[dict[int, int]]

    def on(self, ids: Ids, k: int) -> Ids:
        """Return the values of solution number k."""
        values = np.zeros(ids.shape, dtype=np.int64)
        for leader, coefficient in self.basis[k].items():
            values[self.leader[ids] == leader] = coefficient
        return values * self.sign[ids]


def signed_classes(size: int, pairs: NDArray[np.int64]) -> tuple[Ids, Ids]:
    """For each unknown its sign and the first unknown of its class, s = sign · s_first; sign 0 where s = 0."""
    i, sign, j = pairs.T
    same = np.where(sign >= 0, 0, size)
    # Twice as many nodes, s and −s: where both are in one component, s = 0.
    ends = [(np.concatenate([i, i + size, [0]]), np.concatenate([j + same, (j + size + same) % (2 * size), [size]]))]
    tails, heads = ends[0]
    graph = coo_array((np.ones(len(tails)), (tails, heads)), shape=(2 * size, 2 * size))
    _, component = connected_components(graph, directed=False)
    plus, minus = component[:size], component[size:]
    label = np.minimum(plus, minus)
    first = np.full(2 * size, -1)
    order = np.arange(size)[::-1]
    first[label[order]] = order
    signs = np.where(plus == minus, 0, np.where(plus < minus, 1, -1))
    leader = first[label]
    return signs * signs[leader], leader


def _substituted(rows: list[Row], sign: Ids, leader: Ids) -> tuple[list[Row], NDArray[np.int64]]:
    """The relations between classes, without those of one or two terms, and these as pairs."""
    left, pairs = set(), []
    for ids, coefficients in rows:
        total: dict[int, int] = {}
        for i, c in zip(ids, coefficients, strict=True):
            if sign[i]:
                first = int(leader[i])
                total[first] = total.get(first, 0) + int(c) * int(sign[i])
        terms = sorted((first, c) for first, c in total.items() if c)
        if len(terms) == 1:
            pairs.append((terms[0][0], 1, 0))
        elif len(terms) == 2 and abs(terms[0][1]) == abs(terms[1][1]):
            pairs.append((terms[0][0], -1 if terms[0][1] == terms[1][1] else 1, terms[1][0]))
        elif terms:
            left.add((tuple(first for first, _ in terms), tuple(c for _, c in terms)))
    return sorted(left), np.array(pairs, dtype=np.int64).reshape(-1, 3)


def _basis(rows: list[Row], sign: Ids, leader: Ids) -> list[dict[int, int]]:
    """A basis as coefficients of classes: each class that no relation holds is one."""
    held = {first: k for k, first in enumerate(sorted({first for ids, _ in rows for first in ids}))}
    found = [{int(first): 1} for first in np.unique(leader[sign != 0]) if int(first) not in held]
    if not held:
        return found
    links = np.array([(held[ids[0]], held[other]) for ids, _ in rows for other in ids])
    graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(len(held), len(held)))
    parts, component = connected_components(graph, directed=False)
    for part in range(parts):
        members = [first for first, k in held.items() if component[k] == part]
        column = {first: k for k, first in enumerate(members)}
        own = [(ids, cs) for ids, cs in rows if component[held[ids[0]]] == part]
        matrix = [[sp.QQ(0)] * len(members) for _ in own]
        for row, (ids, cs) in zip(matrix, own, strict=True):
            for first, c in zip(ids, cs, strict=True):
                row[column[first]] = sp.QQ(c)
        for vector in DomainMatrix(matrix, (len(own), len(members)), sp.QQ).nullspace().to_list():
            scale = sp.ilcm(1, *(entry.denominator for entry in vector))
            found.append({first: int(v * scale) for first, v in zip(members, vector, strict=True) if v})
    return found
