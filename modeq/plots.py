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


def plot_errors(curves: Mapping[str, Any], ax: Any = None, steps: Any = None, **kwargs: Any) -> list[Any]:
    """Plot errors against the step on a logarithmic axis; the caller adds a legend.

    Parameters
    ----------
    curves : mapping from a label to the errors at the first of the steps
    ax : matplotlib axes, optional
    steps : array, optional; 0, 1, … by default
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
        errors = _positive(values)
        artists += ax.semilogy(_first(steps, len(errors)), errors, label=label, **kwargs)
    _label_steps(ax)
    ax.set_ylabel("largest |θ(flow) − θ(optimizer)|")
    return artists


def _label_steps(ax: Any) -> None:
    ax.set_xlabel("step n")
    ax.xaxis.get_major_locator().set_params(integer=True)


def _positive(values: Any) -> Any:
    """The values with nan for 0, which a logarithmic axis has not: an exact agreement leaves a gap."""
    numbers = np.asarray(values, dtype=float)
    return np.where(numbers > 0, numbers, np.nan)


def _first(steps: Any, count: int) -> Any:
    return np.arange(count) if steps is None else np.asarray(steps)[:count]


def plot_losses(
    curves: Mapping[str, Any], points: Mapping[str, Any] | None = None, ax: Any = None, steps: Any = None, **kwargs: Any
) -> list[Any]:
    """Plot losses against the step, those of flows as lines and those of optimizers as dots.

    Parameters
    ----------
    curves : mapping from a label to the losses at the first of the steps
    points : the same, for dots
    ax : matplotlib axes, optional
    steps : array, optional; 0, 1, … by default
    **kwargs : passed to ``Axes.plot`` for the curves

    Notes
    -----
    The axis is logarithmic if every loss is positive, and they span more than a factor of ten.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> len(plot_losses({"gradient flow": [1.0, 0.5]}, points={"optimizer": [1.0, 0.4]}))
    2
    """
    ax = _axes(ax)
    artists = []
    for (label, values), width in zip(curves.items(), np.linspace(4.5, 1.0, len(curves)), strict=True):
        artists += ax.plot(_first(steps, len(values)), values, **{"linewidth": width, "label": label, **kwargs})
    for k, (label, values) in enumerate((points or {}).items()):
        if values is not None:
            style = {"color": "black", "markersize": 2.5, "zorder": 3, "label": label}
            artists += ax.plot(_first(steps, len(values)), values, "os^Dv"[k % 5], **style)
    losses = [value for line in artists for value in line.get_ydata() if np.isfinite(value)]
    if losses and min(losses) > 0 and max(losses) > 10 * min(losses):
        ax.set_yscale("log")
    _label_steps(ax)
    ax.set_ylabel("loss L")
    return artists


def plot_curvature(
    curves: Mapping[str, tuple[Any, Any]], limits: Mapping[str, float], ax: Any = None, **kwargs: Any
) -> list[Any]:
    """Plot h·λ_max against the step, with limits as horizontal lines, on a logarithmic axis.

    Parameters
    ----------
    curves : mapping from a label to (steps, h·λ_max)
    limits : mapping from a label to a number; those that are not finite are left out
    ax : matplotlib axes, optional
    **kwargs : passed to ``Axes.semilogy`` for the curves

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> len(plot_curvature({"GradientDescent()": ([0, 10], [0.5, 0.9])}, {"series limit": 1, "stability limit": 2}))
    3
    """
    ax = _axes(ax)
    artists = []
    for label, (steps, values) in curves.items():
        artists += ax.semilogy(steps, _positive(values), **{"marker": "o", "markersize": 4, "label": label, **kwargs})
    for k, (label, limit) in enumerate((label, limit) for label, limit in limits.items() if np.isfinite(limit)):
        style = ("--", ":", "-.")[k % 3]
        artists.append(ax.axhline(limit, color="0.35", linestyle=style, linewidth=1.2, label=f"{label} {limit:.3g}"))
    _label_steps(ax)
    ax.set_ylabel("h·λ_max")
    return artists


def plot_order(
    step_sizes: Any, errors: Any, slopes: Any = (), expected: float | None = None, ax: Any = None, **kwargs: Any
) -> list[Any]:
    """Plot errors against step sizes on logarithmic axes, with the measured slopes and a line of the expected one.

    Parameters
    ----------
    step_sizes, errors : arrays (points,)
    slopes : array (points − 1,), optional
        Written beside the line from one point to the next, where finite.
    expected : number, optional
        The slope of the reference line, through the smallest step size.
    ax : matplotlib axes, optional
    **kwargs : passed to ``Axes.loglog`` for the errors

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> len(plot_order([0.1, 0.05], [1e-2, 2.5e-3], slopes=[2.0], expected=2))
    3
    """
    ax = _axes(ax)
    h, error = np.asarray(step_sizes, dtype=float), _positive(errors)
    artists = list(ax.loglog(h, error, **{"marker": "o", "label": "measured", **kwargs}))
    if expected is not None and np.any(np.isfinite(error)):
        last = np.flatnonzero(np.isfinite(error))[-1]
        line = error[last] * (h / h[last]) ** expected
        artists += ax.loglog(h, line, color="0.35", linestyle="--", linewidth=1.0, label=f"slope {expected:g}")
    for k, slope in enumerate(slopes):
        if np.isfinite(slope) and np.isfinite(error[k : k + 2]).all():
            place = (float(np.sqrt(h[k] * h[k + 1])), float(np.sqrt(error[k] * error[k + 1])))
            offset = {"xytext": (-6, 4), "textcoords": "offset points", "ha": "right", "fontsize": "small"}
            artists.append(ax.annotate(f"{slope:.2f}", place, **offset))
    ax.set_xlabel("step size h")
    ax.set_ylabel("largest error")
    return artists


def plot_plane(
    curves: Mapping[str, Any],
    points: Any = None,
    points_label: str = "optimizer",
    ax: Any = None,
    surface: tuple[Any, Any, Any] | None = None,
    labels: tuple[str, str] = ("θ₁", "θ₂"),
    **kwargs: Any,
) -> list[Any]:
    """Plot trajectories in the plane of two parameters, the optimizer's as dots, on the contours of a loss.

    Parameters
    ----------
    curves : mapping from a label to an array (points, 2)
    points : array (points, 2), optional
    ax : matplotlib axes, optional
    surface : (X, Y, Z), optional
        Two coordinates and the loss on a grid, for contours.
    labels : of the axes
    **kwargs : passed to ``Axes.plot`` for the curves

    Notes
    -----
    The style of Figure 4 of Kunin et al. 2021 (arXiv 2012.04728).

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> len(plot_plane({"flow": [[1, 0], [0, 0]]}, points=[[1, 0]]))
    2
    """
    ax = _axes(ax)
    artists = []
    if surface is not None and np.any(np.isfinite(surface[2])):
        X, Y, Z = (np.asarray(values, dtype=float) for values in surface)
        style = {"cmap": "Blues_r", "linewidths": 0.8, "zorder": 0}
        artists.append(ax.contour(X, Y, np.ma.masked_invalid(Z), levels=_levels(Z), **style))
        ax.set(xlim=(X.min(), X.max()), ylim=(Y.min(), Y.max()))
    # Later curves are thinner, so that one under another can be seen.
    for (label, values), width in zip(curves.items(), np.linspace(4.5, 1.0, len(curves)), strict=True):
        xy = np.asarray(values, dtype=float)
        artists += ax.plot(xy[:, 0], xy[:, 1], **{"linewidth": width, "label": label, **kwargs})
    if points is not None:
        xy = np.asarray(points, dtype=float)
        artists += ax.plot(xy[:, 0], xy[:, 1], "o", color="black", markersize=3.5, label=points_label, zorder=3)
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    return artists


def _levels(Z: Any) -> Any:
    """Contour levels whose spacing grows with the loss, as that of a quadratic does with the distance."""
    low, high = Z[np.isfinite(Z)].min(), Z[np.isfinite(Z)].max()
    return low + (high - low or 1.0) * np.linspace(0.03, 1.0, 14) ** 2


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
