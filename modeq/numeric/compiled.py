"""Functions of numbers compiled from sympy expressions."""

from collections.abc import Callable, Sequence
from typing import Any

import sympy as sp

from modeq.errors import InvalidProblem


def compiled(arguments: Sequence[Any], expressions: Sequence[sp.Expr]) -> Callable[..., Any]:
    """Return the numpy function of these arguments; what several expressions share is computed once.

    Parameters
    ----------
    arguments : symbols, or lists of them
    expressions : sympy expressions

    Raises
    ------
    InvalidProblem
        If an expression has no values, as the second derivative of |x|.

    Examples
    --------
    >>> x = sp.Symbol("x", real=True)
    >>> [float(value) for value in compiled([x], [x**2, sp.diff(abs(x), x)])(3.0)]
    [9.0, 1.0]
    >>> compiled([x], [sp.diff(abs(x), x, 2)])
    Traceback (most recent call last):
    ...
    modeq.errors.InvalidProblem: the problem needs values of DiracDelta(x), which has none: ...
    """
    without = sorted({a for e in expressions for a in e.atoms(sp.DiracDelta, sp.Derivative, sp.Subs)}, key=str)
    if without:
        raise InvalidProblem(
            f"the problem needs values of {without[0]}, which has none: declare its variables as real, "
            "sp.Symbol('x', real=True), and let it have the derivatives that the equation needs, without kinks"
        )
    return sp.lambdify(arguments, list(expressions), cse=True)
