"""Laws of the algebra of B-series, for every series; see numbered_laws.py for the numbered list."""

import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from law_strategies import ORDER, X, all_trees, chain, fields, fractions, nonzero, numbers, polynomials, series, zero
from sympy import Rational as Q

from modeq.symbolic import algebra, structure
from modeq.symbolic.fields_and_maps import BSeriesField, BSeriesMap
from modeq.symbolic.rooted_trees import rootings

TREES = all_trees(ORDER)
FEW = settings(max_examples=15)
VERY_FEW = settings(max_examples=8)
h = sp.Symbol("h")
NOTHING = dict.fromkeys(TREES, sp.Integer(0))
ITSELF = {tree: sp.Integer(tree.order == 1) for tree in TREES}


def scaled(c, weights, power=lambda tree: tree.order):
    return {tree: c ** power(tree) * value for tree, value in weights.items()}


def times(c, weights):
    return {tree: c * value for tree, value in weights.items()}


@FEW
@given(series(), numbers)
def test_substitution_of_a_multiple_of_the_field(a, c):
    assert algebra.substitute(times(c, ITSELF), a, ORDER) == scaled(c, a)


@FEW
@given(series())
def test_units_of_the_three_products(a):
    assert algebra.compose(a, NOTHING, ORDER) == a == algebra.compose(NOTHING, a, ORDER)
    assert algebra.substitute(a, ITSELF, ORDER) == a == algebra.substitute(ITSELF, a, ORDER)
    assert algebra.flow_map(NOTHING, ORDER) == NOTHING == algebra.logarithm(NOTHING, ORDER)


@FEW
@given(series(), series(), series(), numbers)
def test_substitution_is_linear_in_the_outer_series(field, a, b, c):
    left = algebra.substitute(field, {tree: a[tree] + c * b[tree] for tree in TREES}, ORDER)
    one, two = (algebra.substitute(field, part, ORDER) for part in (a, b))
    assert left == {tree: one[tree] + c * two[tree] for tree in TREES}


@FEW
@given(series(), series(), series(), numbers)
def test_composition_is_affine_in_the_second_map(first, a, b, c):
    left = algebra.compose(first, {tree: c * a[tree] + (1 - c) * b[tree] for tree in TREES}, ORDER)
    one, two = (algebra.compose(first, part, ORDER) for part in (a, b))
    assert left == {tree: c * one[tree] + (1 - c) * two[tree] for tree in TREES}


@FEW
@given(series(), series())
def test_the_adjoint_reverses_a_composition(a, b):
    left = algebra.adjoint(algebra.compose(a, b, ORDER), ORDER)
    assert left == algebra.compose(algebra.adjoint(b, ORDER), algebra.adjoint(a, ORDER), ORDER)


@FEW
@given(series())
def test_the_adjoint_changes_the_sign_of_even_terms_of_the_field(a):
    forwards, backwards = (algebra.logarithm(step, ORDER) for step in (a, algebra.adjoint(a, ORDER)))
    assert backwards == {tree: (-1) ** (tree.order - 1) * value for tree, value in forwards.items()}


@FEW
@given(series())
def test_a_map_after_its_adjoint_is_symmetric(a):
    step = algebra.compose(algebra.adjoint(a, ORDER), a, ORDER)
    assert algebra.adjoint(step, ORDER) == step
    assert structure.is_even(algebra.logarithm(step, ORDER), ORDER)


@FEW
@given(series(), series(), numbers)
def test_conjugation_commutes_with_the_passing_of_time(change, b, c):
    back = algebra.inverse(change, ORDER)

    def moved(field):
        step = algebra.compose(algebra.compose(back, algebra.flow_map(field, ORDER), ORDER), change, ORDER)
        return algebra.logarithm(step, ORDER)

    assert moved(times(c, b)) == times(c, moved(b))


@FEW
@given(series(single=Q(2, 3)), series(single=Q(-1, 2)))
def test_substitution_inverse_reverses_a_substitution(a, b):
    left = algebra.substitution_inverse(algebra.substitute(a, b, ORDER), ORDER)
    one, two = (algebra.substitution_inverse(part, ORDER) for part in (a, b))
    assert left == algebra.substitute(two, one, ORDER)


@FEW
@given(series(), series())
def test_on_chains_composition_is_multiplication(a, b):
    x = sp.Symbol("x")

    def polynomial(weights):
        return 1 + sum(weights[chain(k)] * x**k for k in range(1, ORDER + 1))

    product = sp.expand(polynomial(a) * polynomial(b) - polynomial(algebra.compose(a, b, ORDER)))
    assert all(product.coeff(x, k) == 0 for k in range(ORDER + 1))


@FEW
@given(*[series(3, colours=2)] * 3)
def test_maps_of_two_fields_form_a_group_with_a_logarithm(a, b, c):
    ab, bc = algebra.compose(a, b, 3), algebra.compose(b, c, 3)
    assert algebra.compose(ab, c, 3) == algebra.compose(a, bc, 3)
    assert set(algebra.compose(a, algebra.inverse(a, 3), 3).values()) == {0}
    assert algebra.flow_map(algebra.logarithm(a, 3), 3) == a


# What the series are of: maps and fields in the plane, through h³.

