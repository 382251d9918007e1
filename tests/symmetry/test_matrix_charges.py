"""Matrix charges written by hand: their generators, identities and laws, and what is refused."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeq.errors import InvalidCharge, NoClosedLaw, UnsupportedOptimizer
from modeq.numeric.data import minibatches
from modeq.numeric.networks.gpt import gpt
from modeq.symmetry.charges import Charge
from modeq.symmetry.finding import find_charges
from modeq.symmetry.laws import SGDStep, discrete_step, rotation_step
from modeq.symmetry.matrix_charges import GeneralLinear, Rotation
from modeq.symmetry.noise import gradient_noise
from modeq.symmetry.records import Record
from modeq.symmetry.tracking import track
from modeq.symmetry.verification import verify

F64 = torch.float64
HEADS, SIZE, WIDTH = 2, 3, 6


class Attention(nn.Module):
    """One packed layer of attention with two heads, between an embedding by a linear map and a deep linear head."""

    def __init__(self):
        super().__init__()
        self.enter, self.qkv, self.out = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 5), nn.Linear(5, 4)

    def forward(self, x):
        x = torch.tanh(self.enter(x))
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        mixed = (q @ k.mT / SIZE**0.5).softmax(-1) @ v
        return self.down(self.up(torch.tanh(x + self.out(mixed.transpose(1, 2).flatten(-2)))))


def rows(start):
    return {f"qkv.{part}": (0, [range(start + SIZE * h, start + SIZE * (h + 1)) for h in range(HEADS)])
            for part in ("weight", "bias")}  # fmt: skip


CHARGES = (
    GeneralLinear("q-k", rows(0), rows(WIDTH)),
    GeneralLinear("v-o", rows(2 * WIDTH), {"out.weight": (1, HEADS)}),
    GeneralLinear("up-down", {"up.weight": 0, "up.bias": 0}, {"down.weight": 1}),
)


def attention(seed=0):
    torch.manual_seed(seed)
    return Attention().to(F64)


def sequences(count=32, seed=1):
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, 5, 4, generator=draw, dtype=F64) for _ in range(2))


def test_the_matrices_are_those_of_each_head():
    net = attention()
    parameters = CHARGES[0].parameters_of(net)
    w, b = net.qkv.weight.detach(), net.qkv.bias.detach()
    for head in range(HEADS):
        q, k = (slice(start + SIZE * head, start + SIZE * (head + 1)) for start in (0, WIDTH))
        expected = w[q] @ w[q].T + torch.outer(b[q], b[q]) - w[k] @ w[k].T - torch.outer(b[k], b[k])
        torch.testing.assert_close(CHARGES[0].matrix(parameters, parameters)[head].detach(), expected)
    v, c, o = w[2 * WIDTH :], b[2 * WIDTH :], net.out.weight.detach()
    parts = slice(0, SIZE), slice(SIZE, 2 * SIZE)
    expected = [v[s] @ v[s].T + torch.outer(c[s], c[s]) - o[:, s].T @ o[:, s] for s in parts]
    own = CHARGES[1].parameters_of(net)
    torch.testing.assert_close(CHARGES[1].matrix(own, own).detach(), torch.stack(expected))
    row, column = torch.triu_indices(SIZE, SIZE)
    assert torch.equal(CHARGES[1].value(own), CHARGES[1].matrix(own, own)[:, row, column].flatten())
    assert CHARGES[1].count(own) == HEADS * SIZE**2
    assert CHARGES[1].conserved(own) == HEADS * SIZE * (SIZE + 1) // 2


def fields(charge, parameters):
    """Each generator as one vector, from the definition (UX, −VXᵀ), a left factor's rows being those of Uᵀ."""
    heads, basis = charge.layout(parameters)
    found = []
    for part in ("s", "a"):
        for head in range(heads):
            for k in range(basis.number(part)):
                unit = torch.zeros(basis.number("s") + basis.number("a"), dtype=F64)
                unit[k + (basis.number("s") if part == "a" else 0)] = 1
                x = basis.combined(unit)
                moved = {name: torch.zeros_like(p) for name, p in parameters.items()}
                for factor in charge.factors:
                    u = factor.stack(parameters[factor.parameter], basis.size)
                    own = torch.zeros_like(u)
                    own[head] = (u[head].T @ x).T if factor.sign > 0 else -(u[head].T @ x.T).T
                    moved[factor.parameter] += factor.placed(own, parameters[factor.parameter])
                found.append(moved)
    return found


