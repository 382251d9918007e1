"""All charges read off the parameters at once: each tensor is multiplied and summed once, for all charges it is in.

Products are formed and added up in pieces that stay in the cache, in the tensors' own precision, at least float32, and
the pieces are added up in float64: a reading allocates next to nothing beside the parameters.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from modeq.symmetry.affine_charges import AffineReading, AffineSymmetry
from modeq.symmetry.charges import Charge
from modeq.symmetry.matrix_charges import Matrices
from modeq.symmetry.matrix_reading import MatrixReading
from modeq.symmetry.members import Member

Tensors = Mapping[int, Tensor]  # by the identity of the parameter
_FEW, _MANY = 88_000, 352_000  # entries that are multiplied at a time: as many as stay in the cache,
_SHARE = 200  # and between these a two-hundredth of the parameters, which is little beside them
_HALVES = (torch.float16, torch.bfloat16)
_WHOLE = -1  # in place of an axis: all entries, in their order


class Readings:
    """The pairings ⟨ξ(x), y⟩ of several charges on the tensors of one network.

    Parameters
    ----------
    charges : mapping of str to (Charge, parameters by name)

    Examples
    --------
    >>> from modeq.symmetry.charges import Scale, Translation
    >>> w = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> rows, columns = Scale("rows", {"w": 0}), Translation("columns", {"w": 1})
    >>> readings = Readings({"rows": (rows, {"w": w}), "columns": (columns, {"w": w})})
    >>> [round(value, 5) for value in readings.pairing({id(w): w}, {id(w): w}, ["rows", "columns"]).tolist()]
    [5.0, 25.0, 4.0, 6.0]
    """

    def __init__(self, charges: Mapping[str, tuple[Charge, Mapping[str, Any]]]) -> None:
        self._members: dict[str, list[tuple[int, Member]]] = {}
        self._matrices: dict[str, MatrixReading | AffineReading] = {}
        self._degrees: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self._scratch: dict[tuple[torch.dtype, torch.device], Tensor] = {}  # for products, always the same memory
        for name, (charge, parameters) in charges.items():
            self._degrees[name] = charge.degree
            if isinstance(charge, Matrices | AffineSymmetry):
                matrices = self._matrices[name] = (
                    MatrixReading(charge, parameters)
                    if isinstance(charge, Matrices)
                    else AffineReading(charge, parameters)
                )
                self.counts[name], self.sizes[name] = matrices.count, matrices.sizes
                continue
            self._members[name] = [(id(parameters[m.parameter]), m) for m in charge.members if isinstance(m, Member)]
            self.counts[name] = self.sizes[name] = charge.count(parameters)
        entries = {id(p): p.numel() for _, parameters in charges.values() for p in parameters.values()}
        self._piece = min(_MANY, max(_FEW, sum(entries.values()) // _SHARE))

    def pairing(self, x: Tensors | None, y: Tensors, names: Iterable[str], *, sizes: bool = False) -> Tensor:
        """Return ⟨ξ(x), y⟩ of some charges one after another, in float64; with `sizes` those of the terms after them.

        `x` may be None if all the charges are translations. The sizes are Σ|terms|, and of a charge with matrices those
        of `MatrixReading.pairing` or `AffineReading.pairing`. Among points, not velocities, the key `ONE` has a 1.
        """
        chosen = list(names)
        device = next(iter(y.values())).device if y else torch.device("cpu")
        totals = [sum(counts[name] for name in chosen) for counts in (self.counts, self.sizes)]
        packed = torch.zeros(totals[0] + sizes * totals[1], dtype=torch.float64, device=device)
        values = self.split(packed, chosen)
        absolute = self.split(packed[totals[0] :], chosen, sizes=True) if sizes else {}
        self._add_diagonal(x, y, [name for name in chosen if name in self._members], values, absolute)
        for name in chosen:
            if name in self._matrices:
                assert x is not None
                matrices = self._matrices[name]
                read = matrices.pairing(x, y, sizes=sizes)
                values[name].copy_(read[: matrices.count])
                if sizes:
                    absolute[name].copy_(read[matrices.count :])
        return packed

    def _add_diagonal(
        self,
        x: Tensors | None,
        y: Tensors,
        names: list[str],
        values: dict[str, Tensor],
        absolute: dict[str, Tensor],
    ) -> None:
        members: dict[tuple[int, int], list[tuple[str, Member]]] = {}  # of a parameter, by the charge's degree
        for name in names:
            for key, member in self._members[name]:
                members.setdefault((key, self._degrees[name]), []).append((name, member))
        for (key, degree), listed in members.items():
            tensor, factor = y[key], None if degree == 1 or x is None else x[key]
            axes = {_axis(member, tensor.dim()) for _, member in listed}
            sums = _sums(factor, tensor, axes, self._memory(tensor))
            for name, member in listed:
                values[name].add_(_reduced(member, sums), alpha=member.sign)
            if absolute:
                sums = _sums(None, tensor, axes, self._memory(tensor), absolute=True) if degree == 1 else sums
                for name, member in listed:
                    absolute[name].add_(_reduced(member, sums), alpha=abs(member.sign))

    def _memory(self, like: Tensor) -> Tensor:
        kind = like.dtype, like.device
        if kind not in self._scratch:
            self._scratch[kind] = torch.empty(self._piece, dtype=like.dtype, device=like.device)
        return self._scratch[kind]

    def split(self, packed: Any, names: Iterable[str], *, sizes: bool = False) -> dict[str, Any]:
        """Return what `pairing` has packed, by the name of the charge; with `sizes` those of the terms.

        Examples
        --------
        >>> Readings({}).split(torch.zeros(0), [])
        {}
        """
        found, start = {}, 0
        for name in names:
            stop = start + (self.sizes if sizes else self.counts)[name]
            found[name] = packed[start:stop]
            start = stop
        return found


def _axis(member: Member, dimensions: int) -> int:
    """The axis along which a member's generators lie; `_WHOLE` if its entries are named one by one."""
    if member.axis is None:
        return _WHOLE if isinstance(member.groups, tuple) else 0
    return member.axis % dimensions


