"""A quadratic loss of many parameters, with exact derivatives; noise in its minibatches; rotations."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sympy as sp

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

    Examples
    --------
    >>> import numpy as np
    >>> problem = QuadraticProblem(np.diag([1.0, 4.0]), [[0.5, 0.0], [-0.5, 0.0]])
    >>> problem.field([1.0, 1.0]).tolist(), problem.field([1.0, 1.0], part=0).tolist()
    ([-1.0, -4.0], [-1.5, -4.0])
    """

    def __init__(self, hessian: Any, noise: Any = None, default_start: Any = None) -> None:
        self.hessian = np.array(hessian, dtype=np.float64)
        linear = np.zeros((1, len(self.hessian))) if noise is None else np.array(noise, dtype=np.float64)
        self._linear = linear
        batches = [_Batch(self.hessian, b) for b in linear]
        super().__init__(
            [batch.gradient for batch in batches],
            len(self.hessian),
            loss=[batch.loss for batch in batches],
            default_start=default_start,
        )

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
