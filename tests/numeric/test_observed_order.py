"""The flows follow the real optimizers with the order that the coefficients predict, no less and no more.

Set up inside the series limit, from zero buffers with the initial layer, on smooth losses.
"""

import numpy as np
import pytest
import sympy as sp
from registry import NETWORKS, PROBLEMS

import modeq as mq
from modeq.numeric.orders import expected_order
from modeq.testing import assert_order

HALF = sp.Rational(1, 2)
METHODS = {
    "gradient descent": mq.GradientDescent(),
    "heavy ball": mq.HeavyBall(momentum=HALF),
    "heavy ball, dampening": mq.HeavyBall(momentum=HALF, dampening=sp.Rational(3, 10)),
    "Nesterov": mq.Nesterov(momentum=HALF),
    "heavy ball, coupled decay": mq.HeavyBall(momentum=HALF).with_weight_decay(sp.Rational(1, 10)),
    "heavy ball, decoupled decay": mq.HeavyBall(momentum=HALF).with_weight_decay(sp.Rational(1, 10), decoupled=True),
}


@pytest.fixture(scope="module")
def two_variables():
    return PROBLEMS["two variables"][0]


@pytest.fixture(scope="module")
def network():
    return NETWORKS["tanh on digits"]()


@pytest.mark.some(3)
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem(name, order):
    problem, start = PROBLEMS[name]
    assert_order(METHODS["heavy ball"], problem, start, order=order, time=1.0)


@pytest.mark.some(1)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network(name):
    assert_order(METHODS["heavy ball"], NETWORKS[name](), order=3, time=2.0, halvings=2)


@pytest.mark.some(4)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", METHODS)
def test_vector_field_from_gradients_alone(name, order, two_variables):
    assert_order(METHODS[name], two_variables, [0.8, -0.4], order=order, time=0.6, field="gradients")


@pytest.mark.some(1)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["gradient descent", "heavy ball", "Nesterov"])
def test_vector_field_on_a_network(name, order, network):
    assert_order(METHODS[name], network, order=order, time=1.5, field="gradients", halvings=2)


@pytest.mark.slow
def test_vector_field_on_a_network_by_automatic_differentiation(network):
    assert_order(METHODS["heavy ball"], network, order=2, time=1.5, field="autodiff", halvings=2)


@pytest.mark.some(3)
@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("name", ["heavy ball", "heavy ball, dampening", "Nesterov"])
def test_a_layer_one_order_short_costs_one_order(name, order, two_variables):
    observed = assert_order(
        METHODS[name], two_variables, [0.8, -0.4], order=order, time=0.6, initial_layer=order - 2, expected=order - 1
    )
    assert observed.expected == order - 1


@pytest.mark.some(1)
@pytest.mark.parametrize("name", ["heavy ball", "Nesterov"])
def test_a_layer_one_order_short_costs_one_order_on_a_network(name, network):
    assert_order(METHODS[name], network, order=3, time=1.5, initial_layer=1, expected=2, halvings=2)


@pytest.mark.parametrize(
    "name, orders",
    [
        ("gradient descent", (1, 2, 3, 4)),
        pytest.param("heavy ball", (1, 2, 3, 4), marks=pytest.mark.slow),
        ("Nesterov", (1, 2)),
    ],
)
def test_time_derivative_form(name, orders, two_variables):
    for order in orders:
        assert_order(METHODS[name], two_variables, [0.8, -0.4], order=order, time=0.6, form="time", halvings=3)


@pytest.mark.some(1)
@pytest.mark.parametrize("name", ["gradient descent", "heavy ball", "Nesterov"])
def test_from_rest_the_second_order_form_is_of_first_order(name, two_variables):
    assert_order(METHODS[name], two_variables, [0.8, -0.4], order=2, time=0.6, form="rest", expected=1, halvings=3)


@pytest.mark.some(1)
@pytest.mark.parametrize("name", ["gradient descent", "heavy ball, dampening", "Nesterov"])
@pytest.mark.parametrize("order", [1, 2])
def test_phase_space_form(name, order, two_variables):
    assert_order(METHODS[name], two_variables, [0.8, -0.4], order=order, time=0.6, form="phase", halvings=3)


def test_expected_order_reads_the_coefficients():
    assert expected_order(mq.GradientDescent(), 3) == 3
    assert expected_order(mq.GradientDescent(), 3, form="phase") == 4  # B₃ = 0
    assert expected_order(METHODS["heavy ball"], 3, initial_layer=1) == 2
    assert expected_order(METHODS["heavy ball"], 4, form="phase") == 2  # a shift O(h²) stays from zero buffers
    runge_kutta_4 = mq.RungeKutta(
        [[0, 0, 0, 0], [HALF, 0, 0, 0], [0, HALF, 0, 0], [0, 0, 1, 0]], [sp.Rational(w, 6) for w in (1, 2, 2, 1)]
    )
    assert [expected_order(runge_kutta_4, 1, form=form) for form in ("field", "state")] == [4, 4]
    assert expected_order(METHODS["heavy ball"], 4, form="hermite") == 3  # and O(h³) with interpolation


def test_a_wrong_expectation_fails(two_variables):
    with pytest.raises(AssertionError, match="expected slope 3, observed"):
        assert_order(mq.GradientDescent(), two_variables, [0.8, -0.4], order=2, time=0.6, expected=3)


