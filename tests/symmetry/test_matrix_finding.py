"""Matrix charges are found in any writing of what is linear, and nowhere else; what is found is verified."""

import pytest
import torch
from attention_writings import F64, HEADS, SIZE, WIDTH, CrossAttention, Grouped, MultiHead, Packed, Rotary, Separate
from test_random_networks import affine_symmetries
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeq.numeric.networks.gpt import gpt
from modeq.symmetry.finding import find_charges
from modeq.symmetry.found import Charges
from modeq.symmetry.graph import drawing
from modeq.symmetry.matrix_charges import GeneralLinear
from modeq.symmetry.tracking import track
from modeq.symmetry.verification import verify


def sequences(count=3, length=5, width=WIDTH, seed=0):
    return torch.randn(count, length, width, generator=torch.Generator().manual_seed(seed), dtype=F64)


def built(build, *arguments, **options):
    torch.manual_seed(0)
    return build(*arguments, **options).to(F64)


def found_in(module, inputs, loss="mse"):
    """The matrix charges, of which each is verified, as are all charges beside them."""
    charges = find_charges(module, inputs, loss)
    assert not charges.unknown
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        output = module(*inputs) if isinstance(inputs, tuple) else module(inputs)
        target = torch.randn_like(output) if loss == "mse" else torch.randint(0, output.shape[-1], output.shape[:-1])
    report = verify(charges, module, loss, (inputs, target))
    exact = [entry for entry, found in zip(report, charges.found, strict=True) if found.exact]
    assert all(entry.passed(1e-12) for entry in exact), report.table()
    assert Charges.from_dict(charges.to_dict()).table() == charges.table()
    assert drawing(charges.graph, charges.found)
    return [charge for charge in charges if isinstance(charge, GeneralLinear)]


def rows(start, stop, size, stride=None):
    return tuple(range(first, first + size) for first in range(start, stop, stride or size))


def both(name, axis):
    return {f"{name}weight": axis, f"{name}bias": axis}


# Layers, and the tables of what is found: left, right.
LINEAR = {
    "two maps": ([nn.Linear(3, 4), nn.Linear(4, 2)], [(both("0.", 0), {"1.weight": 1})]),
    "three maps": (
        [nn.Linear(3, 4), nn.Linear(4, 5, bias=False), nn.Linear(5, 2)],
        [(both("0.", 0), {"1.weight": 1}), ({"1.weight": 0}, {"2.weight": 1})],
    ),
    "dropout that is off": ([nn.Linear(3, 4), nn.Dropout(0.0), nn.Linear(4, 2)], [(both("0.", 0), {"2.weight": 1})]),
    "an activation in between": ([nn.Linear(3, 4), nn.LeakyReLU(), nn.Linear(4, 2)], []),
    "dropout that is on": ([nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)], []),
    "a gain in between": ([nn.Linear(3, 4), nn.BatchNorm1d(4, eps=1e-30), nn.Linear(4, 2)], []),
    "a single coordinate": ([nn.Linear(3, 1), nn.Linear(1, 2)], []),
    "a layer norm with a gain": ([nn.Linear(3, 4), nn.LayerNorm(4, eps=1e-30), nn.Linear(4, 2)], []),
}


@pytest.mark.parametrize("name", LINEAR)
def test_between_linear_maps(name):
    layers, expected = LINEAR[name]
    charges = found_in(nn.Sequential(*layers).to(F64), torch.randn(6, 3, dtype=F64))
    assert [GeneralLinear(c.name, *sides) for c, sides in zip(charges, expected, strict=True)] == charges


class Formula(nn.Module):
    def __init__(self, formula, **parts):
        super().__init__()
        self.formula = formula
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.formula(self, *inputs)


def parameter(*shape):
    return nn.Parameter(torch.randn(*shape))


def adapter(formula):
    """A low-rank update of a frozen map, in torch's storage: A reads, B writes."""
    module = Formula(formula, base=nn.Linear(3, 4), a=parameter(2, 3), b=parameter(4, 2))
    module.base.requires_grad_(False)
    return module


ADAPTERS = {
    "one after the other": lambda m, x: m.base(x) + 0.5 * (x @ m.a.T) @ m.b.T,
    "merged into the weight": lambda m, x: F.linear(x, m.base.weight + 0.5 * m.b @ m.a, m.base.bias),
    "as layers": lambda m, x: torch.tanh(m.base(x) + F.linear(F.linear(F.dropout(x, 0.0), m.a), m.b) * 0.5),
}


