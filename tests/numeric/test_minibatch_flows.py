"""Flows that see another minibatch at each step, against the iterates that do."""

import numpy as np
import pytest
import sympy as sp
import torch
from scipy.linalg import expm
from slow_starts import slopes

import modeq as mq
from modeq.numeric.data import digits, minibatches
from modeq.numeric.networks.small import tanh_network

_x, _y = sp.symbols("x y")
BATCHES = mq.SymbolicProblem(
    [sp.sin(_x + _y) / 2 + _x**2, sp.cos(_x - 2 * _y) / 4 + _y**2 / 2 + _x * _y / 4, sp.exp(_x - _y) / 3 + _x**2 / 2],
    [_x, _y],
)
START, SEEN = np.array([0.8, -0.4]), [0, 2, 1, 1, 0, 2]


def errors_in_few_steps(form, step_sizes, **options):
    """The largest distances in six steps: no time passes as h decreases."""
    errors = []
    for h in step_sizes:
        iterates = mq.iterate(form.method, BATCHES, START, h=h, steps=6, batches=SEEN).y
        flowed = mq.flow(form, BATCHES, START, h=h, time=6 * h, batches=SEEN, rtol=1e-13, atol=1e-15, **options)
        errors.append(float(np.max(abs(flowed.y - iterates))))
    assert errors[-1] > 1e-13  # no rounding
    return errors


class NoisyQuadratic:
    """f = −λθ − noise_n at step n: the protocol of a problem, at its smallest."""

    parts, epsilon = 1, float(np.finfo(np.float64).eps)

    def __init__(self, eigenvalues, noise, shift=0.0):
        self.eigenvalues, self.noise, self.shift, self.size = eigenvalues, noise, shift, len(eigenvalues)

    def start(self, start=None):
        return np.array(start, dtype=np.float64)

    def native(self, theta):
        return theta

    def label(self, index):
        return f"θ[{index}]"

    def checked_batches(self, batches=None):
        return batches

    def of_batch(self, batch):
        return NoisyQuadratic(self.eigenvalues, self.noise, self.noise[batch])

    def field(self, theta, part=None):
        return -self.eigenvalues * theta - self.shift

    def derivative(self, theta, vectors, part=None):
        return -self.eigenvalues * vectors[0] if len(vectors) == 1 else np.zeros_like(theta)


MOMENTUM = mq.HeavyBall(0.9)
LEADING = mq.phase_space_form(MOMENTUM, 1)
ONE_POWER = mq.phase_space_form(MOMENTUM, 2, "powers")
TIME = mq.time_derivative_form(MOMENTUM, 2)


def quadratic_errors(seed, *asked):
    """Momentum 0.9, h 0.05, eigenvalues 0.1 to 4, unit noise: the largest errors of (form, options) in 200 steps."""
    steps, h = 200, 0.05
    noise = np.random.default_rng(seed).standard_normal((steps, 20))
    problem, start, seen = NoisyQuadratic(np.linspace(0.1, 4, 20), noise), np.ones(20), range(steps)
    iterates = mq.iterate(MOMENTUM, problem, start, h=h, steps=steps, batches=seen).y

    def error(form, options):
        options = {"h": h, "time": steps * h, "rtol": 1e-8, "batches": seen} | options
        return float(np.max(abs(mq.flow(form, problem, start, **options).y - iterates)))

    return [error(form, options) for form, options in asked]


GRADIENT_FLOW = (mq.modified_equation(MOMENTUM, 1), {"batches": None})


@pytest.mark.some(1)
@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_quadratic(seed):
    """The figures of one draw of the noise are 3.58, 0.43 and 8.4e-4."""
    mean, second_order, two_terms = quadratic_errors(seed, GRADIENT_FLOW, (TIME, {}), (ONE_POWER, {}))
    assert 1.5 < mean < 5
    assert 0.15 < second_order < 0.6
    assert two_terms < 2e-3


@pytest.mark.slow
def test_each_term_on_a_noisy_quadratic_is_worth_a_factor():
    second_order, no_jump, first_jump, one_term, two_terms = quadratic_errors(
        0, (TIME, {}), (LEADING, {"jumps": 0}), (LEADING, {"jumps": 1}), (ONE_POWER, {"jumps": 1}), (ONE_POWER, {})
    )
    assert no_jump == pytest.approx(second_order, rel=0.3)
    assert first_jump < no_jump / 3
    assert one_term < first_jump / 4
    assert two_terms < one_term / 6
    state = quadratic_errors(0, *((mq.state_space_form(MOMENTUM, order), {}) for order in (1, 2, 3)))
    assert state[1] < state[0] / 10
    assert state[2] < state[1] / 10


