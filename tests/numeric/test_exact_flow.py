"""The exact flow meets the iterates wherever it exists; B-series only below their limit, with their order.

On quadratics all of it is exact; of other losses the quadratic model at the start is followed, on the leading
eigenvectors of the Hessian.
"""

from itertools import pairwise

import numpy as np
import pytest
import sympy as sp
import torch

import modeq as mq
from modeq.numeric.curvature import largest_curvature, leading_eigenpairs
from modeq.numeric.orders import expected_order
from modeq.numeric.problems import digits_tanh, himmelblau
from modeq.numeric.quadratic_problem import QuadraticProblem, random_rotation

torch.set_num_threads(1)
X, Y, Z = sp.symbols("x y z")
HALF = sp.Rational(1, 2)
DECAY = sp.Rational(1, 10)
MOMENTA = (0, HALF, sp.Rational(9, 10))
# λ = 1/4, 1 and 3, off the axes, with the minimum away from 0.
QUADRATIC = mq.SymbolicProblem(
    (X + Y) ** 2 / 2 * sp.Rational(3, 2) + (X - Y) ** 2 / 4 + Z**2 / 8 + X - Z / 5, [X, Y, Z]
)
START = [1.0, -0.5, 2.0]
METHODS = {
    "gradient descent": mq.GradientDescent(),
    "heavy ball": mq.HeavyBall(HALF),
    "heavy ball, dampening": mq.HeavyBall(HALF, dampening=sp.Rational(3, 10)),
    "Nesterov": mq.Nesterov(HALF),
    "quasi-hyperbolic": mq.QuasiHyperbolic(HALF, HALF),
    "extragradient": mq.Extragradient(),
    "implicit Euler": mq.ImplicitEuler(),
}
DECAYS = {
    "none": lambda method: method,
    "coupled": lambda method: method.with_weight_decay(DECAY),
    "decoupled": lambda method: method.with_weight_decay(DECAY, decoupled=True),
}


def ball(momentum):
    return mq.HeavyBall(momentum) if momentum else mq.GradientDescent()


def error_of_exact_flow(method, x, steps=40):
    """On λ = 3, 1, 1/4, at h·λ_max = x."""
    h = x / 3
    iterates = mq.iterate(method, QUADRATIC, START, h=h, steps=steps)
    exact = mq.exact_quadratic_flow(method, QUADRATIC, START, h=h, time=float(iterates.t[-1]))
    return np.max(abs(exact.y - iterates.y))


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("momentum", MOMENTA, ids=str)
def test_below_the_series_limit_it_meets_the_iterates(momentum, fraction):
    method = ball(momentum)
    assert error_of_exact_flow(method, fraction * float(method.series_limit())) < 1e-12


@pytest.mark.parametrize("fraction", [0.1, 0.37, 0.73, 0.99])
@pytest.mark.parametrize("momentum", MOMENTA, ids=str)
def test_it_does_so_where_roots_are_complex_up_to_the_stability_limit(momentum, fraction):
    method = ball(momentum)
    r, stable = float(method.series_limit()), float(method.stability_limit())
    assert error_of_exact_flow(method, r + fraction * (stable - r)) < 1e-12


def b_series_errors(method, order, x, halvings=3):
    """From h·λ_max = x on; the largest errors after the initial layer of the largest step."""
    steps, errors = 2 * max(1, int(np.ceil(1 / x))), []
    settled = 0.0
    if method.parasitic_radius:
        wait = int(np.ceil(1.1 * np.log(1e-17) / np.log(method.parasitic_radius)))
        steps, settled = max(steps, 2 * wait), wait * x / 3
    equation = mq.modified_equation(method, order)
    for k in range(halvings):
        h, count = x / 3 / 2**k, steps * 2**k
        iterates = mq.iterate(method, QUADRATIC, START, h=h, steps=count)
        flowed = mq.flow(equation, QUADRATIC, START, h=h, time=count * h, rtol=1e-13, atol=1e-15)
        errors.append(np.max(abs(flowed.y - iterates.y)[iterates.t >= settled * (1 - 1e-12)]))
    return errors


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("momentum", [0, HALF], ids=str)
def test_below_the_series_limit_the_b_series_has_its_order(momentum, order):
    method = ball(momentum)
    errors = b_series_errors(method, order, 0.15 * float(method.series_limit()))
    expected = expected_order(method, order)
    slopes = [np.log2(a / b) for a, b in pairwise(errors)]
    assert all(abs(slope - expected) < 0.15 for slope in slopes), slopes


@pytest.mark.parametrize("momentum", MOMENTA, ids=str)
def test_above_the_series_limit_the_b_series_is_refused(momentum):
    method = ball(momentum)
    equation, limit = mq.modified_equation(method, 2), float(method.series_limit())
    below, above = 0.99 * limit / 3, 1.01 * limit / 3
    assert mq.flow(equation, QUADRATIC, START, h=below, time=2 * below).success
    with pytest.raises(mq.OutsideSeriesLimit, match="is beyond the series limit"):
        mq.flow(equation, QUADRATIC, START, h=above, time=2 * above)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("name", METHODS)
