"""Noise and decay drive a charge as its balance law says, and leave it where that has its only zero."""

import numpy as np
import pytest
import torch
from torch import nn

from modeq.errors import InvalidCharge, InvalidSetting, NoClosedLaw
from modeq.symmetry.balance import balance
from modeq.symmetry.charges import Rescale, Scale, Translation
from modeq.symmetry.equilibrium import equilibrium
from modeq.symmetry.laws import SGDStep
from modeq.symmetry.matrix_charges import GeneralLinear

HIDDEN = Rescale("hidden", {"0.weight": 0, "0.bias": 0}, {"2.weight": 1})


def network(seed=0, hidden=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, 1)).double()


def samples(count=40, seed=1):
    torch.manual_seed(seed)
    inputs = torch.randn(count, 2, dtype=torch.float64)
    return inputs, inputs.sum(1, keepdim=True).sin() + torch.randn(count, 1, dtype=torch.float64)


STEPS = {
    # of a decay by which the two parts of the drift are of one size
    "gradient descent": SGDStep(1e-4),
    "decay": SGDStep(1e-4, weight_decay=1e-4),
    "heavy ball": SGDStep(1e-4, momentum=0.8, weight_decay=1e-3),
    "dampened": SGDStep(1e-4, momentum=0.8, dampening=0.5, weight_decay=1e-3),
    "nesterov": SGDStep(1e-4, momentum=0.8, weight_decay=1e-3, nesterov=True),
    "decoupled": SGDStep(1e-4, momentum=0.8, weight_decay=1e-3, decoupled=True),
}


def drifted(step, table, u, w, chains, warm, steps):
    """Mean dN/dt of |u|² − |w|² on losses uᵀC_k w of random k, from slow buffers, and its standard error."""
    draw, h, beta = np.random.default_rng(0), step.h, step.momentum
    keep = 1 - step.dampening if beta else 1.0
    u, w = (np.repeat(part[None], chains, axis=0) for part in (u, w))
    mean = table.mean(0)
    slow = keep / (1 - beta)
    v_u, v_w = slow * w @ mean.T, slow * u @ mean
    if not step.decoupled:
        v_u, v_w = v_u + slow * step.weight_decay * u, v_w + slow * step.weight_decay * w
    start, shrink = None, 1 - h * step.weight_decay if step.decoupled else 1
    for n in range(warm + steps):
        if n == warm:
            start = (u**2).sum(1) - (w**2).sum(1)
        c = table[draw.integers(0, len(table), chains)]
        d_u, d_w = np.einsum("kij,kj->ki", c, w), np.einsum("kij,ki->kj", c, u)
        if not step.decoupled:
            d_u, d_w = d_u + step.weight_decay * u, d_w + step.weight_decay * w
        v_u, v_w = beta * v_u + keep * d_u, beta * v_w + keep * d_w
        step_u, step_w = (d_u + beta * v_u, d_w + beta * v_w) if step.nesterov else (v_u, v_w)
        u, w = shrink * u - h * step_u, shrink * w - h * step_w
    each = ((u**2).sum(1) - (w**2).sum(1) - start) / (h * steps)
    return float(each.mean()), float(each.std() / np.sqrt(chains))


class Bilinear(nn.Module):
    """The number uᵀCw for each matrix C of a batch."""

    def __init__(self, u, w):
        super().__init__()
        self.u, self.w = nn.Parameter(torch.from_numpy(u)), nn.Parameter(torch.from_numpy(w))

    def forward(self, matrices):
        return torch.einsum("i,kij,j->k", self.u, matrices, self.w)


@pytest.mark.parametrize("name", STEPS)
def test_the_drift_is_that_of_many_trainings(name):
    step, draw = STEPS[name], np.random.default_rng(3)
    table = draw.standard_normal((20, 3, 2)) + 1.5 * draw.standard_normal((3, 2))
    u, w = np.array([1.0, -0.5, 0.8]), np.array([0.6, 0.3])
    charge = Rescale("uw", {"u": None}, {"w": None})
    data = torch.from_numpy(table), torch.zeros(20)
    found = balance(charge, Bilinear(u, w), lambda output, _: output.mean(), data, step)
    measured, error = drifted(step, table, u, w, 20_000, 60, 40)
    assert 10 * error < abs(found.drift[0])
    assert abs(measured - found.drift[0]) < 4 * error


