"""The zoo of problems: gradients, minima, starts, sizes, players, and what it refuses."""

import pickle
from fractions import Fraction

import numpy as np
import pytest
import sympy as sp
import torch
from scipy.optimize import minimize

import modeq as mq
from modeq.errors import InvalidProblem
from modeq.numeric import problems
from modeq.numeric.quadratic_problem import QuadraticProblem

GAMES = {"bilinear-game", "dirac-gan"}
SIZES = {
    "quadratic": 2, "noisy-quadratic": 2, "rosenbrock": 2, "himmelblau": 2, "beale": 2, "styblinski-tang": 2,
    "two-layer-scalar": 2, "deep-linear": 32, "matrix-factorisation": 14, "bilinear-game": 2, "dirac-gan": 2,
    "linear-regression": 11, "logistic-regression": 31, "softmax-regression": 650, "digits-mlp": 2778,
    "digits-tanh": 1482, "digits-cnn": 1922, "digits-cnn-smooth": 1898, "digits-vit": 1690,
}  # fmt: skip
DATA = ["linear_regression", "logistic_regression", "softmax_regression", "digits_mlp", "digits_cnn", "digits_vit"]


@pytest.fixture(scope="module")
def zoo():
    return {name: problems.by_name(name) for name in problems.NAMES}


def direction(size):
    v = np.random.default_rng(5).standard_normal(size)
    return v / np.linalg.norm(v)


def central(function, theta, v, e):
    """A central difference of the fourth order."""
    near = function(theta + e * v) - function(theta - e * v)
    far = function(theta + 2 * e * v) - function(theta - 2 * e * v)
    return (8 * near - far) / (12 * e)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_default_starts(zoo, name):
    assert zoo[name].size == SIZES[name]
    start = zoo[name].start()
    assert start.shape == (SIZES[name],)
    assert np.all(np.isfinite(start))
    assert np.linalg.norm(zoo[name].field(start)) > 1e-3, "a start is no critical point"


def test_every_problem_has_a_name():
    assert set(problems.NAMES) == set(SIZES)
    public = set(problems.__all__) - {"NAMES", "by_name"}
    assert {name.replace("_", "-") for name in public} == set(problems.NAMES) - {"digits-cnn-smooth"}