METHODS = {
    "heavy ball": mq.HeavyBall(0.5),
    "dampening": mq.HeavyBall(0.5, 0.3),
    "Nesterov": mq.Nesterov(0.5),
    "quasi-hyperbolic": mq.QuasiHyperbolic(0.5, 0.7),
    "weight decay": mq.HeavyBall(0.5).with_weight_decay(0.3),
    "decoupled decay": mq.Nesterov(0.5).with_weight_decay(0.3, decoupled=True),
}
STEP_SIZES = (0.004, 0.002)


@pytest.mark.some(1)
@pytest.mark.parametrize(
    "name, jumps", [("heavy ball", 0), ("heavy ball", 1), ("Nesterov", 1), *((name, 2) for name in METHODS)]
)
def test_each_term_of_the_jump_is_worth_an_order(name, jumps):
    form = mq.phase_space_form(METHODS[name], 2, "powers")
    assert np.allclose(slopes(errors_in_few_steps(form, STEP_SIZES, jumps=jumps)), jumps + 1, atol=0.15)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_orders_of_the_state_space_form(order):
    for method in (mq.HeavyBall(0.5, 0.3), mq.Nesterov(0.5).with_weight_decay(0.3)):
        form = mq.state_space_form(method, order)
        assert np.allclose(slopes(errors_in_few_steps(form, STEP_SIZES)), order + 1, atol=0.15)


def test_the_time_derivative_form_knows_no_jump():
    for method in (mq.HeavyBall(0.5), mq.HeavyBall(0.5).with_weight_decay(0.3)):
        form = mq.time_derivative_form(method, 2)
        assert np.allclose(slopes(errors_in_few_steps(form, STEP_SIZES)), 1, atol=0.15)


@pytest.mark.parametrize("field", ["lambdify", "autodiff", "gradients"])
def test_fields_of_methods_without_memory_are_composed(field):
    for method in (mq.GradientDescent(), mq.GradientDescent().with_weight_decay(0.3)):
        for order in (1, 2, 3):
            errors = errors_in_few_steps(mq.modified_equation(method, order), STEP_SIZES, field=field)
            assert np.allclose(slopes(errors), order + 1, atol=0.15)
    if field != "gradients":  # one query point
        errors = errors_in_few_steps(mq.modified_equation(mq.Extragradient(), 2), STEP_SIZES, field=field)
        assert np.allclose(slopes(errors), 3, atol=0.2)


def test_nothing_jumps_without_memory():
    form = mq.phase_space_form(mq.GradientDescent(), 2)
    errors = errors_in_few_steps(form, STEP_SIZES)
    assert np.allclose(slopes(errors), 3, atol=0.15)
    assert errors == errors_in_few_steps(form, STEP_SIZES, jumps=0)


def test_gradient_descent_on_quadratics_is_a_product_of_exponentials():
    """Order 2 on batch k is θ' = −(H_k + hH_k²/2)(θ − θ_k)."""
    problem = mq.SymbolicProblem([_x**2 + _x * _y + _y**2, (_x - 1) ** 2 / 2 + 2 * _y**2], [_x, _y])
    hessians, centres = [np.array([[2, 1], [1, 2.0]]), np.diag([1, 4.0])], [np.zeros(2), np.array([1.0, 0.0])]
    h, theta, points = 0.1, np.array([1.0, -2.0]), [np.array([1.0, -2.0])]
    for n in range(6):
        H, centre = hessians[n % 2], centres[n % 2]
        theta = centre + expm(-h * (H + h * H @ H / 2)) @ (theta - centre)
        points.append(theta)
    form = mq.modified_equation(mq.GradientDescent(), 2)
    flowed = mq.flow(form, problem, [1.0, -2.0], h=h, time=0.6, batches=[0, 1])
    np.testing.assert_allclose(flowed.y, points, atol=1e-10)
    np.testing.assert_allclose(flowed.t, h * np.arange(7))
    assert flowed.name == "modified field of order 2, a minibatch a step"


