"""Orders of the phase-space form from settled and from zero buffers, from both sides."""

import numpy as np
import pytest
import sympy as sp
from slow_starts import PROBLEM, START, largest_errors, slopes

import modeq as mq
from modeq.numeric.orders import expected_order

HALF = sp.Rational(1, 2)
METHODS = {"heavy ball": mq.HeavyBall(HALF), "Nesterov": mq.Nesterov(HALF)}
TRANSIENT = 60  # steps, 0.5⁶⁰ = 1e-18
NAMES = {"derivatives": "phase", "hermite": "hermite", "powers": "powers"}

slow = pytest.mark.slow
SETTLED = [
    ("heavy ball", "derivatives", 2),
    ("heavy ball", "derivatives", 3),
    pytest.param("heavy ball", "derivatives", 4, marks=slow),
    ("heavy ball", "hermite", 2),
    pytest.param("heavy ball", "hermite", 3, marks=slow),
    pytest.param("heavy ball", "hermite", 4, marks=slow),
    ("Nesterov", "derivatives", 1),
    ("Nesterov", "derivatives", 2),
    ("Nesterov", "derivatives", 3),
    pytest.param("Nesterov", "derivatives", 4, marks=slow),
    ("Nesterov", "hermite", 1),
    ("Nesterov", "hermite", 2),
    pytest.param("Nesterov", "hermite", 3, marks=slow),
    pytest.param("Nesterov", "powers", 2, marks=slow),
]


@pytest.mark.some(1)
@pytest.mark.parametrize("name, expansion, order", SETTLED)
def test_settled_trainings_are_followed_to_the_order_of_the_form(name, expansion, order):
    form = mq.phase_space_form(METHODS[name], order, expansion)
    errors = largest_errors(METHODS[name], form, PROBLEM, START, (0.01, 0.005), 0.6, TRANSIENT)
    assert abs(slopes(errors)[-1] - order) < 0.15


FROM_ZERO = [
    ("heavy ball", "derivatives", 1),
    ("heavy ball", "derivatives", 3),
    pytest.param("heavy ball", "derivatives", 4, marks=slow),
    ("heavy ball", "hermite", 2),
    ("heavy ball", "hermite", 3),
    ("heavy ball", "powers", 2),
    ("Nesterov", "derivatives", 2),
    pytest.param("Nesterov", "derivatives", 3, marks=slow),
    pytest.param("Nesterov", "derivatives", 4, marks=slow),
    pytest.param("Nesterov", "hermite", 2, marks=slow),
    pytest.param("Nesterov", "hermite", 3, marks=slow),
    ("Nesterov", "powers", 1),
    pytest.param("Nesterov", "powers", 2, marks=slow),
]


@pytest.mark.some(1)
@pytest.mark.parametrize("name, expansion, order", FROM_ZERO)
def test_from_zero_buffers_a_shift_stays_unless_r_is_interpolated(name, expansion, order):
    """Order min(p, 2) of Taylor's r; with the poles interpolated p, through 3."""
    form = mq.phase_space_form(METHODS[name], order, expansion)
    errors = largest_errors(METHODS[name], form, PROBLEM, START, (0.01, 0.005), 0.6)
    expected = min(order, 2 if expansion == "derivatives" else 3)
    assert expected == expected_order(METHODS[name], order, form=NAMES[expansion])
    assert abs(slopes(errors)[-1] - expected) < 0.15


def test_given_iterates_are_passed_through():
    """In the middle of a training the flow starts from two successive iterates, not from new buffers."""
    method, h = METHODS["heavy ball"], 0.05
    points = mq.iterate(method, PROBLEM, START, h=h, steps=40).y[10:]
    form = mq.phase_space_form(method, 3, "powers")
    flowed = mq.flow(form, PROBLEM, points[0], h=h, time=h * 30, through=points[1:2])
    fresh = mq.flow(form, PROBLEM, points[0], h=h, time=h * 30)
    assert np.max(abs(flowed.y - points)) < 1e-6 < np.max(abs(fresh.y - points)) / 1000


@pytest.mark.parametrize("through", [[0.1, 0.2], [[0.1, float("nan")]], np.zeros((2, 2))], ids=str)
def test_iterates_of_another_shape_are_refused(through):
    form = mq.phase_space_form(METHODS["heavy ball"], 2)
    with pytest.raises(mq.InvalidProblem, match="through has shape .*: give PhaseSpaceForm.* 1 x 2 finite numbers"):
        mq.flow(form, PROBLEM, START, h=0.1, time=1.0, through=through)


def test_a_form_without_velocity_passes_through_its_start_alone():
    for form in (mq.modified_equation(METHODS["heavy ball"], 1), mq.phase_space_form(mq.GradientDescent(), 1)):
        with pytest.raises(mq.InvalidProblem, match="nothing, it starts at θ₀ alone"):
            mq.flow(form, PROBLEM, START, h=0.1, time=1.0, through=[START])


def test_sweeps_that_do_not_contract_give_no_silent_answer():
    """h·|S₁|·λ/c = 1.7 for one power of the heavy ball: no fixed point of the sweeps can be found."""
    problem = mq.SymbolicProblem(sp.Symbol("x") ** 2 / 2, [sp.Symbol("x")])
    form = mq.phase_space_form(METHODS["heavy ball"], 2, "powers")
    with pytest.raises(mq.Diverged, match="at the start its highest derivative cannot be solved for, .* h = 15; use a"):
        mq.flow(form, problem, [1.0], h=15.0, time=60.0)


@pytest.mark.slow
def test_sweeps_go_on_until_every_derivative_is_reached():
    """At a large step the first two sweeps move D²θ and D⁴θ by as much as each other: no sign of rounding."""
    x, y = sp.symbols("x y")
    problem = mq.SymbolicProblem(sp.Rational(5, 4) * (x**2 + y**2) - sp.Rational(3, 2) * x * y, [x, y])
    forms = [mq.phase_space_form(METHODS["heavy ball"], order) for order in (3, 5)]
    errors = [largest_errors(METHODS["heavy ball"], f, problem, [1.0, 0.0], [0.1875], 9.375, rtol=1e-10) for f in forms]
    assert errors[1][0] < errors[0][0] / 10 < 2e-4
