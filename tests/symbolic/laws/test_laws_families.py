"""Laws of the momentum family and of weight decay; see numbered_laws.py for the numbered list."""

import math

import hypothesis.strategies as st
import sympy as sp
from hypothesis import given, settings
from law_strategies import (
    ORDER,
    X,
    all_trees,
    bush,
    chain,
    field_of,
    fractions,
    modified,
    momenta,
    one_colour_methods,
    optimizers,
    polynomials,
    weights,
    zero,
)
from sympy import Rational as Q

import modeq as mq
from modeq.symbolic.initial_layer import initial_layer

SOME = settings(max_examples=25)
FEW = settings(max_examples=12)
beta, h = sp.symbols("beta h")
rates = fractions(Q(1, 10), 1, 10)


@SOME
@given(momenta.filter(bool), fractions(0, Q(9, 10), 10))
def test_dampening_rescales_every_gradient(b, a):
    plain, dampened = modified(mq.HeavyBall(b)), modified(mq.HeavyBall(b, a))
    assert dampened == {tree: (1 - a) ** tree.order * value for tree, value in plain.items()}


@SOME
@given(momenta.filter(bool), fractions(0, Q(9, 10), 10))
def test_an_undamped_first_step_is_a_start_from_a_buffer(b, a):
    method = mq.HeavyBall(b, a)
    assert dict(initial_layer(method, 3)) == dict(initial_layer(method, 3, [[0], [a / b]]))


@SOME
@given(momenta, momenta)
def test_members_of_the_family_meet(b, c):
    assert modified(mq.QuasiHyperbolic(b, 0)) == modified(mq.HeavyBall(0, c)) == modified(mq.GradientDescent())
    assert modified(mq.QuasiHyperbolic(b, 1)) == modified(mq.HeavyBall(b, b))
    assert modified(mq.TripleMomentum(b, 0, 0)) == modified(mq.HeavyBall(b))
    assert modified(mq.TripleMomentum(b, b, 0)) == modified(mq.ClassicalNesterov(b))
    # Its extrapolated points are what torch's Nesterov calls the parameters.
    assert modified(mq.TripleMomentum(b, b, b)) == modified(mq.Nesterov(b))


@SOME
@given(momenta)
def test_nesterov_is_quasi_hyperbolic_with_equal_parameters(b):
    average = modified(mq.QuasiHyperbolic(b, b))
    assert modified(mq.Nesterov(b)) == {tree: value / (1 - b) ** tree.order for tree, value in average.items()}


@SOME
@given(st.sampled_from([mq.HeavyBall, mq.Nesterov]), momenta)
def test_momentum_makes_the_flow_faster(make, b):
    assert modified(make(b), 1)[mq.Tree([])] == 1 / (1 - b)


SYMBOLIC = {
    make: weights(mq.modified_equation(make(beta), ORDER))
    for make in (mq.HeavyBall, mq.Nesterov, mq.ClassicalNesterov, lambda b: mq.QuasiHyperbolic(b, Q(1, 3)))
}


@SOME
@given(st.sampled_from(list(SYMBOLIC)), momenta)
def test_symbols_and_numbers_agree(make, b):
    assert {tree: value.subs(beta, b) for tree, value in SYMBOLIC[make].items()} == modified(make(b))


HEAVY, MAP = (weights(derive(mq.HeavyBall(beta), 6)) for derive in (mq.modified_equation, mq.memoryless_map))


@given(st.sampled_from(list(HEAVY)))
def test_numerators_of_heavy_ball_are_palindromes(tree):
    """b(τ) = N(β)/(1 − β)^{2|τ|−1} with β^{|τ|−1} N(1/β) = N(β): for the flow and for the map, there over β."""
    bottom = (1 - beta) ** (2 * tree.order - 1)
    flow, step = (sp.Poly(sp.cancel(series[tree] * bottom), beta) for series in (HEAVY, MAP))
    numerator = [flow.nth(k) for k in range(tree.order)]
    assert numerator == numerator[::-1]
    assert flow.degree() < tree.order
    if tree.order > 1:
        numerator = [step.nth(k) for k in range(1, tree.order)]
        assert numerator == numerator[::-1]
        assert (step.nth(0), step.degree() < tree.order) == (0, True)


