"""Matrix charges of a network, read off its graph."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modeq.symmetry.commutants import commutant
from modeq.symmetry.factors import Mixed
from modeq.symmetry.found import Found
from modeq.symmetry.leg_rules import LegRules
from modeq.symmetry.matrix_basis import Sparse
from modeq.symmetry.matrix_charges import GeneralLinear
from modeq.symmetry.spaces import Block
from modeq.symmetry.traced import Traced

_LARGEST_TURNED = 64  # coordinates that may be turned, but not stretched

# For each parameter and axis the indices that a diagonal generator multiplies, with their exponents.
Action = dict[tuple[str, int | None], dict[int, int]]


@dataclass(frozen=True)
class FoundMatrices:
    """A matrix charge that was found, and its diagonal generators."""

    found: Found
    diagonal: tuple[Action, ...]


def matrix_charges(traced: Traced, order: dict[str, int], titles: Any) -> Iterator[FoundMatrices]:
    """Find the linear maps between which there is nothing but sums, products with numbers, and movements of entries.

    Parameters
    ----------
    traced : Traced
    order : the position in the graph at which each parameter is used first
    titles : callable from names of parameters to that of their modules

    Examples
    --------
    >>> import torch
    >>> from modeq.symmetry.traced import trace
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 3))
    >>> names = ["0.weight", "0.bias", "1.weight", "1.bias"]
    >>> traced = trace(net, torch.zeros(1, 3), "mse")
    >>> for entry in matrix_charges(traced, {name: k for k, name in enumerate(names)}, "+".join):
    ...     print(entry.found.charge)
    GeneralLinear('0.weight+0.bias-1.weight', left={'0.weight': 0, '0.bias': 0}, right={'1.weight': 1})
    """
    known: dict[bytes, tuple[Sparse, ...] | None] = {}
    alike: dict[Any, list[Block]] = defaultdict(list)
    for block in LegRules(traced).follow().blocks():
        basis = _basis(block, known)
        if basis != ():
            alike[tuple(dict.fromkeys(_places(block))), _pieces(block), basis].append(block)
    for (_, _, basis), blocks in alike.items():
        yield _charge(blocks, basis, traced, order, titles)


def _places(block: Block) -> list[tuple[str, int, int]]:
    return [(piece.name, piece.axis, piece.sign) for piece in block.pieces]


def _pieces(block: Block) -> int:
    return len(block.pieces)


def _basis(block: Block, known: dict[bytes, Any]) -> tuple[Sparse, ...] | None:
    """The matrices that are symmetries, None for all; nothing if all are diagonal, or if they are unknown."""
    size = len(block.pieces[0].indices)
    if not block.forms and not block.self_dual:
        return None
    if block.self_dual and size > _LARGEST_TURNED:
        return ()
    forms = np.concatenate(block.forms) if block.forms else np.zeros((0, size, size))
    key = np.round(forms, 9).tobytes() + bytes([block.self_dual])
    if key not in known:
        found = commutant(forms, antisymmetric=block.self_dual)
        if found is None or all(i == j for element in found for i, j, _ in element):
            found = ()
        whole = len(found) == size * size
        known[key] = None if whole else found
    return known[key]


def _charge(
    blocks: list[Block], basis: tuple[Sparse, ...] | None, traced: Traced, order: dict[str, int], titles: Any
) -> FoundMatrices:
    """The charge of some blocks, its heads."""
    first = min(blocks[0].pieces, key=lambda piece: (order[piece.name], -piece.sign, piece.indices))
    tables: dict[int, dict[str, Mixed]] = {1: {}, -1: {}}
    for name, axis, sign in sorted(dict.fromkeys(_places(blocks[0])), key=lambda place: order[place[0]]):
        heads = [[i for p in block.pieces if (p.name, p.axis, p.sign) == (name, axis, sign) for i in p.indices]
                 for block in blocks]  # fmt: skip
        tables[sign * first.sign][name] = _mixed(axis, heads, traced.values[name].shape[axis])
    left, right = tables[1], tables[-1]
    names = titles(left), titles(right or left)
    name = f"{names[0]}-{names[1]}" if names[0] != names[1] else f"{names[0]}.q-k"
    charge = GeneralLinear(name, left, right, basis)
    size = len(blocks[0].pieces[0].indices)
    what = f"{len(blocks)} heads of {size}" if len(blocks) > 1 else f"{size}"
    reason = f"{what}: only linear operations between {names[0]} and {names[1]}"
    if basis is not None:
        reason = f"{reason}, with which {len(basis)} matrices commute"
    found = Found(charge, charge.count(traced.values), reason, True)
    return FoundMatrices(found, tuple(action for block in blocks for action in _diagonal(block, basis)))


def _mixed(axis: int, heads: list[list[int]], length: int) -> Mixed:
    """The shortest way to write which indices each head has."""
    if [i for head in heads for i in head] == list(range(length)):
        return axis if len(heads) == 1 else (axis, len(heads))
    return axis, tuple(map(tuple, heads))


def _diagonal(block: Block, basis: tuple[Sparse, ...] | None) -> Iterator[Action]:
    """The generators that multiply entries."""
    size = len(block.pieces[0].indices)
    units: Sequence[Sparse] = [((k, k, 1.0),) for k in range(size)] if basis is None else basis
    for element in units:
        if all(i == j and value == 1 for i, j, value in element):
            action: Action = defaultdict(dict)
            for piece in block.pieces:
                for k, _, _ in element:
                    entries = action[piece.name, piece.axis]
                    entries[piece.indices[k]] = entries.get(piece.indices[k], 0) + piece.sign
            yield dict(action)