@pytest.mark.parametrize(
    "form",
    [
        mq.modified_equation(mq.GradientDescent(), 3),
        mq.time_derivative_form(mq.HeavyBall(0.5), 2),
        mq.phase_space_form(mq.HeavyBall(0.5), 2, "powers"),
        mq.state_space_form(mq.HeavyBall(0.5), 2),
    ],
    ids=lambda form: type(form).__name__,
)
def test_one_batch_all_along_is_no_minibatch(form):
    """At its own start, through given points and from given buffers."""
    alone, options = BATCHES.of_batch(1), {"h": 0.02, "time": 0.12, "rtol": 1e-12, "atol": 1e-14}
    kinds = [{}]
    if isinstance(form, mq.PhaseSpaceForm):
        kinds += [{"through": [[0.79, -0.39]]}, {"initial_layer": False}]
    if isinstance(form, mq.StateSpaceForm):
        kinds.append({"buffers": [0.3, -0.2]})
    for kind in kinds:
        flowed = mq.flow(form, BATCHES, START, batches=[1], **options, **kind)
        expected = mq.flow(form, alone, START, **options, **kind)
        np.testing.assert_allclose(flowed.y, expected.y, atol=2e-11)


def on_all_digits(module, seed, steps):
    """Cross-entropy on the digits, and minibatches of 64 of them."""
    inputs, labels = digits(dtype=torch.float64)
    seen = list(minibatches(len(labels), 64, steps, seed=seed))
    return mq.TorchProblem(module, torch.nn.functional.cross_entropy, inputs, labels), seen


def training_errors(problem, seen, *asked):
    """The largest distances of (form, options) from torch's own iterates, with momentum 0.9 and h = 0.05."""
    h, steps = 0.05, len(seen)
    iterates = mq.iterate(MOMENTUM, problem, h=h, steps=steps, batches=seen)
    assert "torch.optim.SGD" in iterates.name

    def distance(form, options):
        options = {"batches": seen, "rtol": 1e-6, "atol": 1e-8} | options
        flowed = mq.flow(form, problem, h=h, time=steps * h, **options)
        return float(np.max(np.linalg.norm(flowed.y - iterates.y, axis=1)))

    return [distance(form, options) for form, options in asked]


def test_a_smooth_network_follows_its_minibatches():
    problem, seen = on_all_digits(tanh_network(0), 0, 20)
    mean, second_order, phase = training_errors(problem, seen, GRADIENT_FLOW, (TIME, {}), (ONE_POWER, {}))
    assert phase < mean / 20
    assert phase < second_order / 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_smooth_network_follows_two_hundred_minibatches(seed):
    problem, seen = on_all_digits(tanh_network(seed), seed, 200)
    laws = (GRADIENT_FLOW, (TIME, {}), (LEADING, {}), (ONE_POWER, {}))
    mean, second_order, leading, phase = training_errors(problem, seen, *laws)
    print(f"seed {seed}: gradient flow {mean:.3g}, B {second_order:.3g}, K = 0 {leading:.3g}, J = 1 {phase:.3g}")
    assert leading < mean / 20
    assert phase < second_order / 5


def own_growth(problem, seen, size=1e-3):
    """By which factor the optimizer itself drives apart two starts that are so far from each other."""
    displacement = np.random.default_rng(0).standard_normal(problem.size)
    start = problem.start() + size * displacement / np.linalg.norm(displacement)
    first, second = (mq.iterate(MOMENTUM, problem, s, h=0.05, steps=len(seen), batches=seen) for s in (None, start))
    return float(np.max(np.linalg.norm(first.y - second.y, axis=1))) / size


def convolutional(activation, samples, seed, steps):
    problem = mq.problems.digits_cnn(batch_norm=False, activation=activation, samples=samples, seed=seed)
    return problem, list(minibatches(len(problem.targets), 64, steps, seed=seed))


# The gradient flow is smooth on the scale of a step; the laws of minibatches jump at each.
KINKED_LAWS = (
    (GRADIENT_FLOW[0], {"batches": None, "substeps": 1}),
    (TIME, {"substeps": 2}),
    (LEADING, {"substeps": 2}),
)


@pytest.mark.slow
def test_a_network_with_kinks_follows_its_minibatches():
    mean, second_order, phase = training_errors(*convolutional("relu", 256, 0, 40), *KINKED_LAWS)
    assert phase < mean / 20
    assert phase < second_order / 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_network_with_kinks_follows_two_hundred_minibatches(seed):
    """What remains is due to the kinks: the optimizer itself drives nearby starts apart, without them it does not."""
    problem, seen = convolutional("relu", None, seed, 200)
    mean, second_order, phase = training_errors(problem, seen, *KINKED_LAWS)
    growth, smooth = own_growth(problem, seen), own_growth(*convolutional("tanh", None, seed, 200))
    print(
        f"seed {seed}: gradient flow {mean:.3g}, B {second_order:.3g}, K = 0 {phase:.3g}, growth {growth:.3g}, "
        f"with tanh {smooth:.3g}"
    )
    assert phase < mean / 5
    assert growth > 30
    assert smooth < 10