def test_too_short_a_time_for_the_layer_is_refused(two_variables):
    with pytest.raises(mq.InvalidProblem, match=r"initial layer of .* lasts until"):
        mq.observed_order(
            METHODS["heavy ball"], two_variables, [0.8, -0.4], time=0.1, order=2, step_sizes=[0.01, 0.005]
        )


def test_step_sizes_must_fall(two_variables):
    with pytest.raises(mq.InvalidProblem, match="the largest first"):
        mq.observed_order(mq.GradientDescent(), two_variables, [0.8, -0.4], time=1.0, order=2, step_sizes=[0.01, 0.02])


def test_window_and_noise_floor_are_reported(two_variables):
    observed = mq.observed_order(mq.GradientDescent(), two_variables, [0.8, -0.4], time=0.6, order=2)
    assert observed.window[0] <= 0.2 * 1.001
    assert np.isclose(observed.window[0] / observed.window[1], 2**4)
    assert 0 < observed.noise_floor < observed.errors[-1]


def test_weight_decay_counts_in_the_default_step_sizes(two_variables):
    method = METHODS["heavy ball"].with_weight_decay(20)
    observed = mq.observed_order(method, two_variables, [0.8, -0.4], time=0.5, order=2, halvings=1)
    assert observed.window[0] <= 0.2 * 1.001


def test_slopes_below_the_noise_are_nan():
    x = sp.Symbol("x")
    problem = mq.SymbolicProblem(x**2 / 2, [x])
    observed = mq.observed_order(mq.GradientDescent(), problem, [1e-9], time=1.0, order=3, step_sizes=[1e-4, 5e-5])
    assert np.isnan(observed.slopes[0]) or observed.errors[-1] > observed.noise_floor


@pytest.mark.some(1)
@pytest.mark.parametrize("name, order", [("gradient descent", 2), ("heavy ball", 1), ("Nesterov", 2)])
def test_state_space_form(name, order, two_variables):
    """From the first step on, without a layer."""
    assert_order(METHODS[name], two_variables, [0.8, -0.4], order=order, time=0.3, form="state", halvings=3)


def test_halvings_end_above_the_noise(two_variables):
    observed = mq.observed_order(METHODS["Nesterov"], two_variables, [0.8, -0.4], time=0.5, order=5)
    assert 3 <= len(observed.step_sizes) < 5
    assert len(observed.errors) == len(observed.slopes) + 1 == len(observed.step_sizes)
    assert observed.errors[-1] > observed.noise_floor
    # One more halving would have come too near.
    assert observed.errors[-1] / 2**observed.expected < 10 * observed.noise_floor
    given = [0.5 / (200 * 2**k) for k in range(5)]
    forced = mq.observed_order(METHODS["Nesterov"], two_variables, [0.8, -0.4], time=0.5, order=5, step_sizes=given)
    assert forced.step_sizes == tuple(given)
    assert np.isnan(forced.slopes[-1])


@pytest.mark.parametrize("method", [mq.OptimisticGradient(), mq.PID(0, 1, proportional=0.5)], ids=repr)
def test_transients_of_an_eigenvalue_zero_are_waited_for(method):
    """A shift register forgets in one step at h = 0, but to order 5 only in five: then every slope is right."""
    problem, start = PROBLEMS["logistic"]
    observed = mq.observed_order(method, problem, start, time=1.5, order=5)
    assert all(abs(slope - 5) < 0.15 for slope in observed.slopes)


def test_halvings_are_a_positive_integer(two_variables):
    with pytest.raises(mq.InvalidProblem, match="halvings is 0"):
        mq.observed_order(mq.GradientDescent(), two_variables, [0.8, -0.4], time=1.0, order=2, halvings=0)


def test_within_looks_at_the_last_two_slopes_above_the_noise():
    nan = float("nan")

    def observed(*slopes):
        return mq.ObservedOrder((), (), slopes, 2, (0.2, 0.1), 1e-12)

    assert observed(1.0, 1.9, 2.1, nan).within()
    assert not observed(1.0, 1.8, 2.1).within()
    assert observed(1.0, 1.8, 2.1).within(tolerance=0.3)
    assert not observed(2.0, 2.3).within()  # too good is wrong too
    assert not observed(nan, nan).within()


def test_the_plot_has_the_errors_and_the_expected_slope(two_variables):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    observed = mq.observed_order(mq.GradientDescent(), two_variables, [0.8, -0.4], time=0.6, order=2, halvings=2)
    ax = plt.figure().gca()
    artists = observed.plot(ax=ax, color="k")
    np.testing.assert_allclose(artists[0].get_data(), [observed.step_sizes, observed.errors])
    assert all(artist.axes is ax for artist in artists)
    plt.close("all")


def test_the_curvature_is_measured_once(two_variables, monkeypatch):
    from modeq.numeric import curvature, orders

    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return curvature.curvature_seen(*arguments)

    monkeypatch.setattr(orders, "curvature_seen", counted)
    monkeypatch.setattr(curvature, "largest_curvature", largest := CountedCall(curvature.largest_curvature))
    mq.observed_order(mq.GradientDescent(), two_variables, [0.8, -0.4], time=0.6, order=2, halvings=1)
    assert len(calls) == largest.calls == 1


class CountedCall:
    """A function that counts its calls."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *arguments, **options):
        self.calls += 1
        return self.function(*arguments, **options)
