"""Laws that tie the modified equations of different methods to one another."""

import pytest
import registry
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Rational as Q

import modeq as mq

momenta = st.fractions(0, Q(19, 20), max_denominator=20).map(Q)


def same(one, other):
    return all(sp.cancel(one[tree] - other[tree]) == 0 for tree in one) and list(one) == list(other)


def twice(method):
    """Two steps, each of size h, as one method with twice the queries."""
    A, B, C, D = method.A, method.B, method.C, method.D
    return mq.GeneralLinearMethod(
        A=A * A,
        B=sp.Matrix.hstack(A * B, B),
        C=sp.Matrix.vstack(C, C * A),
        D=sp.Matrix(sp.BlockMatrix([[D, sp.zeros(*D.shape)], [C * B, D]])),
        readout=method.readout,
        start=method.start,
        name=f"{method} twice",
    )


PLAIN = registry.names(lambda m: m.colour_count == 1)


@pytest.mark.parametrize("name", PLAIN)
def test_two_steps_at_once_follow_the_same_flow(name):
    """A step that is Φ_h∘Φ_h takes the flow over the time 2h, which doubles the field: b doubles at every order."""
    method = registry.METHODS[name]()
    one, two = mq.modified_equation(method, order=4), mq.modified_equation(twice(method), order=4)
    assert all(two[tree] == 2 * value for tree, value in one.items())


@pytest.mark.parametrize("name", PLAIN)
def test_two_steps_at_once_start_at_the_same_place(name):
    method = registry.METHODS[name]()
    one, two = (mq.modified_equation(m, order=4).initial_layer() for m in (method, twice(method)))
    assert dict(one) == dict(two)


@given(momenta, st.fractions(0, Q(9, 10), max_denominator=10).map(Q))
def test_dampening_rescales_every_gradient(b, a):
    """(1 − α)f in place of f: each vertex brings one factor."""
    plain = mq.modified_equation(mq.HeavyBall(b), order=4)
    a_used = a if b != 0 else 0  # torch ignores dampening without momentum
    dampened = mq.modified_equation(mq.HeavyBall(b, a), order=4)
    assert all(dampened[tree] == (1 - a_used) ** tree.order * value for tree, value in plain.items())


@given(momenta)
def test_averaged_momentum_is_full_dampening(b):
    """v⁺ = βv + (1 − β)g has time h·n without rescaling: b(•) = 1."""
    if b:
        assert mq.modified_equation(mq.HeavyBall(b, b), order=1)[[]] == 1


@given(momenta)
def test_momentum_makes_the_flow_faster(b):
    for make in (mq.HeavyBall, mq.Nesterov, mq.ClassicalNesterov):
        assert mq.modified_equation(make(b), order=1)[[]] == 1 / (1 - b)


def test_decay_of_gradient_descent_is_the_same_coupled_and_decoupled():
    lam = sp.Symbol("lambda")
    coupled, decoupled = (
        mq.modified_equation(mq.GradientDescent().with_weight_decay(lam, decoupled=d), order=5) for d in (False, True)
    )
    assert same(coupled, decoupled)
    assert dict(coupled.initial_layer()) == dict(decoupled.initial_layer())


@settings(max_examples=10)
@given(momenta, st.sampled_from([mq.HeavyBall, mq.Nesterov]), st.integers(1, 9))
def test_coupled_decay_is_decay_in_the_loss(b, make, tenths):
    """The equation with a colour for −λθ equals the plain one on L + (λ/2)|θ|²."""
    u, v = sp.symbols("u v")
    rate, loss = Q(tenths, 10), u**3 * v + v**2 - u
    decayed = mq.modified_equation(make(b).with_weight_decay(rate), order=3).on(loss, [u, v])
    plain = mq.modified_equation(make(b), order=3).on(loss + rate / 2 * (u**2 + v**2), [u, v])
    assert decayed.components == plain.components


@settings(max_examples=10)
@given(momenta.filter(bool), st.integers(1, 9))
def test_decoupled_decay_differs_from_coupled_as_soon_as_there_is_momentum(b, tenths):
    u, rate = sp.Symbol("u"), Q(tenths, 10)
    coupled, decoupled = (
        mq.modified_equation(mq.HeavyBall(b).with_weight_decay(rate, decoupled=d), order=1).on(u**2 / 2, [u])
        for d in (False, True)
    )
    assert coupled.components == (-(1 + rate) * u / (1 - b),)
    assert decoupled.components == (-u / (1 - b) - rate * u,)


