"""Integration in segments: the same steps as in one, and the same bytes after any interruption."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import modeq as mq
from modeq.numeric.checkpoints import Checkpoint, fingerprint
from modeq.numeric.integration import System, integrate
from modeq.numeric.trajectory import Status

TIMES = np.linspace(0, 10, 101)


def van_der_pol(u):
    return np.array([u[1], 2 * (1 - u[0] ** 2) * u[1] - u[0]])


def run(times=TIMES, checkpoint=None, rtol=1e-10, limit=10**5, field=van_der_pol):
    return integrate(System(field, np.array([2.0, 0.0]), "oscillator"), times, 1, rtol, 1e-12, limit, checkpoint)


@pytest.mark.parametrize("points", [3, 11, 101, 1001])
def test_segments_make_the_steps_of_one_integration(points):
    times = np.linspace(0, 10, points)
    whole = solve_ivp(
        lambda t, u: van_der_pol(u), (0, 10), [2.0, 0.0], method="DOP853", t_eval=times, rtol=1e-10, atol=1e-12
    )
    found = run(times)
    np.testing.assert_array_equal(found.y[:, 0], whole.y[0])
    assert found.nfev <= whole.nfev


def test_one_interval_is_one_step():
    """12 stages and the slope at the start, nothing else."""
    found = run(np.array([0.0, 0.01]), rtol=1e-8)
    assert found.nfev == 13
    np.testing.assert_allclose(found.y[-1], run(np.array([0.0, 0.005, 0.01])).y[-1], rtol=1e-12)


def test_a_run_goes_on_from_any_segment(tmp_path):
    whole = run(checkpoint=Checkpoint(tmp_path / "whole", {"form": "vdp"}))
    np.testing.assert_array_equal(whole.y, run().y)
    files = sorted((tmp_path / "whole").glob("*.npz"))
    assert len(files) == 17  # 101 points in segments of 6
    for kept in (0, 1, 9, 17):
        (folder := tmp_path / str(kept)).mkdir()
        for file in files[:kept]:
            (folder / file.name).write_bytes(file.read_bytes())
        evaluations = [0]

        def counted(u, evaluations=evaluations):
            evaluations[0] += 1
            return van_der_pol(u)

        again = run(checkpoint=Checkpoint(folder, {"form": "vdp"}), field=counted)
        np.testing.assert_array_equal(again.y, whole.y)
        assert again.nfev == whole.nfev
        assert evaluations[0] <= whole.nfev * (1 - kept / 20) + 1
        assert all((folder / file.name).read_bytes() == file.read_bytes() for file in files)


def test_a_larger_budget_goes_on(tmp_path):
    checkpoint = Checkpoint(tmp_path, {})
    first = run(checkpoint=checkpoint, limit=1000)
    assert first.status == Status.TOO_STIFF
    assert first.nfev == 1000
    assert len(first.t) == len(first.y) > 10
    with pytest.raises(mq.Diverged, match="oscillator: given up after 1000 evaluations, the equation is too stiff"):
        first.checked()
    again = run(checkpoint=checkpoint, limit=900)  # less than what is stored already
    assert again.status == Status.TOO_STIFF
    full = run(checkpoint=checkpoint)
    assert full.success
    np.testing.assert_array_equal(full.y, run().y)
    np.testing.assert_array_equal(first.y, full.y[: len(first.y)])


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "gone"])
def test_a_damaged_segment_is_computed_again(tmp_path, damage):
    checkpoint = Checkpoint(tmp_path, {})
    whole = run(checkpoint=checkpoint)
    file = tmp_path / "segment-00005.npz"
    content = file.read_bytes()
    half = len(content) // 2
    flipped = content[:half] + bytes([content[half] ^ 255]) + content[half + 1 :]
    damaged = {"cut": content[:half], "flip": flipped, "empty": b"", "text": b"no segment"}
    file.unlink() if damage == "gone" else file.write_bytes(damaged[damage])
    own = checkpoint.including(fingerprint(system="oscillator", u0=np.array([2.0, 0.0]), times=TIMES))
    own = own.including(fingerprint(size=1, rtol=1e-10, atol=1e-12))
    assert len(own.segments()) == 5
    again = run(checkpoint=checkpoint)
    np.testing.assert_array_equal(again.y, whole.y)
    assert file.read_bytes() == content


def test_every_flipped_byte_is_noticed(tmp_path):
    checkpoint = Checkpoint(tmp_path, {"h": "0.1"})
    checkpoint.append(0, y=np.linspace(0, 1, 7), nfev=3)
    file = tmp_path / "segment-00000.npz"
    content = file.read_bytes()
    for k in range(0, len(content), 3):
        file.write_bytes(content[:k] + bytes([content[k] ^ 16]) + content[k + 1 :])
        found = checkpoint.segments()
        assert not found or (found[0]["y"] == np.linspace(0, 1, 7)).all()


def test_a_damaged_key_is_written_again(tmp_path):
    checkpoint = Checkpoint(tmp_path, {"h": "0.1"})
    checkpoint.append(0, y=np.ones(1))
    (tmp_path / "key.json").write_text("{")
    assert len(checkpoint.segments()) == 1
    (tmp_path / "key.json").write_text("{")
    assert Checkpoint(tmp_path, {"h": "0.2"}).segments() == []  # the segment names another key
    (tmp_path / "segment-00000.npz.partial").write_bytes(b"")
    assert Checkpoint(tmp_path, {"h": "0.2"}).segments() == []


def test_another_run_is_refused(tmp_path):
    Checkpoint(tmp_path, {"h": "0.1", "form": "A"}).segments()
    with pytest.raises(mq.InvalidProblem, match=r"holds another run: h is 0\.1 there, 0\.2 here; give a folder of its"):
        Checkpoint(tmp_path, {"h": "0.2", "form": "A"}).append(0, y=np.ones(1))
    with pytest.raises(mq.InvalidProblem, match="form is A there, absent here"):
        Checkpoint(tmp_path, {"h": "0.1"}).segments()
    run(checkpoint=Checkpoint(tmp_path / "own", {}))
    with pytest.raises(mq.InvalidProblem, match="rtol is 1e-10 there, 1e-09 here"):
        run(checkpoint=Checkpoint(tmp_path / "own", {}), rtol=1e-9)


def test_bad_checkpoints(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(mq.InvalidProblem, match="file: it cannot be used as a folder"):
        Checkpoint(tmp_path / "file", {}).segments()
    with pytest.raises(mq.InvalidProblem, match="checkpoint is 3: give the path of a folder"):
        Checkpoint(3, {})
    with pytest.raises(mq.InvalidProblem, match=r"key of a checkpoint is \{'h': 0.1\}: give a mapping of strings"):
        Checkpoint(tmp_path, {"h": 0.1})
    with pytest.raises(mq.InvalidProblem, match=r"segment 0 has the arrays \['y'\]: give numbers"):
        Checkpoint(tmp_path, {}).append(0, y=[object()])
    with pytest.raises(mq.InvalidProblem, match=r"give a Checkpoint\(path, key\)"):
        run(checkpoint=str(tmp_path))
    (tmp_path / "segment-00000.partial").mkdir()
    with pytest.raises(mq.InvalidProblem, match="segment-00000.npz cannot be written"):
        Checkpoint(tmp_path, {}).append(0, y=np.ones(1))


KILLED = """
import sys, time
import numpy as np
from modeq.numeric.checkpoints import Checkpoint
from modeq.numeric.integration import System, integrate

