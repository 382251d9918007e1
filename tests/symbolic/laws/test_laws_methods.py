"""Laws that hold for every method, and for every Runge–Kutta or multistep method; see laws.py."""

import math
from itertools import product

import hypothesis.strategies as st
import sympy as sp
from hypothesis import given, settings
from law_strategies import (
    ORDER,
    all_trees,
    bare,
    bush,
    chain,
    changes_of_coordinates,
    fractions,
    general_linear_methods,
    in_coordinates,
    inside,
    matrices,
    multisteps,
    nonzero,
    numbers,
    one_colour_methods,
    root_lists,
    runge_kutta,
    symplectic_tableaus,
    tableaus,
    weights,
    with_queries,
)
from sympy import Rational as Q

import modeq as mq
from modeq.symbolic import algebra, structure
from modeq.symbolic.initial_layer import initial_layer

TREES = all_trees(ORDER)
SOME = settings(max_examples=20)
FEW = settings(max_examples=12)
z = sp.Symbol("z")


def modified(method, order=ORDER):
    return weights(mq.modified_equation(method, order))


def step_of(method, order=ORDER):
    return weights(mq.memoryless_map(method, order))


# Two ways to describe one method.


@SOME
@given(general_linear_methods(colours=2), st.data())
def test_coordinates_of_the_state(method, data):
    moved = in_coordinates(method, data.draw(changes_of_coordinates(method.state_count)))
    assert modified(moved, 3) == modified(method, 3)
    assert dict(initial_layer(moved, 2)) == dict(initial_layer(method, 2))


@SOME
@given(general_linear_methods(colours=2), st.data())
def test_numbering_of_the_queries(method, data):
    p = data.draw(st.permutations(range(method.query_count)))
    states = range(method.state_count)
    renamed = with_queries(
        method,
        method.B.extract(states, p),
        method.C.extract(p, states),
        method.D.extract(p, p),
        tuple(method.colours[i] for i in p),
    )
    assert modified(renamed, 3) == modified(method, 3)


@SOME
@given(general_linear_methods(colours=3), st.permutations(range(3)))
def test_names_of_the_colours(method, new):
    renamed = with_queries(method, colours=tuple(new[c] for c in method.colours))

    def painted(tree):
        return mq.Tree(new[tree.colour], [painted(child) for child in tree.children])

    found = modified(renamed, 3)
    assert all(found[painted(tree)] == value for tree, value in modified(method, 3).items())


@SOME
@given(general_linear_methods(colours=2))
def test_equal_fields_add_up(method):
    total = dict.fromkeys(all_trees(3), sp.Integer(0))
    for tree, value in modified(method, 3).items():
        total[bare(tree)] += value / tree.symmetry
    plain = modified(with_queries(method, colours=(0,) * method.query_count), 3)
    assert total == {tree: value / tree.symmetry for tree, value in plain.items()}


@SOME
@given(one_colour_methods())
def test_a_field_split_in_two(method):
    """With f = f₀ + f₁, every colouring of a tree has the coefficient of the tree."""
    D = sp.Matrix(sp.BlockMatrix([[method.D, method.D], [method.D, method.D]]))
    B, C = sp.Matrix.hstack(method.B, method.B), sp.Matrix.vstack(method.C, method.C)
    split = with_queries(method, B, C, D, (0,) * method.query_count + (1,) * method.query_count)
    plain = modified(method, 3)
    assert all(value == plain[bare(tree)] for tree, value in modified(split, 3).items())


@SOME
@given(general_linear_methods(colours=2), inside, st.booleans(), st.data())
def test_a_state_that_is_not_excited_or_not_seen(method, root, seen, data):
    """Seen: it is in every query, but no field reaches it. Not seen: fields drive it, but no query reads it."""
    n, q = method.state_count, method.query_count
    into, out = data.draw(matrices(1, n + q)), data.draw(matrices(n + q + 1, 1))
    row = sp.zeros(1, n + q) if seen else into
    column = out if seen else sp.zeros(n + q + 1, 1)
    bigger = mq.GeneralLinearMethod(
        A=sp.Matrix(sp.BlockMatrix([[method.A, column[:n, :]], [row[:, :n], sp.Matrix([[root]])]])),
        B=sp.Matrix.vstack(method.B, row[:, n:]),
        C=sp.Matrix.hstack(method.C, column[n : n + q, :]),
        D=method.D,
        readout=sp.Matrix.hstack(method.readout, column[n + q :, :]),
        start=sp.Matrix.vstack(method.start, sp.zeros(1, method.colour_count)),
        colours=method.colours,
    )
    assert modified(bigger, 3) == modified(method, 3)
    assert dict(initial_layer(bigger, 2)) == dict(initial_layer(method, 2))


