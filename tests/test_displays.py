"""What every result says of itself: a short repr, a readable text, and in a notebook LaTeX, a table or a drawing."""

import re
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import sympy as sp
import torch
from torch import nn

import modeq as mq
from modeq.displays import MOST, Table, cut, first, lines, listed
from modeq.studies import Settings
from modeq.symmetry.oracle import NullSpace
from tests.test_house import CLASSES

x, y = sp.symbols("x y")
GD, HB = mq.GradientDescent(), mq.HeavyBall(momentum=0.9)


@cache
def loss():
    return mq.SymbolicProblem(sp.cos(x) + x**2 + y**2 * x / 3, [x, y])


@cache
def batches():
    return mq.SymbolicProblem([x**2 / 2 + y**2, x**4 + y**2], [x, y])


@cache
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)).double()
        return module, (torch.randn(20, 3, dtype=torch.float64), torch.randint(0, 3, (20,)))


@cache
def charges():
    module, (inputs, _) = network()
    return mq.find_charges(module, inputs, "cross_entropy")


@cache
def tracked():
    module, (inputs, targets) = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    with mq.track(module, optimizer, charges()) as tracker:
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(inputs), targets).backward()
            optimizer.step()
    return tracker


@cache
def verified():
    module, data = network()
    return mq.verify(charges(), module, "cross_entropy", data)


def explained():
    module, _ = network()
    size = sum(p.numel() for p in module.parameters())
    return NullSpace(torch.eye(2 * size, dtype=torch.float64)[:60], 1e9).explained_by(charges(), module)


@cache
def counted():
    u, v, w = sp.symbols("u v w")
    return mq.count_conservation_laws([u * v, v * w], [u, v, w])


def noise():
    module, data = network()
    return mq.gradient_noise(charges(), module, "cross_entropy", data)


def balanced():
    module, data = network()
    return mq.balance(charges()[0], module, "cross_entropy", data, mq.SGDStep(0.1, weight_decay=5e-4))


@cache
def compared():
    return mq.compare(HB, loss(), [1.0, 0.5], h=0.01, steps=10, orders=(1, 2), forms=["field", "time"], progress=False)


SYMBOL = mq.HeavyBall(sp.Symbol("beta"), dampening=sp.Symbol("alpha")).with_weight_decay(sp.Symbol("lambda"))

