"""How time and memory grow with the number of trees, as a figure."""

from collections.abc import Iterable
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt

from validation.benchmarks.running import Measurement

CASE = "explicit Euler"


def plot_growth(results: Iterable[Measurement], path: Path) -> None:
    """Draw processor time and memory (above that of the imports) of every package against the number of trees."""
    measured = [r for r in results if r.case == CASE and r.status == "measured"]
    figure, (time, memory) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for package in dict.fromkeys(r.package for r in measured):
        mine = [r for r in measured if r.package == package]
        time.loglog([r.terms for r in mine], [median(r.processor) for r in mine], "o-", label=package, markersize=4)
        grown = [(r.terms, r.megabytes - r.megabytes_imported) for r in mine if r.megabytes > r.megabytes_imported]
        if grown:
            memory.loglog(*zip(*grown, strict=True), "o-", label=package, markersize=4)
    time.set(xlabel="trees", ylabel="processor seconds", title=f"Time, {CASE}")
    memory.set(xlabel="trees", ylabel="megabytes above the imports", title=f"Memory, {CASE}")
    for r in measured:
        if r.package == "modeq" and r.order % 4 == 0:
            label = f"order {r.order}"
            time.annotate(
                label, (r.terms, median(r.processor)), (-4, 6), textcoords="offset points", fontsize=7, ha="right"
            )
    for ax in (time, memory):
        ax.grid(alpha=0.3)
    time.legend(loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)
