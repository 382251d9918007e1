"""Runge–Kutta methods, explicit and implicit: one state, one query for each stage."""

from typing import Any

import sympy as sp

from modeq.errors import InvalidMethod
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.exact import exact_matrix, exact_row


def RungeKutta(A: Any, b: Any, name: str | None = None) -> GeneralLinearMethod:
    """Return the Runge–Kutta method with tableau A, b.

        y_i = θ + h Σ_j a_ij f(y_j),    θ⁺ = θ + h Σ_i b_i f(y_i).

    Parameters
    ----------
    A : square matrix, stages × stages
        Implicit if it has no order of its rows in which it is strictly lower triangular.
    b : sequence of length stages
    name : str, optional
        How the method prints.

    Returns
    -------
    GeneralLinearMethod
        With the state θ and a query for each stage.

    Raises
    ------
    InvalidMethod
        If the lengths disagree, or Σ b = 0.

    Notes
    -----
    Source: Hairer, Nørsett, Wanner, *Solving Ordinary Differential Equations I*, II.1.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> midpoint = mq.RungeKutta([[0, 0], [sp.Rational(1, 2), 0]], [0, 1])
    >>> mq.modified_equation(midpoint, order=3)[[[[]]]]
    -1/6
    """
    row = exact_row(b, "b")
    stages = len(row)
    tableau = exact_matrix(A, "A", (stages, stages))
    if stages == 0:
        raise InvalidMethod("b is empty: give the weight of at least one stage")
    text = name or f"RungeKutta(A={tableau.tolist()}, b={row})"
    return GeneralLinearMethod(A=[[1]], B=[row], C=[[1]] * stages, D=tableau, name=text)


def Extragradient() -> GeneralLinearMethod:
    """Return the extragradient method, θ⁺ = θ + h f(θ + h f(θ)).

    Returns
    -------
    GeneralLinearMethod
        With the state θ and two queries.

    Notes
    -----
    Source: Korpelevich 1976.

    Examples
    --------
    >>> import modeq as mq
    >>> mq.modified_equation(mq.Extragradient(), order=2)[[[]]]
    1/2
    """
    return RungeKutta([[0, 0], [1, 0]], [0, 1], name="Extragradient()")


def ImplicitEuler() -> GeneralLinearMethod:
    """Return implicit Euler, θ⁺ = θ + h f(θ⁺): the proximal point method for f = −∇L.

    Returns
    -------
    GeneralLinearMethod
        With the state θ.

    Notes
    -----
    Source: Hairer, Lubich, Wanner, *Geometric Numerical Integration*, I.1; Rockafellar 1976 for the proximal point.

    Examples
    --------
    >>> import modeq as mq
    >>> mq.ImplicitEuler().stability_limit()
    oo
    >>> mq.modified_equation(mq.ImplicitEuler(), order=2)[[[]]]
    1/2
    """
    return RungeKutta([[1]], [1], name="ImplicitEuler()")


def ExplicitMidpoint() -> GeneralLinearMethod:
    """Return the explicit midpoint rule, θ⁺ = θ + h f(θ + (h/2) f(θ)).

    Examples
    --------
    >>> import modeq as mq
    >>> mq.modified_equation(ExplicitMidpoint(), order=2)[[[]]]
    0
    """
    return RungeKutta([[0, 0], [sp.Rational(1, 2), 0]], [0, 1], name="ExplicitMidpoint()")


def RK4() -> GeneralLinearMethod:
    """Return the classical Runge–Kutta method of order 4.

    Examples
    --------
    >>> import modeq as mq
    >>> [mq.modified_equation(RK4(), order=4)[tree] for tree in mq.trees(4)]
    [0, 0, 0, 0]
    """
    half, sixth, third = sp.Rational(1, 2), sp.Rational(1, 6), sp.Rational(1, 3)
    A = [[0, 0, 0, 0], [half, 0, 0, 0], [0, half, 0, 0], [0, 0, 1, 0]]
    return RungeKutta(A, [sixth, third, third, sixth], name="RK4()")
