"""Every translation, scale and rescale symmetry of a network, read off its graph."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node

from modeq.symmetry.charges import Axis, Charge, Rescale, Scale, Translation
from modeq.symmetry.diagonal import DiagonalRelations
from modeq.symmetry.shapes import alike, operation, shape_of
from modeq.symmetry.shifts import Shift
from modeq.symmetry.traced import Traced, trace

# For each parameter and axis the indices that one generator moves, with their exponents; axis None: flat indices.
Action = dict[tuple[str, int | None], dict[int, int]]


@dataclass(frozen=True)
class Found:
    """One charge, and why it is one.

    Attributes
    ----------
    charge : Charge
    generators : int
    reason : str
    exact : bool
        Whether the symmetry holds to rounding; if not, a normalisation's ε breaks it.
    """

    charge: Charge
    generators: int
    reason: str
    exact: bool


class Charges(Sequence[Charge]):
    """The charges of a network; see `find_charges`.

    Attributes
    ----------
    found : tuple of Found
    others : tuple of str
        Diagonal symmetries of other kinds, with exponents that differ.
    unknown : tuple of str
        Operations for which there is no rule: of what they see nothing is claimed.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> charges = find_charges(net, torch.zeros(1, 3), loss="cross_entropy")
    >>> len(charges), charges.generators
    (3, 9)
    """

    def __init__(self, found: Sequence[Found], others: Sequence[str], unknown: Sequence[str]) -> None:
        self.found, self.others, self.unknown = tuple(found), tuple(others), tuple(unknown)

    @property
    def generators(self) -> int:
        """How many one-parameter symmetries there are in all."""
        return sum(entry.generators for entry in self.found)

    @overload
    def __getitem__(self, index: int) -> Charge: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Charge, ...]: ...
    def __getitem__(self, index: int | slice) -> Any:
        charges = tuple(entry.charge for entry in self.found)
        return charges[index]

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Charge]:
        return iter(entry.charge for entry in self.found)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only.

        Examples
        --------
        >>> import torch
        >>> find_charges(torch.nn.Linear(1, 2), torch.zeros(1, 1), loss="mse").to_dict()
        {'charges': [], 'others': [], 'unknown': []}
        """
        charges = [
            {**e.charge.to_dict(), "generators": e.generators, "reason": e.reason, "exact": e.exact} for e in self.found
        ]
        return {"charges": charges, "others": list(self.others), "unknown": list(self.unknown)}

    def table(self) -> str:
        """Return a line for each charge: its kind, what it moves, how many generators, why."""
        rows = [
            (
                type(e.charge).__name__.lower(),
                e.charge.name,
                str(e.generators),
                "exact" if e.exact else "up to ε",
                e.reason,
            )
            for e in self.found
        ]
        rows = [("kind", "charge", "generators", "", "why"), *rows]
        widths = [max(len(row[k]) for row in rows) for k in range(4)]
        lines = ["  ".join([*(row[k].ljust(widths[k]) for k in range(4)), row[4]]).rstrip() for row in rows]
        lines += [f"another diagonal symmetry: {text}" for text in self.others]
        lines += [f"no rule for {text}: nothing is claimed of what it sees" for text in self.unknown]
        return "\n".join(lines if self.found else ["no symmetry found", *lines[1:]])

    def __repr__(self) -> str:
        return f"Charges({len(self)} charges, {self.generators} generators)"