def test_what_is_measured_on_a_network():
    net, data, step = network(), samples(), SGDStep(0.02, momentum=0.5, weight_decay=0.1)
    found = balance(HIDDEN, net, "mse", data, step, batch_size=4)
    rows = []
    for k in range(10):
        net.zero_grad()
        nn.functional.mse_loss(net(data[0][4 * k : 4 * k + 4]), data[1][4 * k : 4 * k + 4]).backward()
        incoming = torch.cat([net[0].weight.grad, net[0].bias.grad[:, None]], 1)
        rows.append((incoming, net[2].weight.grad.T))
    net.zero_grad()
    for side in range(2):
        stacked = torch.stack([row[side] for row in rows]).numpy()
        assert found.mean[side] == pytest.approx((stacked.mean(0) ** 2).sum(1), rel=1e-12)
        assert found.noise[side] == pytest.approx(stacked.var(0).sum(1), rel=1e-10)
    n1 = (net[0].weight.square().sum(1) + net[0].bias.square()).detach().numpy()
    n2 = net[2].weight.square().sum(0).detach().numpy()
    g1, g2 = (n + 3 * m for m, n in zip(found.mean, found.noise, strict=True))
    expected = -2 * 0.2 * (n1 - n2) + 0.02 * 4 * (g1 - g2)
    assert found.drift == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("step", [SGDStep(0.05), SGDStep(0.05, weight_decay=0.2), SGDStep(0.05, momentum=0.9)])
def test_at_the_shifted_place_there_is_no_drift(step):
    net, data = network(), samples()
    found = balance(HIDDEN, net, "mse", data, step)
    with torch.no_grad():
        factor = torch.from_numpy(np.exp(found.shift))
        net[0].weight.mul_(factor[:, None])
        net[0].bias.mul_(factor)
        net[2].weight.div_(factor)
    there = balance(HIDDEN, net, "mse", data, step)
    assert np.abs(there.shift).max() < 1e-13
    assert np.abs(there.drift).max() < 1e-13 * np.abs(found.drift).max() + 1e-15
    assert there.charge == pytest.approx(found.charge, rel=1e-12)


def test_a_scale_charge_is_balanced_where_its_equilibrium_is():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, eps=1e-30), nn.ReLU(), nn.Linear(4, 2)).double()
    before = {name: b.clone() for name, b in net.named_buffers()}
    data = torch.randn(64, 3, dtype=torch.float64), torch.randint(0, 2, (64,))
    step = SGDStep(0.1, momentum=0.9, weight_decay=1e-3)
    found = balance(Scale("0", {"0.weight": 0}), net, "cross_entropy", data, step, batch_size=8)
    norms = net[0].weight.detach().square().sum(1).numpy()
    for k in range(4):
        # `equilibrium` is for gradients of mean 0
        squared = (found.noise[0][k] + 19 * found.mean[0][k]) * norms[k]
        assert found.charge[k] == pytest.approx(equilibrium(step, float(squared)).squared_norm, rel=1e-10)
    assert all(torch.equal(b, before[name]) for name, b in net.named_buffers())
    assert net[0].weight.grad is None


class Regressions(nn.Module):
    """Outputs x·u·w of two numbers each, for many independent scalars u and vectors w at once."""

    def __init__(self, u, w):
        super().__init__()
        self.u, self.w = nn.Parameter(u), nn.Parameter(w)

    def forward(self, x):
        return x[..., None] * self.u[:, None] * self.w


