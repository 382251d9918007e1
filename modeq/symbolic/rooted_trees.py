"""Rooted trees, plain and coloured, and one table that holds all of them up to an order."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, total_ordering
from math import factorial
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeq.errors import InvalidOrder, InvalidTree

Indices = NDArray[np.int64]

LARGEST_TABLE = 1_000_000
BYTES_PER_TREE = 3_300  # with coefficients, measured at the hungriest of the methods tested, of four queries


@total_ordering
class Tree:
    """A rooted tree, without an order among the children of a vertex; each vertex has a colour.

    Parameters
    ----------
    *description : children, or colour and children
        ``Tree(children)`` or ``Tree(colour, children)``. ``children`` is a list of trees or of nested lists;
        ``[]`` is a single vertex. The colour is an integer from 0, and 0 if it is left out. Inside a coloured
        tree write children as trees, or as pairs ``(colour, children)``.

    Attributes
    ----------
    colour, children : the root's colour and the subtrees at the root, in canonical order
    order : the number of vertices |τ|
    symmetry : σ(τ), the order of the automorphism group: σ(τ) = Π m_k! σ(τ_k)^{m_k} over distinct children
    density : γ(τ) = |τ| Π γ(τ_k)

    Raises
    ------
    InvalidTree
        If the argument is no tree.

    Notes
    -----
    Source: Hairer, Lubich, Wanner, *Geometric Numerical Integration*, III.1.

    Examples
    --------
    >>> tree = Tree([[], [[]]])
    >>> tree.order, tree.symmetry, tree.density
    (4, 1, 8)
    >>> tree == Tree([[[]], []])
    True
    >>> Tree(1, [Tree(0, [])])
    Tree(1, [(0, [])])
    """

    __slots__ = ("__dict__", "_hash", "children", "colour", "order")

    colour: int
    children: tuple["Tree", ...]
    order: int
    _hash: int  # found when it is first asked for

    def __init__(self, *description: Any) -> None:
        if len(description) == 1 and isinstance(description[0], Tree):
            description = (description[0].colour, description[0].children)
        if len(description) == 1:
            description = (0, description[0])
        if len(description) != 2:
            raise InvalidTree(f"a tree is Tree(children) or Tree(colour, children), not Tree{description!r}")
        colour, children = description
        if isinstance(colour, bool) or not isinstance(colour, int) or colour < 0:
            raise InvalidTree(f"the colour of a vertex is {colour!r}: give an integer from 0")
        if not isinstance(children, list | tuple):
            raise InvalidTree(f"the children of a vertex are {children!r}: give a list of trees, [] for a leaf")
        trees = tuple(sorted((_child(child) for child in children), reverse=True))
        _set_colour(self, colour)
        _set_children(self, trees)
        _set_order(self, 1 + sum(child.order for child in trees))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("trees are immutable")

    def __reduce__(self) -> tuple[type, tuple[int, tuple["Tree", ...]]]:
        return Tree, (self.colour, self.children)

    @property
    def _key(self) -> tuple[Any, ...]:
        return (self.order, self.colour, len(self.children), self.children)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tree):
            return NotImplemented
        return hash(self) == hash(other) and self.colour == other.colour and self.children == other.children

    def __lt__(self, other: "Tree") -> bool:
        if not isinstance(other, Tree):
            return NotImplemented
        return self._key < other._key

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            value = hash((self.colour, self.children))
            _set_hash(self, value)
            return value

    @cached_property
    def symmetry(self) -> int:
        """The symmetry σ(τ)."""
        result = 1
        for child, count in _multiplicities(self.children):
            result *= factorial(count) * child.symmetry**count
        return result

    @cached_property
    def density(self) -> int:
        """The density γ(τ)."""
        result = self.order
        for child in self.children:
            result *= child.density
        return result

    @property
    def colours(self) -> frozenset[int]:
        """The colours that occur."""
        return frozenset({self.colour}).union(*(child.colours for child in self.children))

    def butcher_product(self, other: "Tree") -> "Tree":
        """Return u∘v: `other` becomes one more child of the root.

        Examples
        --------
        >>> Tree([[]]).butcher_product(Tree([]))
        Tree([[], []])
        """
        if not isinstance(other, Tree):
            raise InvalidTree(f"other is {other!r}: give a Tree, mq.Tree([]) for a single vertex")
        children = self.children
        if not children or other.order > children[0].order or other is children[0]:
            children = (other, *children)
        else:
            children = tuple(sorted((other, *children), reverse=True))
        return _tree(self.colour, children, self.order + other.order)

    def nested(self) -> list[Any] | tuple[int, list[Any]]:
        """Return the tree as nested lists, or as nested pairs (colour, children) if it is coloured.

        Examples
        --------
        >>> Tree([[[]], []]).nested()
        [[[]], []]
        """
        plain = self.colours == {0}

        def write(tree: Tree) -> Any:
            children = [write(child) for child in tree.children]
            return children if plain else (tree.colour, children)

        result: list[Any] | tuple[int, list[Any]] = write(self)
        return result

    def text(self) -> str:
        """Return the tree in bracket notation, τ = [τ₁,…,τ_m], with a dot for a leaf.

        Examples
        --------
        >>> Tree([[[]], []]).text()
        '[[•],•]'
        """
        dot = "•" if self.colour == 0 else f"•{self.colour}"
        if not self.children:
            return dot
        colour = "" if self.colour == 0 else str(self.colour)
        return "[" + ",".join(child.text() for child in self.children) + "]" + colour

    def latex(self) -> str:
        r"""Return the tree in bracket notation as LaTeX.

        Examples
        --------
        >>> print(Tree([[], []]).latex())
        [\bullet,\bullet]
        """
        colour = "" if self.colour == 0 else f"_{{{self.colour}}}"
        if not self.children:
            return rf"\bullet{colour}"
        return "[" + ",".join(child.latex() for child in self.children) + "]" + colour

    def diagram(self) -> str:
        """Return the tree drawn in text, the root above; colours other than 0 are written at the vertices.

        Examples
        --------
        >>> print(Tree([[[]], []]).diagram())
        •
        ├─•
        │ └─•
        └─•
        """
        lines = ["•" if self.colour == 0 else f"•{self.colour}"]
        for k, child in enumerate(self.children, start=1):
            first, rest = ("└─", "  ") if k == len(self.children) else ("├─", "│ ")
            head, *below = child.diagram().splitlines()
            lines += [first + head, *(rest + line for line in below)]
        return "\n".join(lines)

    def tikz(self) -> str:
        r"""Return the tree as a TikZ picture, the root below; colours other than 0 become labels.

        Examples
        --------
        >>> print(Tree([[], []]).tikz())
        \tikz[grow=up, level distance=5mm, sibling distance=5mm, every node/.style={circle, fill, inner sep=1.2pt}]
        \node {} child {node {}} child {node {}};
        """

        def vertex(tree: Tree) -> str:
            label = f"[label=right:{tree.colour}] " if tree.colour else " "
            return f"node{label}{{}}" + "".join(f" child {{{vertex(child)}}}" for child in tree.children)

        style = "circle, fill, inner sep=1.2pt"
        return (
            rf"\tikz[grow=up, level distance=5mm, sibling distance=5mm, every node/.style={{{style}}}]"
            "\n\\" + vertex(self) + ";"
        )

    def draw(self, ax: Any = None, **kwargs: Any) -> list[Any]:
        """Draw the tree, root below, with matplotlib; return the artists.

        Parameters
        ----------
        ax : matplotlib axes, optional
        **kwargs : passed to ``Axes.plot`` for the edges

        Examples
        --------
        >>> import matplotlib
        >>> matplotlib.use("agg")
        >>> len(Tree([[], []]).draw())
        5
        """
        from modeq import plots

        return plots.plot_tree(self.nested(), ax=ax, **kwargs)

    def _repr_svg_(self) -> str:
        from modeq import plots

        return plots.tree_svg(self.nested())

    def __repr__(self) -> str:
        nested = self.nested()
        written = f"Tree{nested!r}" if isinstance(nested, tuple) else f"Tree({nested!r})"
        return written if len(written) <= _LONGEST else f"<tree with {self.order} vertices>"


_LONGEST = 160  # characters of a tree written out
# Trees are immutable and there are many of them: the slots are filled past Tree.__setattr__ in the fastest way.
_new_tree = object.__new__
_set_colour, _set_children, _set_order, _set_hash = (
    Tree.__dict__[slot].__set__ for slot in ("colour", "children", "order", "_hash")
)


def _tree(colour: int, children: tuple[Tree, ...], order: int) -> Tree:
    """A tree from children that are in canonical order, without a check."""
    tree = _new_tree(Tree)
    _set_colour(tree, colour)
    _set_children(tree, children)
    _set_order(tree, order)
    return tree


def _child(description: Any) -> Tree:
    if isinstance(description, Tree):
        return description
    if isinstance(description, list):
        return Tree(description)
    if isinstance(description, tuple) and len(description) == 2 and isinstance(description[0], int):
        return Tree(*description)
    raise InvalidTree(
        f"{description!r} is no tree: write a vertex as the list of its children, [] for a leaf, or as a pair "
        "(colour, children)"
    )


def as_tree(tree: Any) -> Tree:
    """Return `tree` as a :class:`Tree`, from nested lists or pairs as well."""
    return tree if isinstance(tree, Tree) else _child(tree)


def rootings(tree: Tree) -> Iterator[tuple[int, Tree]]:
    """Yield the tree rooted at each of its vertices, with the distance of that vertex from the present root.

    Examples
    --------
    >>> list(rootings(Tree([[]])))
    [(0, Tree([[]])), (1, Tree([[]]))]
    """
    yield from _rootings(tree, 0, None)


def _rootings(tree: Tree, distance: int, came_from: Tree | None) -> Iterator[tuple[int, Tree]]:
    yield distance, tree
    passed = False
    for i, child in enumerate(tree.children):
        if not passed and child == came_from:
            passed = True  # not back the way we came; a twin of that branch is another one
            continue
        rest = Tree(tree.colour, tree.children[:i] + tree.children[i + 1 :])
        yield from _rootings(Tree(child.colour, (*child.children, rest)), distance + 1, rest)


def _multiplicities(children: Iterable[Tree]) -> Iterator[tuple[Tree, int]]:
    counts: dict[Tree, int] = {}
    for child in children:
        counts[child] = counts.get(child, 0) + 1
    yield from counts.items()


def checked_order(order: Any, argument: str = "order") -> int:
    """Return a truncation order, or another positive count, or raise `InvalidOrder`."""
    try:
        number = None if isinstance(order, bool) else index(order)
    except TypeError:
        number = None
    if number is None:
        raise InvalidOrder(f"{argument} is {order!r}: give a positive integer")
    if number < 1:
        lowest = "the lowest truncation order is 1, the gradient flow" if argument == "order" else "give at least 1"
        raise InvalidOrder(f"{argument} is {number}: {lowest}")
    return number


def trees(order: int, colours: int = 1) -> list[Tree]:
    """Return all rooted trees with exactly `order` vertices.

    Parameters
    ----------
    order : positive int
    colours : positive int
        Each vertex takes one of this many colours.

    Returns
    -------
    list of Tree
        In the order in which every series lists them.

    Raises
    ------
    InvalidOrder
        If an argument is not positive, or the list would be absurdly long.

    Notes
    -----
    Source: Hairer, Lubich, Wanner, *Geometric Numerical Integration*, III.1; the numbers are the sequence A000081 of
    the OEIS.

    Examples
    --------
    >>> [len(trees(order)) for order in range(1, 9)]
    [1, 1, 2, 4, 9, 20, 48, 115]
    >>> trees(3)
    [Tree([[[]]]), Tree([[], []])]
    >>> len(trees(2, colours=2))
    4
    """
    order = checked_order(order)
    table = tree_table(order, checked_order(colours, "colours"))
    return sorted(table.trees[table.level(order)])


@lru_cache(maxsize=64)
def tree_count(order: int, colours: int, linear: int, leaves: int = 0) -> int:
    """The number of trees with at most `order` vertices; `linear` colours have one child at most, `leaves` none."""
    forests, counts = [1], [0, colours]  # with n vertices; forests by the Euler transform of counts
    weighted = [0]
    for n in range(1, order):
        weighted.append(sum(d * counts[d] for d in range(1, n + 1) if n % d == 0))
        forests.append(sum(weighted[k] * forests[n - k] for k in range(1, n + 1)) // n)
        counts.append((colours - linear - leaves) * forests[n] + linear * counts[n])
    return sum(counts)


def _require_feasible(order: int, colours: int, linear: int, leaves: int) -> None:
    """Raise `InvalidOrder` with the number of trees and the memory they take if both are absurd."""
    counted = min(order, 60)  # beyond, counting itself would take long
    count = tree_count(counted, colours, linear, leaves)
    if count > LARGEST_TABLE:
        raise InvalidOrder(
            f"order is {order}: there are {'more than ' if counted < order else ''}{count:,} trees with up to {order} "
            f"vertices in {colours} colour(s), about {count * BYTES_PER_TREE // 10**9:,} GB; ask for a lower order"
        )


@dataclass(frozen=True, eq=False)
class TreeTable:
    """All trees up to an order, each as a Butcher product τ = u∘v of two earlier ones.

    ``left[i]`` and ``right[i]`` are the indices of u and v (−1 for a single vertex), ``root[i]`` the root's
    colour; the trees with k vertices are numbers ``starts[k]`` to ``starts[k + 1]``. Children are attached
    with growing indices, so that each tree occurs once. Vertices of a *linear* colour have at most one
    child, and those of a constant field none (they are *leaves*), since the elementary differentials of the
    other trees vanish.
    """

    colours: int
    left: Indices
    right: Indices
    root: Indices
    starts: tuple[int, ...]

    @property
    def order(self) -> int:
        """The largest number of vertices."""
        return len(self.starts) - 2

    def __len__(self) -> int:
        return len(self.left)

    def level(self, order: int) -> slice:
        """The indices of all trees with `order` vertices."""
        return slice(self.starts[order], self.starts[order + 1])

    def truncated(self, order: int) -> "TreeTable":
        """The table of the trees with at most `order` vertices."""
        kept = slice(self.starts[order + 1])
        return TreeTable(self.colours, self.left[kept], self.right[kept], self.root[kept], self.starts[: order + 2])

    @cached_property
    def trees(self) -> list[Tree]:
        """The trees themselves."""
        built: list[Tree] = []
        for u, v, colour in zip(self.left.tolist(), self.right.tolist(), self.root.tolist(), strict=True):
            built.append(_tree(colour, (), 1) if u < 0 else built[u].butcher_product(built[v]))
        return built

    @cached_property
    def index(self) -> dict[Tree, int]:
        """The index of each tree."""
        return {tree: i for i, tree in enumerate(self.trees)}


@lru_cache(maxsize=16)
def _tree_table(order: int, colours: int, linear: frozenset[int], leaves: frozenset[int]) -> TreeTable:
    single = np.full(colours, -1)
    left, right, root = single, single, np.arange(colours)
    room = np.full(colours, order)  # for further children
    room[list(linear)], room[list(leaves)] = 1, 0
    starts = [0, 0, colours]
    for n in range(2, order + 1):
        lefts, rights = [], []
        for u_order in range(1, n):
            u = np.arange(starts[u_order], starts[u_order + 1])
            u = u[room[u] > 0]
            first, last = np.maximum(right[u], starts[n - u_order]), starts[n - u_order + 1]
            counts = np.maximum(last - first, 0)
            before = np.repeat(np.cumsum(counts) - counts, counts)
            lefts.append(np.repeat(u, counts))
            rights.append(np.repeat(first, counts) + np.arange(len(before)) - before)
        u = np.concatenate(lefts)
        left, right = np.concatenate([left, u]), np.concatenate([right, *rights])
        root, room = np.concatenate([root, root[u]]), np.concatenate([room, room[u] - 1])
        starts.append(len(left))
    for array in (left, right, root):
        array.setflags(write=False)
    return TreeTable(colours, left, right, root, tuple(starts))


def tree_table(order: int, colours: int = 1, linear: Collection[int] = (), leaves: Collection[int] = ()) -> TreeTable:
    """Return the table of all trees with at most `order` vertices, linear colours and those of leaves restricted.

    Raises
    ------
    InvalidOrder
        If there are more than a million; the message gives their number and the memory.

    Examples
    --------
    >>> len(tree_table(10))
    1205
    """
    order = checked_order(order)
    _require_feasible(order, colours, len(linear), len(leaves))
    return _tree_table(order, colours, frozenset(linear), frozenset(leaves))
