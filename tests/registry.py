"""What every layer is tested on: one line here tests a new method everywhere."""

from functools import cache, partial

import sympy as sp
import torch

import modeq as mq
from modeq.methods.runge_kutta import RK4, ExplicitMidpoint
from modeq.numeric.data import digits
from modeq.numeric.networks.small import tanh_network

Q = sp.Rational


def _radau():
    """Two stages, both implicit and coupled, of order 3."""
    return mq.RungeKutta([[Q(5, 12), Q(-1, 12)], [Q(3, 4), Q(1, 4)]], [Q(3, 4), Q(1, 4)], name="Radau IIA")


def _two_stages_two_steps():
    """Written out entry by entry, with nothing at its default: two queries, a buffer, a readout, a start."""
    return mq.GeneralLinearMethod(
        A=[[1, Q(1, 2)], [0, Q(1, 3)]],
        B=[[Q(1, 2), Q(1, 4)], [Q(1, 5), Q(1, 2)]],
        C=[[1, 0], [1, Q(1, 2)]],
        D=[[0, 0], [Q(1, 2), 0]],
        readout=[1, Q(1, 4)],
        start=[[0], [Q(1, 7)]],
        name="two stages, two steps",
    )


# Methods with a gradient at each query, and with both kinds of weight decay.
_FAMILY = {
    "gradient descent": mq.GradientDescent,
    "heavy ball 0.5": partial(mq.HeavyBall, momentum=0.5),
    "heavy ball 0.9": partial(mq.HeavyBall, momentum=0.9),
    "heavy ball 0.99": partial(mq.HeavyBall, momentum=0.99),
    "heavy ball 0.5, dampening 0.3": partial(mq.HeavyBall, momentum=0.5, dampening=0.3),
    "heavy ball 0.9, dampening 0.9": partial(mq.HeavyBall, momentum=0.9, dampening=0.9),
    "Nesterov 0.5": partial(mq.Nesterov, momentum=0.5),
    "Nesterov 0.9": partial(mq.Nesterov, momentum=0.9),
    "classical Nesterov 0.5": partial(mq.ClassicalNesterov, momentum=0.5),
    "quasi-hyperbolic 0.9": partial(mq.QuasiHyperbolic, momentum=0.9, nu=0.7),
    "PID 0.6": partial(mq.PID, momentum=0.6, derivative=10, integral=5, proportional=1),
    "extragradient": mq.Extragradient,
    "implicit Euler": mq.ImplicitEuler,
}


def _decayed(make, decoupled):
    return make().with_weight_decay(0.25, decoupled=decoupled)


# Name -> a function without arguments that returns a method with numbers in it.
METHODS = {
    **_FAMILY,
    **{f"{name}, coupled decay": partial(_decayed, make, False) for name, make in _FAMILY.items()},
    **{f"{name}, decoupled decay": partial(_decayed, make, True) for name, make in _FAMILY.items()},
    "triple momentum": partial(mq.TripleMomentum, beta=0.5, gamma=0.25, delta=0.125),
    "triple momentum, coupled decay": partial(
        _decayed, partial(mq.TripleMomentum, beta=0.5, gamma=0.25, delta=0.125), False
    ),
    "optimistic gradient": mq.OptimisticGradient,
    "RK4": RK4,
    "explicit midpoint": ExplicitMidpoint,
    "implicit midpoint": partial(mq.RungeKutta, [[Q(1, 2)]], [1], name="implicit midpoint"),
    "Radau IIA": _radau,
    "Adams-Bashforth": partial(mq.LinearMultistep, rho=[0, -1, 1], sigma=[Q(-1, 2), Q(3, 2)], name="Adams-Bashforth"),
    "Adams-Bashforth, 3 steps": partial(
        mq.LinearMultistep, rho=[0, 0, -1, 1], sigma=[Q(5, 12), Q(-16, 12), Q(23, 12)], name="Adams-Bashforth, 3 steps"
    ),
    "BDF": partial(mq.LinearMultistep, rho=[Q(1, 3), Q(-4, 3), 1], sigma=[0, 0, Q(2, 3)], name="BDF"),
    "two stages, two steps": _two_stages_two_steps,
}


@cache
def method(name):
    """The registered method, built once."""
    return METHODS[name]()


def names(condition):
    """The names of the registered methods of which `condition` holds."""
    return [name for name in METHODS if condition(method(name))]


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