LOW = 3
few_series = series(LOW)


def written_out(weights, field, offset):
    """θ⁺ − θ of a map (offset 0), or a field (offset 1), in the plane."""
    return (BSeriesMap, BSeriesField)[offset].from_coefficients(weights, LOW).on(field, X, h).components


def truncated(expression):
    return sp.Add(*(sp.expand(expression).coeff(h, k) * h**k for k in range(LOW + 1)))


@VERY_FEW
@given(few_series, few_series, fields, st.tuples(numbers, numbers))
def test_composition_is_that_of_maps(a, b, field, point):
    at = dict(zip(X, point, strict=True))
    first, second = (written_out(weights, field, 0) for weights in (a, b))
    inner = {x: start + component.subs(at) for (x, start), component in zip(at.items(), first, strict=True)}
    both = written_out(algebra.compose(a, b, LOW), field, 0)
    for x, two, found in zip(X, second, both, strict=True):
        assert zero(truncated((x + two).subs(inner, simultaneous=True)) - (x + found).subs(at))


@VERY_FEW
@given(few_series, few_series, fields)
def test_substitution_is_that_of_a_field(a, b, field):
    modified = written_out(a, field, 1)
    expected = written_out(algebra.substitute(a, b, LOW), field, 0)
    for one, two in zip(written_out(b, list(modified), 0), expected, strict=True):
        assert zero(truncated(one) - two)


@VERY_FEW
@given(few_series, fields)
def test_the_flow_is_the_lie_series_of_the_field(b, field):
    slope = written_out(b, field, 1)
    for x, found in zip(X, written_out(algebra.flow_map(b, LOW), field, 0), strict=True):
        term, total = x, 0
        for k in range(1, LOW + 1):
            term = truncated(h * sum(c * sp.diff(term, y) for c, y in zip(slope, X, strict=True))) / k
            total += term
        assert zero(total - found)


# Structure, for f = J∇H.

ROOTINGS = {tree: list(rootings(tree)) for tree in TREES}


@st.composite
def hamiltonian_fields(draw):
    """b(τ) = ±c for the rootings τ of one unrooted tree, the sign changing along every edge."""
    field = {}
    for tree in TREES:
        if tree not in field:
            value = draw(numbers)
            signs = {}
            for distance, rooted in ROOTINGS[tree]:
                signs.setdefault(rooted, set()).add((-1) ** distance)
            for rooted, found in signs.items():
                field[rooted] = value * min(found) if len(found) == 1 else sp.Integer(0)
            if any(len(found) > 1 for found in signs.values()):
                field.update(dict.fromkeys(signs, sp.Integer(0)))
    return field


@FEW
@given(hamiltonian_fields(), hamiltonian_fields())
def test_flows_of_hamiltonian_fields_form_the_group_of_symplectic_maps(a, b):
    one, two = (algebra.flow_map(field, ORDER) for field in (a, b))
    both = algebra.compose(one, two, ORDER)
    assert structure.is_symplectic(one, ORDER)
    assert structure.is_symplectic(both, ORDER)
    assert structure.is_hamiltonian(algebra.logarithm(both, ORDER), ORDER)


@VERY_FEW
@given(st.one_of(series(), hamiltonian_fields().map(lambda field: algebra.flow_map(field, ORDER))))
def test_a_map_is_symplectic_just_when_its_field_is_hamiltonian(a):
    field = algebra.logarithm(a, ORDER)
    for order in range(1, ORDER + 1):
        assert structure.is_symplectic(a, order) == structure.is_hamiltonian(field, order)


def averaged(order):
    """θ⁺ = θ + h ∫₀¹ f(θ + ξ(θ⁺ − θ)) dξ."""
    step = {}
    for tree in all_trees(order):
        step[tree] = sp.prod([step[child] for child in tree.children]) / sp.Integer(len(tree.children) + 1)
    return step


@FEW
@given(st.lists(nonzero, min_size=1, max_size=3))
def test_averaged_steps_of_any_sizes_preserve_energy(sizes):
    step = NOTHING
    for size in sizes:
        step = algebra.compose(step, scaled(size, averaged(ORDER)), ORDER)
    assert structure.is_energy_preserving(algebra.logarithm(step, ORDER), ORDER)


@FEW
@given(nonzero, polynomials(degree=3))
def test_fields_that_pass_the_test_of_energy_keep_every_energy(size, H):
    u, v = X
    f = [sp.diff(H, v), -sp.diff(H, u)]
    field = algebra.logarithm(algebra.compose(averaged(LOW), scaled(size, averaged(LOW)), LOW), LOW)
    assert structure.is_energy_preserving(field, LOW)
    assert zero(sum(sp.diff(H, x) * c for x, c in zip(X, written_out(field, f, 1), strict=True)))


@FEW
@given(fractions(-2, 2), nonzero)
def test_the_exact_flow_is_a_power_of_time(s, t):
    one, two = (algebra.flow_map(times(time, ITSELF), ORDER) for time in (s, t))
    assert one == {tree: s**tree.order / tree.density for tree in TREES}
    assert algebra.compose(one, two, ORDER) == algebra.flow_map(times(s + t, ITSELF), ORDER)
