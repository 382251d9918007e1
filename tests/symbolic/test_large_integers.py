"""Exactness beyond 64-bit integers: the recursion against other computations with numbers that do not fit in them."""

import random
from fractions import Fraction
from math import comb, lcm, prod

import pytest
import sympy as sp
from sympy import Rational as Q

import modeq as mq

LIMIT = 2**63
BETA = Fraction(9, 10)


def random_tree(order, generator):
    """Each vertex hangs at a uniformly drawn earlier one."""
    children = [[] for _ in range(order)]
    for vertex in range(1, order):
        children[generator.randrange(vertex)].append(children[vertex])
    return mq.Tree(children[0])


def chain(order):
    return mq.Tree([] if order == 1 else [chain(order - 1)])


def bush(leaves):
    return mq.Tree([[]] * leaves)


def order_polynomial(tree, count):
    """The number of strictly order-preserving maps from the tree to n = 0, …, count − 1 labels."""
    below = [prod(column) for column in zip(*(order_polynomial(child, count) for child in tree.children), strict=True)]
    below = below or [1] * count
    return [sum(below[:n]) for n in range(count)]


def linear_coefficient(values):
    """p'(0) of a polynomial with p(0) = 0 from p(0), …, p(N), by Newton's forward differences: Σ (−1)^{k+1} Δᵏp/k."""
    total, differences = Fraction(0), list(values)
    for k in range(1, len(values)):
        differences = [b - a for a, b in zip(differences, differences[1:], strict=False)]
        total += Fraction((-1) ** (k + 1) * differences[0], k)
    return total


def heavy_ball_polynomial(tree):
    """The coefficients of p with p(n + 1) − (1 + β)p(n) + βp(n − 1) = Π p_child(n), p(0) = 0, from the top down."""
    right = [Fraction(1)]
    for child in tree.children:
        factor = heavy_ball_polynomial(child)
        product = [Fraction(0)] * (len(right) + len(factor) - 1)
        for i, a in enumerate(right):
            for j, b in enumerate(factor):
                product[i + j] += a * b
        right = product
    p = [Fraction(0)] * (len(right) + 1)
    for k in range(len(right), 0, -1):
        # n^j gives Σ_{i<j} C(j, i)(1 + (−1)^{j−i}β) n^i.
        known = sum(p[j] * comb(j, k - 1) * (1 + (-1) ** (j - k + 1) * BETA) for j in range(k + 1, len(p)))
        p[k] = (right[k - 1] - known) / (k * (1 - BETA))
    return p


@pytest.fixture(scope="module")
def gradient_descent():
    return mq.modified_equation(mq.GradientDescent(), order=15)


def test_order_polynomials_at_fifteen_vertices(gradient_descent):
    generator = random.Random(15)
    for _ in range(200):
        tree = random_tree(15, generator)
        assert gradient_descent[tree] == Q(*linear_coefficient(order_polynomial(tree, 16)).as_integer_ratio()), tree


def test_bushes_and_chains_of_gradient_descent(gradient_descent):
    for order in range(2, 16):
        assert gradient_descent[chain(order)] == Q((-1) ** (order + 1), order)
        leaves = order - 1
        bernoulli = sp.bernoulli(leaves) if leaves > 1 else -Q(1, 2)
        assert gradient_descent[bush(leaves)] == bernoulli


def test_where_sixty_four_bits_end():
    """Reading b off over a common denominator has terms beyond 64 bits from fourteen vertices on.

    The coefficient itself stays small, and double precision loses it: the tests above cross that order.
    """
    passed = []
    for order in range(2, 17):
        values = order_polynomial(bush(order - 1), order + 1)
        scale = lcm(*range(1, order + 1))
        weights = [(-1) ** (j + 1) * comb(order, j) * (scale // j) for j in range(1, order + 1)]
        terms = [weight * value for weight, value in zip(weights, values[1:], strict=True)]
        assert Q(sum(terms), scale) == (sp.bernoulli(order - 1) if order > 2 else -Q(1, 2))
        if max(map(abs, terms)) >= LIMIT:
            passed.append(order)
            assert sum(map(float, terms)) != sum(terms)
    assert passed == [14, 15, 16]


def test_order_polynomials_at_sixteen_vertices():
    equation = mq.modified_equation(mq.GradientDescent(), order=16)
    generator = random.Random(16)
    for _ in range(200):
        tree = random_tree(16, generator)
        assert equation[tree] == Q(*linear_coefficient(order_polynomial(tree, 17)).as_integer_ratio()), tree
    assert equation[chain(16)] == -Q(1, 16)
    assert equation[bush(15)] == 0


def test_heavy_ball_near_one():
    """Coefficients of momentum 9/10 grow like s^{1−2|τ|}: numerators pass 64 bits at ten vertices."""
    equation = mq.modified_equation(mq.HeavyBall(Q(9, 10)), order=12)
    generator = random.Random(12)
    largest = 0
    for tree in [chain(12), bush(11), *(random_tree(12, generator) for _ in range(100))]:
        expected = heavy_ball_polynomial(tree)[1]
        assert equation[tree] == Q(*expected.as_integer_ratio()), tree
        largest = max(largest, abs(expected))
    assert largest > LIMIT


@pytest.mark.parametrize("c", [10**15, Q(10**20, 7), -(10**19) + Q(1, 3)])
def test_tableaux_with_large_entries(c):
    """With one stage at c·h, the bush with m leaves has the Bernoulli polynomial B_m(c)."""
    equation = mq.modified_equation(mq.RungeKutta([[0, 0], [c, 0]], [0, 1]), order=7)
    for leaves in range(7):
        assert equation[bush(leaves)] == sp.bernoulli(leaves, c)
    assert abs(equation[bush(6)]) > LIMIT


def test_symbols_substituted_equal_numbers_beyond_the_limit():
    beta = sp.Symbol("beta")
    symbolic = mq.modified_equation(mq.HeavyBall(beta), order=8)
    numbers = mq.modified_equation(mq.HeavyBall(Q(999, 1000)), order=8)
    for tree, value in numbers.items():
        assert symbolic[tree].xreplace({beta: Q(999, 1000)}) == value
    assert max(abs(value) for value in numbers.values()) > LIMIT
