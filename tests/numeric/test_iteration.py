"""The discrete optimizer: the general linear method in numpy is torch.optim.SGD, step for step."""

import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

import modeq as mq
from modeq.numeric.iteration import _iterate_method, learning_rates
from modeq.testing import methods

X = sp.Symbol("x")


def network_problem(batches=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
        inputs, targets = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)
    return mq.TorchProblem(module, lambda y, t: ((y - t) ** 2).mean(), inputs, targets, batches=batches)


def schedule(n):
    return 0.1 / (1 + n % 4)


BATCHES = [torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5, 6]), torch.tensor([7])]
OPTIMIZERS = {
    "sgd": mq.GradientDescent(),
    "sgd, decay": mq.GradientDescent().with_weight_decay(0.1),
    "heavy ball": mq.HeavyBall(0.9),
    "dampening, decay": mq.HeavyBall(0.9, 0.3).with_weight_decay(0.05),
    "nesterov, decay": mq.Nesterov(0.8).with_weight_decay(0.05),
}


@pytest.mark.parametrize("h", [0.1, schedule], ids=["constant", "schedule"])
@pytest.mark.parametrize("batches", [None, BATCHES], ids=["full", "batches"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_method_is_torch_sgd(name, batches, h):
    problem = network_problem(batches)
    method = OPTIMIZERS[name]
    real = mq.iterate(method, problem, h=h, steps=12)
    assert real.name.startswith("torch.optim.SGD")
    own = _iterate_method(method, problem, problem.start(), learning_rates(h, 12), batches)
    np.testing.assert_allclose(real.y, own.y, rtol=0, atol=1e-14)


@given(methods(weight_decay=True), st.integers(1, 8))
def test_on_a_line_the_method_is_its_recurrence(method, steps):
    """v⁺ = βv + (1−α)d with torch's first step, by hand, on L = x²/2."""
    problem = mq.SymbolicProblem(X**2 / 2, [X])
    h, theta, buffer = 0.1, 1.0, None
    base = method
    rate = float(next(iter(method.decay.values()), 0))
    coupled = method.sgd is not None
    name = method.name
    momentum, dampening, nesterov = _hyperparameters(name)
    expected = [theta]
    for _ in range(steps):
        d = theta + (rate * theta if coupled else 0)
        if momentum:
            buffer = d if buffer is None and coupled_start(name) else momentum * (buffer or 0.0) + (1 - dampening) * d
            update = d + momentum * buffer if nesterov else buffer
        else:
            update = d
        theta = theta - h * update - (0 if coupled else h * rate * theta)
        expected.append(theta)
    got = mq.iterate(base, problem, [1.0], h=h, steps=steps).y.ravel()
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


def coupled_start(name):
    return name.startswith("HeavyBall")


def _hyperparameters(name):
    call = name.split(".with_weight_decay")[0]
    values = dict(part.split("=") for part in call[call.index("(") + 1 : -1].split(", ") if part)
    numbers = {key: float(sp.Rational(value)) for key, value in values.items()}
    return numbers.get("momentum", 0.0), numbers.get("dampening", 0.0), call.startswith("Nesterov")


def test_several_queries_run_in_their_order():
    """The explicit midpoint rule as a one-state, two-query method: exact on x' = −x to second order."""
    half = sp.Rational(1, 2)
    midpoint = mq.GeneralLinearMethod(A=[[1]], B=[[0, 1]], C=[[1], [1]], D=[[0, 0], [half, 0]], name="midpoint")
    problem = mq.SymbolicProblem(X**2 / 2, [X])
    got = mq.iterate(midpoint, problem, [1.0], h=0.1, steps=1).y[-1, 0]
    assert got == pytest.approx(1 - 0.1 + 0.005, abs=1e-16)


def test_times_follow_the_schedule():
    problem = mq.SymbolicProblem(X**2 / 2, [X])
    trajectory = mq.iterate(mq.GradientDescent(), problem, [1.0], h=lambda n: 0.1 * (n + 1), steps=3)
    np.testing.assert_allclose(trajectory.t, [0, 0.1, 0.3, 0.6])


def test_divergence_is_raised_with_what_there_is():
    problem = mq.SymbolicProblem(X**4, [X])
    with pytest.raises(mq.Diverged, match="not finite after step") as caught:
        mq.iterate(mq.GradientDescent(), problem, [10.0], h=1.0, steps=50)
    kept = caught.value.trajectory
    assert np.isfinite(kept.y).all()
    assert len(kept.y) == len(kept.t) > 1
    result = mq.iterate(mq.GradientDescent(), problem, [10.0], h=1.0, steps=50, check=False)
    assert not result.success
    assert result.status == -1


def test_divergence_of_a_network_is_raised():
    with pytest.raises(mq.Diverged, match="smaller learning rate than 1e"):
        mq.iterate(mq.HeavyBall(0.9), network_problem(), h=1e200, steps=30)


def test_the_callers_module_is_left_alone():
    module = torch.nn.Linear(2, 1, dtype=torch.float64)
    before = [p.detach().clone() for p in module.parameters()]
    problem = mq.TorchProblem(
        module, lambda y, t: ((y - t) ** 2).mean(), torch.ones(3, 2, dtype=torch.float64), torch.zeros(3, 1)
    )
    state = torch.random.get_rng_state()
    mq.iterate(mq.HeavyBall(0.9), problem, h=0.1, steps=5)
    problem.derivative(problem.start(), [problem.start()])
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert all(p.grad is None for p in module.parameters())
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"h": -0.1, "steps": 3}, "learning rate h is -0.1: give a positive number"),
        ({"h": float("nan"), "steps": 3}, "learning rate h is nan"),
        ({"h": 0.1, "steps": -1}, "steps is -1: give an integer from 0"),
        ({"h": 0.1, "steps": 1.5}, "steps is 1.5"),
        ({"h": lambda n: 0.1 - 0.1 * n, "steps": 3}, r"learning rate h\(1\) is 0.0"),
        ({"h": 0.1, "steps": 3, "batches": [[0]]}, "has no minibatches: use a TorchProblem"),
        ({"h": "abc", "steps": 3}, "learning rate h is 'abc'"),
        ({"h": None, "steps": 3}, "learning rate h is None"),
        ({"h": [0.1, 0.2], "steps": 3}, "learning rate h is"),
        ({"h": True, "steps": 3}, "learning rate h is True"),
        ({"h": lambda n: None, "steps": 3}, r"learning rate h\(0\) is None"),
    ],
)
def test_bad_arguments(keywords, message):
    problem = mq.SymbolicProblem(X**2, [X])
    with pytest.raises(mq.InvalidProblem, match=message):
        mq.iterate(mq.GradientDescent(), problem, [1.0], **keywords)


