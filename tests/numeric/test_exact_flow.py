"""The exact flow meets the iterates wherever it exists; B-series only below their limit, with their order.

On quadratics all of it is exact; of other losses the quadratic model at the start is followed, on the leading
eigenvectors of the Hessian.
"""

from itertools import pairwise

import mpmath
import numpy as np
import pytest
import sympy as sp
import torch
from scipy.linalg import fractional_matrix_power

import modeq as mq
from modeq.numeric.curvature import largest_curvature, leading_eigenpairs
from modeq.numeric.orders import expected_order
from modeq.numeric.problems import digits_tanh, himmelblau, quadratic
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


@pytest.fixture(scope="module")
def digits():
    """330 parameters, and all eigenpairs of the Hessian at the start, written down by two backward passes."""
    problem = digits_tanh(widths=(4, 4), samples=32)
    point = torch.tensor(problem.start())
    hessian = torch.autograd.functional.hessian(
        lambda flat: problem.loss_tensor(flat, problem.inputs, problem.targets), point
    )
    values, vectors = np.linalg.eigh(hessian.numpy())
    leading = np.argsort(-abs(values))
    return problem, (values[leading], vectors[:, leading])


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
        pairs = leading_eigenpairs(problem, problem.start(), k)
        for h in (0.02, 0.01, 0.005):
            iterates = mq.iterate(method, problem, h=h, steps=steps)
            model = mq.exact_quadratic_flow(method, problem, h=h, time=float(iterates.t[-1]), eigenpairs=pairs)
            errors[k].append(np.max(abs(model.y - iterates.y)))
    assert errors[2][-1] > 2 * errors[8][-1] > 4 * errors[32][-1]
    for k in (2, 8):
        assert all(abs(np.log2(a / b) - 2) < 0.15 for a, b in pairwise(errors[k])), errors[k]


def test_more_directions_follow_a_network_on_digits_better(digits):
    problem, _ = digits
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


def momentum_steps(h, hessian, linear, start, steps, momentum=0, dampening=0, nesterov=False, decay=0, decoupled=False):
    """torch.optim.SGD on ½ θᵀHθ + ⟨b, θ⟩, as its documentation writes it, in numbers of more digits than float64."""
    h, momentum, dampening, decay = (np.longdouble(sp.N(number, 30)) for number in (h, momentum, dampening, decay))
    H, b, theta = (np.asarray(array, dtype=np.longdouble) for array in (hessian, linear, start))
    points, buffer = [theta], None
    for _ in range(steps):
        g = H @ theta + b
        d = g if decoupled else g + decay * theta
        buffer = d if buffer is None or not momentum else momentum * buffer + (1 - dampening) * d
        moved = d + momentum * buffer if nesterov else buffer
        theta = (1 - h * decay if decoupled else 1) * theta - h * moved
        points.append(theta)
    return np.array(points).astype(float)


TENTH, TWENTIETH = sp.Rational(1, 10), sp.Rational(1, 20)
SGD = {
    "gradient descent": {},
    "momentum 0.1": {"momentum": TENTH},
    "momentum 0.5": {"momentum": HALF},
    "momentum 0.9": {"momentum": 9 * TENTH},
    "momentum 0.99": {"momentum": sp.Rational(99, 100)},
    "dampening": {"momentum": 9 * TENTH, "dampening": 3 * TENTH},
    "Nesterov": {"momentum": 9 * TENTH, "nesterov": True},
    "coupled decay": {"momentum": 9 * TENTH, "decay": TWENTIETH},
    "decoupled decay": {"momentum": 9 * TENTH, "decay": TWENTIETH, "decoupled": True},
    "Nesterov, coupled": {"momentum": HALF, "nesterov": True, "decay": TWENTIETH},
}
SPECTRA = {
    "over six decades": [1, 0.5, 1e-2, 1e-4, 1e-6, 0.3],
    "repeated": [1, 1, 1, 0.5, 0.5, 0.1],
    "with zeros": [1, 0, 0, 0.3, 0, 0.2],
    "indefinite": [1, -0.05, 0.4, -0.001, 0, 0.7],
    "nearly repeated": [1, 1 - 1e-9, 1 - 1e-6, 0.45, 0.45 + 1e-12, 0.2],
}


