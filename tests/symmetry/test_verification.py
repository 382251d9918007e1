"""Identities of gradients and Hessians: at any point, for any data and loss, and up to ε where a norm has one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeq.errors import InvalidCharge
from modeq.numeric.networks.gpt import gpt
from modeq.symmetry.charges import Rescale, Scale, Translation
from modeq.symmetry.finding import find_charges
from modeq.symmetry.verification import verify

F64 = torch.float64


def normalised(eps):
    """A network with each kind of norm, on 8×8 images."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, eps=eps), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4, eps=eps),
        nn.ReLU(), nn.Conv2d(4, 4, 3), nn.InstanceNorm2d(4, eps=eps, affine=True), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 6), nn.LayerNorm(6, eps=eps), nn.Tanh(), nn.Linear(6, 6), nn.RMSNorm(6, eps=eps), nn.Tanh(),
        nn.Linear(6, 3),
    ).to(F64)  # fmt: skip


def images(seed=0, count=7):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 8, 8, generator=draw, dtype=F64), torch.randint(0, 3, (count,), generator=draw)


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_what_epsilon_breaks_is_what_it_predicts(eps):
    net, batch = normalised(eps), images()
    charges = find_charges(net, batch[0][:2], "cross_entropy")  # of another number of samples
    report = verify(charges, net, "cross_entropy", batch)
    broken = [e for e, found in zip(report, charges.found, strict=True) if not found.exact]
    assert [type(e.charge).__name__ for e in broken] == ["Scale"] * 5
    for entry in broken:
        assert entry.gradient == pytest.approx(entry.predicted, rel=1e-8)
        assert entry.gradient > 1e-9 > 1e-13 > entry.unexplained
        assert entry.explained()
        assert not entry.passed()
    assert all(e.passed() and e.predicted == 0 for e in report if e not in broken)


def test_the_formula_of_batch_norm():
    """⟨g_w, w⟩ = ε/(σ² + ε)·⟨∂L/∂y, y⟩ for each channel, of which the prediction is the largest."""
    torch.manual_seed(0)
    eps, w = 1e-2, nn.Linear(3, 4, dtype=F64)
    net = nn.Sequential(w, nn.BatchNorm1d(4, eps=eps, affine=False, dtype=F64))
    x, target = torch.randn(9, 3, dtype=F64), torch.randn(9, 4, dtype=F64)
    charges = find_charges(net, x, "mse")
    entry = verify(charges, net, "mse", (x, target))[0]
    y = net(x).detach().requires_grad_()
    (slope,) = torch.autograd.grad(F.mse_loss(y, target), y)
    h = w(x)
    expected = (eps / (h.var(0, correction=0) + eps) * (slope * y).sum(0)).detach()
    g = torch.autograd.grad(F.mse_loss(net(x), target), [w.weight, w.bias])
    g, own = (torch.cat([a, b[:, None]], 1).detach() for a, b in (g, (w.weight, w.bias)))
    assert (g * own).sum(1).tolist() == pytest.approx(expected.tolist())
    assert entry.charge.name == "0"
    assert entry.predicted == pytest.approx(float((expected / g.norm(dim=1) / own.norm(dim=1)).abs().max()))


def test_without_a_prediction():
    """A norm that is written out, and charges by themselves: nan, and no claim that they are explained."""

    class WrittenOut(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.out = nn.Linear(3, 4, bias=False), nn.Linear(4, 2)

        def forward(self, x):
            h = self.fc(x)
            return self.out(torch.tanh(h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-5)))

    net, x = WrittenOut().to(F64), torch.randn(5, 3, dtype=F64)
    charges = find_charges(net, x, "mse")
    (entry,) = [e for e in verify(charges, net, "mse", (x, x[:, :2])) if isinstance(e.charge, Scale)]
    assert entry.predicted != entry.predicted
    assert not entry.explained()
    assert 1e-12 < entry.gradient < 1e-3
    assert verify([entry.charge], net, "mse", (x, x[:, :2]))[0].predicted == 0


@pytest.mark.parametrize("fused", [True, False])
def test_hessian_identities_hold_through_attention(fused):
    net = gpt(layers=2, heads=2, dim=8, vocabulary=11, context=5, tied=False, fused=fused, dtype=F64)
    tokens, labels = torch.randint(0, 11, (3, 5)), torch.randint(0, 11, (3, 5))
    charges = find_charges(net, tokens, "cross_entropy")
    report = verify(charges, net, "cross_entropy", (tokens, labels))
    exact = [e for e, found in zip(report, charges.found, strict=True) if found.exact]
    assert len(exact) > 20
    assert max(e.hessian for e in exact) < 1e-9


def test_hessian_identities_hold_through_every_norm():
    net, batch = normalised(1e-30), images()
    report = verify(find_charges(net, batch[0], "cross_entropy"), net, "cross_entropy", batch)
    assert {type(e.charge) for e in report} == {Rescale, Scale, Translation}
    assert max(e.hessian for e in report) < 1e-9
    assert max(e.gradient for e in report) < 1e-12


def robust(output, target):
    return F.smooth_l1_loss(output, F.one_hot(target, output.shape[-1]).to(output))


def test_at_any_point_for_any_data_and_any_loss_on_the_outputs():
    """Along a training; with random labels; and for other losses, of charges that hold for the output itself."""
    net, (x, y) = normalised(1e-30), images(count=32)
    of_outputs, of_loss = find_charges(net, x), find_charges(net, x, "cross_entropy")
    assert len(of_loss) == len(of_outputs) + 2  # the softmax adds two
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for step in range(31):
        if step % 10 == 0:
            other, labels = images(seed=step + 1)
            for batch in ((x, y), (other, labels), (x, y[torch.randperm(32)])):
                assert verify(of_loss, net, "cross_entropy", batch).passed(), step
            assert verify(of_outputs, net, robust, (other, labels)).passed()
            assert verify(of_outputs, net, lambda out, _: out.exp().sum(), (other, labels)).passed()
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    # what the softmax adds is no symmetry of another loss
    shifts = [charge for charge in of_loss if charge.name.startswith("16.")]
    assert len(shifts) == 2
    assert all(e.gradient > 1e-3 for e in verify(shifts, net, robust, (x, y)))


def test_dropout_draws_the_same_numbers_each_time():
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3)).to(F64)
    x, y = torch.randn(20, 3, dtype=F64), torch.randint(0, 3, (20,))
    assert verify(find_charges(net, x, "cross_entropy"), net, "cross_entropy", (x, y)).passed()


def test_a_false_charge_fails_in_each_column():
    net = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 3)).to(F64)
    x, y = torch.randn(9, 3, dtype=F64), torch.randint(0, 3, (9,))
    false = Rescale("0-2", {"0.weight": 0, "0.bias": 0}, {"2.weight": 1})
    entry = verify([false], net, "cross_entropy", (x, y))[0]
    assert min(entry.gradient, entry.unexplained, entry.hessian, entry.action) > 1e-5
    assert not entry.passed(1e-6)
    with pytest.raises(InvalidCharge, match="has no parameter"):
        verify([Scale("a", {"a": 0})], net, "cross_entropy", (x, y))