def test_a_training_goes_where_its_balance_is():
    """With noise of equal size in both outputs |w|² = 2u²: not where the norms are equal."""
    torch.manual_seed(0)
    chains, samples, step = 1000, 100, SGDStep(0.02, momentum=0.5)
    net = Regressions(torch.full((chains,), 2.0).double(), torch.full((chains, 2), 0.35).double())
    charge = Rescale("uw", {"u": 0}, {"w": 0})
    inputs = torch.randn(samples, chains, dtype=torch.float64)
    targets = inputs[..., None] * 0.7 + torch.randn(samples, chains, 2, dtype=torch.float64)

    def loss(output, target):
        return 0.5 * (output - target).square().sum((1, 2)).mean()

    start = balance(charge, net, loss, (inputs, targets), step)
    assert (start.shift < 0).all()
    optimizer = torch.optim.SGD(net.parameters(), lr=step.h, momentum=step.momentum)
    ratios, charges, predicted = [], [], []
    for n in range(5000):
        k = torch.randint(0, samples, (1,))
        optimizer.zero_grad()
        loss(net(inputs[k]), targets[k]).backward()
        optimizer.step()
        if n >= 3000 and n % 100 == 0:
            found = balance(charge, net, loss, (inputs, targets), step)
            charges.append(charge.value(charge.parameters_of(net)).detach().numpy().mean())
            predicted.append(found.charge.mean())
            ratios.append(float(net.w.detach().square().sum(1).mean() / net.u.detach().square().mean()))
    assert np.mean(charges) == pytest.approx(np.mean(predicted), rel=0.05)
    assert np.mean(ratios) == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize(
    "step, message",
    [
        (SGDStep(0.0), "no balance for"),
        (SGDStep(0.1, momentum=1.0), "momentum and dampening below 1"),
        (SGDStep(0.1, momentum=0.5, dampening=1.0), "no balance for"),
        (SGDStep(0.1, weight_decay=-0.1), "no negative decay"),
    ],
)
def test_no_balance(step, message):
    with pytest.raises(NoClosedLaw, match=message):
        balance(HIDDEN, network(), "mse", samples(), step)


def test_a_dead_neuron_without_decay_has_no_balance():
    net = network()
    with torch.no_grad():
        net[0].bias[1] = -100.0
    with pytest.raises(NoClosedLaw, match="generator 1 has no place without drift"):
        balance(HIDDEN, net, "mse", samples(), SGDStep(0.1))
    factors = Factors(2)
    with torch.no_grad():
        factors.w[4] = 0.0
    with pytest.raises(NoClosedLaw, match="head 1 has no place without drift"):
        balance(GeneralLinear("wv", {"v": (0, 2)}, {"w": (0, 2)}), factors, "mse", regression(), SGDStep(0.1))
    found = balance(HIDDEN, net, "mse", samples(), SGDStep(0.1, weight_decay=0.1))
    assert found.charge[1] == pytest.approx(0, abs=1e-9)


def test_what_does_not_fit():
    net, data = network(), samples()
    with pytest.raises(InvalidCharge, match="give a Scale, a Rescale or a GeneralLinear"):
        balance(Translation("b", {"2.bias": None}), net, "mse", data, SGDStep(0.1))
    partial = GeneralLinear("wv", {"v": 0}, {"w": 0}, basis=[[(0, 0, 1)], [(1, 1, 1)]])
    with pytest.raises(InvalidCharge, match="has a basis: give one without"):
        balance(partial, Factors(1), "mse", regression(), SGDStep(0.1))
    with pytest.raises(InvalidSetting, match="step is 3: give an SGDStep"):
        balance(HIDDEN, net, "mse", data, 3)
    with pytest.raises(InvalidCharge, match="give data for two at least"):
        balance(HIDDEN, net, "mse", data, SGDStep(0.1), batch_size=40)
    with pytest.raises(InvalidCharge, match="batch_size is 0"):
        balance(HIDDEN, net, "mse", data, SGDStep(0.1), batch_size=0)
    with pytest.raises(InvalidCharge, match="data is list"):
        balance(HIDDEN, net, "mse", list(data), SGDStep(0.1))
    with pytest.raises(InvalidCharge, match="not finite"):
        balance(HIDDEN, net, "mse", (data[0] * float("inf"), data[1]), SGDStep(0.1))


class Factors(nn.Module):
    """Outputs WᵀV x of a linear network whose inner numbers are split in heads, each with a map of its own."""

    def __init__(self, heads, seed=0):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.v = nn.Parameter(torch.randn(3 * heads, 4, generator=random, dtype=torch.float64))
        self.w = nn.Parameter(0.5 * torch.randn(3 * heads, 5, generator=random, dtype=torch.float64))

    def forward(self, x):
        return x @ self.v.T @ self.w


