"""The exact laws on a convolutional network with batch norm, trained on real digits."""

import functools

import pytest
import torch
from known_charges import digits_cnn_charges, digits_mlp_charges
from torch.nn.functional import cross_entropy

from modeq.numeric.data import digits, minibatches
from modeq.numeric.networks.small import digits_cnn, digits_mlp
from modeq.symmetry.tracking import track

BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5}
STEPS = 300


def train(network, charges, dtype):
    images, labels = digits(dtype=dtype)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, dampening=0.3, weight_decay=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    with track(network, optimizer, charges) as tracker:
        for batch in minibatches(len(images), 32, STEPS, seed=1):
            optimizer.zero_grad()
            loss = cross_entropy(network(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
    assert loss.item() < 0.5  # it learns
    return tracker


@functools.cache
def tracked_cnn(dtype, eps, bias=False):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = digits_cnn(seed=3, eps=eps, bias=bias, dtype=dtype)
        return train(network, digits_cnn_charges(bias=bias), dtype)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_every_law_is_exact_with_batch_norm(dtype):
    residuals = tracked_cnn(dtype, 1e-30).residual()
    assert set(residuals) == {"conv1", "conv2", "bn1-conv2", "bn2-fc", "fc", "fc bias"}
    assert max(residuals.values()) < BOUNDS[dtype], residuals


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_every_law_is_exact_without_batch_norm(dtype):
    residuals = train(digits_mlp(seed=3, dtype=dtype), digits_mlp_charges(), dtype).residual()
    assert max(residuals.values()) < BOUNDS[dtype], residuals


def test_a_bias_before_batch_norm_only_decays():
    tracker = tracked_cnn(torch.float64, 1e-30, bias=True)
    # each charge is one small number, whose gradient, zero by symmetry, is the rounding of a long sum
    assert tracker.residual("with_defect")["conv1 bias"] < 1e-13
    assert tracker.residual()["conv1 bias"] < 1e-11
    tracker = tracked_cnn(torch.float32, 1e-30, bias=True)
    assert tracker.residual("with_defect")["conv1 bias"] < 1e-5
    assert tracker.residual()["conv1 bias"] < 5e-3


@pytest.mark.parametrize("name", ["conv1", "conv2"])
def test_the_epsilon_of_batch_norm_breaks_scale_symmetry_and_is_blamed(name):
    exact, broken = (tracked_cnn(torch.float64, eps) for eps in (1e-30, 1e-5))
    assert broken.residual()[name] > 1000 * exact.residual()[name]
    assert broken.symmetry_defect()[name] > 1000 * exact.symmetry_defect()[name]
    assert broken.residual("with_defect")[name] < 1e-12
    sentence = broken.explain()[name]
    assert "above rounding because the gradient is not orthogonal to the generator" in sentence
    assert "here: bn1 (ε = 1e-05), bn2 (ε = 1e-05)" in sentence
    assert "at the level of rounding" in exact.explain()[name]


def test_the_epsilon_of_batch_norm_leaves_the_other_laws_alone():
    residuals = tracked_cnn(torch.float64, 1e-5).residual()
    assert max(residuals[name] for name in ("bn1-conv2", "bn2-fc", "fc", "fc bias")) < 1e-12


def test_the_published_laws_are_a_thousand_times_coarser_than_rounding():
    tracker = tracked_cnn(torch.float64, 1e-30)
    article, corrected = tracker.residual("article"), tracker.residual("corrected")
    for name in article:
        assert 1e-9 < corrected[name] < article[name] / 10
