"""The table of errors of the phase-space form runs, and has the figures it should."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from validation import phase_space

    return phase_space


@pytest.mark.slow
def test_a_quick_run_writes_its_table(script, tmp_path, capsys):
    rows = script.main(["--quick", "--out", str(tmp_path)])
    assert (tmp_path / "phase_space.md").read_text(encoding="utf-8") == capsys.readouterr().out
    written = json.loads((tmp_path / "phase_space.json").read_text(encoding="utf-8"))
    assert [entry["errors"] for entry in written] == [entry.errors for entry in rows]
    article = rows[-2]
    assert (article.problem, article.momentum, article.h) == ("quadratic", 0.9, 0.01)
    assert article.errors["B"] == pytest.approx(1.64e-3, abs=5e-6)
    assert article.errors["J = 1"] == pytest.approx(2.8e-6, rel=0.02)
    for entry in rows:
        if entry.buffers == "zero":
            assert entry.errors["J = 1"] <= 1.02 * entry.errors["K = 2"] < entry.errors["B"] / 20