def regression(count=60):
    torch.manual_seed(2)
    x = torch.randn(count, 4, dtype=torch.float64)
    return x, x @ torch.randn(4, 5, dtype=torch.float64) + torch.randn(count, 5, dtype=torch.float64)


@pytest.mark.parametrize("step", [SGDStep(0.05), SGDStep(0.05, momentum=0.5, weight_decay=0.2, nesterov=True)])
def test_a_matrix_charge_has_no_drift_at_the_shifted_place(step):
    net, data = Factors(1), regression()
    charge = GeneralLinear("wv", {"v": 0}, {"w": 0})
    found, output = balance(charge, net, "mse", data, step), net(data[0])
    assert found.drift.shape == found.charge.shape == (6,)
    assert found.shift.shape == (9,)
    with torch.no_grad():
        for name, moved in charge.acted(charge.parameters_of(net), torch.from_numpy(found.shift)).items():
            getattr(net, name).copy_(moved)
    assert torch.allclose(net(data[0]), output, atol=1e-12)
    there = balance(charge, net, "mse", data, step)
    assert np.abs(there.drift).max() < 1e-11 * np.abs(found.drift).max()
    assert np.abs(there.shift).max() < 1e-11
    assert charge.value(charge.parameters_of(net)).tolist() == pytest.approx(found.charge, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("name", STEPS)
def test_the_drift_of_a_matrix_charge_has_that_of_each_neuron_on_its_diagonal(name):
    net, data, step = Factors(2), regression(), STEPS[name]
    matrix = balance(GeneralLinear("wv", {"v": (0, 2)}, {"w": (0, 2)}), net, "mse", data, step, batch_size=4)
    neurons = balance(Rescale("wv", {"v": 0}, {"w": 0}), net, "mse", data, step, batch_size=4)
    diagonal = np.array([0, 3, 5, 6, 9, 11])
    assert matrix.drift[diagonal] == pytest.approx(neurons.drift, rel=1e-10)
    for side in range(2):
        assert matrix.mean[side][diagonal] == pytest.approx(neurons.mean[side], rel=1e-12)
        assert matrix.noise[side][diagonal] == pytest.approx(neurons.noise[side], rel=1e-10)


def test_a_factorisation_is_balanced_where_its_closed_form_is():
    """At W V = A under independent noise: Γ_W^½ W and V Γ_V^½ have equal Gram matrices (Ziyin et al. 2024)."""
    # all pairs of an input and a noise: independent, with exact moments
    axes = [torch.diag(torch.tensor(spread, dtype=torch.float64)) for spread in ((0.5, 1, 1.5, 2), (1, 0.5, 2, 1, 0.3))]
    inputs, noises = (torch.cat([axis, -axis]) for axis in axes)
    x, noise = inputs.repeat_interleave(len(noises), 0), noises.repeat(len(inputs), 1)
    net = Factors(1)
    with torch.no_grad():
        y = net(x) + noise
        whole = (net.w.T @ net.v).numpy()
    charge = GeneralLinear("wv", {"v": 0}, {"w": 0})
    half = lambda output, target: 0.5 * (output - target).square().sum(1).mean()  # noqa: E731
    found = balance(charge, net, half, (x, y), SGDStep(0.01))
    input_root = np.sqrt((noise.square().sum(1).mean() * x.square().mean(0)).numpy())
    output_root = np.sqrt((x.square().sum(1).mean() * noise.square().mean(0)).numpy())
    left, values, right = np.linalg.svd(output_root[:, None] * whole * input_root)
    root = np.sqrt(values[:3])
    v = root[:, None] * right[:3] / input_root
    w = (root * left[:, :3] / output_root[:, None]).T
    matrix = np.zeros((3, 3))
    matrix[np.triu_indices(3)] = found.charge
    matrix = matrix + np.triu(matrix, 1).T
    assert np.linalg.eigvalsh(matrix) == pytest.approx(np.linalg.eigvalsh(v @ v.T - w @ w.T), rel=1e-9)
