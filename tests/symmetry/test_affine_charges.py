"""Charges that are given by matrices and constants: definition, identities and laws; and exponents that differ."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeq.errors import InvalidCharge, NoClosedLaw
from modeq.symmetry.affine_charges import AffineSymmetry
from modeq.symmetry.balance import balance
from modeq.symmetry.charges import Charge, DiagonalSymmetry, Rescale, Scale, Translation
from modeq.symmetry.finding import find_charges
from modeq.symmetry.laws import SGDStep, discrete_step
from modeq.symmetry.matrix_charges import GeneralLinear
from modeq.symmetry.noise import gradient_noise
from modeq.symmetry.records import Record
from modeq.symmetry.tracking import track
from modeq.symmetry.verification import verify

F64 = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# --- networks with symmetries that no other family has ----------------------------------------------------------------


class Lorentz(nn.Module):
    """Points of one table are compared by an indefinite product: what leaves it is a group of boosts and turns."""

    def __init__(self):
        super().__init__()
        self.points = nn.Parameter(drawn(6, 3))
        self.register_buffer("metric", torch.tensor([-1.0, 1.0, 1.0], dtype=F64))

    def forward(self, i):
        return (self.points[i] * self.metric) @ self.points.T


def plane(i, j, sign):
    """The generator that mixes two coordinates of each point."""
    x = torch.zeros(3, 3, dtype=F64)
    x[i, j], x[j, i] = 1.0, sign
    return torch.kron(torch.eye(6, dtype=F64), x)


BOOSTS = AffineSymmetry("boosts", ["points"], torch.stack([plane(0, 1, 1), plane(0, 2, 1)]))
TURN = AffineSymmetry("turn", ["points"], plane(1, 2, -1))


class Shifted(nn.Module):
    """A gain that is written as 1 + γ, before a linear map with a bias and a softmax."""

    def __init__(self):
        super().__init__()
        self.gain, self.head = nn.Parameter(0.3 * drawn(3)), nn.Linear(3, 6, dtype=F64)

    def forward(self, i):
        return self.head(drawn(6, 3, seed=5)[i] * (1 + self.gain))


def gains():
    """γ_k + 1 is multiplied, and divided the column that reads it."""
    generators, constants = torch.zeros(3, 21, 21), torch.zeros(3, 21)
    for k in range(3):
        generators[k, k, k] = constants[k, k] = 1
        for row in range(6):
            generators[k, 3 + 3 * row + k, 3 + 3 * row + k] = -1
    return AffineSymmetry("gains", ["gain", "head.weight"], generators, constants)


GAINS = gains()
COLUMNS = AffineSymmetry("columns", ["head.weight"], constants=torch.eye(3).repeat(1, 6))


def batch():
    return torch.arange(6), torch.tensor([1, 2, 3, 4, 5, 0])


CASES = {"boosts": (Lorentz, BOOSTS), "turn": (Lorentz, TURN), "gains": (Shifted, GAINS), "columns": (Shifted, COLUMNS)}


@pytest.mark.parametrize("name", CASES)
def test_symmetries_are_verified(name):
    build, charge = CASES[name]
    torch.manual_seed(0)
    net = build()
    (entry,) = verify([charge], net, "cross_entropy", batch())
    assert entry.passed(1e-12), entry
    noise = gradient_noise([charge], net, "cross_entropy", batch())
    assert max(noise.projections.values()) < 1e-14
    assert noise.lost == len(charge.elements)


WITHOUT_1 = AffineSymmetry("f", ["gain", "head.weight"], torch.tensor([1.0] * 3 + [-1.0] * 18).diag())
FALSE = {
    "a boost with the wrong sign": (Lorentz, AffineSymmetry("f", ["points"], plane(0, 1, -1))),
    "a turn with the wrong sign": (Lorentz, AffineSymmetry("f", ["points"], plane(1, 2, 1))),
    "without the 1": (Shifted, WITHOUT_1),
    "classes unlike": (Shifted, AffineSymmetry("f", ["head.weight"], constants=torch.arange(18.0))),
}


@pytest.mark.parametrize("name", FALSE)
def test_what_is_none_fails_in_each_column(name):
    build, charge = FALSE[name]
    torch.manual_seed(0)
    (entry,) = verify([charge], build(), "cross_entropy", batch())
    assert min(entry.gradient, entry.hessian, entry.action) > 1e-5


def test_a_constant_that_the_next_map_takes_back_has_no_charge_and_is_verified():
    """b + t, b′ − Wt: neither symmetric nor constant."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).to(F64)
    generators, constants = torch.zeros(2, 8, 8), torch.zeros(2, 8)  # of 0.bias, 1.weight, 1.bias
    for k in range(2):
        constants[k, k] = 1
        for row in range(2):
            generators[k, 6 + row, 2 + 2 * row + k] = -1
    charge = AffineSymmetry("taken back", ["0.bias", "1.weight", "1.bias"], generators, constants)
    assert charge.degree is None
    assert verify([charge], net, "mse", (drawn(9, 3), drawn(9, 2, seed=1))).passed()
    for optimizer in (torch.optim.SGD(net.parameters(), lr=0.1), torch.optim.Adam(net.parameters())):
        with pytest.raises(NoClosedLaw, match="has mixed generators, and no law for these together"):
            track(net, optimizer, [charge])


