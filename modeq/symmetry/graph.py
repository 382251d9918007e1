"""A network's graph for a figure: a vertex for each operation that matters, and the charges at their vertices."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from modeq.symmetry.shapes import moves_entries, operation
from modeq.symmetry.traced import Traced

_SYMBOLS = {
    "add": "+", "sub": "−", "rsub": "−", "mul": "×", "div": "÷", "scaled_dot_product_attention": "attention",
}  # fmt: skip
# Operations that a reader of the graph need not see, besides those that only move entries.
_TRIVIA = {
    "getitem", "dropout", "feature_dropout", "alpha_dropout", "to", "_to_copy", "type_as", "detach", "masked_fill",
}  # fmt: skip
_FACTORS = {"mul", "div", "neg"}
_JOINS = {"cat", "stack"}
_LEAST_REPEATS = 3


@dataclass(frozen=True)
class Vertex:
    """One operation.

    Attributes
    ----------
    label : str
        The path and class of its module, as ``"conv1 (Conv2d)"``; or the operation, as ``"+"``.
    module : str
        The path of the innermost module around it; empty for the network itself.
    parameters : tuple of str
        Those that the operation reads.
    """

    label: str
    module: str = ""
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Graph:
    """Operations in the order of execution, and which reads which.

    Attributes
    ----------
    vertices : tuple of Vertex
    edges : tuple of (int, int)
        Positions of vertices; the first is the smaller one.

    Examples
    --------
    >>> graph = Graph((Vertex("input"), Vertex("fc (Linear)", "fc", ("fc.weight",))), ((0, 1),))
    >>> graph.to_dict()["edges"]
    [[0, 1]]
    """

    vertices: tuple[Vertex, ...]
    edges: tuple[tuple[int, int], ...]

    def __repr__(self) -> str:
        return f"Graph({len(self.vertices)} operations, {len(self.edges)} edges)"

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only."""
        vertices = [{"label": v.label, "module": v.module, "parameters": list(v.parameters)} for v in self.vertices]
        return {"vertices": vertices, "edges": [list(edge) for edge in self.edges]}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Graph":
        """Rebuild from `to_dict`."""
        vertices = (Vertex(v["label"], v["module"], tuple(v["parameters"])) for v in data["vertices"])
        return Graph(tuple(vertices), tuple((a, b) for a, b in data["edges"]))


def network_graph(traced: Traced) -> Graph:
    """Return the graph of the operations that matter.

    Left out are those that only move entries, such as ``view`` and ``transpose``, dropout, constant factors, and what
    depends on neither inputs nor parameters; edges pass through them. A concatenation of several values stays.

    Examples
    --------
    >>> from modeq.symmetry.traced import trace
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> graph = network_graph(trace(net, torch.zeros(1, 3), "mse"))
    >>> [vertex.label for vertex in graph.vertices]
    ['input', '0 (Linear)', '1 (ReLU)', '2 (Linear)', 'mse']
    >>> graph.vertices[3].parameters, graph.edges
    (('2.weight', '2.bias'), ((0, 1), (1, 2), (2, 3), (3, 4)))
    """
    inputs = [node for node in traced.nodes if node.op == "placeholder" and node.name.startswith("inputs")]
    kept: list[torch.fx.Node] = []
    read: list[tuple[str, ...]] = []
    edges: list[tuple[int, int]] = []
    sources: dict[torch.fx.Node, tuple[int, ...]] = defaultdict(tuple)  # node -> the vertices that it comes from
    pending: dict[torch.fx.Node, tuple[str, ...]] = defaultdict(tuple)  # node -> parameters that no vertex has read
    for node in traced.nodes:
        if node in inputs:
            sources[node] = (len(kept),)
            kept.append(node)
            read.append(())
        elif node.name in traced.parameters:
            pending[node] = (traced.parameters[node.name],)
        elif node.op == "call_function" and _has_entries(node):
            before = tuple(dict.fromkeys(k for source in node.all_input_nodes for k in sources[source]))
            names = tuple(dict.fromkeys(name for source in node.all_input_nodes for name in pending[source]))
            if not before and not names:
                continue
            if _is_trivial(node, len(before), bool(names)):
                sources[node], pending[node] = before, names
                continue
            edges += [(k, len(kept)) for k in sorted(before)]
            sources[node] = (len(kept),)
            kept.append(node)
            read.append(names)
    used = [k for k, node in enumerate(kept) if node not in inputs or any(edge[0] == k for edge in edges)]
    position = {k: new for new, k in enumerate(used)}
    inside = Counter(path for node in kept for path in {path for path, _ in _modules(node)})
    several = sum(kept[k] in inputs for k in used) > 1
    vertices = []
    for k in used:
        node, modules = kept[k], _modules(kept[k])
        path, kind = modules[-1] if modules else ("", "")
        if node in inputs:
            label = f"input {k + 1}" if several else "input"
        else:
            label = f"{path.split('@')[0]} ({kind})" if inside[path] == 1 else _label(node, read[k])
        vertices.append(Vertex(label, path.split("@")[0], read[k]))
    return Graph(tuple(vertices), tuple((position[a], position[b]) for a, b in edges))


