"""The scripts of the documentation run, and say what their pages promise."""

import re
import runpy
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def output(name, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


def test_corrections_are_derived_and_checked(monkeypatch, capsys):
    printed = output("derive_corrections.py", monkeypatch, capsys)
    assert "1/(1 - beta)·L + h*(2*beta**2*nu - 2*beta*nu + beta + 1)/(4*(1 - beta)**3)·|g|^2" in printed
    assert re.findall(r"order (\d): slopes", printed) == ["1", "2", "3"]


def test_integrators_are_compared_and_what_was_done_is_kept(monkeypatch, capsys, tmp_path):
    first = output("compare_integrators.py", monkeypatch, capsys, str(tmp_path / "kept"))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    assert len(kept) == 10
    assert output("compare_integrators.py", monkeypatch, capsys, str(tmp_path / "kept")) == first
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    hamiltonian = [line for line in first.splitlines() if line.endswith("True")]
    assert [line.split("  ")[0] for line in hamiltonian] == ["implicit midpoint"]
