"""The recursion against brute-force Taylor expansion of the iteration itself, to order 4."""

import json

import naive_expansion as naive
import pytest
import sympy as sp
from sympy import Rational as Q

import modeq as mq
from modeq.symbolic.explicit_fields import ExplicitDifferentials

ORDER = 4
X = sp.symbols("u v")
# Cubic in two variables: f, f', f'', f''' are generic enough to tell all eight trees apart.
FIELD = (
    1 - X[1] + 3 * X[0] * X[1] + X[0] ** 3,
    2 + X[0] - 2 * X[0] ** 2 + X[0] * X[1] ** 2,
)
beta, alpha = sp.symbols("beta alpha")
B, ALPHA, LAM = Q(2, 5), Q(1, 5), Q(1, 3)


def decayed(rule, lam):
    """The rule on the field f − λθ: weight decay coupled to the gradient."""
    return lambda e, f, **kw: rule(e, [a - lam * x for a, x in zip(f, e.theta, strict=True)], **kw)


CASES = {
    "gradient descent": (mq.GradientDescent(), naive.gradient_descent, {}),
    "heavy ball": (mq.HeavyBall(momentum=B), naive.heavy_ball, {"beta": B}),
    "heavy ball, dampening": (mq.HeavyBall(B, ALPHA), naive.heavy_ball, {"beta": B, "alpha": ALPHA}),
    "Nesterov": (mq.Nesterov(momentum=B), naive.torch_nesterov, {"beta": B}),
    "classical Nesterov": (mq.ClassicalNesterov(B), naive.classical_nesterov, {"beta": B}),
    "extragradient": (mq.Extragradient(), naive.extragradient, {}),
    "optimistic gradient": (mq.OptimisticGradient(), naive.optimistic_gradient, {}),
    "heavy ball, decoupled decay": (
        mq.HeavyBall(B).with_weight_decay(LAM, decoupled=True),
        naive.decoupled_heavy_ball,
        {"beta": B, "lam": LAM},
    ),
    "gradient descent, decay": (
        mq.GradientDescent().with_weight_decay(LAM),
        decayed(naive.gradient_descent, LAM),
        {},
    ),
    "extragradient, decay at both queries": (
        mq.Extragradient().with_weight_decay(LAM),
        decayed(naive.extragradient, LAM),
        {},
    ),
    "dampened heavy ball, coupled decay": (
        mq.HeavyBall(B, ALPHA).with_weight_decay(LAM),
        decayed(naive.heavy_ball, LAM),
        {"beta": B, "alpha": ALPHA},
    ),
    "Nesterov, coupled decay": (
        mq.Nesterov(B).with_weight_decay(LAM),
        decayed(naive.torch_nesterov, LAM),
        {"beta": B},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_modified_field_solves_the_iteration(name):
    method, rule, hyperparameters = CASES[name]
    e = naive.Expansion([x.name for x in X], ORDER)
    brute = rule(e, [e.ring.from_expr(c) for c in FIELD], **hyperparameters)
    step = sp.Symbol("step")
    ours = mq.modified_equation(method, order=ORDER).on(list(FIELD), X, h=step)
    for mine, theirs in zip(ours.components, brute, strict=True):
        assert e.ring.from_expr(mine) == theirs


def test_the_field_tells_all_trees_apart():
    """Else the comparison above could hide an error."""
    differentials = ExplicitDifferentials([FIELD], X)
    points = [dict(zip(X, point, strict=True)) for point in ((0, 0), (1, 2), (-1, 3), (2, 1))]
    trees = list(mq.modified_equation(mq.GradientDescent(), order=ORDER))
    rows = [[component.subs(p) for component in differentials.vector(tree) for p in points] for tree in trees]
    assert sp.Matrix(rows).rank() == len(trees) == 8


SYMBOLIC = {
    "dampened heavy ball": (mq.HeavyBall(beta, alpha), naive.heavy_ball, {"beta": beta, "alpha": alpha}),
    "Nesterov": (mq.Nesterov(beta), naive.torch_nesterov, {"beta": beta}),
    "classical Nesterov": (mq.ClassicalNesterov(beta), naive.classical_nesterov, {"beta": beta}),
    "optimistic gradient": (mq.OptimisticGradient(), naive.optimistic_gradient, {}),
    "extragradient": (mq.Extragradient(), naive.extragradient, {}),
}


@pytest.mark.parametrize("name", SYMBOLIC)
def test_coefficients_as_functions_of_the_hyperparameters(name):
    method, rule, hyperparameters = SYMBOLIC[name]
    symbols = tuple(hyperparameters.values())
    for tree, value in mq.modified_equation(method, order=ORDER).items():
        assert sp.cancel(naive.coefficient(tree.nested(), rule, symbols, **hyperparameters) - value) == 0


@pytest.mark.parametrize("tree", ["[[[],[]],[]]", "[[],[],[],[]]", "[[[[[]]]]]"])
def test_some_trees_of_order_five(tree):
    nested = json.loads(tree)
    equation = mq.modified_equation(mq.HeavyBall(momentum=beta), order=5)
    assert sp.cancel(naive.coefficient(nested, naive.heavy_ball, (beta,), beta=beta) - equation[nested]) == 0
