"""Modified fields of polynomial fields: equal to published ones term by term, canonical, nothing left over."""

import json
from pathlib import Path

import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Rational as Q

import modeq as mq
from modeq.symbolic.explicit_fields import ExplicitDifferentials

FIELDS = json.loads((Path(__file__).parents[1] / "reference" / "modified_fields.json").read_text(encoding="utf-8"))[
    "fields"
]
a, b, h, p, q, u, v = sp.symbols("a b h p q u v")
beta, lam = sp.symbols("beta lambda")
LOTKA_VOLTERRA = [p * (2 - q), q * (p - 1)]
METHODS = {
    "gradient descent": mq.GradientDescent(),
    "heavy ball 1/2": mq.HeavyBall(Q(1, 2)),
    "heavy ball": mq.HeavyBall(beta),
    "decay": mq.GradientDescent().with_weight_decay(lam),
    "midpoint": mq.RungeKutta([[0, 0], [Q(1, 2), 0]], [0, 1]),
}


def monomials(expression, variables):
    """The monomials in the variables of the terms of a sum, as they stand."""
    return [
        sp.Mul(*(f for f in sp.Mul.make_args(t) if f.free_symbols & variables)) for t in sp.Add.make_args(expression)
    ]


def unexpanded(method, field, variables, order):
    """The series on a field, summed over the trees as expressions."""
    equation = mq.modified_equation(method, order=order)
    fields = [field, *([[-rate * x for x in variables] for rate in method.decay.values()])]
    differentials = ExplicitDifferentials(fields, variables)
    total = sp.zeros(len(variables), 1)
    for tree, value in equation.items():
        total += h ** (tree.order - 1) * value / tree.symmetry * sp.Matrix(differentials.vector(tree))
    return list(total)


def test_lotka_volterra_is_the_published_field_term_by_term():
    """Structurally equal to the expanded sum: no zero terms, none that could be added, nothing to expand."""
    entry = next(e for e in FIELDS if e["method"] == "explicit Euler")
    components = mq.modified_equation(mq.GradientDescent(), order=6).on(LOTKA_VOLTERRA, [p, q], h=h).components
    assert components == tuple(sp.expand(sp.sympify(text)) for text in entry["field"])
    for component in components:
        assert len(found := monomials(component, {p, q, h})) == len(set(found))


@pytest.mark.some(4)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "field",
    [
        LOTKA_VOLTERRA,
        [a * q - p**3, b * p],
        [p * q / (a + b), -q / 2 + a**2 / 3],
        [sp.sin(a) * p**2, sp.sqrt(b) * p - q],
    ],
    ids=["Lotka–Volterra", "parameters", "rational in a parameter", "functions of a parameter"],
)
def test_fields_equal_the_sum_over_trees(name, field):
    components = mq.modified_equation(METHODS[name], order=4).on(field, [p, q], h=h).components
    for mine, plain in zip(components, unexpanded(METHODS[name], field, [p, q], 4), strict=True):
        assert sp.cancel(sp.together(mine - plain)) == 0
        assert len(found := monomials(mine, {p, q, h, a, b, lam})) == len(set(found))


def test_coefficients_of_symbols_are_reduced_and_factored():
    component = mq.modified_equation(mq.HeavyBall(beta), order=2).on(a * u**4 / 4, [u], h=h).components[0]
    assert component == -a * u**3 / (1 - beta) - 3 * a**2 * h * u**5 * (beta + 1) / (2 * (1 - beta) ** 3)


@pytest.mark.parametrize("name", METHODS)
def test_terms_that_cancel_are_gone(name):
    """A nilpotent field: p' = q², q' = 0 is solved exactly, without decay, by every method up to its clock."""
    components = mq.modified_equation(METHODS[name], order=5).on([q**2, sp.Integer(0)], [p, q], h=h).components
    if name == "decay":
        assert components[1] == sp.expand(sum((-1) ** (2 * k + 1) * lam**k * h ** (k - 1) * q / k for k in range(1, 6)))
    else:
        clock = {"heavy ball 1/2": 2, "heavy ball": 1 / (1 - beta)}.get(name, 1)
        assert components == (clock * q**2, 0)


@pytest.mark.parametrize("step", [Q(1, 10), 0.1, 2 * h, h / (1 - b), a], ids=str)
def test_steps_of_any_kind(step):
    field = [a * p * q - p, b * q**2 - p]
    equation = mq.modified_equation(mq.GradientDescent(), order=4)
    mine = equation.on(field, [p, q], h=step).components
    symbolic = equation.on(field, [p, q], h=h).components
    point = {p: Q(2, 3), q: Q(-1, 2), a: Q(3, 5), b: Q(1, 7)}
    for one, other in zip(mine, symbolic, strict=True):
        difference = (one - other.subs(h, step)).subs(point)
        assert sp.expand(difference) == 0 if not sp.sympify(step).has(sp.Float) else abs(difference) < 1e-14


@pytest.mark.parametrize("coefficient", [sp.sqrt(2), 0.5, sp.pi, sp.I], ids=str)
def test_coefficients_that_are_no_rational_functions(coefficient):
    """They are written out as expressions, and expanded: −cu − h c²u/2 − h² c³u/3 on a quadratic."""
    component = mq.modified_equation(mq.GradientDescent(), order=3).on(coefficient * u**2 / 2, [u], h=h).components[0]
    expected = sp.expand(-u * sum(coefficient ** (k + 1) * h**k / (k + 1) for k in range(3)))
    assert component == expected


@settings(max_examples=15)
@given(st.lists(st.integers(-4, 4), min_size=12, max_size=12), st.integers(2, 5))
def test_random_quadratic_fields(entries, order):
    basis = [1, u, v, u**2, u * v, v**2]
    field = [sp.Add(*(c * m for c, m in zip(entries[i::2], basis, strict=True))) for i in (0, 1)]
    components = mq.modified_equation(mq.GradientDescent(), order=order).on(field, [u, v], h=h).components
    assert components == tuple(sp.expand(entry) for entry in unexpanded(mq.GradientDescent(), field, [u, v], order))
