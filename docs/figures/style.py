"""The look that the figures of the documentation share."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

OPTIMIZER = {"color": "#1b1b1b", "marker": "o", "linestyle": "none", "markersize": 3.5}
GRADIENT_FLOW = {"color": "#8a8a8a", "linestyle": "--", "linewidth": 1.6}
EQUATION = {"color": "#c1441a", "linewidth": 1.6}
SECOND = {"color": "#1f6fb2", "linewidth": 1.6}
THIRD = {"color": "#3d8b3d", "linewidth": 1.6}
LINES = {"loc": "best", "fontsize": "small", "frameon": False}


def figure(panels: int, rows: int = 1, width: float = 9.0, height: float = 3.6) -> tuple[Figure, Any]:
    """Return a figure with panels in rows, without upper and right edges."""
    made = Figure(figsize=(width, height), layout="constrained")
    axes = made.subplots(rows, panels // rows, squeeze=False).ravel()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return made, axes


def save(made: Figure, script: str) -> None:
    """Write a figure beside its script."""
    made.savefig(Path(script).with_suffix(".png"), dpi=140)
