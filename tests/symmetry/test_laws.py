"""The exact laws of charges are those of torch.optim.SGD, step for step, and their closed forms are the recursions."""

import hypothesis.strategies as st
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from modeq.errors import InvalidSetting, NoClosedLaw
from modeq.symmetry.charges import Rescale, Translation
from modeq.symmetry.laws import SGDStep, discrete_response, discrete_solution, discrete_step

SIZE = 6
CHARGES = {2: Rescale("r", {"a": None}, {"b": None}), 1: Translation("t", {"a": None, "b": None})}

rates = st.floats(0.01, 0.5)
momenta = st.sampled_from([0.0, 0.3, 0.9, 0.99]) | st.floats(0.05, 0.99)
schedule = st.lists(st.tuples(rates, momenta, st.floats(0, 0.9), st.floats(0, 0.5)), min_size=1, max_size=12)


def orthogonal(gradient, generator):
    """The gradient of a loss that has the symmetry: its part along the generator is taken out."""
    return gradient - (gradient @ generator) / (generator @ generator) * generator


def split(theta):
    return {"a": theta[:SIZE], "b": theta[SIZE:]}


def generator_of(theta, degree):
    return torch.ones_like(theta) if degree == 1 else torch.cat([theta[:SIZE], -theta[SIZE:]])


def run(steps, degree, seed, *, broken=False, decoupled=False, maximize=False):
    """Step a real SGD on drawn gradients and the law beside it; returns the final error, relatively."""
    charge, draw = CHARGES[degree], torch.Generator().manual_seed(seed)
    theta = torch.nn.Parameter(torch.randn(2 * SIZE, generator=draw, dtype=torch.float64))
    optimizer = torch.optim.SGD([theta], lr=0.1, maximize=maximize)
    group = optimizer.param_groups[0]
    value, momentum, first = charge.value(split(theta.detach())), torch.zeros(1, dtype=torch.float64), True
    for step in steps:
        gradient = torch.randn(2 * SIZE, generator=draw, dtype=torch.float64)
        generator = generator_of(theta.detach(), degree)
        if not broken:
            gradient = orthogonal(gradient, generator)
        theta.grad = -gradient if maximize else gradient.clone()
        group.update(lr=step.h, momentum=step.momentum, dampening=step.dampening, nesterov=step.nesterov)
        group.update(weight_decay=0.0 if decoupled else step.weight_decay)
        held = optimizer.state[theta].get("momentum_buffer") if theta in optimizer.state else None
        fresh = gradient + group["weight_decay"] * theta.detach()
        if decoupled:
            theta.data.mul_(1 - step.h * step.weight_decay)
        optimizer.step()
        if step.momentum:
            buffer = optimizer.state[theta]["momentum_buffer"]
            update = fresh + step.momentum * buffer if step.nesterov else buffer
        else:
            update, buffer = gradient, torch.zeros_like(theta) if held is None else held
        value, momentum = discrete_step(
            value,
            momentum,
            step,
            charge.pairing(split(update), split(update)),
            charge.pairing(split(update), split(buffer)),
            degree=degree,
            first=first,
            defect=gradient @ generator if broken else 0.0,
        )
        first = first and not step.momentum
    measured = split(theta.detach())
    return float((charge.value(measured) - value).abs().max() / charge.normaliser(measured).max())


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("kind", ["plain", "decoupled", "maximize", "broken", "broken decoupled"])
@settings(max_examples=25, deadline=None)
@given(schedule=schedule, nesterov=st.booleans(), seed=st.integers(0, 10**6))
def test_the_laws_are_exact_for_torch_under_any_schedule(degree, kind, schedule, nesterov, seed):
    steps = [
        SGDStep(h, beta, 0.0 if nesterov else alpha, decay, nesterov and beta > 0, "decoupled" in kind)
        for h, beta, alpha, decay in schedule
    ]
    options = {word: word in kind for word in ("broken", "decoupled", "maximize")}
    assert run(steps, degree, seed, **options) < 1e-12


