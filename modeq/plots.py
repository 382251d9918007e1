"""Every figure of modeq: functions that take numbers and ``ax=``, compute nothing, and return artists.

They import nothing of modeq, so that any layer may call them; none shows a figure or changes a setting.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

TREE_COLOURS = ("#1b1b1b", "#c1441a", "#1f6fb2", "#3d8b3d", "#8a5fb0", "#b8860b")
Point = tuple[float, float]


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
    edges, vertices = _placed(nested)
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


def _placed(nested: Any) -> tuple[list[tuple[Point, Point]], list[tuple[float, float, int]]]:
    """The edges of a tree, and its vertices with their colours: leaves beside each other, the root at height 0."""
    edges: list[tuple[Point, Point]] = []
    vertices: list[tuple[float, float, int]] = []
    next_leaf = 0.0

    def place(node: Any, height: int) -> Point:
        nonlocal next_leaf
        colour, children = node if isinstance(node, tuple) else (0, node)
        below = [place(child, height + 1) for child in children]
        if below:
            x = sum(position[0] for position in below) / len(below)
        else:
            x, next_leaf = next_leaf, next_leaf + 1.0
        edges.extend(((x, float(height)), position) for position in below)
        vertices.append((x, float(height), colour))
        return x, float(height)

    place(nested, 0)
    return edges, vertices


def tree_svg(nested: Any) -> str:
    """Return a rooted tree as SVG, the root below, as notebooks show it.

    Parameters
    ----------
    nested : nested lists, or nested pairs (colour, children)

    Examples
    --------
    >>> tree_svg([[], []]).count("<circle")
    3
    """
    edges, vertices = _placed(nested)
    width, top = max(x for x, _, _ in vertices), max(y for _, y, _ in vertices)
    size = f"{24 * width + 24:g}", f"{24 * top + 24:g}"

    def at(x: float, y: float) -> Point:
        return 24 * x + 12, 24 * (top - y) + 12

    parts = []
    for a, b in edges:
        (x1, y1), (x2, y2) = at(*a), at(*b)
        parts.append(f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="#808080" stroke-width="1.5"/>')
    for x, y, colour in vertices:
        (cx, cy), fill = at(x, y), TREE_COLOURS[colour % len(TREE_COLOURS)]
        parts.append(f'<circle cx="{cx:g}" cy="{cy:g}" r="5" fill="{fill}" stroke="#808080" stroke-width="0.5"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" '
        f'viewBox="0 0 {size[0]} {size[1]}" style="max-width: 100%">{"".join(parts)}</svg>'
    )


def plot_errors(curves: Mapping[str, Any], ax: Any = None, steps: Any = None, **kwargs: Any) -> list[Any]:
    """Plot errors against the step on a logarithmic axis; the caller adds a legend.

    Parameters
    ----------
    curves : mapping from a label to the errors at the first of the steps
    ax : matplotlib axes, optional
    steps : array (points,), optional; 0, 1, … by default
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
    steps : array (points,), optional; 0, 1, … by default
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
        The learning rates, and an error at each.
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
    points_label : of the dots in the legend
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
    title : str
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
    for (law, values), style in zip(laws.items(), ("--", ":", "-."), strict=False):
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


# --- networks ---------------------------------------------------------------------------------------------------------

FAMILY_COLOURS = {
    "scale": "#c1441a",
    "rescale": "#1f6fb2",
    "diagonal": "#b8860b",
    "general_linear": "#7a4fa3",
    "translation": "#3d8b3d",
    "affine": "#5f5f5f",
}
_SIDES = {
    "rescale": ("rescale, incoming", "outgoing"),
    "diagonal": ("diagonal, exponents above 0", "below 0"),
    "general_linear": ("general linear, left", "right"),
}
# Lengths in units of the font's size.
_ROW, _LANE, _COLUMN, _GAP, _CHARGE_SIZE = 2.6, 1.5, 1.4, 1.2, 0.85
_DASHES = (0, (2.5, 1.2))
_LARGEST_FONT, _SMALLEST_FONT = 9.0, 6.0  # of the axes that are made