def find_charges(module: nn.Module, example_input: Any, loss: Any = None, *, target: Any = None) -> Charges:
    """Return every translation, scale and rescale symmetry of a network with its loss.

    The network is traced into torch's own operations. Each entry of every value gets an unknown log-scale, with the
    linear relations under which the output stays as it is: their solutions are all diagonal symmetries. Constants
    added to parameters are followed until a softmax, a mean subtraction or attention removes them.

    Parameters
    ----------
    module : nn.Module
        In the mode, training or evaluation, in which it is used: batch norm is another function in each.
    example_input : tensor, or tuple of the arguments of ``forward``
        Its values do not matter, unless the network branches on them: then what is found holds for the branch taken.
    loss : "cross_entropy", "mse", a callable on (output, target), or None
        None for symmetries of the output itself, under any loss.
    target : optional
        What a callable loss takes beside the output.

    Returns
    -------
    Charges
        A sequence of `Translation`, `Scale` and `Rescale`, with a reason for each.

    Raises
    ------
    InvalidCharge
        If the network cannot be run or traced on the input, or the loss is unknown.

    Notes
    -----
    Parameters that no operation sees, or that do not require gradients, have no charge.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> for charge in find_charges(net, torch.zeros(1, 3), loss="cross_entropy"):
    ...     print(charge)
    Rescale('0-2', incoming={'0.weight': 0, '0.bias': 0}, outgoing={'2.weight': 1})
    Translation('2.weight', {'2.weight': 1})
    Translation('2.bias', {'2.bias': None})
    """
    traced = trace(module, example_input, loss, target)
    relations = DiagonalRelations(traced).collect()
    found, others = _diagonal(relations)
    return Charges([*found, *_translations(traced)], others, sorted(set(relations.unknown)))


# --- scales and rescales ----------------------------------------------------------------------------------------------


def _diagonal(relations: DiagonalRelations) -> tuple[list[Found], list[str]]:
    """Charges of the solutions, those alike in one."""
    solved = relations.scales.solve()
    carriers: dict[int, list[tuple[int, int]]] = defaultdict(list)  # leader -> (solution, coefficient)
    for k, solution in enumerate(solved.basis):
        for leader, coefficient in solution.items():
            carriers[leader].append((k, coefficient))
    actions: list[Action] = [defaultdict(lambda: defaultdict(int)) for _ in solved.basis]

    def add(name: str, axis: int | None, ids: Any, sign: int, start: int = 0) -> None:
        for index, i in enumerate(np.ravel(ids).tolist()):
            for k, coefficient in carriers.get(int(solved.leader[i]), ()) if solved.sign[i] else ():
                actions[k][name, axis][start + index] += sign * coefficient * int(solved.sign[i])

    for use in relations.used:
        shape = relations.shapes[use.name]
        for sign, axis, ids in use.terms:
            if axis is None:
                ids = np.broadcast_to(ids.reshape(*ids.shape, *[1] * (len(shape) - 2)), shape)
            add(use.name, axis, ids, sign, use.start if axis == 0 else 0)
    for name, ids in relations.elementwise.items():
        shape = relations.shapes[name]
        add(name, 0 if len(shape) == 1 else None, ids, 1)
    absorbing: dict[int, list[tuple[str, bool]]] = defaultdict(list)
    for module, ids, broken in relations.absorbed:
        for i in ids.tolist():
            for k, _ in carriers.get(int(solved.leader[i]), ()) if solved.sign[i] else ():
                if (module, broken) not in absorbing[k]:
                    absorbing[k].append((module, broken))
    families: dict[Any, list[int]] = defaultdict(list)
    order = _first_uses(relations.traced)
    plain = [_netted(_sorted(action, order), relations.shapes) for action in actions]
    for k, action in enumerate(plain):
        if action:
            families[_signature(action), tuple(absorbing[k])].append(k)
    _combine(plain, families)
    found, others = [], []
    for (signature, norms), solutions in families.items():
        entry = _charge(signature, [plain[k] for k in solutions], norms, relations.shapes)
        if isinstance(entry, str):
            others.append(entry)
        else:
            found.append(entry)
    return found, others


def _first_uses(traced: Traced) -> dict[str, int]:
    """The position in the graph at which each parameter is used first."""
    order: dict[str, int] = {}
    for position, node in enumerate(traced.nodes):
        for source in node.all_input_nodes:
            if source.name in traced.parameters:
                order.setdefault(traced.parameters[source.name], position)
    return order


def _sorted(action: Action, order: dict[str, int]) -> Action:
    """An action in the order of the graph, so that what writes a channel comes before what reads it."""
    return {place: action[place] for place in sorted(action, key=lambda place: order[place[0]])}