@SOME
@given(momenta, st.integers(1, 6))
def test_stars_of_heavy_ball_are_eulerian_and_chains_narayana(b, size):
    step = weights(mq.memoryless_map(mq.HeavyBall(b), size))
    sign, bottom, leaves = (-1) ** (size - 1), (1 - b) ** (2 * size - 1), size - 1
    eulerian = [
        sum((-1) ** j * math.comb(leaves + 1, j) * (k + 1 - j) ** leaves for j in range(k + 1)) for k in range(leaves)
    ]
    narayana = [Q(math.comb(leaves, k) * math.comb(leaves, k + 1), max(leaves, 1)) for k in range(leaves)]
    for tree, numbers in ((bush(leaves), eulerian), (chain(size), narayana)):
        numerator = b * sum(c * b**k for k, c in enumerate(numbers)) if leaves else 1
        assert step[tree] == sign * numerator / bottom


@settings(max_examples=8)
@given(momenta, fractions(0, Q(9, 10), 10))
def test_the_map_of_heavy_ball_is_gradient_descent_on_a_loss(b, a):
    step = mq.memoryless_map(mq.HeavyBall(b, a), 6)
    assert step.gradient_test().order == 6
    for u in all_trees(3):
        for v in all_trees(3):
            assert step[u.butcher_product(v)] == step[v.butcher_product(u)]


# Weight decay.


@SOME
@given(optimizers(), rates, st.booleans())
def test_decay_leaves_the_terms_of_the_gradient_alone(method, rate, decoupled):
    unit = list(method.readout) == [1] + [0] * (method.state_count - 1)
    decayed = modified(method.with_weight_decay(rate, decoupled=decoupled and unit), 3)
    assert {tree: value for tree, value in decayed.items() if tree.colours == {0}} == modified(method, 3)
    assert modified(method.with_weight_decay(0), 3) == modified(method, 3)


@settings(max_examples=10)
@given(one_colour_methods(), rates, polynomials())
def test_coupled_decay_is_decay_in_the_loss(method, rate, loss):
    decayed = field_of(method.with_weight_decay(rate), 2, loss)
    plain = field_of(method, 2, loss + rate / 2 * (X[0] ** 2 + X[1] ** 2))
    assert all(zero(one - other) for one, other in zip(decayed, plain, strict=True))


@settings(max_examples=10)
@given(rates, polynomials())
def test_gradient_descent_decays_alike_in_both_ways(rate, loss):
    coupled, decoupled = (
        field_of(mq.GradientDescent().with_weight_decay(rate, decoupled=d), 3, loss) for d in (False, True)
    )
    assert coupled == decoupled


@SOME
@given(momenta, rates, st.sampled_from([mq.HeavyBall, mq.Nesterov, mq.ClassicalNesterov]))
def test_decoupled_decay_without_a_loss_is_the_logarithm_of_its_factor(b, rate, make):
    """f̃ = log(1 − hλ)/h·θ."""
    method = make(b).with_weight_decay(rate, decoupled=True)
    for x, component in zip(X, field_of(method, 5, sp.Integer(0), h), strict=True):
        assert zero(component + sum(h ** (n - 1) * rate**n / n for n in range(1, 6)) * x)


@SOME
@given(momenta.filter(bool), rates)
def test_decoupled_decay_does_not_pass_through_the_momentum(b, rate):
    u = X[0]
    coupled, decoupled = (
        field_of(mq.HeavyBall(b).with_weight_decay(rate, decoupled=d), 1, u**2 / 2)[0] for d in (False, True)
    )
    assert (coupled, decoupled) == (sp.expand(-(1 + rate) * u / (1 - b)), sp.expand(-u / (1 - b) - rate * u))
