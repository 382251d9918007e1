"""Networks and data: seeded, of the sizes they should have, and what is refused."""

import builtins

import pytest
import torch
from torch import nn

from modeq.errors import InvalidProblem, MissingDependency
from modeq.numeric.data import breast_cancer, diabetes, digits, minibatches
from modeq.numeric.networks.small import digits_cnn, digits_mlp, tanh_network
from modeq.numeric.networks.vgg import vgg16
from modeq.numeric.networks.vision import VisionTransformer, digits_vit


def smooth_cnn(seed=0, *, dtype=torch.float32):
    return digits_cnn(seed, batch_norm=False, activation="tanh", dtype=dtype)


BUILDERS = [digits_cnn, digits_mlp, tanh_network, smooth_cnn, digits_vit]


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_are_seeded_and_leave_the_global_generator_alone(build, dtype):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one, same, other = build(2, dtype=dtype), build(2, dtype=dtype), build(3, dtype=dtype)
    assert torch.equal(torch.get_rng_state(), before)
    for p, q in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(p, q)
    *_, first = one.parameters()
    *_, second = other.parameters()
    assert not torch.equal(first, second)
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


def test_the_smooth_convolutional_network_has_no_kinks_and_no_batch_norms():
    network = smooth_cnn()
    assert count(network) == 1898
    assert not any(isinstance(layer, nn.ReLU | nn.BatchNorm2d | nn.MaxPool2d) for layer in network)
    assert network.conv1.bias is not None
    assert network.conv2.bias is not None


def test_a_wide_convolutional_network():
    assert 300_000 < count(digits_cnn(channels=(128, 256))) < 310_000


@pytest.mark.parametrize("build", [digits_cnn, digits_mlp])
def test_unknown_activations_are_refused(build):
    with pytest.raises(InvalidProblem, match="activation is 'sign': choose from relu, tanh, gelu, softplus"):
        build(activation="sign")


def test_the_vision_transformer_attends_to_all_patches():
    network = digits_vit(1, dtype=torch.float64)
    assert count(network) == 1690
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens = []
    network.blocks[0].fc1.register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0].detach()))
    network(images)
    changed = images.clone()
    changed[:, :, 4:, 4:] += 1
    network(changed)
    difference = (tokens[1] - tokens[0]).abs().amax(dim=(0, 2))
    assert torch.all(difference > 1e-6), "each of the four patches sees the change of the last"
    assert difference.argmax() == 3
    torch.testing.assert_close(network(images[:1]), network(images)[:1])


def test_attention_is_that_of_torch():
    block = digits_vit(2, dtype=torch.float64).blocks[0]
    reference = nn.MultiheadAttention(12, 2, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        reference.in_proj_weight.copy_(block.qkv.weight)
        reference.in_proj_bias.copy_(block.qkv.bias)
        reference.out_proj.load_state_dict(block.projection.state_dict())
    stream = torch.randn(2, 4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block._attention(stream), reference(stream, stream, stream)[0])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"patch": 3}, "patch is 3: give a divisor of the side of the image, 8"),
        ({"dim": 12, "heads": 5}, "heads is 5: give a divisor of dim = 12"),
        ({"depth": 0}, "depth is 0: give a positive integer"),
    ],
)
def test_impossible_transformers_are_refused(options, message):
    with pytest.raises(InvalidProblem, match=message):
        VisionTransformer(**options)


def test_vgg16_has_the_published_number_of_parameters():
    network = vgg16()
    assert count(network) == 18_067_464
    assert sum(isinstance(layer, nn.Conv2d) and layer.bias is not None for layer in network) == 13
    assert [tuple(layer.weight.shape) for layer in network if isinstance(layer, nn.Linear)] == [
        (1024, 2048),
        (1024, 1024),
        (200, 1024),
    ]
    assert [layer.p for layer in network if isinstance(layer, nn.Dropout)] == [0.5, 0.5]


def test_options_of_vgg16():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    options = {"width": 1 / 32, "batch_norm": True, "dropout": 0, "classes": 7, "image_size": 32}
    one, same, other = (vgg16(seed, **options) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.conv3.weight, same.conv3.weight)
    assert not torch.equal(one.conv3.weight, other.conv3.weight)
    assert one(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in one) == 13
    assert not any(isinstance(layer, nn.Dropout) for layer in one)
    assert vgg16(width=1 / 32, dtype=torch.float64)(torch.zeros(1, 3, 64, 64, dtype=torch.float64)).shape == (1, 200)
    assert not any(p.abs().max() for name, p in vgg16(width=1 / 32).named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"width": 0}, "width is 0: give a positive number"),
        ({"image_size": 48}, "image_size is 48: give a multiple of 32"),
        ({"dropout": 1}, "dropout is 1: give a probability from 0, and below 1"),
        ({"dropout": "no"}, "dropout is 'no': give a probability"),
        ({"classes": 0}, "classes is 0: give a positive integer"),
    ],
)
def test_impossible_vgg_networks_are_refused(options, message):
    with pytest.raises(InvalidProblem, match=message):
        vgg16(**options)


@pytest.mark.parametrize("load, shape", [(breast_cancer, (569, 30)), (diabetes, (442, 10))])
def test_tables_are_standardised(load, shape):
    inputs, targets = load()
    assert inputs.shape == shape
    assert targets.shape == shape[:1]
    assert inputs.dtype == targets.dtype == torch.float64
    torch.testing.assert_close(inputs.mean(0), torch.zeros(shape[1], dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(inputs.std(0, correction=0), torch.ones(shape[1], dtype=torch.float64))
    assert {x.dtype for x in load(dtype=torch.float32)} == {torch.float32}


def test_targets_of_the_tables():
    assert set(breast_cancer()[1].tolist()) == {0.0, 1.0}
    progression = diabetes()[1]
    assert float(progression.mean()) == pytest.approx(0, abs=1e-12)
    assert float(progression.std(correction=0)) == pytest.approx(1)


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
    with pytest.raises(InvalidProblem, match="split is 'validation': choose from train, test, all"):
        digits("validation")


@pytest.mark.parametrize("load, name", [(digits, "digits"), (breast_cancer, "breast cancer"), (diabetes, "diabetes")])
def test_missing_scikit_learn_is_named(monkeypatch, load, name):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependency, match=rf"the {name} data come .* pip install 'modeq\[examples\]'"):
        load()


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
    with pytest.raises(InvalidProblem, match=f"batch_size is {size}: there are 10 samples, give 1 to 10"):
        minibatches(10, size, steps=1)
