"""Coefficients of modified equations: closed forms, and values from other packages and tables."""

import json
from pathlib import Path

import pytest
import sympy as sp
from naive_expansion import heavy_ball, torch_nesterov
from naive_trees import coefficient
from sympy import Rational as Q

import modeq as mq

REFERENCE = Path(__file__).parents[1] / "reference"
beta, alpha = sp.symbols("beta alpha")
s = 1 - beta

# b(τ), not divided by σ(τ). Orders 1 to 3 are also hand-made; every one is checked against brute force below.
HEAVY_BALL = {
    "[]": 1 / s,
    "[[]]": -(1 + beta) / (2 * s**3),
    "[[[]]]": (beta**2 + 4 * beta + 1) / (3 * s**5),
    "[[],[]]": (beta**2 + 10 * beta + 1) / (6 * s**5),
    "[[[[]]]]": -(1 + beta) * (beta**2 + 8 * beta + 1) / (4 * s**7),
    "[[[],[]]]": -(1 + beta) * (beta**2 + 16 * beta + 1) / (6 * s**7),
    "[[[]],[]]": -(1 + beta) * (beta**2 + 28 * beta + 1) / (12 * s**7),
    "[[],[],[]]": -3 * beta * (1 + beta) / s**7,
}
NESTEROV = {
    "[]": 1 / s,
    "[[]]": -(1 - beta + 2 * beta**2) / (2 * s**3),
    "[[[]]]": (3 * beta**4 - 3 * beta**3 + 7 * beta**2 - 2 * beta + 1) / (3 * s**5),
    "[[],[]]": (13 * beta**2 - 2 * beta + 1) / (6 * s**5),
    "[[[[]]]]": -(4 * beta**6 - 6 * beta**5 + 22 * beta**4 - 13 * beta**3 + 15 * beta**2 - 3 * beta + 1) / (4 * s**7),
    "[[[],[]]]": -(26 * beta**4 - 11 * beta**3 + 23 * beta**2 - 3 * beta + 1) / (6 * s**7),
    "[[[]],[]]": -(26 * beta**4 + beta**3 + 35 * beta**2 - 3 * beta + 1) / (12 * s**7),
    "[[],[],[]]": -3 * beta**2 * (beta + 1) / s**7,
}


def equal(a, b):
    return sp.cancel(a - b) == 0


@pytest.fixture(scope="module")
def symbolic():
    return {
        "heavy ball": mq.modified_equation(mq.HeavyBall(momentum=beta), order=4),
        "Nesterov": mq.modified_equation(mq.Nesterov(momentum=beta), order=4),
        "dampened": mq.modified_equation(mq.HeavyBall(momentum=beta, dampening=alpha), order=4),
    }


@pytest.mark.parametrize("tree", HEAVY_BALL)
def test_heavy_ball_to_order_four_in_closed_form(symbolic, tree):
    assert equal(symbolic["heavy ball"][json.loads(tree)], HEAVY_BALL[tree])


@pytest.mark.parametrize("tree", NESTEROV)
def test_nesterov_to_order_four_in_closed_form(symbolic, tree):
    assert equal(symbolic["Nesterov"][json.loads(tree)], NESTEROV[tree])


@pytest.mark.parametrize("tree", HEAVY_BALL)
def test_the_closed_forms_agree_with_brute_force(tree):
    assert equal(coefficient(json.loads(tree), heavy_ball, (beta,), beta=beta), HEAVY_BALL[tree])
    assert equal(coefficient(json.loads(tree), torch_nesterov, (beta,), beta=beta), NESTEROV[tree])


def test_dampening_multiplies_by_its_power_of_the_order(symbolic):
    for tree, value in symbolic["heavy ball"].items():
        assert equal(symbolic["dampened"][tree], (1 - alpha) ** tree.order * value)


@pytest.mark.parametrize(("make", "degree"), [(mq.HeavyBall, 1), (mq.Nesterov, 2)])
def test_denominators_are_odd_powers_of_one_minus_beta(make, degree):
    for tree, value in mq.modified_equation(make(momentum=beta), order=5).items():
        numerator = sp.cancel(value * s ** (2 * tree.order - 1))
        assert numerator.is_polynomial(beta)
        assert sp.degree(numerator, beta) <= degree * (tree.order - 1)
        assert numerator.subs(beta, 1) != 0


