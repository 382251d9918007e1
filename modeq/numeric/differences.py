"""Directional derivatives of a vector function by central differences along lines."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product

import numpy as np
import sympy as sp

from modeq.numeric.protocol import Vector

Function = Callable[[Vector], Vector]


def directional_derivative(function: Function, theta: Vector, vectors: Sequence[Vector], scale: float) -> Vector:
    r"""F⁽ᵏ⁾(θ)[v₁, …, v_k] of a function that is smooth on the length `scale`, by differences of the sixth order.

    Mixed derivatives are sums of those along single lines (polarisation),

    .. math:: F^{(k)}[v_1, \dots, v_k] = \frac{1}{2^{k-1} k!} \sum_{s_2, \dots, s_k = \pm 1} s_2 \cdots s_k \,
        \partial_t^k F(θ + t (v_1 + s_2 v_2 + \dots + s_k v_k)) |_{t = 0}

    in which equal lines are merged: for k equal vectors one is left.

    Examples
    --------
    >>> derivative = directional_derivative(np.exp, np.zeros(2), [np.array([1.0, 2.0])] * 3, 1.0)
    >>> bool(np.max(abs(derivative - [1, 8])) < 1e-8)
    True
    """
    if len(vectors) == 0:
        return function(theta)
    peaks = [float(np.max(abs(vector))) for vector in vectors]  # squares of tiny entries would vanish
    if not all(peaks):
        return np.zeros_like(theta)
    scaled = [v / peak for v, peak in zip(vectors, peaks, strict=True)]
    norms = [float(np.linalg.norm(v)) for v in scaled]
    units, number = _distinct([v / norm for v, norm in zip(scaled, norms, strict=True)])
    total = np.zeros_like(theta)
    for line, weight in _lines(tuple(number)).items():
        direction = sum((c * unit for c, unit in zip(line, units, strict=True) if c), np.zeros_like(theta))
        length = float(np.linalg.norm(direction))
        if length:
            along = _line_derivative(function, theta, direction / length, len(vectors), scale)
            total += float(weight) * length ** len(vectors) * along
    return total * math.prod(norms) * math.prod(peaks)


def _line_derivative(function: Function, theta: Vector, unit: Vector, k: int, scale: float) -> Vector:
    """∂ₜᵏ F(θ + t·unit) at t = 0."""
    # Truncation e⁶ and rounding ε/eᵏ balance; a power of 2 makes the points exact.
    step = scale * 2.0 ** round(math.log2(np.finfo(np.float64).eps) / (k + 6))
    total = np.zeros_like(theta)
    for j, weight in _stencil(k):
        total += weight * function(theta + (j * step) * unit)
    return total / step**k


@lru_cache
def _stencil(k: int) -> tuple[tuple[int, float], ...]:
    """Points and weights of the central difference of sixth order for the k-th derivative."""
    reach = (k + 1) // 2 + 2
    points = list(range(-reach, reach + 1))
    weights = sp.finite_diff_weights(k, points, 0)[k][-1]
    return tuple((j, float(w)) for j, w in zip(points, weights, strict=True) if w != 0)


def _distinct(vectors: Sequence[Vector]) -> tuple[list[Vector], list[int]]:
    """The vectors without repetition, and the number of each among them."""
    distinct: list[Vector] = []
    numbers = []
    for vector in vectors:
        found = [n for n, other in enumerate(distinct) if np.array_equal(vector, other)]
        numbers.append(found[0] if found else len(distinct))
        if not found:
            distinct.append(vector)
    return distinct, numbers


@lru_cache
def _lines(numbers: tuple[int, ...]) -> dict[tuple[int, ...], sp.Rational]:
    """The coefficients of each line in terms of the distinct vectors, and its weight in the polarisation."""
    k = len(numbers)
    lines: dict[tuple[int, ...], sp.Rational] = {}
    for signs in product((1, -1), repeat=k - 1):
        coefficients = [0] * (max(numbers) + 1)
        for sign, number in zip((1, *signs), numbers, strict=True):
            coefficients[number] += sign
        common = math.gcd(*coefficients)
        if not common:
            continue
        leading = next(c for c in coefficients if c)
        common = common if leading > 0 else -common
        line = tuple(c // common for c in coefficients)
        weight = sp.Rational(math.prod(signs) * common**k, 2 ** (k - 1) * math.factorial(k))
        lines[line] = lines.get(line, 0) + weight
    return {line: weight for line, weight in lines.items() if weight != 0}
