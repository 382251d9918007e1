"""Every figure of modeq: functions that take numbers and ``ax=``, compute nothing, and return artists.

They import nothing of modeq, so that any layer may call them; none shows a figure or changes a setting.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

TREE_COLOURS = ("#1b1b1b", "#c1441a", "#1f6fb2", "#3d8b3d", "#8a5fb0", "#b8860b")


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots()[1]


def plot_tree(nested: Any, ax: Any = None, **kwargs: Any) -> list[Any]:
    """Draw a rooted tree, the root below.

    Parameters
    ----------
    nested : nested lists, or nested pairs (colour, children)
    ax : matplotlib axes, optional
    **kwargs : passed to ``Axes.plot`` for the edges

    Returns
    -------
    list of artists: the edges, then the vertices

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> len(plot_tree([[], [[]]]))
    7
    """
    ax = _axes(ax)
    edges: list[tuple[tuple[float, float], tuple[float, float]]] = []
    vertices: list[tuple[float, float, int]] = []
    next_leaf = 0.0

    def place(node: Any, height: int) -> tuple[float, float]:
        nonlocal next_leaf
        colour, children = node if isinstance(node, tuple) else (0, node)
        below = [place(child, height + 1) for child in children]
        if below:
            x = sum(position[0] for position in below) / len(below)
        else:
            x, next_leaf = next_leaf, next_leaf + 1.0
        edges.extend(((x, height), position) for position in below)
        vertices.append((x, float(height), colour))
        return x, float(height)

    place(nested, 0)
    style = {"color": "0.45", "linewidth": 1.5, "zorder": 1, **kwargs}
    artists = [ax.plot([a[0], b[0]], [a[1], b[1]], **style)[0] for a, b in edges]
    artists += [
        ax.plot(x, y, "o", markersize=9, color=TREE_COLOURS[colour % len(TREE_COLOURS)], zorder=2)[0]
        for x, y, colour in vertices
    ]
    ax.set_aspect("equal")
    ax.margins(0.25)
    ax.axis("off")
    return artists


def plot_errors(curves: Mapping[str, Any], ax: Any = None, **kwargs: Any) -> list[Any]:
    """Plot errors against the step on a logarithmic axis; the caller adds a legend.

    Parameters
    ----------
    curves : mapping from a label to the errors at steps 0, 1, …
    ax : matplotlib axes, optional
    **kwargs : passed to ``Axes.semilogy``

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> len(plot_errors({"gradient flow": [1e-9, 1e-3, 2e-3]}))
    1
    """
    ax = _axes(ax)
    artists = []
    for label, values in curves.items():
        errors = np.asarray(values, dtype=float)
        # A logarithmic axis has no zero: an exact agreement leaves a gap.
        shown = np.where(errors > 0, errors, np.nan)
        artists += ax.semilogy(np.arange(len(shown)), shown, label=label, **kwargs)
    ax.set_xlabel("step n")
    ax.set_ylabel("largest |θ(flow) − θ(optimizer)|")
    return artists


def plot_plane(
    curves: Mapping[str, Any], points: Any = None, points_label: str = "optimizer", ax: Any = None, **kwargs: Any
) -> list[Any]:
    """Plot trajectories in the plane of two parameters, the optimizer's as dots.

    Parameters
    ----------
    curves : mapping from a label to an array (points, 2)
    points : array (points, 2), optional
    ax : matplotlib axes, optional
    **kwargs : passed to ``Axes.plot`` for the curves

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> len(plot_plane({"flow": [[1, 0], [0, 0]]}, points=[[1, 0]]))
    2
    """
    ax = _axes(ax)
    artists = []
    # Later curves are thinner, so that one under another can be seen.
    for (label, values), width in zip(curves.items(), np.linspace(4.5, 1.0, len(curves)), strict=True):
        xy = np.asarray(values, dtype=float)
        artists += ax.plot(xy[:, 0], xy[:, 1], **{"linewidth": width, "label": label, **kwargs})
    if points is not None:
        xy = np.asarray(points, dtype=float)
        artists += ax.plot(xy[:, 0], xy[:, 1], "o", color="black", markersize=3.5, label=points_label, zorder=3)
    ax.set_xlabel("θ₁")
    ax.set_ylabel("θ₂")
    return artists


def plot_charge(
    time: Any, measured: Any, laws: Mapping[str, Any], title: str = "", shown: int = 6, ax: Any = None
) -> list[Any]:
    """Plot the generators of one charge in colour, and laws over them in black.

    Parameters
    ----------
    time : array (points,), h·n
    measured : array (points, generators)
    laws : mapping from a label to an array (points, generators)
    shown : int
        At most this many generators are drawn, evenly spaced among all.
    ax : matplotlib axes, optional

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> len(plot_charge([0, 1], [[1.0], [2.0]], {"law": [[1.0], [2.0]]}))
    2
    """
    import matplotlib

    ax = _axes(ax)
    measured = np.asarray(measured, dtype=float)
    chosen = np.unique(np.linspace(0, measured.shape[1] - 1, min(shown, measured.shape[1])).astype(int))
    colours = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.9, len(chosen)))
    artists = []
    for k, (generator, colour) in enumerate(zip(chosen, colours, strict=True)):
        label = "measured" if k == 0 else None
        artists += ax.plot(time, measured[:, generator], color=colour, linewidth=2.5, alpha=0.8, label=label)
    for (law, values), style in zip(laws.items(), ("-", "--", ":"), strict=False):
        for k, generator in enumerate(chosen):
            label = law if k == 0 else None
            line = np.asarray(values)[:, generator]
            artists += ax.plot(time, line, color="black", linestyle=style, linewidth=0.9, label=label)
    ax.set_title(title, fontsize="medium")
    ax.set_xlabel("time h·n")
    return artists


def plot_residuals(time: Any, residuals: Mapping[str, Any], ax: Any = None, **kwargs: Any) -> list[Any]:
    """Plot relative residuals against time on a logarithmic axis, one line for each label.

    Parameters
    ----------
    time : array (points,), h·n
    residuals : mapping from a label to an array (points,)
    ax : matplotlib axes, optional
    **kwargs : passed to ``Axes.semilogy``

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> len(plot_residuals([0, 1, 2], {"exact law": [0.0, 1e-15, 2e-15]}))
    1
    """
    ax = _axes(ax)
    artists = []
    for label, values in residuals.items():
        shown = np.asarray(values, dtype=float)
        artists += ax.semilogy(time, np.where(shown > 0, shown, np.nan), label=label, **kwargs)
    ax.set_xlabel("time h·n")
    ax.set_ylabel("largest relative residual")
    return artists
