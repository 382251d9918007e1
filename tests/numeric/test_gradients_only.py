"""The modified field from gradients alone: its order, its cost in gradients and in memory, its accuracy."""

import tracemalloc

import numpy as np
import pytest
import sympy as sp
import torch
from registry import METHODS, NETWORKS, PROBLEMS, method

import modeq as mq
from modeq.numeric.fields import GradientsOnlyField, SeriesField, modified_field, series_value

ONE_QUERY = [name for name in METHODS if method(name).queries_at_parameters]
PLAIN = [name for name in ONE_QUERY if "decoupled" not in name and "Adams" not in name]
SMOOTH, START = PROBLEMS["two variables"]


class Counted:
    """A problem that counts what it is asked for."""

    def __init__(self, problem):
        self.problem, self.gradients, self.derivatives = problem, 0, 0

    def __getattr__(self, name):
        return getattr(self.problem, name)

    def field(self, theta, **part):
        self.gradients += 1
        return self.problem.field(theta, **part)

    def derivative(self, theta, vectors, **part):
        self.derivatives += 1
        return self.problem.derivative(theta, vectors, **part)


def slopes(method, problem, theta, order, largest):
    """Observed powers of h in |field from gradients − truncated series|, and the relative differences."""
    series = mq.modified_equation(method, order)
    values = []
    for k in range(3):
        h = largest * 2.0**-k
        exact = series_value(series, problem, theta, h)
        measured = GradientsOnlyField(method, order, problem, h)(theta)
        values.append(np.max(abs(measured - exact)) / np.max(abs(exact)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log2(np.array(values[:-1]) / values[1:]), values


@pytest.mark.some(21)
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ONE_QUERY)
def test_the_field_is_the_truncated_series_up_to_the_next_power_of_h(name, order):
    """The difference is O(h^order), and no smaller."""
    largest = 0.01 * min(1.0, float(method(name).series_limit()))
    found, values = slopes(method(name), SMOOTH, np.array(START), order, largest)
    if order == 1 or values[0] < 1e-13:
        # Only where the method has no term up to this order is the gradient all there is.
        assert values[0] < 1e-13
        assert order == 1 or mq.modified_equation(method(name), order)[[[]]] == 0 or "Adams" in name
    else:
        assert np.all(abs(found - order) < 0.25), (found, values)


@pytest.mark.some(7)
@pytest.mark.parametrize(
    "name", ["gradient descent", "heavy ball 0.9", "Nesterov 0.5", "heavy ball 0.5, decoupled decay"]
)
@pytest.mark.parametrize("order", [2, 3, 4])
def test_on_a_network_too(name, order):
    problem = NETWORKS["softplus regression"]()
    found, values = slopes(method(name), problem, problem.start(), order, 0.03 * float(method(name).series_limit()))
    assert values[-1] > 1e-13
    assert np.all(abs(found - order) < 0.25), (found, values)


@pytest.mark.some(21)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", PLAIN)
def test_as_many_gradients_as_the_order(name, order):
    counted = Counted(SMOOTH)
    field = GradientsOnlyField(method(name), order, counted, 1e-2 * float(method(name).series_limit()))
    field(START)
    assert counted.gradients == field.gradients_per_call == order


@pytest.mark.parametrize("order, cost", [(1, 1), (2, 2), (3, 4), (4, 7), (5, 11)])
def test_decay_beside_the_gradient_costs_none(order, cost):
    counted = Counted(SMOOTH)
    field = GradientsOnlyField(mq.HeavyBall(0.5).with_weight_decay(0.1, decoupled=True), order, counted, 1e-3)
    field(START)
    assert counted.gradients == field.gradients_per_call == cost


X, Y = sp.symbols("x y")
DUEL = mq.VectorField.of_losses(
    [X * Y + X**4 / 4 + sp.cos(X) / 3, Y**2 / 2 - X * Y + sp.sin(Y) / 4], players=[[X], [Y]]
)
BALL = mq.HeavyBall(0.5)


@pytest.mark.parametrize(
    "players, order, cost",
    [
        ([BALL, BALL], 4, 4),  # alike: one field, the whole one
        ([BALL, mq.HeavyBall(0.25)], 3, 8),  # two operators, four nodes
        ([mq.GradientDescent()] * 2, 3, 3),
    ],
)
def test_players_with_one_optimizer_are_one_field(players, order, cost):
    game, counted = mq.Simultaneous(players), Counted(DUEL)
    field = GradientsOnlyField(game, order, counted, 1e-3)
    field(START)
    assert counted.gradients == field.gradients_per_call == cost
    found, values = slopes(game, DUEL, np.array(START), order, 1e-3)
    assert values[-1] > 1e-13
    assert np.all(abs(found - order) < 0.25), found


def test_players_with_rates_of_their_own_are_two_fields():
    game = mq.Simultaneous([mq.GradientDescent()] * 2, rates=[1, 2])
    assert GradientsOnlyField(game, 3, DUEL, 1e-3).gradients_per_call == 6


class Wide:
    """A separable loss of many parameters, Σ cos θ_i: one vector of 0.8 MB each."""

    size, parts, epsilon = 100_000, 1, 2e-16

    def field(self, theta, part=None):
        return np.sin(theta)


def peak(call):
    call()
    tracemalloc.start()
    call()
    _, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return highest


@pytest.mark.parametrize("order", [2, 3, 4, 6])
@pytest.mark.parametrize(
    "method",
    [
        mq.GradientDescent(),
        mq.HeavyBall(0.5),
        mq.HeavyBall(0.5).with_weight_decay(0.1),
        mq.HeavyBall(0.5).with_weight_decay(0.1, decoupled=True),
    ],
    ids=repr,
)
def test_few_vectors_are_kept(method, order):
    problem, theta = Wide(), np.linspace(0, 3, Wide.size)
    field = GradientsOnlyField(method, order, problem, 1e-3)
    assert (peak(lambda: field(theta)) - peak(lambda: problem.field(theta))) / theta.nbytes < order + 4


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("beta", [0.9, 0.99])
def test_rounding_is_small_at_large_momentum(beta, order):
    """On L = x²/2 the explicit stages give the truncated series itself: Σ (−1)^k h^{k−1} b(chain of k)."""
    heavy = mq.HeavyBall(beta)
    h = sp.Rational(1, 20) * (1 - sp.Rational(str(beta))) ** 2
    series, tree, exact = mq.modified_equation(heavy, order), mq.Tree([]), sp.Integer(0)
    for k in range(1, order + 1):
        exact += (-1) ** k * h ** (k - 1) * series[tree]
        tree = mq.Tree([tree])
    value = GradientsOnlyField(heavy, order, mq.problems.quadratic([1]), float(h))([1.0])[0]
    assert value == pytest.approx(float(exact), rel=3e-14)


@pytest.mark.parametrize("name", ["gradient descent", "heavy ball 0.9, decoupled decay", "Nesterov 0.5"])
@pytest.mark.parametrize("field", ["gradients", "autodiff", "lambdify"])
def test_lists_and_tensors_are_taken(name, field):
    found = modified_field(mq.modified_equation(method(name), 3), SMOOTH, 1e-3, field)
    if field == "lambdify":
        tensor = found(torch.tensor(START, dtype=torch.float64))
    else:
        network = NETWORKS["softplus regression"]()
        found_there = modified_field(mq.modified_equation(method(name), 3), network, 1e-4, field)
        theta = network.start()
        tensor = found_there(torch.from_numpy(theta))
        np.testing.assert_allclose(tensor.numpy(), found_there(theta), rtol=1e-12, atol=1e-15)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.float64
    np.testing.assert_array_equal(found(START), found(np.array(START)))


@pytest.mark.parametrize("decay", [0, 0.1])
@pytest.mark.parametrize("order, derivatives", [(1, 0), (2, 1), (3, 3), (4, 5)])
def test_nested_derivatives_are_found_once(order, derivatives, decay):
    """At order 4 f'f'f'f and f'f''(f, f) are one Hessian product, b([•,•,•]) = 0. Decay adds at order 2 no product."""
    descent = mq.GradientDescent().with_weight_decay(decay) if decay else mq.GradientDescent()
    counted = Counted(SMOOTH)
    SeriesField(mq.modified_equation(descent, order), counted, 1e-2)(START)
    assert counted.gradients == 1
    if not decay or order < 3:
        assert counted.derivatives == derivatives


def test_auto_takes_what_applies():
    network = NETWORKS["softplus regression"]()

    def chosen(method, problem):
        return modified_field(mq.modified_equation(method, 2), problem, 1e-3)

    assert isinstance(chosen(mq.HeavyBall(0.5), network), GradientsOnlyField)
    assert isinstance(chosen(mq.Extragradient(), network), SeriesField)
    assert not isinstance(chosen(mq.HeavyBall(0.5), SMOOTH), GradientsOnlyField | SeriesField)
