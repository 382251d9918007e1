"""How long conservation laws take to count: ``python -m validation.benchmarks.counting --out results``.

Linear and ReLU networks of growing width, and fifty random architectures of each kind, of widths 2 to 5 and 2 to 4
layers, as Marcotte, Gribonval and Peyré 2023 (arXiv 2307.00144) took; each count is compared with the known formula.
"""

import argparse
import random
import sys
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

import modeq as mq
from validation.benchmarks.table import environment, report

WIDTHS = (2, 3, 4, 6, 8, 11, 16)
CASES = 50
KINDS = ("linear", "ReLU")


def network(widths: tuple[int, ...], kind: str) -> nn.Sequential:
    """Return dense layers without biases."""
    layers: list[nn.Module] = []
    for k, (before, after) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(before, after, bias=False))
        if kind == "ReLU" and k < len(widths) - 2:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def known(widths: tuple[int, ...], kind: str) -> int:
    """Return the number of laws by formula: Σ r(2n + 1 − r)/2 with r = min(n, before + after), or a law a neuron."""
    if kind == "ReLU":
        return sum(widths[1:-1])
    triples = zip(widths, widths[1:], widths[2:], strict=False)
    ranks = [(n, min(n, before + after)) for before, n, after in triples]
    return sum(r * (2 * n + 1 - r) // 2 for n, r in ranks)


def architectures(quick: bool) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return a group, a kind and the widths of each network."""
    draw = random.Random(0)
    found = [("width", kind, (n, n, n)) for kind in KINDS for n in (WIDTHS[:2] if quick else WIDTHS)]
    for kind in KINDS:
        for _ in range(2 if quick else CASES):
            widths = tuple(draw.randint(2, 3 if quick else 5) for _ in range(draw.randint(2, 4) + 1))
            found.append(("random", kind, widths))
    return found


def measure(quick: bool) -> list[dict[str, Any]]:
    """Count the laws of every network."""
    rows = []
    mq.count_conservation_laws(network((1, 1, 1), "linear"), torch.zeros(1, 1))  # what is loaded once does not count
    for group, kind, widths in tqdm(architectures(quick), disable=None):
        began = perf_counter()
        found = mq.count_conservation_laws(network(widths, kind), torch.zeros(1, widths[0]))
        rows.append(
            {
                "group": group,
                "kind": kind,
                "widths": widths,
                "parameters": found.parameters,
                "laws": found.independent,
                "known": known(widths, kind),
                "seconds": perf_counter() - began,
            }
        )
    return rows


def markdown(results: dict[str, Any]) -> str:
    """Return the tables."""
    rows = results["rows"]
    lines = ["| network | parameters | laws | time |", "| --- | ---: | ---: | ---: |"]
    for row in rows:
        if row["group"] == "width":
            name = f"{row['kind']} {'–'.join(map(str, row['widths']))}"
            lines.append(f"| {name} | {row['parameters']} | {row['laws']} | {row['seconds']:.2f} s |")
    lines += [
        "",
        "| random networks | largest | together | longest | as known |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for kind in KINDS:
        own = [row for row in rows if (row["group"], row["kind"]) == ("random", kind)]
        times, right = [row["seconds"] for row in own], sum(row["laws"] == row["known"] for row in own)
        largest = max(row["parameters"] for row in own)
        lines.append(f"| {len(own)} {kind} | {largest} | {sum(times):.1f} s | {max(times):.1f} s | {right} |")
    where = ", ".join(f"{name} {value}" for name, value in results["environment"].items())
    return "\n".join([*lines, "", f"{where[0].upper()}{where[1:]}."]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Count, print the tables, and write counting.json and counting.md if asked to; 1 if a number is not the known."""
    parser = argparse.ArgumentParser(prog="python -m validation.benchmarks.counting", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a dry run on small networks")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write counting.json and counting.md there")
    options = parser.parse_args(arguments)
    rows = measure(options.quick)
    found = environment([])
    found.pop("processor time / elapsed time")
    results = {
        "rows": rows,
        "environment": found | {"torch": torch.__version__, "modeq": mq.__version__},
        "missed": [
            f"{row['kind']} {row['widths']}: {row['laws']} laws, not {row['known']}"
            for row in rows
            if row["laws"] != row["known"]
        ],
    }
    return report(results, markdown(results), options.out, "counting")


if __name__ == "__main__":
    sys.exit(main())