def _has_entries(node: torch.fx.Node) -> bool:
    """Whether its value is a tensor or several, and not, say, a size."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) or (isinstance(value, tuple | list) and any(isinstance(v, Tensor) for v in value))


def _is_trivial(node: torch.fx.Node, sources: int, has_parameters: bool) -> bool:
    name = operation(node)
    if name in _JOINS:
        return sources + has_parameters < 2
    if name in _FACTORS:
        return sources < 2 and len(node.all_input_nodes) < 2
    return name in _TRIVIA or moves_entries(node)


def _modules(node: torch.fx.Node) -> list[tuple[str, str]]:
    """The path and class of each submodule around a node, from the outside in; a second call has a path of its own."""
    stack = node.meta.get("nn_module_stack") or {}
    found = []
    for key, (path, kind) in stack.items():
        if path.startswith("module."):
            call = f"@{key.rsplit('@', 1)[1]}" if "@" in key and "@" not in path else ""
            found.append((path.removeprefix("module.") + call, str(kind).rsplit(".", 1)[-1]))
    return found


def _label(node: torch.fx.Node, parameters: Sequence[str]) -> str:
    name = operation(node)
    short = _SYMBOLS.get(name, name.strip("_").removesuffix("_loss"))
    if not parameters:
        return short
    prefix = _owner(parameters[0])
    others = [name.removeprefix(prefix) for name in parameters[1:2]] + ["…"] * (len(parameters) > 2)
    return f"{short} {', '.join([parameters[0], *others])}"


def _owner(name: str) -> str:
    """The path of the module of a parameter, with a dot behind it; empty for a parameter of the network itself."""
    return name[: name.rfind(".") + 1]


# --- charges on the graph ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mark:
    """A charge on the graph.

    Attributes
    ----------
    family : str
        The kind of the charge.
    label : str
    signs : tuple of (int, tuple of int)
        A vertex with the signs, 1 or −1, that its parameters enter with.
    exact : bool
    """

    family: str
    label: str
    signs: tuple[tuple[int, tuple[int, ...]], ...]
    exact: bool = True


def drawing(graph: Graph, found: Iterable[Any]) -> dict[str, Any]:
    """Return what `modeq.plots.plot_network` takes, in plain types.

    Parameters
    ----------
    graph : Graph
    found : Found, several
        Charges with their numbers of generators.

    Returns
    -------
    dict of labels, edges, marks, owners and repeats

    Notes
    -----
    Translations of the same operations become one mark. Three or more blocks in a row that are alike in everything,
    charges included, become one, with an index i in place of their number.
    """
    marks = _marks(graph, found)
    graph, marks, repeats = _folded(graph, marks)
    return {
        "labels": [vertex.label for vertex in graph.vertices],
        "edges": [list(edge) for edge in graph.edges],
        "marks": [
            {"family": m.family, "label": m.label, "signs": {k: list(s) for k, s in m.signs}, "exact": m.exact}
            for m in _merged(marks)
        ],
        "owners": [k for k, vertex in enumerate(graph.vertices) if vertex.parameters],
        "repeats": [list(repeat) for repeat in repeats],
    }


def _marks(graph: Graph, found: Iterable[Any]) -> list[Mark]:
    readers: dict[str, list[int]] = defaultdict(list)
    for k, vertex in enumerate(graph.vertices):
        for name in vertex.parameters:
            readers[name].append(k)
    marks = []
    for entry in found:
        signs: dict[int, set[int]] = defaultdict(set)
        for member in entry.charge.members:
            for k in readers[member.parameter]:
                signs[k].add(1 if member.sign > 0 else -1)
        label = f"{entry.charge.name} × {entry.generators}"
        family = entry.charge.kind
        if signs:
            marks.append(Mark(family, label, _plain(signs), entry.exact))
    return marks


def _plain(signs: Mapping[int, Iterable[int]]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    return tuple((k, tuple(sorted(signs[k], reverse=True))) for k in sorted(signs))


def _merged(marks: Sequence[Mark]) -> list[Mark]:
    """The marks, those of translations of the same operations in one, as "fc.weight × 8, bias × 1"."""
    merged: dict[Any, Mark] = {}
    for k, mark in enumerate(marks):
        key = (mark.signs, mark.exact) if mark.family == "translation" else k
        if key in merged:
            before = merged[key].label
            shorter = mark.label.removeprefix(_owner(before.split(" × ")[0]))
            mark = replace(mark, label=f"{before}, {shorter}")
        merged[key] = mark
    return list(merged.values())


# --- blocks that repeat -----------------------------------------------------------------------------------------------


def _folded(graph: Graph, marks: list[Mark]) -> tuple[Graph, list[Mark], list[tuple[int, int, str]]]:
    """Fold every run of blocks that are alike; the runs as (first vertex, last vertex, text)."""
    repeats: list[tuple[int, int, str]] = []
    refused: set[tuple[str, int]] = set()
    while run := next((run for run in _runs(graph) if (run.prefix, run.first) not in refused), None):
        new = _fold_marks(marks, run)
        if new is None:
            refused.add((run.prefix, run.first))
            continue
        removed = run.size * (run.count - 1)
        graph, marks = _fold_graph(graph, run), new
        repeats = [(a - removed, b - removed, text) if a > run.start else (a, b, text) for a, b, text in repeats]
        repeats.append((run.start, run.start + run.size - 1, f"i = {run.first}, …, {run.first + run.count - 1}"))
    return graph, marks, sorted(repeats)


@dataclass(frozen=True)
class _Run:
    """Blocks prefix.first, prefix.(first + 1), … of `size` vertices each, `count` of them, from the vertex `start`."""

    prefix: str
    first: int
    start: int
    size: int
    count: int

    def block(self, k: int) -> int | None:
        inside = self.start <= k < self.start + self.size * self.count
        return (k - self.start) // self.size if inside else None

    def image(self, k: int) -> int:
        """Where a vertex goes."""
        if self.block(k) is not None:
            return self.start + (k - self.start) % self.size
        return k if k < self.start else k - self.size * (self.count - 1)


def _runs(graph: Graph) -> Iterable[_Run]:
    """The runs of blocks with equal vertices and edges, those of outer modules first."""
    blocks: dict[tuple[str, int], list[int]] = defaultdict(list)
    for k, vertex in enumerate(graph.vertices):
        parts = vertex.module.split(".")
        for depth, part in enumerate(parts):
            if part.isdigit():
                blocks[".".join(parts[:depth]), int(part)].append(k)
    inner: dict[tuple[str, int], Any] = {
        key: (_anonymous(graph, *key, rows), _edges_within(graph, rows))
        for key, rows in blocks.items()
        if rows == list(range(rows[0], rows[-1] + 1))
    }
    for prefix, first in sorted(inner, key=lambda key: (key[0].count("."), key)):
        count = 1
        rows = blocks[prefix, first]
        while inner.get((prefix, first + count)) == inner[prefix, first] and blocks[prefix, first + count][0] == rows[
            0
        ] + count * len(rows):
            count += 1
        if count >= _LEAST_REPEATS and len(rows) > 1:
            yield _Run(prefix, first, rows[0], len(rows), count)


def _path(prefix: str, index: Any) -> str:
    return f"{prefix}.{index}" if prefix else str(index)


def _renamed(text: str, prefix: str, index: int) -> str:
    """A text in which the block's number is i wherever its path begins a name."""
    old, new = _path(prefix, index) + ".", _path(prefix, "i") + "."
    words = text.split(" ")
    return " ".join("-".join(_replaced(part, old, new) for part in word.split("-")) for word in words)


