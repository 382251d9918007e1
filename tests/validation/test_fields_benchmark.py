"""The benchmark of fields does not rot: a dry run from end to end."""

import json
from pathlib import Path


def test_a_dry_run(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from validation.benchmarks import fields

    fields.main(["--quick", "--device", "cpu", "--out", str(tmp_path)])
    content = json.loads((tmp_path / "fields.json").read_text(encoding="utf-8"))
    assert [row["order"] for row in content["fields"]] == [*range(1, 7), *range(1, 7), 2]
    assert content["comparison"]["status"] == "DONE"
    assert 0 < content["comparison"]["share"] < 1
    assert len(capsys.readouterr().out.splitlines()) == 15
