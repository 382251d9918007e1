"""The command line of the benchmarks."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from validation.benchmarks.cases import CASES, PACKAGES
from validation.benchmarks.growth import plot_growth
from validation.benchmarks.running import run
from validation.benchmarks.table import environment, markdown

RIVALS = [package for package in PACKAGES if package != "modeq"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m validation.benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="NAME", choices=[c.name for c in CASES], help="one case")
    parser.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="fresh processes per figure; the median counts"
    )
    parser.add_argument(
        "--limit", type=float, default=60.0, metavar="S", help="seconds for one package, case and order"
    )
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=RIVALS, help="the other packages to run")
    parser.add_argument(
        "--interpreter",
        action="append",
        default=[],
        metavar="PACKAGE=PYTHON",
        help="the Python that has this package, if not the one that runs this",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write results.json, table.md and growth.png there")
    parser.add_argument("--quick", action="store_true", help="a dry run: low orders, once")
    return parser


def _interpreters(parser: argparse.ArgumentParser, pairs: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        package, equals, path = pair.partition("=")
        if package not in PACKAGES or not equals or not path:
            parser.error(f"--interpreter {pair}: give PACKAGE=PYTHON with one of {', '.join(PACKAGES)}")
        found[package] = path
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write the files if asked to."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.repeats < 1 or options.limit <= 0:
        parser.error("--repeats must be at least 1 and --limit positive")
    interpreters = _interpreters(parser, options.interpreter)
    cases = [c.quick() if options.quick else c for c in CASES if options.only in (None, c.name)]
    repeats = 1 if options.quick else options.repeats
    results = run(cases, ["modeq", *options.rivals], interpreters, repeats, options.limit)
    table = markdown(results)
    print(table)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        content = {"environment": environment(results), "results": [r.to_dict() for r in results]}
        (options.out / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (options.out / "table.md").write_text(table, encoding="utf-8")
        if any(c.name == "explicit Euler" for c in cases):
            plot_growth(results, options.out / "growth.png")


if __name__ == "__main__":
    main()
