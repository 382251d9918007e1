"""The exact continuous law of a method on a quadratic loss, or on the quadratic model of a loss."""

from typing import Any

import numpy as np
from scipy.linalg import expm, logm

from modeq.errors import InvalidProblem, UnsupportedOptimizer
from modeq.methods.base import GeneralLinearMethod
from modeq.numeric.colours import ColourFields
from modeq.numeric.curvature import leading_eigenpairs
from modeq.numeric.protocol import Problem, Vector, positive, time_grid
from modeq.numeric.symbolic_problems import WrittenOut
from modeq.numeric.trajectory import Trajectory


def exact_quadratic_flow(
    method: GeneralLinearMethod,
    problem: Problem,
    start: Any = None,
    *,
    h: float,
    time: float,
    eigenpairs: int | tuple[Any, Any] | None = None,
) -> Trajectory:
    """Return the exact continuous law of a method on a quadratic loss: the logarithm of its one-step map.

    With the affine one-step map X⁺ = M X in (states, 1), X(t) = exp((t/h) log M) X₀, which passes through
    every iterate. For gradient descent this is the principal flow h⁻¹ log(I − hH)(θ − θ*) of Rosca et al.
    2023 (arXiv 2302.01952). It exists for affine fields too, and for an `Epoch` on quadratic minibatches; a
    method with one field sees the mean of minibatches. Where log M is complex (an eigenvalue of M is negative)
    the real part is returned.

    Any other loss has this law on its quadratic model at the start, if `eigenpairs` are given: with δ = θ − θ₀, on
    L(θ₀) + g·δ + ½ δᵀH_kδ, H_k = Σ λ_i v_i v_iᵀ over the k leading eigenpairs of the Hessian H. Each v_i is a
    problem of one variable; across them the slope stays constant. What it leaves out is H − H_k, an error of order
    |λ_{k+1}|·|δ| in the slope, and how H changes along the way, an error of order |δ|²: it describes the first
    steps of a training, and one that has come near a minimum.

    Parameters
    ----------
    method : GeneralLinearMethod
        With numbers for all symbols. With `eigenpairs` it has one field, and weight decay or none.
    problem, start : a problem, and θ₀ in a form it takes
    h : positive number
        The learning rate.
    time : positive number
        The end, in units of h·n.
    eigenpairs : int k, or arrays (k,) and (d, k), optional
        How many leading eigenpairs of the Hessian at the start to take, or these themselves, as
        :func:`modeq.numeric.curvature.leading_eigenpairs` returns them. By default the loss must be quadratic.

    Returns
    -------
    Trajectory
        At the times 0, h, 2h, …, `time`, for an `Epoch` at its ends.

    Raises
    ------
    InvalidProblem
        If the loss is not quadratic and no eigenpairs are given, if these do not fit, or if M is singular, as for
        h·λ = 1 in gradient descent.
    UnsupportedOptimizer
        If eigenpairs are given for a method of several fields.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
    >>> exact_quadratic_flow(mq.GradientDescent(), problem, [1.0], h=0.5, time=1.0).y.ravel().round(12).tolist()
    [1.0, 0.5, 0.25]

    Where the gradient of cos x is −sin 1 and its derivative −cos 1, one step leads to 1 + h sin 1:

    >>> waves = mq.SymbolicProblem(sp.cos(x), [x])
    >>> model = exact_quadratic_flow(mq.GradientDescent(), waves, [1.0], h=0.1, time=0.1, eigenpairs=1)
    >>> bool(abs(model.y[-1, 0] - (1 + 0.1 * np.sin(1))) < 1e-12)
    True
    """
    method.require_numbers()
    h, time = positive(h, "h"), positive(time, "time")
    theta = problem.start(start)
    if eigenpairs is not None:
        return _on_the_model(method, problem, theta, h, time_grid(h, time), eigenpairs)
    if not isinstance(problem, WrittenOut) or not problem.is_quadratic:
        raise InvalidProblem(
            f"the exact flow exists on quadratic losses, and {problem!r} is not known as one: give eigenpairs, the "
            "number of directions in which to follow its quadratic model at the start"
        )
    colours = ColourFields(method, problem)
    zero, units = np.zeros(theta.size), np.eye(theta.size)
    slopes = [np.transpose([colours(colour, zero, (unit,)) for unit in units]) for colour in range(method.colour_count)]
    shifts = [colours(colour, zero) for colour in range(method.colour_count)]
    step = _step_matrix(method, slopes, shifts, h)
    u, weights = _matrices(method, "preconsistency", "start")
    at_start = np.array([colours(colour, theta) for colour in range(method.colour_count)])
    first = np.append((u * theta + h * weights @ at_start).ravel(), 1.0)
    times = time_grid(h * method.steps, time)
    states = _evolved(method, step, first[:, None], h, times / (h * method.steps))[:, :-1, 0]
    y = _readout(method) @ states.reshape(len(times), method.state_count, theta.size)
    return Trajectory(times, y, 0, 0, "evaluated", "exact flow")


