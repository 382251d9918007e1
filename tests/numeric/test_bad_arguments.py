"""Whatever is wrong with a call ends in a typed error that says what to give instead."""

import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

import modeq as mq

X, Y = sp.symbols("x y")
WRITTEN = mq.SymbolicProblem([X**2 / 2 + Y**2, (X - Y) ** 2], [X, Y])
CALLABLE = mq.NumpyProblem(lambda theta: theta**3, 2)
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    _DATA = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]
    NETWORK = mq.TorchProblem(torch.nn.Linear(1, 1).double(), torch.nn.functional.mse_loss, _DATA, _DATA**2)
PROBLEMS = st.sampled_from([WRITTEN, CALLABLE, NETWORK])  # each of two parameters

POSITIVE = st.sampled_from([0, -1, -0.5, float("nan"), float("inf"), "0.1", None, True, [0.1], 1j])
COUNTS = st.sampled_from([0, -3, 2.5, float("nan"), "5", None, True, [3]])
STARTS = st.sampled_from(
    [[1.0], [1.0, 2.0, 3.0], [float("nan"), 1.0], [1.0, float("inf")], "xy", ["a", "b"], object(), [1j, 0.0],
     {"x": 1.0}, torch.ones(3), np.array([[None, 1.0]])]
)  # fmt: skip
SYMBOLIC = mq.modified_equation(mq.HeavyBall(sp.Symbol("beta")), 2)
METHODS = st.sampled_from([None, "gd", mq.HeavyBall, mq.HeavyBall(sp.Symbol("beta")), 3, [mq.GradientDescent()]])
BATCHES = st.sampled_from([3, "batch", [[0, 99]], [None], [], [-1], [1.5], object()])


def changed(**arguments):
    """One of the arguments, with a bad value."""
    return st.one_of(*(values.map(lambda value, name=name: {name: value}) for name, values in arguments.items()))


def refused(call, *arguments, **options):
    with pytest.raises(mq.ModeqError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert len(message) > 20, message
    assert any(word in message for word in (": ", " must ", "give ", "use ")), message


@given(
    PROBLEMS,
    changed(h=POSITIVE, time=POSITIVE, rtol=POSITIVE, atol=POSITIVE, max_evaluations=COUNTS, start=STARTS,
            substeps=COUNTS.filter(lambda value: value is not None), field=st.sampled_from(["magic", None, 3]),
            initial_layer=st.sampled_from(["yes", -1, 0.5, None]), batches=BATCHES, buffers=st.just([1.0, 2.0]),
            jumps=st.sampled_from([-1, 0.5, "2", 1]), through=st.just([[1.0, 2.0]]),
            form=st.sampled_from([None, "field", mq.GradientDescent(), SYMBOLIC]))
)  # fmt: skip
def test_flow(problem, bad):
    good = {"form": mq.modified_equation(mq.GradientDescent(), 2), "start": [0.1, 0.2], "h": 0.01, "time": 0.05}
    options = good | bad
    refused(mq.flow, options.pop("form"), problem, **options)


@given(
    PROBLEMS,
    changed(h=POSITIVE, steps=COUNTS.filter(lambda value: value != 0), every=COUNTS, start=STARTS, method=METHODS,
            batches=BATCHES)
)  # fmt: skip
def test_iterate(problem, bad):
    options = {"method": mq.HeavyBall(0.5), "start": [0.1, 0.2], "h": 0.01, "steps": 3} | bad
    refused(mq.iterate, options.pop("method"), problem, **options)


@given(
    PROBLEMS,
    changed(time=POSITIVE, order=COUNTS, halvings=COUNTS, start=STARTS, method=METHODS, field=st.just("magic"),
            form=st.sampled_from(["magic", None, 3]),
            step_sizes=st.sampled_from([[0.1], [0.1, 0.2], [0.2, 0.2], [0.1, 0], "12", 3, [0.2, None], [0.2, True]]))
)  # fmt: skip
def test_observed_order(problem, bad):
    options = {"method": mq.GradientDescent(), "start": [0.3, 0.2], "time": 1.0, "order": 1} | bad
    refused(mq.observed_order, options.pop("method"), problem, **options)


@pytest.mark.parametrize(
    "other",
    [None, 3, "rosenbrock", lambda theta: theta, torch.nn.Linear(1, 1)],
    ids=["None", "number", "name", "function", "module"],
)
def test_what_is_no_problem(other):
    equation, method = mq.modified_equation(mq.GradientDescent(), 1), mq.GradientDescent()
    refused(mq.flow, equation, other, [1.0], h=0.1, time=1.0)
    refused(mq.iterate, method, other, [1.0], h=0.1, steps=1)
    refused(mq.compare, method, other, [1.0], h=0.1, steps=1)
    refused(mq.observed_order, method, other, [1.0], time=1.0, order=1)
