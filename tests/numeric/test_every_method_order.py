"""Every registered method follows its own modified equations, at every truncation order, with the predicted slope.

From its own start, with the initial layer, at the step sizes that `observed_order` chooses: those reach from
a good part of the series limit down to the noise of double precision, for momentum 0.99 and implicit methods too.
"""

import pytest
import registry

import modeq as mq
from modeq.testing import assert_order

PROBLEM, START = registry.PROBLEMS["logistic"]


def cases():
    """By default orders 1, 2, 3; with weight decay, or at momentum 0.99 with its layer of 4300 steps, order 2."""
    for name in registry.METHODS:
        for order in range(1, 6):
            costs = 2 * ("0.99" in name) + bool(registry.method(name).decay)
            default = order <= 3 if costs == 0 else costs == 1 and order == 2
            yield pytest.param(name, order, marks=() if default else pytest.mark.slow, id=f"{name}-{order}")


@pytest.mark.some(24)
@pytest.mark.parametrize(("name", "order"), list(cases()))
def test_slope(name, order):
    method = registry.method(name)
    drift = mq.modified_equation(method, order=1)[mq.Tree([])]
    # Without a long layer to wait for, steps are few, and a fifth halving settles the slopes of low order.
    halvings = 4 if method.parasitic_radius > 0 else 5
    observed = assert_order(method, PROBLEM, START, order=order, time=2 / float(drift), halvings=halvings)
    assert len(observed.step_sizes) >= 3


@pytest.mark.parametrize(
    ("name", "order", "expected"),
    [
        ("RK4", 1, 4),
        ("explicit midpoint", 1, 2),
        ("implicit midpoint", 2, 2),
        ("implicit midpoint", 3, 4),
        ("BDF", 1, 1),
    ],
)
def test_coefficients_that_vanish_raise_the_expected_slope(name, order, expected):
    """BDF is of order 2, yet from one value of θ its first step is not: the layer costs the order."""
    observed = assert_order(registry.method(name), PROBLEM, START, order=order, time=2.0)
    assert observed.expected == expected