def test_decay_without_a_loss_is_the_logarithm_of_its_factor():
    """On L = 0 decoupled decay multiplies θ by 1 − hλ: f̃ = log(1 − hλ)/h·θ, whatever the momentum."""
    u, h = sp.symbols("u h")
    rate = Q(1, 3)
    method = mq.HeavyBall(Q(9, 10)).with_weight_decay(rate, decoupled=True)
    component = mq.modified_equation(method, order=6).on(sp.Integer(0), [u], h=h).components[0]
    assert sp.expand(component + sum(h ** (n - 1) * rate**n / n for n in range(1, 7)) * u) == 0


def test_the_colours_of_decay_sum_to_the_coefficient_without_colours():
    """f₁ = f₀ would be the method with twice the field: summed over colourings, b·2^{|τ|} is recovered."""
    method = mq.HeavyBall(Q(1, 2)).with_weight_decay(Q(1, 3))
    nonlinear = mq.GeneralLinearMethod(
        A=method.A, B=method.B, C=method.C, D=method.D, colours=method.colours, start=method.start
    )
    split, plain = mq.modified_equation(nonlinear, order=4), mq.modified_equation(mq.HeavyBall(Q(1, 2)), order=4)

    def bare(tree):
        return mq.Tree([bare(child) for child in tree.children])

    sums = dict.fromkeys(plain, 0)
    for tree, value in split.items():
        sums[bare(tree)] += value / tree.symmetry
    assert sums == {tree: 2**tree.order * value / tree.symmetry for tree, value in plain.items()}


@pytest.mark.parametrize("name", ["gradient descent", "RK4", "explicit midpoint", "extragradient"])
def test_the_adjoint_runs_backwards(name):
    """Φ*_h = Φ_{−h}⁻¹: each term of the modified field changes sign with (−1)^{|τ|−1}.

    For a tableau (A, b) it is (1bᵀ − A, b) with reversed stages.
    """
    method = registry.METHODS[name]()
    rows = sp.Matrix([list(method.B)] * method.query_count)
    adjoint = mq.GeneralLinearMethod(A=[[1]], B=method.B, C=method.C, D=rows - method.D, name=f"adjoint of {name}")
    forwards, backwards = mq.modified_equation(method, order=5), mq.modified_equation(adjoint, order=5)
    assert all(backwards[tree] == (-1) ** (tree.order - 1) * value for tree, value in forwards.items())


@given(st.permutations(range(4)))
def test_the_order_of_queries_is_a_matter_of_notation(order):
    method = registry.METHODS["RK4"]()
    queries = list(order)
    renamed = mq.GeneralLinearMethod(
        A=method.A,
        B=method.B.extract([0], queries),
        C=method.C.extract(queries, [0]),
        D=method.D.extract(queries, queries),
    )
    assert dict(mq.modified_equation(renamed, order=5)) == dict(mq.modified_equation(method, order=5))


@given(st.lists(st.integers(-3, 3), min_size=4, max_size=4).filter(lambda m: m[0] * m[3] != m[1] * m[2]))
def test_the_coordinates_of_the_state_are_a_matter_of_notation(entries):
    """X → TX changes no equation and no layer."""
    T = sp.Matrix(2, 2, entries)
    method = mq.HeavyBall(Q(1, 2), Q(1, 3))
    moved = mq.GeneralLinearMethod(
        A=T * method.A * T.inv(),
        B=T * method.B,
        C=method.C * T.inv(),
        D=method.D,
        readout=method.readout * T.inv(),
        start=T * method.start,
    )
    one, other = mq.modified_equation(method, order=4), mq.modified_equation(moved, order=4)
    assert dict(one) == dict(other)
    assert dict(one.initial_layer()) == dict(other.initial_layer())


@given(momenta)
def test_higher_order_equations_extend_lower_ones(b):
    long, short = (mq.modified_equation(mq.Nesterov(b), order=p) for p in (5, 3))
    assert dict(short) == {tree: value for tree, value in long.items() if tree.order <= 3}
