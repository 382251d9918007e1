"""Comparisons: every way a law can fail has its status, and what is measured along the way is right."""

import json
import os
import signal
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

import modeq as mq
from modeq.cli.main import main
from modeq.numeric.comparison_result import _best

X, Y = sp.symbols("x y")
PLANE = mq.SymbolicProblem(sp.Rational(5, 4) * (X**2 + Y**2) - sp.Rational(3, 2) * X * Y + X**4 / 20, [X, Y])
LINE = mq.SymbolicProblem(X**2 / 2, [X])
BATCHES = mq.SymbolicProblem([X**2 / 2 + Y**2, X**2 + (Y - 1) ** 2 / 2, (X - Y) ** 2], [X, Y])
GD, HEAVY = mq.GradientDescent(), mq.HeavyBall(momentum=0.9)


def compare(methods=GD, problem=PLANE, start=(1.0, 0.5), h=0.05, steps=12, **options):
    return mq.compare(methods, problem, list(start), h=h, steps=steps, **{"progress": False, **options})


def only(**options):
    (entry,) = compare(**options).entries
    return entry


def test_a_law_that_works_is_done():
    entry = only(orders=(2,), forms=["field"])
    assert entry.status is mq.Status.DONE
    assert entry.message == entry.note == ""
    assert entry.errors.shape == (13,)
    assert entry.error == entry.errors.max()
    assert entry.late_error == entry.errors[6:].max()


@pytest.mark.parametrize(
    "status, options, message",
    [
        ("SERIES_DIVERGES", {"methods": HEAVY, "orders": (2,), "forms": ["field"]},
         r"h·λ_max = 0.2165 at the start is beyond the series limit 0.002633 of HeavyBall.* use "
         "phase_space_form, time_derivative_form of order 2 or h <"),
        ("SERIES_DIVERGES", {"methods": HEAVY, "orders": (3,), "forms": ["time"], "curvature_points": 0},
         "beyond the series limit 0.002633 .* use phase_space_form, time_derivative_form of order 2 or h <"),
        ("SERIES_DIVERGES", {"methods": mq.Extragradient(), "problem": LINE, "start": [1.0], "h": 1.1, "orders": (2,),
                             "forms": ["field"]},
         r"use order=1 \(the gradient flow\) or h < 1"),
        ("NO_SUCH_FORM", {"methods": mq.Extragradient(), "orders": (2,), "forms": ["time"]}, "Extragradient"),
        ("ILL_POSED", {"orders": (5,), "forms": ["time"]}, "is no initial-value problem: a mode grows"),
        ("TOO_STIFF", {"orders": (2,), "forms": ["field"], "max_evaluations": 10}, "given up after 10 evaluations"),
        ("DIVERGED", {"problem": mq.SymbolicProblem(-(X**4) / 4, [X]), "start": [1.0], "orders": (1,),
                      "forms": ["field"]}, ""),
        ("NO_SUCH_FORM", {"problem": LINE, "start": [1.0], "h": 1.0, "forms": ["exact"]}, "has no logarithm"),
        ("NO_SUCH_FORM", {"methods": HEAVY, "problem": BATCHES, "batches": [0, 1, 2], "orders": (1,),
                          "forms": ["field"]}, "keeps 2 states from one minibatch to the next"),
        ("NO_SUCH_FORM", {"methods": HEAVY, "problem": BATCHES, "batches": [0, 1, 2], "forms": ["exact"]},
         "batches are given: leave out 'exact'"),
    ],
)  # fmt: skip
def test_every_failure_has_its_status_and_its_reason(status, options, message):
    import re

    entry = only(**options)
    assert entry.status.name == status
    assert entry.error is None
    assert entry.note
    assert re.search(message, entry.message), entry.message


def test_flows_see_the_minibatches_that_the_optimizer_sees():
    methods = mq.HeavyBall(momentum=0.5)
    seen = compare(methods, BATCHES, batches=[0, 1, 2], h=0.02, steps=30, orders=(3,), forms=["time", "phase", "state"])
    mean = compare(methods, BATCHES, h=0.02, steps=30, orders=(3,), forms=["phase"])
    assert all(entry.status is mq.Status.DONE for entry in seen.entries)
    assert seen.errors[repr(methods), "phase", 3] < 1e-2 * mean.errors[repr(methods), "phase", 3]


