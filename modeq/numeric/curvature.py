"""The curvature that a method sees: the largest eigenvalue of the Hessian, and what h·λ means for its series."""

import numpy as np

from modeq.errors import OutsideSeriesLimit
from modeq.methods.base import GeneralLinearMethod
from modeq.numeric.protocol import Problem, Vector


def largest_curvature(
    problem: Problem, theta: Vector, iterations: int = 60, tolerance: float = 1e-6, part: int | None = None
) -> float:
    """Return the largest |λ| of the Hessian at θ, or of that of one part, by power iteration from a fixed start.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x, y = sp.symbols("x y")
    >>> round(largest_curvature(mq.SymbolicProblem(x**2 + 3 * y**2, [x, y]), [0.0, 0.0]), 4)
    6.0
    """
    theta = np.asarray(theta, dtype=np.float64)
    vector = np.random.default_rng(0).standard_normal(problem.size)
    value = 0.0
    for _ in range(iterations):
        norm = np.linalg.norm(vector)
        if norm == 0:
            return 0.0
        vector /= norm
        image = -(problem.derivative(theta, (vector,)) if part is None else problem.derivative(theta, (vector,), part))
        previous, value = value, float(np.linalg.norm(image))
        if abs(value - previous) <= tolerance * value:
            break
        vector = image
    return value


def decay_rate(method: GeneralLinearMethod) -> float:
    """Return λ of the weight decay, 0 without."""
    return float(sum(method.decay.values()))


def curvature_seen(method: GeneralLinearMethod, problem: Problem, theta: Vector, epoch: bool) -> float:
    """Return λ_max at θ with the rate of weight decay: of the loss, or in an epoch the largest of its minibatches."""
    parts = range(problem.parts) if epoch else [None]
    # Weight decay adds to the curvature if it is inside the gradient; outside of it, this errs on the safe side.
    return max(largest_curvature(problem, theta, part=part) for part in parts) + decay_rate(method)


def require_series_limit(
    method: GeneralLinearMethod, problem: Problem, theta: Vector, h: float, epoch: bool = False
) -> None:
    """Raise `OutsideSeriesLimit` if h·λ_max at θ is beyond the method's series limit."""
    limit = float(method.series_limit())
    curvature = curvature_seen(method, problem, theta, epoch)
    if h * curvature >= limit:
        others = "order=1" if epoch else "phase_space_form, order=1,"
        raise OutsideSeriesLimit(
            f"h·λ_max = {h * curvature:.4g} at the start is beyond the series limit {limit:.4g} of {method}, where the "
            f"modified vector field means nothing; use {others} or h < {limit / curvature:.3g}"
        )