def field(u):
    time.sleep(0.0005)
    return np.array([u[1], 2 * (1 - u[0] ** 2) * u[1] - u[0]])

found = integrate(
    System(field, np.array([2.0, 0.0]), "oscillator"), np.linspace(0, 10, 101), 1, 1e-10, 1e-12, 10**5,
    Checkpoint(sys.argv[1], {"form": "vdp"}),
)
assert found.success
"""


def test_a_killed_process_loses_at_most_a_segment(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(mq.__file__).parents[1])
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("*.npz"))) < 4 and time.monotonic() < end and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    stored = len(list(tmp_path.glob("*.npz")))
    assert 4 <= stored < 17
    resumed = run(checkpoint=Checkpoint(tmp_path, {"form": "vdp"}))
    np.testing.assert_array_equal(resumed.y, run().y)
    assert len(list(tmp_path.glob("*.npz"))) == 17
    assert not list(tmp_path.glob("*.partial"))


def test_a_right_hand_side_that_is_not_finite():
    system = System(lambda u: np.log(u - 1), np.array([3.0, 1.0, 0.5, 4.0]), "logarithm", label=lambda i: f"w[{i}]")
    found = integrate(system, TIMES, 2, 1e-8, 1e-10, 1000)
    assert found.status == Status.NON_FINITE_GRADIENT
    assert len(found.y) == 1
    assert found.message.startswith("the right-hand side is not finite at the start, first in w[1]: look for a")
    lower = System(lambda u: np.array([1.0, np.nan]), np.ones(2), "slope")
    with pytest.raises(mq.Diverged, match="first in row 1 of entry 0"):
        integrate(lower, TIMES, 1, 1e-8, 1e-10, 1000).checked()


def test_flows_that_end_early():
    system = System(lambda u: u**2, np.ones(1), "pole")
    found = integrate(system, np.linspace(0, 2, 20), 1, 1e-8, 1e-10, 10_000)
    assert found.status == Status.DIVERGED
    np.testing.assert_allclose(found.y[:, 0], 1 / (1 - found.t), rtol=1e-5)
    assert len(found.t) == 10
    with pytest.raises(mq.Diverged, match=r"left the finite numbers, or cannot be continued, at t = 1 \("):
        found.checked()
    nowhere = System(lambda u: u, np.array([np.inf]), "nowhere")
    assert "the start of the flow is not finite, first entry 0" in integrate(nowhere, TIMES, 1, 1e-8, 1e-10, 9).message
    assert "the time is too short" in integrate(system, np.zeros(1), 1, 1e-8, 1e-10, 9).message
