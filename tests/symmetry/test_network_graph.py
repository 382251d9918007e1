"""The graph of a network, counted by hand, and the figure of its charges."""

import json
from collections import OrderedDict
from dataclasses import dataclass
from itertools import combinations

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import nn

from modeq import plots
from modeq.numeric.networks.gpt import DecoderBlock, gpt
from modeq.symmetry.charges import Rescale, Scale, Translation
from modeq.symmetry.graph import drawing, network_graph
from modeq.symmetry.traced import trace


@dataclass(frozen=True)
class Entry:
    """What a drawing reads of a charge that was found."""

    charge: object
    generators: int
    exact: bool = True


def graph_of(module, *inputs, loss="cross_entropy"):
    return network_graph(trace(module, inputs, loss))


def lines(graph):
    """Each vertex with the labels of what it reads."""
    labels = [vertex.label for vertex in graph.vertices]
    return [(label, [labels[a] for a, b in graph.edges if b == k]) for k, label in enumerate(labels)]


def perceptron():
    layers = [("fc1", nn.Linear(3, 4)), ("act", nn.ReLU()), ("drop", nn.Dropout(0.1)), ("fc2", nn.Linear(4, 2))]
    return nn.Sequential(OrderedDict(layers))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.fc, self.skip = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x):
        h = self.stem(x)
        h = torch.relu(self.fc(h)).view(-1, 4) * self.gain + self.skip(h)
        return self.fc(h) + h


CHARGES = [
    Entry(Rescale("fc1-fc2", {"fc1.weight": 0, "fc1.bias": 0}, {"fc2.weight": 1}), 4),
    Entry(Translation("fc2.weight", {"fc2.weight": 1}), 4),
    Entry(Translation("fc2.bias", {"fc2.bias": None}), 1),
    Entry(Scale("fc1", {"fc1.weight": 0}), 4, exact=False),
]


def test_a_perceptron_is_a_chain():
    graph = graph_of(perceptron(), torch.zeros(2, 3))
    labels = ["input", "fc1 (Linear)", "act (ReLU)", "fc2 (Linear)", "cross_entropy"]
    assert [vertex.label for vertex in graph.vertices] == labels
    assert graph.edges == ((0, 1), (1, 2), (2, 3), (3, 4))  # dropout is passed through
    assert graph.vertices[1].parameters == ("fc1.weight", "fc1.bias")
    assert [vertex.module for vertex in graph.vertices] == ["", "fc1", "act", "fc2", ""]
    assert json.loads(json.dumps(graph.to_dict())) == graph.to_dict()


def test_a_residual_network_branches():
    graph = graph_of(Residual(), torch.zeros(2, 3), loss="mse")
    assert lines(graph) == [
        ("input", []),
        ("stem (Linear)", ["input"]),
        ("fc (Linear)", ["stem (Linear)"]),
        ("relu", ["fc (Linear)"]),
        ("× gain", ["relu"]),  # the view between them is passed through
        ("skip (Linear)", ["stem (Linear)"]),
        ("+", ["× gain", "skip (Linear)"]),
        ("fc (Linear)", ["+"]),  # a second call
        ("+", ["+", "fc (Linear)"]),
        ("mse", ["+"]),
    ]
    assert graph.vertices[4].parameters == ("gain",)


@pytest.mark.parametrize("packed", [True, False])
def test_a_decoder_block(packed):
    block = DecoderBlock(dim=4, heads=2, bias=True, dropout=0.0, packed=packed, fused=True)
    graph = graph_of(block, torch.zeros(2, 3, 4), loss=None)
    projections = ["qkv (Linear)"] if packed else ["query (Linear)", "key (Linear)", "value (Linear)"]
    assert lines(graph) == [
        ("input", []),
        ("norm1 (LayerNorm)", ["input"]),
        *[(label, ["norm1 (LayerNorm)"]) for label in projections],
        ("attention", projections),
        ("projection (Linear)", ["attention"]),
        ("+", ["input", "projection (Linear)"]),
        ("norm2 (LayerNorm)", ["+"]),
        ("fc1 (Linear)", ["norm2 (LayerNorm)"]),
        ("gelu (GELU)", ["fc1 (Linear)"]),
        ("fc2 (Linear)", ["gelu (GELU)"]),
        ("+", ["+", "fc2 (Linear)"]),
    ]