def method_of(momentum=0, dampening=0, nesterov=False, decay=0, decoupled=False):
    plain = mq.Nesterov(momentum) if nesterov else mq.HeavyBall(momentum, dampening) if momentum else ball(0)
    return plain, plain.with_weight_decay(decay, decoupled=decoupled)


@pytest.mark.some(13)
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("name", SGD)
def test_every_iterate_is_met_to_twelve_digits_of_the_largest_parameter(name, spectrum):
    """Off the axes, with the minimum far from 0, from below the series limit to just below the stability limit."""
    plain, method = method_of(**SGD[name])
    r, stable = float(plain.series_limit()), float(plain.stability_limit())
    generator, h, steps = np.random.default_rng(3), 0.25, 200
    for x in (0.9 * r, 0.35 * stable, 0.7 * stable, 0.999 * stable):
        Q = random_rotation(6, 1)
        H = (Q * (np.array(SPECTRA[spectrum]) * x / h)) @ Q.T
        H = (H + H.T) / 2
        b, start = -H @ (5 * generator.standard_normal(6)), generator.standard_normal(6)
        if spectrum == "with zeros":  # a slope along the flat directions
            b += 0.1 * generator.standard_normal(6)
        expected = momentum_steps(h, H, b, start, steps, **SGD[name])
        exact = mq.exact_quadratic_flow(method, QuadraticProblem(H, [b]), start, h=h, time=steps * h)
        assert np.max(abs(exact.y - expected)) < 1e-12 * np.max(abs(expected)), x


def powers_of_roots(h, curvature, start, n, momentum=0, dampening=0, nesterov=False, decay=0, decoupled=False):
    """θ of one variable with the minimum 0 after n steps, n any number: Σ c μⁿ over the roots μ, with 50 digits."""
    with mpmath.workdps(50):
        h, x, start, n = (mpmath.mpf(number) for number in (h, curvature, start, n))
        momentum, dampening, decay = (mpmath.mpf(sp.N(number, 50)) for number in (momentum, dampening, decay))
        shrink, slope = (1 - h * decay, x) if decoupled else (1, x + decay)
        if not momentum:
            return float(mpmath.re((shrink - h * slope) ** n * start))
        fed = (1 - dampening) * slope
        # v⁺ = βv + fed·θ, θ⁺ = shrink·θ − h v⁺, or with Nesterov − h(slope·θ + βv⁺)
        reach = momentum if nesterov else 1
        top = shrink - h * (slope if nesterov else 0) - h * reach * fed
        trace, determinant = top + momentum, top * momentum + h * reach * momentum * fed
        half = mpmath.sqrt(mpmath.mpc(trace**2 / 4 - determinant))
        first, second = trace / 2 + half, trace / 2 - half
        # The first step is undamped: v₁ = slope·θ₀.
        one = shrink * start - h * slope * start * (1 + momentum if nesterov else 1)
        c = (one - second * start) / (first - second)
        return float(mpmath.re(c * first**n + (start - c) * second**n))


@pytest.mark.some(4)
@pytest.mark.parametrize("name", SGD)
def test_between_the_steps_each_eigenvector_follows_the_powers_of_its_own_roots(name):
    """Eigenvalues repeated, off the axes; negative roots too, near the stability limit."""
    plain, method = method_of(**SGD[name])
    r, stable = float(plain.series_limit()), float(plain.stability_limit())
    Q, h = random_rotation(5, 2), 0.25
    start = np.cos(np.arange(5.0))
    for x in (0.5 * r, 0.3 * stable, 0.8 * stable, 0.9997 * stable):
        values = np.array([1, 1, 1, 1, 0.47]) * x / h
        problem = QuadraticProblem((Q * values) @ Q.T)
        for n in (0.37, 40.5):
            expected = Q @ [powers_of_roots(h, v, c, n, **SGD[name]) for v, c in zip(values, Q.T @ start, strict=True)]
            for given in (None, 5):
                exact = mq.exact_quadratic_flow(method, problem, start, h=h, time=n * h, eigenpairs=given)
                np.testing.assert_allclose(exact.y[-1], expected, atol=1e-12, err_msg=f"{x} {n} {given}")


