"""The benchmarks do not rot: a dry run from end to end, and what they refuse."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def running(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from validation.benchmarks import running

    return running


@pytest.fixture
def command(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from validation.benchmarks import __main__

    return __main__


@pytest.mark.slow
def test_a_dry_run_of_every_case(tmp_path):
    command = [sys.executable, "-m", "validation.benchmarks", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    mine = {r["case"]: r for r in content["results"] if r["package"] == "modeq"}
    assert all(r["status"] == "measured" for r in mine.values())
    assert (mine["explicit Euler"]["order"], mine["explicit Euler"]["terms"]) == (5, 17)
    assert mine["two colours"]["terms"] == 286
    # Symbols and numbers, evaluated at one point, agree.
    assert mine["heavy ball, symbol"]["checksum"] == mine["heavy ball, 1/3"]["checksum"]
    # No rival is skipped in silence.
    assert {(r["package"], r["case"]) for r in content["results"]} == {
        (package, case) for package in ("modeq", "kauri", "BSeries", "pybs") for case in mine
    }
    assert {"date", "processor", "Python", "sympy", "modeq"} <= set(content["environment"])
    assert (tmp_path / "table.md").read_text(encoding="utf-8").startswith("| case | order | trees | modeq, s |")
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_the_checksum_of_explicit_euler_is_that_of_the_published_coefficients(running):
    """Σ |τ|(1 + m) b(τ), m the children of the root: 1 − 4/2 + 6/3 + 9/6 = 5/2 up to three vertices."""
    report = running.run_once("modeq", "explicit Euler", 3, sys.executable, 60)
    prime = 2**61 - 1
    assert report["terms"] == 4
    assert int(report["checksum"]) * 2 % prime == 5


def test_packages_that_disagree_are_an_error(running):
    one = running.Measurement("modeq", "explicit Euler", 5, "measured", (0.1,), (0.1,), 70, 60, 17, "1")
    other = running.Measurement("kauri", "explicit Euler", 5, "measured", (0.1,), (0.1,), 70, 60, 17, "2")
    running.compare([one, one, running.Measurement("pybs", "explicit Euler", 5, "not installed")])
    with pytest.raises(
        running.BenchmarkError, match="different values at order 5: modeq, explicit Euler: 17 terms, 1; ka"
    ):
        running.compare([one, other])


def test_time_limits_and_missing_packages_are_reported(running):
    late = running.measure("modeq", "explicit Euler", 5, sys.executable, 1, 0.01)
    assert late.status == "> 0.01 s"
    absent = running.measure("pybs", "explicit Euler", 5, str(ROOT / "no-such-python"), 1, 60)
    assert absent.status == "not installed"
    unsuited = running.run_once("pybs", "explicit Euler", 5, sys.executable, 60)
    assert unsuited["status"] == "not installed"


def test_a_worker_that_fails_is_an_error(running):
    with pytest.raises(running.BenchmarkError, match="(?s)order 0: the worker failed.*InvalidOrder: order is 0"):
        running.run_once("modeq", "explicit Euler", 0, sys.executable, 60)


def test_a_package_stops_at_its_first_order_without_a_figure(running):
    cases = [running.Case("explicit Euler", (3, 4), "explicit Euler", {}, {})]
    results = running.run(cases, ["modeq"], {"modeq": str(ROOT / "no-such-python")}, 1, 60)
    assert [(r.order, r.status) for r in results] == [(3, "not installed"), (4, "not installed")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "leapfrog"], "invalid choice: 'leapfrog'"),
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--limit", "-1"], "--limit positive"),
        (["--interpreter", "kauri"], "--interpreter kauri: give PACKAGE=PYTHON"),
        (["--interpreter", "nothing=python"], "give PACKAGE=PYTHON with one of modeq"),
    ],
)
def test_refused_arguments(arguments, message, command, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