@SOME
@given(general_linear_methods(at_theta=True, queries=1))
def test_the_transfer_function_is_all(method):
    """With one query at θ the transposed realisation (Aᵀ, Cᵀ, Bᵀ) has the same transfer function."""
    transposed = mq.GeneralLinearMethod(
        A=method.A.T,
        B=method.C.T * (drift := modified(method, 1)[mq.Tree([])]),
        C=method.B.T / drift,
        D=[[0]],
        readout=method.B.T / drift,
    )
    assert sp.cancel(transposed.transfer_function(z) - method.transfer_function(z)) == 0
    assert modified(transposed) == modified(method)


@SOME
@given(multisteps(), inside)
def test_a_common_factor_of_a_multistep_method(pair, root):
    def longer(coefficients):
        return sp.Poly(sp.Poly(coefficients[::-1], z) * sp.Poly(z - root, z), z).all_coeffs()[::-1]

    rho, sigma = pair
    while sigma[-1] == 0:
        sigma = sigma[:-1]
    long, short = mq.LinearMultistep(longer(rho), longer(sigma)), mq.LinearMultistep(rho, sigma)
    assert modified(long) == modified(short)


# Operations on methods.


def twice(method):
    A, B, C, D = method.A, method.B, method.C, method.D
    return mq.GeneralLinearMethod(
        A=A * A,
        B=sp.Matrix.hstack(A * B, B),
        C=sp.Matrix.vstack(C, C * A),
        D=sp.Matrix(sp.BlockMatrix([[D, sp.zeros(*D.shape)], [C * B, D]])),
        readout=method.readout,
        start=method.start,
        colours=method.colours * 2,
    )


@SOME
@given(general_linear_methods(colours=2))
def test_two_steps_as_one(method):
    one, two = modified(method, 3), modified(twice(method), 3)
    assert two == {tree: 2 * value for tree, value in one.items()}
    assert dict(initial_layer(twice(method), 2)) == dict(initial_layer(method, 2))


@SOME
@given(general_linear_methods(colours=2), nonzero)
def test_the_field_times_a_number(method, c):
    faster = with_queries(method, B=c * method.B, D=c * method.D)
    start = c * method.start
    assert modified(faster, 3) == {tree: c**tree.order * b for tree, b in modified(method, 3).items()}
    layer = dict(initial_layer(method, 2))
    assert dict(initial_layer(faster, 2, start)) == {tree: c**tree.order * value for tree, value in layer.items()}


@SOME
@given(general_linear_methods(colours=2))
def test_a_longer_equation_extends_a_shorter_one(method):
    long, short = modified(method, 4), modified(method, 2)
    assert short == {tree: value for tree, value in long.items() if tree.order <= 2}


@SOME
@given(st.one_of(one_colour_methods(), general_linear_methods(colours=2)))
def test_the_memoryless_map_is_the_flow_of_the_modified_equation(method):
    order = ORDER if method.colour_count == 1 else 3
    field, step = modified(method, order), step_of(method, order)
    assert algebra.flow_map(field, order) == step
    assert algebra.logarithm(step, order) == field


@SOME
@given(one_colour_methods())
def test_modifying_and_modified_are_inverse(method):
    forwards, backwards = modified(method), weights(mq.modifying_equation(method, ORDER))
    itself = {tree: sp.Integer(tree.order == 1) for tree in TREES}
    assert algebra.substitute(backwards, forwards, ORDER) == itself
    assert algebra.substitute(forwards, backwards, ORDER) == itself


# Coefficients from the transfer function.


