"""Flows in torch: a Runge–Kutta method object with fixed steps, run by `iterate`, halved until it is right."""

import numpy as np
import pytest
import sympy as sp
import torch

import modeq as mq
from modeq.numeric.checkpoints import Checkpoint
from modeq.numeric.fixed_steps import runge_kutta_of
from modeq.numeric.integration import System, integrate
from modeq.numeric.iteration import iterate
from modeq.numeric.trajectory import Status

X, REAL = sp.Symbol("x"), sp.Symbol("x", real=True)
TIMES = np.linspace(0, 4, 41)


def pendulum(u):
    return torch.stack([u[1], -torch.sin(u[0]) - 0.1 * u[1]])


def flow_of(dtype, rtol, atol, times=TIMES, checkpoint=None, limit=10**5, size=2):
    system = System(pendulum, torch.tensor([1.0, 0.5], dtype=dtype), "pendulum")
    return integrate(system, times, size, rtol, atol, limit, checkpoint)


def reference(times=TIMES):
    def right_hand_side(u):
        return np.array([u[1], -np.sin(u[0]) - 0.1 * u[1]])

    return integrate(System(right_hand_side, np.array([1.0, 0.5]), "pendulum"), times, 2, 1e-13, 1e-14, 10**6).y


@pytest.mark.parametrize("order, rtol", [(4, 1e-3), (8, 1e-9)])
def test_the_method_has_its_order(order, rtol):
    """An error of 2^-order at half the step, on x' = x² from 1/2, with the method object itself."""
    method, claimed = runge_kutta_of(rtol)
    assert claimed == order
    x = mq.VectorField([X**2], [X])
    errors = [abs(iterate(method, x, [0.5], h=1 / n, steps=n).y[-1, 0] - 1) for n in (2, 4, 8)]
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(slopes, order, atol=0.9)


@pytest.mark.parametrize(
    "dtype, rtol, atol, bound",
    [(torch.float64, 1e-10, 1e-12, 1e-10), (torch.float64, 1e-6, 1e-8, 1e-6), (torch.float32, 2.4e-6, 2.4e-7, 2e-6)],
)
def test_a_tensor_is_integrated_to_the_tolerance(dtype, rtol, atol, bound):
    found = flow_of(dtype, rtol, atol)
    assert found.success
    assert found.y.dtype == np.float64
    np.testing.assert_allclose(found.y, reference(), rtol=0, atol=bound)
    assert flow_of(dtype, rtol, atol, size=1).y.shape == (41, 1)


def test_evaluations_are_counted_and_few():
    calls = [0]

    def counted(u):
        calls[0] += 1
        assert u.dtype == torch.float32
        return pendulum(u)

    times = 0.02 * np.arange(401)
    found = integrate(System(counted, torch.tensor([1.0, 0.5]), "pendulum"), times, 2, 2.4e-6, 2.4e-7, 10**5)
    assert found.nfev == calls[0] == 400 * 6  # a step of an interval, and for comparison one of two
    np.testing.assert_allclose(found.y, reference(times), rtol=0, atol=2e-6)


def test_long_sums_lose_nothing_in_float32():
    """3000 steps, each of which would round the state by 6e-8 in float32."""
    times = 0.001 * np.arange(3001)
    start = torch.full((3,), 1000.0)
    found = integrate(System(lambda u: torch.ones_like(u), start, "drift"), times, 3, 2.4e-6, 2.4e-7, 10**6)
    np.testing.assert_allclose(found.y[-1], 1003.0, rtol=1e-12)


def test_times_of_any_spacing():
    times = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.45, 1.0, 1.5])
    np.testing.assert_allclose(flow_of(torch.float64, 1e-9, 1e-11, times).y, reference(times), rtol=0, atol=1e-9)
    pair = np.array([0.0, 0.1])
    end = flow_of(torch.float64, 1e-9, 1e-11, pair)
    np.testing.assert_allclose(end.y, reference(pair), rtol=0, atol=1e-9)
    assert end.nfev <= 3 * 12


