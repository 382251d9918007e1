"""The table of observed orders does not rot: a dry run from end to end, its resumption, and what it shows as wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import modeq as mq

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a dry run."""
    folder = tmp_path_factory.mktemp("orders")
    done = subprocess.run(
        [sys.executable, "-m", "validation.observed_orders", "--quick", "--jobs", "1", "--out", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "**16 of 16 measurements have the expected slopes.**" in done.stdout
    return folder


@pytest.fixture
def orders(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from validation import observed_orders

    return observed_orders


def test_a_dry_run_measures_the_expected_orders(folder):
    results = json.loads((folder / "observed_orders.json").read_text(encoding="utf-8"))
    assert len(results) == 2 * 2 * 2 * 2  # losses, methods, with and without decay, orders
    for result in results:
        assert result["expected"] == result["order"]
        assert all(abs(slope - result["order"]) <= 0.15 for slope in result["slopes"][-2:])
    page = (folder / "observed_orders.md").read_text(encoding="utf-8")
    assert "## himmelblau" in page
    assert "| gradient descent | none | " in page


def test_what_is_there_is_not_computed_again(folder, orders, capsys, monkeypatch):
    def unavailable(*arguments):
        raise AssertionError("nothing is missing")

    monkeypatch.setattr(orders, "measured", unavailable)
    before = json.loads((folder / "observed_orders.json").read_text(encoding="utf-8"))
    assert orders.main(["--quick", "--out", str(folder)]) == before
    assert "16 of 16" in capsys.readouterr().out


def test_there_are_as_many_cases_as_the_table_has_cells(orders):
    assert len(set(orders.cases(None, False))) == 8 * 5 * 3 * 4  # problems, methods, decays, orders
    assert {case.problem for case in orders.cases("dense", False)} == {"dense, tanh"}
    assert all(orders.PROBLEMS[name]().size <= 2000 for name in orders.NETWORKS)


def test_a_refusal_is_noted_with_its_message(orders, monkeypatch):
    def refuse(*arguments, **options):
        raise mq.InvalidProblem("nothing to see")

    monkeypatch.setattr(mq, "observed_order", refuse)
    result = orders.measured(orders.Case("beale", "gradient descent", "none", 2))
    assert (result["error"], result["within"]) == ("InvalidProblem: nothing to see", False)
    page = orders.markdown([result])
    assert "**0 of 1 measurements" in page
    assert "| gradient descent | none |  | **InvalidProblem** |" in page
    assert "- beale, gradient descent: InvalidProblem: nothing to see" in page


def measurement(**changes):
    common = {"problem": "beale", "method": "extragradient", "decay": "none", "order": 2, "expected": 2}
    return {**common, "within": True, "slopes": [1.7, 1.98, 2.01], **changes}


@pytest.mark.parametrize(
    "changes, cell",
    [
        ({}, "| 1.98, 2.01 |"),
        ({"within": False, "slopes": [1.1, 1.2]}, "| **1.10, 1.20** |"),
        ({"expected": 3, "slopes": [3.0, 3.01]}, "| 3.00, 3.01 (expected 3) |"),
        ({"within": False, "slopes": [None, None]}, "| **noise** |"),
    ],
)
def test_cells_show_the_slopes(changes, cell, orders):
    assert cell in orders.markdown([measurement(**changes)])


def test_a_network_with_kinks_has_ratios_instead(orders):
    forms = [f"{form} {order}" for form, order in orders.KINKED_FORMS]
    results = [
        {
            "problem": orders.KINKED,
            "fraction": 0.1,
            "seed": seed,
            "errors": dict.fromkeys(forms, 1e-3) | {"time 2": 1e-4 / (1 + seed)},
        }
        for seed in range(3)
    ]
    page = orders.markdown(results)
    assert "| 0.1 | 1.0e-03 | 1 (1–1) | 1 (1–1) | 20 (10–30) | 1 (1–1) | 1 (1–1) |" in page
    assert "0 of 0" not in page


@pytest.mark.slow
def test_velocity_carries_the_forms_with_kinks(orders, monkeypatch):
    monkeypatch.setattr(orders, "KINKED_FORMS", (("field", 1), ("field", 2), ("time", 2), ("phase", 1)))
    errors = orders.kinked(0.4, 3)["errors"]
    assert max(errors["time 2"], errors["phase 1"]) < min(errors["field 1"], errors["field 2"]) / 2
