"""Laws of Runge–Kutta and multistep methods; see numbered_laws.py for the numbered list."""

import hypothesis.strategies as st
import sympy as sp
from hypothesis import given, settings
from law_strategies import (
    ORDER,
    all_trees,
    fractions,
    modified,
    nonzero,
    root_lists,
    step_of,
    symplectic_tableaus,
    tableaus,
)
from sympy import Rational as Q

import modeq as mq
from modeq.symbolic import algebra, structure

TREES = all_trees(ORDER)
SOME = settings(max_examples=20)
FEW = settings(max_examples=12)
z = sp.Symbol("z")


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
