"""The expanded start against the one found by shooting through the first iterates, on a nonlinear loss."""

import numpy as np
import pytest
import sympy as sp
from slow_starts import PROBLEM, START, slopes

import modeq as mq
from modeq.numeric import phase_space_flow
from modeq.numeric.fields import series_value

HALF = sp.Rational(1, 2)
METHODS = {
    "heavy ball": mq.HeavyBall(HALF),
    "heavy ball, own first step": mq.HeavyBall(HALF, sp.Rational(3, 10)),
    "Nesterov": mq.Nesterov(HALF),
}


@pytest.mark.some(1)
@pytest.mark.parametrize("name", METHODS)
def test_the_velocity_is_the_one_that_leads_through_the_first_iterates(name):
    """Both in units of a step; trees with up to p vertices leave O(h^{p+1})."""
    form = mq.phase_space_form(METHODS[name], 4, "powers")
    found = {}
    for h in (0.025, 0.0125):
        system = phase_space_flow.phase_space_system(form, PROBLEM, START, h, "auto", True, 1e-12, None)
        found[h] = system.start.reshape(2, 2)
        assert np.array_equal(found[h][0], START)
    for order in (1, 2, 3):
        _, velocity = form.start(order)
        misses = [np.max(abs(found[h][1] - h * series_value(velocity, PROBLEM, START, h))) for h in found]
        assert abs(slopes(misses)[0] - (order + 1)) < 0.15
