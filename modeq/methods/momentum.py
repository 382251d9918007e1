"""Heavy ball and Nesterov, in the variables and with the first step of torch.optim.SGD."""

from typing import Any

import sympy as sp

from modeq.errors import InvalidMethod
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.exact import exact


def HeavyBall(momentum: Any, dampening: Any = 0) -> GeneralLinearMethod:
    """Return heavy-ball momentum as torch.optim.SGD defines it.

    With g = ∇L(θ), momentum β and dampening α:

        v⁺ = β v + (1 − α) g,    θ⁺ = θ − h v⁺,

    and in the first step, whatever α is, v⁺ = g. That first step equals an ordinary one from the
    buffer v = (α/β) g. With β = 0 torch ignores dampening, and so does this.

    Parameters
    ----------
    momentum : number in [0, 1), or sympy expression
    dampening : number in [0, 1), or sympy expression

    Raises
    ------
    InvalidMethod
        If a number is out of its range.

    Notes
    -----
    This is not the averaged momentum v⁺ = β v + (1 − β) g, which is the case α = β but for the first
    step. States: θ and −h v.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> beta, z = sp.symbols("beta z")
    >>> mq.HeavyBall(momentum=beta).transfer_function(z)
    z/((-beta + z)*(z - 1))
    """
    beta = _fraction(momentum, "momentum")
    alpha = _fraction(dampening, "dampening") if beta != 0 else sp.Integer(0)
    arguments = f"momentum={beta}" + (f", dampening={alpha}" if alpha != 0 else "")
    return GeneralLinearMethod(
        A=[[1, beta], [0, beta]],
        B=[[1 - alpha], [1 - alpha]],
        C=[[1, 0]],
        D=[[0]],
        start=[[0], [alpha / beta if alpha != 0 else 0]],
        name=f"HeavyBall({arguments})",
        sgd={"momentum": beta, "dampening": alpha, "nesterov": False, "weight_decay": 0},
    )


def Nesterov(momentum: Any) -> GeneralLinearMethod:
    """Return Nesterov momentum as torch.optim.SGD stores it: θ is the look-ahead point.

    With g = ∇L(θ) and momentum β:

        v⁺ = β v + g,    θ⁺ = θ − h (g + β v⁺).

    Parameters
    ----------
    momentum : number in [0, 1), or sympy expression

    Raises
    ------
    InvalidMethod
        If a number is out of its range.

    Notes
    -----
    The classical variables, in which the gradient is not taken at the parameters that a user reads,
    give other modified equations from order 3 on. States: θ and −h v.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> mq.Nesterov(momentum=sp.Symbol("beta")).stability_limit()
    2*(beta + 1)/(2*beta + 1)
    """
    beta = _fraction(momentum, "momentum")
    return GeneralLinearMethod(
        A=[[1, beta**2], [0, beta]],
        B=[[1 + beta], [1]],
        C=[[1, 0]],
        D=[[0]],
        name=f"Nesterov(momentum={beta})",
        sgd={"momentum": beta, "dampening": 0, "nesterov": beta != 0, "weight_decay": 0},
    )


def _fraction(value: Any, argument: str) -> sp.Expr:
    expression = exact(value, argument)
    if expression.is_number and not 0 <= expression < 1:
        raise InvalidMethod(f"{argument} is {value!r}: give a number in [0, 1), 0.9 for instance")
    return expression