@pytest.mark.parametrize("name", sorted(set(SIZES) - GAMES))
def test_gradients_agree_with_finite_differences_of_the_loss(zoo, name):
    problem = zoo[name]
    theta, v = problem.start() + 0.01, direction(problem.size)
    # A ReLU has kinks, which a short step does not reach.
    slope = central(problem.loss, theta, v, 1e-6 if name in ("digits-mlp", "digits-cnn") else 1e-3)
    assert slope == pytest.approx(-problem.field(theta) @ v, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("name", SIZES)
def test_derivatives_agree_with_finite_differences_of_the_field(zoo, name):
    problem = zoo[name]
    theta, v = problem.start() + 0.01, direction(problem.size)
    e = 1e-6 if name in ("digits-mlp", "digits-cnn") else 1e-3
    first = problem.derivative(theta, [v])
    scale = np.max(abs(first))
    np.testing.assert_allclose(first, central(problem.field, theta, v, e), rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("name", ["digits-vit", "digits-cnn-smooth", "logistic-regression", "dirac-gan", "deep-linear"])
def test_second_derivatives_agree_with_finite_differences(zoo, name):
    problem = zoo[name]
    theta, v = problem.start() + 0.01, direction(problem.size)
    second = problem.derivative(theta, [v, v])
    wanted = central(lambda t: problem.derivative(t, [v]), theta, v, 1e-3)
    np.testing.assert_allclose(second, wanted, rtol=0, atol=1e-6 * np.max(abs(second)))


@pytest.mark.parametrize("name", SIZES)
def test_pickling(zoo, name):
    again = pickle.loads(pickle.dumps(zoo[name]))
    np.testing.assert_array_equal(again.start(), zoo[name].start())
    np.testing.assert_array_equal(again.field(again.start()), zoo[name].field(zoo[name].start()))


MINIMA = [
    (problems.rosenbrock(), [1, 1], 0),
    (problems.rosenbrock(2, Fraction(1, 3)), [2, 4], 0),
    (problems.rosenbrock(dimension=5), [1] * 5, 0),
    (problems.himmelblau(), [3, 2], 0),
    (problems.himmelblau(), [-2.805118, 3.131313], 0),
    (problems.himmelblau(), [-3.779310, -3.283186], 0),
    (problems.himmelblau(), [3.584428, -1.848127], 0),
    (problems.beale(), [3, 0.5], 0),
    (problems.styblinski_tang(3), [-2.903534] * 3, -39.166166 * 3),
    (problems.two_layer_scalar(Fraction(3, 2)), [1, 1.5], 0),
    (problems.quadratic([2, 3, 5], rotation_seed=1), [0] * 3, 0),
]


@pytest.mark.parametrize("problem, at, value", MINIMA)
def test_known_minima(problem, at, value):
    at = np.array(at, dtype=float)
    assert problem.loss(at) == pytest.approx(value, abs=1e-5)
    np.testing.assert_allclose(problem.field(at), 0, atol=1e-4)
    for turn in range(8):
        v = np.random.default_rng(turn).standard_normal(len(at))
        assert problem.loss(at + 0.01 * v) >= problem.loss(at) - 1e-9


def found(problem):
    return minimize(problem.loss, problem.start(), jac=lambda t: -problem.field(t), method="BFGS", tol=1e-9)


@pytest.mark.parametrize("build", [problems.deep_linear, problems.matrix_factorisation])
def test_factorisations_reach_zero(build):
    assert found(build(seed=2)).fun == pytest.approx(0, abs=1e-12)


def test_factorisations_are_half_a_squared_distance():
    problem = problems.deep_linear([3, 2, 4], target=np.eye(4, 3))
    first, second = (w.detach().numpy() for w in problem.module.parameters())
    assert problem.loss(problem.start()) == pytest.approx(np.sum((second @ first - np.eye(4, 3)) ** 2) / 2)
    problem = problems.matrix_factorisation(4, 3, 2)
    U, V = (w.detach().numpy() for w in problem.module.parameters())
    target = problem.targets.numpy() / 2
    assert np.linalg.matrix_rank(target) == 2
    assert problem.loss(problem.start()) == pytest.approx(np.sum((U @ V.T - target) ** 2) / 2)


def test_gradient_flow_conserves_the_balance():
    problem = problems.matrix_factorisation(4, 3, 2)
    U, V = (w.detach().numpy() for w in problem.module.parameters())
    field = problem.field(problem.start())
    dU, dV = field[:8].reshape(4, 2), field[8:].reshape(3, 2)
    np.testing.assert_allclose(dU.T @ U + U.T @ dU - dV.T @ V - V.T @ dV, 0, atol=1e-13)


def test_linear_regression_has_the_least_squares_solution():
    problem = problems.linear_regression()
    design = np.column_stack([problem.inputs.numpy(), np.ones(442)])
    solution = np.linalg.lstsq(design, problem.targets.numpy(), rcond=None)[0].ravel()
    np.testing.assert_allclose(problem.field(solution), 0, atol=1e-12)
    np.testing.assert_allclose(found(problem).x, solution, atol=1e-6)


def test_quadratics_have_the_spectrum():
    values = [Fraction(1, 3), 2, -1, 0]
    exact = problems.quadratic(values, rotation_seed=4)
    assert isinstance(exact, mq.SymbolicProblem)
    assert not exact.loss_expression.has(sp.Float)
    x = sp.Symbol("t")
    wanted = sp.prod([x - sp.Rational(v) for v in values])
    assert sp.expand(exact.hessian.charpoly(x).as_expr() - wanted) == 0
    assert any(exact.hessian[i, j] != 0 for i in range(4) for j in range(i))


@pytest.mark.parametrize("seed", [None, 0])
def test_large_quadratics_are_fast_and_exact(seed):
    values = np.linspace(-1, 50, 100)
    problem = problems.quadratic(values, rotation_seed=seed)
    assert isinstance(problem, QuadraticProblem)
    np.testing.assert_allclose(np.linalg.eigvalsh(problem.hessian), values, atol=1e-12)
    v = direction(100)
    np.testing.assert_allclose(problem.derivative(v, [v]), -problem.hessian @ v, rtol=1e-14)
    assert not problem.derivative(v, [v, v]).any()
    np.testing.assert_array_equal(problem.derivative(v, []), problem.field(v))
    assert repr(problem) == "QuadraticProblem(100 parameters)"


def test_the_flow_of_a_large_quadratic_is_close_to_its_iterates():
    problem = problems.quadratic(np.linspace(0.1, 2, 30), rotation_seed=1)
    iterates = mq.iterate(mq.GradientDescent(), problem, h=0.1, steps=10)
    equation = mq.modified_equation(mq.GradientDescent(), order=3)
    flow = mq.flow(equation, problem, h=0.1, time=1.0)
    error = np.linalg.norm(flow.y[-1] - iterates.y[-1])
    assert error < 2e-3 * np.linalg.norm(iterates.y[-1] - iterates.y[0])


def test_noise_is_centred_seeded_and_of_its_size():
    problem = problems.noisy_quadratic([1, 4, 9], noise=[0.5, 0, 2], steps=4000, seed=3)
    theta = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(problem.field(theta), [-1, -8, -27], atol=1e-12)
    noise = np.array([problem.field(theta, part=k) - problem.field(theta) for k in range(problem.parts)])
    np.testing.assert_allclose(noise.std(axis=0), [0.5, 0, 2], rtol=0.05)
    np.testing.assert_array_equal(problem.of_batch(7).field(theta), problem.field(theta, part=7))
    assert problem.of_batch(7).parts == 1
    assert repr(problem) == "QuadraticProblem(3 parameters, 4000 minibatches)"
    small = [problems.noisy_quadratic(steps=3, seed=seed) for seed in (3, 3, 4)]
    at = [p.field([0.0, 0.0], part=1) for p in small]
    assert np.array_equal(at[0], at[1])
    assert not np.array_equal(at[0], at[2])
    slope = central(small[0].of_batch(2).loss, np.array([1.0, 2.0]), np.array([1.0, 0.0]), 1e-3)
    assert slope == pytest.approx(-small[0].field([1.0, 2.0], part=2)[0])


def test_an_optimizer_sees_the_noise():
    problem = problems.noisy_quadratic([1.0], noise=1.0, steps=5)
    run = mq.iterate(mq.GradientDescent(), problem, h=0.1, steps=5)
    theta = np.array([1.0])
    for k in range(5):
        theta = theta + 0.1 * problem.field(theta, part=k)
    np.testing.assert_allclose(run.y[-1], theta, rtol=1e-14)


@pytest.mark.parametrize("name", sorted(GAMES))
def test_games_have_two_players_and_an_equilibrium(zoo, name):
    game = zoo[name]
    assert game.parts == 2
    assert [list(map(str, group)) for group in game.players] == [["x"], ["y"]]
    np.testing.assert_array_equal(game.field([0.0, 0.0]), 0)
    np.testing.assert_allclose(game.field([1.0, 2.0], 0) + game.field([1.0, 2.0], 1), game.field([1.0, 2.0]))


def test_the_dirac_gan_is_the_published_one():
    game, (x, y) = problems.dirac_gan(Fraction(1, 4)), sp.symbols("x y")
    value = -sp.log(1 + sp.exp(-x * y))
    wanted = mq.VectorField.of_losses([value, -value + y**2 / 8], [[x], [y]])
    for point in ([1.0, 2.0], [-0.5, 0.3]):
        np.testing.assert_allclose(game.field(point), wanted.field(point), rtol=1e-13)
    gamma = sp.Rational(1, 4)
    eigenvalues = set(game.jacobian().subs({x: 0, y: 0}).eigenvals())
    assert eigenvalues == {sp.expand((-gamma + s * sp.sqrt(gamma**2 - 1)) / 2) for s in (1, -1)}
    assert np.all(np.isfinite(game.field([1e3, -1e3]))), "no exponential overflows"


@pytest.mark.parametrize("name", DATA)
def test_options_of_problems_with_data(name):
    build = getattr(problems, name)
    problem = build(samples=25, batch_size=10, seed=3, dtype=torch.float32)
    assert problem.parts == 2
    assert len(problem.inputs) == len(problem.targets) == 20
    assert problem.epsilon > 1e-8
    assert sorted(torch.cat(list(problem.batches)).tolist()) == list(range(20))
    assert build(samples=25, seed=3).parts == 1
    again, other = (build(samples=25, batch_size=10, seed=seed) for seed in (3, 4))
    assert torch.equal(again.batches[0], problem.batches[0])
    assert not torch.equal(other.batches[0], problem.batches[0])
    np.testing.assert_array_equal(again.start(), problem.start())
    if name != "digits_cnn":  # the batch norms of which see the minibatch
        mean = np.mean([again.field(again.start(), part=k) for k in range(2)], axis=0)
        np.testing.assert_allclose(again.field(again.start()), mean, atol=1e-13)


def test_all_samples():
    assert len(problems.digits_tanh(samples=None).inputs) == 1437


def test_the_global_random_state_is_left_alone():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for name in ("deep-linear", "matrix-factorisation", "noisy-quadratic", "logistic-regression", "digits-vit"):
        problems.by_name(name, seed=1)
    problems.quadratic(range(1, 20), rotation_seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_seeds_by_name():
    starts = [problems.by_name("digits-cnn-smooth", seed=seed).start() for seed in (0, 1)]
    assert not np.array_equal(*starts)
    assert problems.by_name("beale", seed=1) == problems.beale()


REFUSED = [
    (
        lambda: problems.by_name("rosenbruck"),
        "the problem is 'rosenbruck': did you mean rosenbrock. Choose from quadratic, .*digits-vit",
    ),
    (lambda: problems.quadratic([]), r"eigenvalues are \[\]: give a sequence of real numbers"),
    (lambda: problems.quadratic("12"), "eigenvalues are '12': give a sequence of real numbers"),
    (lambda: problems.quadratic([1, "2"]), r"eigenvalues\[1\] is '2': give a real number"),
    (lambda: problems.quadratic([1, float("nan")]), r"eigenvalues\[1\] is nan: give a finite real number"),
    (lambda: problems.quadratic([1, sp.I]), r"eigenvalues\[1\] is I: give a finite real number"),
    (lambda: problems.quadratic([1, 2], rotation_seed=-1), "rotation_seed is -1: give an integer from 0"),
    (lambda: problems.quadratic([1, 2], rotation_seed=2**63), "rotation_seed is .*: give an integer below"),
    (lambda: problems.rosenbrock(a="1"), "a is '1': give a real number"),
    (lambda: problems.rosenbrock(dimension=1), "dimension is 1: give an integer from 2"),
    (lambda: problems.styblinski_tang(0), "dimension is 0: give a positive integer"),
    (lambda: problems.two_layer_scalar(sp.Symbol("y")), "target is y: give a finite real number"),
    (lambda: problems.deep_linear([3]), r"widths are \[3\]: give at least two numbers"),
    (lambda: problems.deep_linear([3, 0]), r"widths\[1\] is 0: give a positive integer"),
    (
        lambda: problems.deep_linear([3, 2], target=np.eye(3)),
        r"target has the shape \(3, 3\): give that of the network, \(2, 3\)",
    ),
    (lambda: problems.deep_linear([3, 2], target="A"), r"target is 'A': give an array of shape \(2, 3\)"),
    (lambda: problems.deep_linear(scale=0), "scale is 0: give a positive number"),
    (lambda: problems.matrix_factorisation(4, 3, 4), "rank is 4: give at most the smaller of n = 4 and m = 3"),
    (lambda: problems.matrix_factorisation(seed="a"), "seed is 'a': give an integer from 0"),
    (lambda: problems.noisy_quadratic(noise=-1), "noise is -1: give a number from 0, or 2 of them"),
    (lambda: problems.noisy_quadratic(noise=[1, 2, 3]), r"noise is \[1, 2, 3\]: give a number from 0, or 2 of them"),
    (lambda: problems.noisy_quadratic(steps=1), "steps is 1: give an integer from 2"),
    (lambda: problems.dirac_gan(-1), "penalty is -1: give a number from 0"),
    (lambda: problems.linear_regression("iris"), "data is 'iris': choose from diabetes"),
    (lambda: problems.logistic_regression("iris"), "data is 'iris': choose from breast cancer"),
    (lambda: problems.softmax_regression("iris"), "data is 'iris': .*hoose from digits"),
    (lambda: problems.linear_regression(samples=443), "samples is 443: there are 442"),
    (lambda: problems.linear_regression(samples=0), "samples is 0: give a positive integer"),
    (lambda: problems.linear_regression(samples=4, batch_size=5), "batch_size is 5: there are 4 samples"),
    (lambda: problems.digits_mlp(activation="step"), "activation is 'step': choose from relu, tanh, gelu, softplus"),
    (lambda: problems.digits_cnn(seed=-1), "seed is -1: give an integer from 0"),
    (lambda: problems.digits_vit(heads=5), "heads is 5: give a divisor of dim = 12"),
]


@pytest.mark.parametrize("build, message", REFUSED)
def test_refused(build, message):
    with pytest.raises(InvalidProblem, match=message):
        build()