@SOME
@given(general_linear_methods(at_theta=True, queries=1))
def test_bushes_are_the_laurent_coefficients(method):
    """With G(e^ζ) = Σ g_k ζᵏ, b([•ᵏ]) = k! g_{k−1} g₋₁ᵏ: Bernoulli numbers for gradient descent."""
    zeta = sp.Symbol("zeta")
    top, bottom = (sp.Poly(part, z) for part in sp.fraction(sp.cancel(method.transfer_function(z))))

    def series(polynomial):
        return [sum(c * Q(m[0]) ** k for m, c in polynomial.terms()) / math.factorial(k) for k in range(ORDER + 1)]

    ratio = [c / series(bottom)[1] for c in series(top)]
    lower = series(bottom)[1:]
    g = []
    for k in range(ORDER):
        g.append(ratio[k] - sum(lower[m] * g[k - m] for m in range(1, k + 1)) / lower[0])
    assert zeta not in sp.sympify(g[0]).free_symbols
    found = modified(method)
    for k in range(ORDER):
        assert found[bush(k)] == math.factorial(k) * g[k] * g[0] ** k


@FEW
@given(general_linear_methods(colours=2), st.tuples(nonzero, nonzero))
def test_chains_solve_the_characteristic_equation(method, ratios):
    """On f_c = −x_c θ/h the flow multiplies θ by z = exp Σ b(chain) Π(−x_c), and det(zI − step(x)) = 0."""
    x, order = sp.Symbol("x"), 3
    found = modified(method, order)
    exponent = sp.Integer(0)
    for length in range(1, order + 1):
        for colours in product(range(2), repeat=length):
            exponent += found[chain(length, colours)] * (-x) ** length * sp.prod([ratios[c] for c in colours])
    root = sp.Add(*(exponent**k / math.factorial(k) for k in range(order + 1)))
    R = x * sp.diag(*(ratios[c] for c in method.colours))
    block = sp.Matrix(
        sp.BlockMatrix(
            [
                [root * sp.eye(method.state_count) - method.A, method.B * R],
                [-method.C, sp.eye(len(R[0, :])) + method.D * R],
            ]
        )
    )
    residual = sp.Poly(sp.expand(block.det(method="berkowitz")), x)
    assert all(residual.coeff_monomial(x**k) == 0 for k in range(order + 1))


# Runge–Kutta methods.


def elementary_weights(A, b, trees):
    """Φ([τ₁,…,τ_m]) = Σ b_i Π_k (A Φ-stages(τ_k))_i."""

    def stages(tree):
        below = [A * stages(child) for child in tree.children]
        return sp.Matrix([sp.prod([column[i] for column in below]) for i in range(A.rows)])

    return {tree: sum((w * s for w, s in zip(b, stages(tree), strict=True)), sp.Integer(0)) for tree in trees}


@SOME
@given(tableaus())
def test_the_map_of_a_tableau_has_its_elementary_weights(tableau):
    assert step_of(mq.RungeKutta(*tableau)) == elementary_weights(*tableau, TREES)


orders = st.one_of(
    fractions(Q(1, 6), 2).map(lambda c: (2, [[0, 0], [c, 0]], [1 - 1 / (2 * c), 1 / (2 * c)])),
    st.tuples(nonzero, nonzero)
    .filter(lambda c: c[0] != c[1] and c[0] != Q(2, 3))
    .map(lambda c: (3, *kutta_of_order_three(*c))),
)


def kutta_of_order_three(c, d):
    """The two-parameter family of Kutta: quadrature of order 3 on the nodes 0, c, d."""
    b = sp.Matrix([[1, 1, 1], [0, c, d], [0, c**2, d**2]]).LUsolve(sp.Matrix([1, Q(1, 2), Q(1, 3)]))
    last = 1 / (6 * b[2] * c)
    return [[0, 0, 0], [c, 0, 0], [d - last, last, 0]], list(b)


@SOME
@given(st.one_of(tableaus(), orders.map(lambda case: (sp.Matrix(case[1]), case[2]))))
def test_the_first_error_of_a_tableau(tableau):
    """Below its order of accuracy b(τ) = 0; there b(τ) = Φ(τ) − 1/γ(τ)."""
    found = modified(mq.RungeKutta(*tableau))
    misses = {tree: value - Q(1, tree.density) for tree, value in elementary_weights(*tableau, TREES).items()}
    first = min((tree.order for tree, miss in misses.items() if miss), default=ORDER + 1)
    for tree, value in found.items():
        if tree.order <= first:
            assert value == misses[tree] + int(tree.order == 1)


