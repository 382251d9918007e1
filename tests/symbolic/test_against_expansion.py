"""The recursion against brute force: Taylor expansions of the iteration itself, with all buffers eliminated or none.

On one cubic field, where the terms of all trees add up, to order 4; and tree by tree to order 6.
"""

import naive_expansion as naive
import naive_trees
import pytest
import registry
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
B, ALPHA, LAM, HALF = Q(2, 5), Q(1, 5), Q(1, 3), Q(1, 2)

# The method, its update rule with all buffers eliminated, and the hyper-parameters of that.
RULES = {
    "gradient descent": (mq.GradientDescent(), naive.gradient_descent, {}),
    "heavy ball": (mq.HeavyBall(momentum=B), naive.heavy_ball, {"beta": B}),
    "heavy ball, dampening": (mq.HeavyBall(B, ALPHA), naive.heavy_ball, {"beta": B, "alpha": ALPHA}),
    "Nesterov": (mq.Nesterov(momentum=B), naive.torch_nesterov, {"beta": B}),
    "classical Nesterov": (mq.ClassicalNesterov(B), naive.classical_nesterov, {"beta": B}),
    "quasi-hyperbolic": (mq.QuasiHyperbolic(B, LAM), naive.quasi_hyperbolic, {"beta": B, "nu": LAM}),
    "triple momentum": (
        mq.TripleMomentum(B, LAM, ALPHA),
        naive.triple_momentum,
        {"beta": B, "gamma": LAM, "delta": ALPHA},
    ),
    "PID": (mq.PID(B, 3, 2, 1), naive.pid, {"beta": B, "derivative": 3, "integral": 2, "proportional": 1}),
    "optimistic gradient": (mq.OptimisticGradient(), naive.optimistic_gradient, {}),
    "extragradient": (mq.Extragradient(), naive.extragradient, {}),
    "implicit Euler": (mq.ImplicitEuler(), naive.runge_kutta, {"A": [[1]], "b": [1]}),
    "implicit midpoint": (mq.RungeKutta([[HALF]], [1]), naive.runge_kutta, {"A": [[HALF]], "b": [1]}),
    "Radau IIA": (
        registry.method("Radau IIA"),
        naive.runge_kutta,
        {"A": [[Q(5, 12), Q(-1, 12)], [Q(3, 4), Q(1, 4)]], "b": [Q(3, 4), Q(1, 4)]},
    ),
    "RK4": (
        registry.method("RK4"),
        naive.runge_kutta,
        {
            "A": [[0, 0, 0, 0], [HALF, 0, 0, 0], [0, HALF, 0, 0], [0, 0, 1, 0]],
            "b": [Q(1, 6), LAM, LAM, Q(1, 6)],
        },
    ),
    "Adams-Bashforth": (
        registry.method("Adams-Bashforth"),
        naive.multistep,
        {"rho": [0, -1, 1], "sigma": [-HALF, 3 * HALF]},
    ),
    "Adams-Bashforth, 3 steps": (
        registry.method("Adams-Bashforth, 3 steps"),
        naive.multistep,
        {"rho": [0, 0, -1, 1], "sigma": [Q(5, 12), Q(-4, 3), Q(23, 12)]},
    ),
    "BDF": (
        registry.method("BDF"),
        naive.multistep,
        {"rho": [Q(1, 3), Q(-4, 3), 1], "sigma": [0, 0, Q(2, 3)]},
    ),
}


def decayed(rule, lam):
    """The rule on the field f − λθ: weight decay coupled to the gradient."""
    return lambda e, f, **kw: rule(e, [a - lam * x for a, x in zip(f, e.theta, strict=True)], **kw)


def coupled(name):
    method, rule, hyperparameters = RULES[name]
    return method.with_weight_decay(LAM), decayed(rule, LAM), hyperparameters


# Those whose expansion on this field takes a second or two; the others are compared tree by tree below.
QUICK = [name for name in RULES if name != "triple momentum" and RULES[name][0].is_explicit and name != "RK4"]
CASES = {
    **{name: RULES[name] for name in QUICK},
    **{
        f"{name}, coupled decay": coupled(name)
        for name in ("gradient descent", "heavy ball, dampening", "Nesterov", "extragradient")
    },
    "heavy ball, decoupled decay": (
        mq.HeavyBall(B).with_weight_decay(LAM, decoupled=True),
        naive.decoupled_heavy_ball,
        {"beta": B, "lam": LAM},
    ),
}


# Those of which every tree is compared to a higher order below, and that are like others here but for their rule.
ALIKE = ("classical Nesterov", "quasi-hyperbolic", "PID", "optimistic gradient", "Nesterov, coupled decay")


@pytest.mark.some(2)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ALIKE else ()) for name in CASES]
)
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


def all_trees(order, colours=1):
    return [tree for size in range(1, order + 1) for tree in naive_trees.trees(size, colours)]


def ours(tree):
    """A tree of the reference as one of modeq's."""
    colour, subtrees = tree
    return mq.Tree(colour, [ours(child) for child in subtrees])