def test_a_tied_table_stands_where_it_is_read():
    graph = graph_of(gpt(layers=1, heads=1, dim=4, vocabulary=5, context=3), torch.zeros(2, 3, dtype=torch.long))
    readers = [vertex.label for vertex in graph.vertices if "embedding.weight" in vertex.parameters]
    assert readers == ["embedding (Embedding)", "head (Linear)"]
    assert "+ positions.weight" in [vertex.label for vertex in graph.vertices]


def test_charges_stand_at_what_they_move():
    drawn = drawing(graph_of(perceptron(), torch.zeros(2, 3)), CHARGES)
    rescale, translations, scale = drawn["marks"]
    assert rescale == {"family": "rescale", "label": "fc1-fc2 × 4", "signs": {1: [1], 3: [-1]}, "exact": True}
    assert (translations["label"], translations["signs"]) == ("fc2.weight × 4, bias × 1", {3: [1]})
    assert (scale["signs"], scale["exact"]) == ({1: [1]}, False)
    assert (drawn["owners"], drawn["repeats"]) == ([1, 3], [])


def decoder(layers, charges):
    network = gpt(layers=layers, heads=1, dim=4, vocabulary=5, context=3, tied=False)
    return drawing(graph_of(network, torch.zeros(2, 3, dtype=torch.long)), charges)


def norm_charges(blocks):
    names = [(f"blocks.{k}.norm1", f"blocks.{k}.qkv") for k in blocks]
    return [Entry(Rescale(f"{a}-{b}", {f"{a}.weight": 0, f"{a}.bias": 0}, {f"{b}.weight": 1}), 4) for a, b in names]


def test_blocks_that_are_alike_become_one():
    stream = Scale("embedding+4", {"embedding.weight": None, **{f"blocks.{k}.fc2.weight": None for k in range(4)}})
    drawn = decoder(4, [Entry(stream, 1), *norm_charges(range(4))])
    once = decoder(1, [])
    assert [label.replace("blocks.i", "blocks.0") for label in drawn["labels"]] == once["labels"]
    assert drawn["edges"] == once["edges"]
    assert drawn["repeats"] == [[3, 12, "i = 0, …, 3"]]
    assert [mark["label"] for mark in drawn["marks"]] == ["embedding+4 × 1", "blocks.i.norm1-blocks.i.qkv × 4"]
    assert [mark["signs"] for mark in drawn["marks"]] == [{1: [1], 11: [1]}, {3: [1], 4: [-1]}]


@pytest.mark.parametrize(
    "charges",
    [
        norm_charges([0, 1, 3]),
        [Entry(Rescale("across", {"blocks.0.fc2.weight": 0}, {"blocks.1.fc1.weight": 1}), 4)],
        [Entry(Scale("some", {"blocks.1.fc2.weight": None, "blocks.2.fc2.weight": None}), 1)],
    ],
    ids=["one has none", "from one to the next", "two of them"],
)
def test_blocks_with_other_charges_stay(charges):
    drawn = decoder(4, charges)
    assert drawn["repeats"] == []
    assert len(drawn["labels"]) == len(decoder(1, [])["labels"]) + 3 * 10
    assert len(drawn["marks"]) == len(charges)


def test_two_blocks_are_not_folded():
    assert decoder(2, [])["repeats"] == []


# --- the figure


def markers(artists):
    return [a for a in artists if getattr(a, "get_marker", lambda: None)() == "o" and len(a.get_xdata()) == 1]


