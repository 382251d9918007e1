"""Problems: what they compute, and how they refuse what they cannot use."""

import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

import modeq as mq
from modeq.numeric.curvature import largest_curvature
from modeq.testing import polynomial_losses

X, Y = sp.symbols("x y")


@given(polynomial_losses([X, Y]), st.floats(-1, 1), st.floats(-1, 1))
def test_derivatives_agree_with_sympy(loss, a, b):
    problem = mq.SymbolicProblem(loss, [X, Y])
    at = {X: a, Y: b}
    gradient = [float(sp.diff(loss, v).subs(at)) for v in (X, Y)]
    np.testing.assert_allclose(problem.field([a, b]), -np.array(gradient), atol=1e-12)
    hessian = np.array(sp.hessian(loss, (X, Y)).subs(at).tolist(), dtype=float)
    v, w = np.array([1.0, 2.0]), np.array([-1.0, 0.5])
    np.testing.assert_allclose(problem.derivative([a, b], [v]), -hessian @ v, atol=1e-11)
    third = [
        -sum(
            float(sp.diff(loss, z, p, q).subs(at)) * v[i] * w[j]
            for i, p in enumerate((X, Y))
            for j, q in enumerate((X, Y))
        )
        for z in (X, Y)
    ]
    np.testing.assert_allclose(problem.derivative([a, b], [v, w]), third, atol=1e-11)


def tanh_problem(dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).to(dtype)
        inputs, targets = torch.randn(6, 3, dtype=dtype), torch.tensor([0, 1, 0, 1, 1, 0])
    return mq.TorchProblem(module, torch.nn.functional.cross_entropy, inputs, targets)


def test_torch_derivatives_agree_with_finite_differences():
    problem = tanh_problem()
    theta = problem.start()
    rng = np.random.default_rng(0)
    v, w = rng.standard_normal((2, problem.size))
    e = 1e-4
    first = (problem.field(theta + e * v) - problem.field(theta - e * v)) / (2 * e)
    np.testing.assert_allclose(problem.derivative(theta, [v]), first, atol=1e-6)
    second = (problem.derivative(theta + e * w, [v]) - problem.derivative(theta - e * w, [v])) / (2 * e)
    np.testing.assert_allclose(problem.derivative(theta, [v, w]), second, atol=1e-6)
    third = (problem.derivative(theta + e * v, [v, w]) - problem.derivative(theta - e * v, [v, w])) / (2 * e)
    np.testing.assert_allclose(problem.derivative(theta, [v, w, v]), third, atol=1e-5)


def test_loss_and_gradient_agree():
    problem = tanh_problem()
    theta, e = problem.start(), 1e-5
    direction = np.ones(problem.size)
    slope = (problem.loss(theta + e * direction) - problem.loss(theta - e * direction)) / (2 * e)
    assert slope == pytest.approx(-problem.field(theta) @ direction, abs=1e-8)


def test_starts_of_a_network():
    problem = tanh_problem()
    named = problem.named(torch.as_tensor(problem.start()))
    np.testing.assert_array_equal(problem.start(named), problem.start())
    np.testing.assert_array_equal(problem.start(problem.start() + 1), problem.start() + 1)


def test_float32_networks_stay_float32():
    problem = tanh_problem(torch.float32)
    assert problem.torch_module(problem.start())[0].weight.dtype == torch.float32
    assert problem.field(problem.start()).dtype == np.float64


def test_batch_norm_statistics_are_left_alone():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)).double()
    mean = module[1].running_mean.clone()
    inputs = torch.arange(18, dtype=torch.float64).reshape(6, 3).sin()
    problem = mq.TorchProblem(module, torch.nn.functional.cross_entropy, inputs, torch.tensor([0, 1, 0, 1, 1, 0]))
    v = np.ones(problem.size)
    problem.field(problem.start())
    hessian = problem.derivative(problem.start(), [v])
    e = 1e-5
    difference = (problem.field(problem.start() + e * v) - problem.field(problem.start() - e * v)) / (2 * e)
    np.testing.assert_allclose(hessian, difference, rtol=0, atol=1e-6 * np.max(abs(hessian)))
    assert torch.equal(mean, module[1].running_mean)
    assert torch.equal(mean, problem.module[1].running_mean)


def test_operations_torch_cannot_differentiate_are_named():
    module = torch.nn.Linear(2, 1, dtype=torch.float64)
    problem = mq.TorchProblem(
        module,
        lambda y, t: torch.nn.functional.multi_margin_loss(y.expand(3, 2) * t, torch.tensor([0, 1, 0]), p=2),
        torch.ones(3, 2, dtype=torch.float64),
        torch.tensor([[1.0, 2.0]] * 3, dtype=torch.float64),
    )
    with pytest.raises(mq.InvalidProblem, match="derivative 2 of this loss, it has no rule for multi_margin"):
        problem.derivative(problem.start(), [np.ones(3)])


def test_dropout_is_refused():
    module = torch.nn.Sequential(torch.nn.Linear(20, 20), torch.nn.Dropout(0.5), torch.nn.Linear(20, 2))
    with pytest.raises(mq.InvalidProblem, match=r"two evaluations of the loss differ .* module\.eval"):
        mq.TorchProblem(module, torch.nn.functional.cross_entropy, torch.ones(4, 20), torch.tensor([0, 1, 0, 1]))