@pytest.mark.parametrize("kept", [0, 3, 7])
def test_a_run_goes_on_from_any_segment(tmp_path, kept):
    times = np.linspace(0, 4, 81)
    whole = flow_of(torch.float32, 2.4e-6, 2.4e-7, times, Checkpoint(tmp_path, {}))
    files = sorted(tmp_path.glob("*.npz"))
    contents = [file.read_bytes() for file in files]
    assert len(files) == 20
    for file in files[kept:]:
        file.unlink()
    again = flow_of(torch.float32, 2.4e-6, 2.4e-7, times, Checkpoint(tmp_path, {}))
    np.testing.assert_array_equal(again.y, whole.y)
    assert again.nfev == whole.nfev
    assert [file.read_bytes() for file in files] == contents


def test_a_stiff_system_spends_its_budget(tmp_path):
    system = System(lambda u: -3e3 * (u - 1), torch.zeros(2, dtype=torch.float64), "stiff")
    found = integrate(system, TIMES, 2, 1e-9, 1e-11, 3000)
    assert found.status == Status.TOO_STIFF
    assert found.nfev == 3000
    with pytest.raises(mq.Diverged, match="stiff: given up after 3000 evaluations, the equation is too stiff"):
        found.checked()
    full = integrate(system, np.linspace(0, 0.1, 11), 2, 1e-6, 1e-8, 10**6)
    np.testing.assert_allclose(full.y[-1], 1.0, rtol=1e-6)  # unstable steps are halved


def test_noise_is_told_from_stiffness():
    generator = np.random.default_rng(0)

    def noisy(u):
        return -u * (1 + 1e-3 * float(generator.standard_normal()))

    found = integrate(System(noisy, torch.ones(1), "noise"), TIMES[:2], 1, 2.4e-6, 2.4e-7, 10**5)
    assert found.status == Status.TOO_STIFF
    assert "differences are the rounding of torch.float32" in found.message


def test_a_right_hand_side_that_is_not_finite():
    system = System(torch.log, torch.tensor([1.0, -1.0]), "logarithm", label=lambda i: f"w[{i}]")
    found = integrate(system, TIMES, 2, 2.4e-6, 2.4e-7, 1000)
    assert found.status == Status.NON_FINITE_GRADIENT
    assert "not finite at the start, first in w[1]" in found.message


def test_a_float32_network_flows_as_a_float64_one():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        inputs, targets = torch.randn(8, 3), torch.randn(8, 2)
    single = mq.TorchProblem(module, lambda y, t: ((y - t) ** 2).mean(), inputs, targets)
    double = mq.TorchProblem(module.double(), lambda y, t: ((y - t) ** 2).mean(), inputs.double(), targets.double())
    equation = mq.modified_equation(mq.GradientDescent(), order=2)
    ends = [mq.flow(equation, problem, h=0.1, time=4.0) for problem in (single, double)]
    np.testing.assert_allclose(ends[0].y, ends[1].y, rtol=0, atol=2e-6)


# --- a given number of steps, without an error estimate ---------------------------------------------------------------


def kinked(h=0.1, **options):
    """The gradient flow of |x| from 1: θ' = −sign θ reaches 0 and stays there."""
    return mq.flow(
        mq.modified_equation(mq.GradientDescent(), 1), mq.SymbolicProblem(abs(REAL), [REAL]), [1.0], h=h, **options
    )


def test_a_kink_stops_an_integrator_that_controls_its_error_but_not_fixed_steps():
    with pytest.raises(mq.Diverged, match="substeps for a loss with kinks"):
        kinked(time=2.0, max_evaluations=3000)
    for substeps in (4, 8):
        found = kinked(time=2.0, substeps=substeps)
        assert found.success
        assert found.nfev == 20 * substeps * 4
        assert np.max(abs(found.y[:, 0] - np.maximum(1 - found.t, 0))) <= 0.1 / substeps


