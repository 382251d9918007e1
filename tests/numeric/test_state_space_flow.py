"""The flow of the state-space form against the iterates, from any buffers."""

from dataclasses import replace

import numpy as np
import pytest
import registry
import sympy as sp
from sympy import Rational as Q

import modeq as mq
from modeq.numeric.exact_flow import exact_quadratic_flow
from modeq.numeric.state_space_field import StateSpaceField

PROBLEM, START = registry.PROBLEMS["two variables"]
START = np.array(START)


def heavy_ball(momentum, h, steps, buffer, dampening=0.0):
    """Torch's rule, written down."""
    theta, v, points = START.copy(), np.array(buffer, dtype=np.float64), [START]
    for _ in range(steps):
        v = momentum * v - (1 - dampening) * PROBLEM.field(theta)
        theta = theta - h * v
        points.append(theta)
    return np.array(points)


def slopes(method, order, time, steps, iterates, buffers=None):
    form = mq.state_space_form(method, order)
    errors = []
    for n in steps:
        h = time / n
        flow = mq.flow(form, PROBLEM, START, h=h, time=time, buffers=buffers, rtol=1e-13, atol=1e-15)
        errors.append(np.max(abs(flow.y - iterates(h, n))))
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:])), errors


@pytest.mark.some(3)
@pytest.mark.parametrize("buffer", [[0.0, 0.0], [1.0, -0.5]], ids=["from zero", "from a buffer"])
@pytest.mark.parametrize("momentum, time, steps", [(0.5, 0.125, (13, 26, 52)), (0.9, 0.1, (100, 200, 400))])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_slopes_of_the_heavy_ball(order, momentum, time, steps, buffer):
    found, errors = slopes(
        mq.HeavyBall(momentum), order, time, steps, lambda h, n: heavy_ball(momentum, h, n, buffer), buffer
    )
    assert np.allclose(found, order, atol=0.15)
    assert errors[-1] > 1e-13  # no rounding


TWO_BUFFERS = mq.GeneralLinearMethod(
    A=[[1, 1, 1], [0, Q(1, 2), 0], [0, 0, Q(1, 3)]],
    B=[[1], [1], [Q(1, 4)]],
    C=[[1, 0, 1]],
    D=[[0]],
    start=[[0], [1], [-2]],
    name="two buffers",
)
METHODS = {
    "dampening": mq.HeavyBall(0.5, 0.3),
    "Nesterov": mq.Nesterov(0.5),
    "triple momentum": mq.TripleMomentum(0.5, 0.3, 0.2),
    "two buffers": TWO_BUFFERS,
    "complex pair": replace(
        TWO_BUFFERS, A=[[1, 1, 0], [0, Q(1, 2), Q(-1, 4)], [0, Q(1, 4), Q(1, 2)]], C=[[1, 0, 0]], name="complex pair"
    ),
    "decoupled decay": mq.HeavyBall(0.5).with_weight_decay(0.3, decoupled=True),
    "gradient descent": mq.GradientDescent(),
    "extragradient": mq.Extragradient(),
}


@pytest.mark.some(2)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in ("two buffers", "complex pair") else ()) for name in METHODS],
)
def test_slopes_from_the_start_of_the_method(name):
    method = METHODS[name]

    def iterates(h, n):
        return mq.iterate(method, PROBLEM, START, h=h, steps=n).y

    steps = (256, 512) if method.state_count > 2 else (16, 32, 64)  # with two buffers orders mix longer
    for order in (2, 3):
        found, errors = slopes(method, order, 0.125, steps, iterates)
        assert np.allclose(found, order, atol=0.15)
        assert errors[-1] > 1e-12


def test_any_start_of_the_method_is_met():
    """v₀ from `method.start`, and a kick to θ itself."""
    form = mq.state_space_form(TWO_BUFFERS, order=1)
    field = StateSpaceField(form, PROBLEM, h=0.1)
    f = PROBLEM.field(START)
    assert np.allclose(field.start(START), [*START, *(-f), *(2 * f)])
    kicked = replace(TWO_BUFFERS, start=[[Q(1, 2)], [1], [0]])
    u = StateSpaceField(mq.state_space_form(kicked, order=1), PROBLEM, h=0.1).start(START)
    assert np.allclose(u, [*(START + 0.05 * f), *(-f), *(0 * f)])
    assert np.array_equal(field.start(START, 0), [*START, 0, 0, 0, 0])
    assert np.array_equal(field.start(START, [[1, 2], [3, 4]]), [*START, 1, 2, 3, 4])
    one = StateSpaceField(mq.state_space_form(mq.HeavyBall(0.5), order=1), PROBLEM, h=0.1)
    assert np.array_equal(one.start(START, [1, 2]), [*START, 1, 2])


def test_dampening_starts_undamped():
    """Torch's first v⁺ is g, and the iterates are torch's."""
    field = StateSpaceField(mq.state_space_form(mq.HeavyBall(0.5, 0.3), order=1), PROBLEM, h=0.1)
    assert np.allclose(field.start(START)[2:], -0.6 * PROBLEM.field(START))


