"""Candidates for translations, and which of them nothing sees."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.fx import Node

from modeq.symmetry.charges import Translation
from modeq.symmetry.found import Found, axis_of
from modeq.symmetry.members import Axis
from modeq.symmetry.shapes import alike, operation, shape_of
from modeq.symmetry.shifts import Shift
from modeq.symmetry.traced import Traced


def translations(traced: Traced) -> Iterator[Found]:
    """Find the constants that may be added to a parameter, and those that two parameters exchange.

    Examples
    --------
    >>> from modeq.symmetry.traced import trace
    >>> [found.charge for found in translations(trace(torch.nn.Linear(2, 3), torch.zeros(1, 2), "cross_entropy"))]
    [Translation('weight', {'weight': 1}), Translation('bias', {'bias': None})]
    """
    placeholders: dict[str, list[Node]] = defaultdict(list)
    for node in traced.nodes:
        name = traced.parameters.get(node.name) if node.op == "placeholder" else None
        if name is not None and name not in traced.frozen:
            placeholders[name].append(node)
    yield from _of_one(traced, placeholders)
    yield from _of_two(traced, placeholders)
    yield from _recurrent(traced)


def _of_one(traced: Traced, placeholders: dict[str, list[Node]]) -> Iterator[Found]:
    groups = {int(node.args[1]) for node in traced.nodes if operation(node) == "group_norm"}  # type: ignore[arg-type]
    for name, nodes in placeholders.items():
        shape = shape_of(nodes[0])
        if len(shape) == 1:
            candidates = _vector_shifts(name, nodes, shape[0], groups)
        else:
            candidates = _matrix_shifts(name, nodes, shape, groups)
        for axis, start, counts in candidates:
            entry = _translation(traced, name, shape, axis, start, counts)
            if entry is not None:
                yield entry
                break
        users = [user for node in nodes for user in node.users]
        if len(users) == 1 and operation(users[0]) == "linear" and users[0].args[1] in nodes:
            source = users[0].args[0]
            if isinstance(source, Node) and _sums_to_zero(source):
                reason = f"{name} reads the output of {traced.module_of(source)}, which adds up to 0"
                yield Found(Translation(f"{name} rows", {name: 0}), shape[0], reason, True)


def _sums_to_zero(node: Node) -> bool:
    """Whether a value adds up to 0 along its last axis: a layer norm's without affine parameters, or x − mean x."""
    if operation(node) == "layer_norm":
        affine = [*node.args[2:4], node.kwargs.get("weight"), node.kwargs.get("bias")]
        return len(node.args[1]) == 1 and all(given is None for given in affine)  # type: ignore[arg-type]
    mean = node.args[1] if operation(node) == "sub" else None
    if not isinstance(mean, Node) or operation(mean) != "mean" or not alike(mean.args[0], node.args[0]):
        return False
    return mean.args[1] in ([-1], [len(shape_of(node)) - 1])


# What reads a table or a weight, and would see a shift of one of its rows or columns.
_READERS = {"linear", "embedding", "conv1d", "conv2d", "conv3d", "mm", "addmm", "matmul"}
# The axis that counts the generators, numbers on nodes, and how many numbers; 0 where the numbers are positions.
Candidate = tuple[Axis, dict[Node, Tensor], int]