def overlapping(texts, figure):
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in texts]
    return [
        (a.get_text(), b.get_text())
        for (a, one), (b, other) in combinations(zip(texts, boxes, strict=True), 2)
        if min(one.x1, other.x1) - max(one.x0, other.x0) > 1 and min(one.y1, other.y1) - max(one.y0, other.y0) > 1
    ]


def test_the_figure_has_a_row_for_each_operation():
    drawn = drawing(graph_of(Residual(), torch.zeros(2, 3), loss="mse"), [])
    ax = Figure(figsize=(5, 6)).subplots()
    artists = plots.plot_network(**drawn, ax=ax)
    assert all(artist.axes is ax for artist in artists)
    assert [a.get_text() for a in artists if isinstance(a, Text)] == drawn["labels"]
    places = [(float(a.get_xdata()[0]), float(a.get_ydata()[0])) for a in markers(artists)]
    assert len(set(places)) == len(drawn["labels"])
    assert [y for _, y in places] == list(range(len(places)))
    beside = [k for k, (x, _) in enumerate(places) if x < 0]
    assert [drawn["labels"][k] for k in beside] == ["skip (Linear)"]


def test_markers_tell_the_signs():
    drawn = drawing(graph_of(perceptron(), torch.zeros(2, 3)), CHARGES[:1])
    artists = plots.plot_network(**drawn, ax=Figure(figsize=(5, 4)).subplots())
    incoming, outgoing = markers(artists)[-2:]
    colour = plots.FAMILY_COLOURS["rescale"]
    assert (incoming.get_markerfacecolor(), outgoing.get_markerfacecolor()) == (colour, "white")
    assert (incoming.get_ydata()[0], outgoing.get_ydata()[0]) == (1, 3)
    assert [text.get_text() for text in artists[-1].get_texts()] == ["rescale, incoming", "outgoing"]


def test_what_is_approximate_is_dashed():
    marks = [{"family": "scale", "label": str(e), "signs": {0: [1], 1: [1]}, "exact": e} for e in (True, False)]
    artists = plots.plot_network(["a", "b"], [(0, 1)], marks, ax=Figure().subplots())
    styles = [a.get_linestyle() for a in artists if hasattr(a, "get_linewidth") and a.get_linewidth() == 1.6]
    assert styles == ["-", "--"]
    assert artists[-1].get_texts()[-1].get_text() == "up to ε"


@pytest.mark.parametrize("size", [None, (9, 12), (5, 5)])
def test_no_text_lies_on_another(size):
    names = [f"blocks.{k}.{layer}" for k in (0, 1) for layer in ("qkv", "projection", "fc1", "fc2")]
    charges = [*norm_charges(range(2)), *(Entry(Translation(f"{n}.weight", {f"{n}.weight": 1}), 4) for n in names)]
    charges += [Entry(Scale(f"{n}.bias", {f"{n}.bias": 0}), 4) for n in names]
    charges += [
        Entry(Rescale(f"{a}-{b}", {f"{a}.weight": 0}, {f"{b}.weight": 1}), 4) for a, b in combinations(names, 2)
    ]
    drawn = decoder(2, charges[:24])
    ax = None if size is None else Figure(figsize=size).subplots()
    artists = plots.plot_network(**drawn, ax=ax)
    texts = [a for a in artists if isinstance(a, Text)]
    figure = texts[0].figure
    texts += artists[-1].get_texts()
    assert overlapping(texts, figure) == []
    width, height = figure.get_size_inches() * figure.dpi
    boxes = [text.get_window_extent() for text in texts]
    assert min(min(box.x0, box.y0) for box in boxes) > -1
    assert max(max(box.x1 - width, box.y1 - height) for box in boxes) < 1
    plt.close("all")


def test_lines_take_keywords():
    edge, *_ = plots.plot_network(["a", "b"], [(0, 1)], ax=Figure().subplots(), linewidth=3.0)
    assert edge.get_linewidth() == 3.0
