"""ResNet-18, GPT-2 and DenseNet: published sizes, counted without memory for them, and small ones that run."""

import pytest
import torch
from torch import nn

import modeq as mq
from modeq.errors import InvalidProblem
from modeq.numeric.networks.densenet import DenseLayer, densenet
from modeq.numeric.networks.gpt import gpt
from modeq.numeric.networks.resnet import ResidualBlock, resnet18
from modeq.numeric.networks.vgg import vgg16

TOKENS = torch.randint(11, (2, 6), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def small_gpt(**options):
    return gpt(**{"layers": 2, "heads": 2, "dim": 8, "vocabulary": 11, "context": 6} | options)


def small_resnet(**options):
    return resnet18(**{"width": 1 / 16, "classes": 7} | options)


def small_densenet(**options):
    return densenet(**{"growth": 2, "blocks": (2, 1, 2), "classes": 7} | options)


SMALL = {small_gpt: TOKENS, small_resnet: IMAGES, small_densenet: IMAGES}


def count(build, **options):
    with torch.device("meta"):
        network = build(**options)
    assert {p.device.type for p in network.parameters()} == {"meta"}
    return sum(p.numel() for p in network.parameters())


def drawn(module):
    """Tell weights that are drawn from those that start at 0 or 1."""
    return {name: p for name, p in module.named_parameters() if p.dim() > 1}


def biased(network):
    return any(layer.bias is not None for layer in network.modules() if isinstance(layer, nn.Conv2d))


@pytest.mark.parametrize("build", SMALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_are_seeded_and_leave_the_global_generator_alone(build, dtype):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one, same, other = build(seed=2, dtype=dtype), build(seed=2), build(seed=3, dtype=dtype)
    assert torch.equal(torch.get_rng_state(), before)
    assert {p.dtype for p in one.parameters()} == {dtype}
    for p, q in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(p, q.to(dtype))
    for name, p in drawn(one).items():
        assert not torch.equal(p, drawn(other)[name])


@pytest.mark.parametrize("build", SMALL)
def test_every_parameter_reaches_the_loss(build):
    network = build()
    network(SMALL[build]).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in drawn(network).values())


@pytest.mark.parametrize(
    "options, parameters",
    [
        ({"classes": 1000}, 11_689_512),
        ({}, 11_279_112),
        # Weights of the stem and of the other convolutions, biases of the stem and of four convolutions a stage, fc.
        ({"batch_norm": False}, 9408 + 11_157_504 + 64 + 4 * (64 + 128 + 256 + 512) + 200 * 513),
    ],
)
def test_resnet18_has_the_published_number_of_parameters(options, parameters):
    assert count(resnet18, **options) == parameters


@pytest.mark.parametrize("batch_norm", [True, False])
def test_resnet18_has_named_layers_and_a_width(batch_norm):
    network = small_resnet(batch_norm=batch_norm)
    assert network(IMAGES).shape == (2, 7)
    assert network.get_submodule("layer1.0.conv1").weight.shape == (4, 4, 3, 3)
    assert network.stem.conv.weight.shape == (4, 3, 7, 7)
    assert network.fc.weight.shape == (7, 32)
    skips = [network.get_submodule(f"layer{n}.{k}").skip for n in (1, 2, 3, 4) for k in (0, 1)]
    assert [isinstance(skip, nn.Identity) for skip in skips] == [True, True] + 3 * [False, True]
    assert {skip.conv.kernel_size for skip in skips if isinstance(skip, nn.Sequential)} == {(1, 1)}
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == 20 * batch_norm
    assert biased(network) != batch_norm
    assert small_resnet()(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_the_stages_of_resnet18_see_the_pixels_that_it_says():
    with torch.device("meta"):
        network, sides = resnet18(), []
        images = network.stem(torch.zeros(1, 3, 64, 64))
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            images = stage(images)
            sides.append(images.shape[-1])
    assert sides == [16, 8, 4, 2]


def test_a_block_without_a_branch_is_its_skip():
    block = ResidualBlock(3, 3, 1, batch_norm=False)
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    assert torch.equal(block(IMAGES), IMAGES.relu())


# With c channels before it, a layer has 2c + 4kc + 8k + 36k² parameters, which for k = 12 are 50c + 5280.
# A block of 16 from c channels has 16·(50c + 5280) + 50·12·120, and ends with c + 192 of them.
DEPTH_100 = (
    3 * 9 * 24
    + sum(16 * (50 * channels + 5280) + 50 * 12 * 120 for channels in (24, 108, 150))
    + (2 * 216 + 216 * 108)
    + (2 * 300 + 300 * 150)
    + 2 * 342
    + 342 * 10
    + 10
)


def test_densenet_has_the_published_number_of_parameters():
    assert DEPTH_100 == 769_162
    assert count(densenet, blocks=(16, 16, 16)) == DEPTH_100


@pytest.mark.parametrize("growth, depth, millions", [(12, 100, 0.8), (24, 250, 15.3), (40, 190, 25.6)])
def test_densenet_rounds_to_the_published_millions(growth, depth, millions):
    layers = (depth - 4) // 6
    assert round(count(densenet, growth=growth, blocks=3 * (layers,)) / 1e6, 1) == millions


@pytest.mark.parametrize("batch_norm", [True, False])
def test_densenet_keeps_what_it_saw_and_compresses(batch_norm):
    network = small_densenet(batch_norm=batch_norm, compression=0.7)
    assert network(IMAGES).shape == (2, 7)
    assert network.transition1.conv.weight.shape == (5, 8, 1, 1)
    assert network.fc.weight.shape == (7, 8)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == 13 * batch_norm
    assert biased(network) != batch_norm
    layer = DenseLayer(3, 2, batch_norm)
    assert list(dict(layer.named_children())) == ["bn1", "relu1", "conv1", "bn2", "relu2", "conv2"]
    assert torch.equal(layer(IMAGES)[:, :3], IMAGES)


def test_convolutions_are_drawn_as_he_et_al_did():
    network = resnet18(width=0.5)
    weight = network.layer3[1].conv1.weight.detach()
    assert float(weight.square().mean()) == pytest.approx(2 / (9 * 128), rel=0.02)


@pytest.mark.parametrize(
    "options, parameters",
    [
        ({}, 124_439_808),
        ({"packed": False}, 124_439_808),
        ({"tied": False}, 124_439_808 + 50257 * 768),
        ({"bias": False}, 124_439_808 - 12 * (3 + 1 + 4 + 1 + 2) * 768 - 768),
        ({"layers": 24, "heads": 16, "dim": 1024}, 354_823_168),
    ],
)
def test_gpt_has_the_published_number_of_parameters(options, parameters):
    assert count(gpt, **options) == parameters


def test_tied_embeddings_share_their_storage():
    for dtype in (torch.float32, torch.float64):
        network = small_gpt(dtype=dtype)
        assert network.head.weight is network.embedding.weight
        assert "head.weight" not in dict(network.named_parameters())
    untied = small_gpt(tied=False)
    assert untied.head.weight.data_ptr() != untied.embedding.weight.data_ptr()
    assert untied.head.weight.shape == untied.embedding.weight.shape


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_fused_attention_agrees_with_the_explicit_one(packed, bias):
    options = {"packed": packed, "bias": bias, "dtype": torch.float64}
    fused, explicit = small_gpt(**options), small_gpt(fused=False, **options)
    logits = [network(TOKENS) for network in (fused, explicit)]
    assert logits[0].shape == (2, 6, 11)
    torch.testing.assert_close(*logits)
    gradients = [
        torch.autograd.grad(y.square().sum(), list(n.parameters()))
        for y, n in zip(logits, (fused, explicit), strict=True)
    ]
    torch.testing.assert_close(*gradients)


def test_packed_and_separate_layers_compute_the_same():
    packed, separate = small_gpt(dtype=torch.float64), small_gpt(packed=False, dtype=torch.float64)
    state = {name: value for name, value in packed.state_dict().items() if ".qkv." not in name}
    for n, block in enumerate(packed.blocks):
        for kind in ("weight", "bias"):
            for name, part in zip(("query", "key", "value"), getattr(block.qkv, kind).chunk(3), strict=True):
                state[f"blocks.{n}.{name}.{kind}"] = part
    separate.load_state_dict(state)
    torch.testing.assert_close(separate(TOKENS), packed(TOKENS))


@pytest.mark.parametrize("fused", [True, False])
def test_no_token_sees_a_later_one(fused):
    network = small_gpt(fused=fused)
    changed = TOKENS.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 11
    moved = (network(changed) - network(TOKENS)).abs().amax(dim=(0, 2))
    assert not moved[:3].any()
    assert (moved[3:] > 0).all()
    torch.testing.assert_close(network(TOKENS[:, :4]), network(TOKENS)[:, :4])


def test_weights_of_gpt_are_drawn_as_published():
    network = gpt(layers=8, heads=2, dim=64, vocabulary=500, context=50)
    block = network.blocks[1]
    for layer in (block.qkv, block.fc1, network.embedding, network.positions):
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    for layer in (block.projection, block.fc2):
        assert float(layer.weight.detach().std()) == pytest.approx(0.02 / 4, rel=0.05)
        assert not layer.bias.any()


@pytest.mark.parametrize("fused", [True, False])
def test_dropout_acts_in_training_only(fused):
    network = small_gpt(dropout=0.5, fused=fused)
    assert not torch.equal(network(TOKENS), network(TOKENS))
    torch.testing.assert_close(network.eval()(TOKENS), small_gpt()(TOKENS))


@pytest.mark.parametrize("build", [small_gpt, small_densenet])
def test_derivatives_of_the_field_are_those_of_its_differences(build):
    network, data = build(dtype=torch.float64), SMALL[build]
    data = data if build is small_gpt else data[:, :, ::4, ::4].double()
    problem = mq.TorchProblem(network, lambda outputs, _: outputs.square().mean(), data, data)
    theta = torch.as_tensor(problem.start())
    direction = torch.randn(len(theta), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = 1e-6 * direction
    difference = (problem.field(theta + step) - problem.field(theta - step)) / 2e-6
    torch.testing.assert_close(problem.derivative(theta, [direction]), difference, rtol=1e-4, atol=1e-6)


def test_too_many_tokens_are_refused():
    with pytest.raises(InvalidProblem, match="tokens has 7 of them in a row: give at most the context, 6"):
        small_gpt()(torch.zeros(1, 7, dtype=torch.long))


@pytest.mark.parametrize("build", [*SMALL, vgg16])
@pytest.mark.parametrize(
    "options, message",
    [
        ({"seed": -1}, "seed is -1: give an integer from 0"),
        ({"seed": "a"}, "seed is 'a': give an integer from 0"),
        ({"dtype": torch.int64}, "dtype is torch.int64: give one of real numbers"),
        ({"dtype": "float32"}, "dtype is 'float32': give one of real numbers"),
    ],
)
def test_bad_seeds_and_dtypes_are_refused(build, options, message):
    with pytest.raises(InvalidProblem, match=message):
        build(**options)


@pytest.mark.parametrize(
    "build, options, message",
    [
        (resnet18, {"width": 0}, "width is 0: give a positive number"),
        (resnet18, {"classes": 0}, "classes is 0: give a positive integer"),
        (resnet18, {"batch_norm": "no"}, "batch_norm is 'no': give True or False"),
        (vgg16, {"batch_norm": None}, "batch_norm is None: give True or False"),
        (densenet, {"growth": 0}, "growth is 0: give a positive integer"),
        (densenet, {"blocks": 6}, r"blocks is 6: give the number of layers of each block, \(6, 6, 6\)"),
        (densenet, {"blocks": ()}, r"blocks is \(\): give the number of layers"),
        (densenet, {"blocks": (6, 0)}, r"blocks\[1\] is 0: give a positive integer"),
        (densenet, {"classes": 1.5}, "classes is 1.5: give a positive integer"),
        (densenet, {"compression": 0}, "compression is 0: give a positive number"),
        (densenet, {"compression": 1.5}, "compression is 1.5: give a number above 0, and at most 1"),
        (densenet, {"batch_norm": 2}, "batch_norm is 2: give True or False"),
        (gpt, {"layers": 0}, "layers is 0: give a positive integer"),
        (gpt, {"heads": 5}, "heads is 5: give a divisor of dim = 768"),
        (gpt, {"dim": "wide"}, "dim is 'wide': give a positive integer"),
        (gpt, {"vocabulary": 0}, "vocabulary is 0: give a positive integer"),
        (gpt, {"context": -1}, "context is -1: give a positive integer"),
        (gpt, {"dropout": 1}, "dropout is 1: give a probability from 0, and below 1"),
        (gpt, {"tied": "yes"}, "tied is 'yes': give True or False"),
        (gpt, {"bias": None}, "bias is None: give True or False"),
        (gpt, {"packed": 1}, "packed is 1: give True or False"),
        (gpt, {"fused": 0}, "fused is 0: give True or False"),
    ],
)
def test_impossible_networks_are_refused(build, options, message):
    with pytest.raises(InvalidProblem, match=message):
        build(**options)
