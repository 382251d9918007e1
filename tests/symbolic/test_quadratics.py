"""On quadratics a modified equation is the logarithm of the principal root, term by term."""

from itertools import product

import pytest
import registry
import sympy as sp

import modeq as mq

ORDER = 8
DECAY_RATIO = sp.Rational(2, 3)


def logarithm_of_principal_root(method, ratios, order):
    """Taylor coefficients in x of log z₁ on f_c = −ratio_c·θ·x/h, from the eigenvalue of the step itself.

    z₁ is expanded by Newton's iteration on det(zI − M(x)), M = A − xB R (I + xD R)⁻¹ C the step.
    """
    x, z = sp.symbols("x z")
    R = sp.diag(*(ratios[c] for c in method.colours))
    inner = sp.eye(method.query_count) + x * method.D * R
    block = sp.Matrix(
        sp.BlockMatrix([[z * sp.eye(method.state_count) - method.A, x * method.B * R], [-method.C, inner]])
    )
    ring, X, Z = sp.ring("x,z", sp.QQ)
    P = ring.from_expr(sp.expand(block.det(method="berkowitz")))

    def truncated(p):
        return ring.from_dict({m: c for m, c in p.items() if m[0] <= order})

    slope = P.diff(Z).compose([(X, ring.zero), (Z, ring.one)])
    inverse = 1 / slope.LC
    root = ring.one
    for _ in range(order):  # each pass gains a power of x
        root = truncated(root - truncated(P.compose(Z, root)).mul_ground(inverse))
    logarithm, power = ring.zero, ring.one
    for k in range(1, order + 1):
        power = truncated(power * (root - 1))
        logarithm += power.mul_ground(sp.QQ((-1) ** (k + 1), k))
    return [sp.QQ.to_sympy(logarithm.coeff(X**k)) for k in range(1, order + 1)]


def chains(length, colours):
    for choice in product(range(colours), repeat=length):
        tree = mq.Tree(choice[0], [])
        for colour in choice[1:]:
            tree = mq.Tree(colour, [tree])
        yield choice, tree


@pytest.mark.parametrize("name", registry.METHODS)
def test_chains_are_the_logarithm_of_the_principal_root(name):
    """h·f̃ = Σ_chains b(chain)·Π(−x_c)·θ = log z₁(x)·θ, with x_c = x·ratio_c."""
    method = registry.METHODS[name]()
    # Weight decay makes many trees that are no chains; order 6 keeps them few.
    order = 6 if method.decay else ORDER
    ratios = {c: DECAY_RATIO if c in method.decay else sp.Integer(1) for c in range(method.colour_count)}
    expected = logarithm_of_principal_root(method, ratios, order)
    equation = mq.modified_equation(method, order=order)
    for length in range(1, order + 1):
        total = sum(
            equation[tree] * (-1) ** length * sp.Mul(*(ratios[c] for c in choice))
            for choice, tree in chains(length, method.colour_count)
        )
        assert total == expected[length - 1]


def test_implicit_euler_on_quadratics():
    equation = mq.modified_equation(mq.ImplicitEuler(), order=ORDER)
    chain = []
    for n in range(1, ORDER + 1):
        assert equation[chain] == sp.Rational(1, n)  # log z₁ = −log(1 + x)
        chain = [chain]
