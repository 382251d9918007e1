"""Modified fields evaluated in several ways agree; flows in closed form; what is refused."""

import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import modeq as mq
from modeq.numeric import phase_space_flow
from modeq.numeric.fields import GradientsOnlyField, modified_field
from modeq.numeric.integration import System
from modeq.testing import assert_order, methods, polynomial_losses

X, Y = sp.symbols("x y")
SMOOTH = mq.SymbolicProblem((X**2 - Y) ** 2 / 4 + sp.sin(X + Y) / 2 + X**2 / 2 + Y**2, [X, Y])


@settings(max_examples=12)
@given(methods(weight_decay=True), polynomial_losses([X, Y]), st.integers(1, 4))
def test_written_out_and_nested_derivatives_agree(method, loss, order):
    problem = mq.SymbolicProblem(loss, [X, Y])
    equation = mq.modified_equation(method, order)
    at = np.array([0.3, -0.2])
    written = modified_field(equation, problem, 1e-3, "lambdify")(at)
    nested = modified_field(equation, problem, 1e-3, "autodiff")(at)
    np.testing.assert_allclose(written, nested, rtol=1e-10, atol=1e-12)


@pytest.mark.some(9)
@pytest.mark.parametrize(
    "method",
    [mq.GradientDescent(), mq.HeavyBall(0.5, 0.2), mq.Nesterov(0.6), mq.HeavyBall(0.5).with_weight_decay(0.3, True)],
    ids=repr,
)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_gradients_alone_differ_by_the_next_power_of_h(method, order):
    """f̃ from gradients alone is the truncated series up to O(h^order), and no better."""
    at, differences = np.array([0.5, -0.3]), []
    for h in (4e-4, 2e-4, 1e-4):
        equation = mq.modified_equation(method, order)
        written, measured = (modified_field(equation, SMOOTH, h, f)(at) for f in ("lambdify", "gradients"))
        differences.append(np.max(abs(written - measured)))
    if order == 1:
        assert max(differences) < 1e-14
    elif differences[-1] > 1e-13:
        slopes = np.log2(np.array(differences[:-1]) / differences[1:])
        assert np.all(abs(slopes - order) < 0.15)


def test_second_order_field_of_heavy_ball_in_two_gradients():
    """f̃ = −½ g(θ) − (1+β)/(2s) g(θ + h g(θ)/s²)."""
    beta, h, at = 0.7, 0.01, np.array([0.4, 0.2])
    s = 1 - beta
    field = GradientsOnlyField(mq.HeavyBall(beta), 2, SMOOTH, h)
    g = SMOOTH.field(at) * -1
    expected = -g / 2 + (1 + beta) / (2 * s) * SMOOTH.field(at + h * g / s**2)
    np.testing.assert_allclose(field(at), expected, rtol=1e-13)
    assert field.gradients_per_call == 2


@pytest.mark.parametrize("order, cost", [(1, 1), (2, 2), (3, 3), (4, 4), (5, 11)])
def test_costs_with_momentum(order, cost):
    calls = []

    class Counting:
        size = 1

        def field(self, theta):
            calls.append(1)
            return -theta

    field = GradientsOnlyField(mq.HeavyBall(0.9), order, Counting(), 1e-4)
    field([1.0])
    assert len(calls) == cost == field.gradients_per_call


@pytest.mark.parametrize("order", [2, 3, 4, 6])
def test_gradient_descent_needs_as_many_gradients_as_its_order(order):
    assert GradientsOnlyField(mq.GradientDescent(), order, SMOOTH, 0.01).gradients_per_call == order


@pytest.mark.parametrize("beta", [0.9, 0.99])
def test_rounding_stays_small_at_large_momentum(beta):
    """On L = x²/2 the field is −x·(a rate); evaluated in floats it agrees with exact rational arithmetic."""
    problem = mq.SymbolicProblem(X**2 / 2, [X])
    h = 1e-2 * (1 - beta) ** 2
    value = GradientsOnlyField(mq.HeavyBall(beta), 6, problem, h)([1.0])[0]
    exact = -float(sp.log(_principal_root(beta, h)) / h) * -1
    assert value == pytest.approx(exact, rel=1e-9)


