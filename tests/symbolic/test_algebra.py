"""The algebra of B-series: laws that hold for every series, and the identities they imply for methods."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import modeq as mq
from modeq.symbolic import algebra

ORDER = 4
TREES = [tree for size in range(1, ORDER + 1) for tree in mq.trees(size)]
beta = sp.Symbol("beta")


def series(single=None):
    """Series with small rational coefficients; `single` fixes the one of the single vertex."""
    number = st.integers(-6, 6).map(lambda k: sp.Rational(k, 3))
    return st.lists(number, min_size=len(TREES), max_size=len(TREES)).map(
        lambda values: dict(zip(TREES, [values[0] if single is None else single, *values[1:]], strict=True))
    )


def weights(built):
    return built.coefficients


IDENTITY_MAP = dict.fromkeys(TREES, sp.Integer(0))
IDENTITY_FIELD = {tree: sp.Integer(tree.order == 1) for tree in TREES}
FEW = settings(max_examples=15)


@FEW
@given(series(), series(), series())
def test_composition_is_associative(a, b, c):
    left = algebra.compose(algebra.compose(a, b, ORDER), c, ORDER)
    assert left == algebra.compose(a, algebra.compose(b, c, ORDER), ORDER)


@FEW
@given(series())
def test_the_inverse_is_two_sided(a):
    inverse = algebra.inverse(a, ORDER)
    assert algebra.compose(a, inverse, ORDER) == IDENTITY_MAP
    assert algebra.compose(inverse, a, ORDER) == IDENTITY_MAP


@FEW
@given(series(), series())
def test_the_inverse_of_a_composition_is_the_composition_of_inverses_in_turn(a, b):
    left = algebra.inverse(algebra.compose(a, b, ORDER), ORDER)
    assert left == algebra.compose(algebra.inverse(b, ORDER), algebra.inverse(a, ORDER), ORDER)


@FEW
@given(series())
def test_the_adjoint_is_an_involution(a):
    assert algebra.adjoint(algebra.adjoint(a, ORDER), ORDER) == a


@FEW
@given(series())
def test_logarithm_and_flow_are_inverse(a):
    assert algebra.flow_map(algebra.logarithm(a, ORDER), ORDER) == a
    assert algebra.logarithm(algebra.flow_map(a, ORDER), ORDER) == a


@FEW
@given(series())
def test_a_flow_backwards_is_the_inverse(b):
    backwards = {tree: -value for tree, value in b.items()}
    assert algebra.flow_map(backwards, ORDER) == algebra.inverse(algebra.flow_map(b, ORDER), ORDER)


@FEW
@given(series())
def test_two_flows_are_one_of_twice_the_time(b):
    once = algebra.flow_map(b, ORDER)
    twice = algebra.flow_map({tree: 2 * value for tree, value in b.items()}, ORDER)
    assert algebra.compose(once, once, ORDER) == twice


@FEW
@given(series(), series(), series())
def test_substitution_is_associative(a, b, c):
    left = algebra.substitute(algebra.substitute(a, b, ORDER), c, ORDER)
    assert left == algebra.substitute(a, algebra.substitute(b, c, ORDER), ORDER)


@FEW
@given(series(), series(), series())
def test_substitution_distributes_over_composition(field, a, b):
    left = algebra.substitute(field, algebra.compose(a, b, ORDER), ORDER)
    one, two = (algebra.substitute(field, part, ORDER) for part in (a, b))
    assert left == algebra.compose(one, two, ORDER)


@FEW
@given(series(), series())
def test_substitution_commutes_with_the_flow(field, b):
    left = algebra.flow_map(algebra.substitute(field, b, ORDER), ORDER)
    assert left == algebra.substitute(field, algebra.flow_map(b, ORDER), ORDER)


@FEW
@given(series(single=sp.Rational(2, 3)))
def test_the_inverse_of_substitution_is_two_sided(b):
    inverse = algebra.substitution_inverse(b, ORDER)
    assert algebra.substitute(inverse, b, ORDER) == IDENTITY_FIELD
    assert algebra.substitute(b, inverse, ORDER) == IDENTITY_FIELD


def test_nothing_is_substituted_into_nothing():
    with pytest.raises(mq.InvalidMethod, match="no first-order term"):
        algebra.substitution_inverse(IDENTITY_MAP, 2)


def test_the_exact_flow_has_the_coefficients_of_the_density():
    flow = algebra.flow_map(IDENTITY_FIELD, ORDER)
    assert flow == {tree: sp.Rational(1, tree.density) for tree in TREES}


METHODS = {
    "gradient descent": mq.GradientDescent(),
    "heavy ball": mq.HeavyBall(beta),
    "Nesterov": mq.Nesterov(sp.Rational(1, 3)),
    "extragradient": mq.Extragradient(),
    "implicit Euler": mq.ImplicitEuler(),
    "optimistic": mq.OptimisticGradient(),
}


def equal(a, b):
    return a.keys() == b.keys() and all(sp.cancel(a[tree] - b[tree]) == 0 for tree in a)


@pytest.mark.parametrize("name", METHODS)
def test_the_memoryless_map_is_the_flow_of_the_modified_equation(name):
    method = METHODS[name]
    step, field = weights(mq.memoryless_map(method, ORDER)), weights(mq.modified_equation(method, ORDER))
    assert equal(algebra.flow_map(field, ORDER), step)
    assert equal(algebra.logarithm(step, ORDER), field)


@pytest.mark.parametrize("name", METHODS)
def test_modifying_and_modified_are_inverse(name):
    method = METHODS[name]
    modified, modifying = (weights(derive(method, ORDER)) for derive in (mq.modified_equation, mq.modifying_equation))
    assert equal(algebra.substitute(modifying, modified, ORDER), IDENTITY_FIELD)
    assert equal(algebra.substitute(modified, modifying, ORDER), IDENTITY_FIELD)


def test_the_adjoint_of_explicit_euler_is_implicit_euler():
    explicit, implicit = (weights(mq.memoryless_map(m, ORDER)) for m in (mq.GradientDescent(), mq.ImplicitEuler()))
    assert algebra.adjoint(explicit, ORDER) == implicit


def test_two_steps_as_one_method():
    twice = mq.RungeKutta([[0, 0], [1, 0]], [1, 1], name="two steps")
    one = weights(mq.memoryless_map(mq.GradientDescent(), ORDER))
    assert algebra.compose(one, one, ORDER) == weights(mq.memoryless_map(twice, ORDER))
    doubled = {t: 2**t.order * b for t, b in weights(mq.modified_equation(mq.GradientDescent(), ORDER)).items()}
    halved_steps = weights(mq.modified_equation(twice, ORDER))
    assert halved_steps == {t: doubled[t] / 2 ** (t.order - 1) for t in TREES}


def test_symmetric_methods_have_even_equations():
    half = sp.Rational(1, 2)
    implicit_midpoint = mq.RungeKutta([[half]], [1])
    step = weights(mq.memoryless_map(implicit_midpoint, ORDER))
    assert algebra.adjoint(step, ORDER) == step
    assert all(b == 0 for t, b in weights(mq.modified_equation(implicit_midpoint, ORDER)).items() if t.order % 2 == 0)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_a_method_run_on_its_modifying_field_follows_the_exact_flow(order):
    """The error over a fixed time is O(h^order), from both sides, for gradient descent on a smooth loss."""
    x, y = sp.symbols("x y")
    loss = (x**2 - y) ** 2 / 4 + sp.sin(x + y) / 2 + x**2 / 2 + y**2
    modifying = mq.modifying_equation(mq.GradientDescent(), order)
    problem = mq.SymbolicProblem(loss, [x, y])
    start = np.array([0.8, -0.4])
    exact = solve_ivp(lambda t, u: problem.field(u), (0, 0.5), start, method="DOP853", rtol=1e-13, atol=1e-15).y[:, -1]
    errors = []
    for steps in (16, 32, 64):
        h = 0.5 / steps
        field = modifying.on(loss, [x, y], h=sp.Float(h, 17)).lambdify()
        theta = start
        for _ in range(steps):
            theta = theta + h * np.array(field(theta))
        errors.append(np.max(abs(theta - exact)))
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(abs(slopes - order) < 0.3)
    assert abs(slopes[-1] - order) < 0.15


def test_several_fields_have_no_modifying_equation():
    with pytest.raises(mq.InvalidMethod, match="has 2 fields: .* leave out weight decay"):
        mq.modifying_equation(mq.GradientDescent().with_weight_decay(0.1), 2)


def star(leaves):
    return mq.Tree([[]] * leaves)


def chain(vertices):
    tree = mq.Tree([])
    for _ in range(vertices - 1):
        tree = mq.Tree([tree])
    return tree


def test_heavy_ball_without_memory_is_gradient_descent_on_a_modified_loss():
    step = mq.memoryless_map(mq.HeavyBall(beta), 5)
    test = step.gradient_test()
    assert test.holds
    assert test.order == 5


def test_eulerian_stars_and_narayana_chains():
    step = mq.memoryless_map(mq.HeavyBall(beta), 5)
    eulerian = [
        1,
        beta,
        beta * (1 + beta),
        beta * (1 + 4 * beta + beta**2),
        beta * (1 + 11 * beta + 11 * beta**2 + beta**3),
    ]
    narayana = [
        1,
        beta,
        beta * (1 + beta),
        beta * (1 + 3 * beta + beta**2),
        beta * (1 + 6 * beta + 6 * beta**2 + beta**3),
    ]
    for size in range(1, 6):
        sign, bottom = (-1) ** (size - 1), (1 - beta) ** (2 * size - 1)
        assert sp.cancel(step[star(size - 1)] - sign * eulerian[size - 1] / bottom) == 0
        assert sp.cancel(step[chain(size)] - sign * narayana[size - 1] / bottom) == 0


def test_nesterov_without_memory_is_no_gradient_at_order_three():
    step = mq.memoryless_map(mq.Nesterov(beta), 3)
    test = step.gradient_test()
    assert test.order == 2
    ((one, a), (two, b)) = test.witnesses[0]
    assert {one, two} == {chain(3), star(2)}
    values = {one: a, two: b}
    assert sp.cancel(values[chain(3)] - beta**2 * (beta**2 + 1) / (1 - beta) ** 5) == 0
    assert sp.cancel(values[star(2)] - beta**2 * (beta + 1) / (1 - beta) ** 5) == 0
    with pytest.raises(mq.NotAGradientFlow, match="MemorylessMap.* is no gradient at order 3"):
        step.modified_loss(order=3)


def test_the_modified_loss_of_the_map_gives_the_map():
    x, y, h = sp.symbols("x y h")
    loss = x**4 + x * y**2 + y**3 * x**2
    step = mq.memoryless_map(mq.HeavyBall(sp.Rational(1, 2)), 4)
    potential = step.modified_loss().on(loss, [x, y], h=h)
    for component, variable in zip(step.on(loss, [x, y], h=h).components, (x, y), strict=True):
        assert sp.expand(component + h * sp.diff(potential, variable)) == 0


def test_iterates_on_the_slow_manifold_follow_the_map():
    """After the transient of heavy ball its iterates obey θ⁺ = θ + … with error O(h^{order+1})."""
    x = sp.Symbol("x")
    problem = mq.SymbolicProblem(x**4 / 4 + x**2 / 2, [x])
    method = mq.HeavyBall(sp.Rational(1, 5))
    misses = []
    for steps in (40, 80, 160):  # to the same time, when the parasitic part, 5⁻ⁿ, is below rounding
        h = 0.4 / steps
        y = mq.iterate(method, problem, [1.0], h=h, steps=steps).y.ravel()
        step = mq.memoryless_map(method, 3).on(problem.loss_expression, [x], h=sp.Float(h, 17)).lambdify()
        misses.append(abs(y[-1] - y[-2] - step([y[-2]])[0]))
    slopes = np.log2(np.array(misses[:-1]) / misses[1:])
    assert np.all(abs(slopes - 4) < 0.15)