def test_the_reference_has_all_trees():
    """Counts of rooted trees with one and with two colours: OEIS A000081 and A038055."""
    assert [len(naive_trees.trees(n)) for n in range(1, 8)] == [1, 1, 2, 4, 9, 20, 48]
    assert [len(naive_trees.trees(n, 2)) for n in range(1, 5)] == [2, 4, 14, 52]
    assert len({ours(tree) for tree in all_trees(4, 2)}) == 72


@pytest.mark.some(3)
@pytest.mark.parametrize("name", RULES)
def test_every_tree_to_order_six(name):
    method, rule, hyperparameters = RULES[name]
    equation = mq.modified_equation(method, order=6)
    assert len(equation) == len(all_trees(6)) == 37
    for tree in all_trees(6):
        assert equation[ours(tree)] == naive_trees.coefficient(naive_trees.nested(tree), rule, **hyperparameters)


@pytest.mark.some(8)
@pytest.mark.parametrize("name", registry.names(lambda m: m.colour_count == 1))
def test_every_tree_to_order_six_for_every_registered_method(name):
    equation = mq.modified_equation(registry.method(name), order=6)
    manifold = naive_trees.SlowManifold(registry.method(name))
    for tree in all_trees(6):
        assert equation[ours(tree)] == manifold.coefficient(tree)


def linear(tree, colour):
    """Whether no vertex of the colour has two children: the others vanish where that field is linear."""
    return (tree[0] != colour or len(tree[1]) < 2) and all(linear(child, colour) for child in tree[1])


@pytest.mark.some(15)
@pytest.mark.parametrize("name", registry.names(lambda m: m.decay))
def test_every_tree_to_order_four_with_weight_decay(name):
    equation = mq.modified_equation(registry.method(name), order=4)
    manifold = naive_trees.SlowManifold(registry.method(name))
    kept = [tree for tree in all_trees(4, 2) if linear(tree, 1)]
    assert set(equation) == {ours(tree) for tree in kept}
    for tree in kept:
        assert equation[ours(tree)] == manifold.coefficient(tree)


GLM = mq.GeneralLinearMethod
PARTITIONED = {
    "symplectic Euler": GLM(A=[[1]], B=[[1, 1]], C=[[1], [1]], D=[[0, 0], [1, 0]], colours=(0, 1)),
    "two rates": GLM(A=[[1]], B=[[1, Q(3, 7)]], C=[[1], [1]], D=[[0, 0], [0, 0]], colours=(0, 1)),
    "an epoch of two batches with momentum": GLM(
        A=[[1, B + B**2], [0, B**2]],
        B=[[1 + B, 1], [B, 1]],
        C=[[1, 0], [1, B]],
        D=[[0, 0], [1, 0]],
        colours=(0, 1),
    ),
    "implicit in one field": GLM(A=[[1]], B=[[1, 1]], C=[[1], [1]], D=[[0, 0], [1, 1]], colours=(0, 1)),
}


@pytest.mark.parametrize("name", PARTITIONED)
def test_every_tree_to_order_four_with_two_fields(name):
    equation = mq.modified_equation(PARTITIONED[name], order=4)
    manifold = naive_trees.SlowManifold(PARTITIONED[name])
    assert len(equation) == 72
    for tree in all_trees(4, 2):
        assert equation[ours(tree)] == manifold.coefficient(tree)


SYMBOLIC = {
    "dampened heavy ball": (mq.HeavyBall(beta, alpha), naive.heavy_ball, {"beta": beta, "alpha": alpha}),
    "Nesterov": (mq.Nesterov(beta), naive.torch_nesterov, {"beta": beta}),
    "classical Nesterov": (mq.ClassicalNesterov(beta), naive.classical_nesterov, {"beta": beta}),
    "quasi-hyperbolic": (mq.QuasiHyperbolic(beta, alpha), naive.quasi_hyperbolic, {"beta": beta, "nu": alpha}),
    "PID": (mq.PID(beta, alpha), naive.pid, {"beta": beta, "derivative": alpha, "integral": 1, "proportional": 0}),
}


@pytest.mark.some(1)
@pytest.mark.parametrize("name", SYMBOLIC)
def test_coefficients_as_functions_of_the_hyperparameters(name):
    method, rule, hyperparameters = SYMBOLIC[name]
    symbols = tuple(sorted(method.free_symbols, key=str))
    equation = mq.modified_equation(method, order=ORDER)
    for tree in all_trees(ORDER):
        brute = naive_trees.coefficient(naive_trees.nested(tree), rule, symbols, **hyperparameters)
        assert sp.cancel(brute - equation[ours(tree)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("make", [mq.HeavyBall, mq.Nesterov])
def test_every_tree_to_order_six_as_a_function_of_the_momentum(make):
    equation = mq.modified_equation(make(beta), order=6)
    manifold = naive_trees.SlowManifold(make(beta), (beta,))
    for tree in all_trees(6):
        assert sp.cancel(manifold.coefficient(tree) - equation[ours(tree)]) == 0