# --- laws -------------------------------------------------------------------------------------------------------------

KINDS = {
    "no momentum": {"momentum": 0.0},
    "heavy ball": {"momentum": 0.9},
    "dampened": {"momentum": 0.8, "dampening": 0.3},
    "Nesterov": {"momentum": 0.9, "nesterov": True},
}
STEPS = 150


def training(net, optimizer, steps=STEPS):
    """Minibatches with labels that cannot be learnt, and a schedule of the learning rate."""
    draw = torch.Generator().manual_seed(0)
    for k in range(steps):
        optimizer.param_groups[0]["lr"] = 0.2 * (1.1 + math.cos(k / 40))
        inputs, labels = torch.randint(0, 6, (2, 4), generator=draw)
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), labels).backward()
        yield k


@pytest.mark.some(6)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["boosts", "columns", "gains"])
def test_the_laws_are_exact(name, kind):
    torch.manual_seed(0)
    build, charge = CASES[name]
    net = build()
    decay = 0.0 if "shifted" in charge.kinds else 1e-2
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=decay, **KINDS[kind])
    with track(net, optimizer, [charge], every=5) as tracker:
        for _ in training(net, optimizer):
            optimizer.step()
    assert max(tracker.residual().values()) < 1e-13
    assert max(tracker.residual("with_defect").values()) < 1e-13
    assert max(tracker.symmetry_defect().values()) < 1e-14
    record = tracker.record[charge.name]
    own = charge.parameters_of(net)
    np.testing.assert_allclose(record.measured[-1], charge.value(own).detach())
    sizes = charge.normaliser(own) if charge.degree == 2 else charge.generator_norm(own) * charge.norm(own)
    np.testing.assert_allclose(record.normaliser[-1], sizes.detach())
    assert np.abs(record.measured[-1] - record.measured[0]).max() > 1e-2 * record.normaliser[0].max()


@pytest.mark.parametrize("dampening", [0.0, 0.4])
def test_a_rotation_shrinks_by_momentum(dampening):
    net = Lorentz()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, dampening=dampening, weight_decay=1e-2)
    optimizer.state[net.points]["momentum_buffer"] = drawn(6, 3, seed=3)
    start = TURN.pairing({"points": net.points.detach()}, {"points": drawn(6, 3, seed=3)})
    with track(net, optimizer, [TURN]) as tracker:
        for _ in training(net, optimizer, 50):
            optimizer.step()
    assert tracker.residual()["turn"] < 1e-13
    np.testing.assert_allclose(tracker.record["turn"].measured[:, 0], start.numpy() * 0.9 ** np.arange(51), atol=1e-12)
    with pytest.raises(NoClosedLaw, match="is a rotation"):
        track(net, torch.optim.SGD(net.parameters(), lr=0.1), [TURN])


