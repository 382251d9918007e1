"""The covariance of gradients loses a rank for each independent generator."""

import numpy as np
import pytest
import torch
from torch import nn

from modeq.errors import InvalidCharge
from modeq.symmetry.charges import Rescale
from modeq.symmetry.finding import find_charges
from modeq.symmetry.noise import gradient_noise

F64 = torch.float64


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(), nn.Linear(4, 3)).to(F64)


def samples(count, *shape):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(count, *shape, generator=draw, dtype=F64), torch.randint(0, 3, (count,), generator=draw)


def test_the_rank_is_what_symmetries_leave():
    net, data = mlp(), samples(300, 3)
    noise = gradient_noise(find_charges(net, data[0], "cross_entropy"), net, "cross_entropy", data)
    assert max(noise.projections.values()) < 1e-14
    assert (noise.lost, noise.parameters, noise.rank) == (9, 31, 22)
    assert noise.spectrum[21] > 1e-6 > 1e-20 > noise.spectrum[22]


def test_the_spectrum_is_that_of_single_gradients():
    net, (x, y) = mlp(), samples(5, 3)
    rows = []
    for k in range(5):
        loss = nn.functional.cross_entropy(net(x[k : k + 1]), y[k : k + 1])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))]))
    expected = np.linalg.eigvalsh(np.cov(torch.stack(rows).numpy().T, bias=True))[::-1][:5]
    noise = gradient_noise([], net, "cross_entropy", (x, y))
    assert noise.spectrum == pytest.approx(expected, abs=1e-15)
    assert (noise.projections, noise.lost) == ({}, 0)


def test_minibatches_of_a_network_with_batch_norm_and_dropout():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, eps=1e-30), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 3)).to(
        F64
    )
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.random.get_rng_state()
    data = samples(4 * 150, 4)
    charges = find_charges(net, data[0][:4], "cross_entropy")
    noise = gradient_noise(charges, net, "cross_entropy", data, batch_size=4)
    assert max(noise.projections.values()) < 1e-12
    # 5 scales with the biases before the norm, 5 of these biases, 5 rescales, 5 + 1 of the softmax
    assert noise.lost == charges.generators == 21
    assert noise.rank == noise.parameters - 21
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_dependent_generators_count_once():
    """Two rescales and the one of the linear map between them with nothing else: their sum twice."""
    net, data = mlp(), samples(40, 3)
    whole = Rescale("all", {"0.weight": None, "0.bias": None}, {"2.weight": None})
    each = Rescale("each", {"0.weight": 0, "0.bias": 0}, {"2.weight": 1})
    assert gradient_noise([whole, each], net, "cross_entropy", data).lost == 4


def test_a_false_charge_is_seen():
    net, data = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).to(F64), samples(40, 3)
    false = Rescale("0-2", {"0.weight": 0, "0.bias": 0}, {"2.weight": 1})
    assert gradient_noise([false], net, "cross_entropy", data).projections["0-2"] > 1e-2


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data": torch.zeros(3, 3)}, "data is Tensor: give"),
        ({"data": (torch.zeros(1, 3), torch.zeros(1, 3))}, "1 samples in batches of 1: give data for two"),
        ({"batch_size": 0}, "batch_size is 0: give"),
        ({"batch_size": True}, "batch_size is True: give"),
        ({"loss": "hinge"}, "loss is 'hinge': choose from"),
        ({"data": (torch.zeros(9, 7, dtype=F64), torch.zeros(9, dtype=torch.long))}, "fails on minibatches of 1: "),
        ({"data": (torch.full((9, 3), torch.nan, dtype=F64), torch.zeros(9, dtype=torch.long))}, "is not finite: give"),
        ({"charges": [Rescale("a", {"b": 0}, {"c": 0})]}, "has no parameter 'b'"),
        ({"data": (torch.zeros(1, 3).expand(20_000_000, 3), torch.zeros(1).expand(20_000_000))}, "at most 12903225 "),
    ],
)
def test_what_is_refused(change, message):
    given = {"charges": [], "module": mlp(), "loss": "cross_entropy", "data": samples(9, 3), **change}
    with pytest.raises(InvalidCharge, match=message):
        gradient_noise(**given)