def _reduced(member: Member, sums: dict[int, Tensor]) -> Tensor:
    """The sums along a member's axis, for its generators."""
    found = sums[_axis(member, next(iter(sums.values())).dim())]
    return found.flatten() if member.axis is not None and member.groups is None else member.reduce(found)


def _sums(x: Tensor | None, y: Tensor, axes: set[int], scratch: Tensor, *, absolute: bool = False) -> dict[int, Tensor]:
    """Σ x·y over all axes but one, for each of some axes, which keep their places."""
    squares = x is y
    y = y.detach()
    x = None if x is None else x.detach()
    if _WHOLE in axes or y.dim() == 0 or hasattr(y, "full_tensor"):
        product = _product(x, y, absolute)
        return {axis: whole(product.double() if axis == _WHOLE else _over_others(product, axis)) for axis in axes}
    rest = y[0].numel() if len(y) else 0
    rows = max(1, len(scratch) // max(rest, 1))
    if squares and y.is_contiguous() and y.dtype not in _HALVES and rows * rest <= len(scratch):
        along, across = _squares(y.reshape(len(y), -1), axes, scratch[: rows * rest].view(rows, rest))
    else:
        along, across = _products(x, y, axes, absolute, rows, scratch)
    spread = across.reshape(1, *y.shape[1:])
    found = {axis: _over_others(spread, axis) for axis in axes - {0}}
    return found | {0: along.reshape([-1, *[1] * (y.dim() - 1)])} if 0 in axes else found


def _squares(y: Tensor, axes: set[int], scratch: Tensor) -> tuple[Tensor, Tensor]:
    """Σ y² of each row, and of each column piece by piece."""
    along = torch.linalg.vector_norm(y, dim=1).double().square() if 0 in axes else y.new_zeros(0)
    across = scratch.zero_()
    if axes != {0}:
        for piece in y.split(len(scratch)):
            across[: len(piece)].addcmul_(piece, piece)
    return along, across.sum(0).double()


def _products(
    x: Tensor | None, y: Tensor, axes: set[int], absolute: bool, rows: int, scratch: Tensor
) -> tuple[Tensor, Tensor]:
    """Σ x·y of each row of the first axis, and of each entry of the others, piece by piece."""
    along = []
    across = torch.zeros(y[0].numel() if len(y) else 0, dtype=torch.float64, device=y.device)
    for start in range(0, max(len(y), 1), rows):
        part = slice(start, start + rows)
        product = _product(None if x is None else x[part], y[part], absolute, scratch).reshape(len(y[part]), -1)
        if 0 in axes:
            along.append(product.sum(1))
        if axes != {0}:
            across += product.sum(0)
    return torch.cat(along).double() if along else across[:0], across


def _product(x: Tensor | None, y: Tensor, absolute: bool, scratch: Tensor | None = None) -> Tensor:
    if y.dtype in _HALVES:
        x, y, scratch = None if x is None else x.float(), y.float(), None
    out = None if scratch is None or y.numel() > len(scratch) else scratch[: y.numel()].view(y.shape)
    if absolute:
        return torch.abs(y, out=out)
    return y if x is None else torch.mul(x, y, out=out)


def _over_others(product: Tensor, axis: int) -> Tensor:
    others = [d for d in range(product.dim()) if d != axis]
    return (product.sum(others, keepdim=True) if others else product).double()


def whole(value: Tensor) -> Tensor:
    """Return a tensor that lies in parts on several processes as a whole, any other as it is.

    Examples
    --------
    >>> whole(torch.ones(2)).tolist()
    [1.0, 1.0]
    """
    return value.full_tensor() if hasattr(value, "full_tensor") else value