def test_an_optimizer_that_diverges_raises_or_is_compared_as_far_as_it_goes():
    problem, options = (
        mq.SymbolicProblem(X**4, [X]),
        {"h": 1.0, "steps": 60, "orders": (1,), "forms": ["field", "time"]},
    )
    with pytest.raises(mq.Diverged, match="not finite after step"):
        compare(GD, problem, [2.0], **options)
    result = compare(GD, problem, [2.0], check=False, **options)
    assert result.status == {"GradientDescent()": mq.Status.DIVERGED}
    (entry,) = result.entries
    assert entry.status is mq.Status.DONE
    assert len(entry.errors) == len(result.iterates["GradientDescent()"].t) < 60
    assert "the optimizer itself: the parameters are not finite" in result.table()
    assert json.loads(json.dumps(result.to_dict()))["methods"]["GradientDescent()"]["status"] == "DIVERGED"


def test_an_optimizer_without_a_step_has_no_flow():
    hopeless = mq.SymbolicProblem(sp.exp(sp.exp(X)), [X])
    (entry,) = compare(GD, hopeless, [6.6], check=False, orders=(1,), forms=["field"], curvature_points=0).entries
    assert entry.trajectory is None
    assert entry.status < 0
    assert "the optimizer itself made no step" in entry.message


def test_recording_every_so_many_steps_changes_no_number():
    every, some = (compare(steps=25, every=n, orders=(2,), forms=["field"]) for n in (1, 10))
    (fine,), (coarse,) = every.entries, some.entries
    assert some.iterates["GradientDescent()"].t / some.h == pytest.approx([0, 10, 20, 25])
    assert coarse.errors.tolist() == fine.errors[[0, 10, 20, 25]].tolist()
    assert (coarse.error, coarse.late_error) == (fine.error, fine.late_error)
    assert len(coarse.trajectory.y) == len(coarse.losses) == 4
    assert some.to_dict()["methods"]["GradientDescent()"]["recorded_steps"] == [0, 10, 20, 25]


def test_losses_and_gradients_are_those_at_the_parameters():
    result = compare(orders=(2,), forms=["field"])
    (entry,), name = result.entries, "GradientDescent()"
    for trajectory, losses, norms in (
        (result.iterates[name], result.losses[name], result.gradient_norms[name]),
        (entry.trajectory, entry.losses, entry.gradient_norms),
    ):
        assert losses == pytest.approx([PLANE.loss(theta) for theta in trajectory.y])
        assert norms == pytest.approx([np.hypot(*PLANE.field(theta)) for theta in trajectory.y])


def test_a_field_without_a_loss_has_gradients_but_no_losses():
    problem = mq.VectorField([-X + Y / 2, -X / 2 - Y], [X, Y])
    result = compare(GD, problem, orders=(1, 2), forms=["field"])
    assert result.losses == {"GradientDescent()": None}
    assert result.entries[0].losses is None
    assert len(result.gradient_norms["GradientDescent()"]) == 13
    assert len(result.plot_plane()) == 3  # no contours
    with pytest.raises(mq.InvalidProblem, match="no loss to plot"):
        result.plot_losses()
    plt.close("all")


def test_a_gradient_alone_has_no_losses():
    result = mq.compare(GD, mq.NumpyProblem(lambda x: x, 1), [1.0], h=0.1, steps=3, progress=False)
    assert result.losses["GradientDescent()"] is None
    assert all(entry.losses is None for entry in result.entries)
    assert result.gradient_norms["GradientDescent()"][0] == 1
    planar = mq.compare(GD, mq.NumpyProblem(lambda x: x, 2), [1.0, 2.0], h=0.1, steps=3, progress=False)
    planar.plot_plane()
    assert not plt.gca().collections  # no contours
    plt.close("all")


def test_curvature_along_the_iterates_is_that_of_the_hessian_and_flags_the_limits():
    valley = mq.SymbolicProblem(-sp.exp(-(X**2) / 2), [X])  # L'' = (1 − x²) e^{−x²/2}, flat outside and 1 at 0
    result = compare(GD, valley, [2.0], h=1.2, steps=20, orders=(1,), forms=["field"])
    along = result.curvature["GradientDescent()"]
    x = result.iterates["GradientDescent()"].y[along.steps, 0]
    assert along.values == pytest.approx(1.2 * abs((1 - x**2) * np.exp(-(x**2) / 2)))
    assert (along.series_limit, along.stability_limit) == (1, 2)
    assert len(along.steps) == 11
    assert along.first_beyond(1) > 0
    assert along.first_beyond(2) is None
    assert result.flags["GradientDescent()"] == [
        f"h·λ_max = {along.values[along.steps == along.first_beyond(1)][0]:.4g} at step {along.first_beyond(1)} is "
        "beyond the series limit 1"
    ]


