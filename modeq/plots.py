"""Every figure of modeq: functions that take numbers and ``ax=``, compute nothing, and return artists.

They import nothing of modeq, so that any layer may call them; none shows a figure or changes a setting.
"""

from typing import Any

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
