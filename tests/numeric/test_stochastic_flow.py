"""The stochastic model against the optimizer: expectations exactly, by enumeration, and with common random numbers."""

from functools import reduce
from itertools import product

import numpy as np
import pytest
import sympy as sp
import torch
from scipy.linalg import expm

import modeq as mq
from modeq.numeric.paths import Paths
from modeq.numeric.sampling import sample_iterates
from modeq.numeric.stochastic_flow import simulate
from modeq.symbolic.stochastic import stochastic_equation

x, y = sp.symbols("x y")
GD, HALF = mq.GradientDescent(), mq.HeavyBall(momentum=0.5)
NONLINEAR = mq.SymbolicProblem([sp.log(sp.cosh(x - 1)), x**2 / 2 + sp.sin(x) / 2], [x])
RK4 = mq.RungeKutta(
    [[0, 0, 0, 0], [0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 1, 0]], [sp.Rational(k, 6) for k in (1, 2, 2, 1)]
)

# Affine fields f_k = c_k − a_k x: all moments of the optimizer and of its model are known in closed form.
SLOPES, SHIFTS = (sp.Rational(1, 2), sp.Rational(3, 2), sp.Rational(1, 4)), (1, 0, sp.Rational(-3, 2))
AFFINE = mq.SymbolicProblem([a * x**2 / 2 - c * x for a, c in zip(SLOPES, SHIFTS, strict=True)], [x])


def power(matrix, k):
    return reduce(np.kron, [matrix] * k)


def iterate_moment(method, h, steps, start, k):
    """E θᵏ after so many steps: the state (1, X) obeys a random linear map, its k-th power the mean of k-th powers."""
    A, B, C, D, e, S, u = (
        np.array(m.tolist(), dtype=float)
        for m in (method.A, method.B, method.C, method.D, method.readout, method.start, method.preconsistency)
    )
    rates = {colour: float(rate) for colour, rate in method.decay.items()}
    step, first = 0, 0
    for slope, shift in zip(SLOPES, SHIFTS, strict=True):
        slopes = np.array([rates.get(colour, float(slope)) for colour in range(method.colour_count)])
        shifts = np.array([0.0 if colour in rates else float(shift) for colour in range(method.colour_count)])
        a, c = slopes[list(method.colours)], shifts[list(method.colours)]
        solve = np.linalg.inv(np.eye(len(a)) + h * D * a)
        matrix = np.eye(1 + len(A))
        matrix[1:, 1:] = A - h * (B * a) @ solve @ C
        matrix[1:, 0] = h * B @ (c - a * (solve @ (h * D @ c)))
        state = np.concatenate([[1.0], u[:, 0] * start + h * S @ (shifts - slopes * start)])
        step, first = step + power(matrix, k) / len(SLOPES), first + power(matrix @ state, k) / len(SLOPES)
    row = np.concatenate([[0.0], e[0]])
    return power(row, k) @ np.linalg.matrix_power(step, steps - 1) @ first


def numbers(expression, degree):
    polynomial = sp.Poly(expression, x)
    return [float(polynomial.coeff_monomial(x**i)) for i in range(degree + 1)]


def model_moment(equation, h, time, start, k, layer=True, noise=1.0, extra_drift=0):
    """E θᵏ of dθ = (b₀ + b₁θ) dt + (s₀ + s₁θ + s₂θ²)^(1/2) dW: the moments obey a linear equation."""
    step = sp.Float(h, 30)
    model = equation.on(list(AFFINE.losses), [x], h=step)
    b = numbers(sp.expand(model.drift.components[0] + step * extra_drift), 1)
    s = [noise * value for value in numbers(model.covariance[0], 2)]
    if layer:
        start += float(equation.drift.initial_layer().on(AFFINE.loss_expression, [x], h=h).components[0].subs(x, start))
    generator = np.zeros((k + 1, k + 1))
    for j in range(1, k + 1):
        generator[j, j - 1 : j + 1] += j * np.array(b)
        if j > 1:
            generator[j, j - 2 : j + 1] += j * (j - 1) / 2 * np.array(s)
    return (expm(time * generator) @ start ** np.arange(k + 1.0))[k]