@pytest.mark.parametrize("charge", CHARGES, ids=lambda charge: charge.name)
def test_generators_norms_and_pairings_are_those_of_the_definition(charge):
    net = attention()
    theta = {name: p.detach() for name, p in charge.parameters_of(net).items()}
    draw = torch.Generator().manual_seed(3)
    y = {name: torch.randn(p.shape, generator=draw, dtype=F64) for name, p in theta.items()}
    xi = fields(charge, theta)
    assert len(xi) == charge.count(theta)
    along = torch.stack([sum((field[n] * y[n]).sum() for n in y) for field in xi])
    lengths = torch.stack([sum(field[n].square().sum() for n in y) for field in xi]).sqrt()
    torch.testing.assert_close(charge.pairing(theta, y), along)
    torch.testing.assert_close(charge.generator_norm(theta), lengths)
    c = torch.randn(len(xi), generator=draw, dtype=F64)
    for name, field in charge.moved(theta, c).items():
        torch.testing.assert_close(field, sum(a * one[name] for a, one in zip(c, xi, strict=True)))
    slope, other = charge.moved_slope(y, c), charge.moved(theta, c)  # ⟨(∂ξ)ᵀy, θ⟩ = ⟨y, ξ(θ)⟩
    assert sum((slope[n] * theta[n]).sum() for n in y) == pytest.approx(float(sum((y[n] * other[n]).sum() for n in y)))
    rotation = charge.rotation()
    torch.testing.assert_close(rotation.pairing(theta, y), along[charge.conserved(theta) :])
    matrix = charge.matrix(theta, y)
    torch.testing.assert_close(charge.matrix(y, theta), matrix.mT)


@pytest.mark.parametrize("charge", [*CHARGES, CHARGES[0].rotation()], ids=lambda charge: charge.name)
def test_they_are_symmetries_and_survive_plain_types(charge):
    net, batch = attention(), sequences()
    assert verify([charge], net, "mse", batch).passed(1e-12)
    assert Charge.from_dict(json.loads(json.dumps(charge.to_dict()))) == charge
    assert pickle.loads(pickle.dumps(charge)) == charge
    assert hash(Charge.from_dict(charge.to_dict())) == hash(charge)