# Name -> a function without arguments that returns a result.
EXAMPLES = {
    "equation": lambda: mq.modified_equation(HB, 4),
    "equation of 200 trees": lambda: mq.modified_equation(GD, 8),
    "equation with symbols": lambda: mq.modified_equation(SYMBOL, 2),
    "equation of an epoch": lambda: mq.modified_equation(mq.Epoch(GD, 60), 1),
    "equation of a game": lambda: mq.modified_equation(mq.Alternating([GD, HB]), 2),
    "initial layer": lambda: mq.modified_equation(HB, 4).initial_layer(),
    "modified loss": lambda: mq.modified_equation(GD, 2).modified_loss(),
    "gradient part": lambda: mq.modified_equation(GD, 8).gradient_part()[0],
    "gradient test": lambda: mq.modified_equation(HB, 5).gradient_test(),
    "field": lambda: mq.BSeriesField.from_coefficients({mq.Tree([]): 1}, order=3),
    "map": lambda: mq.modified_equation(GD, 3).exponential(),
    "memoryless map": lambda: mq.memoryless_map(HB, 3),
    "modifying equation": lambda: mq.modifying_equation(GD, 3),
    "expected equation": lambda: mq.modified_equation(mq.Epoch(GD, sp.Symbol("m")).expected("reshuffling"), 3),
    "explicit field": lambda: mq.modified_equation(GD, 2).on(x**2 * y, [x, y]),
    "long explicit field": lambda: mq.modified_equation(HB, 3).on(sp.cos(x * y) + x**4 * y, [x, y]),
    "scheduled equation": lambda: mq.scheduled_equation(HB),
    "scheduled form": lambda: mq.scheduled_time_derivative_form(HB, sp.exp(-sp.Symbol("t"))),
    "stochastic equation": lambda: mq.stochastic_equation(HB),
    "explicit stochastic equation": lambda: mq.stochastic_equation(HB).on([x**2, x**4 + x], [x]),
    "time derivatives": lambda: mq.time_derivative_form(SYMBOL, 3),
    "60 time derivatives": lambda: mq.time_derivative_form(GD, 60),
    "phase space": lambda: mq.phase_space_form(mq.HeavyBall(sp.Symbol("beta", positive=True)), 3),
    "phase space of order 12": lambda: mq.phase_space_form(HB, 12),
    "state space": lambda: mq.state_space_form(mq.Nesterov(0.5), 4),
    "method": lambda: SYMBOL,
    "large method": lambda: mq.Epoch(HB, 40),
    "epoch of a symbol": lambda: mq.Epoch(HB, sp.Symbol("m")),
    "expected epoch": lambda: mq.Epoch(HB, 4).expected("replacement"),
    "tree": lambda: mq.Tree([[[]], []]),
    "coloured tree": lambda: mq.Tree(1, [(0, []), (2, [])]),
    "large tree": lambda: mq.Tree([[[], []]] * 40),
    "loss": loss,
    "losses": batches,
    "long loss": lambda: mq.SymbolicProblem(sum(sp.cos(k * x) * y**k for k in range(30)), [x, y]),
    "vector field": lambda: mq.VectorField([y, -x], [x, y]),
    "game": lambda: mq.problems.bilinear_game(),
    "torch problem": lambda: mq.TorchProblem(network()[0], nn.functional.cross_entropy, *network()[1]),
    "numpy problem": lambda: mq.NumpyProblem(lambda theta: -theta, 2),
    "trajectory": lambda: mq.iterate(HB, loss(), [1.0, 0.5], h=0.01, steps=3),
    "paths": lambda: mq.sample_iterates(GD, batches(), [1.0, 0.5], h=0.01, steps=3, paths=4, rng=0),
    "comparison": compared,
    "entry": lambda: compared().entries[0],
    "curvature": lambda: next(iter(compared().curvature.values())),
    "sweep": lambda: mq.sweep(np.reciprocal, list(np.arange(0.5, 100)), progress=False),
    "sweep of arrays": lambda: mq.sweep(np.eye, [20, 30, -1], progress=False),
    "failure": lambda: mq.sweep(partial(divmod, 1), [0], progress=False).failures[0],
    "observed order": lambda: mq.observed_order(GD, loss(), [1.0, 0.5], time=1.0, order=1),
    "charge equation": lambda: mq.project(SYMBOL, "scale", form="time"),
    "long charge equation": lambda: mq.project(GD, "rescale", order=7),
    "charges": charges,
    "found charge": lambda: charges().found[0],
    "graph": lambda: charges().graph,
    "translation": lambda: mq.Translation("<fc> & co", {"weight": 1}),
    "scale": lambda: mq.Scale("conv", {"conv.weight": (0, 4)}),
    "large scale": lambda: mq.Scale("all", {f"layers.{k}.weight": None for k in range(90)}),
    "rescale": lambda: charges()[0],
    "general linear": lambda: mq.GeneralLinear("m", {"0.weight": 0}, {"2.weight": 1}),
    "rotation": lambda: mq.Rotation("m", {"0.weight": 0}, {"2.weight": 1}),
    "diagonal": lambda: mq.DiagonalSymmetry("neuron", {"0.weight": 0, "2.weight": 1}, {"0.weight": 1, "2.weight": -2}),
    "affine": lambda: mq.AffineSymmetry("all", [f"layers.{k}.weight" for k in range(90)], np.diag(np.arange(1.0, 91))),
    "explanation": explained,
    "verification": verified,
    "verified": lambda: verified()[0],
    "noise": noise,
    "balance": balanced,
    "equilibrium": lambda: mq.equilibrium(mq.SGDStep(0.1, weight_decay=5e-4), 0.01),
    "damping": lambda: mq.damping_regime(mq.SGDStep(0.1, momentum=0.9, weight_decay=5e-4), degree=2),
    "step": lambda: mq.SGDStep(0.1, momentum=0.9),
    "tracker": tracked,
    "record": lambda: tracked().record,
    "charge record": lambda: tracked().record["0-2"],
    "count": counted,
    "polynomial laws": lambda: counted().polynomials(4),
    "study": lambda: mq.Study(Settings(), Path("nowhere"), {"failure": "training: interrupted"}),
}


@cache
def example(name):
    return EXAMPLES[name]()


def shown(name, kind):
    """What a notebook gets from an example in one format, None if it does not know it."""
    method = getattr(example(name), f"_repr_{kind}_", None)
    return None if method is None else method()