def test_symbols_must_be_numbers():
    problem = mq.SymbolicProblem(X**2, [X])
    with pytest.raises(mq.InvalidMethod, match=r"has free symbols: substitute numbers with method\.subs"):
        mq.iterate(mq.HeavyBall(sp.Symbol("beta")), problem, [1.0], h=0.1, steps=2)


@pytest.mark.parametrize("h", [0.1, 3.0], ids=["contracting sweeps", "Newton"])
def test_implicit_euler_solves_its_equation(h):
    problem = mq.SymbolicProblem(X**2 / 2 + X**4 / 4, [X])
    y = mq.iterate(mq.ImplicitEuler(), problem, [1.0], h=h, steps=4).y.ravel()
    np.testing.assert_allclose(y[1:] + h * (y[1:] + y[1:] ** 3), y[:-1], rtol=0, atol=1e-11)


def test_a_trapezoidal_step_as_multistep_and_as_runge_kutta():
    half = sp.Rational(1, 2)
    multistep = mq.LinearMultistep([-1, 1], [half, half])
    tableau = mq.RungeKutta([[0, 0], [half, half]], [half, half])
    problem = mq.SymbolicProblem(X**4 / 4 + X**2, [X])
    first, second = (mq.iterate(m, problem, [1.0], h=0.1, steps=5).y for m in (multistep, tableau))
    np.testing.assert_allclose(first, second, atol=1e-13)


