"""The benchmark of the tracker does not rot: a dry run from end to end, and what it reports as missed."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def tracking(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from validation.benchmarks import tracking

    return tracking


def test_a_dry_run(tracking, tmp_path, capsys):
    assert tracking.main(["--quick", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "tracking.json").read_text(encoding="utf-8"))
    assert content["charges"] == 43
    assert {len(times) for times in content["seconds"].values()} == {1}
    assert min(content["time / step"].values()) > 0
    assert content["memory / parameters"]["integrals"] == 3
    assert min(content["memory / parameters"].values()) > 0
    table = (tmp_path / "tracking.md").read_text(encoding="utf-8")
    assert table.startswith("| every step | time / step | memory / parameters |")
    assert capsys.readouterr().out.startswith(table)


def test_a_dry_run_on_matrices(tracking, tmp_path):
    assert tracking.main(["--quick", "--network", "gpt", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "tracking_gpt.json").read_text(encoding="utf-8"))
    assert content["network"] == "gpt"
    assert content["generators"] > 40  # two heads of 4 × 4 matrices, twice


def test_nothing_is_measured_in_no_rounds(tracking, capsys):
    with pytest.raises(SystemExit):
        tracking.main(["--quick", "--rounds", "0"])
    assert "--rounds is 0, and must be at least 1" in capsys.readouterr().err


def test_what_is_missed(tracking):
    results = {
        "network": "vgg",
        "time / step": {"one law": 0.02, "three laws": 0.025},
        "memory / parameters": {"one law": 0.02, "three laws": 0.001},
    }
    assert tracking.missed(results, True, "cpu") == ["one law: 2.00 % of the parameters' memory"]
    assert tracking.missed(results, True, "cuda")[0] == "one law: 2.00 % of the parameters' memory"
    assert tracking.missed(results, True, "cuda")[1] == "three laws: 2.50 % of the step's time"
    assert tracking.missed(results, False, "cpu") == []
