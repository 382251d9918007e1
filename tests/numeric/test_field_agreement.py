"""The evaluations of a modified field agree wherever they apply: on written-out losses, games, and networks."""

import numpy as np
import pytest
import sympy as sp
import torch
from registry import PROBLEMS, method
from torch import nn
from torch.nn import functional as F

import modeq as mq
from modeq.numeric.fields import modified_field

X, Y = sp.symbols("x y")
DUEL = mq.VectorField.of_losses(
    [X * Y + X**4 / 4 + sp.cos(X) / 3, Y**2 / 2 - X * Y + sp.sin(Y) / 4], players=[[X], [Y]]
)
BATCHES = mq.SymbolicProblem([(X**2 - Y) ** 2 / 4 + Y**2, sp.sin(X + Y) + X**2, X**2 / 2 + Y**4 / 4], [X, Y])
DESCENT, BALL = mq.GradientDescent(), mq.HeavyBall(0.5)
ORDER = 3


def difference(equation, problem, theta, h, fields):
    """The largest difference of two evaluations, relative to the field."""
    first, second = (modified_field(equation, problem, h, field)(theta) for field in fields)
    return np.max(abs(first - second)) / np.max(abs(first))


def slopes_of(equation, problem, theta, sizes, fields):
    differences = [difference(equation, problem, theta, h, fields) for h in sizes]
    assert differences[-1] > 1e-13, "nothing but rounding is left to see a slope in"
    return np.log2(np.array(differences[:-1]) / differences[1:])


METHODS = [
    "gradient descent",
    "heavy ball 0.9",
    "heavy ball 0.5, dampening 0.3",
    "Nesterov 0.5",
    "heavy ball 0.5, coupled decay",
    "heavy ball 0.5, decoupled decay",
    "quasi-hyperbolic 0.9",
    "optimistic gradient",
]


@pytest.mark.some(10)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", METHODS)
def test_on_written_out_losses(name, problem):
    loss, start = PROBLEMS[problem]
    equation, theta = mq.modified_equation(method(name), ORDER), np.array(start)
    limit = min(1.0, float(method(name).series_limit()))
    assert difference(equation, loss, theta, 0.3 * limit, ("lambdify", "autodiff")) < 1e-12
    assert difference(equation, loss, theta, 2e-4 * limit, ("lambdify", "gradients")) < 1e-9
    sizes = [0.01 * limit * 2.0**-k for k in range(3)]
    assert np.all(abs(slopes_of(equation, loss, theta, sizes, ("lambdify", "gradients")) - ORDER) < 0.25)


@pytest.mark.parametrize(
    "game",
    [
        mq.Simultaneous([DESCENT, DESCENT]),
        mq.Simultaneous([DESCENT, BALL], rates=[1, 2]),
        mq.Simultaneous([BALL, mq.HeavyBall(0.25)]),
        mq.Alternating([DESCENT, BALL]),
    ],
    ids=repr,
)
def test_on_games(game):
    equation, theta = mq.modified_equation(game, ORDER), np.array([0.8, -0.5])
    assert difference(equation, DUEL, theta, 0.02, ("lambdify", "autodiff")) < 1e-12
    if game.queries_at_parameters:
        assert difference(equation, DUEL, theta, 1e-5, ("lambdify", "gradients")) < 1e-9
        sizes = [4e-4, 2e-4, 1e-4]
        assert np.all(abs(slopes_of(equation, DUEL, theta, sizes, ("lambdify", "gradients")) - ORDER) < 0.25)


@pytest.mark.some(3)
@pytest.mark.parametrize("inner", [DESCENT, BALL.with_weight_decay(0.1), BALL.with_weight_decay(0.1, True)], ids=repr)
@pytest.mark.parametrize("sampling", [None, "reshuffling", "replacement"])
def test_on_epochs_of_minibatches(inner, sampling):
    epoch = mq.Epoch(inner, batches=3)
    equation = mq.modified_equation(epoch if sampling is None else epoch.expected(sampling), ORDER)
    assert difference(equation, BATCHES, np.array([0.8, -0.5]), 0.02, ("lambdify", "autodiff")) < 1e-12


