"""Laws that hold for every method; see numbered_laws.py for the numbered list."""

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
    general_linear_methods,
    in_coordinates,
    inside,
    matrices,
    modified,
    multisteps,
    nonzero,
    one_colour_methods,
    step_of,
    weights,
    with_queries,
)
from sympy import Rational as Q
from sympy.polys.matrices import DomainMatrix

import modeq as mq
from modeq.symbolic import algebra
from modeq.symbolic.initial_layer import initial_layer

TREES = all_trees(ORDER)
SOME = settings(max_examples=20)
FEW = settings(max_examples=12)
z = sp.Symbol("z")


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
    polynomials = DomainMatrix.from_Matrix(block.applyfunc(sp.expand)).convert_to(sp.QQ[x])
    residual = sp.Poly(sp.QQ[x].to_sympy(polynomials.charpoly()[-1]), x)  # the determinant, up to its sign
    assert all(residual.coeff_monomial(x**k) == 0 for k in range(order + 1))
