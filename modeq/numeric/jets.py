"""Derivatives of the field along a path θ(n) = Σ u_k n^k/k!: written out, or from gradients alone."""

from collections.abc import Callable

import numpy as np
import sympy as sp

from modeq.errors import InvalidProblem
from modeq.numeric.fields import FieldName
from modeq.numeric.protocol import Problem, Vector
from modeq.numeric.symbolic_problems import WrittenOut
from modeq.symbolic.explicit_fields import ExplicitDifferentials
from modeq.symbolic.phase_space_elimination import derivatives_along

PathDerivatives = Callable[[Vector], Vector]


def path_derivatives(problem: Problem, highest: int, field: FieldName = "auto") -> PathDerivatives:
    """Return a function from (u₀, u₁, …) to (f, Df, …, D^highest f) at n = 0.

    Parameters
    ----------
    problem : Problem
    highest : int
        The highest derivative; of the u_k those with k ≤ highest count, missing ones are 0.
    field : "lambdify" writes them out with sympy, "gradients" takes central differences of gradients

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(x**3 / 3, [x])
    >>> path_derivatives(problem, 2)(np.array([[1.0], [2.0], [3.0]])).ravel().tolist()
    [-1.0, -4.0, -14.0]
    >>> path_derivatives(problem, 2, "gradients")(np.array([[1.0], [2.0], [3.0]])).ravel().round(8).tolist()
    [-1.0, -4.0, -14.0]
    """
    if field == "autodiff":
        raise InvalidProblem("field is 'autodiff': the phase-space form takes 'lambdify' or 'gradients'")
    if field == "lambdify" or (field == "auto" and isinstance(problem, WrittenOut)):
        return _written_out(problem, highest)
    return _from_gradients(problem, highest)


def _written_out(problem: Problem, highest: int) -> PathDerivatives:
    if not isinstance(problem, WrittenOut):
        raise InvalidProblem(
            f"field='lambdify' needs a SymbolicProblem or VectorField, not {problem!r}: use 'gradients'"
        )
    size = problem.size
    path = [tuple(problem.variables)]
    path += [tuple(sp.Dummy(f"u{k}_{i}") for i in range(size)) for k in range(1, highest + 1)]
    differentials = ExplicitDifferentials([problem.field_expressions], problem.variables)
    levels = derivatives_along(differentials, 0, path, highest)
    function = sp.lambdify([list(row) for row in path], [entry for level in levels for entry in level], cse=True)

    def evaluate(u: Vector) -> Vector:
        padded = np.zeros((highest + 1, size))
        padded[: min(len(u), highest + 1)] = u[: highest + 1]
        return np.array(function(*padded), dtype=np.float64).reshape(highest + 1, size)

    return evaluate


def _from_gradients(problem: Problem, highest: int) -> PathDerivatives:
    """Central differences at 0, ±δ, …; the stencil is two orders sharper than it must be.

    δ is a quarter of a step: the path is a polynomial that moves little in one step, so that truncation
    only sees the nonlinear part of f, while a small δ would amplify rounding like δ^{−highest}.
    """
    reach = (highest + 3) // 2
    offsets = 0.25 * np.arange(-reach, reach + 1)
    factorials = np.cumprod([1.0, *range(1, 2 * reach + 1)])
    powers = offsets[:, None] ** np.arange(2 * reach + 1) / factorials
    weights = np.linalg.inv(powers)[: highest + 1]

    def evaluate(u: Vector) -> Vector:
        values = np.array([problem.field(row[: len(u)] @ u) for row in powers])
        return weights @ values

    return evaluate