def plot_network(
    labels: Sequence[str],
    edges: Iterable[Sequence[int]],
    marks: Sequence[Mapping[str, Any]] = (),
    ax: Any = None,
    owners: Collection[int] = (),
    repeats: Iterable[tuple[int, int, str]] = (),
    **kwargs: Any,
) -> list[Any]:
    """Draw a network from top to bottom, a row for each operation, with its charges at the right.

    The longest path is one line; parallel branches and skips run at its left. A charge is a marker at each operation
    whose parameters it moves, joined by a line, which is dashed where it is approximate. Of a rescale the incoming
    markers are filled, the outgoing ones hollow, and half filled where an operation is both; so are the two sides of
    a matrix charge and of a translation.

    Parameters
    ----------
    labels : of the operations, in an order in which each comes after what it reads
    edges : pairs of positions
    marks : mappings of family (one of `FAMILY_COLOURS`), label, exact, and signs
        The signs map the position of an operation to a collection of 1, −1 or both.
    ax : matplotlib axes, optional
        By default new ones, as large as the network asks for. The text shrinks to fit into given ones.
    owners : positions of the operations with parameters, which are drawn darker
    repeats : (first, last, text), several
        A bracket at the left of some rows.
    **kwargs : for the lines of the network, as those of ``PathPatch``

    Returns
    -------
    list of artists: edges, a dot and a text for each operation, guides, brackets, charges, the legend

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> hidden = {"family": "rescale", "label": "fc1-fc2 × 4", "signs": {1: [1], 3: [-1]}, "exact": True}
    >>> artists = plot_network(["input", "fc1", "relu", "fc2"], [(0, 1), (1, 2), (2, 3)], [hidden], owners=[1, 3])
    >>> [artist.get_text() for artist in artists if hasattr(artist, "get_text")]
    ['input', 'fc1', 'relu', 'fc2', 'fc1-fc2 × 4']
    """
    edges = sorted({(int(a), int(b)) for a, b in edges})
    repeats = list(repeats)
    rows = len(labels)
    lane, routes = _lanes(rows, edges)
    columns, heights = _columns(marks)
    keys = [handle.get_label() for handle in _network_legend(marks, 1.0)]
    # Lengths from left to right: lanes, labels, columns of charges, their labels.
    lanes = max([*lane, *(route for route in routes.values() if route is not None)], default=0)
    left = -(lanes + 1) * _LANE - (max(map(_width, (text for *_, text in repeats)), default=0) + 1.5 if repeats else 0)
    first = _GAP + max(map(_width, labels), default=0) + _GAP
    beside = first + (max(columns, default=-1) + 1) * _COLUMN + 0.6
    right = beside + _CHARGE_SIZE * max((_width(mark["label"]) for mark in marks), default=0) + 1
    right = max(right, left + sum(_width(key) + 4.4 for key in keys))
    top = -1.0 - 0.9 * bool(keys)
    ax, size = _network_axes(ax, right - left, rows - top)
    ax.set(xlim=(left, left + max(right - left, _points(ax)[0] / size)), ylim=(rows - 0.2, top))
    ax.axis("off")

    artists = _draw_edges(ax, edges, lane, routes, kwargs)
    for k, label in enumerate(labels):
        colour = "0.15" if k in owners else "0.5"
        face = colour if k in owners else "white"
        style = {"color": colour, "markerfacecolor": face, "markersize": 0.6 * size, "zorder": 3}
        artists += ax.plot(-_LANE * lane[k], k, "o", **style)
        artists.append(ax.text(_GAP, k, label, color=colour, fontsize=size, va="center", zorder=3))
    ends: dict[int, float] = {}
    for mark, column in zip(marks, columns, strict=True):
        ends.update({row: max(ends.get(row, 0.0), first + column * _COLUMN) for row in mark["signs"]})
    for row, end in ends.items():
        begin = _GAP + _width(labels[row]) + 0.6
        artists += ax.plot([begin, end], [row, row], color="0.85", linewidth=0.8, zorder=0)
    for begin, end, text in repeats:
        x = -(lanes + 1) * _LANE
        corners = [begin - 0.35, begin - 0.35, end + 0.35, end + 0.35]
        artists += ax.plot([x + 0.5, x, x, x + 0.5], corners, color="0.5", linewidth=1.0)
        style = {"color": "0.35", "fontsize": size, "ha": "right", "va": "center"}
        artists.append(ax.text(x - 0.5, (begin + end) / 2, text, **style))
    for mark, column, height in zip(marks, columns, heights, strict=True):
        artists += _draw_mark(ax, mark, first + column * _COLUMN, height, beside, size)
    if keys:
        handles = _network_legend(marks, size)
        place = {"loc": "upper left", "bbox_to_anchor": (left, top), "bbox_transform": ax.transData}
        style = {"ncol": len(handles), "frameon": False, "fontsize": size, "borderpad": 0.2, "columnspacing": 1.2}
        style |= {"handlelength": 1.6, "handletextpad": 0.6}
        artists.append(ax.legend(handles=handles, **place, **style))
    return artists