def _principal_root(beta, h):
    b, x = sp.Rational(str(beta)), sp.Rational(repr(h))
    return sp.N((1 + b - x + sp.sqrt((1 + b - x) ** 2 - 4 * b)) / 2, 50)


def test_flow_of_a_quadratic_is_exponential():
    problem = mq.SymbolicProblem(X**2 / 2, [X])
    for order, rate in ((1, 1.0), (2, 1 + 0.05), (3, 1 + 0.05 + 0.01 / 3)):
        trajectory = mq.flow(mq.modified_equation(mq.GradientDescent(), order), problem, [1.0], h=0.1, time=2.0)
        np.testing.assert_allclose(trajectory.y[:, 0], np.exp(-rate * trajectory.t), atol=1e-9)
        np.testing.assert_allclose(trajectory.t, 0.1 * np.arange(21), atol=1e-15)


def test_flow_reaches_a_time_that_is_no_multiple_of_h():
    problem = mq.SymbolicProblem(X**2 / 2, [X])
    trajectory = mq.flow(mq.modified_equation(mq.GradientDescent(), 1), problem, [1.0], h=0.1, time=0.25)
    np.testing.assert_allclose(trajectory.t, [0, 0.1, 0.2, 0.25])


@given(methods(weight_decay=True), st.integers(1, 30))
def test_exact_flow_on_quadratics_is_the_optimizer(method, steps):
    problem = mq.SymbolicProblem(X**2 + X * Y / 2 + Y**2 / 3 - X, [X, Y])
    h = 0.137
    iterates = mq.iterate(method, problem, [1.0, -1.0], h=h, steps=steps)
    if not method.A.det():  # without momentum the buffer is forgotten at once: no logarithm
        with pytest.raises(mq.InvalidProblem, match="is singular, it forgets a part of its state at once"):
            mq.exact_quadratic_flow(method, problem, [1.0, -1.0], h=h, time=h * steps)
        return
    exact = mq.exact_quadratic_flow(method, problem, [1.0, -1.0], h=h, time=h * steps)
    np.testing.assert_allclose(exact.y, iterates.y, atol=1e-10)


@pytest.mark.parametrize(
    "method, loss, h",
    [
        (mq.HeavyBall(sp.Rational(1, 4)), X**2 / 2, 0.25),  # a double root of the characteristic polynomial
        (mq.GradientDescent(), X + Y, 0.1),  # a linear loss: a Jordan block at 1
        (mq.HeavyBall(0.5), (X + Y) ** 2 / 2 + X - Y, 0.1),
    ],
    ids=["double root", "linear loss", "slope along a flat direction"],
)
def test_exact_flow_through_jordan_blocks(method, loss, h):
    variables = sorted(loss.free_symbols, key=str)
    problem = mq.SymbolicProblem(loss, variables)
    start = [1.0, -0.5][: len(variables)]
    exact = mq.exact_quadratic_flow(method, problem, start, h=h, time=20.5 * h)
    iterates = mq.iterate(method, problem, start, h=h, steps=20)
    np.testing.assert_allclose(exact.y[:-1], iterates.y, atol=1e-10)
    assert exact.t[-1] == pytest.approx(20.5 * h)


def test_exact_flow_needs_a_quadratic():
    with pytest.raises(mq.InvalidProblem, match="exists on quadratic losses"):
        mq.exact_quadratic_flow(mq.GradientDescent(), SMOOTH, [0.0, 0.0], h=0.1, time=1.0)


