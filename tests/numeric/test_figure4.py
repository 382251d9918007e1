"""The quadratic of Kunin et al. 2021 (arXiv 2012.04728), Figure 4, with momentum.

A = [[2.5, −1.5], [−1.5, 2.5]], learning rate 0.01, momentum 0.9, 50 steps from (1, 0). Errors are the
largest difference in any coordinate at any step. 0.349, 0.0488 and 0.00164 were computed apart from modeq,
with the setting of the published notebook (danielkunin/neural-mechanics).
"""

import re

import pytest
import sympy as sp

import modeq as mq

H, STEPS, START = 0.01, 50, [1.0, 0.0]
METHOD = mq.HeavyBall(momentum=0.9)


@pytest.fixture(scope="module")
def problem():
    x, y = sp.symbols("x y")
    return mq.SymbolicProblem(sp.Rational(5, 4) * (x**2 + y**2) - sp.Rational(3, 2) * x * y, [x, y])


@pytest.fixture(scope="module")
def errors(problem):
    result = mq.compare(
        METHOD,
        problem,
        START,
        h=H,
        steps=STEPS,
        orders={"field": (1, 2, 3), "time": (2,), "rest": (2,), "phase": (1, 2, 3, 4, 5)},
        forms=("field", "time", "rest", "phase", "exact"),
        rtol=1e-11,
        atol=1e-13,
    )
    return {(form, order): error for (_, form, order), error in result.errors.items()}


def test_gradient_flow(errors):
    assert errors["field", 1] == pytest.approx(0.349, abs=5e-4)


def test_second_order_form_from_rest_and_rightly_started(errors):
    assert errors["rest", 2] == pytest.approx(0.0488, abs=5e-5)
    assert errors["time", 2] == pytest.approx(0.00164, abs=5e-6)


def test_phase_space_form(errors):
    assert errors["phase", 1] == pytest.approx(1.6e-3, rel=0.15)
    assert errors["phase", 2] == pytest.approx(1.3e-3, rel=0.15)
    assert 1e-6 < errors["phase", 3] < 1e-5
    assert 1e-6 < errors["phase", 4] < 1e-5
    assert errors["phase", 5] == pytest.approx(7e-9, rel=0.15)


def test_vector_field_beyond_order_one_is_outside_its_series_limit(errors, problem):
    assert errors["field", 2] is None
    assert errors["field", 3] is None
    with pytest.raises(mq.OutsideSeriesLimit, match=r"h·λ_max = 0.04 .* series limit 0.002633"):
        mq.flow(mq.modified_equation(METHOD, 2), problem, START, h=H, time=H * STEPS)


def test_exact_flow_passes_through_every_iterate(errors):
    assert errors["exact", 0] < 1e-13


@pytest.mark.parametrize("order", [3, 5])
def test_gradients_alone_give_the_same_phase_space_flow(order, problem):
    form = mq.phase_space_form(METHOD, order)
    written, measured = (
        mq.flow(form, problem, START, h=H, time=H * STEPS, field=field).y for field in ("lambdify", "gradients")
    )
    assert abs(written - measured).max() < 1e-11


def test_the_table_names_what_has_no_number(problem):
    table = mq.compare(METHOD, problem, START, h=H, steps=STEPS, forms=["field"]).table()
    assert re.search(r"vector field, order 2 +outside its series limit", table)
