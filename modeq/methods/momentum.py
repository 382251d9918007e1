"""Methods with momentum; heavy ball and Nesterov with the variables and the first step of torch.optim.SGD."""

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

    Returns
    -------
    GeneralLinearMethod
        With the states θ and −h v.

    Raises
    ------
    InvalidMethod
        If a number is out of its range.

    Notes
    -----
    This is not the averaged momentum v⁺ = β v + (1 − β) g, which is the case α = β but for the first
    step. Source: Polyak 1964, and the documentation of torch.optim.SGD.

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

    Returns
    -------
    GeneralLinearMethod
        With the states θ and −h v.

    Raises
    ------
    InvalidMethod
        If a number is out of its range.

    Notes
    -----
    The classical variables, in which the gradient is not taken at the parameters that a user reads,
    give other modified equations from order 3 on. Source: Nesterov 1983, in the variables of Sutskever,
    Martens, Dahl, Hinton 2013, and the documentation of torch.optim.SGD.

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
        example = "" if argument == "dampening" else ", 0.9 for instance"
        raise InvalidMethod(f"{argument} is {value!r}: give a number in [0, 1){example}")
    return expression


def ClassicalNesterov(momentum: Any) -> GeneralLinearMethod:
    """Return Nesterov momentum in its classical variables: the gradient is taken ahead of the parameters.

        y = θ + β (θ − θ⁻),    θ⁺ = y − h ∇L(y).

    Parameters
    ----------
    momentum : number in [0, 1), or sympy expression

    Returns
    -------
    GeneralLinearMethod
        With the states θ and θ − θ⁻.

    Raises
    ------
    InvalidMethod
        If a number is out of its range.

    Notes
    -----
    Its modified equation differs from that of :func:`Nesterov`, whose parameters are the points y, from
    order 3 on. Source: Nesterov 1983.

    Examples
    --------
    >>> import modeq as mq
    >>> classical, stored = (mq.modified_equation(m(0.5), 3) for m in (mq.ClassicalNesterov, mq.Nesterov))
    >>> [classical[tree] == stored[tree] for tree in stored]
    [True, True, True, False]
    """
    beta = _fraction(momentum, "momentum")
    return GeneralLinearMethod(
        A=[[1, beta], [0, beta]],
        B=[[1], [1]],
        C=[[1, beta]],
        D=[[0]],
        name=f"ClassicalNesterov(momentum={beta})",
        step_powers=(0, 0),  # θ − θ⁻ is a difference of parameters
    )


def QuasiHyperbolic(momentum: Any, nu: Any) -> GeneralLinearMethod:
    """Return quasi-hyperbolic momentum, an average of gradient descent and averaged momentum.

        v⁺ = β v + (1 − β) g,    θ⁺ = θ − h [(1 − ν) g + ν v⁺].

    Parameters
    ----------
    momentum : number in [0, 1), or sympy expression
    nu : number or sympy expression
        0 is gradient descent, 1 averaged momentum.

    Returns
    -------
    GeneralLinearMethod
        With the states θ and −h v.

    Raises
    ------
    InvalidMethod
        If a momentum is out of its range.

    Notes
    -----
    The buffer starts at 0, and every step is an ordinary one. Source: Ma, Yarats 2019 (arXiv 1810.06801).

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> beta, nu = sp.symbols("beta nu")
    >>> mq.modified_equation(mq.QuasiHyperbolic(beta, nu), order=2).coefficients
    {Tree([]): 1, Tree([[]]): -(2*beta*nu - beta + 1)/(2*(1 - beta))}
    """
    beta, weight = _fraction(momentum, "momentum"), exact(nu, "nu")
    return GeneralLinearMethod(
        A=[[1, weight * beta], [0, beta]],
        B=[[1 - weight + weight * (1 - beta)], [1 - beta]],
        C=[[1, 0]],
        D=[[0]],
        name=f"QuasiHyperbolic(momentum={beta}, nu={weight})",
    )