def moment_slopes(method, equation, k, rates, **options):
    errors = [
        iterate_moment(method, h, round(1 / h), 2.0, k) - model_moment(equation, h, 1.0, 2.0, k, **options)
        for h in rates
    ]
    return np.log2(np.abs(np.array(errors[:-1]) / errors[1:]))


RATES = 2.0 ** -np.arange(7, 11)


@pytest.mark.some(11)
@pytest.mark.parametrize(
    "method",
    [
        GD,
        HALF,
        mq.HeavyBall(momentum=0.5, dampening=0.25),
        mq.Nesterov(momentum=0.5),
        mq.ClassicalNesterov(momentum=0.5),
        mq.QuasiHyperbolic(momentum=0.5, nu=0.7),
        mq.OptimisticGradient(),
        GD.with_weight_decay(0.3),
        HALF.with_weight_decay(0.3),
        HALF.with_weight_decay(0.3, decoupled=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("order", [1, 2])
def test_weak_orders_of_exact_moments(method, order):
    """Nothing but the drift's own second term, the covariance h b₁² Σ and the initial layer enters at O(h)."""
    equation = stochastic_equation(method, order)
    for k in (1, 2):
        assert moment_slopes(method, equation, k, RATES) == pytest.approx([order] * 3, abs=0.15)


@pytest.mark.parametrize("method", [GD, HALF], ids=str)
def test_every_ingredient_is_needed_for_weak_order_two(method):
    equation = stochastic_equation(method, order=2)
    for noise in (0, 1 / float(equation.noise) if method is HALF else 2):
        assert moment_slopes(method, equation, 2, RATES, noise=noise) == pytest.approx([1] * 3, abs=0.15)
    if method is HALF:
        assert moment_slopes(method, equation, 1, RATES, layer=False) == pytest.approx([1] * 3, abs=0.15)


@pytest.mark.parametrize("method, kappa", [(mq.Extragradient(), 1), (RK4, sp.Rational(1, 2)), (mq.ImplicitEuler(), 1)])
def test_why_several_queries_of_one_batch_are_refused_at_order_two(method, kappa):
    """Their noise drifts: κ h E[δ'δ], κ = Σ b_i a_ij, closes the gap between weak order 1 and 2."""
    equation = stochastic_equation(method, order=1)
    model = mq.modified_equation(method, order=2)
    second = (model.on(AFFINE.loss_expression, [x], h=1).components[0] + sp.diff(AFFINE.loss_expression, x)).expand()
    fields = [c - a * x for a, c in zip(SLOPES, SHIFTS, strict=True)]
    deltas = [field - sum(fields) / 3 for field in fields]
    spread = sum(sp.diff(delta, x) * delta for delta in deltas) / 3
    for extra, order in ((second, 1), (second + kappa * spread, 2)):
        assert moment_slopes(method, equation, 2, RATES, extra_drift=extra) == pytest.approx([order] * 3, abs=0.15)


def quadrature(steps):
    """The 3ⁿ paths and weights of Gauss–Hermite quadrature for two batches, whose noise has one direction."""
    digits = np.array(list(product(range(3), repeat=steps))).T
    nodes = np.sqrt(6) * np.array([-1.0, 0.0, 1.0])[digits]  # ξ₀ − ξ₁ has the variance 2
    return np.stack([nodes, np.zeros_like(nodes)], axis=-1), np.prod(np.array([1, 4, 1])[digits] / 6, axis=0)


def model_expectation(equation, problem, observable, h, steps, substeps=1):
    increments, weights = quadrature(steps * substeps)
    end = simulate(
        equation,
        problem,
        [2.0],
        h=h,
        time=h * steps,
        paths=increments.shape[1],
        increments=increments,
        substeps=substeps,
        every=steps,
    )
    return observable(end.y[-1, :, 0]) @ weights


def slopes(errors, counts):
    return np.log(np.abs(np.array(errors[:-1]) / errors[1:])) / np.log(np.array(counts[1:]) / counts[:-1])


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("observable", [np.square, np.tanh], ids=["square", "tanh"])
def test_weak_order_by_enumeration(order, observable):
    """No sampling: all 2ⁿ draws of the batches, and 3-point quadrature, exact to O(h⁵), of each Gaussian number."""
    counts, equation, errors = (5, 7, 10), stochastic_equation(GD, order), []
    for n in counts:
        draws = np.array(list(product(range(2), repeat=n))).T
        end = sample_iterates(GD, NONLINEAR, [2.0], h=1 / n, steps=n, paths=2**n, choices=draws, every=n)
        exact = observable(end.y[-1, :, 0]).mean()
        errors.append(exact - model_expectation(equation, NONLINEAR, observable, 1 / n, n))
    assert slopes(errors, counts) == pytest.approx([order] * 2, abs=0.2)


def test_the_splitting_is_more_accurate_than_the_model():
    """O(dt⁴ + h dt² + h² dt) is O(h³) with one substep, here against exact moments, and O(h²) of the model."""
    equation = stochastic_equation(GD, order=2)
    two = mq.SymbolicProblem(list(AFFINE.losses[:2]), [x])
    counts, errors = (3, 5, 7, 10), []
    for n in counts:
        h = 1 / n
        model = equation.on(list(two.losses), [x], h=h)
        (b0, b1), (s0, s1, s2) = numbers(model.drift.components[0], 1), numbers(model.covariance[0], 2)
        generator = np.array([[0, 0, 0], [b0, b1, 0], [s0, 2 * b0 + s1, 2 * b1 + s2]])
        exact = (expm(generator) @ [1.0, 2.0, 4.0])[2]
        errors.append(model_expectation(equation, two, np.square, h, n) - exact)
    assert slopes(errors, counts) == pytest.approx([3] * 3, abs=0.3)
    model_error = abs(iterate_two_moment(two, 0.1, 10) - exact)
    assert abs(errors[-1]) < 0.1 * model_error
    finer = model_expectation(equation, two, np.square, 0.2, 5, substeps=2)
    coarse = model_expectation(equation, two, np.square, 0.2, 5)
    assert abs(finer - (coarse - errors[1])) < 0.6 * abs(errors[1])


def iterate_two_moment(problem, h, steps):
    draws = np.array(list(product(range(2), repeat=steps))).T
    end = sample_iterates(GD, problem, [2.0], h=h, steps=steps, paths=2**steps, choices=draws)
    return np.square(end.y[-1, :, 0]).mean()


def coupled_difference(method, order, steps, pairs):
    """E θ² of the optimizer less that of the model at t = 1, and its standard error.

    Common random numbers: the batch is the one with the larger Gaussian number. Antithetic pairs remove what is
    odd in them, and a regression on even functions of both with the mean 0 most of the rest.
    """
    half = np.random.default_rng(0).standard_normal((steps, pairs, 2))
    increments = np.concatenate([half, -half], axis=1)
    draws = (increments[..., 0] < increments[..., 1]).astype(int)
    common = {"h": 1 / steps, "paths": 2 * pairs, "every": steps}
    iterates = sample_iterates(method, NONLINEAR, [2.0], steps=steps, choices=draws, **common)
    model = simulate(stochastic_equation(method, order), NONLINEAR, [2.0], time=1.0, increments=increments, **common)
    differences = (iterates.y[-1, :, 0] ** 2 - model.y[-1, :, 0] ** 2).reshape(2, pairs).mean(axis=0)
    gaussian = (half[..., 0] - half[..., 1]) / np.sqrt(2)
    weights = np.exp(-np.outer([0.0, 1.0, 3.0], 1 - np.arange(1, steps + 1) / steps))
    Z, S = weights @ gaussian, weights @ np.sign(gaussian)
    controls = [S[i] * S[j] - Z[i] * Z[j] for i in range(3) for j in range(i + 1)]
    controls += list(weights @ (gaussian**2 - 1))
    design = np.column_stack([np.ones(pairs), *controls])
    coefficients, *_ = np.linalg.lstsq(design, differences, rcond=None)
    return coefficients[0], np.std(differences - design @ coefficients) / np.sqrt(pairs)


@pytest.mark.some(1)
@pytest.mark.parametrize("method, counts", [(GD, (8, 16, 32)), (HALF, (16, 32, 64))], ids=["GD", "HeavyBall"])
@pytest.mark.parametrize("order", [1, 2])
def test_weak_order_with_common_random_numbers(method, counts, order):
    results = [coupled_difference(method, order, steps, 20_000) for steps in counts]
    differences, errors = np.array(results).T
    assert np.all(np.abs(differences) > 20 * errors)  # the z-scores: the slopes are not those of noise
    assert slopes(differences, counts) == pytest.approx([order] * 2, abs=0.2)


@pytest.mark.parametrize("method", [GD, HALF, HALF.with_weight_decay(0.1)], ids=str)
@pytest.mark.parametrize("order", [1, 2])
def test_equal_batches_give_the_flow(method, order):
    loss = sp.log(sp.cosh(x - 1)) + x * y / 5 + y**2 / 2
    equation = stochastic_equation(method, order)
    one = mq.SymbolicProblem(loss, [x, y])
    flow = mq.flow(equation.drift, one, [1.5, -1.0], h=0.05, time=1.02, rtol=1e-13, atol=1e-14)
    errors = []
    for substeps in (1, 2):
        same = mq.SymbolicProblem([loss, loss], [x, y])
        paths = simulate(equation, same, [1.5, -1.0], h=0.05, time=1.02, paths=2, rng=0, substeps=substeps)
        assert paths.t == pytest.approx(flow.t)
        assert np.all(paths.std < 1e-14)
        errors.append(np.max(abs(paths.mean - flow.y)))
    assert errors[0] < 1e-6
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.2)


@pytest.mark.parametrize("method", [GD, HALF], ids=str)
def test_increments_have_the_covariance_of_the_model(method):
    """The losses add up to 0, so that nothing but noise moves θ in the first step."""
    losses = [sp.sin(x) * y, sp.exp(x - y), -sp.sin(x) * y - sp.exp(x - y)]
    equation, start, h, count = stochastic_equation(method), [0.5, 1.5], 0.04, 100_000
    paths = simulate(equation, mq.SymbolicProblem(losses, [x, y]), start, h=h, time=h, paths=count, rng=1)
    moved = paths.y[1] - paths.y[0]
    expected = np.array(equation.on(losses, [x, y], h=h).covariance.subs({x: 0.5, y: 1.5}).evalf(), dtype=float) * h
    variances = np.diag(expected)
    errors = np.sqrt((np.outer(variances, variances) + expected**2) / count)
    assert np.all(np.abs(np.cov(moved.T) - expected) < 4 * errors)
    assert np.all(errors < 0.005 * np.max(expected))
    mean, error = paths.expectation(lambda theta: theta[..., 0])
    assert error[1] == pytest.approx(np.sqrt(variances[0] / count), rel=0.02)
    assert abs(mean[1] - 0.5) < 4 * error[1]


@pytest.mark.parametrize("method", [GD, HALF], ids=str)
def test_a_translation_charge_is_conserved_on_every_path(method):
    losses = [(x - y) ** 2 / 2, sp.cos(x - y), sp.exp(y - x) / 4]
    problem = mq.SymbolicProblem(losses, [x, y])
    for order in (1, 2):
        equation = stochastic_equation(method, order)
        paths = simulate(equation, problem, [1.0, -0.25], h=0.1, time=5.0, paths=200, rng=2)
        assert np.max(np.abs(paths.y.sum(axis=-1) - 0.75)) < 1e-13
        assert np.min(paths.std[-1]) > 0.01


def network(seed=0):
    torch.manual_seed(seed)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3)).double()
    inputs, targets = torch.randn(12, 3, dtype=torch.float64), torch.randint(3, (12,))
    batches = [torch.arange(0, 5), torch.arange(5, 9), torch.arange(7, 12)]
    return mq.TorchProblem(module, torch.nn.functional.cross_entropy, inputs, targets, batches)


