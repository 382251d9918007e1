"""Every translation, scale, rescale and general linear symmetry of a network, read off its graph."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from torch import nn
from torch.fx import Node

from modeq.symmetry.charges import Charge, DiagonalSymmetry, Rescale, Scale
from modeq.symmetry.diagonal import DiagonalRelations
from modeq.symmetry.found import Charges, Epsilon, Found, axis_of
from modeq.symmetry.graph import network_graph
from modeq.symmetry.matrix_finding import matrix_charges
from modeq.symmetry.members import Axis
from modeq.symmetry.shapes import operation, shape_of
from modeq.symmetry.traced import Traced, trace
from modeq.symmetry.translations import translations

# For each parameter and axis the indices that one generator moves, with their exponents; axis None: flat indices.
Action = dict[tuple[str, int | None], dict[int, int]]
# For each normalisation that absorbs something of a generator, the coefficients of its entries.
Shares = dict[int, Any]


def find_charges(module: nn.Module, example_input: Any, loss: Any = None, *, target: Any = None) -> Charges:
    """Return every translation, scale, rescale and general linear symmetry of a network with its loss.

    The network is traced into torch's own operations. Each entry of every value gets an unknown log-scale, with the
    linear relations under which the output stays as it is: their solutions are all diagonal symmetries. Constants
    added to parameters are followed until a softmax, a mean subtraction or attention removes them. Vectors that one
    linear map writes and another reads, with nothing between them, are followed in the same way: these may be mixed by
    a matrix, and the rescale charges of their coordinates are the diagonal of its charge.

    Parameters
    ----------
    module : nn.Module
        In the mode, training or evaluation, in which it is used: batch norm is another function in each.
    example_input : tensor of the shape that the network takes, or tuple of the arguments of ``forward``
        Its values do not matter, unless the network branches on them: then what is found holds for the branch taken.
    loss : "cross_entropy", "mse", a callable on (output, target), or None
        None for symmetries of the output itself, under any loss.
    target : optional
        What a callable loss takes beside the output.

    Returns
    -------
    Charges
        A sequence of `Translation`, `Scale`, `Rescale`, `DiagonalSymmetry` and `GeneralLinear`, with a reason for each.

    Raises
    ------
    InvalidCharge
        If the network cannot be run or traced on the input, or the loss is unknown.

    Notes
    -----
    Parameters that no operation sees, or that do not require gradients, have no charge.

    References
    ----------
    Kunin et al. 2021 (arXiv 2012.04728) for translation, scale and rescale symmetries; Marcotte, Gribonval, Peyré 2023
    (arXiv 2307.00144) for linear maps.

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
    matrices = list(matrix_charges(traced, _first_uses(traced), _title))
    found, others = _diagonal(relations, [action for entry in matrices for action in entry.diagonal])
    return Charges(
        _distinct([*found, *(entry.found for entry in matrices), *translations(traced)]),
        others,
        sorted(set(relations.unknown)),
        branches=traced.branches,
        graph=network_graph(traced),
    )


def _distinct(found: list[Found]) -> list[Found]:
    """The same with a number after each name that was there before."""
    seen: Counter[str] = Counter()
    named = []
    for entry in found:
        seen[entry.charge.name] += 1
        again = seen[entry.charge.name]
        named.append(
            entry if again == 1 else replace(entry, charge=entry.charge.renamed(f"{entry.charge.name} ({again})"))
        )
    return named


# --- scales and rescales ----------------------------------------------------------------------------------------------


