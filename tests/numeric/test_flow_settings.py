"""Which options a flow takes, and what it says about the others."""

from functools import partial

import numpy as np
import pytest
import sympy as sp
import torch
from sympy import Rational as Q

import modeq as mq

x = sp.Symbol("x")
PROBLEM = mq.SymbolicProblem(x**2 / 2 + x**4 / 8, [x])
BATCHES = mq.SymbolicProblem([x**2, x**4 / 4], [x])
FIELD = mq.modified_equation(mq.HeavyBall(0.5), 2)
TIME = mq.time_derivative_form(mq.HeavyBall(0.5), 2)
PHASE = mq.phase_space_form(mq.HeavyBall(0.5), 2)
STATE = mq.state_space_form(mq.HeavyBall(0.5), 2)
DESCENT = mq.modified_equation(mq.GradientDescent(), 2)
SCHEDULED = mq.scheduled_equation(mq.GradientDescent(), sp.exp(-sp.Symbol("t")))
EXPECTED = mq.modified_equation(mq.Epoch(mq.GradientDescent(), 2).expected("reshuffling"), order=2)


def flow(form, problem=PROBLEM, start=(1.0,), **options):
    return mq.flow(form, problem, start, **({"h": 0.01, "time": 0.04} | options))


@pytest.mark.parametrize(
    "form, options, message",
    [
        (FIELD, {"field": "sympy"}, "field is 'sympy': choose from auto, lambdify, autodiff, gradients"),
        (TIME, {"field": "autodiff"}, "field is 'autodiff': TimeDerivativeForm.* takes 'auto' or 'gradients'"),
        (STATE, {"field": "gradients"}, "field is 'gradients': StateSpaceForm.* takes 'auto' or 'autodiff'"),
        (SCHEDULED, {"field": "lambdify"}, "field is 'lambdify': ScheduledEquation.* takes 'auto' or 'autodiff'"),
        (FIELD, {"initial_layer": "yes"}, "initial_layer is 'yes': give True, False, or the highest power of h"),
        (FIELD, {"initial_layer": -1}, "initial_layer is -1: give True, False, or the highest power of h, from 0"),
        (TIME, {"initial_layer": 1}, "initial_layer is 1: powers of h are for a vector field; give Time.* a bool"),
        (PHASE, {"initial_layer": 0}, "initial_layer is 0: powers of h are for a vector field; give Phase.* a bool"),
        (STATE, {"initial_layer": False}, "initial_layer is False: State.* has none, it starts at its buffers"),
        (FIELD, {"buffers": 0}, "buffers are for a state-space form, not for ModifiedEquation"),
        (TIME, {"through": [[1.0]]}, r"through has shape \(1, 1\): give TimeDerivativeForm.* nothing"),
        (PHASE, {"through": [[1.0], [0.9]]}, r"through has shape \(2, 1\): give PhaseSpaceForm.* 1 x 1 finite"),
        (PHASE, {"jumps": 1}, "jumps is 1: only a phase-space form with batches .* without; leave it out"),
        (PHASE, {"jumps": -1}, "jumps is -1: give an integer from 0"),
        (PHASE, {"max_evaluations": 0}, "max_evaluations is 0: give a positive integer"),
        (PHASE, {"batches": [0]}, "batches are given, but .* has no minibatches"),
    ],
)
def test_options_without_a_use_are_refused(form, options, message):
    with pytest.raises(mq.InvalidProblem, match=message):
        flow(form, **options)