def test_the_noise_of_a_network_is_singular_along_its_generators():
    """Rescale per hidden neuron (weights and bias in, weights out) and translation of the softmax's biases."""
    problem = network()
    theta = problem.start()
    fields = np.array([problem.field(theta, part=k) for k in range(3)])
    noise = fields - fields.mean(axis=0)
    covariance = noise.T @ noise / 3
    index = {name: value.numpy() for name, value in problem.named(torch.arange(theta.size)).items()}
    generators = []
    for neuron in range(4):
        generator = np.zeros_like(theta)
        incoming = [*index["0.weight"][neuron], index["0.bias"][neuron]]
        generator[incoming] = theta[incoming]
        generator[index["2.weight"][:, neuron]] = -theta[index["2.weight"][:, neuron]]
        generators.append(generator)
    for classes in [*index["2.weight"].T, index["2.bias"]]:
        generators.append(np.isin(np.arange(theta.size), classes).astype(float))
    for generator in generators:
        assert np.max(np.abs(covariance @ generator)) < 1e-15
    assert np.max(np.abs(covariance)) > 1e-3


def test_simulated_networks_keep_their_softmax_translations():
    problem = network()
    paths = simulate(stochastic_equation(HALF, 2), problem, h=0.02, time=0.2, paths=3, rng=0)
    index = problem.named(torch.arange(problem.size))["2.weight"].numpy()
    charges = paths.y[..., index].sum(axis=-2)
    assert np.max(np.abs(charges - charges[0])) < 1e-14
    assert np.min(np.abs(np.diff(paths.y[-1], axis=0)).max(axis=-1)) > 1e-3