@pytest.mark.parametrize("writing", ADAPTERS)
def test_low_rank_adapters(writing):
    (charge,) = found_in(built(adapter, ADAPTERS[writing]), torch.randn(6, 3, dtype=F64))
    assert charge in (GeneralLinear("a-b", {"a": 0}, {"b": 1}), GeneralLinear("b-a", {"b": 1}, {"a": 0}))


FACTORISATIONS = {
    "rows times rows": lambda m, i, j: (m.u(i) * m.v(j)).sum(-1),
    "letters": lambda m, i, j: torch.einsum("nr,nr->n", m.u(i), m.v(j)),
}


@pytest.mark.parametrize("writing", FACTORISATIONS)
def test_a_matrix_factorisation(writing):
    module = built(Formula, FACTORISATIONS[writing], u=nn.Embedding(5, 3), v=nn.Embedding(4, 3))
    (charge,) = found_in(module, (torch.tensor([0, 1, 4, 2]), torch.tensor([3, 1, 0, 0])))
    assert charge == GeneralLinear("u-v", {"u.weight": 1}, {"v.weight": 1})


def test_a_matrix_factorisation_of_the_whole_matrix():
    module = built(Formula, lambda m, x: x * (m.u @ m.v.T), u=parameter(5, 3), v=parameter(4, 3))
    (charge,) = found_in(module, torch.randn(2, 5, 4, dtype=F64))
    assert charge == GeneralLinear("v-u", {"v": 1}, {"u": 1})


def test_convolutions_with_an_average_between_them():
    layers = [nn.Conv2d(2, 3, 3, padding=1), nn.AvgPool2d(2), nn.Conv2d(3, 2, 2), nn.ConvTranspose2d(2, 2, 2)]
    charges = found_in(built(nn.Sequential, *layers), torch.randn(2, 2, 6, 6, dtype=F64))
    expected = [(both("0.", 0), {"2.weight": 1}), (both("2.", 0), {"3.weight": 0})]
    assert [GeneralLinear(c.name, *sides) for c, sides in zip(charges, expected, strict=True)] == charges
    pooled = [nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.Conv2d(3, 2, 2)]
    assert found_in(built(nn.Sequential, *pooled), torch.randn(2, 2, 6, 6, dtype=F64)) == []


def test_what_two_maps_write_and_three_read():
    module = built(
        Formula,
        lambda m, x: m.head(m.a(x) + m.b(x.tanh())) + m.inner(m.a(x) + m.b(x.tanh())).relu() @ m.last,
        **{name: nn.Linear(3, 4) for name in "ab"}, head=nn.Linear(4, 2), inner=nn.Linear(4, 5), last=parameter(5, 2),
    )  # fmt: skip
    (charge,) = found_in(module, torch.randn(6, 3, dtype=F64))
    assert charge == GeneralLinear(charge.name, both("a.", 0) | both("b.", 0), {"head.weight": 1, "inner.weight": 1})


def test_a_map_that_writes_what_it_reads_is_on_both_sides():
    """h + Wh: W turns into e^X W e^(−X)."""
    module = built(
        Formula, lambda m, x: m.head(m.stem(x) + m.w(m.stem(x))), stem=nn.Linear(3, 4, False), w=nn.Linear(4, 4, False),
        head=nn.Linear(4, 2),
    )  # fmt: skip
    (charge,) = found_in(module, torch.randn(6, 3, dtype=F64))
    assert charge == GeneralLinear(charge.name, {"stem.weight": 0, "w.weight": 0}, {"w.weight": 1, "head.weight": 1})


def test_tied_maps_and_norms_without_a_gain_may_be_turned_only():
    tied = built(Formula, lambda m, i: m.table(i) @ m.table.weight.T, table=nn.Embedding(5, 3))
    (charge,) = found_in(tied, torch.tensor([0, 1, 4, 2]))
    assert len(charge.elements) == 3
    assert charge.conserved(charge.parameters_of(tied)) == 0
    optimizer = torch.optim.SGD(tied.parameters(), lr=0.1, momentum=0.9)
    with track(tied, optimizer, [charge]) as tracker:
        F.mse_loss(tied(torch.tensor([0, 1])), torch.zeros(2, 5, dtype=F64)).backward()
        optimizer.step()
    assert tracker.residual() == {charge.name: 0.0}
    assert "at the level of rounding" in tracker.explain()[charge.name]
    x = torch.randn(6, 3, dtype=F64)
    norm = nn.RMSNorm(4, eps=1e-30, elementwise_affine=False)
    (charge,) = found_in(built(nn.Sequential, nn.Linear(3, 4, False), norm, nn.Linear(4, 2)), x)
    assert len(charge.elements) == 4 * 3 // 2
    norm = nn.LayerNorm(4, eps=1e-30, elementwise_affine=False)  # what is turned about the vector of ones
    (charge,) = found_in(built(nn.Sequential, nn.Linear(3, 4, False), norm, nn.Linear(4, 2)), x)
    assert len(charge.elements) == 3 * 2 // 2