def linear():
    return torch.nn.Linear(2, 1)


def mean_square(y, t):
    return ((y - t) ** 2).mean()


ONES, ZEROS = torch.ones(3, 2), torch.zeros(3, 1)


def test_bad_networks():
    with pytest.raises(mq.InvalidProblem, match="Flatten has no trainable parameter"):
        mq.TorchProblem(torch.nn.Flatten(), mean_square, ONES, ZEROS)
    with pytest.raises(mq.InvalidProblem, match=r"returns shape \(3, 1\): it must return one number"):
        mq.TorchProblem(linear(), lambda y, t: y - t, ONES, ZEROS)
    with pytest.raises(mq.InvalidProblem, match="the loss at the module's own parameters is nan"):
        mq.TorchProblem(linear(), mean_square, ONES * torch.nan, ZEROS)


def test_bad_starts():
    problem = mq.TorchProblem(linear(), mean_square, ONES, ZEROS)
    with pytest.raises(mq.InvalidProblem, match="start has 2 numbers, the problem has 3 parameters"):
        problem.start([1.0, 2.0])
    with pytest.raises(mq.InvalidProblem, match="entries that are not finite"):
        problem.start([1.0, 2.0, np.inf])
    with pytest.raises(mq.InvalidProblem, match=r"misses the parameters \['bias'\]"):
        problem.start({"weight": np.ones((1, 2))})
    with pytest.raises(mq.InvalidProblem, match=r"start\['weight'\] has shape \(2,\), the parameter has \(1, 2\)"):
        problem.start({"weight": np.ones(2), "bias": np.ones(1)})


@pytest.mark.parametrize(
    "loss, variables, message",
    [
        (X**2, [], "variables are"),
        (X**2, [X, X], "distinct sympy symbols"),
        (X**2 * Y, [X], r"free symbols \['y'\]"),
        ("x+*", [X], "give a sympy expression"),
        (sp.nan, [X], "is not finite, not real"),
        (sp.oo * X, [X], "is not finite, not real"),
        (sp.I * X, [X], "is not finite, not real"),
        (sp.Function("f")(X), [X], "has an undefined function"),
        (X**2, X, "variables are x"),
        (X**2, None, "variables are None"),
    ],
)
def test_bad_symbolic_problems(loss, variables, message):
    with pytest.raises(mq.InvalidProblem, match=message):
        mq.SymbolicProblem(loss, variables)


def test_a_symbolic_problem_needs_a_start():
    with pytest.raises(mq.InvalidProblem, match="start is None: give 1 numbers"):
        mq.SymbolicProblem(X**2, [X]).start()
    with pytest.raises(mq.InvalidProblem, match="start is 'a'"):
        mq.SymbolicProblem(X**2, [X]).start("a")


@given(polynomial_losses([X, Y]))
def test_largest_curvature_is_that_of_the_hessian(loss):
    problem = mq.SymbolicProblem(loss, [X, Y])
    hessian = np.array(problem.hessian.subs({X: 0.3, Y: -0.2}).tolist(), dtype=float)
    largest = np.max(abs(np.linalg.eigvalsh(hessian)))
    assert largest_curvature(problem, np.array([0.3, -0.2])) == pytest.approx(largest, rel=2e-2)


def test_bad_losses_and_data():
    with pytest.raises(mq.InvalidProblem, match=r"returns 1\.0: it must return a tensor"):
        mq.TorchProblem(linear(), lambda y, t: 1.0, ONES, ZEROS)
    with pytest.raises(mq.InvalidProblem, match="does not depend on the parameters, or was detached"):
        mq.TorchProblem(linear(), lambda y, t: mean_square(y.detach(), t), ONES, ZEROS)
    with pytest.raises(mq.InvalidProblem, match=r"cannot be computed on inputs torch\.float64 of shape \(3, 2\)"):
        mq.TorchProblem(linear(), mean_square, ONES.double(), ZEROS)
    with pytest.raises(mq.InvalidProblem, match="cannot be computed on inputs ndarray"):
        mq.TorchProblem(linear(), mean_square, ONES.numpy(), ZEROS)
    with pytest.raises(mq.InvalidProblem, match="parameters of several dtypes or devices"):
        mq.TorchProblem(torch.nn.Sequential(linear(), torch.nn.Linear(1, 1).double()), mean_square, ONES, ZEROS)
    with pytest.raises(mq.InvalidProblem, match="module is None"):
        mq.TorchProblem(None, mean_square, ONES, ZEROS)


def test_starts_as_tensors_and_absurd_numbers():
    problem = mq.TorchProblem(linear(), mean_square, ONES, ZEROS)
    np.testing.assert_array_equal(problem.start(torch.ones(3, dtype=torch.bfloat16)), np.ones(3))
    symbolic = mq.SymbolicProblem(X**2, [X])
    np.testing.assert_array_equal(symbolic.start(torch.ones(1, requires_grad=True)), np.ones(1))
    for absurd in ([10**400], ["1"]):
        with pytest.raises(mq.InvalidProblem, match="give 1 numbers"):
            symbolic.start(absurd)
