"""On their slow manifolds the forms in time derivatives and in phase space are the modified equation, exactly."""

import pytest
import sympy as sp
from sympy import Rational as Q

import modeq as mq
from modeq.symbolic.algebra import substitute
from modeq.symbolic.phase_space_exact import EXPANSIONS
from modeq.symbolic.rooted_trees import tree_table
from modeq.symbolic.series import modified_coefficients

beta, alpha, nu, lam = sp.symbols("beta alpha nu lambda", positive=True)
METHODS = {
    "gradient descent": mq.GradientDescent(),
    "heavy ball": mq.HeavyBall(beta),
    "heavy ball, dampening": mq.HeavyBall(beta, alpha),
    "Nesterov": mq.Nesterov(beta),
    "quasi-hyperbolic": mq.QuasiHyperbolic(beta, nu),
    "coupled decay": mq.HeavyBall(beta).with_weight_decay(lam),
    "decoupled decay": mq.Nesterov(beta).with_weight_decay(lam, decoupled=True),
    "optimistic gradient": mq.OptimisticGradient(),
    "two-step": mq.LinearMultistep([0, beta, -1 - beta, 1], [0, 1]),
    "three-step": mq.LinearMultistep([0, Q(1, 2), -Q(3, 2), 1], [Q(1, 2)]),
}
ORDER = 4


@pytest.mark.parametrize("name", METHODS)
def test_time_derivative_form(name):
    form = mq.time_derivative_form(METHODS[name], ORDER)
    assert form.vector_field(ORDER).coefficients == mq.modified_equation(METHODS[name], ORDER).coefficients


@pytest.mark.some(4)
@pytest.mark.parametrize("expansion", EXPANSIONS)
@pytest.mark.parametrize("name", METHODS)
def test_phase_space_form(name, expansion):
    form = mq.phase_space_form(METHODS[name], ORDER, expansion)
    assert form.vector_field(ORDER).coefficients == mq.modified_equation(METHODS[name], ORDER).coefficients


@pytest.mark.some(3)
@pytest.mark.parametrize("name", METHODS)
def test_the_derivatives_of_the_modified_flow_solve_the_time_derivative_form(name):
    """Σ c_k θ⁽ᵏ⁾ + λ Σ d_k θ⁽ᵏ⁾ = f tree by tree, θ⁽ᵏ⁾ from the recursion of the modified equation itself."""
    method = METHODS[name]
    form = mq.time_derivative_form(method, ORDER)
    rows = [modified_coefficients(method, ORDER, k) for k in range(1, ORDER + 1)]
    for number, tree in enumerate(tree_table(ORDER, method.colour_count, method.decay.keys()).trees):
        total = sum(c * row.expressions[number] for c, row in zip(form.coefficients, rows, strict=True))
        right = int(tree.order == 1 and tree.colour == 0)
        if tree.colour in method.decay:  # f_decay = −λθ: its derivatives along the flow, d_k D^k f_decay
            right = form.decay_coefficients[0] if tree.order == 1 else 0
            if tree.order > 1:
                inner = tree_table(ORDER, method.colour_count, method.decay.keys()).index[tree.children[0]]
                right = sum(
                    d * row.expressions[inner] for d, row in zip(form.decay_coefficients[1:], rows, strict=False)
                )
        assert sp.cancel(total - right) == 0


def test_by_the_algebra_of_series():
    """θ'' = f̃'f̃ is the field u'u with f̃ put in for u: its coefficients, and with them order 2 of the heavy ball."""
    method, order = mq.HeavyBall(beta), 4
    slow = mq.modified_equation(method, order).coefficients
    acceleration = {tree: sp.Integer(tree == mq.Tree([[]])) for tree in slow}
    second = substitute(slow, acceleration, order)
    recursion = modified_coefficients(method, order, 2).expressions
    assert [sp.cancel(a - b) for a, b in zip(second.values(), recursion, strict=True)] == [0] * len(slow)
    c1, c2 = mq.time_derivative_form(method, 2).coefficients
    assert sp.cancel(c1 * slow[mq.Tree([[]])] + c2 * second[mq.Tree([[]])]) == 0


@pytest.mark.parametrize("expansion", EXPANSIONS)
def test_beyond_its_order_a_form_has_a_field_of_its_own(expansion):
    method = mq.HeavyBall(beta)
    field = mq.phase_space_form(method, 2, expansion).vector_field(3)
    exact = mq.modified_equation(method, 3)
    assert [field[tree] == exact[tree] for tree in exact] == [True, True, False, False]
    assert field[[[[]]]].has(sp.log)
    time = mq.time_derivative_form(method, 2).vector_field(3)
    assert [time[tree] == exact[tree] for tree in exact] == [True, True, False, False]


def test_errors():
    for form in (mq.time_derivative_form(mq.GradientDescent(), 2), mq.phase_space_form(mq.GradientDescent(), 2)):
        with pytest.raises(mq.InvalidOrder, match="order is 0: the lowest"):
            form.vector_field(0)