def test_repeated_roots_about_to_meet_on_the_negative_axis_are_not_mixed():
    """Just beyond (1 + √β)² rounding could turn two of them, of different eigenvectors, into a complex pair."""
    Q, start, momentum = random_rotation(5, 2), np.cos(np.arange(5.0)), sp.Rational(9, 10)
    x = float((1 + sp.sqrt(momentum)) ** 2) + 1e-6
    values = np.array([x, x, x, x, 1.0])
    problem = QuadraticProblem((Q * values) @ Q.T)
    expected = Q @ [powers_of_roots(1, v, c, 3.37, momentum) for v, c in zip(values, Q.T @ start, strict=True)]
    exact = mq.exact_quadratic_flow(mq.HeavyBall(momentum), problem, start, h=1.0, time=3.37)
    np.testing.assert_allclose(exact.y[-1], expected, atol=1e-10)


def test_a_negative_root_of_several_eigenvectors_has_one_logarithm_in_a_field_that_is_no_gradient_too():
    T = np.eye(8) + np.random.default_rng(0).standard_normal((8, 8)) / 3
    rates = np.array([2.0] * 7 + [1.0])
    inverse, names = np.linalg.inv(T), sp.symbols("x0:8")
    slope = -(T * rates) @ inverse
    problem = mq.VectorField([sum(sp.Rational(s) * x for s, x in zip(row, names, strict=True)) for row in slope], names)
    start = np.cos(np.arange(8.0))
    exact = mq.exact_quadratic_flow(mq.GradientDescent(), problem, start, h=0.75, time=0.37 * 0.75)
    expected = ((T * ((1 - 0.75 * rates).astype(complex) ** 0.37).real) @ inverse) @ start
    np.testing.assert_allclose(exact.y[-1], expected, atol=1e-12)


@pytest.mark.parametrize("x, real", [(0.3, True), (0.99, True), (1.01, False), (1.9, False)])
def test_the_principal_flow_of_gradient_descent_is_a_flow_where_it_is_real(x, real):
    """Beyond h·λ = 1 the real part is no flow any more: it has lost the half turn."""
    problem, h = mq.SymbolicProblem(sp.Rational(x) * X**2 / 2, [X]), 1.0
    half = mq.exact_quadratic_flow(mq.GradientDescent(), problem, [1.0], h=h, time=0.4).y[-1]
    whole = mq.exact_quadratic_flow(mq.GradientDescent(), problem, half, h=h, time=0.6).y[-1, 0]
    assert (abs(whole - (1 - x)) < 1e-14) == real


@pytest.mark.parametrize("x", [0.04, 0.25, 0.9, 2.2])
def test_it_is_smooth_across_the_steps(x):
    """Below, at and above the double root (1 − √β)² = 1/4 of momentum 1/4, and where roots are negative (2.25 on)."""
    method, problem = mq.HeavyBall(sp.Rational(1, 4)), mq.SymbolicProblem(sp.Rational(x) * X**2 / 2 + X / 3, [X])

    def at(n):
        return mq.exact_quadratic_flow(method, problem, [1.0], h=1.0, time=n).y[-1, 0]

    for n in (1, 4):
        bends = [abs(at(n + e) - 2 * at(n) + at(n - e)) / e**2 for e in (0.02, 0.01)]
        # A jump of the slope would double it with each halving.
        assert bends[1] < 1.1 * bends[0] + 1e-6


def test_through_the_double_root_it_is_continuous():
    method, ends = mq.HeavyBall(sp.Rational(1, 4)), []
    for x in (0.25 - 1e-8, 0.25, 0.25 + 1e-8):
        problem = QuadraticProblem([[x]])
        ends.append(mq.exact_quadratic_flow(method, problem, [1.0], h=1.0, time=7.3).y[-1, 0])
    np.testing.assert_allclose(ends, ends[1], atol=1e-6)
    with mpmath.workdps(30):  # (c₀ + c₁n)/2ⁿ through θ₀ = 1 and θ₁ = 3/4
        assert ends[1] == pytest.approx(
            float((1 + mpmath.mpf("7.3") / 2) / mpmath.mpf(2) ** mpmath.mpf("7.3")), abs=1e-13
        )