def _replaced(name: str, old: str, new: str) -> str:
    return new + name.removeprefix(old) if name.startswith(old) else name


def _anonymous(graph: Graph, prefix: str, index: int, rows: Sequence[int]) -> list[Any]:
    found = []
    for k in rows:
        vertex = graph.vertices[k]
        texts = (vertex.label, f"{vertex.module}.", *vertex.parameters)
        found.append(tuple(_renamed(text, prefix, index) for text in texts))
    return found


def _edges_within(graph: Graph, rows: Sequence[int]) -> list[tuple[int, int]]:
    return [(a - rows[0], b - rows[0]) for a, b in graph.edges if a >= rows[0] and b <= rows[-1]]


def _fold_graph(graph: Graph, run: _Run) -> Graph:
    vertices = []
    for k, vertex in enumerate(graph.vertices):
        if run.block(k) == 0:
            label, module, *names = _anonymous(graph, run.prefix, run.first, [k])[0]
            vertices.append(Vertex(label, module.removesuffix("."), tuple(names)))
        elif run.block(k) is None:
            vertices.append(vertex)
    images = dict.fromkeys((run.image(a), run.image(b)) for a, b in graph.edges)
    return Graph(tuple(vertices), tuple((a, b) for a, b in images if a < b))


def _fold_marks(marks: Sequence[Mark], run: _Run) -> list[Mark] | None:
    """The marks on the folded graph; None if those of the blocks are not alike."""
    seen: dict[Mark, set[int]] = defaultdict(set)
    for mark in marks:
        blocks = {block for k, _ in mark.signs if (block := run.block(k)) is not None}
        if 1 < len(blocks) < run.count:
            return None
        signs: dict[int, set[int]] = defaultdict(set)
        for k, values in mark.signs:
            signs[run.image(k)] |= set(values)
        if len(blocks) > 1 and len(mark.signs) != sum(run.count if run.block(k) == 0 else 1 for k in signs):
            return None
        label = mark.label
        for block in blocks:
            label = _renamed(label, run.prefix, run.first + block)
        seen[replace(mark, label=label, signs=_plain(signs))] |= blocks
    if any(len(blocks) not in (0, run.count) for blocks in seen.values()):
        return None
    return list(seen)