@pytest.mark.parametrize("kind", KINDS)
def test_the_law_is_exact_under_decoupled_decay(kind):
    """torch's SGD has none: it is done beside it, and so is the recursion."""
    net, decay = Lorentz(), 2e-2
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, **KINDS[kind])
    state = BOOSTS.value({"points": net.points}).detach(), 0.0
    for k in training(net, optimizer):
        group, g = optimizer.param_groups[0], net.points.grad.clone()
        step = SGDStep(group["lr"], group["momentum"], group["dampening"], decay, group["nesterov"], decoupled=True)
        with torch.no_grad():
            net.points.sub_(step.h * decay * net.points)
        optimizer.step()
        v = g if step.momentum == 0 else optimizer.state[net.points]["momentum_buffer"]
        u, v = {"points": g + step.momentum * v if step.nesterov else v}, {"points": v}
        forcing, cross = BOOSTS.pairing(u, u), BOOSTS.pairing(u, v)
        state = discrete_step(*state, step, forcing, cross, degree=2, first=k == 0)
    own = {"points": net.points.detach()}
    assert (state[0] - BOOSTS.value(own)).abs().max() < 1e-13 * BOOSTS.normaliser(own).max()


def test_beside_a_constant_weight_decay_closes_no_law():
    net = Shifted()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with track(net, optimizer, [GAINS]) as tracker:
        for _ in training(net, optimizer, 3):
            optimizer.step()
        optimizer.param_groups[0]["weight_decay"] = 0.1
        with pytest.raises(NoClosedLaw, match="weight decay, which is 0.1"):
            optimizer.step()
    assert tracker.steps == 3
    with pytest.raises(NoClosedLaw, match="shifted generators, a constant beside a matrix, .* weight decay"):
        track(net, optimizer, [GAINS])


@pytest.mark.parametrize("build, charge", [(Lorentz, BOOSTS), (Shifted, GAINS), (Shifted, COLUMNS)])
def test_under_another_optimizer_the_updates_are_added_up(build, charge, tmp_path):
    net = build()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    with track(net, optimizer, [charge]) as tracker:
        for _ in training(net, optimizer, 30):
            optimizer.step()
    assert tracker.residual("observed")[charge.name] < 1e-13
    tracker.record.save(tmp_path / "record.npz")
    again = Record.load(tmp_path / "record.npz")
    np.testing.assert_array_equal(again[charge.name].measured, tracker.record[charge.name].measured)
    assert again.plot().axes
    other = track(net, optimizer, [charge])
    other.load_state_dict(tracker.state_dict())
    assert other.residual("observed") == tracker.residual("observed")
    other.remove()


# --- definition -------------------------------------------------------------------------------------------------------

SHAPES = {"a": (2, 3), "b": (4,)}
MATRICES, VECTORS = drawn(3, 10, 10, seed=1), drawn(3, 10, seed=2)


def tensors(seed):
    return {name: drawn(*shape, seed=seed + k) for k, (name, shape) in enumerate(SHAPES.items())}


def flat(x):
    return torch.cat([x[name].flatten() for name in SHAPES])


KINDS_OF_GENERATORS = {
    "mixed": (MATRICES, VECTORS, None),
    "shifted": (MATRICES + MATRICES.mT, VECTORS, 2),
    "symmetric": (MATRICES + MATRICES.mT, 0 * VECTORS, 2),
    "antisymmetric": (MATRICES - MATRICES.mT, 0 * VECTORS, 0),
    "constant": (0 * MATRICES, VECTORS, 1),
}


@pytest.mark.parametrize("kind", KINDS_OF_GENERATORS)
def test_all_quantities_are_those_of_the_definition(kind):
    a, c, degree = KINDS_OF_GENERATORS[kind]
    charge = AffineSymmetry("any", list(SHAPES), a, c)
    assert (charge.kinds, charge.degree) == ((kind,) * 3, degree)
    x, y, coefficients = tensors(0), tensors(2), drawn(3, seed=9)
    xi = a @ flat(x) + c
    assert charge.conserved(x) == (3 if degree else 0)
    torch.testing.assert_close(charge.pairing(x, y), xi @ flat(y))
    torch.testing.assert_close(charge.generator_norm(x), xi.norm(dim=1))
    torch.testing.assert_close(charge.norm(x), flat(x).norm().expand(3))
    torch.testing.assert_close(flat(charge.moved(x, coefficients)), coefficients @ xi)
    one = torch.einsum("k,kij->ij", coefficients, a)
    torch.testing.assert_close(flat(charge.moved_slope(y, coefficients)), one.T @ flat(y))
    extended = torch.zeros(11, 11, dtype=F64)
    extended[:10] = torch.cat([one, (coefficients @ c)[:, None]], 1)
    moved = torch.matrix_exp(extended) @ torch.cat([flat(x), torch.ones(1, dtype=F64)])
    torch.testing.assert_close(flat(charge.acted(x, coefficients)), moved[:10])
    if degree:
        theta = {name: p.clone().requires_grad_() for name, p in x.items()}
        slopes = torch.autograd.grad(charge.value(theta)[1], list(theta.values()))
        torch.testing.assert_close(torch.cat([g.flatten() for g in slopes]), degree * xi[1])  # ∇N = 2ξ, or ξ


