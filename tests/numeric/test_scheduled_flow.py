"""Scheduled forms follow the optimizer under its schedule with the order they claim, no less and no more.

Errors are the largest over the trajectory from the step on at which the transients of the buffers have died out at
the largest step size: no field has them, and the form in time derivatives has them to O(h) only.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import registry
import sympy as sp
import torch
from scipy.integrate import solve_ivp

import modeq as mq
from modeq.methods.runge_kutta import RK4
from modeq.numeric.curvature import largest_curvature

t, x, y = sp.symbols("t x y")
SCHEDULES = {"exponential": sp.exp(-t), "hyperbolic": 1 / (1 + t), "cosine": (1 + sp.cos(t)) / 2 + sp.Rational(1, 10)}
FAMILY = (
    "gradient descent",
    "heavy ball 0.5",
    "heavy ball 0.5, dampening 0.3",
    "Nesterov 0.5",
    "quasi-hyperbolic 0.9",
    "heavy ball 0.5, coupled decay",
    "heavy ball 0.5, decoupled decay",
    "Nesterov 0.5, decoupled decay",
)
OTHERS = ("classical Nesterov 0.5", "PID 0.6", "optimistic gradient", "two stages, two steps")
LONG = ("heavy ball 0.9", "heavy ball 0.9, dampening 0.9", "Nesterov 0.9")
TIME = 0.6


def layer_steps(method):
    """After so many steps the transients are below rounding."""
    radius = method.parasitic_radius
    return int(np.ceil(1.1 * np.log(1e-17) / np.log(radius))) if radius else 2 * (method.state_count - 1)


def slopes_of(form, problem, start=None, time=TIME, inside_limit=True, halvings=2):
    """The log₂ ratios of the errors as the step is halved."""
    method = form.method
    least = [2 * layer_steps(method), 12]
    if inside_limit:
        # The schedules here start at 1.1 at most.
        curvature = 1.1 * largest_curvature(problem, problem.start(start)) + float(sum(method.decay.values()))
        least.append(np.ceil(time * curvature / (0.2 * min(float(method.series_limit()), 2.0))))
    steps = int(max(least))
    errors = []
    for k in range(halvings + 1):
        h = time / (steps * 2**k)
        iterates = mq.iterate(method, problem, start, h=form.rate(h), steps=steps * 2**k)
        flowed = mq.flow(form, problem, start, h=h, time=time, rtol=1e-13, atol=1e-15)
        settled = layer_steps(method) * 2**k
        errors.append(np.max(abs(flowed.y - iterates.y)[settled:]))
    return [float(np.log2(a / b)) for a, b in pairwise(errors)]


def assert_slopes(expected, *arguments, **options):
    slopes = slopes_of(*arguments, **options)
    assert all(abs(slope - expected) < 0.15 for slope in slopes), slopes


def cases(names):
    """Every method with one of the schedules, in turn; with the others it is slow."""
    for i, name in enumerate(names):
        for k, schedule in enumerate(SCHEDULES):
            marks = () if k == i % len(SCHEDULES) else pytest.mark.slow
            yield pytest.param(name, schedule, marks=marks, id=f"{name}-{schedule}")


@pytest.fixture(scope="module")
def two_variables():
    return registry.PROBLEMS["two variables"]


@pytest.fixture(scope="module")
def network():
    return registry.NETWORKS["tanh on digits"]()


@pytest.mark.some(3)
@pytest.mark.parametrize(("name", "schedule"), list(cases([*FAMILY, *OTHERS])))
def test_the_vector_field_is_of_second_order(name, schedule, two_variables):
    form = mq.scheduled_equation(registry.method(name), SCHEDULES[schedule])
    assert_slopes(2, form, *two_variables)


@pytest.mark.some(1)
@pytest.mark.parametrize("name", LONG)
def test_the_vector_field_of_a_long_memory(name, two_variables):
    form = mq.scheduled_equation(registry.method(name), SCHEDULES["exponential"])
    assert_slopes(2, form, *two_variables, halvings=1)


@pytest.mark.parametrize("name", ["gradient descent", "heavy ball 0.5", "Nesterov 0.5, decoupled decay"])
def test_to_first_order_a_schedule_only_scales_the_field(name, two_variables):
    form = mq.scheduled_equation(registry.method(name), SCHEDULES["exponential"], order=1)
    assert_slopes(1, form, *two_variables)


@pytest.mark.parametrize(
    "name", ["heavy ball 0.5", "heavy ball 0.5, dampening 0.3", "Nesterov 0.5", "heavy ball 0.5, decoupled decay"]
)
def test_without_the_slope_of_the_schedule_the_field_is_of_first_order(name, two_variables):
    form = mq.scheduled_equation(registry.method(name), SCHEDULES["exponential"])
    assert_slopes(1, replace(form, schedule_coefficients=()), *two_variables)


def test_without_the_slope_gradient_descent_and_runge_kutta_are_of_first_order(two_variables):
    """RK4 has no term of second order but this one."""
    for method in (mq.GradientDescent(), RK4()):
        form = mq.scheduled_equation(method, SCHEDULES["exponential"])
        assert_slopes(2, form, *two_variables, halvings=4)
        slopes = slopes_of(replace(form, schedule_coefficients=()), *two_variables, halvings=4)
        assert slopes[-1] == pytest.approx(1, abs=0.05)


@pytest.mark.some(1)
@pytest.mark.parametrize(("name", "schedule"), list(cases([*FAMILY, "heavy ball 0.9"])))
def test_the_form_in_time_derivatives_is_of_second_order(name, schedule, two_variables):
    form = mq.scheduled_time_derivative_form(registry.method(name), SCHEDULES[schedule])
    assert_slopes(2, form, *two_variables, inside_limit=name != "heavy ball 0.9")


@pytest.mark.some(1)
@pytest.mark.parametrize(
    "name", ["heavy ball 0.5", "Nesterov 0.5", "heavy ball 0.5, decoupled decay", "heavy ball 0.9"]
)
def test_without_the_slope_of_the_schedule_the_form_is_of_first_order(name, two_variables):
    form = mq.scheduled_time_derivative_form(registry.method(name), SCHEDULES["exponential"])
    form = replace(form, schedule_coefficients=())
    assert_slopes(1, form, *two_variables, inside_limit=name != "heavy ball 0.9")


@pytest.mark.parametrize(
    "name", ["gradient descent", "heavy ball 0.5, coupled decay", "heavy ball 0.5, decoupled decay"]
)
def test_the_first_order_form_in_time_derivatives(name, two_variables):
    form = mq.scheduled_time_derivative_form(registry.method(name), SCHEDULES["exponential"], order=1)
    assert_slopes(1, form, *two_variables)


@pytest.mark.parametrize("derive", [mq.scheduled_equation, mq.scheduled_time_derivative_form])
def test_weight_decay_beside_a_buffer_that_does_not_scale(derive, two_variables):
    """The one case in which the form in time derivatives has a term e_λ φ'θ."""
    half = sp.Rational(1, 2)
    method = mq.GeneralLinearMethod(
        A=[[1, half], [0, half]], B=[[1], [1]], C=[[1, 0]], D=[[0]], step_powers=(0, 0), name="classical heavy ball"
    ).with_weight_decay(half, decoupled=True)
    assert_slopes(2, derive(method, SCHEDULES["exponential"]), *two_variables)


