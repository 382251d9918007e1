"""The exact continuous law of a method on a quadratic loss."""

from typing import Any

import numpy as np
from scipy.linalg import expm, logm

from modeq.errors import InvalidProblem
from modeq.methods.base import GeneralLinearMethod
from modeq.numeric.colours import ColourFields
from modeq.numeric.protocol import Problem, Vector, positive, time_grid
from modeq.numeric.symbolic_problems import WrittenOut
from modeq.numeric.trajectory import Trajectory


def exact_quadratic_flow(
    method: GeneralLinearMethod, problem: Problem, start: Any = None, *, h: float, time: float
) -> Trajectory:
    """Return the exact continuous law of a method on a quadratic loss: the logarithm of its one-step map.

    With the affine one-step map X⁺ = M X in (states, 1), X(t) = exp((t/h) log M) X₀, which passes through
    every iterate. For gradient descent this is the principal flow h⁻¹ log(I − hH)(θ − θ*) of Rosca et al.
    2023 (arXiv 2302.01952). It exists for affine fields too, and for an `Epoch` on quadratic minibatches; a
    method with one field sees the mean of minibatches. Where log M is complex (an eigenvalue of M is negative)
    the real part is returned.

    Raises
    ------
    InvalidProblem
        If the loss is no quadratic, or M is singular, as for h·λ = 1 in gradient descent.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
    >>> exact_quadratic_flow(mq.GradientDescent(), problem, [1.0], h=0.5, time=1.0).y.ravel().round(12).tolist()
    [1.0, 0.5, 0.25]
    """
    method.require_numbers()
    h, time = positive(h, "h"), positive(time, "time")
    theta = problem.start(start)
    if not isinstance(problem, WrittenOut) or not problem.is_quadratic:
        raise InvalidProblem(f"the exact flow exists on quadratic losses; {problem!r} is none")
    step, first = _affine_step(method, problem, theta, h)
    values, vectors = np.linalg.eig(step)
    if np.min(abs(values)) < 1e-14:
        raise InvalidProblem(
            f"the one-step map of {method} at h = {h} is singular, it forgets a part of its state at once: it has no "
            "logarithm"
        )
    h = h * method.steps  # from here on the time of one application
    times = time_grid(h, time)
    if np.linalg.cond(vectors) < 1e8:
        coefficients = np.linalg.solve(vectors, first.astype(complex))
        states = [(vectors * np.exp(np.log(values.astype(complex)) * t / h)) @ coefficients for t in times]
    else:  # a double root: its Jordan block has a logarithm, but no basis of eigenvectors
        generator = logm(step)
        states = [expm(generator * (t / h)) @ first for t in times]
    readout = np.array(method.readout.tolist(), dtype=np.float64)[0]
    y = np.array([readout @ state[:-1].reshape(method.state_count, theta.size) for state in states]).real
    return Trajectory(times, y, 0, 0, "evaluated", "exact flow")


def _affine_step(method: GeneralLinearMethod, problem: WrittenOut, theta: Vector, h: float) -> tuple[Vector, Vector]:
    """The matrix of one step on (states, 1), and the first state."""
    d = theta.size
    fields = ColourFields(method, problem)
    zero = np.zeros(d)
    A, B, C, D, start, u = (
        np.array(m.tolist(), dtype=np.float64)
        for m in (method.A, method.B, method.C, method.D, method.start, method.preconsistency)
    )
    queries = method.query_count
    slope = np.zeros((queries * d, queries * d))
    shift = np.zeros(queries * d)
    for j, colour in enumerate(method.colours):
        block = slice(j * d, (j + 1) * d)
        slope[block, block] = np.transpose([fields(colour, zero, (unit,)) for unit in np.eye(d)])
        shift[block] = fields(colour, zero)
    eye = np.eye(d)
    # y = C X + hD(slope·y + shift)
    solve = np.linalg.inv(np.eye(queries * d) - h * np.kron(D, eye) @ slope)
    y_X, y_1 = solve @ np.kron(C, eye), solve @ (h * np.kron(D, eye) @ shift)
    matrix = np.zeros((len(A) * d + 1, len(A) * d + 1))
    matrix[:-1, :-1] = np.kron(A, eye) + h * np.kron(B, eye) @ slope @ y_X
    matrix[:-1, -1] = h * np.kron(B, eye) @ (slope @ y_1 + shift)
    matrix[-1, -1] = 1
    at_start = np.array([fields(colour, theta) for colour in range(method.colour_count)])
    first = np.append((u * theta + h * start @ at_start).ravel(), 1.0)
    return matrix, first