def test_a_broken_symmetry_leaves_the_law():
    step = SGDStep(0.1, 0.9, dampening=0.01)
    broken, _ = discrete_step(1.0, 0.0, step, 1.0, 1.0, degree=2, defect=0.5)
    kept, _ = discrete_step(1.0, 0.0, step, 1.0, 1.0, degree=2)
    assert broken - kept == pytest.approx(-2 * 0.1 * 0.99 * 0.5)


@pytest.mark.parametrize("degree", [1, 2])
@settings(deadline=None)
@given(
    step=st.builds(SGDStep, h=rates, momentum=momenta, dampening=st.floats(0, 0.9), weight_decay=st.floats(0, 9)),
    seed=st.integers(0, 10**6),
    n=st.integers(0, 40),
)
def test_the_closed_form_is_the_recursion(degree, step, seed, n):
    draw = np.random.default_rng(seed)
    start, momentum, forcing = draw.normal(size=2), draw.normal(size=2), draw.normal(size=(n, 2))
    rows, state = [start], (start, momentum)
    for force in forcing:
        state = discrete_step(*state, step, force, force if step.momentum else 0.0, degree=degree)
        rows.append(state[0])
    closed = discrete_solution(start, momentum, step, forcing, degree=degree)
    assert closed.shape == (n + 1, 2)
    np.testing.assert_allclose(closed, rows, atol=1e-11 * np.abs(rows).max())


@settings(deadline=None)
@given(degree=st.sampled_from([1, 2]), alpha=st.floats(0, 0.9), decay=st.floats(0, 0.5), seed=st.integers(0, 99))
def test_torch_starts_as_if_from_a_virtual_buffer(degree, alpha, decay, seed):
    draw = np.random.default_rng(seed)
    value, force, step = *draw.normal(size=2), SGDStep(0.1, 0.9, alpha, decay)
    torch_start = discrete_step(value, 0.0, step, force, force, degree=degree, first=True)
    virtual = discrete_step(value, alpha / 0.9 * decay * value, step, force, force, degree=degree)
    np.testing.assert_allclose(torch_start, virtual, rtol=1e-12, atol=1e-14)


@settings(deadline=None)
@given(factor=st.floats(-5, 5), step=st.builds(SGDStep, h=rates, momentum=momenta, weight_decay=st.floats(0, 1)))
def test_the_laws_are_linear_in_charge_momentum_and_forcing(factor, step):
    for degree in (1, 2):
        plain = discrete_step(1.0, 0.3, step, 0.7, 0.2, degree=degree)
        scaled = discrete_step(factor, 0.3 * factor, step, 0.7 * factor, 0.2 * factor, degree=degree)
        np.testing.assert_allclose(scaled, factor * np.array(plain), rtol=1e-12, atol=1e-14)


@settings(deadline=None)
@given(step=st.builds(SGDStep, h=rates, momentum=momenta, dampening=st.floats(0, 0.9)), n=st.integers(1, 30))
def test_translation_charges_are_conserved_exactly_without_decay(step, n):
    state = (1.7, 0.0)
    for k in range(n):
        state = discrete_step(*state, step, degree=1, first=k == 0)
    assert state == (1.7, 0.0)


def test_quadratic_charges_are_conserved_to_first_order_without_decay():
    drift = []
    for n in (100, 200, 400, 800):
        step = SGDStep(1 / n, 0.5)
        value = discrete_solution([1.0], [0.0], step, np.ones((n, 1)), degree=2)[-1, 0]
        drift.append(value - 1.0)
    slopes = np.log2(np.array(drift[:-1]) / drift[1:])
    np.testing.assert_allclose(slopes, 1.0, atol=0.05)


