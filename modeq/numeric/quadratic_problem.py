"""A quadratic loss of many parameters, with exact derivatives; noise in its minibatches; rotations."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sympy as sp

from modeq.errors import InvalidProblem
from modeq.numeric.numpy_problem import NumpyProblem
from modeq.numeric.protocol import Vector


class QuadraticProblem(NumpyProblem):
    """L(θ) = ½ θᵀHθ, and in minibatch k the loss L(θ) + ⟨b_k, θ⟩.

    Parameters
    ----------
    hessian : array, shape (d, d)
        H, symmetric.
    noise : array, shape (minibatches, d), optional
        The vectors b_k; a single one that is 0 by default. L itself is the mean of the minibatches.
    default_start : d numbers, optional

    Raises
    ------
    InvalidProblem
        If H is no symmetric matrix (to 1e-12 of its largest entry), if the noise has another shape, or if numbers
        are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> problem = QuadraticProblem(np.diag([1.0, 4.0]), [[0.5, 0.0], [-0.5, 0.0]])
    >>> problem.field([1.0, 1.0]).tolist(), problem.field([1.0, 1.0], part=0).tolist()
    ([-1.0, -4.0], [-1.5, -4.0])
    """

    def __init__(self, hessian: Any, noise: Any = None, default_start: Any = None) -> None:
        self.hessian = _symmetric(hessian)
        size = len(self.hessian)
        linear = np.zeros((1, size)) if noise is None else _matrix(noise, "noise", f"(minibatches, {size})")
        if linear.shape[0] == 0 or linear.shape[1] != size:
            raise InvalidProblem(
                f"noise has the shape {linear.shape}: give (minibatches, {size}), one row for each minibatch"
            )
        self._linear = linear
        batches = [_Batch(self.hessian, b) for b in linear]
        super().__init__(
            [batch.gradient for batch in batches],
            len(self.hessian),
            loss=[batch.loss for batch in batches],
            default_start=default_start,
        )

    @property
    def is_quadratic(self) -> bool:
        """True: the field, and each of its parts, is affine."""
        return True

    def field(self, theta: Vector, part: int | None = None) -> Vector:
        """−Hθ − b, b the mean over the minibatches or that of one."""
        linear = self._linear.mean(0) if part is None else self._linear[part]
        return -self.hessian @ self._vector(theta, "theta") - linear

    def of_batch(self, batch: int) -> "QuadraticProblem":
        """Return the problem of one of the minibatches."""
        return QuadraticProblem(self.hessian, self._linear[[batch]], self._default_start)

    def derivative(self, theta: Vector, vectors: Sequence[Vector], part: int | None = None) -> Vector:
        """−Hv for one vector, 0 for more, the field for none."""
        if len(vectors) == 0:
            return self.field(theta, part)
        checked = [self._vector(vector, "a direction") for vector in vectors]
        return -self.hessian @ checked[0] if len(checked) == 1 else np.zeros(self.size)

    def __repr__(self) -> str:
        batches = "" if self.parts == 1 else f", {self.parts} minibatches"
        return f"QuadraticProblem({self.size} parameters{batches})"


def _matrix(given: Any, argument: str, shape: str) -> Vector:
    """Finite real numbers as a matrix, or `InvalidProblem` that names the argument."""
    given = given.detach().cpu() if hasattr(given, "detach") else given
    try:
        array = np.asarray(given)
        if array.dtype.kind == "O":  # sympy's numbers
            array = np.array(array.tolist(), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidProblem(f"{argument} is {given!r}: give real numbers of the shape {shape}") from error
    if array.dtype.kind not in "iuf":
        raise InvalidProblem(f"{argument} has the dtype {array.dtype}: give real numbers of the shape {shape}")
    if array.ndim != 2:
        raise InvalidProblem(f"{argument} has the shape {array.shape}: give {shape}")
    if not np.all(np.isfinite(array)):
        wrong = array[~np.isfinite(array)]
        raise InvalidProblem(f"{argument} has entries that are not finite, {wrong[:3]}: give finite numbers")
    return np.array(array, dtype=np.float64)


def _symmetric(hessian: Any) -> Vector:
    """H with its rounding evened out, or `InvalidProblem`."""
    matrix = _matrix(hessian, "hessian", "(d, d)")
    if matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise InvalidProblem(f"hessian has the shape {matrix.shape}: give (d, d), d from 1")
    skew = abs(matrix - matrix.T)
    if np.max(skew) > 1e-12 * np.max(abs(matrix)):
        i, j = np.unravel_index(int(np.argmax(skew)), skew.shape)
        raise InvalidProblem(
            f"hessian is not symmetric: its entries ({i}, {j}) and ({j}, {i}) are {matrix[i, j]:g} and "
            f"{matrix[j, i]:g}; give (H + H.T) / 2, or a VectorField for a field that is no gradient"
        )
    return np.asarray((matrix + matrix.T) / 2)


class _Batch:
    """One minibatch; its methods can be pickled, which closures cannot."""

    def __init__(self, hessian: Vector, linear: Vector) -> None:
        self.hessian, self.linear = hessian, linear

    def gradient(self, theta: Vector) -> Vector:
        return self.hessian @ theta + self.linear

    def loss(self, theta: Vector) -> float:
        return float(theta @ self.hessian @ theta / 2 + self.linear @ theta)


def rational_rotation(size: int, seed: int) -> sp.Matrix:
    """Return a seeded rotation with rational entries: a product of two reflections in vectors of small integers.

    Examples
    --------
    >>> rotation = rational_rotation(3, seed=0)
    >>> rotation * rotation.T == sp.eye(3), rotation.det()
    (True, 1)
    """
    generator = np.random.default_rng(seed)
    rotation = sp.eye(size)
    for _ in range(2):
        normal = sp.Matrix([int(n) for n in generator.integers(1, 4, size) * generator.choice([-1, 1], size)])
        rotation = rotation * (sp.eye(size) - 2 * normal * normal.T / normal.dot(normal))
    return rotation


def random_rotation(size: int, seed: int) -> Vector:
    """Return a seeded orthogonal matrix of floats, uniformly distributed.

    Examples
    --------
    >>> rotation = random_rotation(3, seed=0)
    >>> bool(np.allclose(rotation @ rotation.T, np.eye(3)))
    True
    """
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return q * np.sign(np.diag(r))