class Attention(nn.Module):
    """One head of self-attention over three tokens."""

    def __init__(self):
        super().__init__()
        self.project, self.end = nn.Linear(4, 12), nn.Linear(4, 2)

    def forward(self, x):
        q, k, v = self.project(x).chunk(3, -1)
        return self.end(F.scaled_dot_product_attention(q, k, v).mean(1))


# Name -> (the shape of the inputs, what makes the network).
NETWORKS = {
    "tanh": ((6, 3), lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))),
    "convolution": (
        (6, 1, 4, 4),
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 2)),
    ),
    "batch norm": (
        (6, 3),
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).train(),
    ),
    "layer norm": ((6, 3), lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2))),
    "attention": ((6, 3, 4), Attention),
}


def network(name):
    shape, make = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        module, inputs = make().double(), torch.randn(*shape, dtype=torch.float64)
    return mq.TorchProblem(module, F.cross_entropy, inputs, torch.arange(6) % 2)


@pytest.mark.some(7)
@pytest.mark.parametrize(
    "optimizer", [DESCENT, BALL, mq.Nesterov(0.5), BALL.with_weight_decay(0.1, decoupled=True)], ids=repr
)
@pytest.mark.parametrize("name", NETWORKS)
def test_on_networks(name, optimizer):
    """Below 1e-9 where O(h³) is, and with slope 3, so that a wrong term of order 2 or 3 would be seen."""
    problem = network(name)
    theta, equation = problem.start(), mq.modified_equation(optimizer, ORDER)
    fields = ("autodiff", "gradients")
    assert difference(equation, problem, theta, 5e-5, fields) < 1e-9
    sizes = [4e-3, 2e-3, 1e-3]
    assert np.all(abs(slopes_of(equation, problem, theta, sizes, fields) - ORDER) < 0.25)


ZOO = {
    "logistic regression": lambda: mq.problems.logistic_regression(samples=40),
    "softmax regression": lambda: mq.problems.softmax_regression(samples=20),
    "dense, tanh": lambda: mq.problems.digits_tanh(samples=16),
    "dense, relu": lambda: mq.problems.digits_mlp(samples=16),
    "convolutional, tanh": lambda: mq.problems.digits_cnn(batch_norm=False, activation="tanh", samples=8),
    "convolutional, relu and batch norm": lambda: mq.problems.digits_cnn(samples=8),
    "transformer": lambda: mq.problems.digits_vit(samples=8),
}


@pytest.mark.parametrize("name", ZOO)
def test_on_the_networks_of_the_zoo(name):
    """With rectifiers too where h is so small that no query point lies beyond a kink; without them with slope 3."""
    problem = ZOO[name]()
    theta, equation, fields = problem.start(), mq.modified_equation(BALL, ORDER), ("autodiff", "gradients")
    assert difference(equation, problem, theta, 2.5e-5, fields) < 1e-9
    if "relu" not in name:
        assert np.all(abs(slopes_of(equation, problem, theta, [8e-4, 4e-4, 2e-4], fields) - ORDER) < 0.25)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_terms_of_order_two_and_three_are_seen(name):
    """A field without its last term differs by a lower power of h: the slopes above could fail."""
    problem = network(name)
    theta, h = problem.start(), [4e-3, 2e-3, 1e-3]
    for order in (1, 2):
        lower = mq.modified_equation(BALL, order)
        whole = [modified_field(mq.modified_equation(BALL, ORDER), problem, size, "gradients")(theta) for size in h]
        cut = [modified_field(lower, problem, size, "autodiff")(theta) for size in h]
        misses = [np.max(abs(a - b)) for a, b in zip(whole, cut, strict=True)]
        assert np.all(abs(np.log2(np.array(misses[:-1]) / misses[1:]) - order) < 0.25)


@pytest.mark.parametrize("name", NETWORKS)
def test_tensors_and_arrays_agree(name):
    problem = network(name)
    theta, equation = problem.start(), mq.modified_equation(BALL, ORDER)
    for field in ("autodiff", "gradients"):
        evaluate = modified_field(equation, problem, 1e-3, field)
        np.testing.assert_allclose(evaluate(torch.from_numpy(theta)).numpy(), evaluate(theta), rtol=1e-12, atol=1e-15)
