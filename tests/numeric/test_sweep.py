"""Sweeps: the same results in any executor, failures recorded, and nothing lost when a run is killed."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

from modeq.errors import InvalidSetting
from modeq.numeric.sweeps import Sweep, SweepFailed, sweep

CASES = [{"h": h, "beta": beta} for h in (0.1, 0.05) for beta in (0.0, 0.5, 1.0)]


def speed(h, beta):
    return h / (1 - beta)


def late_first(wait):
    time.sleep(wait)
    return wait


def dies(case):
    if case == "die":
        os._exit(3)
    return case


class LaterPool:
    """Submits like dask: its futures are of a kind of their own."""

    class Future:
        def __init__(self, function, arguments):
            self.call = (function, arguments)

        def result(self):
            function, arguments = self.call
            return function(*arguments)

    def submit(self, function, *arguments):
        return self.Future(function, arguments)


def check(found):
    assert [found.results[k] for k in (0, 1, 3, 4)] == [0.1, 0.2, 0.05, 0.1]
    assert found.results[2] is found.results[5] is None
    assert sorted(found.failures) == [2, 5]
    failed = found.failures[2]
    assert (failed.kind, failed.message) == ("ZeroDivisionError", "float division by zero")
    assert "in speed" in failed.traceback
    assert repr(found) == "Sweep(6 cases, 2 failed)"


def test_one_after_the_other():
    check(sweep(speed, CASES, progress=False))


def test_in_threads():
    with ThreadPoolExecutor(2) as pool:
        check(sweep(speed, CASES, executor=pool, progress=False))


def test_in_processes():
    with ProcessPoolExecutor(2) as pool:
        check(sweep(speed, CASES, executor=pool, progress=False))


def test_in_an_executor_of_another_kind():
    check(sweep(speed, CASES, executor=LaterPool(), progress=False))


def test_results_are_in_the_order_of_the_cases():
    with ThreadPoolExecutor(3) as pool:
        assert sweep(late_first, [0.2, 0.1, 0.0], executor=pool, progress=False).results == [0.2, 0.1, 0.0]


def test_failures_are_raised_when_asked_for():
    found = sweep(speed, CASES, progress=False)
    with pytest.raises(
        SweepFailed, match=r"2 of 6 members failed, the first at h=0.1, beta=1.0: ZeroDivisionError"
    ) as e:
        found.raise_failures()
    assert "in speed" in str(e.value)
    assert found.table().splitlines()[1:3] == ["h=0.1, beta=0.5   0.2", "h=0.1, beta=1.0   failed: ZeroDivisionError: float division by zero"]  # fmt: skip  # noqa: E501


def test_an_exit_of_one_member_ends_no_sweep():
    found = sweep(sys.exit, [3], progress=False)
    assert found.failures[0].kind == "SystemExit"


def test_a_worker_that_dies_fails_what_it_had():
    with ProcessPoolExecutor(1) as pool:
        found = sweep(dies, ["a", "die", "b"], executor=pool, progress=False)
    assert found.failures[1].kind == "BrokenProcessPool"
    assert isinstance(found, Sweep)


def test_what_cannot_be_sent_to_a_process_is_refused_by_name():
    with ProcessPoolExecutor(1) as pool:
        with pytest.raises(InvalidSetting, match="lambda.* cannot be sent to another process .*top of a module"):
            sweep(lambda case: case, [1], executor=pool, progress=False)
        with pytest.raises(InvalidSetting, match="its case .*lock.* cannot be sent to another process"):
            sweep(late_first, [threading.Lock()], executor=pool, progress=False)


def test_a_result_that_cannot_come_back_is_a_failure():
    with ProcessPoolExecutor(1) as pool:
        found = sweep(_lock, [1], executor=pool, progress=False)
    assert "pickle" in found.failures[0].message


def _lock(case):
    return threading.Lock()


def test_an_interruption_keeps_what_is_finished():
    def interrupted(case):
        if case == 2:
            raise KeyboardInterrupt
        return case

    found = sweep(interrupted, [0, 1, 2, 3], progress=False)
    assert found.results == [0, 1, None, None]
    assert found.interrupted
    assert not found.failures
    assert "interrupted" in repr(found)


def test_a_checkpoint_keeps_results_and_tries_failures_again(tmp_path):
    calls = []

    def once(case):
        calls.append(case)
        if case == "b" and calls.count("b") == 1:
            raise ValueError("not yet")
        return case * 2

    first = sweep(once, ["a", "b", "c"], checkpoint=tmp_path, progress=False)
    assert first.failures[1].message == "not yet"
    assert len(list(tmp_path.glob("case-*.pickle"))) == 3  # the failure is there for the record
    second = sweep(once, ["a", "b", "c", "d"], checkpoint=tmp_path, progress=False)
    assert second.results == ["aa", "bb", "cc", "dd"]
    assert calls == ["a", "b", "c", "b", "d"]


def test_a_checkpoint_belongs_to_a_function_and_a_case(tmp_path):
    assert sweep(abs, [-1, np.array([1.0])], checkpoint=tmp_path, progress=False).results[0] == 1
    assert sweep(abs, [-2, np.array([2.0])], checkpoint=tmp_path, progress=False).results[1].tolist() == [2.0]
    assert sweep(hash, [-1], checkpoint=tmp_path, progress=False).results == [hash(-1)]


@pytest.mark.parametrize("damage", [b"", b"nonsense", pickle.dumps(3)])
def test_a_damaged_file_is_computed_again(tmp_path, damage):
    sweep(abs, [-1], checkpoint=tmp_path, progress=False)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage)
    assert sweep(abs, [-1], checkpoint=tmp_path, progress=False).results == [1]


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((3, [1]), {}, "function is 3: give a function"),
        ((abs, 3), {}, "cases is 3: give a sequence"),
        ((abs, "abc"), {}, "cases is 'abc': give a sequence"),
        ((abs, {"h": 1}), {}, "cases is .*: give a sequence"),
        ((abs, [{1: 2}]), {}, r"cases\[0\] is {1: 2}: its keys are keyword arguments"),
        ((abs, [1]), {"executor": 4}, "executor is 4: give one with submit"),
        ((abs, [1]), {"checkpoint": 4.5}, "checkpoint is 4.5: it cannot be used as a folder"),
        ((abs, [1]), {"checkpoint": "/dev/null/x"}, "checkpoint is '/dev/null/x': it cannot be used"),
    ],
)
def test_bad_arguments_are_refused(arguments, options, message):
    with pytest.raises(InvalidSetting, match=message):
        sweep(*arguments, progress=False, **options)


def test_an_executor_that_is_shut_down_is_refused():
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(InvalidSetting, match="takes no work"):
        sweep(abs, [1], executor=pool, progress=False)


def test_a_result_that_cannot_be_kept_is_refused(tmp_path):
    with pytest.raises(InvalidSetting, match="result lock of .*_lock cannot be pickled"):
        sweep(_lock, [1], checkpoint=tmp_path, progress=False)


MODULE = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from modeq.numeric.sweeps import sweep
def member(seed, pause):
    import numpy as np
    time.sleep(pause)
    if seed == 1:
        raise ValueError("no seed 1")
    print("finished", flush=True)
    return np.random.default_rng(seed).standard_normal(3).tolist()
if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        found = sweep(member, [{"seed": k, "pause": 0.15} for k in range(8)], executor=pool,
                      checkpoint=sys.argv[1] or None, progress=False)
    print(repr((found.results, found.failures[1].message)))
"""


def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    script, kept = tmp_path / "members.py", tmp_path / "kept"
    script.write_text(MODULE)

    def start(folder):
        return subprocess.Popen([sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, text=True,
                                start_new_session=True)  # fmt: skip

    killed = start(kept)
    deadline = time.monotonic() + 30
    while len(list(kept.glob("case-*.pickle"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)  # with its own workers
    killed.communicate()
    before = len(list(kept.glob("case-*.pickle")))
    assert 3 <= before < 8
    resumed, unbroken = start(kept), start("")
    printed, expected = (run.communicate(timeout=60)[0] for run in (resumed, unbroken))
    assert printed.splitlines()[-1] == expected.splitlines()[-1]
    # Workers may print on one line.
    assert printed.count("finished") < expected.count("finished") == 7
