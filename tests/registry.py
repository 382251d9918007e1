"""What every layer is tested on: one line here tests a new method everywhere."""

from functools import partial

import sympy as sp

import modeq as mq

Q = sp.Rational


def runge_kutta(A, b, name):
    """A Runge–Kutta method as a general linear method: one state, one query per stage."""
    stages = len(b)
    return mq.GeneralLinearMethod(A=[[1]], B=[b], C=[[1]] * stages, D=A, name=name)


def rk4():
    A = [[0, 0, 0, 0], [Q(1, 2), 0, 0, 0], [0, Q(1, 2), 0, 0], [0, 0, 1, 0]]
    return runge_kutta(A, [Q(1, 6), Q(1, 3), Q(1, 3), Q(1, 6)], "RK4")


def explicit_midpoint():
    return runge_kutta([[0, 0], [Q(1, 2), 0]], [0, 1], "explicit midpoint")


def extragradient():
    return runge_kutta([[0, 0], [1, 0]], [0, 1], "extragradient")


def implicit_euler():
    return runge_kutta([[1]], [1], "implicit Euler")


def optimistic_gradient():
    """θ⁺ = θ + h(2f(θ) − f(θ⁻)): the last gradient is a shift register, a parasitic eigenvalue 0."""
    return mq.GeneralLinearMethod(A=[[1, -1], [0, 0]], B=[[2], [1]], C=[[1, 0]], D=[[0]], name="optimistic gradient")


def classical_nesterov(momentum):
    """y = x + β(x − x⁻), x⁺ = y + h f(y): the gradient is not taken at the parameters x."""
    return mq.GeneralLinearMethod(
        A=[[1, momentum], [0, momentum]],
        B=[[1], [1]],
        C=[[1, momentum]],
        D=[[0]],
        name=f"classical Nesterov({momentum})",
    )


# Undecayed methods of the SGD family, each also registered with both kinds of weight decay.
_FAMILY = {
    "gradient descent": mq.GradientDescent,
    "heavy ball 0.5": partial(mq.HeavyBall, momentum=0.5),
    "heavy ball 0.9": partial(mq.HeavyBall, momentum=0.9),
    "heavy ball 0.99": partial(mq.HeavyBall, momentum=0.99),
    "heavy ball 0.5, dampening 0.3": partial(mq.HeavyBall, momentum=0.5, dampening=0.3),
    "heavy ball 0.9, dampening 0.9": partial(mq.HeavyBall, momentum=0.9, dampening=0.9),
    "Nesterov 0.5": partial(mq.Nesterov, momentum=0.5),
    "Nesterov 0.9": partial(mq.Nesterov, momentum=0.9),
}


def _decayed(make, decoupled):
    return make().with_weight_decay(0.25, decoupled=decoupled)


# Name -> a function without arguments that returns an explicit method with numbers in it.
METHODS = {
    **_FAMILY,
    **{f"{name}, coupled decay": partial(_decayed, make, False) for name, make in _FAMILY.items()},
    **{f"{name}, decoupled decay": partial(_decayed, make, True) for name, make in _FAMILY.items()},
    "RK4": rk4,
    "explicit midpoint": explicit_midpoint,
    "extragradient": extragradient,
    "optimistic gradient": optimistic_gradient,
    "classical Nesterov 0.5": partial(classical_nesterov, Q(1, 2)),
}