@pytest.mark.parametrize("name", ["two buffers", "Nesterov", "decoupled decay"])
def test_nested_derivatives_equal_the_written_out_field(name):
    form = mq.state_space_form(METHODS[name], order=4)
    count = form.buffer_count
    problem, _ = registry.PROBLEMS["quartic"]
    explicit = form.on(problem.loss_expression, problem.variables).lambdify()
    u = np.random.default_rng(0).standard_normal(2 * (count + 1))
    found = StateSpaceField(form, problem, h=0.3)(u)
    assert np.allclose(found, explicit(u, 0.3), rtol=1e-12)


def test_quadratics_against_the_exact_flow():
    """Order p misses the exact logarithm of the one-step map by O(hᵖ)."""
    x, y = sp.symbols("x y")
    problem = mq.SymbolicProblem(x**2 + x * y + 2 * y**2 + x, [x, y])
    for order in (2, 4):
        form = mq.state_space_form(mq.HeavyBall(0.5), order)
        errors = []
        for h in (0.01, 0.005):
            reference = exact_quadratic_flow(mq.HeavyBall(0.5), problem, [1.0, -2.0], h=h, time=0.2005).y
            flow = mq.flow(form, problem, [1.0, -2.0], h=h, time=0.2005, rtol=1e-13, atol=1e-15)
            errors.append(np.max(abs(flow.y - reference)))
        assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.some(1)
@pytest.mark.parametrize("momentum", [0.9, 0.99])
def test_orders_help_beyond_the_series_limit(momentum):
    """The field on θ alone means nothing at h·λ = 0.04; here each order is worth a factor of 30 at least."""
    x, y = sp.symbols("x y")
    problem, method, h = mq.SymbolicProblem(x**2 / 2 + 2 * y**2, [x, y]), mq.HeavyBall(momentum), 0.01
    assert 4 * h > method.series_limit()
    iterates = mq.iterate(method, problem, [0.8, -0.4], h=h, steps=200).y
    errors = []
    for order in range(1, 6):
        flow = mq.flow(mq.state_space_form(method, order), problem, [0.8, -0.4], h=h, time=2, rtol=1e-12)
        errors.append(np.max(abs(flow.y - iterates)))
    assert all(later < earlier / 30 for earlier, later in zip(errors, errors[1:], strict=False))


def test_networks_follow_torch():
    problem, method = registry.NETWORKS["softplus regression"](), mq.HeavyBall(0.5)
    form, errors = mq.state_space_form(method, order=2), []
    for h in (8e-3, 4e-3):
        iterates = mq.iterate(method, problem, h=h, steps=round(0.096 / h))
        assert "torch.optim.SGD" in iterates.name
        errors.append(np.max(abs(mq.flow(form, problem, h=h, time=0.096, rtol=1e-8).y - iterates.y)))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)


def test_what_it_returns():
    form = mq.state_space_form(mq.HeavyBall(0.5), order=2)
    flow = mq.flow(form, PROBLEM, START, h=0.01, time=0.055)
    assert np.allclose(flow.t, [0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.055])
    assert flow.y.shape == (7, 2)
    assert flow.name == "state-space form of order 2"
    assert flow.success


def test_errors():
    form = mq.state_space_form(mq.HeavyBall(0.5), order=2)
    with pytest.raises(mq.InvalidProblem, match="buffers are for a state-space form, not for ModifiedEquation"):
        mq.flow(mq.modified_equation(mq.HeavyBall(0.5), 2), PROBLEM, START, h=0.1, time=1, buffers=0)
    with pytest.raises(mq.InvalidProblem, match="h is -1: give a positive number"):
        mq.flow(form, PROBLEM, START, h=-1, time=1)
    with pytest.raises(mq.InvalidProblem, match="time is 0: give a positive number"):
        mq.flow(form, PROBLEM, START, h=0.1, time=0)
    with pytest.raises(mq.InvalidMethod, match="free symbols: substitute"):
        mq.flow(mq.state_space_form(mq.HeavyBall(sp.Symbol("beta")), 1), PROBLEM, START, h=0.1, time=1)
    with pytest.raises(
        mq.InvalidProblem, match=r"buffers have shape \(3,\): give None, 0, or an array of shape \(1, 2\)"
    ):
        mq.flow(form, PROBLEM, START, h=0.1, time=1, buffers=[1, 2, 3])
    with pytest.raises(mq.InvalidProblem, match="buffers are 'zero': give 1 buffers of 2 numbers each"):
        mq.flow(form, PROBLEM, START, h=0.1, time=1, buffers="zero")
    with pytest.raises(mq.InvalidProblem, match="buffers have entries that are not finite"):
        mq.flow(form, PROBLEM, START, h=0.1, time=1, buffers=[1, np.inf])
    game = mq.GeneralLinearMethod(
        A=[[1]], B=[[1, 1]], C=[[1], [1]], D=[[0, 0], [0, 0]], colours=(0, 1), name="two fields"
    )
    with pytest.raises(mq.UnsupportedOptimizer, match="two fields needs several fields"):
        mq.flow(mq.state_space_form(game, 1), PROBLEM, START, h=0.1, time=1)
    with pytest.raises(mq.Diverged, match="state-space form of order 2: given up after 20 evaluations"):
        mq.flow(form, PROBLEM, START, h=0.01, time=1, max_evaluations=20)
    failed = mq.flow(form, PROBLEM, START, h=0.01, time=1, max_evaluations=20, check=False)
    assert failed.status == -2