def _combine(actions: list[Action], families: dict[Any, list[int]]) -> None:
    """Add to a solution with exponents that differ the sum of a family, or take it off, if they are equal then."""
    for key in [key for key in families if not _uniform(key[0])]:
        others = [other for other in families if other != key and _uniform(other[0])]
        for k, other, sign in product(list(families[key]), others, (1, -1)):
            total: Action = defaultdict(lambda: defaultdict(int))
            for action, factor in [(actions[k], 1), *((actions[j], sign) for j in families[other])]:
                for place, entries in action.items():
                    for index, exponent in entries.items():
                        total[place][index] += factor * exponent
            netted = _without_zeros(total)
            if netted and _uniform(_signature(netted)):
                families[key].remove(k)
                actions[k] = netted
                families.setdefault((_signature(netted), key[1]), []).append(k)
                break
        if not families[key]:
            del families[key]


def _uniform(signature: tuple[Any, ...]) -> bool:
    """Whether all exponents are equal up to their signs."""
    return len({abs(exponent) for _, _, exponents, _ in signature for exponent in exponents}) == 1


def _without_zeros(action: Action) -> Action:
    found = {place: {i: e for i, e in entries.items() if e} for place, entries in action.items()}
    return {place: entries for place, entries in found.items() if entries}


def _netted(action: Action, shapes: dict[str, tuple[int, ...]]) -> Action:
    """An action without zeros; where rows and columns of one parameter move, by its single entries."""
    action = _without_zeros(action)
    result: Action = {}
    for name in dict.fromkeys(name for name, _ in action):
        axes = {axis: entries for (n, axis), entries in action.items() if n == name}
        if len(axes) > 1:
            shape = shapes[name]
            total = np.zeros(shape, dtype=np.int64)
            for axis, entries in axes.items():
                values = np.zeros(total.size if axis is None else shape[axis], dtype=np.int64)
                values[list(entries)] = list(entries.values())
                form = shape if axis is None else [-1 if d == axis else 1 for d in range(len(shape))]
                total = total + values.reshape(form)
            flat = {int(i): int(total.ravel()[i]) for i in np.flatnonzero(total)}
            axes = {None: flat} if flat else {}
        for axis, entries in axes.items():
            result[name, axis] = entries
    return result


def _signature(action: Action) -> tuple[Any, ...]:
    """What generators of one charge have in common: parameters, axes, exponents and how many indices each."""
    parts = [(name, axis, sorted(set(entries.values())), len(entries)) for (name, axis), entries in action.items()]
    sign = _sign(action)
    return tuple((name, axis, tuple(sorted(sign * e for e in exponents)), n) for name, axis, exponents, n in parts)


def _sign(action: Action) -> int:
    """1 or −1, so that the first entry of the first parameter is incoming."""
    first = next(iter(action.values()))
    return 1 if first[min(first)] > 0 else -1


def _charge(
    signature: tuple[Any, ...],
    actions: list[Action],
    norms: tuple[tuple[str, bool], ...],
    shapes: dict[str, tuple[int, ...]],
) -> Found | str:
    names = ", ".join(name for name, *_ in signature)
    if not _uniform(signature):
        return f"{names} with exponents {[list(exponents) for _, _, exponents, _ in signature]}"
    incoming, outgoing = {}, {}
    for name, axis, exponents, _ in signature:
        for exponent in exponents:
            signs = [_sign(action) for action in actions]
            moved = [
                sorted(i for i, e in action[name, axis].items() if e * sign == exponent)
                for action, sign in zip(actions, signs, strict=True)
            ]
            side = incoming if exponent > 0 else outgoing
            side[name] = _axis(axis, moved, shapes[name])
    exact = not any(broken for _, broken in norms)
    if not outgoing:
        feeds = f"feeds {', '.join(module for module, _ in norms)}" if norms else "is divided by its own size"
        reason = f"{', '.join(incoming)} {feeds}"
        return Found(Scale(_title(incoming), incoming), len(actions), reason, exact)
    reason = f"only homogeneous operations between {_title(incoming)} and {_title(outgoing)}"
    charge = Rescale(f"{_title(incoming)}-{_title(outgoing)}", incoming, outgoing)
    return Found(charge, len(actions), reason, exact)