def test_momentum_zero_is_gradient_descent(symbolic):
    plain = mq.modified_equation(mq.GradientDescent(), order=4)
    for name in ("heavy ball", "Nesterov"):
        assert {tree: value.subs(beta, 0) for tree, value in symbolic[name].items()} == dict(plain)
    assert dict(mq.modified_equation(mq.HeavyBall(momentum=0), order=4)) == dict(plain)


def test_look_ahead_and_classical_nesterov_differ_from_order_three_on():
    stored = mq.modified_equation(mq.Nesterov(momentum=Q(1, 2)), order=3)
    classical = mq.modified_equation(mq.ClassicalNesterov(Q(1, 2)), order=3)
    assert {tree: stored[tree] == classical[tree] for tree in stored} == {
        mq.Tree([]): True,
        mq.Tree([[]]): True,
        mq.Tree([[[]]]): True,
        mq.Tree([[], []]): False,
    }


def test_bushes_of_gradient_descent_are_bernoulli_numbers():
    equation = mq.modified_equation(mq.GradientDescent(), order=10)
    for leaves in range(10):
        # sympy's B₁ is +1/2, the one here −1/2; all others are the same.
        assert equation[[[]] * leaves] == sp.bernoulli(leaves) * (-1) ** leaves


def test_chains_of_gradient_descent_are_the_logarithm():
    equation = mq.modified_equation(mq.GradientDescent(), order=10)
    chain = []
    for n in range(1, 11):
        assert equation[chain] == Q((-1) ** (n + 1), n)
        chain = [chain]


def rationals(rows):
    return [[Q(entry) for entry in row] for row in rows]


ONE_COLOUR = json.loads((REFERENCE / "one_colour_coefficients.json").read_text(encoding="utf-8"))["methods"]
TWO_COLOURS = json.loads((REFERENCE / "two_colour_coefficients.json").read_text(encoding="utf-8"))["methods"]


@pytest.mark.parametrize("entry", ONE_COLOUR, ids=lambda entry: entry["name"])
def test_runge_kutta_methods_agree_with_three_other_packages(entry):
    method = mq.RungeKutta(rationals(entry["A"]), rationals([entry["b"]])[0], entry["name"])
    equation = mq.modified_equation(method, order=5)
    assert len(equation) == len(entry["coefficients"]) == 17
    for nested, value, symmetry in entry["coefficients"]:
        tree = mq.Tree(nested)
        assert equation[tree] == Q(value)
        assert tree.symmetry == symmetry


def test_gradient_descent_is_explicit_and_one_query_is_enough():
    euler = mq.modified_equation(mq.RungeKutta([[0]], [1], "explicit Euler"), order=6)
    assert dict(mq.modified_equation(mq.GradientDescent(), order=6)) == dict(euler)


def additive(tableaus):
    """An additive Runge–Kutta method: both fields at the same stages y_i = θ + h Σ_c Σ_j A^c_ij f_c(y_j)."""
    stages = len(tableaus[0]["b"])
    row = sp.Matrix.hstack(*(sp.Matrix(rationals(t["A"])) for t in tableaus))
    return mq.GeneralLinearMethod(
        A=[[1]],
        B=[[Q(w) for t in tableaus for w in t["b"]]],
        C=[[1]] * (2 * stages),
        D=sp.Matrix.vstack(row, row),
        colours=(0,) * stages + (1,) * stages,
    )


def coloured(pair):
    colour, children = pair
    return mq.Tree(colour, [coloured(child) for child in children])


@pytest.mark.parametrize("entry", TWO_COLOURS, ids=lambda entry: entry["name"])
def test_partitioned_methods_agree_with_the_tables(entry):
    equation = mq.modified_equation(additive([entry["tableau_0"], entry["tableau_1"]]), order=3)
    for pair, value in entry["coefficients"]:
        assert equation[coloured(pair)] == Q(value)


def test_a_colour_for_all_queries_changes_nothing():
    """Both colours with the same field are the method of one colour: the sum over all colourings, with σ."""
    entry = TWO_COLOURS[0]
    same = additive([entry["tableau_1"], entry["tableau_1"]])  # explicit Euler on f₀ + f₁
    split, plain = mq.modified_equation(same, order=4), mq.modified_equation(mq.GradientDescent(), order=4)
    for tree, value in split.items():
        assert value == plain[uncoloured(tree)]


def uncoloured(tree):
    return mq.Tree([uncoloured(child) for child in tree.children])