def test_a_two_step_method_is_its_recurrence():
    """Adams–Bashforth, θ_{n+1} = θ_n + h(3f_n − f_{n−1})/2 with f₋₁ = 0, on x' = −x."""
    half = sp.Rational(1, 2)
    adams = mq.LinearMultistep(rho=[0, -1, 1], sigma=[-half, 3 * half])
    got = mq.iterate(adams, mq.SymbolicProblem(X**2 / 2, [X]), [1.0], h=0.1, steps=4).y.ravel()
    theta, before = [1.0], 0.0
    for _ in range(4):
        theta.append(theta[-1] + 0.1 * (1.5 * -theta[-1] - 0.5 * before))
        before = -theta[-2]
    np.testing.assert_allclose(got, theta, atol=1e-15)


@pytest.mark.parametrize(
    "batches, message",
    [
        ([torch.tensor([], dtype=torch.int64)], "batch 0 is empty or has an index outside 0 to 7"),
        ([torch.tensor([1, 8])], "outside 0 to 7"),
        ([torch.tensor([0.5])], "batch 0 has dtype torch.float32"),
        ([None], "batch 0 is None"),
        ([], "batches is empty"),
    ],
)
def test_bad_batches(batches, message):
    with pytest.raises(mq.InvalidProblem, match=message):
        mq.iterate(mq.GradientDescent(), network_problem(), h=0.1, steps=2, batches=batches)
    with pytest.raises(mq.InvalidProblem, match=message):
        network_problem(batches)


def test_batches_as_a_matrix():
    rows = torch.tensor([[0, 1], [2, 3]])
    first, second = (
        mq.iterate(mq.HeavyBall(0.5), network_problem(), h=0.1, steps=4, batches=b).y for b in (rows, list(rows))
    )
    np.testing.assert_array_equal(first, second)


def test_a_schedule_leaves_differences_of_parameters_as_they_are():
    """y = θ + β(θ − θ⁻), θ⁺ = y − h∇L(y), by hand, with h changing at each step."""
    beta, h = 0.5, (lambda n: 0.05 / (1 + n))
    problem = mq.SymbolicProblem(X**4 / 4 + X**2, [X])
    theta, before, expected = 1.0, 1.0, [1.0]
    for n in range(10):
        ahead = theta + beta * (theta - before)
        theta, before = ahead - h(n) * (ahead**3 + 2 * ahead), theta
        expected.append(theta)

    def rule(theta, before, gradient, h):
        ahead = theta + beta * (theta - before)
        return ahead - h * gradient(ahead), theta

    for method in (mq.ClassicalNesterov(beta), mq.TripleMomentum(beta, beta, 0)):
        got = mq.iterate(method, problem, [1.0], h=h, steps=10).y.ravel()
        np.testing.assert_allclose(got, expected, rtol=1e-13)
    traced = mq.iterate(mq.method_from(rule), problem, [1.0], h=0.05, steps=3).y
    np.testing.assert_allclose(traced, mq.iterate(mq.ClassicalNesterov(beta), problem, [1.0], h=0.05, steps=3).y)


def test_a_multistep_method_has_no_rule_for_a_schedule():
    adams = mq.LinearMultistep(rho=[0, -1, 1], sigma=[-0.5, 1.5])
    with pytest.raises(mq.UnsupportedOptimizer, match="no rule for a changing learning rate: give a constant h"):
        mq.iterate(adams, mq.SymbolicProblem(X**2, [X]), [1.0], h=lambda n: 0.1 / (n + 1), steps=3)


