"""The matrices that commute with some others and with their transposes."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from modeq.symmetry.matrix_basis import Sparse

Array = NDArray[np.float64]

_LARGEST = 64  # unknowns of which a null space is taken
_SMALL = 1e-8  # singular values below it, relative to the largest possible, and entries, count as 0


def commutant(forms: Array, *, antisymmetric: bool = False) -> tuple[Sparse, ...] | None:
    """Return a basis of the matrices that commute with each form and its transpose, symmetric or antisymmetric each.

    Parameters
    ----------
    forms : array (forms, r, r)
        Possibly none.
    antisymmetric : bool
        Leave the symmetric ones out.

    Returns
    -------
    tuple of Sparse, the symmetric ones first
        None if the forms mix more than eight coordinates with each other.

    Examples
    --------
    Rotations of a plane commute with the complex numbers, of two planes by different angles with those of each:

    >>> import numpy as np
    >>> def turn(a):
    ...     return np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    >>> commutant(turn(0.3)[None])
    (((0, 0, 1.0), (1, 1, 1.0)), ((0, 1, 1.0), (1, 0, -1.0)))
    >>> both = np.zeros((1, 4, 4))
    >>> both[0, :2, :2], both[0, 2:, 2:] = turn(0.3), turn(0.1)
    >>> len(commutant(both)), len(commutant(np.zeros((0, 3, 3)), antisymmetric=True))
    (4, 3)
    """
    size = forms.shape[-1]
    both = np.concatenate([np.zeros((1, size, size)), forms, forms.transpose(0, 2, 1)])
    both = both / np.maximum(np.abs(both).max((1, 2), keepdims=True), 1e-300)
    touching = (np.abs(both) > _SMALL).any(0)
    _, part = connected_components(touching, directed=False)
    parts = [np.flatnonzero(part == k) for k in range(part.max(initial=-1) + 1)]
    if max(map(len, parts)) ** 2 > _LARGEST:
        return None
    found: list[Array] = []
    for p, q in product(sorted(set(map(len, parts))), repeat=2):
        pairs = [(a, b) for a, b in product(parts, repeat=2) if (len(a), len(b)) == (p, q)]
        for (one, other), solutions in zip(pairs, _intertwining(both, pairs), strict=True):
            for solution in solutions:
                whole = np.zeros((size, size))
                whole[np.ix_(one, other)] = solution
                found.append(whole)
    return tuple(
        element
        for sign in ((-1,) if antisymmetric else (1, -1))
        for element in _independent([x + sign * x.T for x in found])
    )


def _intertwining(forms: Array, pairs: list[tuple[Any, Any]]) -> Iterator[Array]:
    """For each pair of parts of one size a basis of the X with C_one·X = X·C_other for all forms C, in reduced form."""
    ones, others = (np.array([pair[k] for pair in pairs]) for k in (0, 1))
    p, q = ones.shape[1], others.shape[1]
    left, right = (forms[:, part[:, :, None], part[:, None, :]].swapaxes(0, 1) for part in (ones, others))
    rows = np.einsum("nmij,kl->nmikjl", left, np.eye(q)) - np.einsum("ij,nmlk->nmikjl", np.eye(p), right)
    _, singular, vectors = np.linalg.svd(rows.reshape(len(pairs), -1, p * q), full_matrices=False)
    for values, found in zip(singular, vectors, strict=True):
        yield _reduced(found[values < _SMALL]).reshape(-1, p, q)


def _reduced(rows: Array) -> Array:
    """Rows that span the same, in reduced echelon form."""
    rows, top = rows.copy(), 0
    for column in range(rows.shape[1]):
        if top == len(rows):
            break
        pivot = top + int(np.abs(rows[top:, column]).argmax())
        if abs(rows[pivot, column]) < 1e-6:
            continue
        rows[[top, pivot]] = rows[[pivot, top]]
        rows[top] /= rows[top, column]
        others = np.arange(len(rows)) != top
        rows[others] -= np.outer(rows[others, column], rows[top])
        top += 1
    return rows[:top]


def _independent(matrices: list[Array]) -> list[Sparse]:
    """Those of some symmetric or antisymmetric matrices that do not depend on others, each by its entries."""
    kept: dict[Any, Array] = {}
    for matrix in matrices:
        flat = matrix.ravel()
        places = np.flatnonzero(np.abs(flat) > 1e-6)
        if not len(places):
            continue
        unit = flat / flat[places[0]]
        near = np.round(unit)
        unit = np.where(np.abs(unit - near) < 1e-6, near, unit)
        kept.setdefault(tuple(np.round(unit, 6).tolist()), unit)
    rows = np.array(list(kept.values()))
    if len(rows) and np.linalg.matrix_rank(rows, tol=1e-6) < len(rows):
        rows = _reduced(rows)
    size = matrices[0].shape[0] if matrices else 0
    return [
        tuple((i // size, i % size, float(row[i])) for i in np.flatnonzero(np.abs(row) > 1e-6).tolist()) for row in rows
    ]