FALSE = {
    "a bias forgotten": GeneralLinear("f", {"up.weight": 0}, {"down.weight": 1}),
    "heads mixed": GeneralLinear("f", {"qkv.weight": (0, [range(0, 6)]), "qkv.bias": (0, [range(0, 6)])},
                                 {"qkv.weight": (0, [range(6, 12)]), "qkv.bias": (0, [range(6, 12)])}),
    "heads exchanged": GeneralLinear("f", rows(0), {n: (0, [range(9, 12), range(6, 9)]) for n in rows(0)}),
    "the wrong side": GeneralLinear("f", {"up.weight": 0, "up.bias": 0, "down.weight": 1}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", FALSE)
def test_what_is_none_fails_in_each_column(name):
    entry = verify([FALSE[name]], attention(), "mse", sequences())[0]
    assert min(entry.gradient, entry.hessian, entry.action) > 1e-6
    assert not entry.passed(1e-9)


def test_noise_has_no_component_along_any_of_them():
    net, data = nn.Sequential(nn.Linear(3, 2, dtype=F64), nn.Linear(2, 3, dtype=F64)), torch.randn(200, 3, dtype=F64)
    charge = GeneralLinear("0-1", {"0.weight": 0, "0.bias": 0}, {"1.weight": 1})
    noise = gradient_noise([charge], net, "mse", (data, torch.randn(200, 3, dtype=F64)))
    assert noise.projections["0-1"] < 1e-14
    assert noise.lost == 4


KINDS = {
    "no momentum": {"momentum": 0.0},
    "heavy ball": {"momentum": 0.9},
    "dampened": {"momentum": 0.8, "dampening": 0.3},
    "Nesterov": {"momentum": 0.9, "nesterov": True},
}
STEPS = 500


def schedule(k):
    return 0.1 * min(1.0, (k + 1) / 50) * (1 + math.cos(math.pi * k / STEPS)) / 2 + 0.01


def gradients(net, steps=STEPS):
    x, y = sequences()
    for k, batch in enumerate(minibatches(len(x), 8, steps, seed=2)):
        net.zero_grad()
        F.mse_loss(net(x[batch]), y[batch]).backward()
        yield k


def with_buffers(net, optimizer):
    """Buffers as large as the parameters, from which there is a rotation."""
    draw = torch.Generator().manual_seed(4)
    for p in net.parameters():
        optimizer.state[p]["momentum_buffer"] = torch.randn(p.shape, generator=draw, dtype=p.dtype) * p.std()


@pytest.mark.some(2)
@pytest.mark.parametrize("kind, buffers", [*((kind, False) for kind in KINDS), ("dampened", True)])
def test_the_laws_of_whole_matrices_are_exact(kind, buffers):
    net = attention()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=1e-2, **KINDS[kind])
    if buffers:
        with_buffers(net, optimizer)
    charges = [*CHARGES, *(c.rotation() for c in CHARGES)] if kind in ("heavy ball", "dampened") else CHARGES
    with track(net, optimizer, charges, every=10, laws=["discrete", "with_defect", "corrected"]) as tracker:
        for k in gradients(net):
            optimizer.param_groups[0]["lr"] = schedule(k)
            optimizer.step()
    assert max(tracker.residual().values()) < 1e-13
    assert max(tracker.residual("with_defect").values()) < 1e-13
    assert max(tracker.symmetry_defect().values()) < 1e-14
    changed = tracker.record["q-k"].measured
    assert np.abs(changed - changed[0]).max() > 1e-2 * np.abs(changed[0]).max()
    corrected = tracker.residual("corrected")
    assert 1e-9 < corrected["q-k"] < 0.1  # an approximation, whose buffers may be large


@pytest.mark.some(1)
@pytest.mark.parametrize("kind", KINDS)
def test_the_laws_of_whole_matrices_are_exact_under_decoupled_decay(kind):
    """torch's SGD has none: it is done beside it, and so is the recursion, as mathematics has it."""
    net, decay = attention(), 2e-2
    parameters = list(net.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1, **KINDS[kind])
    known = {c: c.parameters_of(net) for c in CHARGES}
    states = {c: (c.matrix(own, own).detach(), 0.0) for c, own in known.items()}
    for k in gradients(net):
        group = optimizer.param_groups[0]
        group["lr"] = schedule(k)
        step = SGDStep(group["lr"], group["momentum"], group["dampening"], decay, group["nesterov"], decoupled=True)
        before = [p.grad.clone() for p in parameters]
        with torch.no_grad():
            for p in parameters:
                p.sub_(step.h * decay * p)
        optimizer.step()
        buffers = {p: g if step.momentum == 0 else optimizer.state[p]["momentum_buffer"]
                   for p, g in zip(parameters, before, strict=True)}  # fmt: skip
        updates = {p: g + step.momentum * buffers[p] if step.nesterov else buffers[p]
                   for p, g in zip(parameters, before, strict=True)}  # fmt: skip
        for c, own in known.items():
            v, u = ({n: of[p] for n, p in own.items()} for of in (buffers, updates))
            forcing, cross = c.matrix(u, u), c.matrix(u, v)
            states[c] = discrete_step(*states[c], step, forcing, (cross + cross.mT) / 2, degree=2, first=k == 0)
    for c, own in known.items():
        size = c.normaliser(own).detach().max()
        assert (states[c][0] - c.matrix(own, own).detach()).abs().max() < 1e-12 * size


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("dampening", [0.0, 0.4])
def test_a_rotation_shrinks_by_beta_over_all_that_can_be_resolved(dampening, decoupled):
    """From buffers as large as the parameters to rounding, sixteen orders of magnitude, through noise and decay."""
    net, beta, decay = attention(), 0.7, 0.05
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=beta, dampening=dampening,
                                weight_decay=0.0 if decoupled else decay)  # fmt: skip
    with_buffers(net, optimizer)
    rotations = [c.rotation() for c in CHARGES]
    known = {c: c.parameters_of(net) for c in rotations}

    def turning(c):
        return c.pairing(known[c], {n: optimizer.state[p]["momentum_buffer"] for n, p in known[c].items()}).detach()

    start = {c: turning(c) for c in rotations}
    step = SGDStep(0.05, beta, dampening, decay, decoupled=decoupled)
    factor = rotation_step(1.0, step)
    assert factor == pytest.approx(beta * (1 - 0.05 * decay if decoupled else 1))
    buffers = {c: {n: optimizer.state[p]["momentum_buffer"] for n, p in own.items()} for c, own in known.items()}
    size = max(float(c.sizes(known[c], buffers[c]).detach().max()) for c in rotations)
    last = math.ceil(math.log(1e-16) / math.log(beta))
    for k in gradients(net, last):
        if decoupled:
            with torch.no_grad():
                for p in net.parameters():
                    p.sub_(0.05 * decay * p)
        optimizer.step()
        for c in rotations:
            assert (turning(c) - factor ** (k + 1) * start[c]).abs().max() < 1e-14 * size
    assert all(turning(c).abs().max() < 1e-13 < 1e-2 < start[c].abs().max() for c in rotations)