def least_squares():
    """One loss twice: of a torch module with batches that overlap, and written out."""
    module = torch.nn.Linear(2, 1, bias=False).double()
    inputs = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.25, -1.0]], dtype=torch.float64)
    targets = torch.tensor([[1.0], [0.0], [-1.0]], dtype=torch.float64)
    batches = [[0, 1], [1, 2]]
    rows = [(a * x + b * y - t) ** 2 for (a, b), (t,) in zip(inputs.tolist(), targets.tolist(), strict=True)]
    written = mq.SymbolicProblem([sum(rows[i] for i in batch) / 2 for batch in batches], [x, y])
    return mq.TorchProblem(module, torch.nn.functional.mse_loss, inputs, targets, batches), written


@pytest.mark.parametrize("field", ["auto", "autodiff", "gradients"])
def test_a_network_and_its_written_out_loss_have_the_same_paths(field):
    module, written = least_squares()
    increments = np.random.default_rng(3).standard_normal((10, 4, 2))
    options = {"h": 0.05, "time": 0.25, "paths": 4, "increments": increments, "substeps": 2, "every": 5}
    for method in (GD, HALF.with_weight_decay(0.1, decoupled=True)):
        equation = stochastic_equation(method, order=1)
        one = simulate(equation, module, [1.0, -1.0], field=field, **options)
        other = simulate(equation, written, [1.0, -1.0], field=field, **options)
        vectorized = simulate(equation, written, [1.0, -1.0], **options)
        assert one.y.shape == (2, 4, 2)
        assert one.y == pytest.approx(other.y, abs=1e-14)
        assert one.y == pytest.approx(vectorized.y, abs=1e-14)