def test_every_public_class_has_an_example():
    bases = {base.__name__ for name in EXAMPLES for base in type(example(name)).__mro__}
    assert set() == CLASSES - bases - {"Status", "Problem"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_repr_is_a_short_line(name):
    text = repr(example(name))
    assert len(text) < 200
    assert "\n" not in text
    assert not re.search(r" at 0x|array\(|tensor\(", text)


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_printed_fits_a_screen(name):
    text = str(example(name))
    assert len(text) < 100 * MOST
    assert len(text.splitlines()) <= MOST + 5
    assert not re.search(r" at 0x|dtype=|\n\n\n", text)


def test_no_more_than_one_format_is_offered():
    formats = ("latex", "html", "svg", "markdown")
    offered = {name: [kind for kind in formats if shown(name, kind) is not None] for name in EXAMPLES}
    assert {name for name, kinds in offered.items() if len(kinds) > 1} == set()
    assert {name for name, kinds in offered.items() if not kinds} == {
        "gradient test", "epoch of a symbol", "expected epoch", "torch problem", "numpy problem", "trajectory", "paths",
        "entry", "curvature", "failure", "found charge", "graph", "verified", "equilibrium", "damping", "step",
    }  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_a_notebook_shows_is_well_formed(name):
    for html in filter(None, (shown(name, "html"), shown(name, "svg"))):
        assert len(html) < 30_000
        ElementTree.fromstring(f"<div>{html}</div>")
    formulas = [shown(name, "latex"), *re.findall(r"\$\$(.*?)\$\$", shown(name, "markdown") or "", re.DOTALL)]
    for latex in filter(None, formulas):
        convert = pytest.importorskip("latex2mathml.converter").convert
        assert len(latex) < 20_000
        mathml = convert(latex.strip("$"))
        ElementTree.fromstring(mathml.replace("&", "&amp;"))
        assert "\\" not in mathml
        for line in latex.split(r" \\ \displaystyle"):
            assert line.count(r"\left") == line.count(r"\right")


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_broken_formula_is_the_same_formula(name):
    latex = getattr(example(name), "latex", None)
    if latex is not None:
        bare = r"\$|\\left\.|\\right\.|\\begin{array}{l}|\\end{array}|\\displaystyle|\\q?quad| \\\\ |\s"
        assert re.sub(bare, "", lines(latex())) == re.sub(bare, "", latex())


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("equation of 200 trees", lambda e: sum(value != 0 for value in e.values())),
        ("equation of an epoch", lambda e: 60),
        ("gradient part", lambda e: len(e.terms)),
        ("long charge equation", lambda e: len(e.projected.terms)),
        ("state space", lambda e: sum(value != 0 for value in e.values())),
    ],
)
def test_what_is_left_out_is_counted(name, total):
    equation = example(name)
    text, left = re.fullmatch(r"(.*) … and ([\d,]+) more terms", str(equation), re.DOTALL).groups()
    right = re.sub(r"^[^=]* = ", "", text, flags=re.MULTILINE)
    without = right
    while "(" in without or "[" in without:  # coefficients
        without = re.sub(r"[(\[][^()\[\]]*[)\]]", "", without)
    terms = len(re.split(r" [+-] |\n", without))
    assert 0 < terms <= max(MOST, 2)
    assert terms + int(left.replace(",", "")) == total(equation)
    assert equation.text().startswith(text.splitlines()[0])
    assert rf"\text{{and {left} more terms}}" in equation._repr_latex_()


def test_rows_that_are_left_out_are_counted_and_the_table_has_them():
    sweep = example("sweep")
    assert len(sweep.table().splitlines()) == 100
    assert str(sweep).splitlines()[MOST:] == ["… and 60 more"]
    assert sweep._repr_html_().count("<tr>") == MOST + 1


def test_words_are_escaped():
    assert "&lt;fc&gt; &amp; co" in shown("translation", "html")
    assert Table((), [("a<b",)], "c<d", ["e<f"]).html().count("&lt;") == 3


def test_short_things_are_shown_whole():
    assert (cut("a\n b"), first([1, 2]), listed("ab")) == ("a b", [1, 2], "a, b")
    assert isinstance(example("equation"), Mapping)
    assert str(example("equation")) == example("equation").text()


def test_a_tree_is_drawn_with_its_root_below():
    vertices = ElementTree.fromstring(shown("tree", "svg")).findall("{*}circle")
    heights = [float(vertex.get("cy")) for vertex in vertices]
    assert len(vertices) == 4
    assert heights[-1] == max(heights)
