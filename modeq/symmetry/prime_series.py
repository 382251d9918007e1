"""Power series over a prime field, with derivatives in some directions.

A value is a tensor (T, 1 + C, S, n): T coefficients of a series in t; the value itself and its derivatives in C
directions, or the value alone where these are 0; S samples, or 1 for what is shared; n entries.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from modeq.errors import InvalidProblem
from modeq.symmetry.modular import PrimeField

# Letters of the axes of every value: coefficient, coefficient of a factor, direction, sample.
_COEFFICIENT, _FACTOR, _DIRECTION, _SAMPLE = "TUCS"


class Ring:
    """Series with directions over a prime field, and what was drawn for the samples."""

    def __init__(self, field: PrimeField, draws: dict[int, Tensor]) -> None:
        self.field, self.draws = field, draws
        self._constants: dict[int, Tensor] = {}

    def constants(self, numbers: tuple[Fraction, ...]) -> Tensor:
        """Return fixed numbers as elements of the field."""
        if id(numbers) not in self._constants:
            self._constants[id(numbers)] = self.field.of(numbers)
        return self._constants[id(numbers)]

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the sum; coefficients and directions that one lacks are 0."""
        shape = [max(a.shape[k], b.shape[k]) for k in range(2)]
        return self.field.reduce(padded(a, shape) + padded(b, shape))

    def multiply(self, equation: str, a: Tensor, b: Tensor, shared: bool = False) -> Tensor:
        """Return `torch.einsum` of two values, summed over the samples too if the result is shared."""
        found = self._series(equation, a[:, :1], b[:, :1], shared)
        if a.shape[1] == b.shape[1] == 1:
            return found
        parts = [self._series(equation, a[:, 1:], b[:, :1], shared)] if a.shape[1] > 1 else []
        parts += [self._series(equation, a[:, :1], b[:, 1:], shared)] if b.shape[1] > 1 else []
        return torch.cat([found, self.field.reduce(sum(parts[1:], parts[0]))], 1)

    def _series(self, equation: str, a: Tensor, b: Tensor, shared: bool) -> Tensor:
        one, other, out = words(equation)
        if a.numel() > b.numel():  # the first is taken apart
            a, b, one, other = b, a, other, one
        if one == other == out and not shared:
            return self._entrywise(a, b)
        lead, kept = _DIRECTION + _SAMPLE, _DIRECTION if shared else _DIRECTION + _SAMPLE
        row = column = _COEFFICIENT
        if len(a) > 1 and len(b) > 1:
            a, row, column = _toeplitz(a), _COEFFICIENT + _FACTOR, _FACTOR
        found = self.field.contract(f"{row}{lead}{one},{column}{lead}{other}->{_COEFFICIENT}{kept}{out}", a, b)
        return found.unsqueeze(2) if shared else found

    def _entrywise(self, a: Tensor, b: Tensor) -> Tensor:
        if len(a) == 1 or len(b) == 1:
            return self.field.multiply(a, b)
        return self.field.convolve(a, b)

    def shared(self, a: Tensor) -> Tensor:
        """Return the sum over the samples."""
        return a if a.shape[2] == 1 else self.field.reduce(a.sum(2, keepdim=True))

    def inverse(self, a: Tensor) -> Tensor:
        """Return the inverses of entries.

        Raises
        ------
        InvalidProblem
            If a constant coefficient is 0.
        """
        if not a[0, 0].all():
            raise InvalidProblem(
                "the network divides by 0, always or modulo a random prime: see whether another seed helps"
            )
        two = torch.zeros_like(a[:, :1])
        two[0] = 2
        found, terms = padded(self.field.inverse(a[:1, :1]), [len(a), 1]), 1
        while terms < len(a) or (a.shape[1] > 1 and terms < 2 * len(a)):
            product = self.multiply("n,n->n", a, found)
            found = self.multiply("n,n->n", found, self.add(two, self.field.reduce(-product)))
            terms *= 2
        return found


def padded(a: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a value with zeros as further coefficients and directions.

    Examples
    --------
    >>> padded(torch.ones(1, 1, 1, 1), (3, 1)).flatten()
    tensor([1., 0., 0.])
    """
    if list(a.shape[:2]) == list(shape):
        return a
    found = a.new_zeros(*shape, *a.shape[2:])
    found[: a.shape[0], : a.shape[1]] = a
    return found


def words(equation: str) -> tuple[str, str, str]:
    """Return the letters of both factors and of the result.

    Examples
    --------
    >>> words("ij,jk->ik")
    ('ij', 'jk', 'ik')
    """
    inputs, out = equation.split("->")
    one, other = inputs.split(",")
    return one, other, out


def _toeplitz(a: Tensor) -> Tensor:
    """The coefficients a_{k−j} as a square matrix (k, j)."""
    found = a.new_zeros(len(a), *a.shape)
    for j in range(len(a)):
        found[j:, j] = a[: len(a) - j]
    return found
