"""Laws of series written out on concrete losses and fields; see numbered_laws.py for the numbered list."""

import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from law_strategies import (
    X,
    chain,
    changes_of_coordinates,
    field_of,
    fields,
    fractions,
    is_gradient,
    matrices,
    nonzero,
    one_colour_methods,
    optimizers,
    polynomials,
    runge_kutta,
    series,
    symplectic_tableaus,
    zero,
)
from sympy import Rational as Q

import modeq as mq
from modeq.symbolic.fields_and_maps import BSeriesField

SOME = settings(max_examples=15)
FEW = settings(max_examples=8)
u, v = X
h = sp.Symbol("h")


def gradient(loss):
    return [sp.diff(loss, x) for x in X]


def same(one, other):
    return all(zero(a - b) for a, b in zip(one, other, strict=True))


@SOME
@given(one_colour_methods(), fields, changes_of_coordinates(2), st.tuples(nonzero, nonzero))
def test_affine_changes_of_variables(method, field, T, shift):
    """With θ = Tη + c the field T⁻¹f has the modified field T⁻¹f̃."""
    old = sp.Matrix(X)
    into = dict(zip(X, T * old + sp.Matrix(shift), strict=True))
    moved = list(T.inv() * sp.Matrix(field).subs(into, simultaneous=True))
    expected = T.inv() * sp.Matrix(field_of(method, 3, field)).subs(into, simultaneous=True)
    assert same(field_of(method, 3, [sp.expand(c) for c in moved]), expected)


@SOME
@given(one_colour_methods(), polynomials(degree=4), polynomials(degree=4))
def test_a_separable_loss_has_a_separable_field(method, one, two):
    one, two = one.subs(v, 0), two.subs(u, 0)
    both = field_of(method, 3, one + two)
    assert same(both, (field_of(method, 3, one)[0], field_of(method, 3, two)[1]))


@SOME
@given(one_colour_methods(), matrices(2, 2))
def test_on_a_linear_field_only_chains_are_left(method, M):
    equation = mq.modified_equation(method, 4)
    expected = sum((equation[chain(k)] * h ** (k - 1) * M**k for k in range(1, 5)), sp.zeros(2)) * sp.Matrix(X)
    assert same(equation.on(list(M * sp.Matrix(X)), X, h=h).components, expected)


@SOME
@given(st.tuples(fractions(-2, 2), fractions(-2, 2), fractions(-2, 2)))
def test_gradient_descent_on_quadratics_is_a_matrix_logarithm(entries):
    """h f̃ = log(I − hH) θ: its exponential is the step, to the truncation order."""
    a, b, c = entries
    H = sp.Matrix([[a, b], [b, c]])
    loss = (sp.Matrix(X).T * H * sp.Matrix(X))[0] / 2
    field = field_of(mq.GradientDescent(), 4, loss, h)
    M = (h * sp.Matrix(field)).jacobian(X)
    step = sum((M**k / sp.factorial(k) for k in range(5)), sp.zeros(2)) - (sp.eye(2) - h * H)
    assert all(sp.expand(entry).coeff(h, k) == 0 for entry in step for k in range(5))


@SOME
@given(one_colour_methods(), nonzero, fields)
def test_the_step_and_the_field_come_as_a_product(method, c, field):
    """The field cf with step h moves like f with step ch, c times as fast."""
    one, other = field_of(method, 3, [c * f for f in field], h), field_of(method, 3, field, c * h)
    assert same(one, [c * component for component in other])


@SOME
@given(one_colour_methods(), polynomials())
def test_equilibria_stay(method, loss):
    """Where f = 0, f̃ = 0, and its Jacobian there is a function of the Hessian."""
    at = {u: 0, v: 0}
    loss = loss - sum(g.subs(at) * x for g, x in zip(gradient(loss), X, strict=True))
    field = sp.Matrix(field_of(method, 3, loss))
    H, J = sp.hessian(loss, X).subs(at), field.jacobian(X).subs(at)
    assert field.subs(at) == sp.zeros(2, 1)
    assert H * J == J * H


RICH = sp.symbols("u v w")
LOSS = RICH[0] ** 3 * RICH[1] + RICH[1] ** 2 * RICH[2] - RICH[2] ** 3 + RICH[0] * RICH[2] + RICH[0] + RICH[0] ** 2
second_order = fractions(Q(1, 4), 1).map(
    lambda a: mq.RungeKutta([[0, 0], [1 - a, a]], [Q(1, 2), Q(1, 2)], name=f"two stages, a = {a}")
)


@FEW
@given(
    st.one_of(
        optimizers(), runge_kutta(), second_order, st.just(mq.RungeKutta([[0, 0], [Q(1, 3), Q(2, 3)]], [Q(1, 2)] * 2))
    )
)
def test_the_gradient_test_is_that_of_the_jacobian(method):
    """On a rich loss the Jacobian is symmetric exactly as far as b(u∘v) = b(v∘u)."""
    equation = mq.modified_equation(method, 3)
    symmetric = [is_gradient(field_of(method, p, LOSS, variables=RICH), RICH) for p in (1, 2, 3)]
    assert symmetric == [p <= equation.gradient_test().order for p in (1, 2, 3)]


@SOME
@given(optimizers(), st.booleans(), polynomials(degree=4))
def test_the_modified_loss_integrates_the_field(method, decayed, loss):
    if decayed:
        unit = list(method.readout) == [1] + [0] * (method.state_count - 1)
        method = method.with_weight_decay(Q(1, 3), decoupled=unit)
    equation = mq.modified_equation(method, 2)
    potential = equation.modified_loss(2).on(loss, X, h=h)
    assert same([-g for g in gradient(potential)], equation.on(loss, X, h=h).components)


@SOME
@given(st.tuples(fractions(0, Q(9, 10), 10), fractions(0, Q(9, 10), 10)), polynomials())
def test_the_modified_loss_of_the_map_gives_the_map(numbers, loss):
    step = mq.memoryless_map(mq.HeavyBall(*numbers), 3)
    potential = step.modified_loss(3).on(loss, X, h=h)
    assert same([-h * g for g in gradient(potential)], step.on(loss, X, h=h).components)


@SOME
@given(series(3), polynomials())
def test_a_field_is_a_gradient_and_a_remainder_without_one(weights, loss):
    field = BSeriesField.from_coefficients(weights, 3)
    potential, remainder = field.gradient_part()
    parts = zip(gradient(potential.on(loss, X, h=h)), remainder.on(loss, X, h=h).components, strict=True)
    assert same([rest - g for g, rest in parts], field.on(loss, X, h=h).components)
    assert not remainder.gradient_part()[0].terms


@FEW
@given(symplectic_tableaus(), polynomials())
def test_symplectic_tableaus_keep_the_area(tableau, H):
    """In the plane a Hamiltonian field is one without divergence."""
    field = field_of(mq.RungeKutta(*tableau), 3, [sp.diff(H, v), -sp.diff(H, u)])
    assert zero(sum(sp.diff(component, x) for component, x in zip(field, X, strict=True)))