def test_however_the_generators_are_written_they_are_the_same():
    a, c = MATRICES.round(decimals=2), VECTORS.round(decimals=2)
    expected = AffineSymmetry("any", ["a", "b"], a, c)
    for given in (a.tolist(), a.numpy(), a.to_sparse(), list(a), [one.to_sparse() for one in a], tuple(a.numpy())):
        assert AffineSymmetry("any", ("a", "b"), given, c.tolist()) == expected
    assert AffineSymmetry("any", ["a"], a[0], c[0]) == AffineSymmetry("any", ["a"], a[:1], c[:1])
    again = Charge.from_dict(json.loads(json.dumps(expected.to_dict())))
    assert again == expected
    assert hash(again) == hash(expected)
    assert pickle.loads(pickle.dumps(expected)) == expected
    assert expected.renamed("other").name == "other"


def written_out(charge, x):
    """A charge of another family by its matrices and constants."""
    units = torch.eye(charge.count(x), dtype=F64)
    still = {name: torch.zeros_like(p) for name, p in x.items()}
    constants = torch.stack([flat(charge.moved(still, unit)) for unit in units])
    points = [{"a": point[:6].view(2, 3), "b": point[6:]} for point in torch.eye(10, dtype=F64)]
    columns = [torch.stack([flat(charge.moved(point, unit)) for unit in units]) for point in points]
    return AffineSymmetry(charge.name, list(SHAPES), torch.stack(columns, -1) - constants[..., None], constants)


FAMILIES = (
    Scale("scale", {"a": None, "b": None}),
    Rescale("rescale", {"a": 0}, {"b": (0, 2)}),
    DiagonalSymmetry("diagonal", {"a": 0, "b": (0, 2)}, {"a": 1.5, "b": -2}),
    Translation("translation", {"a": 0}, {"b": (0, 2)}),
    GeneralLinear("matrices", {"a": 0}, {"b": 0}, [[(0, 0, 1)], [(0, 1, 1), (1, 0, 1)]]),
)  # fmt: skip


@pytest.mark.parametrize("charge", FAMILIES, ids=lambda charge: charge.kind)
def test_the_other_families_are_special_cases(charge):
    x, y = tensors(0), tensors(5)
    same = written_out(charge, x)
    assert same.degree == charge.degree
    torch.testing.assert_close(same.pairing(x, y), charge.pairing(x, y))
    torch.testing.assert_close(same.value(x), charge.value(x))
    torch.testing.assert_close(same.generator_norm(x), charge.generator_norm(x))
    coefficients = drawn(charge.count(x), seed=7) / 4
    torch.testing.assert_close(flat(same.acted(x, coefficients)), flat(charge.acted(x, coefficients)))


# --- exponents that differ --------------------------------------------------------------------------------------------


class Squared(nn.Module):
    def forward(self, x):
        return torch.relu(x) ** 2


def squares():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 3), Squared(), nn.Linear(3, 4), Squared(), nn.Linear(4, 6)).to(F64)