# --- attention --------------------------------------------------------------------------------------------------------

IN, OUT = "attention.in_proj_", {"attention.out_proj.weight": (1, HEADS)}
HEAD_ROWS = [rows(k * WIDTH, (k + 1) * WIDTH, SIZE) for k in range(3)]
INTERLEAVED = [rows(k * SIZE, 3 * WIDTH, SIZE, 3 * SIZE) for k in range(3)]
ATTENTION = {
    "nn.MultiheadAttention": (MultiHead, {}, IN, HEAD_ROWS, OUT),
    "keys and values from elsewhere": (CrossAttention, {}, IN, HEAD_ROWS, OUT),
    "packed, fused": (Packed, {}, "qkv.", HEAD_ROWS, {"out.weight": (1, HEADS)}),
    "packed head by head": (Packed, {"by_heads": True}, "qkv.", INTERLEAVED, {"out.weight": (1, HEADS)}),
}


@pytest.mark.parametrize("writing", ATTENTION)
def test_packed_attention(writing):
    build, options, name, heads, out = ATTENTION[writing]
    charges = found_in(built(build, **options), sequences())
    q, k, v = ({f"{name}{part}": (0, own) for part in ("weight", "bias")} for own in heads)
    assert charges == [GeneralLinear(charges[0].name, q, k), GeneralLinear(charges[1].name, v, out)]
    assert charges[0].name == name[:-1].replace(".in_proj", "").rstrip(".") + ".q-k"


@pytest.mark.parametrize("letters", [False, True])
def test_attention_of_separate_maps(letters):
    charges = found_in(built(Separate, letters), sequences())
    heads = 0, HEADS
    assert charges == [
        GeneralLinear("q-k", both("q.", heads), both("k.", heads)),
        GeneralLinear("v-o", both("v.", heads), {"o.weight": (1, HEADS)}),
    ]


@pytest.mark.parametrize("writing", ["torch", "repeated", "expanded", "an axis of groups"])
def test_grouped_queries_have_one_matrix_for_each_group(writing):
    module = built(Grouped, writing)
    charges = found_in(module, sequences())
    assert charges == [
        GeneralLinear("q-k", both("q.", (0, 2)), both("k.", (0, 2))),
        GeneralLinear("v-o", both("v.", (0, 2)), {"o.weight": (1, 2)}),
    ]
    assert [charge.count(charge.parameters_of(module)) for charge in charges] == [2 * 2**2] * 2


PLANES = {"neighbours": ((0, 1), (2, 3)), "halves": ((0, 2), (1, 3)), "complex": ((0, 1), (2, 3)),
          "rotate half": ((0, 2), (1, 3))}  # fmt: skip


def complex_numbers(planes):
    return [element for i, j in planes for element in ([(i, i, 1), (j, j, 1)], [(i, j, 1), (j, i, -1)])]


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("way", PLANES)
def test_between_rotated_queries_and_keys_complex_numbers_commute(way, early):
    charges = found_in(built(Rotary, way, early=early), sequences())
    heads = 0, 2
    basis = complex_numbers(PLANES[way])
    assert charges == [
        GeneralLinear("q-k", both("q.", heads), both("k.", heads), basis),
        GeneralLinear("v-o", both("v.", heads), {"o.weight": (1, 2)}),
    ]


OTHER_ROTATIONS = {
    "two planes with one angle": ({"angles": (0.4, 0.4)}, 2 * 2 * 2),  # complex 2×2 matrices
    "a plane that stays": ({"angles": (0.4,)}, 2 + 2 * 2),
    "an angle of 0": ({"angles": (0.4, 0.0)}, 2 + 2 * 2),
    "an angle of a half turn": ({"angles": (0.4, torch.pi)}, 2 + 2 * 2),  # ±1
    "one head of keys": ({"shared": True}, 2 + 2),
    "opposite angles": ({"angles": (0.4, -0.4)}, 2 * 2 * 2),
}


