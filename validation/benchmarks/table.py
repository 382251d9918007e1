"""Results as a Markdown table, with where and when they were measured."""

import json
import platform
import statistics
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from validation.benchmarks.cases import CASES
from validation.benchmarks.running import Measurement


def environment(results: Sequence[Measurement]) -> dict[str, str]:
    """Return the date, the machine, the versions, and how much of the elapsed time the processor worked for them."""
    elapsed = sum(sum(r.seconds) for r in results)
    share = sum(sum(r.processor) for r in results) / elapsed if elapsed else 0
    found = {
        "date": date.today().isoformat(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "numpy": version("numpy"),
        "sympy": version("sympy"),
    }
    versions = {r.package: r.version for r in results if r.version}
    return found | versions | {"processor time / elapsed time": f"{share:.2f}"}


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def report(results: dict[str, Any], table: str, out: Path | None, name: str) -> int:
    """Print a table and what is not as asked; write both and all results to a folder; 1 if something is missed."""
    print(table)
    for line in results["missed"]:
        print(f"not as asked: {line}")
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (out / f"{name}.md").write_text(table, encoding="utf-8")
    return 1 if results["missed"] else 0


def markdown(results: Sequence[Measurement]) -> str:
    """Return one row per case and order: median seconds of each package; processor time, memory and limits of modeq."""
    packages = list(dict.fromkeys(r.package for r in results))
    header = [
        "case",
        "order",
        "trees",
        *(f"{package}, s" for package in packages),
        "modeq, processor s",
        "modeq, MB",
        "asked of modeq",
    ]
    rows = [header, ["---", *("---:" for _ in header[1:])]]
    by_row: dict[tuple[str, int], dict[str, Measurement]] = {}
    for result in results:
        by_row.setdefault((result.case, result.order), {})[result.package] = result
    for (case, order), row in by_row.items():
        mine = row["modeq"]
        trees = f"{mine.terms:,}" if mine.terms and case != "Lotka-Volterra" else ""
        cells = [_seconds(row[package]) for package in packages]
        processor = _rounded(statistics.median(mine.processor)) if mine.processor else ""
        rows.append([case, str(order), trees, *cells, processor, str(mine.megabytes or ""), _asked(case, order)])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    where = ", ".join(f"{name} {value}" for name, value in environment(results).items())
    return f"{table}\n\n{where[0].upper()}{where[1:]}.\n"


def _seconds(result: Measurement) -> str:
    if result.status != "measured":
        return "—" if result.status == "not offered" else result.status
    return _rounded(result.median)


def _rounded(seconds: float) -> str:
    return f"{seconds:.3f}" if seconds < 10 else f"{seconds:.0f}"


def _asked(name: str, order: int) -> str:
    case = next(c for c in CASES if c.name == name)
    seconds, megabytes = case.seconds.get(order), case.megabytes.get(order)
    parts = [f"{seconds:g} s"] if seconds else []
    return ", ".join([*parts, *([f"{megabytes:,} MB"] if megabytes else [])])