def test_with_all_eigenpairs_of_a_quadratic_it_is_the_full_law(name, decay):
    method, h = DECAYS[decay](METHODS[name]), 0.05
    full = mq.exact_quadratic_flow(method, QUADRATIC, START, h=h, time=50.5 * h)
    model = mq.exact_quadratic_flow(method, QUADRATIC, START, h=h, time=50.5 * h, eigenpairs=3)
    np.testing.assert_allclose(model.t, full.t)
    np.testing.assert_allclose(model.y, full.y, atol=1e-12)
    iterates = mq.iterate(method, QUADRATIC, START, h=h, steps=50)
    np.testing.assert_allclose(model.y[:-1], iterates.y, atol=1e-12)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("name", ["gradient descent", "heavy ball", "Nesterov", "extragradient"])
def test_a_hessian_of_low_rank_needs_no_more_eigenpairs(name, decay):
    """A slope along the flat directions is followed too."""
    method, rotation = DECAYS[decay](METHODS[name]), random_rotation(60, 1)
    problem = QuadraticProblem((rotation[:, :2] * [3.0, -0.5]) @ rotation[:, :2].T, [np.linspace(-1, 1, 60)])
    start = np.cos(np.arange(60.0))
    iterates = mq.iterate(method, problem, start, h=0.05, steps=40)
    model = mq.exact_quadratic_flow(method, problem, start, h=0.05, time=2.0, eigenpairs=2)
    np.testing.assert_allclose(model.y, iterates.y, atol=1e-10)


@pytest.mark.parametrize("name", ["gradient descent", "heavy ball"])
def test_beyond_the_series_limit_the_model_is_exact_too(name):
    method = METHODS[name]
    h = 0.9 * float(method.stability_limit()) / 3
    iterates = mq.iterate(method, QUADRATIC, START, h=h, steps=30)
    model = mq.exact_quadratic_flow(method, QUADRATIC, START, h=h, time=float(iterates.t[-1]), eigenpairs=3)
    np.testing.assert_allclose(model.y, iterates.y, atol=1e-11)