def _width(text: str) -> float:
    """The width of a text in units of the font's size."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return float(text_to_path.get_text_width_height_descent(text, FontProperties(size=1), ismath=False)[0])


def _points(ax: Any) -> tuple[float, float]:
    """Width and height of axes in points."""
    width, height = 72 * ax.bbox.size / ax.figure.dpi
    return float(width), float(height)


def _network_axes(ax: Any, width: float, rows: float) -> tuple[Any, float]:
    """Axes, and the size of the font at which its units, so many across, and the rows have place in them."""
    if ax is None:
        import matplotlib.pyplot as plt

        size = min(_LARGEST_FONT, max(_SMALLEST_FONT, _LARGEST_FONT * 45 / rows))
        figure = plt.figure(figsize=(width * size / 72 / 0.96, rows * _ROW * size / 72 / 0.96))
        ax = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    across, down = _points(ax)
    return ax, min(_LARGEST_FONT, across / width, down / rows / _ROW)


def _lanes(rows: int, edges: Sequence[tuple[int, int]]) -> tuple[list[int], dict[tuple[int, int], int | None]]:
    """A lane for each vertex, 0 for the longest path; and for each edge its own lane, or None where it needs none."""
    reads: dict[int, list[int]] = defaultdict(list)
    feeds: dict[int, list[int]] = defaultdict(list)
    for a, b in edges:
        reads[b].append(a)
        feeds[a].append(b)
    lane = [-1] * rows
    taken: list[list[tuple[int, int]]] = [[]]
    free = set(range(rows))

    def lowest(begin: int, end: int) -> int:
        k = next((k for k in range(1, len(taken)) if all(end <= a or b <= begin for a, b in taken[k])), len(taken))
        taken.extend([] for _ in range(k + 1 - len(taken)))
        taken[k].append((begin, end))
        return k

    followed: set[tuple[int, int]] = set()
    while free:
        chain = _longest(sorted(free), reads)
        free -= set(chain)
        place = 0
        if max(lane) >= 0:
            begin = min([chain[0], *reads[chain[0]]])
            end = max([chain[-1], *feeds[chain[-1]]])
            place = lowest(begin, end)
            followed |= {(a, chain[0]) for a in reads[chain[0]]} | {(chain[-1], b) for b in feeds[chain[-1]]}
        for k in chain:
            lane[k] = place
        followed |= set(pairwise(chain))
    routes: dict[tuple[int, int], int | None] = {}
    others: dict[int, list[int]] = defaultdict(list)
    for a, b in edges:
        routes[a, b] = None
        if (a, b) not in followed and b > a + 1:
            others[a].append(b)
    for a, ends in sorted(others.items(), key=lambda item: max(item[1]) - item[0]):
        place = lowest(a, max(ends))
        routes.update({(a, b): place for b in ends})
    return lane, routes


def _longest(vertices: Sequence[int], reads: Mapping[int, Sequence[int]]) -> list[int]:
    """The longest path among some vertices, which are in order."""
    length: dict[int, int] = {}
    before: dict[int, int | None] = {}
    for k in vertices:
        known = [a for a in reads.get(k, ()) if a in length]
        nearest = max(known, key=lambda a: length[a], default=None)
        before[k], length[k] = nearest, 1 + (0 if nearest is None else length[nearest])
    path = [max(vertices, key=lambda k: length[k])]
    while (previous := before[path[-1]]) is not None:
        path.append(previous)
    return path[::-1]


def _draw_edges(
    ax: Any,
    edges: Sequence[tuple[int, int]],
    lane: Sequence[int],
    routes: Mapping[tuple[int, int], int | None],
    kwargs: Mapping[str, Any],
) -> list[Any]:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    artists = []
    for a, b in edges:
        route = routes[a, b]
        if route is None:
            route = max(lane[a], lane[b])
        bend = min(0.9, (b - a) / 2)
        x, y, z = -_LANE * lane[a], -_LANE * route, -_LANE * lane[b]
        if x == y == z:
            path = Path([(x, a), (x, b)])
        elif b == a + 1 or (2 * bend >= b - a and x != y != z):
            path = Path([(x, a), (y, a + bend), (y, b - bend), (z, b)], [Path.MOVETO] + [Path.CURVE4] * 3)
        else:
            points = [(x, a), (x, a + bend / 2), (y, a + bend / 2), (y, a + bend)]
            points += [(y, b - bend), (y, b - bend / 2), (z, b - bend / 2), (z, b)]
            codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3]
            path = Path(points, codes)
        style = {"facecolor": "none", "edgecolor": "0.6", "linewidth": 1.1, "zorder": 1, **kwargs}
        artists.append(ax.add_patch(PathPatch(path, **style)))
    return artists


def _columns(marks: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[float]]:
    """A column for each mark, in which no other meets it, and the height of its label.

    Long ones stand at the left, those of one operation in the last column, beside each other's labels.
    """
    spans = [(min(mark["signs"]), max(mark["signs"])) for mark in marks]
    columns, heights = [0] * len(marks), [0.0] * len(marks)
    taken: list[list[tuple[int, int]]] = []
    long = [k for k, (a, b) in enumerate(spans) if b > a]
    for k in sorted(long, key=lambda k: (spans[k][0] - spans[k][1], k)):
        a, b = spans[k]
        place = next((c for c, others in enumerate(taken) if all(b < u or v < a for u, v in others)), len(taken))
        taken.extend([] for _ in range(place + 1 - len(taken)))
        taken[place].append((a, b))
        columns[k] = place
    single: dict[int, list[int]] = defaultdict(list)
    for k, (a, b) in enumerate(spans):
        if a == b:
            single[a].append(k)
    for row, members in single.items():
        for j, k in enumerate(members):
            columns[k] = len(taken)
            heights[k] = row + 0.42 * (j - (len(members) - 1) / 2)
    # A label of a long one has place between two rows, where its line to the label meets no marker.
    used = [heights[k] for members in single.values() for k in members]
    for k in sorted(long, key=lambda k: (spans[k][1] - spans[k][0], k)):
        a, b = spans[k]
        places = [row + part for row in range(a, b) for part in (0.5, 0.3, 0.7)]
        apart = [min((abs(place - other) for other in used), default=1.0) for place in places]
        good = [place for place, distance in zip(places, apart, strict=True) if distance > 0.39]
        heights[k] = good[0] if good else places[int(np.argmax(apart))]
        used.append(heights[k])
    return columns, heights


def _draw_mark(ax: Any, mark: Mapping[str, Any], x: float, height: float, beside: float, size: float) -> list[Any]:
    colour = FAMILY_COLOURS[mark["family"]]
    rows = sorted(mark["signs"])
    alone = len(rows) == 1
    dashes = "-" if mark["exact"] else _DASHES
    artists = []
    if not alone:
        artists += ax.plot([x, x], [rows[0], rows[-1]], color=colour, linestyle=dashes, linewidth=1.6, zorder=2)
    style = {"color": colour, "linestyle": dashes, "linewidth": 0.7, "alpha": 0.7}
    artists += ax.plot([x, beside - 0.3], [height, height], zorder=1, **style)
    for row in rows:
        signs = set(mark["signs"][row])
        fill = "full" if signs == {1} else "none" if signs == {-1} else "left"
        style = {"color": colour, "fillstyle": fill, "markersize": 0.6 * size, "markerfacecoloralt": "white"}
        style |= {"markerfacecolor": "white", "fillstyle": "full"} if fill == "none" else {}
        artists += ax.plot(x, height if alone else row, "o", zorder=4, **style)
    style = {"color": colour, "fontsize": _CHARGE_SIZE * size, "va": "center"}
    artists.append(ax.text(beside, height, mark["label"], **style))
    return artists


def _network_legend(marks: Sequence[Mapping[str, Any]], size: float) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = []
    for family, colour in FAMILY_COLOURS.items():
        signs = {sign for mark in marks if mark["family"] == family for row in mark["signs"].values() for sign in row}
        style: dict[str, Any] = {"color": colour, "linewidth": 1.6, "marker": "o", "markersize": 0.6 * size}
        if signs:
            label = _SIDES.get(family, (family, ""))[0]
            handles.append(Line2D([], [], **style, label=label))
        if -1 in signs:
            label = _SIDES.get(family, ("", "opposite"))[1]
            handles.append(Line2D([], [], **style, markerfacecolor="white", label=label))
    if not all(mark["exact"] for mark in marks):
        handles.append(Line2D([], [], color="0.3", linestyle=_DASHES, linewidth=1.6, label="up to ε"))
    return handles