def test_exponents_that_differ_are_found_and_verified():
    charges = find_charges(squares(), drawn(5, 6))
    for charge, (k, n) in zip(charges, ((0, 2), (2, 4)), strict=True):
        w, b, a = f"{k}.weight", f"{k}.bias", f"{n}.weight"
        assert charge == DiagonalSymmetry(f"{k}-{n}", {w: 0, b: 0, a: 1}, {w: 1, b: 1, a: -2})
        assert eval(repr(charge)) == Charge.from_dict(json.loads(json.dumps(charge.to_dict()))) == charge
    assert not charges.others
    assert "exponents 0.weight 1, 0.bias 1, 2.weight -2 leave the loss" in charges.table()
    assert charges.plot()
    data = drawn(9, 6), drawn(9, 6, seed=1)
    assert verify(charges, squares(), "mse", data).passed()
    false = Rescale("0-2", {"0.weight": 0, "0.bias": 0}, {"2.weight": 1})
    assert verify([false], squares(), "mse", data)[0].gradient > 1e-3
    with pytest.raises(InvalidCharge, match="give a Scale, a Rescale or a GeneralLinear"):
        balance(charges[0], squares(), "mse", data, SGDStep(0.1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_laws_of_exponents_that_differ_are_exact(kind):
    net, data = squares(), (drawn(60, 6), drawn(60, 6, seed=1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, weight_decay=1e-2, **KINDS[kind])
    charge, _ = find_charges(net, data[0])
    with track(net, optimizer, [charge], every=5) as tracker:
        for k in range(STEPS):
            optimizer.zero_grad()
            F.mse_loss(net(data[0][k % 50 :][:10]), data[1][k % 50 :][:10]).backward()
            optimizer.step()
    assert tracker.residual()["0-2"] < 1e-13
    record, own = tracker.record["0-2"], charge.parameters_of(net)
    w, b, a = (p.detach().square() for p in own.values())
    np.testing.assert_allclose(record.measured[-1], w.sum(1) + b - 2 * a.sum(0))
    np.testing.assert_allclose(record.normaliser[-1], w.sum(1) + b + 2 * a.sum(0))
    np.testing.assert_allclose(record.normaliser[-1], charge.normaliser(own).detach())


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: AffineSymmetry("s", "w", [[1]]), "charge 's' gets 'w' for its parameters; give their names"),
        (lambda: AffineSymmetry("s", ["w", "w"], [[1]]), "each once"),
        (lambda: AffineSymmetry("s", [], [[1]]), r"gets \[\] for its parameters"),
        (lambda: AffineSymmetry("s", ["w"]), "the shapes of its generators and constants are none; give matrices"),
        (lambda: AffineSymmetry("s", ["w"], [[1, 2]]), r"are \(1, 1, 2\); give matrices \[D, D\]"),
        (lambda: AffineSymmetry("s", ["w"], [[1]], [1, 2]), r"are \(1, 1, 1\) and \(1, 2\); give"),
        (lambda: AffineSymmetry("s", ["w"], [[1]], [[1], [2]]), r"are \(1, 1, 1\) and \(2, 1\); give"),
        (lambda: AffineSymmetry("s", ["w"], [1, 2]), r"generators has the shape \(2,\) .* give a matrix \[D, D\]"),
        (lambda: AffineSymmetry("s", ["w"], [["x"]]), r"generators is \[\['x'\]\]; give nested lists or tensors"),
        (lambda: AffineSymmetry("s", ["w"], torch.ones(1, 1) * 1j), "the type torch.complex64; give"),
        (lambda: AffineSymmetry("s", ["w"], constants=[float("nan")]), "generator 0 has the entry nan; give finite"),
        (lambda: AffineSymmetry("s", ["w"], [[[1]], [[0]]]), "its generator 1 is 0; give generators that move"),
        (lambda: AffineSymmetry("s", ["w"], torch.zeros(0, 1, 1)), "its generator 0 is 0"),
        (lambda: BOOSTS.parameters_of(nn.Linear(2, 3)), "no parameter 'points'"),
        (lambda: AffineSymmetry("s", ["weight"], [[1]]).parameters_of(nn.Linear(2, 3)),
         "its parameters have 6 entries, {'weight': 6}, and its generators are of size 1; give matrices"),
        (lambda: DiagonalSymmetry("s", {"w": 0}, {}), r"gets {} for its exponents; give a number, not 0, for each of"),
        (lambda: DiagonalSymmetry("s", {"w": 0}, {"w": 0}), "gets {'w': 0} for its exponents"),
        (lambda: DiagonalSymmetry("s", {"w": 0}, [1]), r"gets \[1\] for its exponents"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(build, message):
    with pytest.raises(InvalidCharge, match=message):
        build()