@SOME
@given(orders)
def test_methods_of_an_order_leave_the_field_alone_up_to_it(case):
    q, A, b = case
    assert modified(mq.RungeKutta(A, b), q) == {tree: sp.Integer(tree.order == 1) for tree in all_trees(q)}


@SOME
@given(tableaus())
def test_the_adjoint_tableau(tableau):
    """1bᵀ − A, b: every term of the field changes sign with (−1)^{|τ|−1}."""
    A, b = tableau
    forwards = mq.RungeKutta(A, b)
    backwards = mq.RungeKutta(sp.Matrix([b] * len(b)) - A, b)
    assert modified(backwards) == {tree: (-1) ** (tree.order - 1) * c for tree, c in modified(forwards).items()}
    assert step_of(backwards) == algebra.adjoint(step_of(forwards), ORDER)


@SOME
@given(tableaus(), tableaus())
def test_one_tableau_after_another(one, two):
    A = sp.Matrix(
        sp.BlockMatrix([[one[0], sp.zeros(len(one[1]), len(two[1]))], [sp.Matrix([one[1]] * len(two[1])), two[0]]])
    )
    both = mq.RungeKutta(A, [*one[1], *two[1]])
    first, second = (step_of(mq.RungeKutta(*tableau)) for tableau in (one, two))
    assert step_of(both) == algebra.compose(first, second, ORDER)


@SOME
@given(tableaus(explicit=False))
def test_symmetric_tableaus_have_even_equations(tableau):
    """A + PAP = 1bᵀ with P the reversal of the stages and b = Pb."""
    A, b = tableau
    even = [(c + d) / 2 for c, d in zip(b, b[::-1], strict=True)]
    mirrored = sp.Matrix(A.rows, A.rows, lambda i, j: A[A.rows - 1 - i, A.rows - 1 - j])
    method = mq.RungeKutta((A - mirrored + sp.Matrix([even] * A.rows)) / 2, even)
    assert mq.modified_equation(method, ORDER).is_even()


@SOME
@given(symplectic_tableaus())
def test_symplectic_tableaus_have_hamiltonian_equations(tableau):
    method = mq.RungeKutta(*tableau)
    assert mq.modified_equation(method, ORDER).is_hamiltonian()
    assert mq.memoryless_map(method, ORDER).is_symplectic()


@FEW
@given(tableaus(explicit=False))
def test_a_tableau_after_its_adjoint_is_even(tableau):
    A, b = tableau
    ones = sp.Matrix([b] * len(b))
    both = sp.Matrix(sp.BlockMatrix([[ones - A, sp.zeros(*A.shape)], [ones, A]]))
    assert structure.is_even(modified(mq.RungeKutta(both, [*b, *b])), ORDER)


# Linear multistep methods.


@SOME
@given(root_lists(0, 2))
def test_multistep_methods_of_an_order_leave_the_field_alone_up_to_it(roots):
    """Explicit, σ = ρ(z)/log z to the power z^{k−1} about z = 1: of order k."""
    x = sp.Symbol("x")
    rho = sp.Poly((z - 1) * sp.prod([z - root for root in roots]), z)
    steps = rho.degree()
    # ρ(1 + x)/log(1 + x) = Σ s_k xᵏ
    top = sp.Poly(rho.as_expr().subs(z, 1 + x), x).all_coeffs()[::-1][1:]
    s = []
    for k in range(steps):
        s.append(top[k] - sum(Q((-1) ** m, m + 1) * s[k - m] for m in range(1, k + 1)))
    sigma = sp.Poly(sum(c * (z - 1) ** k for k, c in enumerate(s)), z)
    method = mq.LinearMultistep(rho.all_coeffs()[::-1], sigma.all_coeffs()[::-1])
    assert modified(method, steps) == {tree: sp.Integer(tree.order == 1) for tree in all_trees(steps)}


# The start.


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