@pytest.mark.parametrize(
    "method",
    [
        GD,
        mq.HeavyBall(momentum=0.5, dampening=0.25).with_weight_decay(0.1),
        mq.Nesterov(momentum=0.5).with_weight_decay(0.1, decoupled=True),
        mq.ClassicalNesterov(momentum=0.5),
        mq.OptimisticGradient(),
        mq.Extragradient(),
        RK4,
        mq.ImplicitEuler(),
    ],
    ids=str,
)
def test_each_sampled_path_is_an_iteration(method):
    module, written = least_squares()
    draws = np.random.default_rng(4).integers(2, size=(6, 3))
    for problem in (module, written):
        paths = sample_iterates(method, problem, [1.0, -1.0], h=0.1, steps=6, paths=3, choices=draws)
        for path, batches in enumerate(draws.T):
            single = mq.iterate(method, written, [1.0, -1.0], h=0.1, steps=6, batches=batches.tolist())
            assert paths.y[:, path] == pytest.approx(single.y, abs=1e-12)
            assert paths.t == pytest.approx(single.t)


def test_batches_are_drawn_uniformly_and_seeds_repeat():
    problem = mq.SymbolicProblem([0 * x, x, 2 * x], [x])
    first, again = (
        sample_iterates(GD, problem, [0.0], h=1.0, steps=1, paths=90_000, rng=np.random.default_rng(7))
        for _ in range(2)
    )
    assert np.array_equal(first.y, again.y)
    _, counts = np.unique(first.y[1], return_counts=True)
    assert np.all(np.abs(counts - 30_000) < 4 * np.sqrt(20_000))
    model = stochastic_equation(GD)
    one, other, third = (simulate(model, problem, [0.0], h=0.5, time=1.0, paths=3, rng=seed).y for seed in (5, 5, 6))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)