def TripleMomentum(beta: Any, gamma: Any, delta: Any) -> GeneralLinearMethod:
    """Return the triple momentum method, with separate points for the gradient and for the output.

        ξ⁺ = ξ + β (ξ − ξ⁻) − h ∇L(y),    y = ξ + γ (ξ − ξ⁻),    θ = ξ + δ (ξ − ξ⁻).

    Parameters
    ----------
    beta : number in [0, 1), or sympy expression
    gamma, delta : numbers or sympy expressions
        γ = δ = 0 is the heavy ball, γ = β, δ = 0 classical Nesterov.

    Returns
    -------
    GeneralLinearMethod
        With the states ξ and ξ − ξ⁻.

    Raises
    ------
    InvalidMethod
        If β is out of its range.

    Notes
    -----
    Source: Van Scoy, Freeman, Lynch 2018, *The fastest known globally convergent first-order method for
    minimizing strongly convex functions* (IEEE Control Systems Letters 2).

    Examples
    --------
    >>> import modeq as mq
    >>> triple = mq.modified_equation(mq.TripleMomentum(0.5, 0.5, 0), 4)
    >>> triple.coefficients == mq.modified_equation(mq.ClassicalNesterov(0.5), 4).coefficients
    True
    """
    b = _fraction(beta, "beta")
    g, d = exact(gamma, "gamma"), exact(delta, "delta")
    return GeneralLinearMethod(
        A=[[1, b], [0, b]],
        B=[[1], [1]],
        C=[[1, g]],
        D=[[0]],
        readout=[1, d],
        name=f"TripleMomentum(beta={b}, gamma={g}, delta={d})",
        step_powers=(0, 0),  # ξ − ξ⁻ is a difference of parameters
    )


def PID(momentum: Any, derivative: Any, integral: Any = 1, proportional: Any = 0) -> GeneralLinearMethod:
    """Return the PID optimizer: momentum and an averaged difference of successive gradients.

    With g = ∇L(θ), g⁻ the gradient of the step before, momentum β and the gains k_P, k_I, k_D:

        v⁺ = β v + g,    d⁺ = β d + (1 − β)(g − g⁻),    θ⁺ = θ − h (k_P g + k_I v⁺ + k_D d⁺),

    and in the first step, as in the code that its authors published, d⁺ = 0, and in the second g⁻ = 0.

    Parameters
    ----------
    momentum : number in [0, 1), or sympy expression
    derivative, integral, proportional : numbers or sympy expressions
        The gains k_D, k_I and k_P. The defaults are the rule of the paper; the published code has
        k_P = 1, k_I = 5 and k_D = 10, and leaves out v and d altogether if the momentum is 0.

    Returns
    -------
    GeneralLinearMethod
        With the states θ, −h w, and what sets g⁻ to 0 in the second step, w as in the notes.

    Raises
    ------
    InvalidMethod
        If a momentum is out of its range, a gain is no number, or k_P + k_I/(1 − β) = 0.

    Notes
    -----
    Both buffers fade with the same β, so that one state holds them: w = k_I β v + k_D (β d − (1 − β) g⁻).
    Sources: An, Wang, Sun, Xu, Dai, Zhang 2018, *A PID controller approach for stochastic optimization of deep
    networks* (CVPR), and its code, github.com/tensorboy/PIDOptimizer.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> mq.PID(0.9, derivative=10, integral=5, proportional=1).transfer_function(sp.Symbol("z"))
    (70*z - 19)/((z - 1)*(10*z - 9))

    Nesterov momentum is the case k_D = β/(1 − β):

    >>> nesterov = mq.modified_equation(mq.Nesterov(0.5), order=4)
    >>> mq.modified_equation(mq.PID(0.5, derivative=1), order=4).coefficients == nesterov.coefficients
    True
    """
    beta = _fraction(momentum, "momentum")
    gains = {"derivative": derivative, "integral": integral, "proportional": proportional}
    k_d, k_i, k_p = (exact(value, argument) for argument, value in gains.items())
    difference = k_d * (1 - beta)
    return GeneralLinearMethod(
        A=[[1, 1, 0], [0, beta, 1], [0, 0, 0]],
        B=[[k_p + k_i + difference], [beta * k_i - (1 - beta) * difference], [0]],
        C=[[1, 0, 0]],
        D=[[0]],
        start=[[0], [-difference], [difference]],
        name=f"PID(momentum={beta}, derivative={k_d}, integral={k_i}, proportional={k_p})",
    )


def OptimisticGradient() -> GeneralLinearMethod:
    """Return the optimistic gradient method, θ⁺ = θ + h [2 f(θ) − f(θ⁻)].

    The first step is plain gradient descent. The last gradient is a shift register: a parasitic
    eigenvalue 0.

    Returns
    -------
    GeneralLinearMethod
        With the states θ and h f(θ⁻).

    Notes
    -----
    Source: Popov 1980; Daskalakis, Ilyas, Syrgkanis, Zeng 2018 (arXiv 1711.00141).

    Examples
    --------
    To first order it corrects like implicit Euler:

    >>> import modeq as mq
    >>> mq.modified_equation(mq.OptimisticGradient(), order=2)[[[]]]
    1/2
    """
    return GeneralLinearMethod(
        A=[[1, -1], [0, 0]],
        B=[[2], [1]],
        C=[[1, 0]],
        D=[[0]],
        start=[[0], [1]],
        name="OptimisticGradient()",
    )