@pytest.mark.parametrize("momentum", [-0.3, 0.5, 0.9])
def test_an_affine_field_that_is_no_gradient_is_followed_between_the_steps_too(momentum):
    """By the logarithm of the map written down in (θ, v, 1); a negative momentum as games use it."""
    S, c, h = np.array([[-2.0, 1.0], [-1.5, -1.0]]), np.array([0.3, -0.2]), 0.1
    problem = mq.VectorField([-2 * X + Y + 0.3, -1.5 * X - Y - 0.2], [X, Y])
    beta = sp.Rational(str(momentum))
    method = mq.GeneralLinearMethod([[1, beta], [0, beta]], [[1], [1]], [[1, 0]], [[0]])
    step = np.zeros((5, 5))
    step[:2] = np.hstack([np.eye(2) + h * S, momentum * np.eye(2), h * c[:, None]])
    step[2:4] = np.hstack([h * S, momentum * np.eye(2), h * c[:, None]])
    step[4, 4] = 1
    for n in (1, 6, 0.37, 6.37):
        expected = (fractional_matrix_power(step, n) @ [1.0, -0.5, 0, 0, 1])[:2].real
        exact = mq.exact_quadratic_flow(method, problem, [1.0, -0.5], h=h, time=n * h)
        np.testing.assert_allclose(exact.y[-1], expected, atol=1e-13)


@pytest.mark.parametrize("momentum", [0, HALF, sp.Rational(9, 10)], ids=str)
def test_above_the_series_limit_the_b_series_has_a_status_and_the_exact_flow_none(momentum):
    method = ball(momentum)
    limit = float(method.series_limit())
    for fraction, status in ((0.99, mq.Status.DONE), (1.01, mq.Status.SERIES_DIVERGES)):
        h = fraction * limit / 3
        for order in (2, 3):
            equation = mq.modified_equation(method, order)
            flowed = mq.flow(equation, QUADRATIC, START, h=h, time=3 * h, check=False)
            assert flowed.status == status
            assert len(flowed.y) == (4 if status == mq.Status.DONE else 1)
        compared = mq.compare(
            method, QUADRATIC, START, h=h, steps=5, orders=(2, 3), forms=("field", "exact"), progress=False
        )
        entries = {(entry.form, entry.order): entry for entry in compared.entries}
        assert [entries["field", order].status for order in (2, 3)] == [status, status]
        assert entries["exact", 0].status == mq.Status.DONE
        assert entries["exact", 0].error < 1e-12
        if status == mq.Status.SERIES_DIVERGES:
            assert "beyond the series limit" in entries["field", 2].message
            assert entries["field", 2].error is None


def test_a_quadratic_of_many_variables_needs_no_eigenpairs():
    problem = quadratic(np.linspace(0.1, 4, 40), rotation_seed=1)
    assert isinstance(problem, QuadraticProblem)
    assert problem.is_quadratic
    for method in (mq.GradientDescent(), mq.HeavyBall(9 * TENTH)):
        iterates = mq.iterate(method, problem, h=0.3, steps=100)
        exact = mq.exact_quadratic_flow(method, problem, h=0.3, time=float(iterates.t[-1]))
        np.testing.assert_allclose(exact.y, iterates.y, atol=1e-12)
    compared = mq.compare(mq.HeavyBall(9 * TENTH), problem, h=0.3, steps=20, forms=("exact",), progress=False)
    assert [entry.status for entry in compared.entries] == [mq.Status.DONE]
    assert compared.entries[0].error < 1e-12