@pytest.mark.parametrize("beta", [0.05, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("edge", [-1, 1])
@pytest.mark.parametrize("offset", [0.0, 1e-15, -1e-15, 1e-12, -1e-12, 1e-6, -1e-6, 0.02, -0.02])
def test_the_response_is_accurate_up_to_and_through_double_roots(beta, edge, offset):
    x = (1 + edge * beta**0.5) ** 2 + offset
    step = SGDStep(1.0, beta, weight_decay=abs(x))
    with mpmath.workdps(60):
        expected, previous = (
            [mpmath.mpf(0), mpmath.mpf(1)],
            1 + mpmath.mpf(beta) - mpmath.mpf(step.weight_decay),
        )
        while len(expected) < 41:
            expected.append(previous * expected[-1] - mpmath.mpf(beta) * expected[-2])
    response = discrete_response(step, 40, degree=1)
    scale = np.array([abs(float(value)) for value in expected]).max()
    # the double root itself is a square root of the data: half of the digits of β and x at worst
    np.testing.assert_allclose(response, [float(value) for value in expected], atol=3e-12 * scale)


def test_the_response_neither_overflows_nor_underflows():
    response = discrete_response(SGDStep(0.1, 0.9), 10**6, degree=2)
    assert response[-1] == pytest.approx(10.0, rel=1e-9)


@pytest.mark.parametrize("position, oscillates", [(0.999, False), (1.001, True), (37.9, True), (38.1, False)])
def test_complex_roots_between_the_two_edges(position, oscillates):
    beta = 0.5
    lower, upper = (1 - beta**0.5) ** 2, (1 + beta**0.5) ** 2
    x = lower * position if position < 2 else upper * position / 38
    response = discrete_response(SGDStep(1.0, beta, weight_decay=x), 400, degree=1)
    turns = np.count_nonzero(np.diff(np.sign(response[1:])) != 0)
    mirrored = turns == 399  # two negative roots: the sign changes at every step
    assert (0 < turns < 399) == oscillates
    assert mirrored == (x > upper)


@pytest.mark.parametrize("options", [{"nesterov": True}, {"decoupled": True, "weight_decay": 0.1}])
def test_closed_forms_are_refused_where_there_are_none(options):
    step = SGDStep(0.1, 0.9, **options)
    with pytest.raises(NoClosedLaw, match="it covers coupled heavy ball: iterate discrete_step"):
        discrete_solution([1.0], [0.0], step, np.zeros((3, 1)), degree=2)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"h": -0.1}, "h is -0.1; give a finite number of at least 0"),
        ({"h": float("nan")}, "h is nan; give a finite number of at least 0"),
        ({"h": float("inf")}, "h is inf; give a finite number"),
        ({"h": "0.1"}, "h is '0.1'; give a finite number"),
        ({"momentum": -0.5}, "momentum is -0.5; give a finite number of at least 0"),
        ({"momentum": float("nan")}, "momentum is nan; give a finite number"),
        ({"dampening": float("nan")}, "dampening is nan; give a finite number$"),
        ({"weight_decay": float("nan")}, "weight_decay is nan; give a finite number$"),
    ],
)
def test_steps_that_nobody_takes_are_refused(options, message):
    with pytest.raises(InvalidSetting, match=message):
        SGDStep(**{"h": 0.1, **options})


UNUSUAL = [
    SGDStep(0.0, 0.9, weight_decay=0.1),
    SGDStep(0.05, 1.0, weight_decay=0.1),
    SGDStep(0.05, 1.2, weight_decay=0.1),
    SGDStep(0.05, 0.9, dampening=-0.5, weight_decay=0.1),
    SGDStep(0.05, 0.9, dampening=1.0, weight_decay=0.1),
    SGDStep(0.05, 0.9, dampening=1.8, weight_decay=0.1),
]


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("step", UNUSUAL)
def test_recursion_and_closed_form_hold_for_all_that_torch_runs(step, degree):
    assert run([step] * 12, degree, seed=3) < 1e-12
    forcing = np.linspace(-1, 1, 12)[:, None]
    rows, state = [np.ones(1)], (np.ones(1), np.full(1, 0.3))
    for force in forcing:
        state = discrete_step(*state, step, force, force, degree=degree)
        rows.append(state[0])
    closed = discrete_solution([1.0], [0.3], step, forcing, degree=degree)
    np.testing.assert_allclose(closed, rows, rtol=1e-12, atol=1e-12)


def test_an_overflowing_recursion_gives_infinity():
    assert discrete_step(1.0, 0.0, SGDStep(1e200), forcing=1.0, degree=2)[0] == np.inf
