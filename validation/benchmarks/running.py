"""Run each measurement in a process of its own, and compare what the packages computed."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import modeq
from validation.benchmarks.cases import CASES, PACKAGES, Case

WORKERS = Path(__file__).parent / "workers"


class BenchmarkError(RuntimeError):
    """A worker failed, or two packages disagree about a value."""


@dataclass(frozen=True)
class Measurement:
    """What one package needed for one case at one order.

    `status` is "measured", "not offered", "not installed" or "> T s"; the numbers are there in the first case only.
    `seconds` lists every repeat, after the imports, and `processor` the processor time of each; `megabytes` is
    the largest peak of the process, imports included, and `megabytes_imported` what the imports alone took.
    """

    package: str
    case: str
    order: int
    status: str
    seconds: tuple[float, ...] = ()
    processor: tuple[float, ...] = ()
    megabytes: int | None = None
    megabytes_imported: int | None = None
    terms: int | None = None
    checksum: str | None = None
    version: str | None = None

    @property
    def median(self) -> float:
        """The median of the times."""
        return statistics.median(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self) | ({"median": self.median} if self.seconds else {})


def run_once(package: str, case: str, order: int, interpreter: str, limit: float) -> dict[str, Any]:
    """Run one worker in a fresh process and return its report; modeq is the one imported here."""
    environment = dict(os.environ)
    if package == "modeq":
        environment["PYTHONPATH"] = str(Path(modeq.__file__).parents[1])
    command = [interpreter, str(WORKERS / f"{PACKAGES[package]}.py"), case, str(order)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, env=environment)
    except subprocess.TimeoutExpired:
        return {"status": f"> {limit:g} s"}
    except FileNotFoundError:
        return {"status": "not installed", "reason": f"no interpreter {interpreter}"}
    if done.returncode:
        raise BenchmarkError(f"{package}, {case}, order {order}: the worker failed\n{done.stderr.strip()}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def measure(package: str, case: str, order: int, interpreter: str, repeats: int, limit: float) -> Measurement:
    """Repeat a measurement, each in a fresh process, while all of them together take less than `limit` seconds."""
    reports: list[dict[str, Any]] = []
    start = time.perf_counter()
    while len(reports) < repeats and (not reports or time.perf_counter() - start < limit):
        report = run_once(package, case, order, interpreter, limit)
        if report["status"] != "measured":
            return Measurement(package, case, order, report["status"], version=report.get("version"))
        reports.append(report)
    if len({(report["checksum"], report["terms"]) for report in reports}) > 1:
        raise BenchmarkError(f"{package}, {case}, order {order}: two runs gave different values")
    return Measurement(
        package,
        case,
        order,
        "measured",
        tuple(report["seconds"] for report in reports),
        tuple(report["processor"] for report in reports),
        max(report["megabytes"] for report in reports),
        max(report["megabytes_imported"] for report in reports),
        reports[0]["terms"],
        reports[0]["checksum"],
        reports[0]["version"],
    )


def run(
    cases: Iterable[Case], packages: Iterable[str], interpreters: Mapping[str, str], repeats: int, limit: float
) -> list[Measurement]:
    """Measure every package on every case, side by side; above an order that took too long a package is not run.

    Raises
    ------
    BenchmarkError
        If a worker fails, or checksums that should agree do not.
    """
    results: list[Measurement] = []
    packages = list(packages)
    absent: dict[str, str] = {}
    for case in cases:
        stopped = dict(absent)
        twins = {other.name for other in CASES if other.value == case.value}
        for order in case.orders:
            for package in packages:
                if package in stopped:
                    results.append(Measurement(package, case.name, order, stopped[package]))
                    continue
                result = measure(package, case.name, order, interpreters.get(package, sys.executable), repeats, limit)
                if result.status != "measured":
                    stopped[package] = result.status
                if result.status == "not installed":
                    absent[package] = result.status
                print(f"{case.name}, order {order}, {package}: {_summary(result)}", file=sys.stderr, flush=True)
                results.append(result)
            compare([r for r in results if r.case in twins and r.order == order])
    return results


def compare(results: Iterable[Measurement]) -> None:
    """Raise `BenchmarkError` unless all measured values are the same."""
    found = {(r.terms, r.checksum): r for r in results if r.status == "measured"}
    if len(found) > 1:
        listed = "; ".join(f"{r.package}, {r.case}: {r.terms} terms, {r.checksum}" for r in found.values())
        raise BenchmarkError(f"different values at order {next(iter(found.values())).order}: {listed}")


def _summary(result: Measurement) -> str:
    if result.status != "measured":
        return result.status
    return f"{result.median:.4g} s, {result.megabytes} MB, checksum {result.checksum}"