@pytest.mark.parametrize("method", [mq.HeavyBall(0.9), mq.HeavyBall(0.9).with_weight_decay(0.1, decoupled=True)])
@pytest.mark.parametrize("problem", [network_problem(), mq.SymbolicProblem(X**4 + X**2, [X])], ids=["torch", "sympy"])
def test_every_so_many_points_and_the_last(problem, method):
    start = None if isinstance(problem, mq.TorchProblem) else [1.0]
    full = mq.iterate(method, problem, start, h=0.01, steps=11)
    thin = mq.iterate(method, problem, start, h=0.01, steps=11, every=4)
    np.testing.assert_array_equal(thin.y, full.y[[0, 4, 8, 11]])
    np.testing.assert_array_equal(thin.t, full.t[[0, 4, 8, 11]])
    assert thin.nfev == full.nfev == 11
    assert len(mq.iterate(method, problem, start, h=0.01, steps=3, every=100).y) == 2
    with pytest.raises(mq.InvalidProblem, match="every is 0: give a positive integer"):
        mq.iterate(method, problem, start, h=0.01, steps=11, every=0)


def test_every_counts_applications_of_an_epoch():
    problem = mq.SymbolicProblem([X**2, 2 * X**2], [X])
    epoch = mq.Epoch(mq.GradientDescent(), 2)
    thin = mq.iterate(epoch, problem, [1.0], h=0.01, steps=10, every=2)
    np.testing.assert_allclose(thin.t, [0, 0.04, 0.08, 0.1])


@pytest.mark.parametrize("method", [mq.HeavyBall(0.9), mq.ClassicalNesterov(0.9)], ids=["torch.optim", "method"])
def test_a_float32_network_stays_in_float32(method):
    """The same as in float64 to rounding, and exactly numbers of float32."""
    double = network_problem()
    single = mq.TorchProblem(double.module.float(), double.loss_function, double.inputs.float(), double.targets.float())
    runs = [mq.iterate(method, problem, h=0.1, steps=20).y for problem in (single, network_problem())]
    np.testing.assert_array_equal(runs[0], runs[0].astype(np.float32))
    np.testing.assert_allclose(runs[0], runs[1], atol=2e-6)


def nan_problem():
    """Its square root has no slope where an output is 0, as after the third step of the bias."""
    module = torch.nn.Linear(1, 2, dtype=torch.float64)
    with torch.no_grad():
        module.weight.zero_()
        module.bias.copy_(torch.tensor([1.0, 1.0]))
    inputs, targets = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    return mq.TorchProblem(module, lambda y, t: (y[:, 0] ** 2).sum() + torch.sqrt(y[:, 1] - 0.5).sum(), inputs, targets)


@pytest.mark.parametrize(
    "method", [mq.GradientDescent(), mq.GradientDescent().with_weight_decay(1e-9, decoupled=True)], ids=["torch", "own"]
)
def test_a_gradient_that_is_not_finite_is_named(method):
    with pytest.raises(mq.Diverged, match=r"gradient in step \d+ is not finite, first in weight\[1, 0\], at") as caught:
        mq.iterate(method, nan_problem(), h=0.02, steps=50)
    kept = caught.value.trajectory
    assert kept.status == mq.Status.NON_FINITE_GRADIENT
    assert np.isfinite(kept.y).all()
    assert f"in step {len(kept.y)} " in kept.message
    assert kept.nfev == len(kept.y)


def test_a_nan_at_the_start():
    problem = mq.SymbolicProblem(sp.sqrt(X), [X])
    for method in (mq.GradientDescent(), mq.HeavyBall(0.5), mq.ClassicalNesterov(0.5)):
        result = mq.iterate(method, problem, [0.0], h=0.1, steps=3, check=False)
        assert result.status == mq.Status.NON_FINITE_GRADIENT, result
        assert result.y.tolist() == [[0.0]]
        assert "gradient in step 1 is not finite, first in x" in result.message


def test_a_divergence_names_step_and_parameter():
    result = mq.iterate(mq.HeavyBall(0.5), mq.SymbolicProblem(X**4, [X]), [10.0], h=1.0, steps=50, check=False)
    assert result.status == mq.Status.DIVERGED
    assert result.message.startswith(f"the parameters are not finite after step {len(result.y)}, first x; use a")