@pytest.mark.parametrize("case", OTHER_ROTATIONS)
def test_other_rotations_leave_what_commutes_with_them(case):
    options, expected = OTHER_ROTATIONS[case]
    charges = found_in(built(Rotary, **options), sequences())
    assert [len(c.elements) if c.elements else None for c in charges] == [expected, None]


def test_from_a_single_token_nothing_is_concluded_about_rotations():
    charges = find_charges(built(Rotary), sequences(length=1), "mse")
    assert [c.name for c in charges if isinstance(c, GeneralLinear)] == ["v-o"]
    assert [type(c).__name__ for c in charges][:2] == ["Rescale", "GeneralLinear"]  # the factors of planes stay


def test_queries_and_keys_that_are_rotated_differently_have_less():
    class Twisted(Rotary):
        def _turned(self, x):
            return super()._turned(x) * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64)

    charges = found_in(built(Twisted), sequences())
    # q·RᵀD²R·k: stretched planes commute with factors of each alone, and these are rescale charges
    assert [c.name for c in charges] == ["v-o"]


def test_positions_that_are_given_are_not_known():
    class Given(Rotary):
        def forward(self, x, positions):
            self.positions = positions
            return super().forward(x)

        def _turned(self, x):
            turn = self.positions[..., None] * self.angles
            return torch.stack([x[..., ::2] * turn.cos() - x[..., 1::2] * turn.sin(),
                                x[..., ::2] * turn.sin() + x[..., 1::2] * turn.cos()], -1).flatten(-2)  # fmt: skip

    charges = found_in(built(Given), (sequences(), torch.arange(5, dtype=F64)))
    assert [c.name for c in charges] == ["v-o"]


@pytest.mark.some(1)
@pytest.mark.parametrize("packed, tied, fused", [(True, True, True), (True, False, False), (False, False, True)])
def test_gpt(packed, tied, fused):
    net = gpt(layers=2, heads=2, dim=8, vocabulary=11, context=5, tied=tied, packed=packed, fused=fused, dtype=F64)
    charges = found_in(net, torch.randint(0, 11, (3, 5)), "cross_entropy")
    sizes = [charge.count(charge.parameters_of(net)) for charge in charges]
    assert sizes == [2 * 4**2] * 4
    names = ["qkv.q-k", "qkv-{}projection"] if packed else ["query-{}key", "value-{}projection"]
    expected = [f"{block}{name.format(block)}" for block in ("blocks.0.", "blocks.1.") for name in names]
    assert [charge.name for charge in charges] == expected


def test_a_long_short_term_memory_has_none():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    charges = find_charges(built(Recurrent), sequences(width=3), "mse")
    assert not [charge for charge in charges if isinstance(charge, GeneralLinear)]


# --- no more, no less -------------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    """Attention with one head of size 2, rotated or not, whose affine symmetries can be counted."""

    def __init__(self, rotated=False, heads=1):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(2, 2 * n, bias=False) for n in (heads, 1, 1))
        self.o = nn.Linear(2 * heads, 2, bias=False)
        self.rotated, self.heads = rotated, heads

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (-1, 2)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.rotated:
            angles = torch.tensor([1.0], dtype=x.dtype)
            turn = torch.outer(torch.arange(x.shape[1], dtype=x.dtype), angles)
            q, k = (torch.cat([a * turn.cos() - b * turn.sin(), a * turn.sin() + b * turn.cos()], -1)
                    for a, b in (part.chunk(2, -1) for part in (q, k)))  # fmt: skip
        return self.o(((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).flatten(-2))


@pytest.mark.parametrize("options, expected", [({}, 4 + 4), ({"rotated": True}, 2 + 4), ({"heads": 2}, 4 + 4)], ids=str)
def test_there_are_no_other_affine_symmetries_of_attention(options, expected):
    module = built(Tiny, **options)

    def draw(generator):
        return tuple(torch.randn(3, 4, 2, generator=generator, dtype=F64) for _ in range(2))

    charges = found_in(module, draw(torch.Generator().manual_seed(0))[0])
    assert sum(charge.count(charge.parameters_of(module)) for charge in charges) == expected
    with sdpa_kernel(SDPBackend.MATH):
        null = affine_symmetries(module, F.mse_loss, draw)
    assert null.gap > 1e6
    assert len(null.fields) == expected