@pytest.fixture(scope="module")
def network():
    """62 parameters, of which all eigenpairs can be taken, and the eigenpairs at its start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
        inputs, labels = torch.randn(20, 4, dtype=torch.float64), torch.randint(2, (20,))
    problem = mq.TorchProblem(module, torch.nn.functional.cross_entropy, inputs, labels)
    return problem, leading_eigenpairs(problem, problem.start(), problem.size)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("name", ["gradient descent", "heavy ball", "Nesterov"])
def test_the_first_steps_of_a_network_are_followed_to_the_square_of_the_displacement(name, decay, network):
    """After n steps the gradient is wrong by ½ L'''δδ, δ of order h, and so the parameters by O(h³)."""
    (problem, pairs), method, steps = network, DECAYS[decay](METHODS[name]), 8
    errors = []
    for h in (0.02, 0.01, 0.005):
        iterates = mq.iterate(method, problem, h=h, steps=steps)
        model = mq.exact_quadratic_flow(method, problem, h=h, time=float(iterates.t[-1]), eigenpairs=pairs)
        errors.append(np.max(abs(model.y - iterates.y)))
    slopes = [np.log2(a / b) for a, b in pairwise(errors)]
    assert all(abs(slope - 3) < 0.15 for slope in slopes), slopes


def test_what_is_left_out_of_the_hessian_costs_its_curvature_times_the_displacement(network):
    """With k eigenpairs of d the gradient is wrong by (H − H_k)δ, and so the parameters by O(h²)."""
    problem, _ = network
    method, steps, errors = mq.HeavyBall(HALF), 8, {}
    for k in (2, 8, 32):
        errors[k] = []
        for h in (0.02, 0.01, 0.005):
            iterates = mq.iterate(method, problem, h=h, steps=steps)
            model = mq.exact_quadratic_flow(method, problem, h=h, time=float(iterates.t[-1]), eigenpairs=k)
            errors[k].append(np.max(abs(model.y - iterates.y)))
    assert errors[2][-1] > 2 * errors[8][-1] > 4 * errors[32][-1]
    for k in (2, 8):
        assert all(abs(np.log2(a / b) - 2) < 0.15 for a, b in pairwise(errors[k])), errors[k]


def test_more_directions_follow_a_network_on_digits_better():
    problem = digits_tanh(widths=(8, 8), samples=32)
    method = mq.HeavyBall(HALF)
    h = 0.02 / largest_curvature(problem, problem.start())
    iterates = mq.iterate(method, problem, h=h, steps=20)
    errors = []
    for k in (1, 4, 16):
        model = mq.exact_quadratic_flow(method, problem, h=h, time=float(iterates.t[-1]), eigenpairs=k)
        assert model.y.shape == iterates.y.shape
        errors.append(np.max(abs(model.y - iterates.y)))
    assert errors[0] > errors[1] > errors[2]


def test_near_a_minimum_it_follows_the_training_to_the_end():
    """From a displacement ε the error is O(ε²), at steps at which the roots are complex; the minimum is (3, 2)."""
    problem, method = himmelblau(), mq.HeavyBall(HALF)
    h = 0.5 / largest_curvature(problem, [3.0, 2.0])
    errors = []
    for size in (1e-2, 1e-3, 1e-4):
        start = [3.0 + size, 2.0 - size / 2]
        iterates = mq.iterate(method, problem, start, h=h, steps=60)
        model = mq.exact_quadratic_flow(method, problem, start, h=h, time=float(iterates.t[-1]), eigenpairs=2)
        errors.append(np.max(abs(model.y - iterates.y)))
    slopes = [np.log10(a / b) for a, b in pairwise(errors)]
    assert all(abs(slope - 2) < 0.15 for slope in slopes), (slopes, errors)


def test_a_quadratic_of_many_variables_points_to_eigenpairs():
    problem = QuadraticProblem(np.diag(np.arange(1.0, 41)))
    with pytest.raises(
        mq.InvalidProblem, match="exists on quadratic losses, and .* is not known as one: give eigenpairs"
    ):
        mq.exact_quadratic_flow(mq.GradientDescent(), problem, np.ones(40), h=0.01, time=1.0)


def refused(eigenpairs, method=METHODS["gradient descent"], problem=QUADRATIC, h=0.1):
    return mq.exact_quadratic_flow(method, problem, START[: problem.size], h=h, time=1.0, eigenpairs=eigenpairs)


@pytest.mark.parametrize(
    "eigenpairs, message",
    [
        (0, "count is 0: give a positive integer"),
        (4, "count is 4: the Hessian of .* has 3 eigenvalues"),
        ("two", "count is 'two'"),
        ((np.ones(2), np.eye(3)), r"shapes \(2,\) and \(3, 3\): give \(k,\) and \(3, k\)"),
        ((1.0, np.eye(3)), r"shapes \(\) and \(3, 3\)"),
        ((np.ones(3), 2 * np.eye(3)), "are not orthonormal: normalise them"),
        ((np.ones(3),), "give a number, or values"),
        ((["a"], [["b"]]), "give a number, or values"),
    ],
    ids=str,
)
def test_eigenpairs_are_checked(eigenpairs, message):
    with pytest.raises(mq.InvalidProblem, match=message):
        refused(eigenpairs)


def test_several_fields_have_no_one_hessian():
    problem = mq.SymbolicProblem([X**2, Y**2], [X, Y])
    with pytest.raises(mq.UnsupportedOptimizer, match="has several fields, and eigenpairs are of one Hessian"):
        refused(1, mq.Epoch(mq.GradientDescent(), 2), problem)
    game = mq.VectorField([-Y, X], [X, Y], players=[[X], [Y]])
    with pytest.raises(mq.InvalidProblem, match="is not symmetric"):
        refused(1, problem=game)


def test_a_singular_step_on_one_eigenvector_is_refused():
    with pytest.raises(mq.InvalidProblem, match=r"one-step map of GradientDescent\(\) at h = 0.333.* is singular"):
        refused((np.array([3.0]), np.array([[1.0], [1.0], [0.0]]) / np.sqrt(2)), h=1 / 3)


def test_a_gradient_that_is_not_finite_is_refused():
    class Broken:
        size = 2

        def start(self, start):
            return np.array(start)

        def field(self, theta):
            return np.full(2, np.nan)

    with pytest.raises(mq.InvalidProblem, match="gradient of .* at the start is not finite: give another start"):
        refused((np.ones(1), np.eye(2, 1)), problem=Broken())


@pytest.mark.parametrize("slope", [1e-10, 1e-8, 1e-6, 1e-4])
@pytest.mark.parametrize("momentum", MOMENTA, ids=str)
def test_a_nearly_flat_direction_keeps_its_digits(momentum, slope):
    """Its roots nearly coincide, and with them the eigenvectors of the one-step map."""
    problem = mq.SymbolicProblem(sp.Float(slope) * X**2 / 2 + X / 3, [X])
    method = ball(momentum)
    iterates = mq.iterate(method, problem, [1.0], h=0.1, steps=100)
    for given in (None, 1):
        exact = mq.exact_quadratic_flow(method, problem, [1.0], h=0.1, time=10.0, eigenpairs=given)
        np.testing.assert_allclose(exact.y, iterates.y, atol=2e-11 if momentum == MOMENTA[2] else 3e-12)