def test_the_rotations_that_a_transformer_has_shrink_with_every_step_of_its_training():
    """All that are found, over some sixteen orders of magnitude, with minibatches of tokens, dropout and decay."""
    beta = 0.7
    net = gpt(layers=2, heads=2, dim=8, vocabulary=11, context=6, dropout=0.1, dtype=F64)
    tokens = torch.randint(0, 11, (64, 7), generator=torch.Generator().manual_seed(5))
    found = find_charges(net, tokens[:2, :-1], "cross_entropy")
    rotations = [charge.rotation() for charge in found if isinstance(charge, GeneralLinear)]
    assert len(rotations) == 4  # queries and keys, values and output, in each of two layers
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=beta, weight_decay=0.05)
    with_buffers(net, optimizer)
    last = math.ceil(math.log(1e-16) / math.log(beta))
    torch.manual_seed(0)
    with track(net, optimizer, rotations, keep=last + 1) as tracker:
        for batch in minibatches(len(tokens), 8, last, seed=2):
            net.zero_grad()
            F.cross_entropy(net(tokens[batch, :-1]).flatten(0, 1), tokens[batch, 1:].flatten()).backward()
            optimizer.step()
    for record in tracker.record.charges.values():
        powers = beta ** np.arange(last + 1.0)[:, None]
        assert np.abs(record.measured - powers * record.measured[0]).max() < 1e-14 * record.normaliser.max()
        assert np.abs(record.measured[-1]).max() < 1e-13 * np.abs(record.measured[0]).max()


def test_from_no_buffer_there_is_no_rotation_and_the_article_decays_otherwise():
    net = attention()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    rotations = [c.rotation() for c in CHARGES]
    with track(net, optimizer, rotations) as tracker:
        for _ in gradients(net, 10):
            optimizer.step()
    assert max(np.abs(tracker.record[c.name].measured).max() for c in rotations) < 1e-14
    with_buffers(net, optimizer)
    with track(net, optimizer, rotations) as tracker:
        for _ in gradients(net, 10):
            optimizer.step()
    record = tracker.record[rotations[0].name]
    expected = record.measured[0] * math.exp(-2 * 10 * 0.1 / 1.9)
    np.testing.assert_allclose(record.predicted["article"][-1], expected)
    np.testing.assert_allclose(record.predicted["corrected"][-1], record.measured[0] * 0.9**10)


