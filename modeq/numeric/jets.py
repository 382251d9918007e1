"""Derivatives of the field along a path θ(n) = Σ u_k n^k/k!: written out, nested, or from gradients alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp
import torch

from modeq.errors import InvalidProblem
from modeq.numeric.arrays import combination, namespace
from modeq.numeric.compiled import compiled
from modeq.numeric.fields import FieldName, require_field_name
from modeq.numeric.protocol import Problem
from modeq.numeric.symbolic_problems import WrittenOut
from modeq.symbolic.explicit_fields import ExplicitDifferentials
from modeq.symbolic.phase_space_elimination import derivatives_along, path_partitions

PathDerivatives = Callable[[Any], Any]


def path_derivatives(problem: Problem, highest: int, field: FieldName = "auto") -> PathDerivatives:
    """Return a function from (u₀, u₁, …) to (f, Df, …, D^highest f) at n = 0.

    Parameters
    ----------
    problem : Problem
    highest : int
        The highest derivative; of the u_k those with k ≤ highest count, missing ones are 0.
    field : "auto", "lambdify", "autodiff" or "gradients"
        "lambdify" writes them out with sympy, "autodiff" takes nested derivatives of the problem's field, and
        "gradients" central differences of gradients: five of them for D and D², seven for D³ and D⁴. "auto":
        "lambdify" if the problem is written out, else "gradients".

    Returns
    -------
    A function from an array or tensor of shape (k, d), or k vectors, to one of shape (highest + 1, d).

    Raises
    ------
    InvalidProblem

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(x**3 / 3, [x])
    >>> path = np.array([[1.0], [2.0], [3.0]])
    >>> [path_derivatives(problem, 2, field)(path).ravel().tolist() for field in ("lambdify", "autodiff")]
    [[-1.0, -4.0, -14.0], [-1.0, -4.0, -14.0]]
    >>> path_derivatives(problem, 2, "gradients")(path).ravel().round(8).tolist()
    [-1.0, -4.0, -14.0]
    """
    require_field_name(field)
    if field == "auto":
        field = "lambdify" if isinstance(problem, WrittenOut) else "gradients"
    if field == "lambdify":
        return _written_out(problem, highest)
    if field == "autodiff":
        return _nested(problem, highest)
    return _from_gradients(problem, highest)


def _written_out(problem: Problem, highest: int) -> PathDerivatives:
    if not isinstance(problem, WrittenOut):
        raise InvalidProblem(
            f"field='lambdify' needs a SymbolicProblem or VectorField, not {problem!r}: use 'gradients' or 'autodiff'"
        )
    size = problem.size
    path = [tuple(problem.variables)]
    path += [tuple(sp.Dummy(f"u{k}_{i}") for i in range(size)) for k in range(1, highest + 1)]
    differentials = ExplicitDifferentials([problem.field_expressions], problem.variables)
    levels = derivatives_along(differentials, 0, path, highest)
    function = compiled([list(row) for row in path], [entry for level in levels for entry in level])

    def evaluate(u: Any) -> Any:
        padded = np.zeros((highest + 1, size))
        for k, row in enumerate(u[: highest + 1]):
            padded[k] = row.detach().cpu() if isinstance(row, torch.Tensor) else row
        levels = np.array(function(*padded), dtype=np.float64).reshape(highest + 1, size)
        given = u[0]
        return torch.as_tensor(levels).to(given) if isinstance(given, torch.Tensor) else levels

    return evaluate


def _nested(problem: Problem, highest: int) -> PathDerivatives:
    """Faà di Bruno's formula with derivatives of the problem's field; those in a direction that is 0 are left out."""
    levels = [path_partitions(k) for k in range(1, highest + 1)]

    def evaluate(u: Any) -> Any:
        f = problem.field(u[0])
        found = [f]
        for partitions in levels:
            terms = [(factor, parts) for factor, parts in partitions if max(parts) < len(u)]
            values = [problem.derivative(u[0], [u[part] for part in parts]) for _, parts in terms]
            zero = namespace(f).zeros_like(f)
            found.append(combination([*(factor for factor, _ in terms), 0.0], [*values, zero]))
        return namespace(f).stack(found)

    return evaluate


def _from_gradients(problem: Problem, highest: int) -> PathDerivatives:
    """Central differences at 0, ±δ, …; the stencil is two orders sharper than it must be.

    δ is a tenth of a step: truncation only sees the nonlinear part of f along a path that moves little in one step,
    while a small δ would amplify rounding like δ^{−highest}. In float32 rounding is the larger of the two errors, and
    δ a whole step.
    """
    reach = (highest + 3) // 2 if highest else 0
    size = 0.1 if problem.epsilon < 1e-12 else 1.0
    exponents = np.arange(2 * reach + 1)
    factorials = np.cumprod([1.0, *exponents[1:]])
    steps = np.arange(-reach, reach + 1)
    weights = np.linalg.inv(steps[:, None] ** exponents / factorials)[: highest + 1]
    weights /= size ** exponents[: highest + 1, None]
    powers = (size * steps)[:, None] ** exponents / factorials

    def evaluate(u: Any) -> Any:
        values = [problem.field(combination(row[: len(u)], u[: len(row)])) for row in powers]
        return namespace(values[0]).stack([combination(row, values) for row in weights])

    return evaluate
