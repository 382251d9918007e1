"""Leading eigenpairs agree with a dense diagonalisation, and the largest curvature with them, in few products."""

import numpy as np
import pytest
import sympy as sp
import torch
from registry import NETWORKS, PROBLEMS

import modeq as mq
from modeq.numeric.curvature import curvature_seen, largest_curvature, leading_eigenpairs, require_series_limit
from modeq.numeric.problems import bilinear_game
from modeq.numeric.quadratic_problem import QuadraticProblem, random_rotation

torch.set_num_threads(1)
X, Y = sp.symbols("x y")


class Counted:
    """A problem that counts its Hessian-vector products."""

    def __init__(self, problem):
        self.problem, self.size, self.epsilon, self.products = problem, problem.size, problem.epsilon, 0

    def derivative(self, theta, vectors):
        self.products += 1
        return self.problem.derivative(theta, vectors)


def quadratic(eigenvalues, seed=0):
    rotation = random_rotation(len(eigenvalues), seed)
    return QuadraticProblem((rotation * eigenvalues) @ rotation.T), rotation


@pytest.mark.parametrize("count", [1, 3, 7])
@pytest.mark.parametrize("size", [7, 200], ids=["dense", "Lanczos"])
def test_eigenpairs_of_a_known_spectrum(size, count):
    """Of both signs, so that the order by |λ| is not that by λ."""
    eigenvalues = np.arange(1.0, size + 1) * (-1) ** np.arange(size)
    problem, rotation = quadratic(eigenvalues)
    values, vectors = leading_eigenpairs(problem, np.zeros(size), count)
    np.testing.assert_allclose(values, eigenvalues[::-1][:count], rtol=1e-10)
    assert vectors.shape == (size, count)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(count), atol=1e-10)
    overlap = abs(np.sum(vectors * rotation[:, ::-1][:, :count], axis=0))
    np.testing.assert_allclose(overlap, 1, atol=1e-9)


def test_a_clustered_spectrum_takes_few_products():
    """Ten outliers of which the largest are close, over a bulk of 290."""
    eigenvalues = np.concatenate([np.linspace(0, 1, 290), [5.0, 6, 7, 8, 9, 9.5, 9.8, 9.9, 9.99, 10]])
    problem = Counted(quadratic(eigenvalues)[0])
    values, _ = leading_eigenpairs(problem, np.zeros(300), 10)
    np.testing.assert_allclose(values, eigenvalues[:-11:-1], rtol=1e-8)
    assert problem.products < 120
    problem.products = 0
    assert largest_curvature(problem, np.zeros(300)) == pytest.approx(10, rel=1e-3)
    assert problem.products <= 30


def test_eigenpairs_of_a_network_are_those_of_its_hessian():
    problem = NETWORKS["softplus regression"]()
    theta = problem.start()
    hessian = -np.array([problem.derivative(theta, (unit,)) for unit in np.eye(problem.size)])
    expected = sorted(np.linalg.eigvalsh(hessian), key=abs, reverse=True)
    values, vectors = leading_eigenpairs(problem, theta, 4)
    np.testing.assert_allclose(values, expected[:4], atol=1e-10)
    np.testing.assert_allclose(hessian @ vectors, vectors * values, atol=1e-9)
    assert largest_curvature(problem, theta) == pytest.approx(abs(expected[0]), rel=1e-6)


