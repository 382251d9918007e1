"""What charges explain of all affine symmetries, and what the rest is: counted by hand, verified, and followed."""

import pytest
import torch
from hypothesis import given, settings
from network_registry import NETWORKS
from test_random_networks import LAYER, Added, labels, numbers, plain, small, taken_back
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeq.errors import InvalidCharge
from modeq.symmetry.charges import Rescale, Translation
from modeq.symmetry.finding import find_charges
from modeq.symmetry.matrix_charges import GeneralLinear
from modeq.symmetry.tracking import track
from modeq.symmetry.verification import verify
from modeq.testing import affine_symmetries, diagonal_symmetries

F64 = torch.float64


def rest_of(explanation):
    assert not any(entry.false for entry in explanation.named), explanation.table()
    assert explanation.explained + sum(entry.dimension for entry in explanation.rest) == explanation.dimension
    return {entry.charge.name: entry.dimension for entry in explanation.rest}


# What is left when all that is found is named. A constant that the next map takes back has no charge. Rotations of a
# space in which only angles count are found where nothing but linear maps lies between; entries that a mask hides, and
# parameters without use, are constants of which nothing is said.
REST = {
    "relu": {},
    "relu_squared": {},
    "tanh_regression": {},
    "deep_linear": {},
    "low_rank_update": {},
    "bias_after_batch_norm": {},
    "softmax_over_the_batch": {},
    "linear_linear": {"mixed fc1.bias+fc2.weight+fc2.bias": 4},
    "shift_after_relu": {"mixed shift+fc2.weight+fc2.bias": 4},
    "attention_pooling": {"mixed v.bias+head.weight+head.bias": 4},
    "temperature_as_a_logarithm": {"shifted temperature+fc.weight+fc.bias": 1},
    "cosine_classifier": {"antisymmetric prototypes+fc.weight+fc.bias": 4 * 3 // 2},
    "layer_without_use": {"constant unused.weight": 2 * 30, "constant unused.bias": 30},
}


def seen(name):
    """A registered network whose norms have no ε, its null space and its charges."""
    network = NETWORKS[name]
    module = network.build()
    for part in module.modules():
        if hasattr(part, "eps"):
            part.eps = 1e-30
    inputs, targets = network.batch(torch.Generator().manual_seed(0))
    with sdpa_kernel(SDPBackend.MATH):
        null = affine_symmetries(module, network.loss_of, network.batch)
    assert null.gap > 1e6
    charges = find_charges(module, inputs, network.loss, target=targets)
    return module, (inputs, targets), null, charges


@pytest.mark.some(4)
@pytest.mark.parametrize("name", REST)
def test_all_that_is_found_on_a_registered_network_is_there_and_the_rest_is_known(name):
    module, batch, null, charges = seen(name)
    explanation = null.explained_by(charges, module)
    assert rest_of(explanation) == REST[name], explanation.table()
    assert verify(explanation.unexplained, module, NETWORKS[name].loss_of, batch).passed(1e-10)


def test_a_missed_charge_is_followed():
    """‖w‖² + ‖b‖² + 2t of a classifier e^t(wx + b): multiplying it by e^s is subtracting s from t."""
    module, (inputs, targets), null, charges = seen("temperature_as_a_logarithm")
    (charge,) = null.explained_by(charges, module).unexplained
    assert charge.degree == 2
    own = charge.parameters_of(module)
    t, w, b = (own[name].detach() for name in ("temperature", "fc.weight", "fc.bias"))
    by_hand = float(w.square().sum() + b.square().sum() - 2 * t)
    assert abs(float(charge.value(own).detach())) == pytest.approx(abs(by_hand))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    with track(module, optimizer, [charge]) as tracker:
        for _ in range(100):
            optimizer.zero_grad()
            F.cross_entropy(module(inputs), targets).backward()
            optimizer.step()
    assert tracker.residual()[charge.name] < 1e-13


def built(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers).double()


# Without any charge given: a basis by kinds.
UNKNOWN = {
    "GL(2)": (plain(2, 2, 3), 3, {"symmetric 0.weight+1.weight": 3, "antisymmetric 0.weight+1.weight": 1}),
    "O(2) of what a layer norm leaves": (
        [nn.Linear(2, 3), LAYER, nn.Linear(3, 3, bias=False)],
        3,
        {"constant 0.weight": 2 * 19, "constant 0.bias": 19, "constant 2.weight": 3 * 19,
         "symmetric 0.weight+0.bias": 1, "antisymmetric 0.weight+0.bias+2.weight": 1},
    ),
    "a scalar output": ([Added(2, 3), *plain(2, 1)], 1, {"mixed 0.block.2.weight+1.weight": 3}),
    "neurons and classes": (
        [nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3)],
        None,
        {"constant 2.bias": 16, "constant 2.weight": 2 * 16, "symmetric 0.weight+0.bias+2.weight": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_without_charges_all_is_left_and_verified(name):
    layers, outputs, expected = UNKNOWN[name]
    module = built(*layers)
    draw = labels(2) if outputs is None else numbers(2, outputs)
    loss = F.cross_entropy if outputs is None else F.mse_loss
    explanation = affine_symmetries(module, loss, draw).explained_by([], module)
    assert rest_of(explanation) == expected, explanation.table()
    assert explanation.explained == 0
    batch = draw(torch.Generator().manual_seed(5))
    assert verify(explanation.unexplained, module, loss, batch).passed(1e-10)
    entries = [value for charge in explanation.unexplained for element in charge.elements for *_, value in element]
    assert set(map(abs, entries)) <= {1.0, 2.0}  # readable


def test_diagonal_fields_are_explained_by_the_diagonals_of_matrices():
    module = built(nn.Linear(2, 3), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 3, bias=False))
    null = diagonal_symmetries(module, F.cross_entropy, labels(2))
    inputs, targets = labels(2)(torch.Generator().manual_seed(0))
    charges = find_charges(module, inputs, "cross_entropy", target=targets)
    assert [(e.charge.kind, e.dimension) for e in null.explained_by(charges, module).named] == [
        ("rescale", 2), ("general_linear", 3), ("translation", 2),
    ]  # fmt: skip
    assert rest_of(null.explained_by(charges, module)) == {}
    assert rest_of(null.explained_by([], module)) == {
        "constant 3.weight": 2, "symmetric 0.weight+0.bias+1.weight": 3, "symmetric 1.weight+1.bias+3.weight": 2,
    }  # fmt: skip
    alone = built(nn.Linear(2, 1), nn.BatchNorm1d(1, eps=1e-30))  # a bias that nothing sees may be multiplied too
    null = diagonal_symmetries(alone, F.mse_loss, numbers(2, 1))
    found = null.explained_by([Translation("0.bias", {"0.bias": 0})], alone)
    assert found.named[0].dimension == 2
    assert rest_of(found) == {"symmetric 0.weight": 1}


def test_each_dimension_is_counted_once_and_what_is_no_symmetry_not_at_all():
    module = built(*plain(3, 2, 3))
    null = affine_symmetries(module, F.mse_loss, numbers(3))
    diagonal = Rescale("diagonal", {"0.weight": 0}, {"1.weight": 1})
    whole = GeneralLinear("whole", {"0.weight": 0}, {"1.weight": 1})
    explanation = null.explained_by([diagonal, whole, diagonal.renamed("again")], module)
    assert [entry.dimension for entry in explanation.named] == [2, 2, 0]
    half = Rescale("half", {"0.weight": (0, ((0,), (1,)))}, {"1.weight": (1, ((0,), (0,)))})
    found = null.explained_by([half], module)
    assert [(entry.dimension, entry.false) for entry in found.named] == [(1, 1)]
    assert "1 of its generators not in the null space" in found.table()


@given(small())
@settings(max_examples=10, deadline=None)
def test_on_any_network_nothing_but_constants_that_are_taken_back_is_left(module):
    draw = numbers(2)
    inputs, targets = draw(torch.Generator().manual_seed(1))
    explanation = affine_symmetries(module, F.mse_loss, draw).explained_by(find_charges(module, inputs, "mse"), module)
    rest = rest_of(explanation)
    assert sum(rest.values()) <= len(taken_back(module)), explanation.table()
    assert all(name.startswith("mixed") for name in rest)
    assert verify(explanation.unexplained, module, F.mse_loss, (inputs, targets)).passed(1e-9)


def test_what_does_not_fit_is_refused():
    module = built(*plain(3, 2, 3))
    null = affine_symmetries(module, F.mse_loss, numbers(3))
    with pytest.raises(InvalidCharge, match="fields have 156 unknowns, and the module 4 parameters with a gradient"):
        null.explained_by([], nn.Linear(3, 1))
    with pytest.raises(InvalidCharge, match="has no parameter '0.bias'"):
        null.explained_by([Translation("b", {"0.bias": 0})], module)
    module[0].requires_grad_(False)
    null = affine_symmetries(module, F.mse_loss, numbers(3))
    with pytest.raises(InvalidCharge, match="moves '0.weight', which requires no gradient"):
        null.explained_by([GeneralLinear("0-1", {"0.weight": 0}, {"1.weight": 1})], module)