def test_weight_decay_adds_to_the_curvature():
    method = GD.with_weight_decay(0.5)
    along = compare(method, LINE, [1.0], h=0.1, orders=(1,), forms=["field"]).curvature[repr(method)]
    assert along.values == pytest.approx(0.15)


def test_a_game_has_no_curvature():
    game = mq.VectorField([-Y - X / 4, X - Y / 4], [X, Y], players=[[X], [Y]])
    result = compare(mq.Simultaneous([GD, GD]), game, orders=(1, 2), forms=["field"])
    assert result.curvature == {}
    assert result.entries[1].error < result.entries[0].error
    with pytest.raises(mq.InvalidProblem, match="no curvature was measured"):
        result.plot_curvature()


@pytest.mark.parametrize(
    "errors, best",
    [
        ({1: 0.3, 2: 0.2, 3: 0.1}, 3),
        ({1: 0.3, 2: 0.4, 3: 0.1}, 1),
        ({3: 0.2, 1: 0.3, 2: 0.1}, 2),
        ({1: 0.3, 2: None}, 1),
        ({1: None, 2: 0.2, 3: 0.2}, 2),
        ({2: None}, None),
    ],
)
def test_best_order_is_where_more_terms_stop_helping(errors, best):
    assert _best(errors) == best


def test_best_order_of_a_comparison():
    result = compare([GD, HEAVY], orders=(1, 2, 3), forms=["field"])
    assert result.best_order == {("GradientDescent()", "field"): 3, (repr(HEAVY), "field"): 1}


def test_the_dictionary_is_json_and_names_every_law():
    result = compare([GD, HEAVY], orders=(1, 2), forms=["field", "phase"])
    stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert [entry["status"] for entry in stored["entries"]] == [entry.status.name for entry in result.entries]
    assert stored["methods"][repr(HEAVY)]["curvature"]["series_limit"] == pytest.approx(0.002633, rel=1e-3)


def test_every_figure_is_drawn():
    result = compare([GD, HEAVY], orders=(1, 2), forms=["field", "phase"])
    assert len(result.plot()) == sum(entry.errors is not None for entry in result.entries)
    assert len(result.plot(method=GD)) == 4
    assert len(result.plot_losses(method=repr(GD))) == 5
    assert len(result.plot_curvature()) == 6
    assert len(result.plot_plane(method=HEAVY)) == 5  # contours, gradient flow, two phase-space flows, dots
    with pytest.raises(mq.InvalidMethod, match="method is 'Adam': give one of"):
        result.plot(method="Adam")
    with pytest.raises(mq.InvalidProblem, match="has 1 parameters: a plane has two"):
        compare(GD, LINE, [1.0], orders=(1,), forms=["field"]).plot_plane()
    plt.close("all")


# --- checkpoints -----------------------------------------------------------------------------------------------------


def content(result):
    return result.to_dict(), [None if e.trajectory is None else e.trajectory.y.tolist() for e in result.entries]


def test_a_checkpoint_is_taken_up_and_may_grow(tmp_path, monkeypatch):
    options = {"methods": [GD, HEAVY], "checkpoint": tmp_path, "forms": ["field", "phase"]}
    first = compare(orders=(1, 2), **options)
    from modeq.numeric import comparing

    monkeypatch.setattr(comparing, "iterate", None)
    monkeypatch.setattr(comparing, "flow", None)
    assert content(compare(orders=(1, 2), **options)) == content(first)
    monkeypatch.undo()
    grown = compare(orders=(1, 2, 3), **options)
    kept = {(e.method, e.form, e.order): e.to_dict() for e in first.entries}
    assert [e.to_dict() for e in grown.entries if e.order < 3] == list(kept.values())
    assert content(grown) == content(compare(orders=(1, 2, 3), **{**options, "checkpoint": None}))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"h": 0.04}, "holds another run: h is 0.05 there, 0.04 here"),
        ({"start": (1.0, 0.4)}, "holds another run: start is"),
        ({"rtol": 1e-6}, "holds another run: rtol is"),
        ({"problem": mq.SymbolicProblem(X**2 + Y**2, [X, Y])}, "holds another run: problem is"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, changed, message):
    options = {"orders": (1,), "forms": ["field"], "checkpoint": tmp_path}
    compare(**options)
    with pytest.raises(mq.InvalidProblem, match=message):
        compare(**options, **changed)


