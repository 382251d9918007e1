"""All charges read off the parameters at once: each tensor is multiplied and summed once, for all charges it is in.

Products are formed and added up in pieces that stay in the cache, in the tensors' own precision, at least float32, and
the pieces are added up in float64: a reading allocates next to nothing beside the parameters.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from modeq.symmetry.charges import Charge, Member

Tensors = Mapping[int, Tensor]  # by the identity of the parameter
_PIECE = 2**17  # entries that are multiplied at a time
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
    >>> readings.pairing({id(w): w}, {id(w): w}, ["rows", "columns"]).tolist()
    [5.0, 25.0, 4.0, 6.0]
    """

    def __init__(self, charges: Mapping[str, tuple[Charge, Mapping[str, Any]]]) -> None:
        self._members: dict[str, list[tuple[int, Member]]] = {}
        self._degrees: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        for name, (charge, parameters) in charges.items():
            self._members[name] = [(id(parameters[m.parameter]), m) for m in charge.members]
            self._degrees[name] = charge.degree
            self.counts[name] = charge.count(parameters)

    def pairing(self, x: Tensors | None, y: Tensors, names: Iterable[str], *, sizes: bool = False) -> Tensor:
        """Return ⟨ξ(x), y⟩ of some charges one after another, in float64; with `sizes` Σ|terms| after them.

        `x` may be None if all the charges are linear.
        """
        wanted: dict[tuple[int, int], set[int]] = {}  # (parameter, degree) -> axes
        chosen = list(names)
        for name in chosen:
            for key, member in self._members[name]:
                wanted.setdefault((key, self._degrees[name]), set()).add(_axis(member, y[key].dim()))
        sums, absolute = {}, {}
        for (key, degree), axes in wanted.items():
            factor = None if degree == 1 or x is None else x[key]
            sums[key, degree] = _sums(factor, y[key], axes)
            if sizes:
                absolute[key, degree] = _sums(None, y[key], axes, absolute=True) if degree == 1 else sums[key, degree]
        parts = [self._combined(name, sums, signed=True) for name in chosen]
        if sizes:
            parts += [self._combined(name, absolute, signed=False) for name in chosen]
        device = next(iter(y.values())).device if y else torch.device("cpu")
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device=device)

    def _combined(self, name: str, sums: dict[tuple[int, int], dict[int, Tensor]], signed: bool) -> Tensor:
        parts = []
        for key, member in self._members[name]:
            found = sums[key, self._degrees[name]]
            part = member.reduce(found[_axis(member, next(iter(found.values())).dim())])
            parts.append(part * member.sign if signed else part)
        return torch.stack(parts).sum(0)

    def split(self, packed: Any, names: Iterable[str]) -> dict[str, Any]:
        """Return what `pairing` has packed, by the name of the charge.

        Examples
        --------
        >>> Readings({}).split(torch.zeros(0), [])
        {}
        """
        found, start = {}, 0
        for name in names:
            found[name] = packed[start : start + self.counts[name]]
            start += self.counts[name]
        return found


def _axis(member: Member, dimensions: int) -> int:
    """The axis along which a member's generators lie; `_WHOLE` if its entries are named one by one."""
    if member.axis is None:
        return _WHOLE if isinstance(member.groups, tuple) else 0
    return member.axis % dimensions


def _sums(x: Tensor | None, y: Tensor, axes: set[int], *, absolute: bool = False) -> dict[int, Tensor]:
    """Σ x·y over all axes but one, for each of some axes, which keep their places."""
    y = y.detach()
    x = None if x is None else x.detach()
    if _WHOLE in axes or y.dim() == 0 or hasattr(y, "full_tensor"):
        product = _product(x, y, absolute)
        return {axis: whole(product.double() if axis == _WHOLE else _over_others(product, axis)) for axis in axes}
    rows = max(1, _PIECE * y.shape[0] // max(y.numel(), 1))
    found: dict[int, list[Tensor]] = {axis: [] for axis in axes}
    for piece in range(0, max(y.shape[0], 1), rows):
        part = slice(piece, piece + rows)
        product = _product(None if x is None else x[part], y[part], absolute)
        if len(axes) > 1 and product.dim() > 2 and axes <= {0, 1}:
            product = product.sum(list(range(2, product.dim())), keepdim=True)
        for axis in axes:
            found[axis].append(_over_others(product, axis))
    return {
        axis: torch.cat(parts) if axis == 0 else torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
        for axis, parts in found.items()
    }


def _product(x: Tensor | None, y: Tensor, absolute: bool) -> Tensor:
    if y.dtype in (torch.float16, torch.bfloat16):
        x, y = None if x is None else x.float(), y.float()
    return y.abs() if absolute else y if x is None else x * y


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
    return value.full_tensor() if hasattr(value, "full_tensor") else value  # type: ignore[no-any-return]
