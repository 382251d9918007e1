"""The benchmark of fields does not rot: a dry run from end to end."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_dry_run(tmp_path):
    command = [
        sys.executable,
        "-m",
        "validation.benchmarks.fields",
        "--quick",
        "--device",
        "cpu",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "fields.json").read_text(encoding="utf-8"))
    assert [row["order"] for row in content["fields"]] == [*range(1, 7), *range(1, 7), 2]
    assert content["comparison"]["status"] == "DONE"
    assert 0 < content["comparison"]["share"] < 1
    assert len(done.stdout.splitlines()) == 15
