"""States of several vectors laid end to end, in the kind of array in which a problem computes."""

from typing import Any

from modeq.numeric.arrays import namespace
from modeq.numeric.protocol import Problem, Vector


def native_state(problem: Problem, state: Vector) -> Any:
    """Return vectors of d numbers laid end to end as the problem takes them: a tensor on its device, say.

    Examples
    --------
    >>> import modeq as mq, numpy as np, sympy as sp
    >>> x = sp.Symbol("x")
    >>> native_state(mq.SymbolicProblem(x**2, [x]), np.array([1.0, 2.0])).tolist()
    [1.0, 2.0]
    """
    rows = [problem.native(row) for row in state.reshape(-1, problem.size)]
    return namespace(rows[0]).concatenate(rows)