@pytest.mark.parametrize(
    "form, options, message",
    [
        (TIME, {"jumps": 0}, "jumps is 0: only a phase-space form with batches has jumps, and this is Time.*; leave"),
        (TIME, {"time": 0.035}, "time is 0.035, 3.5 steps of h = 0.01: with batches it must be a whole number"),
        (TIME, {"time": 0.001}, "time is 0.001, 0.1 steps of h = 0.01: with batches it must be a whole number"),
        (SCHEDULED, {}, "batches are given, but ScheduledEquation.* takes none: leave them out"),
        (EXPECTED, {}, "batches are given, but ExpectedEquation.* takes none: leave them out"),
        (mq.modified_equation(mq.Epoch(mq.GradientDescent(), 2), 2), {}, "batches are given, but Epoch.* as its fie"),
        (TIME, {"batches": [2]}, r"batches are \[2\]: give numbers of the 2 losses"),
    ],
)
def test_what_has_no_use_for_batches(form, options, message):
    with pytest.raises(mq.InvalidProblem, match=message):
        flow(form, BATCHES, **({"batches": [0, 1]} | options))


def test_a_problem_that_has_no_batches_to_give():
    class Alone:
        size, parts, epsilon = 1, 1, 1e-16
        native = staticmethod(lambda theta: theta)
        start = staticmethod(lambda start: np.array(start))
        label = field = derivative = of_batch = staticmethod(lambda *given: None)
        checked_batches = staticmethod(lambda batches=None: None)

    with pytest.raises(mq.InvalidProblem, match=r"batches are \[0\], but .*Alone.* has none: leave them out"):
        flow(TIME, Alone(), batches=[0])


THREE_MODES = mq.GeneralLinearMethod(
    A=[[1, 1, 1], [0, Q(1, 2), 0], [0, 0, Q(1, 3)]],
    B=[[1], [1], [Q(1, 4)]],
    C=[[1, 0, 0]],
    D=[[0]],
    name="two buffers",
)


@pytest.mark.parametrize(
    "form, message",
    [
        (FIELD, r"HeavyBall.* keeps 2 states from one minibatch to the next, .*: use time_derivative_form, phase_"),
        (mq.phase_space_form(THREE_MODES, 1), "PhaseSpaceForm.* has 3 modes: where the minibatch switches"),
        (mq.phase_space_form(mq.OptimisticGradient(), 1), r"PhaseSpaceForm.* leaves out the poles \[0\]: where the"),
    ],
)
def test_forms_that_lose_the_memory_of_the_method(form, message):
    with pytest.raises(mq.UnsupportedOptimizer, match=message):
        flow(form, BATCHES, batches=[0, 1])


STIFF = mq.SymbolicProblem([50 * x**2, 40 * x**2], [x])


@pytest.mark.parametrize("batches", [None, [0, 1]], ids=["whole", "batches"])
@pytest.mark.parametrize(
    "form, h, error, status",
    [
        (DESCENT, 0.02, mq.OutsideSeriesLimit, mq.Status.SERIES_DIVERGES),
        (mq.time_derivative_form(mq.GradientDescent(), 6), 1e-4, mq.IllPosed, mq.Status.ILL_POSED),
        (mq.phase_space_form(mq.HeavyBall(0.5), 3, "powers"), 0.5, mq.Diverged, mq.Status.DIVERGED),
    ],
    ids=["series", "ill-posed", "no start"],
)
def test_a_refusal_is_an_error_or_a_status(form, h, error, status, batches):
    options = {"h": h, "time": 4 * h, "batches": batches}
    with pytest.raises(error) as raised:
        flow(form, STIFF, **options)
    refused = flow(form, STIFF, **options, check=False)
    assert (refused.status, refused.message, refused.nfev) == (status, str(raised.value), 0)
    assert (refused.t.tolist(), refused.y.tolist(), refused.name) == ([0.0], [[1.0]], repr(form))


def test_the_evaluations_of_all_steps_are_counted():
    whole = flow(TIME, BATCHES, batches=[0, 1])
    budget = int(0.6 * whole.nfev)
    with pytest.raises(mq.Diverged, match=rf"given up in step 2 after {budget} evaluations in all: use a smaller"):
        flow(TIME, BATCHES, batches=[0, 1], max_evaluations=budget)
    failed = flow(TIME, BATCHES, batches=[0, 1], max_evaluations=budget, check=False)
    assert (failed.status, failed.t.tolist()) == (mq.Status.TOO_STIFF, [0, 0.01, 0.02])
    assert np.array_equal(failed.y, whole.y[:3])