def test_the_record_has_matrices_and_their_invariants(tmp_path):
    net = attention()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    with track(net, optimizer, CHARGES) as tracker:
        for _ in gradients(net, 5):
            optimizer.step()
    tracker.record.save(tmp_path / "record.npz")
    record = Record.load(tmp_path / "record.npz")["v-o"]
    own = CHARGES[1].parameters_of(net)
    last = CHARGES[1].matrix(own, own).detach().numpy()
    np.testing.assert_allclose(record.matrix()[-1], last, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(record.matrix("discrete")[-1], last, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(record.trace()[-1], [np.trace(m) for m in last])
    np.testing.assert_allclose(record.spectrum()[-1], [np.linalg.eigvalsh(m) for m in last])
    np.testing.assert_allclose(record.off_diagonal()[-1], [np.linalg.norm(m - np.diag(np.diag(m))) for m in last])
    squares = [p.detach().square() for p in own.values()]
    assert record.normaliser[-1].sum() / (SIZE * (SIZE + 1) / 2) == pytest.approx(
        float(squares[0][2 * WIDTH :].sum() + squares[1][2 * WIDTH :].sum() + squares[2].sum())
    )
    with pytest.raises(NoClosedLaw, match="law is 'observed': choose from discrete"):
        record.matrix("observed")


def test_under_another_optimizer_the_updates_are_added_up():
    net = attention()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    with track(net, optimizer, CHARGES) as tracker:
        for _ in gradients(net, 20):
            optimizer.step()
    assert max(tracker.residual("observed").values()) < 1e-13


def test_half_precision_is_read_in_single_and_few_digits_of_products_are_not_enough():
    net = attention().to(torch.float32)
    before = torch.get_float32_matmul_precision()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    x, y = (part.float() for part in sequences())
    torch.set_float32_matmul_precision("medium")
    try:
        with track(net, optimizer, CHARGES, laws=["discrete"]) as tracker:
            for _ in range(100):
                optimizer.zero_grad()
                F.mse_loss(net(x), y).backward()
                optimizer.step()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert max(tracker.residual().values()) < 1e-5
    half = attention().to(torch.bfloat16)
    with track(half, torch.optim.SGD(half.parameters(), lr=0.1), CHARGES) as tracker:
        pass
    own = {n: p.detach().double() for n, p in CHARGES[1].parameters_of(half).items()}
    np.testing.assert_allclose(tracker.record["v-o"].measured[0], CHARGES[1].value(own), atol=1e-6)


def grouped():
    """Four heads of queries for two of keys."""
    net = nn.Module()
    net.q, net.k = nn.Linear(5, 8, dtype=F64), nn.Linear(5, 4, dtype=F64)
    return net, GeneralLinear("q-k", {"q.weight": (0, 2), "q.bias": (0, 2)}, {"k.weight": (0, 2), "k.bias": (0, 2)})


def test_queries_of_one_group_are_mixed_alike():
    net, charge = grouped()
    own = {name: p.detach() for name, p in charge.parameters_of(net).items()}
    q, b, k, c = (own[name] for name in ("q.weight", "q.bias", "k.weight", "k.bias"))
    expected = []
    for group in range(2):
        total = -k[2 * group : 2 * group + 2] @ k[2 * group : 2 * group + 2].T
        total = total - torch.outer(c[2 * group : 2 * group + 2], c[2 * group : 2 * group + 2])
        for head in (2 * group, 2 * group + 1):
            rows = slice(2 * head, 2 * head + 2)
            total = total + q[rows] @ q[rows].T + torch.outer(b[rows], b[rows])
        expected.append(total)
    torch.testing.assert_close(charge.matrix(own, own), torch.stack(expected))
    moved = charge.acted(own, charge.drawn(own, torch.Generator().manual_seed(0)))
    x = torch.randn(7, 5, dtype=F64)

    def scores(parameters):
        queries = (x @ parameters["q.weight"].T + parameters["q.bias"]).unflatten(-1, (4, 2))
        keys = (x @ parameters["k.weight"].T + parameters["k.bias"]).unflatten(-1, (2, 2)).repeat_interleave(2, 1)
        return torch.einsum("thd,shd->hts", queries, keys)

    torch.testing.assert_close(scores(moved), scores(own))
    assert not torch.allclose(moved["q.weight"], own["q.weight"])


PLANE = [[[0, 0, 1], [1, 1, 1]], [[0, 1, -1], [1, 0, 1]]]


def test_a_basis_of_some_matrices():
    u = torch.randn(2, 3, dtype=F64)
    charge = GeneralLinear("plane", {"u": 0}, {"v": 0}, basis=PLANE[::-1])
    own, other = ({"u": torch.randn(2, 3, dtype=F64), "v": torch.randn(2, 4, dtype=F64)} for _ in range(2))
    matrix = charge.matrix(own, other)[0]
    expected = [matrix[0, 0] + matrix[1, 1], matrix[1, 0] - matrix[0, 1]]
    torch.testing.assert_close(charge.pairing(own, other), torch.stack(expected))
    torch.testing.assert_close(charge.rotation().pairing(own, other), expected[1][None])
    assert (charge.count(own), charge.conserved(own)) == (2, 1)
    size = sum(part.square().sum() for part in own.values()).sqrt()
    torch.testing.assert_close(charge.generator_norm(own), size.expand(2))
    assert Charge.from_dict(charge.to_dict()) == charge != GeneralLinear("plane", {"u": 0}, {"v": 0})
    assert repr(charge) == "GeneralLinear('plane', left={'u': 0}, right={'v': 0}, basis=2 matrices)"
    turned = charge.acted(own, torch.tensor([0.0, math.pi / 2], dtype=F64))
    torch.testing.assert_close(turned["u"], torch.stack([own["u"][1], -own["u"][0]]))
    del u


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: GeneralLinear("m", {}, {}), "charge 'm' names no parameter; give at least one"),
        (lambda: GeneralLinear("m", ["u"], {}), r"charge 'm', left, gets \['u'\] for its parameters; give a mapping"),
        (lambda: GeneralLinear("m", {0: 0}, {}), "left, names the parameter 0; give a string"),
        (lambda: GeneralLinear("m", {"u": None}, {}), "the axis of 'u' is None; give an integer, a pair"),
        (lambda: GeneralLinear("m", {"u": True}, {}), "the axis of 'u' is True"),
        (
            lambda: GeneralLinear("m", {"u": (0, [[0], [1, 2]])}, {}),
            "the heads of 'u' are",
        ),
        (lambda: GeneralLinear("m", {"u": 0}, {}, basis=3), "basis is 3; give matrices"),
        (lambda: GeneralLinear("m", {"u": 0}, {}, basis=[]), r"basis is \[\]; give one matrix at least"),
        (lambda: GeneralLinear("m", {"u": 0}, {}, basis=[[(0, 1, 1)]]), "neither symmetric nor antisymmetric"),
        (lambda: grouped()[1].parameters_of(nn.Linear(2, 2)), "the module has no parameter 'q.weight'"),
        (
            lambda: GeneralLinear("m", {"weight": 2}, {}).parameters_of(nn.Linear(2, 2)),
            "no axis 2; give",
        ),
        (lambda: GeneralLinear("m", {"weight": (0, 3)}, {}).parameters_of(nn.Linear(2, 2)), "into 3 equal heads"),
        (lambda: GeneralLinear("m", {"weight": (0, [[5]])}, {}).parameters_of(nn.Linear(2, 2)), "index 5 lies"),
        (
            lambda: GeneralLinear("m", {"weight": 0}, {"bias": (0, 2)}).parameters_of(nn.Linear(2, 4)),
            "heads of",
        ),
        (
            lambda: GeneralLinear("m", {"weight": 0}, {}, basis=[[(4, 4, 1)]]).parameters_of(nn.Linear(2, 4)),
            "index 4",
        ),
        (lambda: Rotation("m", {"weight": 0}, {}).parameters_of(nn.Linear(2, 1)), "no antisymmetric matrix"),
    ],
)
def test_what_makes_no_sense_is_refused(build, message):
    with pytest.raises(InvalidCharge, match=message):
        build()


