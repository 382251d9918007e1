"""What every layer is tested on: one line here tests a new method everywhere."""

from functools import partial

import sympy as sp
import torch

import modeq as mq
from modeq.numeric.data import digits
from modeq.numeric.networks.small import tanh_network

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


_x, _y = sp.symbols("x y")

# Name -> (smooth loss, start): what every order is measured on.
PROBLEMS = {
    "two variables": (
        mq.SymbolicProblem((_x**2 - _y) ** 2 / 4 + sp.sin(_x + _y) / 2 + _x**2 / 2 + _y**2, [_x, _y]),
        [0.8, -0.4],
    ),
    "one variable": (mq.SymbolicProblem(sp.cos(_x) + _x**2, [_x]), [1.0]),
    "quartic": (mq.SymbolicProblem(_x**4 / 4 + _x**2 * _y**2 + _y**2 / 2 + _x * _y / 3, [_x, _y]), [0.7, 0.5]),
    "logistic": (
        mq.SymbolicProblem(
            sum(sp.log(1 + sp.exp(-(a * _x + b * _y))) for a, b in ((1, 2), (-2, 1), (1, -1))), [_x, _y]
        ),
        [0.3, -0.2],
    ),
}


def _digits_problem(images, widths=(16, 16)):
    inputs, labels = digits(dtype=torch.float64)
    network = tanh_network(widths=widths)
    return mq.TorchProblem(network, torch.nn.functional.cross_entropy, inputs[:images], labels[:images])


def _softplus_regression():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Softplus(), torch.nn.Linear(6, 2)).double()
        inputs, targets = torch.randn(12, 4, dtype=torch.float64), torch.randn(12, 2, dtype=torch.float64)
    return mq.TorchProblem(network, lambda output, target: ((output - target) ** 2).mean(), inputs, targets)


# Name -> a function without arguments that returns a smooth network with its loss on data.
NETWORKS = {
    "tanh on digits": partial(_digits_problem, 64),
    "softplus regression": _softplus_regression,
}
