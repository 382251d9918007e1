"""The benchmark of the symmetry finder does not rot: a dry run from end to end, and what it reports as missed."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def symmetries(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from validation.benchmarks import symmetries

    return symmetries


@pytest.mark.slow
def test_a_dry_run(symmetries, tmp_path, capsys):
    assert symmetries.main(["--quick", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "symmetries.json").read_text(encoding="utf-8"))
    assert content["missed"] == []
    assert {"date", "processor", "Python", "torch", "modeq", "threads"} <= set(content["environment"])
    assert [row["network"] for row in content["finding"]] == [network.name for network in symmetries.FOUND]
    for row in content["finding"]:
        assert row["charges"] > 10
        assert row["generators"] > row["charges"]
        assert len(row["repeats, s"]) == len(row["repeats, processor s"]) == 1
    for row in content["verifying"]:
        counts, charges = row["counts"], row["charges"]
        assert set(counts) == {"loss", "gradient", "hessian_product"}
        assert min(counts.values()) > 0
        assert counts["loss"] + counts["gradient"] <= 6 * charges
        assert counts["hessian_product"] <= 4 * charges
        assert row["exact charges passed"] == row["exact charges"] > 0
        assert set(row["repeats"][0]) == {"per charge, s", "gradient, s", "product, s"}
    table = (tmp_path / "symmetries.md").read_text(encoding="utf-8")
    assert table.startswith("| find_charges | parameters |")
    assert all(f"| {network.name} |" in table for network in [*symmetries.FOUND, *symmetries.VERIFIED])
    assert capsys.readouterr().out.startswith(table)


def test_a_network_in_a_fresh_process(symmetries, capsys):
    assert symmetries.main(["--quick", "--find", "vision transformer"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["network"], row["parameters"]) == ("vision transformer", 1690)


def test_what_is_missed(symmetries):
    finding = {"network": "a", "asked, s": 5.0, "median, s": 6.0}
    verifying = {
        "network": "b",
        "losses and gradients per charge": 6.1,
        "products per charge": 4,
        "exact charges": 2,
        "exact charges passed": 1,
        "of what is asked": 1.2,
    }
    results = {"finding": [finding], "verifying": [verifying]}
    assert symmetries.missed(results, timed=True) == [
        "verifying b: 6.10 gradients, 4.00 products",
        "verifying b: 1 of 2 passed",
        "verifying b: 1.20 of the time asked",
        "finding those of a: 6.00 s",
    ]
    assert len(symmetries.missed(results, timed=False)) == 2
