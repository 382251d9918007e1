"""The benchmark of counting does not rot: a dry run from end to end."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def counting(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from validation.benchmarks import counting

    return counting


def test_a_dry_run(counting, tmp_path, capsys):
    assert counting.main(["--quick", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "counting.json").read_text(encoding="utf-8"))
    assert content["missed"] == []
    assert len(content["rows"]) == 8
    assert "| linear 3–3–3 | 18 | 6 |" in capsys.readouterr().out


def test_a_wrong_number_is_told(counting, monkeypatch):
    monkeypatch.setattr(counting, "known", lambda widths, kind: 99)
    assert counting.main(["--quick"]) == 1
