"""Methods read off torch optimizers run like them, and back."""

import numpy as np
import pytest
import sympy as sp
import torch

import modeq as mq
from modeq.methods.from_torch import ascending

X = sp.Symbol("x")
OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    {"momentum": 0.0, "dampening": 0.5},
    {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1, "maximize": True},
    {"weight_decay": 0.2, "maximize": True},
]


def sgd(**options):
    parameter = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    return parameter, torch.optim.SGD([parameter], lr=0.05, **options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_flag_runs_like_torch(options):
    parameter, optimizer = sgd(**options)
    method = mq.method_from_torch(optimizer)
    sign = -1 if options.get("maximize") else 1
    expected = [1.0]
    for _ in range(15):
        optimizer.zero_grad()
        (sign * (parameter**4 / 4 + parameter**2 / 2)).sum().backward()
        optimizer.step()
        expected.append(float(parameter.detach()))
    problem = mq.SymbolicProblem(sign * (X**4 / 4 + X**2 / 2), [X])
    got = mq.iterate(method, problem, [1.0], h=0.05, steps=15).y.ravel()
    np.testing.assert_allclose(got, expected, rtol=1e-13)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_there_and_back(options):
    _, optimizer = sgd(**options)
    method = mq.method_from_torch(optimizer)
    copy = method.to_torch([torch.zeros(1, requires_grad=True)], h=0.05)
    assert mq.method_from_torch(copy) == method
    assert copy.param_groups[0]["lr"] == 0.05


def test_values_of_a_group():
    first, second = (torch.zeros(1, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [second], "momentum": 0.5}], lr=0.1, momentum=0.9)
    assert mq.method_from_torch(optimizer) == mq.HeavyBall(0.9)
    assert mq.method_from_torch(optimizer, group=1) == mq.HeavyBall(0.5)
    with pytest.raises(mq.InvalidMethod, match="group is 2: the optimizer has 2 parameter groups, give 0 to 1"):
        mq.method_from_torch(optimizer, group=2)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_other_optimizers_are_refused(kind):
    optimizer = kind([torch.zeros(1, requires_grad=True)], lr=0.1)
    with pytest.raises(mq.UnsupportedOptimizer, match=f"{kind.__name__} has no method here: .* must be linear"):
        mq.method_from_torch(optimizer)


def test_what_torch_cannot_run():
    parameters = [torch.zeros(1, requires_grad=True)]
    with pytest.raises(mq.UnsupportedOptimizer, match=r"is no torch\.optim\.SGD .* run it with modeq\.iterate"):
        mq.Extragradient().to_torch(parameters, 0.1)
    with pytest.raises(mq.UnsupportedOptimizer, match=r"is no torch\.optim\.SGD"):
        mq.HeavyBall(0.9).with_weight_decay(0.1, decoupled=True).to_torch(parameters, 0.1)
    with pytest.raises(mq.InvalidMethod, match="has free symbols"):
        mq.HeavyBall(sp.Symbol("beta")).to_torch(parameters, 0.1)


def test_decay_is_not_turned_around():
    with pytest.raises(mq.InvalidMethod, match="apply weight decay before that"):
        ascending(mq.GradientDescent()).with_weight_decay(0.1)
    equation = mq.modified_equation(ascending(mq.HeavyBall(0.5).with_weight_decay(0.1)), 1)
    assert equation[mq.Tree(0, [])] == -2
    assert equation[mq.Tree(1, [])] == 2
