"""Verdicts as tables, and figures as files with their captions."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from validation.claims import Cell, Script, verdicts


def page(script: Script, cells: Sequence[Cell]) -> dict[str, Any]:
    """Return the verdicts of a script, and all its cells, as plain values."""
    rows = []
    for name, verdict in verdicts(script.MERITS, cells).items():
        own = [cell for cell in cells if cell.merit == name]
        rows.append(
            {
                "claim": verdict.merit.claim,
                "merit": str(verdict.merit),
                "worst": verdict.worst.value,
                "worst cell": verdict.worst.name,
                "verdict": str(verdict),
                "cells": [{"name": c.name, "value": c.value, "kept": verdict.merit.kept_by(c.value)} for c in own],
            }
        )
    return {"title": script.__doc__.splitlines()[0], "verdicts": rows}


def summary(scripts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one table of all claims, and below it every cell of each script."""
    lines = ["| claim | script | figure of merit | worst | verdict |", "|---" * 5 + "|"]
    for name, found in scripts.items():
        for row in found["verdicts"]:
            merit = row["merit"].replace("|", "\\|")
            lines.append(f"| {row['claim']} | {name} | {merit} | {row['worst']:.2g} | {row['verdict']} |")
    for name, found in scripts.items():
        lines += ["", f"## {name}", "", found["title"], ""]
        for stem, caption in found["captions"].items():
            lines += [f"![{stem}]({stem}.png)", "", caption, ""]
        for row in found["verdicts"]:
            lines += [f"**{row['claim']}.** {row['merit']}: {row['verdict']}.", ""]
            lines += ["| cell | measured | kept |", "|---|---:|---|"]
            lines += [
                f"| {cell['name']} | {cell['value']:.3g} | {'yes' if cell['kept'] else 'no'} |" for cell in row["cells"]
            ]
            lines.append("")
    return "\n".join(lines)


def save_figure(figure: Figure, caption: str, file: Path) -> None:
    """Write a figure with its caption below it as a PNG."""
    characters = int(figure.get_figwidth() * 16)
    figure.text(0.01, -0.01, textwrap.fill(caption, characters), fontsize=8, va="top", ha="left")
    figure.savefig(file, dpi=110, bbox_inches="tight")