def test_what_is_recorded():
    model = stochastic_equation(GD)
    paths = simulate(model, NONLINEAR, [2.0], h=0.1, time=0.75, paths=3, rng=0, every=3)
    assert paths.t == pytest.approx([0, 0.3, 0.6, 0.75])
    assert paths.y.shape == (4, 3, 1)
    full = simulate(model, NONLINEAR, [2.0], h=0.1, time=0.75, paths=3, rng=0)
    assert np.array_equal(full.y[[0, 3, 6, 8]], paths.y)
    assert repr(full) == "Paths(stochastic model of order 1 of GradientDescent(), 3 paths to t = 0.75)"
    assert full.mean.shape == full.std.shape == (9, 1)


@pytest.mark.parametrize(
    "observable, message",
    [
        (
            lambda theta: 1.0,
            r"observable returned shape \(\) and dtype float64: give a function of θ, an array \(2, 3, 1\)",
        ),
        (lambda theta: theta.sum(), r"observable returned shape \(\).* to an array of numbers \(2, 3\)"),
        (lambda theta: theta.mean(axis=1), r"observable returned shape \(2, 1\)"),
        (lambda theta: theta.astype(str), "observable returned shape .* dtype <U"),
        ("a", "observable is 'a': give a function of θ"),
    ],
)
def test_observables_keep_the_times_and_the_paths(observable, message):
    paths = Paths(np.array([0.0, 1.0]), np.arange(6.0).reshape(2, 3, 1), "six points")
    mean, _ = paths.expectation(lambda theta: theta)
    assert mean.tolist() == [[1.0], [4.0]]
    with pytest.raises(mq.InvalidProblem, match=message):
        paths.expectation(observable)


def test_where_the_model_starts():
    equation = stochastic_equation(HALF, 2)
    options = {"h": 0.1, "time": 0.1, "paths": 1, "rng": 0}
    layer = simulate(equation, NONLINEAR, [2.0], **options).y[0, 0, 0]
    assert layer == pytest.approx(2 - 0.1 * 2 * NONLINEAR.field([2.0])[0])
    for given, expected in ((1, layer), (0, 2), (False, 2)):
        assert simulate(equation, NONLINEAR, [2.0], initial_layer=given, **options).y[0, 0, 0] == expected
    first = stochastic_equation(HALF, 1)
    assert simulate(first, NONLINEAR, [2.0], **options).y[0, 0, 0] == 2
    assert simulate(first, NONLINEAR, [2.0], initial_layer=1, **options).y[0, 0, 0] == layer


def test_paths_that_leave_the_finite_numbers_are_named():
    problem = mq.SymbolicProblem([-(x**4), -(x**4) * 2], [x])
    model = stochastic_equation(GD)
    with pytest.raises(
        mq.Diverged, match=r"2 of 2 paths left the finite numbers in step \d+, number 0 .* smaller"
    ) as e:
        simulate(model, problem, [3.0], h=0.5, time=50.0, paths=2, rng=0)
    assert np.all(np.isfinite(e.value.trajectory.y))
    for method in (GD, mq.ImplicitEuler()):
        with pytest.raises(mq.Diverged):
            sample_iterates(method, problem, [3.0], h=0.5, steps=50, paths=2, rng=0)


