"""Laws that tie the forms of the equation to one another; see numbered_laws.py for the numbered list."""

import math

import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from law_strategies import (
    ORDER,
    all_trees,
    general_linear_methods,
    momenta,
    nonzero,
    one_colour_methods,
    optimizers,
)
from sympy import Rational as Q

import modeq as mq
from modeq.symbolic import algebra
from modeq.symbolic.series import modified_coefficients

SOME = settings(max_examples=20)
FEW = settings(max_examples=10)
TREES = all_trees(ORDER)


def derivatives(method, order=ORDER):
    """β_k(τ) for k = 0, …, order: the coefficients of θ⁽ᵏ⁾ at h^{|τ|−k} along the modified flow."""
    trees = list(mq.modified_equation(method, order))
    found = [dict.fromkeys(trees, sp.Integer(0))]
    for k in range(1, order + 1):
        found.append(dict(zip(trees, modified_coefficients(method, order, k).expressions, strict=True)))
    return found


@FEW
@given(one_colour_methods(), nonzero)
def test_the_derivatives_are_the_taylor_series_of_the_flow(method, time):
    b = derivatives(method)
    flow = algebra.flow_map({tree: time * value for tree, value in b[1].items()}, ORDER)
    assert flow == {tree: sum(time**k / math.factorial(k) * b[k][tree] for k in range(ORDER + 1)) for tree in b[1]}


def at_theta():
    return st.one_of(
        optimizers().filter(lambda method: method.queries_at_parameters),
        general_linear_methods(at_theta=True),
    )


@SOME
@given(at_theta())
def test_the_time_derivative_form_holds_along_the_modified_flow(method):
    """Σ c_k h^{k−1} θ⁽ᵏ⁾ = f, tree by tree."""
    b = derivatives(method)
    c = mq.time_derivative_form(method, ORDER).coefficients
    for tree in b[1]:
        assert sum(c[k - 1] * b[k][tree] for k in range(1, ORDER + 1)) == int(tree.order == 1)


@SOME
@given(at_theta(), st.booleans())
def test_the_time_derivative_form_with_decay_holds_along_the_modified_flow(method, decoupled):
    """Σ c_k h^{k−1} θ⁽ᵏ⁾ + λ Σ d_k h^k θ⁽ᵏ⁾ = f: a tree with a root of decay is −λθ⁽ᵏ⁾ of its branch."""
    unit = list(method.readout) == [1] + [0] * (method.state_count - 1)
    method = method.with_weight_decay(Q(1, 3), decoupled=decoupled and unit)
    order = 3
    b = derivatives(method, order)
    form = mq.time_derivative_form(method, order)
    for tree in b[1]:
        total = sum(form.coefficients[k - 1] * b[k][tree] for k in range(1, order + 1))
        if tree.colour == 1:
            d = form.decay_coefficients
            branch = [b[k][tree.children[0]] for k in range(order)] if tree.children else [1]
            total -= sum(d[k] * value for k, value in enumerate(branch))
        assert total == int(tree == mq.Tree([]))


@SOME
@given(at_theta())
def test_the_phase_space_form_holds_along_the_modified_flow(method):
    """q(D)θ = h Σ r_k D^k f, tree by tree; f has the coefficients Π p(children), q and r hold logarithms."""
    n = sp.Symbol("n")
    b = derivatives(method)
    form = mq.phase_space_form(method, ORDER)

    def polynomial(tree):
        return sum(b[k][tree] * n**k / math.factorial(k) for k in range(ORDER + 1))

    for tree in b[1]:
        gradient = sp.Poly(sp.prod([polynomial(child) for child in tree.children]), n)
        left = sum(q * b[k][tree] for k, q in enumerate(form.q, start=1) if k <= ORDER)
        right = sum(r * math.factorial(k) * gradient.coeff_monomial(n**k) for k, r in enumerate(form.r[0]))
        assert abs(sp.N(left - right, 30)) < 1e-15


@SOME
@given(momenta, st.sampled_from([mq.HeavyBall, mq.Nesterov]))
def test_the_phase_space_form_keeps_the_transient(b, make):
    """q(ln β) = 0, and interpolated r is q·G there: the transient is a solution with f at its own rate."""
    form = mq.phase_space_form(make(b), 2, "hermite")
    zeta, z = sp.Symbol("zeta"), sp.Symbol("z")
    q = sum(c * zeta**k for k, c in enumerate(form.q, start=1))
    G = make(b).transfer_function(z)
    for pole in form.poles:
        at = sp.log(pole)
        residue = sp.cancel(G * (z - pole)).subs(z, pole)
        r = sum(c * at**k for k, c in enumerate(form.r[0]))
        assert abs(sp.N(q.subs(zeta, at), 30)) < 1e-20
        assert abs(sp.N(r - sp.diff(q, zeta).subs(zeta, at) * residue / pole, 30)) < 1e-20
    assert len(form.poles) + len(form.left_out) == (1 if b else 0)
