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

X = sp.Symbol("x")
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