def _title(names: Any) -> str:
    """The modules of some parameters."""
    modules = dict.fromkeys(name.rsplit(".", 1)[0] for name in names)
    shown = list(modules)
    return shown[0] if len(shown) == 1 else f"{shown[0]}+{len(shown) - 1}"


def _axis(axis: int | None, rows: list[list[int]], shape: tuple[int, ...]) -> Axis:
    """The shortest way to write which indices of an axis each generator moves."""
    length = int(np.prod(shape)) if axis is None else shape[axis]
    if len(rows) == 1 and len(rows[0]) == length:
        return None
    if axis is not None and rows == [[i] for i in range(length)]:
        return axis
    width = len(rows[0])
    pieces = [list(range(k * width, (k + 1) * width)) for k in range(len(rows))]
    if axis is not None and rows == pieces and width * len(rows) == length:
        return (axis, len(rows))
    return (axis, tuple(map(tuple, rows)))  # type: ignore[return-value]


# --- translations -----------------------------------------------------------------------------------------------------


def _translations(traced: Traced) -> Iterator[Found]:
    placeholders: dict[str, list[Node]] = defaultdict(list)
    for node in traced.nodes:
        name = traced.parameters.get(node.name) if node.op == "placeholder" else None
        if name is not None and name not in traced.frozen:
            placeholders[name].append(node)
    groups = {int(node.args[1]) for node in traced.nodes if operation(node) == "group_norm"}  # type: ignore[arg-type]
    for name, nodes in placeholders.items():
        shape = shape_of(nodes[0])
        if len(shape) == 1:
            candidates = _vector_shifts(name, nodes, shape[0], groups)
        else:
            candidates = _matrix_shifts(name, nodes, shape)
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
    for count in sorted(groups):
        if 1 < count < size and size % count == 0:
            yield (0, count), dict.fromkeys(nodes, torch.arange(size) // (size // count) + 1), count
    yield None, dict.fromkeys(nodes, torch.ones(size, dtype=torch.long)), 1


def _matrix_shifts(name: str, nodes: list[Node], shape: tuple[int, ...]) -> Iterator[Candidate]:
    """One column of a weight: all outputs move alike; of a table one row or one column, which its reader sees."""
    users = [user for node in nodes for user in node.users]
    if users and all(alike(users[0], user) for user in users):
        user = users[0]
        kind = operation(user)
        swapped = kind in ("t", "numpy_T") and len(user.users) == 1
        result = next(iter(user.users)) if swapped else user
        out = shape_of(result)
        positions = (
            torch.arange(1, int(np.prod(out[:-1])) + 1).reshape(*out[:-1], 1).expand(out).clone() if out else None
        )
        if kind == "linear" and user.args[1] in nodes:
            yield 1, dict.fromkeys(users, positions), 0
        elif operation(result) in ("mm", "addmm", "matmul") and len(shape) == 2 and result.args[-1] in (user, *nodes):
            yield (1 if swapped else 0), {result: positions}, 0
        elif kind in ("conv1d", "conv2d", "conv3d") and (len(user.args) < 7 or user.args[6] == 1):
            each = torch.arange(1, out[0] * int(np.prod(out[2:])) + 1).reshape(out[0], 1, *out[2:]).expand(out).clone()
            entries = torch.arange(int(np.prod(shape))).reshape(shape[0], -1)
            axis: Any = 1 if entries.shape[1] == shape[1] else (None, tuple(map(tuple, entries.T.tolist())))
            yield axis, {user: each}, 0
        elif kind == "embedding":
            yield 0, {user: positions}, 0
            yield 1, {user: torch.arange(1, shape[1] + 1).expand(out).clone()}, shape[1]
    if any(operation(user) in _READERS for user in users):
        return
    for axis in range(len(shape) - 1, -1, -1):
        form = [-1 if d == axis else 1 for d in range(len(shape))]
        labels = torch.arange(1, shape[axis] + 1).reshape(form).expand(shape).clone()
        yield axis, dict.fromkeys(nodes, labels), shape[axis]


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
            axis = _axis(axis, [[k - 1] for k in alive], shape)
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