def _diagonal(relations: DiagonalRelations, known: Iterable[Action]) -> tuple[list[Found], list[str]]:
    """Charges of the solutions, those alike in one, without those that are known to be parts of others."""
    solved = relations.scales.solve()
    carriers: dict[int, list[tuple[int, int]]] = defaultdict(list)  # leader -> (solution, coefficient)
    for k, solution in enumerate(solved.basis):
        for leader, coefficient in solution.items():
            carriers[leader].append((k, coefficient))
    actions: dict[int, Action] = {}

    def add(name: str, axis: int | None, ids: Any, sign: int, start: int = 0) -> None:
        for index, i in enumerate(np.ravel(ids).tolist()):
            for k, coefficient in carriers.get(int(solved.leader[i]), ()) if solved.sign[i] else ():
                entries = actions.setdefault(k, {}).setdefault((name, axis), {})
                entries[start + index] = entries.get(start + index, 0) + sign * coefficient * int(solved.sign[i])

    for use in relations.used:
        shape = relations.shapes[use.name]
        for sign, axis, ids in use.terms:
            if axis is None:
                ids = np.broadcast_to(ids.reshape(*ids.shape, *[1] * (len(shape) - 2)), shape)
            add(use.name, axis, ids, sign, use.start if axis == 0 else 0)
    for name, ids in relations.elementwise.items():
        shape = relations.shapes[name]
        add(name, 0 if len(shape) == 1 else None, ids, 1)
    shares: dict[int, Shares] = {k: {} for k in actions}
    for position, norm in enumerate(relations.absorbed):
        leaders = np.where(solved.sign[norm.ids] != 0, solved.leader[norm.ids], -1)
        for leader in np.unique(leaders).tolist():
            for k, coefficient in carriers.get(leader, ()):
                if k not in actions:
                    continue
                share = np.where(leaders == leader, coefficient * solved.sign[norm.ids], 0)
                shares[k][position] = shares[k].get(position, 0) + share
    families: dict[Any, list[int]] = defaultdict(list)
    order = _first_uses(relations.traced)
    plain = {k: _netted(_sorted(action, order), relations.shapes) for k, action in sorted(actions.items())}
    parts = {_entries(_netted(_flat(action, relations), relations.shapes)) for action in known}
    plain = {k: action for k, action in plain.items() if not action or _entries(action) not in parts}
    for k, action in plain.items():
        if action:
            families[_signature(action), tuple(shares[k])].append(k)
    _combine(plain, shares, families)
    found, others = [], []
    for (signature, _), solutions in families.items():
        entry = _charge(signature, [plain[k] for k in solutions], [shares[k] for k in solutions], relations)
        if isinstance(entry, str):
            others.append(entry)
        else:
            found.append(_by_rows(entry, relations.traced))
    return found, others


def _flat(action: Action, relations: DiagonalRelations) -> Action:
    """An action by single entries of the parameters whose entries are unknowns each."""
    found: Action = {}
    for (name, axis), entries in action.items():
        shape = relations.shapes[name]
        if axis is not None and name in relations.elementwise and len(shape) > 1:
            places = np.arange(int(np.prod(shape))).reshape(shape)
            own = found.setdefault((name, None), {})
            for index, exponent in entries.items():
                for i in places.take(index, axis).ravel().tolist():
                    own[i] = own.get(i, 0) + exponent
        else:
            found[name, axis] = entries
    return found


def _entries(action: Action) -> frozenset[Any]:
    """What an action does, as a set; the same for its inverse."""
    place = min(action, key=str)
    sign = 1 if action[place][min(action[place])] > 0 else -1
    return frozenset(
        (place, frozenset((index, sign * exponent) for index, exponent in entries.items()))
        for place, entries in action.items()
    )


def _by_rows(entry: Found, traced: Traced) -> Found:
    """The scale of a table by its rows, where a norm of its own follows each lookup."""
    if len(entry.charge.members) > 1 or entry.generators > 1 or not isinstance(entry.charge, Scale):
        return entry
    name = entry.charge.members[0].parameter
    users = [user for node in traced.nodes if traced.parameters.get(node.name) == name for user in node.users]
    if not users or not all(operation(user) == "embedding" and _normalised_by_itself(user) for user in users):
        return entry
    rows = traced.values[name].shape[0]
    # Which row a norm reads depends on the data: of its ε nothing is predicted.
    epsilons = tuple(Epsilon(None, np.zeros((rows, 1), dtype=np.int64)) for _ in entry.epsilons)
    return replace(entry, charge=Scale(entry.charge.name, {name: 0}), generators=rows, epsilons=epsilons)