@pytest.mark.some(2)
@pytest.mark.parametrize(
    "form", [mq.modified_equation(mq.HeavyBall(0.5), 2), mq.phase_space_form(mq.HeavyBall(0.5), 2)]
)
@pytest.mark.parametrize("batches", [None, [1, 0]])
def test_substeps_are_those_of_rk4(form, batches):
    """They approach the integrator that controls its error with order 4, on minibatches too."""
    problem = mq.SymbolicProblem([sp.cos(X) + X**2, sp.sin(X) + X**2], [X])
    if batches and isinstance(form, mq.ModifiedEquation):
        form = mq.modified_equation(mq.GradientDescent(), 2)
    options = {"h": 0.1, "time": 2.0, "series_limit": False, "batches": batches, "rtol": 1e-13, "atol": 1e-15}
    sharp = mq.flow(form, problem, [1.0], **options).y
    errors = [np.max(abs(mq.flow(form, problem, [1.0], **options, substeps=n).y - sharp)) for n in (2, 4, 8)]
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 4, atol=0.25)


def test_substeps_of_a_network_in_float32_stay_there():
    torch.manual_seed(0)
    data = torch.linspace(-1, 1, 9)[:, None]
    module = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    form, options = mq.time_derivative_form(mq.HeavyBall(0.5), 2), {"h": 0.05, "time": 1.0, "substeps": 4}
    single, double = (
        mq.flow(form, mq.TorchProblem(module.to(kind), torch.nn.functional.mse_loss, data.to(kind), data.to(kind) ** 2),
                **options)
        for kind in (torch.float32, torch.float64)
    )  # fmt: skip
    np.testing.assert_allclose(single.y, double.y, atol=1e-5)


def test_substeps_of_an_epoch_count_in_each_step():
    problem = mq.SymbolicProblem([X**2, (X - 1) ** 2], [X])
    form = mq.modified_equation(mq.Epoch(mq.GradientDescent(), batches=2), 2)
    assert mq.flow(form, problem, [1.0], h=0.1, time=0.8, substeps=3).nfev == 8 * 3 * 4


def test_substeps_go_on_from_a_checkpoint(tmp_path):
    whole = kinked(time=2.0, substeps=5)
    first = kinked(time=2.0, substeps=5, checkpoint=tmp_path, max_evaluations=150, check=False)
    assert not first.success
    resumed = kinked(time=2.0, substeps=5, checkpoint=tmp_path)
    np.testing.assert_array_equal(resumed.y, whole.y)
    assert resumed.nfev == whole.nfev
    with pytest.raises(mq.InvalidProblem, match="holds another run"):
        kinked(time=2.0, substeps=6, checkpoint=tmp_path)


def test_fixed_steps_that_leave_the_finite_numbers():
    problem = mq.VectorField([X**2], [X])
    form = mq.modified_equation(mq.GradientDescent(), 1)
    found = mq.flow(form, problem, [1.0], h=0.1, time=2.0, substeps=4, check=False)
    assert found.status == Status.DIVERGED
    assert "use more substeps, or a smaller learning rate" in found.message
    np.testing.assert_allclose(found.y[:9, 0], 1 / (1 - found.t[:9]), rtol=1e-3)


def test_what_has_no_values_is_refused():
    gd = mq.GradientDescent()
    with pytest.raises(mq.InvalidProblem, match=r"needs values of Derivative\(.*, x\), .* declare .* as real"):
        mq.flow(mq.modified_equation(gd, 1), mq.SymbolicProblem(abs(X), [X]), [1.0], h=0.1, time=1.0)
    with pytest.raises(mq.InvalidProblem, match=r"needs values of DiracDelta\(x\)"):
        mq.flow(mq.modified_equation(gd, 2), mq.SymbolicProblem(abs(REAL), [REAL]), [1.0], h=0.1, time=1.0)
