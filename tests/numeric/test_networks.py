import builtins

import pytest
import torch
from torch import nn

from modeq.errors import InvalidProblem, MissingDependency
from modeq.numeric.data import digits, minibatches
from modeq.numeric.networks.small import digits_cnn, digits_mlp, tanh_network

BUILDERS = [digits_cnn, digits_mlp, tanh_network]


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_are_seeded_and_leave_the_global_generator_alone(build, dtype):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one, same, other = build(2, dtype=dtype), build(2, dtype=dtype), build(3, dtype=dtype)
    assert torch.equal(torch.get_rng_state(), before)
    for p, q in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(p, q)
    assert not torch.equal(one[-1].weight, other[-1].weight)
    assert {p.dtype for p in one.parameters()} == {dtype}
    assert one(torch.zeros(3, 1, 8, 8, dtype=dtype)).shape == (3, 10)


@pytest.mark.parametrize("build", BUILDERS)
def test_both_precisions_start_at_the_same_point(build):
    single, double = build(dtype=torch.float32), build(dtype=torch.float64)
    for p, q in zip(single.parameters(), double.parameters(), strict=True):
        assert torch.equal(p.double(), q)


def test_options_of_the_convolutional_network():
    network = digits_cnn(eps=1e-30, bias=True, channels=(3, 5))
    assert network.bn1.eps == network.bn2.eps == 1e-30
    assert network.conv1.bias.shape == (3,)
    assert network.fc.in_features == 20
    assert digits_cnn().conv1.bias is None


def test_the_smooth_network_is_small_and_smooth():
    network = tanh_network()
    assert sum(p.numel() for p in network.parameters()) <= 2000
    assert not any(isinstance(layer, nn.ReLU) for layer in network)


def test_digits_are_scaled_and_split_in_order():
    images, labels = digits()
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert float(images.min()) == 0.0
    assert float(images.max()) == 1.0
    assert sorted(labels.unique().tolist()) == list(range(10))
    parts = [digits("train"), digits("test")]
    assert torch.equal(torch.cat([part[0] for part in parts]), images)
    assert torch.equal(torch.cat([part[1] for part in parts]), labels)


def test_standardised_digits():
    images, _ = digits(standardise=True, dtype=torch.float64)
    assert float(images.mean()) == pytest.approx(0, abs=1e-12)
    assert float(images.std()) == pytest.approx(1)


def test_unknown_splits_are_refused():
    with pytest.raises(InvalidProblem, match="no split 'validation' of the digits; choose one of train, test, all"):
        digits("validation")


def test_missing_scikit_learn_is_named(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependency, match=r"pip install 'modeq\[examples\]'"):
        digits()


def test_minibatches_cover_each_epoch_once_and_reshuffle():
    before = torch.get_rng_state()
    batches = list(minibatches(12, 4, steps=7, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(batches) == 7
    first, second = torch.cat(batches[:3]), torch.cat(batches[3:6])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(12))
    assert not torch.equal(first, second)
    again = list(minibatches(12, 4, steps=7, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))
    assert not torch.equal(batches[0], next(minibatches(12, 4, steps=1, seed=2)))


def test_what_does_not_fill_a_batch_sits_out():
    batches = list(minibatches(10, 4, steps=4))
    assert all(len(set(torch.cat(pair).tolist())) == 8 for pair in (batches[:2], batches[2:]))


@pytest.mark.parametrize("size", [0, 11])
def test_impossible_batches_are_refused_at_once(size):
    with pytest.raises(InvalidProblem, match=f"batch_size {size} does not fit 10 examples; choose it from 1 to 10"):
        minibatches(10, size, steps=1)