def _normalised_by_itself(node: Node) -> bool:
    """Whether all that reads a value divides each row by its own size."""
    users = set(node.users)
    last = ([-1], [len(shape_of(node)) - 1])
    sizes = {user for user in users if operation(user) == "linalg_vector_norm" and user.args[2] in last}
    for user in users - sizes:
        if operation(user) in ("layer_norm", "rms_norm") and len(user.args[1]) == 1:  # type: ignore[arg-type]
            continue
        if operation(user) == "expand_as" and user.args[0] is not node:  # only its shape
            continue
        divisor = user.args[1] if operation(user) == "div" and user.args[0] is node else None
        while isinstance(divisor, Node) and operation(divisor) in ("clamp_min", "expand_as", "expand"):
            divisor = divisor.args[0]
        if divisor not in sizes:
            return False
    return bool(users)


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


def _combine(actions: dict[int, Action], shares: dict[int, Shares], families: dict[Any, list[int]]) -> None:
    """Add to a solution with exponents that differ the sum of a family, or take it off, if they are equal then."""
    for key in [key for key in families if not _uniform(key[0])]:
        others = [other for other in families if other != key and _uniform(other[0])]
        for k, other, sign in product(list(families[key]), others, (1, -1)):
            total: Action = defaultdict(lambda: defaultdict(int))
            absorbed: Shares = {}
            for j, factor in [(k, 1), *((j, sign) for j in families[other])]:
                for place, entries in actions[j].items():
                    for index, exponent in entries.items():
                        total[place][index] += factor * exponent
                for position, share in shares[j].items():
                    absorbed[position] = absorbed.get(position, 0) + factor * share
            netted = _without_zeros(total)
            if netted and _uniform(_signature(netted)):
                families[key].remove(k)
                actions[k] = netted
                shares[k] = {position: share for position, share in absorbed.items() if share.any()}
                families.setdefault((_signature(netted), tuple(shares[k])), []).append(k)
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
    signature: tuple[Any, ...], actions: list[Action], shares: list[Shares], relations: DiagonalRelations
) -> Found | str:
    names = ", ".join(name for name, *_ in signature)
    exponents_of = {name: exponents[0] for name, _, exponents, _ in signature if len(exponents) == 1}
    if not _uniform(signature) and len(exponents_of) < len(signature):
        return f"{names} with exponents {[list(exponents) for _, _, exponents, _ in signature]}"
    signs = [_sign(action) for action in actions]
    incoming: dict[str, Axis] = {}
    outgoing: dict[str, Axis] = {}
    for name, axis, exponents, _ in signature:
        for exponent in exponents:
            moved = [
                sorted(i for i, e in action[name, axis].items() if e * sign == exponent)
                for action, sign in zip(actions, signs, strict=True)
            ]
            side = incoming if exponent > 0 else outgoing
            side[name] = axis_of(axis, moved, relations.shapes[name])
    norms = [relations.absorbed[position] for position in shares[0]]
    epsilons = tuple(
        Epsilon(norm.call, np.stack([sign * share[position] for sign, share in zip(signs, shares, strict=True)]))
        for position, norm in zip(shares[0], norms, strict=True)
        if norm.broken
    )
    if not _uniform(signature):
        name = "-".join(map(_title, filter(None, (incoming, outgoing))))
        charge: Charge = DiagonalSymmetry(name, incoming | outgoing, exponents_of)
        told = ", ".join(f"{parameter} {exponent}" for parameter, exponent in exponents_of.items())
        return Found(charge, len(actions), f"exponents {told} leave the loss", not epsilons, epsilons)
    if not outgoing:
        modules = ", ".join(dict.fromkeys(norm.module for norm in norms))
        reason = f"{', '.join(incoming)} {f'feeds {modules}' if norms else 'is divided by its own size'}"
        return Found(Scale(_title(incoming), incoming), len(actions), reason, not epsilons, epsilons)
    reason = f"only homogeneous operations between {_title(incoming)} and {_title(outgoing)}"
    charge = Rescale(f"{_title(incoming)}-{_title(outgoing)}", incoming, outgoing)
    return Found(charge, len(actions), reason, not epsilons, epsilons)


def _title(names: Any) -> str:
    """The modules of some parameters."""
    modules = dict.fromkeys(name.rsplit(".", 1)[0] for name in names)
    shown = list(modules)
    return shown[0] if len(shown) == 1 else f"{shown[0]}+{len(shown) - 1}"