def test_principal_flow_of_gradient_descent():
    """Rosca et al. 2023: θ(t) = (1 − hλ)^{t/h} θ₀."""
    problem = mq.SymbolicProblem(X**2 / 2, [X])
    trajectory = mq.exact_quadratic_flow(mq.GradientDescent(), problem, [1.0], h=0.5, time=3.0)
    np.testing.assert_allclose(trajectory.y[:, 0], 0.5 ** np.arange(7), atol=1e-14)


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_right_start_of_the_oscillator(beta):
    """θ'(0) = −g/(1+β) from a zero buffer, whatever the loss."""
    form = mq.time_derivative_form(mq.HeavyBall(beta), 2)
    assert float(form.start[1][[]]) == pytest.approx(1 / (1 + beta))


def test_ill_posed_truncations_are_refused():
    form = mq.time_derivative_form(mq.GradientDescent(), 5)
    with pytest.raises(mq.IllPosed, match="truncated at order 5 is no initial-value problem"):
        mq.flow(form, SMOOTH, [0.1, 0.1], h=0.01, time=0.1)


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"h": -1, "time": 1}, "h is -1: give a positive number"),
        ({"h": 0.1, "time": 0}, "time is 0: give a positive number"),
        ({"h": 0.1, "time": 1, "field": "magic"}, "field is 'magic'"),
        ({"h": "a", "time": 1}, "h is 'a'"),
        ({"h": 0.1, "time": 1, "rtol": -1}, "rtol is -1: give a positive number"),
        ({"h": 0.1, "time": 1, "atol": float("nan")}, "atol is nan: give a positive number"),
        ({"h": 0.1, "time": 1, "initial_layer": 1.5}, "initial_layer is 1.5: give True, False, or"),
        ({"h": 1e-300, "time": 1}, "1e\\+300 steps, too many to store"),
    ],
)
def test_bad_arguments_of_flow(keywords, message):
    with pytest.raises(mq.InvalidProblem, match=message):
        mq.flow(mq.modified_equation(mq.GradientDescent(), 1), SMOOTH, [0.1, 0.1], **keywords)


def test_what_is_no_equation_is_refused():
    with pytest.raises(mq.ModeqError, match="give modified_equation"):
        mq.flow(mq.GradientDescent(), SMOOTH, [0.1, 0.1], h=0.1, time=1.0)


def test_lambdify_needs_sympy_and_gradients_need_one_query():
    module = torch.nn.Linear(1, 1, dtype=torch.float64)
    ones = torch.ones(2, 1, dtype=torch.float64)
    network = mq.TorchProblem(module, lambda y, t: ((y - t) ** 2).mean(), ones, ones)
    with pytest.raises(mq.InvalidProblem, match="field='lambdify' needs a SymbolicProblem"):
        modified_field(mq.modified_equation(mq.GradientDescent(), 2), network, 0.1, "lambdify")
    half = sp.Rational(1, 2)
    midpoint = mq.GeneralLinearMethod(A=[[1]], B=[[0, 1]], C=[[1], [1]], D=[[0, 0], [half, 0]], name="midpoint")
    with pytest.raises(mq.NoTimeDerivativeForm, match="takes gradients at several points"):
        modified_field(mq.modified_equation(midpoint, 2), SMOOTH, 0.1, "gradients")
    with pytest.raises(mq.NoTimeDerivativeForm, match="no form in time derivatives"):
        mq.phase_space_form(midpoint, 2)