def test_problems_that_print_alike_are_told_apart_by_their_gradients(tmp_path):
    import torch

    def problem(shift):
        torch.manual_seed(0)
        data = torch.linspace(0, 1, 8, dtype=torch.float64)[:, None]
        return mq.TorchProblem(torch.nn.Linear(1, 1).double(), torch.nn.functional.mse_loss, data, data + shift)

    options = {"h": 0.1, "steps": 3, "orders": (1,), "forms": ["field"], "checkpoint": tmp_path, "progress": False}
    mq.compare(GD, problem(0.0), **options)
    with pytest.raises(mq.InvalidProblem, match="the gradient of .* at the start is another there"):
        mq.compare(GD, problem(1.0), **options)


@pytest.mark.slow
def test_a_command_that_is_killed_within_a_flow_goes_on_there(tmp_path):
    """With SIGKILL, before the flow of the last law is finished."""
    options = ["--problem", "digits-tanh", "--methods", "heavy-ball", "--momentum", "0.5", "--lr", "0.02"]
    options += ["--steps", "40", "--forms", "field", "phase", "--orders", "1", "2", "--rtol", "1e-10"]

    def arguments(name):
        return ["compare", *options, "--out", str(tmp_path / name), "--checkpoint", str(tmp_path / name / "kept")]

    def segments(name, folder):
        return len(list((tmp_path / name / "kept").glob(f"entry-phase-2-*/{folder}segment-*.npz")))

    def result(name):
        stored = json.loads((tmp_path / name / "comparison.json").read_text())
        return {key: value for key, value in stored.items() if key != "settings"}

    killed = subprocess.Popen([sys.executable, "-m", "modeq", *arguments("killed")])
    deadline = time.monotonic() + 60
    while segments("killed", "flow/") < 3 and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert segments("killed", "flow/") >= 3
    assert segments("killed", "") == 0
    assert main(arguments("unbroken")) == main(arguments("killed")) == 0
    assert result("killed") == result("unbroken")
    assert segments("killed", "") == 1
    assert segments("killed", "flow/") == segments("unbroken", "flow/")


# --- what is refused -------------------------------------------------------------------------------------------------

NOT_POSITIVE = st.sampled_from([0, -1, -0.5, float("nan"), float("inf"), "0.1", None, True, [0.1]])
NOT_COUNTS = st.sampled_from([0, -3, 2.5, float("nan"), "5", None, True])
NOT_ORDERS = st.sampled_from([2, [0], [-1], [1.5], [1, None], "12", [True], {"magic": [1]}, {"field": 2}])
NOT_FORMS = st.sampled_from([["magic"], "field", [1], None, 3, [["field"]]])
NOT_METHODS = st.sampled_from([[], None, "gd", [GD, GD], mq.HeavyBall, [GD, 3], mq.HeavyBall(sp.Symbol("beta"))])


@given(
    st.one_of(
        NOT_POSITIVE.map(lambda value: {"h": value}),
        NOT_POSITIVE.map(lambda value: {"rtol": value}),
        NOT_POSITIVE.map(lambda value: {"atol": value}),
        NOT_COUNTS.map(lambda value: {"steps": value}),
        NOT_COUNTS.map(lambda value: {"every": value}),
        NOT_COUNTS.map(lambda value: {"max_evaluations": value}),
        NOT_COUNTS.filter(lambda value: value is not None).map(lambda value: {"substeps": value}),
        NOT_COUNTS.filter(lambda value: value != 0 or value is True).map(lambda value: {"curvature_points": value}),
        NOT_ORDERS.map(lambda value: {"orders": value}),
        NOT_FORMS.map(lambda value: {"forms": value}),
        NOT_METHODS.map(lambda value: {"methods": value}),
        st.sampled_from(["magic", None, 3]).map(lambda value: {"field": value}),
        st.sampled_from([3, [[0, 1]], "batch"]).map(lambda value: {"batches": value}),
        st.sampled_from([[1.0], "x", [float("nan"), 1.0]]).map(lambda value: {"start": value}),
        st.sampled_from([3, object()]).map(lambda value: {"checkpoint": value}),
    )
)
def test_bad_arguments_end_in_typed_errors_that_show_them(changed):
    with pytest.raises(mq.ModeqError, match=".+: .+|has .+"):
        compare(**changed)