def test_a_step_that_cannot_be_taken():
    problem = mq.SymbolicProblem([x**2, x ** sp.Rational(3, 2) + sp.log(x)], [x])
    failed = flow(TIME, problem, [-1.0], batches=[0, 0, 1], check=False)
    assert not failed.success
    assert failed.message.startswith("in step 2: ")
    assert len(failed.y) == 3


def test_a_jump_that_cannot_be_solved_for():
    method = mq.HeavyBall(0.9)
    with pytest.raises(mq.Diverged, match="the buffer at step 1 cannot be found from the velocity.* jumps=1"):
        flow(mq.phase_space_form(method, 1), STIFF, h=0.1, time=0.4, batches=[0, 1], initial_layer=False)


@pytest.mark.parametrize("batches", [None, [0, 1, 1]], ids=["whole", "batches"])
def test_an_interrupted_flow_goes_on(tmp_path, batches):
    options = {"h": 0.01, "time": 0.6, "batches": batches}
    whole = flow(PHASE, BATCHES, **options)
    part = flow(PHASE, BATCHES, **options, max_evaluations=whole.nfev // 2, check=False, checkpoint=tmp_path)
    assert part.status == mq.Status.TOO_STIFF
    taken = sorted(file.name for file in tmp_path.glob("segment-*"))
    assert 3 < len(taken) < 18
    resumed = flow(PHASE, BATCHES, **options, checkpoint=tmp_path)
    assert np.array_equal(resumed.y, whole.y)
    assert resumed.nfev == whole.nfev
    again = flow(PHASE, BATCHES, **options, checkpoint=tmp_path)
    assert np.array_equal(again.y, whole.y)
    with pytest.raises(mq.InvalidProblem, match="holds another run"):
        flow(PHASE, BATCHES, **(options | {"h": 0.02}), checkpoint=tmp_path)


def network(dtype):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).to(dtype)
        inputs, labels = torch.randn(8, 3).to(dtype), torch.tensor([0, 1] * 4)
    return mq.TorchProblem(module, torch.nn.functional.cross_entropy, inputs, labels)


@pytest.mark.some(2)
@pytest.mark.parametrize("batches", [None, [[0, 1, 2, 3], [4, 5, 6, 7]]], ids=["whole", "batches"])
@pytest.mark.parametrize("form", [DESCENT, TIME, PHASE, STATE], ids=lambda form: type(form).__name__)
def test_networks_in_float32_stay_there(form, batches, monkeypatch):
    single, double = network(torch.float32), network(torch.float64)
    seen = set()
    field = mq.TorchProblem.field

    def watched(problem, theta, *rest, **named):
        seen.add(type(theta))
        return field(problem, theta, *rest, **named)

    monkeypatch.setattr(mq.TorchProblem, "field", watched)
    options = {"h": 0.05, "time": 0.1, "batches": batches, "rtol": 1e-5, "atol": 1e-5}
    found = mq.flow(form, single, **options)
    assert torch.Tensor in seen
    assert found.y.dtype == np.float64
    np.testing.assert_allclose(found.y, mq.flow(form, double, **options).y, atol=1e-5)


def test_a_checkpoint_of_minibatches_tells_tolerances_apart(tmp_path):
    x = sp.Symbol("x")
    problem = mq.SymbolicProblem([x**2 / 2, x**2 + sp.sin(x)], [x])
    form = mq.time_derivative_form(mq.HeavyBall(0.5), 2)
    kept = partial(mq.flow, form, problem, [1.0], h=0.1, time=0.4, batches=[0, 1], checkpoint=tmp_path)
    kept(atol=1e-12)
    with pytest.raises(mq.InvalidProblem, match="holds another run: atol is 1e-12 there, 1e-06 here"):
        kept(atol=1e-6)