def _on_the_model(
    method: GeneralLinearMethod, problem: Problem, theta: Vector, h: float, times: Vector, eigenpairs: Any
) -> Trajectory:
    """The law on the quadratic model at θ₀: that of each eigenvector, and of the rest, where the slope is constant."""
    if method.colour_count - len(method.decay) != 1:
        raise UnsupportedOptimizer(
            f"{method!r} has several fields, and eigenpairs are of one Hessian: give a method with one field"
        )
    values, vectors = _checked_pairs(problem, theta, eigenpairs)
    force = np.asarray(problem.field(theta), dtype=np.float64)
    if not np.all(np.isfinite(force)):
        raise InvalidProblem(f"the gradient of {problem!r} at the start is not finite: give another start")
    coordinates, forces, steps = vectors.T @ theta, vectors.T @ force, times / h
    y = np.zeros((len(times), theta.size))
    if len(values) < theta.size:
        y = _mode(method, 0.0, theta - vectors @ coordinates, force - vectors @ forces, h, steps)
    for value, vector, x, f in zip(values, vectors.T, coordinates, forces, strict=True):
        # In this direction the field is f − λ(x − x₀).
        y += _mode(method, float(value), np.array([x]), np.array([f + value * x]), h, steps) * vector
    name = f"exact flow of the quadratic model along {len(values)} directions"
    return Trajectory(times, y, 1, 0, "evaluated", name)


def _mode(method: GeneralLinearMethod, curvature: float, x: Vector, shift: Vector, h: float, steps: Vector) -> Vector:
    """The law, as an array times × m, of m variables with the field shift − λx: linear in (states, shift)."""
    own = [colour for colour in range(method.colour_count) if colour not in method.decay]
    rates = [curvature if colour in own else float(method.decay[colour]) for colour in range(method.colour_count)]
    step = _step_matrix(
        method,
        [np.array([[-rate]]) for rate in rates],
        [np.array([float(colour in own)]) for colour in range(method.colour_count)],
        h,
    )
    u, weights = _matrices(method, "preconsistency", "start")
    at_start = np.array([float(colour in own) * shift - rate * x for colour, rate in enumerate(rates)])
    first = np.vstack([u * x + h * weights @ at_start, shift])
    return _readout(method) @ _evolved(method, step, first, h, steps)[:, :-1]


def _checked_pairs(problem: Problem, theta: Vector, eigenpairs: Any) -> tuple[Vector, Vector]:
    """Eigenvalues (k,) and orthonormal eigenvectors (d, k)."""
    if not isinstance(eigenpairs, tuple | list):
        return leading_eigenpairs(problem, theta, eigenpairs)
    try:
        values, vectors = (np.array(given, dtype=np.float64) for given in eigenpairs)
    except (TypeError, ValueError) as error:
        raise InvalidProblem(
            f"eigenpairs are {eigenpairs!r}: give a number, or values (k,) and vectors (d, k)"
        ) from error
    if values.ndim != 1 or vectors.shape != (theta.size, values.size):
        raise InvalidProblem(
            f"eigenpairs have the shapes {values.shape} and {vectors.shape}: give (k,) and ({theta.size}, k)"
        )
    if not np.allclose(vectors.T @ vectors, np.eye(values.size), atol=1e-6):
        raise InvalidProblem("the eigenvectors in eigenpairs are not orthonormal: normalise them")
    return values, vectors


def _evolved(method: GeneralLinearMethod, step: Vector, first: Vector, h: float, steps: Vector) -> Vector:
    """Re exp(n log M) X₀ for the numbers n of applications, as an array n × states × columns."""
    values, vectors = np.linalg.eig(step)
    if np.min(abs(values)) < 1e-14:
        raise InvalidProblem(
            f"the one-step map of {method} at h = {h} is singular, it forgets a part of its state at once: it has no "
            "logarithm"
        )
    if np.linalg.cond(vectors) < 1e4:
        coefficients = np.linalg.solve(vectors, first.astype(complex))
        logarithms = np.log(values.astype(complex))
        return np.array([((vectors * np.exp(logarithms * n)) @ coefficients).real for n in steps])
    # A double root, or nearly one: its Jordan block has a logarithm, but no good basis of eigenvectors.
    states, generator = [], None
    for n in steps:
        whole = round(float(n))
        if abs(n - whole) < 1e-9:
            states.append(np.linalg.matrix_power(step, whole) @ first)
            continue
        generator = logm(step) if generator is None else generator
        states.append((expm(generator * n) @ first).real)
    return np.array(states)


def _matrices(method: GeneralLinearMethod, *names: str) -> list[Vector]:
    return [np.array(getattr(method, name).tolist(), dtype=np.float64) for name in names]


def _readout(method: GeneralLinearMethod) -> Vector:
    return _matrices(method, "readout")[0][0]


def _step_matrix(method: GeneralLinearMethod, slopes: list[Vector], shifts: list[Vector], h: float) -> Vector:
    """The matrix of one step on (states, 1) for affine fields f_c(θ) = slope_c θ + shift_c of d variables."""
    A, B, C, D = _matrices(method, "A", "B", "C", "D")
    d, queries = len(shifts[0]), method.query_count
    slope = np.zeros((queries * d, queries * d))
    for j, colour in enumerate(method.colours):
        slope[j * d : (j + 1) * d, j * d : (j + 1) * d] = slopes[colour]
    shift = np.concatenate([shifts[colour] for colour in method.colours])
    eye = np.eye(d)
    # y = C X + hD(slope·y + shift)
    solve = np.linalg.inv(np.eye(queries * d) - h * np.kron(D, eye) @ slope)
    y_X, y_1 = solve @ np.kron(C, eye), solve @ (h * np.kron(D, eye) @ shift)
    matrix = np.zeros((len(A) * d + 1, len(A) * d + 1))
    matrix[:-1, :-1] = np.kron(A, eye) + h * np.kron(B, eye) @ slope @ y_X
    matrix[:-1, -1] = h * np.kron(B, eye) @ (slope @ y_1 + shift)
    matrix[-1, -1] = 1
    return matrix