@pytest.mark.parametrize("momentum", MOMENTA, ids=str)
def test_its_minibatches_are_followed_through_an_epoch(momentum):
    generator = np.random.default_rng(0)
    problem = QuadraticProblem(np.diag([0.3, 1.0, 4.0]), generator.standard_normal((3, 3)))
    epoch = mq.Epoch(ball(momentum), 3)
    iterates = mq.iterate(epoch, problem, START, h=0.1, steps=60)
    exact = mq.exact_quadratic_flow(epoch, problem, START, h=0.1, time=6.0)
    np.testing.assert_allclose(exact.t, iterates.t)
    np.testing.assert_allclose(exact.y, iterates.y, atol=1e-12)


def test_other_losses_of_many_variables_point_to_eigenpairs():
    problem = mq.NumpyProblem(lambda theta: theta, 40)
    with pytest.raises(
        mq.InvalidProblem, match="exists on quadratic losses, and .* is not known as one: give eigenpairs"
    ):
        mq.exact_quadratic_flow(mq.GradientDescent(), problem, np.ones(40), h=0.01, time=1.0)


@pytest.mark.parametrize(
    "hessian, noise, message",
    [
        (
            [[1, 2], [3, 4]],
            None,
            r"not symmetric: its entries \(0, 1\) and \(1, 0\) are 2 and 3; give \(H \+ H.T\) / 2",
        ),
        ([[1, 2, 3]], None, r"hessian has the shape \(1, 3\): give \(d, d\)"),
        (np.zeros((0, 0)), None, r"hessian has the shape \(0, 0\): give \(d, d\)"),
        ([1, 2], None, r"hessian has the shape \(2,\): give \(d, d\)"),
        ([[np.inf]], None, r"hessian has entries that are not finite, \[inf\]"),
        ([[1j]], None, "hessian has the dtype complex128: give real numbers"),
        ("H", None, "hessian has the dtype <U1: give real numbers"),
        ([[1], [2, 3]], None, r"hessian is \[\[1\], \[2, 3\]\]: give real numbers of the shape \(d, d\)"),
        ([[X]], None, r"hessian is \[\[x\]\]: give real numbers"),
        (np.eye(2), [[1.0]], r"noise has the shape \(1, 1\): give \(minibatches, 2\), one row"),
        (np.eye(2), np.zeros((0, 2)), r"noise has the shape \(0, 2\): give \(minibatches, 2\), one row"),
        (np.eye(2), [1.0, 2.0], r"noise has the shape \(2,\): give \(minibatches, 2\)"),
        (np.eye(2), [[np.nan, 0]], r"noise has entries that are not finite, \[nan\]"),
    ],
    ids=str,
)
def test_a_quadratic_checks_its_arrays(hessian, noise, message):
    with pytest.raises(mq.InvalidProblem, match=message):
        QuadraticProblem(hessian, noise)


def test_a_quadratic_takes_tensors_exact_numbers_and_rounding():
    for hessian in (torch.eye(2, dtype=torch.float64), sp.eye(2).tolist(), [[1, 0], [1e-15, 1]]):
        assert QuadraticProblem(hessian).field([1.0, 2.0]).tolist() == pytest.approx([-1.0, -2.0])


@pytest.mark.parametrize("name", ["gradient descent", "momentum 0.9", "coupled decay"])
def test_the_leading_eigenspace_of_a_network_is_that_of_its_dense_hessian(name, digits):
    """Against the optimizer on g·δ + ½ δᵀH_kδ, H_k from the whole Hessian, and between the steps its eigenvectors."""
    problem, pairs = digits
    start, (values, vectors) = problem.start(), pairs
    plain, method = method_of(**SGD[name])
    k = 6
    H = (vectors[:, :k] * values[:k]) @ vectors[:, :k].T
    linear = -problem.field(start) - H @ start
    h = 0.6 * float(plain.stability_limit()) / values[0]
    expected = momentum_steps(h, H, linear, start, 6, **SGD[name])
    model = mq.exact_quadratic_flow(method, problem, h=h, time=6.4 * h, eigenpairs=k)
    largest = np.max(abs(model.y))  # along eigenvectors of negative curvature they grow
    assert np.max(abs(model.y[:-1] - expected)) < 1e-12 * largest
    if not SGD[name].get("decay"):  # along v_i the minimum is −linear·v_i/λ_i
        for value, vector in zip(values[:k], vectors[:, :k].T, strict=True):
            centre = -vector @ linear / value
            along = powers_of_roots(h, value, vector @ start - centre, 6.4, **SGD[name])
            assert abs(vector @ model.y[-1] - centre - along) < 1e-12 * largest


