"""Matrix charges read off the parameters of a training, in the tensors' own precision, at least float32."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from modeq.symmetry.factors import Factor
from modeq.symmetry.matrix_charges import Matrices

_PIECE = 8192  # products that are added up in the tensors' own precision
_HALVES = (torch.float16, torch.bfloat16)


class MatrixReading:
    """What a tracker reads of one matrix charge: ⟨ξ_X(x), y⟩ of the X that it follows, and how large the terms are.

    Parameters
    ----------
    charge : GeneralLinear or Rotation
    parameters : mapping of str to Tensor
        Those of the charge, by name.

    Attributes
    ----------
    count : int
        Numbers that a pairing has: those of symmetric X of a `GeneralLinear`, of antisymmetric ones of a `Rotation`.
    sizes : int
        Numbers that say how large the terms are, see `pairing`.

    Examples
    --------
    >>> from modeq.symmetry.matrix_charges import GeneralLinear
    >>> u, v = torch.eye(2), torch.ones(2, 1)
    >>> reading = MatrixReading(GeneralLinear("u-v", {"u": 0}, {"v": 0}), {"u": u, "v": v})
    >>> theta = {id(u): u, id(v): v}
    >>> reading.pairing(theta, theta, sizes=True).tolist()
    [0.0, -1.0, 0.0, 4.0]
    """

    def __init__(self, charge: Matrices, parameters: Mapping[str, Any]) -> None:
        self.heads, self.basis = charge.layout(parameters)
        self.part = "s" if charge.degree else "a"
        self.count = self.heads * self.basis.number(self.part)
        self.sizes = self.heads * (1 if charge.degree else 2)
        self._factors = [(id(parameters[factor.parameter]), factor) for factor in charge.factors]

    def pairing(self, x: Mapping[int, Tensor], y: Mapping[int, Tensor], *, sizes: bool = False) -> Tensor:
        """Return ⟨ξ_X(x), y⟩ for each head and X, shape [count], in float64; with `sizes` also how large the terms are.

        That is ‖x‖² of each head; for a rotation ‖x‖ of each, and then ‖y‖.
        """
        with _full_precision():
            grams = [(factor.sign, _gram(*self._stacks(key, factor, x, y))) for key, factor in self._factors]
        total: Any = sum(gram if sign > 0 else -gram.mT for sign, gram in grams)
        found = [self.basis.coordinates(total, self.part).flatten()]
        if sizes and self.part == "a":
            found += [self._squares(x).sqrt(), self._squares(y).sqrt()]
        elif sizes:
            traces: Any = sum(gram.diagonal(dim1=1, dim2=2).sum(1) for _, gram in grams) if x is y else self._squares(x)
            found.append(traces)
        return torch.cat(found)

    def _squares(self, x: Mapping[int, Tensor]) -> Tensor:
        parts = [self._stacks(key, factor, x, x)[0] for key, factor in self._factors]
        return torch.stack([part.square().sum(2).double().sum(1) for part in parts]).sum(0)

    def _stacks(self, key: int, factor: Factor, x: Mapping[int, Tensor], y: Mapping[int, Tensor]) -> list[Tensor]:
        found = []
        for tensors in (x, y) if x is not y else (x,):
            tensor = tensors[key].detach()
            tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
            stack = factor.stack(tensor, self.basis.size)
            found.append(stack.float() if stack.dtype in _HALVES else stack)
        return found * (2 if len(found) == 1 else 1)


def _gram(one: Tensor, other: Tensor) -> Tensor:
    """Σ_k one_ik·other_jk, in pieces that are added up in float64."""
    pieces = zip(one.split(_PIECE, -1), other.split(_PIECE, -1), strict=True)
    total: Any = sum((a @ b.mT).double() for a, b in pieces)
    return total


@contextmanager
def _full_precision() -> Iterator[None]:
    """Within it products of matrices are not rounded to fewer digits than the matrices have."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
