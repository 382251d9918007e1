"""Stages of one pass: their B-series is that of the modified field, and N gradients give order N."""

import numpy as np
import pytest
import sympy as sp
from registry import METHODS, NETWORKS, PROBLEMS, method

import modeq as mq
from modeq.numeric.fields import GradientsOnlyField, modified_field, series_value
from modeq.numeric.one_pass import one_pass

ONE_QUERY = [
    name
    for name in METHODS
    if method(name).queries_at_parameters and method(name).parasitic_radius > 0 and "decoupled" not in name
]


def weight(tree, scheme):
    """The elementary weight Σ b_i Φ_i(τ) of a tableau, by its definition."""

    def stages(tree):
        result = [sp.Integer(1)] * len(scheme.b)
        for child in tree.children:
            inner = stages(child)
            moved = [sum((a * x for a, x in zip(row, inner, strict=False)), sp.Integer(0)) for row in scheme.a]
            result = [x * y for x, y in zip(result, moved, strict=True)]
        return result

    return sum(b * x for b, x in zip(scheme.b, stages(tree), strict=True))


@pytest.mark.some(17)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ONE_QUERY)
def test_elementary_weights_are_the_coefficients_of_the_field(name, order):
    scheme = one_pass(method(name), order)
    if scheme is None:
        assert mq.modified_equation(method(name), 2)[[[]]] == 0, "only a method of second order has none"
        return
    series = mq.modified_equation(method(name), order)
    for size in range(1, order + 1):
        for tree in mq.trees(size):
            assert abs(float(sp.N(weight(tree, scheme) - series[tree], 30))) <= 1e-20 * abs(float(series[tree]))


class Counted:
    """A problem that counts its gradients."""

    def __init__(self, problem):
        self.problem, self.parts, self.size, self.gradients = problem, 1, problem.size, 0

    def field(self, theta):
        self.gradients += 1
        return self.problem.field(theta)


@pytest.mark.parametrize("decay", [0, 0.1])
def test_as_many_gradients_as_the_order(decay):
    problem, start = PROBLEMS["two variables"]
    for momentum in (0.5, 0.9, 0.99):
        heavy = mq.HeavyBall(momentum).with_weight_decay(decay) if decay else mq.HeavyBall(momentum)
        for order, expected in [(1, 1), (2, 2), (3, 3), (4, 4), (5, 11)]:
            counted = Counted(problem)
            field = GradientsOnlyField(heavy, order, counted, 1e-2 * (1 - momentum) ** 2)
            field(np.array(start))
            assert counted.gradients == field.gradients_per_call == expected


@pytest.mark.some(19)
@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("name", [n for n in ONE_QUERY if "0.99" not in n])
def test_the_difference_from_the_series_has_the_order(name, order):
    problem, start = PROBLEMS["two variables"]
    theta, series = np.array(start), mq.modified_equation(method(name), order)
    scale = 0.03 * min(1.0, float(method(name).series_limit()))
    sizes = [scale * 2.0**-k for k in range(3)]
    errors = [
        np.max(abs(modified_field(series, problem, h, "gradients")(theta) - series_value(series, problem, theta, h)))
        for h in sizes
    ]
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    seen = [slope for slope, error in zip(slopes, errors[1:], strict=True) if error > 1e-12 * np.max(abs(theta))]
    assert seen or errors[-1] < 1e-11
    assert all(order - 0.25 < slope < order + 1.25 for slope in seen), slopes


def test_a_network_agrees_with_automatic_differentiation_in_both_arrays():
    problem = NETWORKS["softplus regression"]()
    series = mq.modified_equation(mq.HeavyBall(0.5), 3)
    theta = problem.start()
    exact = modified_field(series, problem, 1e-4, "autodiff")(theta)
    found = modified_field(series, problem, 1e-4, "gradients")(theta)
    first = modified_field(mq.modified_equation(mq.HeavyBall(0.5), 1), problem, 1e-4)(theta)
    assert np.max(abs(found - exact)) < 1e-9 * np.max(abs(exact))
    assert np.max(abs(found - first)) > 1e-5 * np.max(abs(exact))