def test_the_eigenspace_of_a_network_takes_far_fewer_products_than_its_hessian_has_columns(digits, monkeypatch):
    problem, pairs = digits
    products = []
    whole = type(problem).derivative
    monkeypatch.setattr(
        type(problem), "derivative", lambda self, *given, **named: products.append(1) or whole(self, *given, **named)
    )
    h = 0.5 / pairs[0][0]
    mq.exact_quadratic_flow(mq.HeavyBall(HALF), problem, h=h, time=2 * h, eigenpairs=2)
    assert len(products) < problem.size / 5


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
        ((np.array([1j]), np.eye(3, 1)), "give a number, or values .* real numbers"),
        ((np.array([np.nan]), np.eye(3, 1)), r"eigenvalues in eigenpairs are \[nan\]: give finite numbers"),
        (np.eye(3), r"eigenpairs have the shape \(3, 3\): give a number, or values \(k,\) and vectors \(3, k\)"),
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
    message = (
        r"one-step map of GradientDescent\(\) at h = 0.333.* is singular, .* where the Hessian has the eigenvalue "
        "3: it has no logarithm; take another h"
    )
    with pytest.raises(mq.InvalidProblem, match=message):
        refused((np.array([3.0]), np.array([[1.0], [1.0], [0.0]]) / np.sqrt(2)), h=1 / 3)
    with pytest.raises(mq.InvalidProblem, match=message):
        refused(None, h=1 / 3)
    with pytest.raises(mq.InvalidProblem, match=r"take another h, or GradientDescent\(\) if the momentum is 0"):
        refused(None, mq.HeavyBall(0))
    with pytest.raises(mq.InvalidProblem, match="is singular, it forgets a part of its state at once: it has no"):
        refused(None, mq.HeavyBall(0), mq.VectorField([-Y, X], [X, Y]))


def test_an_implicit_step_without_a_solution_is_refused():
    problem = mq.SymbolicProblem(-(X**2), [X])
    with pytest.raises(
        mq.InvalidProblem, match=r"implicit step of ImplicitEuler\(\) at h = 0.5 has no unique solution"
    ):
        refused(None, mq.ImplicitEuler(), problem, h=0.5)


@pytest.mark.parametrize("eigenpairs", [None, 3])
def test_a_flow_that_leaves_the_numbers_says_where(eigenpairs):
    with pytest.raises(mq.Diverged, match=r"not finite at t = .* use a smaller learning rate than 1.1, or a") as at:
        mq.exact_quadratic_flow(mq.GradientDescent(), QUADRATIC, START, h=1.1, time=2200, eigenpairs=eigenpairs)
    kept = at.value.trajectory
    assert len(kept.t) == len(kept.y) > 600
    assert np.all(np.isfinite(kept.y))
    assert kept.status == mq.Status.DIVERGED


def test_what_is_no_method_or_problem_is_refused():
    with pytest.raises(mq.InvalidMethod, match="is no method: give one such as"):
        refused(None, mq.HeavyBall)
    with pytest.raises(mq.InvalidProblem, match="(?s)problem is .*: give a SymbolicProblem"):
        mq.exact_quadratic_flow(mq.GradientDescent(), np.eye(3), START, h=0.1, time=1.0)
    with pytest.raises(mq.InvalidMethod, match="has free symbols: substitute numbers"):
        refused(None, mq.HeavyBall(sp.Symbol("beta")))


def test_a_gradient_that_is_not_finite_is_refused():
    class Broken(QuadraticProblem):
        def field(self, theta, part=None):
            return np.full(2, np.nan)

    with pytest.raises(mq.InvalidProblem, match="gradient of .* at the start is not finite: give another start"):
        refused((np.ones(1), np.eye(2, 1)), problem=Broken(np.eye(2)))


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