@pytest.mark.some(1)
@pytest.mark.parametrize(
    "name", ["gradient descent", "heavy ball 0.5", "Nesterov 0.5", "heavy ball 0.5, decoupled decay"]
)
def test_a_network_by_the_vector_field(name, network):
    """Where torch has the method, these are the iterates of torch.optim.SGD with its learning rate set at each step."""
    form = mq.scheduled_equation(registry.method(name), SCHEDULES["hyperbolic"])
    assert_slopes(2, form, network, time=1.5, halvings=1)


@pytest.mark.slow
def test_a_network_without_the_slope_of_the_schedule(network):
    form = mq.scheduled_equation(registry.method("heavy ball 0.5"), SCHEDULES["hyperbolic"])
    assert_slopes(1, replace(form, schedule_coefficients=()), network, time=1.5, halvings=1)


@pytest.mark.parametrize(
    "name", ["heavy ball 0.5", pytest.param("heavy ball 0.5, coupled decay", marks=pytest.mark.slow)]
)
def test_a_network_by_time_derivatives(name, network):
    form = mq.scheduled_time_derivative_form(registry.method(name), SCHEDULES["hyperbolic"])
    assert_slopes(2, form, network, time=1.5, halvings=1)


def test_minibatches_in_order():
    losses = [x**2 / 2 + sp.cos(x + y), (x - y) ** 2 / 2 + y**4 / 4]
    problem = mq.SymbolicProblem(losses, [x, y])
    form = mq.scheduled_equation(mq.Epoch(mq.HeavyBall(momentum=0.5), 2), SCHEDULES["exponential"])
    errors = []
    for steps in (200, 400, 800):
        h = 0.6 / steps
        iterates = mq.iterate(form.method, problem, [0.8, -0.4], h=form.rate(h), steps=steps)
        flowed = mq.flow(form, problem, [0.8, -0.4], h=h, time=0.6, rtol=1e-13, atol=1e-15)
        errors.append(np.max(abs(flowed.y - iterates.y)[steps // 4 :]))
    assert all(abs(np.log2(a / b) - 2) < 0.15 for a, b in pairwise(errors))


def errors_of_epochs_of_two(jump, counts):
    problem = mq.SymbolicProblem([x**2 / 2 + sp.cos(x + y), (x - y) ** 2 / 2 + y**4 / 4], [x, y])
    schedule = sp.Piecewise((1, t < jump), (sp.Rational(1, 4), True))
    form = mq.scheduled_equation(mq.Epoch(mq.GradientDescent(), 2), schedule)
    errors = []
    for steps in counts:
        h = 0.5 / steps
        iterates = mq.iterate(form.method, problem, [0.8, -0.4], h=form.rate(h), steps=steps)
        flowed = mq.flow(form, problem, [0.8, -0.4], h=h, time=0.5, rtol=1e-13, atol=1e-15)
        errors.append(np.max(abs(flowed.y - iterates.y)[-8:]))
    return np.array(errors)


def test_a_jump_must_fall_on_the_end_of_an_epoch():
    """At half of the steps: after an even number of them, or an odd one. At a third the place in the epoch varies."""
    half, third = sp.Rational(1, 4), sp.Rational(1, 6)
    at_the_end = errors_of_epochs_of_two(half, (256, 512, 1024))
    assert np.log2(at_the_end[:-1] / at_the_end[1:]) == pytest.approx([2, 2], abs=0.15)
    inside = errors_of_epochs_of_two(half, (258, 514, 1026))
    assert np.log2(inside[:-1] / inside[1:]) == pytest.approx([1, 1], abs=0.15)
    anywhere = errors_of_epochs_of_two(third, (256, 512))
    assert anywhere[1] > 0.9 * anywhere[0]


def test_players_with_schedules():
    game = mq.VectorField([-y - x / 2, x - y**3], [x, y], players=[[x], [y]])
    method = mq.Alternating([mq.HeavyBall(momentum=0.5), mq.GradientDescent()])
    assert_slopes(2, mq.scheduled_equation(method, SCHEDULES["exponential"]), game, [0.8, -0.4], inside_limit=False)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", ["gradient descent", "heavy ball 0.5, decoupled decay", "Nesterov 0.5, coupled decay"])
@pytest.mark.parametrize(
    "derive, autonomous",
    [(mq.scheduled_equation, mq.modified_equation), (mq.scheduled_time_derivative_form, mq.time_derivative_form)],
)
def test_at_a_constant_rate_it_is_the_flow_of_the_autonomous_form(derive, autonomous, name, order, two_variables):
    method = registry.method(name)
    problem, start = two_variables
    options = {"h": 0.004, "time": 0.2, "rtol": 1e-12, "atol": 1e-14}
    flowed = mq.flow(derive(method, 1, order=order), problem, start, **options)
    expected = mq.flow(autonomous(method, order), problem, start, **options)
    assert np.array_equal(flowed.t, expected.t)
    assert np.max(abs(flowed.y - expected.y)) < 1e-11


@pytest.mark.parametrize("derive", [mq.scheduled_equation, mq.scheduled_time_derivative_form])
@pytest.mark.parametrize("name", ["heavy ball 0.5", "Nesterov 0.5, decoupled decay"])
def test_the_flow_is_that_of_what_is_written_out(derive, name, two_variables):
    problem, start = two_variables
    form, h = derive(registry.method(name), SCHEDULES["cosine"]), 0.004
    flowed = mq.flow(form, problem, start, h=h, time=0.2, initial_layer=False, rtol=1e-12, atol=1e-14)
    field = form.on(problem.loss_expression, problem.variables, h=h)
    function = field.lambdify()
    first = [*start, *[0.0] * (len(field.variables) - 2)]
    solution = solve_ivp(
        lambda time, u: function(u, time), (0, 0.2), first, method="DOP853", t_eval=flowed.t, rtol=1e-12, atol=1e-14
    )
    assert np.max(abs(solution.y[:2].T - flowed.y)) < 1e-11


@pytest.mark.some(1)
@pytest.mark.parametrize(
    "derive, name, expected",
    [
        (mq.scheduled_equation, "gradient descent", 2),
        (mq.scheduled_equation, "heavy ball 0.5", 2),
        (mq.scheduled_equation, "Nesterov 0.5, decoupled decay", 2),
        (mq.scheduled_equation, "classical Nesterov 0.5", 1),
        (mq.scheduled_time_derivative_form, "heavy ball 0.5", 1),
    ],
)
def test_a_jump_of_the_schedule_at_a_step(derive, name, expected, two_variables):
    """Buffers in units of the field stay on the slow manifold when the rate jumps, others start a new transient."""
    problem, start = two_variables
    form = derive(registry.method(name), sp.Piecewise((1, t < sp.Rational(1, 4)), (sp.Rational(1, 4), True)))
    errors = []
    for steps in (256, 512, 1024):
        h = 0.5 / steps
        iterates = mq.iterate(form.method, problem, start, h=form.rate(h), steps=steps)
        flowed = mq.flow(form, problem, start, h=h, time=0.5, rtol=1e-13, atol=1e-15)
        errors.append(np.max(abs(flowed.y - iterates.y)[-8:]))
    assert all(abs(np.log2(a / b) - expected) < 0.15 for a, b in pairwise(errors)), errors


def test_where_it_starts(two_variables):
    """The initial layer at the first rate, hφ(0)."""
    problem, start = two_variables
    method, phi = registry.method("heavy ball 0.5"), 1 / (2 + t)
    form = mq.scheduled_equation(method, phi)
    begins = {
        layer: mq.flow(form, problem, start, h=0.01, time=0.1, initial_layer=layer).y[0] for layer in (1, 0, False)
    }
    assert begins[1] == pytest.approx(start - 0.01 / 2 * 2 * problem.field(start))  # a = −β/(1 − β)² = −2
    assert begins[0].tolist() == begins[False].tolist() == start
    second = mq.flow(mq.scheduled_time_derivative_form(method, phi), problem, start, h=0.01, time=0.1)
    assert second.y[0].tolist() == start


def test_the_times_are_those_of_the_base_rate(two_variables):
    problem, start = two_variables
    form = mq.scheduled_equation(mq.GradientDescent(), sp.exp(-t))
    flowed = mq.flow(form, problem, start, h=0.01, time=0.05)
    assert flowed.t == pytest.approx(0.01 * np.arange(6))
    assert flowed.name == "ScheduledEquation of order 2"


def test_a_schedule_may_end_at_zero(two_variables):
    """No step is taken at the end; the form in time derivatives divides by φ there."""
    problem, start = two_variables
    phi = (1 + sp.cos(sp.pi * t)) / 2
    assert mq.flow(mq.scheduled_equation(mq.GradientDescent(), phi), problem, start, h=0.02, time=1.0).success
    assert mq.flow(
        mq.scheduled_time_derivative_form(mq.GradientDescent(), phi, order=1), problem, start, h=0.02, time=1.0
    ).success
    with pytest.raises(mq.InvalidProblem, match=r"at t = 1 it is 0: it must stay positive; end the flow before"):
        mq.flow(mq.scheduled_time_derivative_form(mq.HeavyBall(0.5), phi), problem, start, h=0.02, time=1.0)


def test_a_network_in_single_precision():
    problem = registry._digits_problem(16)
    single = mq.TorchProblem(
        problem.module.float(), torch.nn.functional.cross_entropy, problem.inputs.float(), problem.targets
    )
    form = mq.scheduled_equation(registry.method("heavy ball 0.5"), sp.exp(-t))
    iterates = mq.iterate(form.method, single, h=form.rate(0.02), steps=40)
    flowed = mq.flow(form, single, h=0.02, time=0.8)
    assert np.max(abs(flowed.y - iterates.y)[20:]) < 1e-3


def test_refusals(two_variables):
    problem, start = two_variables
    descent = mq.GradientDescent()
    with pytest.raises(mq.InvalidProblem, match=r"with the unknown phi\(t\): give an expression in t alone"):
        mq.flow(mq.scheduled_equation(descent), problem, start, h=0.01, time=0.1)
    kappa, beta = sp.symbols("kappa beta")
    with pytest.raises(mq.InvalidProblem, match="with the unknown kappa"):
        mq.flow(mq.scheduled_time_derivative_form(descent, sp.exp(-kappa * t)), problem, start, h=0.01, time=0.1)
    with pytest.raises(mq.InvalidMethod, match="has free symbols: substitute numbers"):
        mq.flow(mq.scheduled_equation(mq.HeavyBall(beta), sp.exp(-t)), problem, start, h=0.01, time=0.1)
    with pytest.raises(mq.InvalidProblem, match=r"schedule is 1 - t, at t = 1 it is 0: it must stay positive"):
        mq.flow(mq.scheduled_equation(descent, 1 - t), problem, start, h=0.02, time=1.2)
    form = mq.scheduled_equation(descent, sp.exp(-t))
    with pytest.raises(mq.InvalidProblem, match="initial_layer is 2: under a schedule it is derived through"):
        mq.flow(form, problem, start, h=0.01, time=0.1, initial_layer=2)
    with pytest.raises(mq.InvalidProblem, match="through has shape"):
        mq.flow(form, problem, start, h=0.01, time=0.1, through=[start])
    with pytest.raises(mq.InvalidProblem, match="buffers are for a state-space form"):
        mq.flow(form, problem, start, h=0.01, time=0.1, buffers=0)
    with pytest.raises(mq.InvalidProblem, match="h is <function"):
        mq.flow(form, problem, start, h=lambda n: 0.01, time=0.1)
    with pytest.raises(mq.UnsupportedOptimizer, match="needs several fields, 2"):
        mq.flow(mq.scheduled_equation(mq.Epoch(descent, 2), sp.exp(-t)), problem, start, h=0.01, time=0.1)


def test_the_series_limit_counts_the_largest_rate(two_variables):
    problem, start = two_variables
    rising = mq.scheduled_equation(mq.HeavyBall(momentum=0.5), 1 + t)
    with pytest.raises(mq.OutsideSeriesLimit, match=r"h·φ·λ_max = .* for the largest φ .* or h·φ < "):
        mq.flow(rising, problem, start, h=0.015, time=1.0)
    constant = mq.scheduled_equation(mq.HeavyBall(momentum=0.5), 1)
    assert mq.flow(constant, problem, start, h=0.015, time=1.0).success
    assert mq.flow(rising, problem, start, h=0.015, time=1.0, series_limit=False).success
    first = mq.scheduled_equation(mq.HeavyBall(momentum=0.5), 1 + t, order=1)
    assert mq.flow(first, problem, start, h=0.015, time=1.0).success


def test_outside_the_series_limit_forms_that_exist_are_advised(two_variables):
    problem, start = two_variables
    with pytest.raises(mq.OutsideSeriesLimit, match=r"use scheduled_time_derivative_form, order=1, or h·φ < "):
        mq.flow(mq.scheduled_equation(mq.HeavyBall(0.9), sp.exp(-t)), problem, start, h=0.1, time=0.2)
    batches = mq.SymbolicProblem([problem.loss_expression] * 2, problem.variables)
    for method, given in ((mq.Epoch(mq.HeavyBall(0.9), 2), batches), (mq.ClassicalNesterov(0.9), problem)):
        with pytest.raises(mq.OutsideSeriesLimit, match=r"means nothing; use order=1 or h·φ < "):
            mq.flow(mq.scheduled_equation(method, sp.exp(-t)), given, start, h=0.1, time=0.2)


@pytest.mark.parametrize("derive", [mq.scheduled_equation, mq.scheduled_time_derivative_form])
def test_a_slope_without_bound_is_refused_at_order_two(derive, two_variables):
    problem, start = two_variables
    method, options = mq.HeavyBall(0.5), {"h": 0.01, "time": 0.05}
    rising, falling = 1 + sp.sqrt(t), 1 + sp.sqrt(sp.Rational(1, 20) - t)
    with pytest.raises(mq.InvalidProblem, match=r"at t = 0 its slope is inf: give one .* finite slope, or use order=1"):
        mq.flow(derive(method, rising), problem, start, **options)
    with pytest.raises(mq.InvalidProblem, match=r"at t = 0.05 its slope is -inf: .* or end the flow before"):
        mq.flow(derive(method, falling), problem, start, **options)
    assert mq.flow(derive(method, rising, order=1), problem, start, **options).success
    assert mq.flow(derive(method, falling), problem, start, h=0.01, time=0.04).success


def test_an_ill_posed_form_is_refused(two_variables):
    problem, start = two_variables
    form = mq.scheduled_time_derivative_form(mq.OptimisticGradient(), sp.exp(-t))
    with pytest.raises(mq.IllPosed, match="is no initial-value problem"):
        mq.flow(form, problem, start, h=0.01, time=0.1)


def test_the_series_limit_counts_the_curvature_of_each_batch():
    """The mean of 5x² and −9x²/2 is nearly flat, and each of them beyond the limit 1."""
    problem = mq.SymbolicProblem([5 * x**2, -sp.Rational(9, 2) * x**2], [x])
    epoch = mq.scheduled_equation(mq.Epoch(mq.GradientDescent(), 2), sp.exp(-t))
    with pytest.raises(mq.OutsideSeriesLimit, match=r"h·φ·λ_max = 1.5 .* or h·φ < 0.1"):
        mq.flow(epoch, problem, [1.0], h=0.15, time=0.6)
    assert mq.flow(epoch, problem, [1.0], h=0.05, time=0.6).success
