"""Laws of the initial layer; see numbered_laws.py for the numbered list."""

import hypothesis.strategies as st
import sympy as sp
from hypothesis import given, settings
from law_strategies import (
    all_trees,
    general_linear_methods,
    matrices,
    modified,
    numbers,
    runge_kutta,
)
from sympy import Rational as Q

import modeq as mq
from modeq.symbolic import algebra
from modeq.symbolic.initial_layer import initial_layer

SOME = settings(max_examples=20)
FEW = settings(max_examples=12)


@SOME
@given(runge_kutta())
def test_one_step_methods_have_no_initial_layer(method):
    assert set(initial_layer(method, 3).values()) == {0}


@SOME
@given(general_linear_methods(colours=2))
def test_on_the_slow_manifold_there_is_no_layer(method):
    """To first order it is X = uθ + h S f with (I − A) S = B1 − u g₋₁ and e·S = 0."""
    S = sp.zeros(method.state_count, 2)
    for colour in range(2):
        into = sum(
            (method.B[:, j] for j, c in enumerate(method.colours) if c == colour), sp.zeros(method.state_count, 1)
        )
        drift = modified(method, 1)[mq.Tree(colour, [])]
        rows = sp.Matrix.vstack(sp.eye(method.state_count) - method.A, method.readout)
        right = sp.Matrix.vstack(into - method.preconsistency * drift, sp.zeros(1, 1))
        S[:, colour] = (rows.T * rows).LUsolve(rows.T * right)
    assert set(initial_layer(method, 1, S).values()) == {0}


def iterates(method, tree, steps):
    """The coefficient of F(τ) in θ_n, by running the method on numbers."""
    known = {}

    def run(current):
        if current not in known:
            below = [run(child)[1] for child in current.children]
            state = method.start.col(current.colour) if not below else sp.zeros(method.state_count, 1)
            values, queries = [], []
            for n in range(steps + 1):
                R = sp.Matrix(
                    [
                        sp.prod([queries_of[n][j] for queries_of in below]) if c == current.colour else 0
                        for j, c in enumerate(method.colours)
                    ]
                )
                values.append((method.readout * state)[0])
                queries.append(method.C * state + method.D * R)
                state = method.A * state + method.B * R
            known[current] = values, queries
        return known[current]

    return run(tree)[0][steps]


def followed(method, order, steps):
    """The coefficients after the layer and the flow over the time of that many steps."""
    layer = dict(initial_layer(method, order))
    flow = algebra.flow_map({tree: steps * value for tree, value in modified(method, order).items()}, order)
    return algebra.compose(layer, flow, order)


@FEW
@given(general_linear_methods(colours=2, roots=st.just(Q(0))), st.integers(6, 9))
def test_shift_registers_are_followed_exactly(method, steps):
    """With the parasitic eigenvalue 0 the transient ends after finitely many steps."""
    assert followed(method, 3, steps) == {tree: iterates(method, tree, steps) for tree in all_trees(3, 2)}


@FEW
@given(general_linear_methods(roots=st.sampled_from([Q(1, 5), Q(-1, 4), Q(1, 3)])))
def test_transients_die_out(method):
    """The distance of the iterates from layer and flow falls like nᵏ3⁻ⁿ."""
    early, late = (
        max(abs(iterates(method, tree, n) - value) for tree, value in followed(method, 2, n).items()) for n in (8, 24)
    )
    assert late <= max(early, Q(1)) * Q(1, 3) ** 16 * 3**6


@FEW
@given(general_linear_methods(), numbers, numbers, st.data())
def test_the_first_layer_is_affine_in_the_buffers(method, s, t, data):
    one, two = (data.draw(matrices(method.state_count, 1)) for _ in range(2))

    def layer(buffers):
        return initial_layer(method, 1, buffers)[[]]

    assert layer(s * one + t * two) == s * layer(one) + t * layer(two) + (1 - s - t) * layer(0)