def test_rotations_are_followed_under_momentum_alone():
    net, rotation = attention(), CHARGES[0].rotation()
    for options in ({"momentum": 0.9, "nesterov": True}, {}):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, **options)
        with pytest.raises(NoClosedLaw, match="charge 'q-k rotation' is a rotation, and has no closed law under"):
            track(net, optimizer, [rotation])
        with pytest.raises(NoClosedLaw, match="a rotation has no closed law under"):
            rotation_step(1.0, SGDStep(0.1, **options))
    with pytest.raises(NoClosedLaw, match="only the laws of torch.optim.SGD read these"):
        track(net, torch.optim.AdamW(net.parameters()), [rotation])
    with pytest.raises(UnsupportedOptimizer, match="does not obey them"):
        track(net, torch.optim.AdamW(net.parameters()), [rotation], laws=["discrete"])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    with track(net, optimizer, [rotation]) as tracker:
        optimizer.param_groups[0]["nesterov"] = True
        for _ in gradients(net, 1):
            with pytest.raises(NoClosedLaw, match="leave the charge out"):
                optimizer.step()
    with pytest.raises(InvalidCharge, match="'q-k rotation' is no whole matrix"):
        tracker.record["q-k rotation"].matrix()


def test_records_of_many_entries_keep_fewer_rows():
    net = nn.Sequential(nn.Linear(3, 300, bias=False), nn.Linear(300, 2, bias=False))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with track(net, optimizer, [GeneralLinear("0-1", {"0.weight": 0}, {"1.weight": 1})]) as tracker:
        pass
    assert tracker._keep == 2**27 // (300 * 301 // 2 * 5)
