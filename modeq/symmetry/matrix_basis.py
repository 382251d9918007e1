"""The matrices X along which a matrix charge has generators (UX, −VXᵀ): symmetric ones first, then antisymmetric ones.

A symmetric X has a charge of its own, ⟨X, UᵀU − VᵀV⟩; an antisymmetric one has none, but a rotation: what it makes of
parameters and their velocities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from modeq.errors import InvalidCharge

# A matrix as its entries (row, column, value).
Sparse = tuple[tuple[int, int, float], ...]


@dataclass(frozen=True)
class MatrixBasis:
    """A basis of r×r matrices; by default of all of them.

    Those are S_ij = (E_ij + E_ji)/2 for i ≤ j, row by row of the upper triangle, and A_ij = E_ij − E_ji for i < j. With
    them ⟨S_ij, M⟩ = M_ij for a symmetric M, and ⟨A_ij, Π⟩ = Π_ij − Π_ji.

    Attributes
    ----------
    size : int
        r.
    elements : tuple of Sparse, or None
        Each symmetric or antisymmetric, the symmetric ones first; None for all matrices.

    Examples
    --------
    >>> whole = MatrixBasis(3)
    >>> whole.number("s"), whole.number("a")
    (6, 3)
    >>> plane = MatrixBasis(2, (((0, 0, 1), (1, 1, 1)), ((0, 1, -1), (1, 0, 1))))  # complex numbers
    >>> matrix = torch.tensor([[1.0, 2.0], [5.0, 3.0]])
    >>> plane.coordinates(matrix, "s").tolist(), plane.coordinates(matrix, "a").tolist()
    ([4.0], [3.0])
    """

    size: int
    elements: tuple[Sparse, ...] | None = None

    def number(self, part: str) -> int:
        """Return how many matrices there are, symmetric ones ("s") or antisymmetric ones ("a")."""
        sign = 1 if part == "s" else -1
        if self.elements is None:
            return self.size * (self.size + sign) // 2
        return sum(sign_of(element) == sign for element in self.elements)

    def coordinates(self, matrix: Tensor, part: str) -> Tensor:
        """Return ⟨X, matrix⟩ for each symmetric X ("s"), or each antisymmetric one ("a"), shape [..., matrices]."""
        if self.elements is None:
            row, column = _triangle(self.size, part, matrix.device)
            one, other = matrix[..., row, column], matrix[..., column, row]
            return (one + other) / 2 if part == "s" else one - other
        number, row, column, value = entries_of(self.elements, matrix.device)
        terms = matrix[..., row, column] * value.to(matrix)
        total = terms.new_zeros((*terms.shape[:-1], len(self.elements))).index_add(-1, number, terms)
        first = self.number("s")
        return total[..., :first] if part == "s" else total[..., first:]

    def combined(self, coefficients: Tensor) -> Tensor:
        """Return Σ_a c_a X_a, shape [..., r, r]."""
        shape = (*coefficients.shape[:-1], self.size * self.size)
        if self.elements is not None:
            number, row, column, value = entries_of(self.elements, coefficients.device)
            terms = coefficients[..., number] * value.to(coefficients)
            flat = terms.new_zeros(shape).index_add(-1, row * self.size + column, terms)
            return flat.unflatten(-1, (self.size, self.size))
        total = coefficients.new_zeros(shape)
        for part, given in zip("sa", coefficients.split([self.number(part) for part in "sa"], -1), strict=True):
            row, column = _triangle(self.size, part, coefficients.device)
            one, other = (given / 2, given / 2) if part == "s" else (given, -given)
            total = total.index_add(-1, row * self.size + column, one).index_add(-1, column * self.size + row, other)
        return total.unflatten(-1, (self.size, self.size))

    def squared_lengths(self, left: Tensor, right: Tensor) -> Tensor:
        """Return ‖UX‖² + ‖VXᵀ‖² for each X, from UᵀU and VᵀV, shape [..., matrices]."""
        if self.elements is None:
            diagonal = left.diagonal(dim1=-2, dim2=-1) + right.diagonal(dim1=-2, dim2=-1)
            found = []
            for part in "sa":
                row, column = _triangle(self.size, part, left.device)
                both = diagonal[..., row] + diagonal[..., column]
                found.append(torch.where(row == column, both / 2, both / 4) if part == "s" else both)
            return torch.cat(found, -1)
        shape = (*left.shape[:-2], len(self.elements))
        total = left.new_zeros(shape)
        for gram, (number, one, other, value) in zip((left, right), _products(self.elements, left.device), strict=True):
            total = total.index_add(-1, number, gram[..., one, other] * value.to(gram))
        return total


def basis_of(owner: str, elements: Any) -> tuple[Sparse, ...] | None:
    """Return matrices, each given by its entries (row, column, value), the symmetric ones first.

    Raises
    ------
    InvalidCharge
        If they are no such, or one is neither symmetric nor antisymmetric.

    Examples
    --------
    >>> basis_of("charge 'q-k'", [[[0, 1, -1], [1, 0, 1]], [[0, 0, 1], [1, 1, 1]]])
    (((0, 0, 1.0), (1, 1, 1.0)), ((0, 1, -1.0), (1, 0, 1.0)))
    """
    if elements is None:
        return None
    try:
        found = tuple(
            tuple(sorted((int(i), int(j), float(value)) for i, j, value in element if value)) for element in elements
        )
    except (TypeError, ValueError) as error:
        raise InvalidCharge(
            f"{owner}: basis is {elements!r}; give matrices, each as its entries (row, column, value)"
        ) from error
    if not found or not all(found) or min(min(i, j) for element in found for i, j, _ in element) < 0:
        raise InvalidCharge(f"{owner}: basis is {elements!r}; give one matrix at least, none of them 0")
    for element in found:
        if not sign_of(element):
            raise InvalidCharge(
                f"{owner}: the matrix {element} of its basis is neither symmetric nor antisymmetric; give its two parts"
            )
    return tuple(sorted(found, key=lambda element: -sign_of(element)))


def sign_of(element: Sparse) -> int:
    """Return 1 for a symmetric matrix, −1 for an antisymmetric one, 0 for any other.

    Examples
    --------
    >>> sign_of(((0, 1, 2.0), (1, 0, 2.0))), sign_of(((0, 1, 2.0), (1, 0, -2.0))), sign_of(((0, 1, 2.0),))
    (1, -1, 0)
    """
    values = {(i, j): value for i, j, value in element}
    for sign in (1, -1):
        if all(values.get((j, i), 0.0) == sign * value for (i, j), value in values.items()):
            return sign
    return 0


@lru_cache(maxsize=64)
def _triangle(size: int, part: str, device: torch.device) -> tuple[Tensor, Tensor]:
    row, column = torch.triu_indices(size, size, 0 if part == "s" else 1, device=device)
    return row, column


@lru_cache(maxsize=64)
def entries_of(elements: tuple[Sparse, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the number of the matrix, row, column and value of all entries.

    Examples
    --------
    >>> [part.tolist() for part in entries_of((((0, 1, 2.0),), ((1, 1, 3.0),)), torch.device("cpu"))]
    [[0, 1], [0, 1], [1, 1], [2.0, 3.0]]
    """
    listed = [(a, *entry) for a, element in enumerate(elements) for entry in element]
    return _columns(listed, device)


@lru_cache(maxsize=64)
def _products(elements: tuple[Sparse, ...], device: torch.device) -> tuple[Any, Any]:
    """Of each matrix the products of two entries of one column, and of one row."""
    found: tuple[list[Any], list[Any]] = ([], [])
    for a, element in enumerate(elements):
        for i, j, one in element:
            for k, m, other in element:
                if j == m:
                    found[0].append((a, i, k, one * other))
                if i == k:
                    found[1].append((a, j, m, one * other))
    return _columns(found[0], device), _columns(found[1], device)


def _columns(
    listed: Sequence[tuple[int, int, int, float]], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    numbers, values = [entry[:3] for entry in listed], [entry[3] for entry in listed]
    number, row, column = torch.tensor(numbers, device=device).reshape(-1, 3).unbind(1)
    return number, row, column, torch.tensor(values, dtype=torch.float64, device=device)