def test_compare_several_methods_and_unknown_forms():
    problem = mq.SymbolicProblem(X**2 / 2, [X])
    both = [mq.GradientDescent(), mq.HeavyBall(0.2)]
    result = mq.compare(both, problem, [1.0], h=0.02, steps=40, orders=(1, 2))
    assert set(result.iterates) == {"GradientDescent()", "HeavyBall(momentum=1/5)"}
    assert all(error is not None for error in result.errors.values())
    assert len(result.plot()) == len(result.entries)
    late = {(e.method, e.form, e.order): e.late_error for e in result.entries}
    for name in result.iterates:
        assert late[name, "field", 2] < late[name, "field", 1] / 10
    with pytest.raises(mq.InvalidProblem, match="forms has 'magic'"):
        mq.compare(both, problem, [1.0], h=0.02, steps=4, forms=["magic"])
    with pytest.raises(mq.InvalidProblem, match="steps is 0: give a positive integer"):
        mq.compare(both, problem, [1.0], h=0.02, steps=0)
    with pytest.raises(mq.InvalidProblem, match="orders is 2: give a sequence"):
        mq.compare(both, problem, [1.0], h=0.02, steps=4, orders=2)
    with pytest.raises(mq.InvalidMethod, match="methods is empty"):
        mq.compare([], problem, [1.0], h=0.02, steps=4)
    with pytest.raises(mq.InvalidMethod, match="name each once"):
        mq.compare([both[0], both[0]], problem, [1.0], h=0.02, steps=4)


def test_a_flow_that_cannot_start_is_a_failure_with_a_message():
    problem = mq.SymbolicProblem(X**2 / 2, [X])
    equation = mq.modified_equation(mq.GradientDescent(), 1)
    with pytest.raises(mq.Diverged, match="modified field of order 1"):
        mq.flow(equation, problem, [1.0], h=0.1, time=1e-30)


def test_a_start_that_does_not_move():
    form = mq.phase_space_form(mq.HeavyBall(0.9), 3)
    assert not mq.flow(form, mq.SymbolicProblem(X**2, [X]), [0.0], h=0.1, time=1.0).y.any()


def test_float32_networks_are_integrated_to_their_rounding():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        inputs, labels = torch.randn(8, 3), torch.tensor([0, 1] * 4)
    single = mq.TorchProblem(module, torch.nn.functional.cross_entropy, inputs, labels)
    double = mq.TorchProblem(module.double(), torch.nn.functional.cross_entropy, inputs.double(), labels)
    form = mq.phase_space_form(mq.HeavyBall(0.9), 3)
    ends = [mq.flow(form, problem, h=0.01, time=0.3) for problem in (single, double)]
    assert ends[0].nfev < 5_000
    np.testing.assert_allclose(ends[0].y[-1], ends[1].y[-1], atol=1e-4)
    with pytest.raises(mq.InvalidProblem, match=r"rounding of 1\.2e-07, which hides the slopes: use module\.double"):
        mq.observed_order(mq.HeavyBall(0.5), single, time=1.0, order=2)


@pytest.mark.parametrize("method", [mq.LinearMultistep([0, -1, 1], [-0.5, 1.5]), mq.OptimisticGradient()], ids=repr)
def test_left_out_poles_start_on_the_slow_manifold(method):
    problem = mq.SymbolicProblem(X**2 / 2 + X**3 / 6, [X])
    for order in (1, 2):
        assert_order(method, problem, [1.0], order=order, time=1.5, form="phase")


@pytest.mark.parametrize("derive", [mq.time_derivative_form, mq.phase_space_form])
def test_absurd_orders_in_time_are_refused(derive):
    with pytest.raises(mq.InvalidOrder, match="order is 10000: forms in time are derived up to order 200"):
        derive(mq.HeavyBall(0.9), 10**4)


def test_a_start_that_cannot_be_found_is_no_silent_start():
    """Shooting that stalls far from the first iterates raises, with how far it misses them."""
    system = System(lambda u: np.array([u[1], 0.0 * u[0]]), np.zeros(2), "deaf system")
    points = np.array([[0.0], [1.0]])
    # The velocity of this system reaches θ = h·θ' at n = 1, a hundredth of what the correction expects.
    with pytest.raises(mq.Diverged, match="deaf system: no start was found .* use a smaller learning rate"):
        phase_space_flow.through_iterates(system, points, [1.0, 1.0], h=0.01, rtol=1e-8)