def test_the_same_start_gives_the_same_eigenpairs():
    problem, _ = quadratic(np.arange(1.0, 101))
    first, second = (leading_eigenpairs(problem, np.zeros(100), 3) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_a_tensor_is_taken_for_the_parameters():
    problem = mq.SymbolicProblem(X**4 + Y**2, [X, Y])
    values, _ = leading_eigenpairs(problem, torch.tensor([1.0, 0.0]), 2)
    np.testing.assert_allclose(values, [12, 2])


def test_a_minibatch_has_its_own_eigenpairs():
    problem = mq.SymbolicProblem([3 * X**2, 5 * Y**2], [X, Y])
    assert leading_eigenpairs(problem, [0, 0], 1)[0] == pytest.approx([5])
    values, vectors = leading_eigenpairs(problem, [0, 0], 2, part=0)
    np.testing.assert_allclose(values, [6, 0], atol=1e-14)
    np.testing.assert_allclose(abs(vectors), np.eye(2), atol=1e-14)


def test_a_flat_loss_has_curvature_zero():
    problem = mq.SymbolicProblem(X + 2 * Y, [X, Y])
    values, vectors = leading_eigenpairs(problem, [1, 1], 2)
    assert values.tolist() == [0, 0]
    assert vectors.tolist() == np.eye(2).tolist()
    assert largest_curvature(problem, [1, 1]) == 0


def test_float32_is_taken():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        data = torch.randn(20, 6), torch.randint(3, (20,))
    single = mq.TorchProblem(network, torch.nn.functional.cross_entropy, *data)
    double = mq.TorchProblem(network.double(), torch.nn.functional.cross_entropy, data[0].double(), data[1])
    values = [leading_eigenpairs(problem, problem.start(), 3)[0] for problem in (single, double)]
    np.testing.assert_allclose(*values, rtol=1e-4)


@pytest.mark.parametrize("count", [0, 3, 1.5, True])
def test_count_is_checked(count):
    problem, start = PROBLEMS["two variables"]
    with pytest.raises(mq.InvalidProblem, match=r"count is .*: (give a positive integer|.* has 2 eigenvalues)"):
        leading_eigenpairs(problem, start, count)


def test_games_have_no_hessian_but_a_largest_curvature():
    game = bilinear_game()
    for part in (None, 0):
        with pytest.raises(
            mq.InvalidProblem, match="is not symmetric, so it is no Hessian: give the problem of a loss"
        ):
            leading_eigenpairs(game, [1.0, 1.0], 1, part=part)
    assert largest_curvature(game, [1.0, 1.0]) == pytest.approx(1)


class Broken:
    """Without a finite derivative, and silent about it."""

    size, epsilon = 2, 2.2e-16

    def derivative(self, theta, vectors):
        return np.full(2, np.nan)


def test_a_hessian_that_is_not_finite_is_refused():
    with pytest.raises(mq.InvalidProblem, match="is not finite here: give other parameters"):
        leading_eigenpairs(Broken(), [1.0, 1.0], 1)
    assert np.isnan(largest_curvature(Broken(), [1.0, 1.0]))


def test_lanczos_that_does_not_converge_is_a_typed_error(monkeypatch):
    from scipy.sparse.linalg import ArpackNoConvergence

    def gives_up(*arguments, **options):
        raise ArpackNoConvergence("none of 2 converged", np.empty(0), np.empty((0, 0)))

    monkeypatch.setattr("modeq.numeric.curvature.eigsh", gives_up)
    with pytest.raises(
        mq.InvalidProblem, match="2 eigenvalues of the Hessian of .* cannot be told apart: .* converged"
    ):
        leading_eigenpairs(quadratic(np.arange(1.0, 101))[0], np.zeros(100), 2)


def test_an_epoch_sees_the_curvature_of_each_batch():
    """Those of ±4x² + x²: 10 and −6, of the mean 2."""
    problem = mq.SymbolicProblem([5 * X**2, -3 * X**2], [X])
    theta = np.array([0.0])
    decayed = mq.GradientDescent().with_weight_decay(sp.Rational(1, 2))
    assert curvature_seen(decayed, problem, theta, epoch=False) == pytest.approx(2.5)
    assert curvature_seen(decayed, problem, theta, epoch=True) == pytest.approx(10.5)


def test_a_known_curvature_is_not_measured_again():
    problem = Counted(PROBLEMS["two variables"][0])
    theta = np.array(PROBLEMS["two variables"][1])
    require_series_limit(mq.GradientDescent(), problem, theta, 0.5, curvature=1.9)
    with pytest.raises(
        mq.OutsideSeriesLimit,
        match=r"h·λ_max = 1.05 at the start .* use phase_space_form, ",
    ):
        require_series_limit(mq.GradientDescent(), problem, theta, 0.5, curvature=2.1)
    assert problem.products == 0
