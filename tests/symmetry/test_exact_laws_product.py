"""The exact laws of all charges that are found, over a product of schedules and kinds of SGD, for a thousand steps."""

import functools
import math
from itertools import product

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import nn
from torch.nn.functional import cross_entropy

from modeq.numeric.data import minibatches
from modeq.numeric.networks.gpt import gpt
from modeq.numeric.networks.resnet import resnet18
from modeq.numeric.networks.vgg import vgg16
from modeq.symmetry.charges import Translation
from modeq.symmetry.finding import find_charges
from modeq.symmetry.laws import SGDStep, discrete_solution, discrete_step
from modeq.symmetry.tracking import track

STEPS = 1000
BATCH, EXAMPLES = 4, 32
RATE, DECAY = 0.02, 2e-3
BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5}
ONE_SIGNED = STEPS * torch.finfo(torch.float32).eps / 2  # half a unit in the last place at every step

NETWORKS = {
    "vgg16": lambda dtype: vgg16(width=1 / 32, batch_norm=True, dropout=0, classes=5, image_size=32, dtype=dtype),
    "resnet18": lambda dtype: resnet18(width=1 / 32, classes=5, dtype=dtype),
    "gpt": lambda dtype: gpt(layers=1, heads=2, dim=8, vocabulary=11, context=6, dtype=dtype),
}
IMAGE_SIZES = {"vgg16": 32, "resnet18": 48}  # the last normalisation of each sees 2×2 pixels
CHARGES = {"vgg16": 43, "resnet18": 37, "gpt": 12}
SCHEDULES = {
    "constant": lambda k: 1.0,
    "cosine": lambda k: (1 + math.cos(math.pi * k / STEPS)) / 2,
    "step decay": lambda k: 0.1 ** (3 * k // STEPS),
    "warm-up": lambda k: min(1.0, 5 * (k + 1) / STEPS),
}
KINDS = {
    "no momentum": {"momentum": 0.0},
    "dampened": {"momentum": 0.5, "dampening": 0.1},
    "heavy ball": {"momentum": 0.9},
    "Nesterov": {"momentum": 0.9, "nesterov": True},
}
WITH_MOMENTUM = [kind for kind in KINDS if kind != "no momentum"]
PRODUCT = list(product(SCHEDULES, WITH_MOMENTUM, ("no decay", "coupled")))
PLAIN = list(product(SCHEDULES, ["no momentum"], ["coupled"]))  # without momentum all kinds of decay are one
DECOUPLED = list(product(["cosine"], WITH_MOMENTUM, ["decoupled"]))


def network_of(name, dtype):
    """A network of normalisations without ε, its inputs and labels.

    Biases lie in [1, 2]: a bias that only decays is a charge by itself, to be compared with its own size. The
    weights of the transformer are drawn for a width of 768; of 8 they are ten times as large.
    """
    draw = torch.Generator().manual_seed(1)
    network = NETWORKS[name](dtype)
    for layer in network.modules():
        if hasattr(layer, "eps"):
            layer.eps = 1e-30
    for parameter, value in network.named_parameters():
        if parameter.endswith("bias"):
            value.data.add_(1 + torch.rand(value.shape, generator=draw).to(dtype))
        elif name == "gpt" and value.dim() == 2:
            value.data.mul_(10)
    if name == "gpt":
        inputs, labels = torch.randint(0, 11, (2, EXAMPLES, 6), generator=draw)
    else:
        size = IMAGE_SIZES[name]
        inputs = torch.randn(EXAMPLES, 3, size, size, generator=draw).to(dtype)
        labels = torch.randint(0, 5, (EXAMPLES,), generator=draw)
    return network, inputs, labels


@functools.cache
def charges_of(name):
    network, inputs, _ = network_of(name, torch.float64)
    charges = find_charges(network, inputs[:BATCH], "cross_entropy")
    assert len(charges) == CHARGES[name]
    return charges


def gradients(network, inputs, labels, steps):
    """Leave the gradient of a minibatch in the parameters, step by step."""
    for k, batch in enumerate(minibatches(EXAMPLES, BATCH, steps, seed=2)):
        network.zero_grad()
        cross_entropy(network(inputs[batch]).flatten(0, -2), labels[batch].flatten()).backward()
        yield k


def set_combination(optimizer, combination, k):
    schedule, kind, decay = combination
    optimizer.param_groups[0].update(
        {"dampening": 0.0, "nesterov": False, **KINDS[kind]},
        lr=RATE * SCHEDULES[schedule](k),
        weight_decay=DECAY if decay == "coupled" else 0.0,
    )


def tracked(name, dtype, *combinations, steps=STEPS, every=10):
    """Residuals under `track`, the combinations of hyper-parameters taking turns."""
    network, inputs, labels = network_of(name, dtype)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
    with track(network, optimizer, charges_of(name), every=every, laws=["discrete"]) as tracker:
        for k in gradients(network, inputs, labels, steps):
            set_combination(optimizer, combinations[k * len(combinations) // steps], k)
            optimizer.step()
    return tracker.residual()


def followed_by_hand(name, dtype, combination, steps=STEPS, every=10):
    """Residuals under decoupled decay, which torch's SGD does not have: it is done beside it."""
    network, inputs, labels = network_of(name, dtype)
    charges = {c: c.parameters_of(network) for c in charges_of(name)}
    parameters = list(network.parameters())
    optimizer = torch.optim.SGD(parameters, lr=RATE)
    states = {charge: (charge.value(members).detach(), 0.0) for charge, members in charges.items()}
    residuals = {charge.name: 0.0 for charge in charges}
    for k in gradients(network, inputs, labels, steps):
        set_combination(optimizer, combination, k)
        group = optimizer.param_groups[0]
        step = SGDStep(group["lr"], group["momentum"], group["dampening"], DECAY, group["nesterov"], decoupled=True)
        before = [p.grad.clone() for p in parameters]
        with torch.no_grad():
            for p in parameters:
                # not p·(1 − hλ): the rounding of this factor is the same at all steps and adds up
                p.sub_(step.h * step.weight_decay * p)
        optimizer.step()
        buffers = {p: optimizer.state[p]["momentum_buffer"] for p in parameters}
        updates = {
            p: g + step.momentum * buffers[p] if step.nesterov else buffers[p]
            for p, g in zip(parameters, before, strict=True)
        }
        for charge, members in charges.items():
            buffer, update = ({n: of[p] for n, p in members.items()} for of in (buffers, updates))
            # of a matrix charge the antisymmetric generators, which come last, conserve nothing
            forcing, cross = (charge.pairing(update, of)[: len(states[charge][0])] for of in (update, buffer))
            states[charge] = discrete_step(*states[charge], step, forcing, cross, degree=charge.degree, first=k == 0)
            if (k + 1) % every == 0:
                error = (states[charge][0] - charge.value(members).detach()).abs() / charge.normaliser(members).detach()
                residuals[charge.name] = max(residuals[charge.name], float(error.max()))
    return residuals


@pytest.mark.some(2)
@pytest.mark.parametrize(
    "dtype, steps",
    [pytest.param(torch.float64, STEPS, marks=pytest.mark.slow), (torch.float64, 150), (torch.float32, 150)],
    ids=str,
)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_law_is_exact_while_the_hyperparameters_change(name, dtype, steps):
    residuals = tracked(name, dtype, *PLAIN, *PRODUCT, steps=steps)
    assert max(residuals.values()) < BOUNDS[dtype], residuals


@pytest.mark.some(1)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("combination", DECOUPLED, ids=", ".join)
def test_every_law_is_exact_under_decoupled_decay(combination, dtype):
    residuals = followed_by_hand("gpt", dtype, combination, steps=300)
    assert max(residuals.values()) < BOUNDS[dtype], residuals


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("combination", PLAIN + PRODUCT + DECOUPLED, ids=", ".join)
def test_every_law_is_exact_for_every_combination(combination, name):
    follow = followed_by_hand if combination in DECOUPLED else tracked
    residuals = follow(name, torch.float64, combination)
    assert max(residuals.values()) < BOUNDS[torch.float64], residuals


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("combination", PRODUCT, ids=", ".join)
def test_every_law_is_exact_in_single_precision(combination, name):
    residuals = tracked(name, torch.float32, combination)
    bound = BOUNDS[torch.float32]
    if combination[0] == "step decay" and combination[2] == "coupled":
        bound = ONE_SIGNED  # of the biases that only decay
    assert max(residuals.values()) < bound, residuals


@pytest.mark.parametrize("dtype, least, most", [(torch.float64, 0, 1e-12), (torch.float32, 1e-5, ONE_SIGNED)], ids=str)
def test_parameters_that_lose_a_few_units_in_the_last_place_are_rounded_alike_at_all_steps(dtype, least, most):
    network = nn.Module()
    network.b = nn.Parameter(1 + torch.rand(500, generator=torch.Generator().manual_seed(0)).to(dtype))
    network.b.grad = torch.zeros_like(network.b)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
    with track(network, optimizer, [Translation("b", {"b": 0})], every=10, laws=["discrete"]) as tracker:
        for k in range(STEPS):
            set_combination(optimizer, ("step decay", "heavy ball", "coupled"), k)
            optimizer.step()
    residual = tracker.record["b"].residual()[-1]
    assert least < residual.max() < most
    assert residual.mean() < most / 5


EDGES = {"under-damped": (1.001, 50.0), "critically damped": (1.0, 1.0), "over-damped": (0.0, 0.999)}


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("regime", EDGES)
@given(
    rate=st.floats(1e-3, 0.5),
    beta=st.sampled_from([0.3, 0.9, 0.99, 0.999]) | st.floats(0.05, 0.99),
    alpha=st.just(0.0) | st.floats(0, 0.9),
    where=st.floats(0, 1),
    steps=st.integers(0, 200),
    seed=st.integers(0, 10**6),
)
def test_closed_forms_are_the_recursion_from_the_first_step_of_torch(
    degree, regime, rate, beta, alpha, where, steps, seed
):
    lower, upper = (1 - beta**0.5) ** 2, (1 + beta**0.5) ** 2
    least, most = EDGES[regime]
    x = min(lower * (least + where * (most - least)), 0.9 * upper)
    step = SGDStep(rate, beta, alpha, weight_decay=x / (degree * rate * (1 - alpha)))
    draw = np.random.default_rng(seed)
    start, forcing = draw.normal(size=2), draw.normal(size=(steps, 2))
    rows, state = [start], (start, 0.0)
    for k, force in enumerate(forcing):
        state = discrete_step(*state, step, force, force, degree=degree, first=k == 0)
        rows.append(state[0])
    momentum = alpha / beta * step.weight_decay * start
    closed = discrete_solution(start, momentum, step, forcing, degree=degree)
    np.testing.assert_allclose(closed, rows, rtol=0, atol=1e-12 * np.abs(rows).max())


@pytest.mark.some(10)
@pytest.mark.parametrize("position", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("beta, alpha", [(0.9, 0.3), (0.8, 0.1), (0.9, 0.0)])
@pytest.mark.parametrize("index", [0, 1])
def test_closed_forms_are_the_charges_of_a_training(index, beta, alpha, position):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
        inputs, labels = torch.randn(12, 3).double(), torch.arange(12) % 2
    charge = find_charges(network, inputs, "cross_entropy")[index]
    members, rate = charge.parameters_of(network), 0.1
    # the double root lies at position 1
    step = SGDStep(
        rate, beta, alpha, weight_decay=position * (1 - beta**0.5) ** 2 / (charge.degree * rate * (1 - alpha))
    )
    optimizer = torch.optim.SGD(
        network.parameters(), lr=rate, momentum=beta, dampening=alpha, weight_decay=step.weight_decay
    )
    forcing = []
    with track(network, optimizer, [charge], laws=["discrete"]) as tracker:
        for _ in range(40):
            optimizer.zero_grad()
            cross_entropy(network(inputs), labels).backward()
            optimizer.step()
            buffers = {name: optimizer.state[p]["momentum_buffer"] for name, p in members.items()}
            forcing.append(charge.pairing(buffers, buffers).numpy())
    record = tracker.record[charge.name]
    start = record.measured[0]
    closed = discrete_solution(start, alpha / beta * step.weight_decay * start, step, forcing, degree=charge.degree)
    assert (np.abs(closed - record.measured) / record.normaliser).max() < 1e-12


@pytest.mark.slow
def test_two_hundred_thousand_steps_in_single_precision():
    rate, beta, decay = 0.01, 0.99, 1e-3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3, eps=1e-30), nn.ReLU(), nn.Linear(3, 2))
        inputs, labels = torch.randn(8, 2), torch.arange(8) % 2
    charges = find_charges(network, inputs, "cross_entropy")
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=beta, weight_decay=decay)
    with track(network, optimizer, charges, every=1000) as tracker:
        for _ in range(200_000):
            optimizer.zero_grad()
            cross_entropy(network(inputs), labels).backward()
            optimizer.step()
    assert [charge.degree for charge in charges] == [2, 2, 1, 1]
    for charge in charges:
        record = tracker.record[charge.name]
        assert all(np.isfinite(predicted).all() for predicted in record.predicted.values())
        # roundings of one sign at every step, until the decay has forgotten them
        rounding = torch.finfo(torch.float32).eps / 2 * (1 - beta) / (charge.degree * rate * decay)
        exact, article, corrected = (record.residual(law).max() for law in ("discrete", "article", "corrected"))
        assert exact < rounding
        assert article < 0.1 * rate + rounding
        assert corrected < 0.1 * rate**2 + rounding