def _vector_shifts(name: str, nodes: list[Node], size: int, groups: set[int]) -> Iterator[Candidate]:
    """Each entry by itself, each group alike, or all alike."""
    yield 0, dict.fromkeys(nodes, torch.arange(1, size + 1)), size
    for count in _divisors(groups, size):
        yield (0, count), dict.fromkeys(nodes, torch.arange(size) // (size // count) + 1), count
    yield None, dict.fromkeys(nodes, torch.ones(size, dtype=torch.long)), 1


def _matrix_shifts(name: str, nodes: list[Node], shape: tuple[int, ...], groups: set[int]) -> Iterator[Candidate]:
    """One column of a weight: all outputs move alike; of a table one row or one column, which its reader sees."""
    users = [user for node in nodes for user in node.users]
    if users and all(alike(users[0], user) for user in users):
        user = users[0]
        kind = operation(user)
        swapped = kind in ("t", "numpy_T") and len(user.users) == 1
        result = next(iter(user.users)) if swapped else user
        out = shape_of(result)
        positions: Any = torch.arange(1, int(np.prod(out[:-1])) + 1).reshape(*out[:-1], 1).expand(out) if out else None
        if kind == "linear" and user.args[1] in nodes:
            for count in _divisors(groups, shape[0]):
                group = torch.arange(shape[0]) // (shape[0] // count)
                yield _blocks(shape, count), dict.fromkeys(users, positions * count + group), 0
            yield 1, dict.fromkeys(users, positions), 0
        elif operation(result) in ("mm", "addmm", "matmul") and len(shape) == 2 and result.args[-1] in (user, *nodes):
            yield (1 if swapped else 0), {result: positions}, 0
        elif kind in ("conv1d", "conv2d", "conv3d") and (len(user.args) < 7 or user.args[6] == 1):
            each = torch.arange(1, out[0] * int(np.prod(out[2:])) + 1).reshape(out[0], 1, *out[2:]).expand(out)
            entries = torch.arange(int(np.prod(shape))).reshape(shape[0], -1)
            axis: Any = 1 if entries.shape[1] == shape[1] else (None, tuple(map(tuple, entries.T.tolist())))
            for count in _divisors(groups, shape[0]):
                group = (torch.arange(shape[0]) // (shape[0] // count)).reshape(-1, *[1] * (len(out) - 2))
                yield _blocks(shape, count), {user: each * count + group}, 0
            yield axis, {user: each}, 0
        elif kind == "embedding":
            padding, by_counts = (*user.args[2:4], None, None)[:2]  # where the gradient is not the derivative
            if by_counts:
                return
            if padding not in (None, -1):
                yield (0, tuple((row,) for row in range(shape[0]) if row != padding)), {user: positions}, 0
                return
            yield 0, {user: positions}, 0
            yield 1, {user: torch.arange(1, shape[1] + 1).expand(out)}, shape[1]
    if any(operation(user) in _READERS for user in users):
        return
    for axis in range(len(shape) - 1, -1, -1):
        form = [-1 if d == axis else 1 for d in range(len(shape))]
        labels = torch.arange(1, shape[axis] + 1).reshape(form).expand(shape)
        yield axis, dict.fromkeys(nodes, labels), shape[axis]


def _divisors(groups: set[int], size: int) -> list[int]:
    """The numbers of groups into which an axis can be cut, the finest first."""
    return sorted((count for count in groups if 1 < count < size and size % count == 0), reverse=True)


def _blocks(shape: tuple[int, ...], count: int) -> Axis:
    """A generator for each of some groups of outputs and each input: the entries that it moves."""
    entries = np.arange(int(np.prod(shape))).reshape(count, shape[0] // count, -1)
    return (None, tuple(map(tuple, entries.transpose(0, 2, 1).reshape(-1, shape[0] // count).tolist())))


def _translation(
    traced: Traced, name: str, shape: tuple[int, ...], axis: Axis, start: dict[Node, Tensor], count: int
) -> Found | None:
    if count == 0:
        shift = Shift(traced)
        shift.follow(start)
        if shift.failed or not shift.reasons:
            return None
        generators = shape[axis] if isinstance(axis, int) else len(axis[1])  # type: ignore[index,arg-type]
        reasons = set().union(*shift.reasons.values())
    else:
        passed = _passed(traced, start, 1, count)
        alive = sorted(passed)
        if not alive:
            return None
        if len(alive) < count:
            if not isinstance(axis, int):
                return None
            axis = axis_of(axis, [[k - 1] for k in alive], shape)
        generators = len(alive)
        reasons = set().union(*passed.values())
    return Found(Translation(name, {name: axis}), generators, f"{name} {'; '.join(sorted(reasons))}", True)


def _passed(traced: Traced, start: dict[Node, Tensor], first: int, last: int) -> dict[int, set[str]]:
    """Which of the numbers nothing sees, and why; halves of them by themselves where they met each other."""
    shift = Shift(traced)
    labels = {node: torch.where((ids >= first) & (ids <= last), ids, 0) for node, ids in start.items()}
    shift.follow(labels, last - first + 1)
    if shift.mixed and last > first:
        middle = (first + last) // 2
        return _passed(traced, start, first, middle) | _passed(traced, start, middle + 1, last)
    return {k: shift.reasons[k] for k in range(first, last + 1) if k not in shift.failed and k in shift.reasons}


# --- two parameters that exchange a constant --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """A parameter of which each entry (of a table each column) is added to something, as it is."""

    name: str
    nodes: tuple[Node, ...]
    entries: Tensor  # on these nodes the number of the entry, from 1
    shape: tuple[int, ...]
    table: bool = False
    readers: tuple[Node, ...] = ()  # linear maps whose weight the table is too

    def start(self, numbers: Tensor, shift: Shift) -> dict[Node, Tensor]:
        """Numbers, given for the entries, on the nodes; a linear map adds the same to all its outputs."""
        found = dict.fromkeys(self.nodes, numbers[self.entries - 1])
        for reader in self.readers:
            shape = shape_of(reader)
            fresh = [shift.derived(frozenset(numbers[numbers != 0].tolist())) for _ in range(int(np.prod(shape[:-1])))]
            found[reader] = torch.tensor(fresh).reshape(*shape[:-1], 1).expand(shape)
        return found

    def axis(self, groups: list[list[int]]) -> Axis:
        """The axis for generators that move these entries."""
        if self.table:
            return axis_of(1, groups, self.shape)
        for axis, length in enumerate(self.shape):
            places = np.arange(int(np.prod(self.shape))).reshape(self.shape)
            along = [sorted({np.unravel_index(i, self.shape)[axis].item() for i in group}) for group in groups]
            slices = [places.take(rows, axis).size for rows in along]
            if slices == [len(group) for group in groups] and max(map(len, along)) <= length:
                return axis_of(axis, along, self.shape)
        return axis_of(None, groups, self.shape)


def _of_two(traced: Traced, placeholders: dict[str, list[Node]]) -> Iterator[Found]:
    """Where two values meet in a sum, each of which carries a parameter as it is."""
    carried: dict[Node, dict[str, Tensor]] = {}
    sources: dict[str, _Source] = {}
    for name, nodes in placeholders.items():
        users = [user for node in nodes for user in node.users]
        shape = shape_of(nodes[0])
        if not users:
            continue
        lookups = [user for user in users if operation(user) == "embedding" and len(user.args) == 2]
        readers = tuple(user for user in users if operation(user) == "linear" and user.args[1] in nodes)
        if len(lookups) == 1 and len(users) == 1 + len(readers):
            columns = torch.arange(1, shape[1] + 1).expand(shape_of(lookups[0]))
            sources[name] = _Source(name, tuple(lookups), columns, shape, True, readers)
        elif len(shape) == 1 or not any(operation(user) in _READERS for user in users):
            entries = torch.arange(1, int(np.prod(shape)) + 1).reshape(shape)
            sources[name] = _Source(name, tuple(nodes), entries, shape)
        else:
            continue
        carried |= {node: {name: sources[name].entries} for node in sources[name].nodes}
    exchanged: set[tuple[str, str]] = set()
    for node in traced.nodes:
        if node in carried:
            continue
        # What several operations read is carried by none of them alone, but for the parameters.
        alone = [n for n in node.all_input_nodes if n in carried and (len(n.users) == 1 or n.op == "placeholder")]
        if len(alone) == 2 and operation(node) in ("add", "sub"):
            yield from _exchanges(traced, node, sources, carried[alone[0]], carried[alone[1]], exchanged)
        passed = {}
        for source, name in ((n, name) for n in alone for name in carried[n]):
            shift = Shift(traced)
            result = shift.apply(node, {source: carried[source][name]})
            if isinstance(result, Tensor) and not shift.failed and not shift.parents and name not in passed:
                passed[name] = result
        if passed:
            carried[node] = passed


def _exchanges(
    traced: Traced,
    node: Node,
    sources: dict[str, _Source],
    first: dict[str, Tensor],
    second: dict[str, Tensor],
    exchanged: set[tuple[str, str]],
) -> Iterator[Found]:
    """What passes from one side of a sum to the other; what an entry has handed over once it does not again."""
    done: dict[str, set[int]] = defaultdict(set)
    for one, other in product(reversed(first), reversed(second)):
        if one != other and (one, other) not in exchanged:
            for entry in _exchange(traced, node, sources[one], first[one], sources[other], second[other], done):
                exchanged.add((one, other))
                yield entry


def _exchange(
    traced: Traced,
    node: Node,
    one: _Source,
    ids: Tensor,
    other: _Source,
    others: Tensor,
    done: dict[str, set[int]],
) -> Iterator[Found]:
    """What entries of one parameter may hand over to those of another that they meet in a sum."""
    shape = shape_of(node)
    first, second = ids.expand(shape).flatten().numpy(), others.expand(shape).flatten().numpy()
    offset = int(one.entries.max())
    size = offset + int(other.entries.max()) + 1  # 0 is what is not there
    meetings = np.unique(np.stack([first, np.where(second > 0, second + offset, 0)]), axis=1)
    graph = coo_array((np.ones(meetings.shape[1]), tuple(meetings)), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    met = np.zeros(size, dtype=bool)
    met[meetings] = True
    groups = [label for label in np.unique(component[met]) if label != component[0]]
    if not groups:
        return
    number = np.zeros(component.max() + 1, dtype=np.int64)
    number[groups] = np.arange(1, len(groups) + 1)
    of_one, of_other = (torch.from_numpy(number[component[part]] * met[part]) for part in _parts(offset, size))
    alone = {} if one.readers else _passed(traced, one.start(of_one, Shift(traced)), 1, len(groups))
    sign = 0 if operation(node) == "sub" else len(groups)
    taken = torch.where(of_other > 0, of_other + sign, 0)
    shift = Shift(traced, opposite={k + sign: k for k in range(1, len(groups) + 1)} if sign else {})
    shift.follow(one.start(of_one, shift) | other.start(taken, shift), len(groups) + sign)
    alive = [
        k
        for k in range(1, len(groups) + 1)
        if not shift.failed & {k, k + sign} and k in shift.reasons and k not in alone
    ]
    kinds: dict[tuple[int, int], list[tuple[list[int], list[int]]]] = defaultdict(list)
    for k in alive:
        given, taken_by = (np.flatnonzero(moved.numpy() == k).tolist() for moved in (of_one, of_other))
        if done[one.name].isdisjoint(given) and done[other.name].isdisjoint(taken_by):
            kinds[len(given), len(taken_by)].append((given, taken_by))
    for pairs in kinds.values():
        done[one.name] |= {i for given, _ in pairs for i in given}
        done[other.name] |= {i for _, taken_by in pairs for i in taken_by}
        tables = {one.name: one.axis([a for a, _ in pairs])}, {other.name: other.axis([b for _, b in pairs])}
        name = f"{one.name}-{other.name}"
        charge = Translation(name, *tables) if sign else Translation(name, tables[0] | tables[1])
        places = "; ".join(sorted(set().union(*(shift.reasons[k] for k in alive))))
        both = f"what {one.name} gains and {other.name} loses" if sign else f"what {one.name} and {other.name} gain"
        yield Found(charge, len(pairs), f"{both} {places}", True)


def _parts(offset: int, size: int) -> tuple[slice, slice]:
    """Where the entries of the first parameter are among all, and those of the second."""
    return slice(1, offset + 1), slice(offset + 1, size)


# Recurrent networks, whose two biases are added in each gate; of a GRU's third gate one is multiplied before.
_RECURRENT = {"rnn_tanh": 1.0, "rnn_relu": 1.0, "lstm": 1.0, "gru": 2 / 3}


def _recurrent(traced: Traced) -> Iterator[Found]:
    for node in traced.nodes:
        share = _RECURRENT.get(operation(node))
        if share is None or node.args[3] is not True:  # without biases
            continue
        weights = node.args[2]
        assert isinstance(weights, list | tuple)
        names = [traced.parameters.get(weight.name) for weight in weights if isinstance(weight, Node)]
        if len(names) % 4 or None in names or any(len(weight.users) > 1 for weight in weights):  # type: ignore[union-attr]
            continue
        for one, other in zip(names[2::4], names[3::4], strict=True):
            if one is None or other is None or not traced.frozen.isdisjoint((one, other)):
                continue
            length = traced.values[one].shape[0]
            axis: Axis = 0 if share == 1 else axis_of(0, [[k] for k in range(round(share * length))], (length,))
            charge = Translation(f"{one}-{other}", {one: axis}, {other: axis})
            count = charge.count(traced.values)
            yield Found(charge, count, f"what {one} gains and {other} loses cancels in {traced.module_of(node)}", True)