def test_a_model_outside_the_series_limit_is_refused():
    problem = mq.SymbolicProblem([x**2, 2 * x**2], [x])
    model = stochastic_equation(mq.HeavyBall(momentum=0.9), 2)
    with pytest.raises(
        mq.OutsideSeriesLimit, match=r"beyond the series limit .*; use order=1, a smaller h, or series_limit=False$"
    ):
        simulate(model, problem, [1.0], h=0.01, time=0.1, paths=1)
    simulate(model, problem, [1.0], h=0.01, time=0.1, paths=1, series_limit=False)


MODEL = stochastic_equation(GD)
GAME = mq.VectorField([-y, x], [x, y], players=[[x], [y]])


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"equation": mq.modified_equation(GD, 1)}, "is no stochastic equation: give stochastic_equation"),
        ({"problem": GAME}, "has no minibatches"),
        ({"problem": mq.SymbolicProblem(x**2, [x])}, "has one batch, and so no noise"),
        ({"h": -1}, "h is -1"),
        ({"time": 0}, "time is 0"),
        ({"paths": 0}, "paths is 0"),
        ({"substeps": 1.5}, "substeps is 1.5"),
        ({"every": 0}, "every is 0"),
        ({"rng": "seed"}, "rng is 'seed': give a seed from 0"),
        ({"rng": -1}, "rng is -1: give a seed from 0"),
        ({"increments": np.zeros((1, 2, 3))}, r"increments has shape \(1, 2, 3\)"),
        ({"increments": np.full((1, 2, 2), np.nan)}, "finite numbers"),
        ({"increments": np.zeros((1, 2, 2)), "rng": 0}, "both rng and increments are given"),
        ({"increments": [[[1], [1, 2]]]}, r"increments has rows of different lengths: give \(1, 2, 2\) finite numbers"),
        ({"problem": None}, "problem is None: give a SymbolicProblem with a list of losses, or a TorchProblem"),
        ({"initial_layer": "a"}, "initial_layer is 'a': give True, False, or the highest power of h, 0 or 1"),
        ({"initial_layer": 2}, "initial_layer is 2: give True"),
        ({"initial_layer": None}, "initial_layer is None: give True"),
        ({"initial_layer": 1.0}, "initial_layer is 1.0: give True"),
        ({"field": "exact"}, "field is 'exact'"),
    ],
)
def test_simulations_that_cannot_be_run_are_refused(changed, message):
    arguments = {"equation": MODEL, "problem": NONLINEAR, "start": [1.0], "h": 0.1, "time": 0.1, "paths": 2, **changed}
    with pytest.raises(mq.InvalidProblem, match=message):
        simulate(**arguments)


@pytest.mark.parametrize(
    "changed, error, message",
    [
        ({"problem": GAME}, mq.InvalidProblem, "has no minibatches"),
        ({"method": mq.HeavyBall(momentum=sp.Symbol("beta"))}, mq.InvalidMethod, "has free symbols"),
        ({"method": mq.Epoch(GD, batches=2)}, mq.InvalidMethod, "is no single step on one field"),
        ({"steps": 0}, mq.InvalidProblem, "steps is 0"),
        ({"choices": [[0, 2]]}, mq.InvalidProblem, "choices go from 0 to 2: give integers from 0 to 1"),
        ({"choices": [[0.5, 1]]}, mq.InvalidProblem, "give integers from 0 to 1"),
        ({"choices": [0, 1]}, mq.InvalidProblem, r"choices has shape \(2,\)"),
        ({"problem": None}, mq.InvalidProblem, "problem is None: give a SymbolicProblem with a list of losses"),
        (
            {"choices": [[0, 1], [0]], "steps": 2},
            mq.InvalidProblem,
            r"choices has rows of different lengths: give \(2, 2\) finite numbers",
        ),
        ({"choices": [[0, 1]], "rng": 0}, mq.InvalidProblem, "both rng and choices are given"),
    ],
)
def test_samples_that_cannot_be_drawn_are_refused(changed, error, message):
    arguments = {"method": GD, "problem": NONLINEAR, "start": [1.0], "h": 0.1, "steps": 1, "paths": 2, **changed}
    with pytest.raises(error, match=message):
        sample_iterates(**arguments)
