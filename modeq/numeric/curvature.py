"""The curvature that a method sees: leading eigenvalues of the Hessian, and what h·λ means for its series."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from modeq.errors import InvalidProblem, ModeqError, OutsideSeriesLimit
from modeq.methods.base import GeneralLinearMethod
from modeq.numeric.protocol import Problem, Vector, whole
from modeq.symbolic.phase_space import phase_space_form
from modeq.symbolic.temporal import time_derivative_form

# Up to here the Hessian is written down, one product for each column; beyond, Lanczos needs fewer products.
_DENSE = 32


def leading_eigenpairs(problem: Problem, theta: Any, count: int, part: int | None = None) -> tuple[Vector, Vector]:
    """Return the eigenvalues of largest |λ| of the Hessian at θ, and their eigenvectors.

    By Lanczos iterations (SciPy's ``eigsh``) from a fixed start on products of the Hessian with vectors; small
    Hessians, and those of which most is wanted, are written down and diagonalised.

    Parameters
    ----------
    problem : Problem
        Of a loss: its derivative must be symmetric, which two products test.
    theta : array (d,)
    count : int from 1 to d
    part : int, optional
        Take the loss of one minibatch.

    Returns
    -------
    values : array (count,)
        By decreasing |λ|.
    vectors : array (d, count)
        Orthonormal.

    Raises
    ------
    InvalidProblem
        If the derivative is not symmetric, as that of a game, or not finite; if Lanczos does not converge; or if
        `count` is out of range.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x, y = sp.symbols("x y")
    >>> values, vectors = leading_eigenpairs(mq.SymbolicProblem(x**2 - 3 * y**2, [x, y]), [0.0, 0.0], count=2)
    >>> values.round(12).tolist(), abs(vectors).round(12).tolist()
    ([-6.0, 2.0], [[0.0, 1.0], [1.0, 0.0]])
    """
    count, size = whole(count, "count", least=1), problem.size
    if count > size:
        raise InvalidProblem(f"count is {count}: the Hessian of {problem!r} has {size} eigenvalues, give at most these")
    product = _hessian_product(problem, theta, part)
    start = _symmetric_start(problem, product)
    if start is None:
        return np.zeros(count), np.eye(size, count)
    if size <= _DENSE or 3 * count > size:
        hessian = np.transpose([product(unit) for unit in np.eye(size)])
        values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    else:
        operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
        try:
            # Below the rounding of the products nothing converges; tol = 0 is that of float64.
            tolerance = problem.epsilon if problem.epsilon > 1e-12 else 0
            values, vectors = eigsh(operator, count, which="LM", v0=start, tol=tolerance)
        except ArpackError as error:
            raise InvalidProblem(
                f"{count} eigenvalues of the Hessian of {problem!r} cannot be told apart: {error}; take another count, "
                "or a network in float64"
            ) from error
    leading = np.argsort(-abs(values), kind="stable")[:count]
    return values[leading], vectors[:, leading]


def _hessian_product(problem: Problem, theta: Any, part: int | None) -> Callable[[Vector], Vector]:
    """The product −f'(θ)v as a function of v, in float64."""
    theta = theta.detach().double().cpu().numpy() if hasattr(theta, "detach") else theta
    theta = np.asarray(theta, dtype=np.float64)
    seen = {} if part is None else {"part": part}
    return lambda vector: -np.asarray(problem.derivative(theta, (np.ravel(vector),), **seen), dtype=np.float64)


def _symmetric_start(problem: Problem, product: Callable[[Vector], Vector]) -> Vector | None:
    """A vector for Lanczos to begin with, after a test of the symmetry; None if the Hessian is 0."""
    u, v = np.random.default_rng(0).standard_normal((2, problem.size))
    image_u, image_v = product(u), product(v)
    if not np.all(np.isfinite([image_u, image_v])):
        raise InvalidProblem(f"the Hessian of {problem!r} is not finite here: give other parameters")
    scale = np.linalg.norm(u) * np.linalg.norm(image_v) + np.linalg.norm(v) * np.linalg.norm(image_u)
    if abs(u @ image_v - v @ image_u) > problem.epsilon**0.5 * scale:
        raise InvalidProblem(
            f"the derivative of the field of {problem!r} is not symmetric, so it is no Hessian: give the problem of a "
            "loss, not a game or another vector field"
        )
    return v if scale > 0 else None


def largest_curvature(
    problem: Problem, theta: Vector, iterations: int = 60, tolerance: float = 1e-6, part: int | None = None
) -> float:
    """Return the largest |λ| of the Hessian at θ, or of that of one part, by Arnoldi iteration from a fixed start.

    It ends once the square of the residual, relative to λ, is below the tolerance, or after so many products: of
    a cluster of eigenvalues closer than the residual it may return one within. Fields that are no gradients, as
    those of games, are taken too.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x, y = sp.symbols("x y")
    >>> round(largest_curvature(mq.SymbolicProblem(x**2 + 3 * y**2, [x, y]), [0.0, 0.0]), 12)
    6.0
    """
    product = _hessian_product(problem, theta, part)
    vector = np.random.default_rng(0).standard_normal(problem.size)
    basis = [vector / np.linalg.norm(vector)]
    projected = np.zeros((iterations + 1, iterations))
    value = 0.0
    for k in range(min(iterations, problem.size)):
        image = product(basis[k])
        if not np.all(np.isfinite(image)):
            return float("nan")
        norm = np.linalg.norm(image)
        for _ in range(2):  # once more against what rounding left
            for j, known in enumerate(basis):
                overlap = known @ image
                projected[j, k] += overlap
                image = image - overlap * known
        projected[k + 1, k] = rest = np.linalg.norm(image)
        values, vectors = np.linalg.eig(projected[: k + 1, : k + 1])
        largest = int(np.argmax(abs(values)))
        value = float(abs(values[largest]))
        # The error of a Hessian's eigenvalue is the square of the residual over the gap to the next one.
        residual = rest * abs(vectors[-1, largest])
        if rest <= 10 * problem.epsilon * norm or residual <= tolerance**0.5 * value:
            break
        basis.append(image / rest)
    return value


def decay_rate(method: GeneralLinearMethod) -> float:
    """Return λ of the weight decay, 0 without.

    Examples
    --------
    >>> import modeq as mq
    >>> decay_rate(mq.GradientDescent()), decay_rate(mq.GradientDescent().with_weight_decay(0.5))
    (0.0, 0.5)
    """
    return float(sum(method.decay.values()))


def curvature_seen(method: GeneralLinearMethod, problem: Problem, theta: Vector, epoch: bool) -> float:
    """Return λ_max at θ with the rate of weight decay: of the loss, or in an epoch the largest of its minibatches.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem([5 * x**2, -3 * x**2], [x])
    >>> [round(curvature_seen(mq.GradientDescent(), problem, [0.0], epoch), 12) for epoch in (False, True)]
    [2.0, 10.0]
    """
    parts = range(problem.parts) if epoch else [None]
    # Weight decay adds to the curvature if it is inside the gradient; outside of it, this errs on the safe side.
    return max(largest_curvature(problem, theta, part=part) for part in parts) + decay_rate(method)


def forms_beyond_the_limit(method: GeneralLinearMethod) -> str:
    """Return the forms of a method that mean something beyond its series limit, as a phrase.

    Examples
    --------
    >>> import modeq as mq
    >>> forms_beyond_the_limit(mq.HeavyBall(momentum=0.9))
    'phase_space_form, time_derivative_form of order 2'
    >>> forms_beyond_the_limit(mq.Extragradient())
    'order=1 (the gradient flow)'
    """
    offered = []
    # To first order the time-derivative form is the gradient flow.
    for derive, order, name in (
        (phase_space_form, 1, "phase_space_form"),
        (time_derivative_form, 2, "time_derivative_form of order 2"),
    ):
        with suppress(ModeqError):
            derive(method, order)
            offered.append(name)
    return ", ".join(offered) or "order=1 (the gradient flow)"


def require_series_limit(
    method: GeneralLinearMethod,
    problem: Problem,
    theta: Vector,
    h: float,
    epoch: bool = False,
    *,
    curvature: float | None = None,
    step: str = "h",
    where: str = "at the start",
    others: Callable[[], str] | None = None,
) -> None:
    """Raise `OutsideSeriesLimit` if h·λ_max at θ is beyond the method's series limit.

    Parameters
    ----------
    method, problem, theta, h, epoch : as in `curvature_seen`, and the step
    curvature : number, optional
        λ_max, if it is known.
    step, where : str
        What h is called in the message, and where λ_max was measured.
    others : callable, optional
        Returns what the message offers instead; called only if it is needed.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(x**2, [x])
    >>> require_series_limit(mq.GradientDescent(), problem, [1.0], h=0.4)
    >>> require_series_limit(mq.GradientDescent(), problem, [1.0], h=0.6)
    Traceback (most recent call last):
        ...
    modeq.errors.OutsideSeriesLimit: h·λ_max = 1.2 at the start is beyond the series limit 1 of GradientDescent(), ...
    """
    limit = float(method.series_limit())
    curvature = curvature_seen(method, problem, theta, epoch) if curvature is None else curvature
    if h * curvature >= limit:
        offered = others() if others else "order=1" if epoch else forms_beyond_the_limit(method)
        raise OutsideSeriesLimit(
            f"{step}·λ_max = {h * curvature:.4g} {where} is beyond the series limit {limit:.4g} of {method}, where the "
            f"modified vector field means nothing; use {offered} or {step} < {limit / curvature:.3g}"
        )
