"""The number of conservation laws of known architectures, as published and by formulas.

Marcotte, Gribonval, Peyré: 2023 (arXiv 2307.00144) for linear and ReLU networks, 2024 (2405.12888) for momentum, 2025
(2506.06194) for convolutions, residual blocks, attention and classifiers.
"""

from itertools import product

import pytest
import sympy as sp
import torch
from torch import nn

import modeq as mq

# D, dim Lie, the number of laws and that of the known ones, UᵀU − VVᵀ of layers next to each other, of linear networks
# without biases, from ranks of gradients and of their brackets that were computed apart from this package. Those with
# scalar input and output have D − 1 laws, since the product of the layers is one number.
LINEAR = {
    (1, 1, 1): (2, 1, 1, 1),
    (2, 2, 2): (8, 5, 3, 3),
    (3, 2, 4): (14, 11, 3, 3),
    (1, 4, 1): (8, 1, 7, 7),
    (2, 6, 2): (24, 6, 18, 18),
    (2, 3, 3, 2): (21, 9, 12, 12),
    (3, 2, 2, 3): (16, 10, 6, 6),
    (1, 3, 3, 2): (18, 6, 12, 12),
    (1, 2, 2, 1): (8, 1, 7, 6),
    (1, 3, 3, 1): (15, 1, 14, 12),
    (1, 5, 1, 3, 1): (16, 1, 15, 15),
}


def formula(widths):
    """Σ_i r_i(2n_i + 1 − r_i)/2 over hidden layers, r_i = min(n_i, n_{i−1} + n_{i+1}); D − 1 from a number to one."""
    if widths[0] == widths[-1] == 1:
        return sum(a * b for a, b in zip(widths, widths[1:], strict=False)) - 1
    total = 0
    for before, n, after in zip(widths, widths[1:], widths[2:], strict=False):
        r = min(n, before + after)
        total += r * (2 * n + 1 - r) // 2
    return total


def dense(widths, activation=None, bias=False):
    layers = []
    for k, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
        layers += [nn.Linear(a, b, bias=bias)]
        if activation is not None and k < len(widths) - 2:
            layers += [activation()]
    return nn.Sequential(*layers)


def count(network, *inputs, **options):
    return mq.count_conservation_laws(network, inputs if len(inputs) > 1 else inputs[0], **options)


SHALLOW = [w for w in product((1, 2, 3), repeat=3) if w not in LINEAR]
DEEP = [w for w in product((1, 2, 3), repeat=4) if w not in LINEAR and w[0] + w[3] > 2]


@pytest.mark.some(5)
@pytest.mark.parametrize("widths", LINEAR, ids=str)
def test_linear_networks_of_the_literature(widths):
    found = count(dense(widths), torch.zeros(1, widths[0]))
    quadratic = found.polynomials(2)
    assert (found.parameters, found.dimension, found.independent, quadratic.independent) == LINEAR[widths]
    assert quadratic.complete == (widths not in [(1, 2, 2, 1), (1, 3, 3, 1)])
    assert found.exact
    assert found.probability < 1e-6


@pytest.mark.some(18)
@pytest.mark.parametrize("widths", [*SHALLOW, *DEEP[::9]], ids=str)
def test_linear_networks(widths):
    assert count(dense(widths), torch.zeros(1, widths[0])).independent == formula(widths)


@pytest.mark.slow
@pytest.mark.parametrize("widths", [w for k, w in enumerate(DEEP) if k % 9], ids=str)
def test_more_linear_networks(widths):
    assert count(dense(widths), torch.zeros(1, widths[0])).independent == formula(widths)


RELU = [*product((1, 2, 3), (1, 2, 4), (1, 2)), (2, 3, 2, 2), (3, 2, 4, 1), (2, 2, 2, 2, 2)]


@pytest.mark.some(20)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", RELU, ids=str)
def test_relu_networks_have_a_law_for_each_hidden_neuron(widths, bias):
    assert count(dense(widths, nn.ReLU, bias), torch.zeros(1, widths[0])).independent == sum(widths[1:-1])


@pytest.mark.parametrize("widths", [(2, 3, 2), (2, 2, 3, 1)], ids=str)
def test_other_activations_have_none(widths):
    assert count(dense(widths, nn.Tanh, bias=True), torch.zeros(1, widths[0])).independent == 0


@pytest.mark.parametrize("channels, size", [((1, 2, 1), 5), ((2, 3, 2), 5), ((1, 2, 2, 1), 6)], ids=str)
def test_convolutions_have_a_law_for_each_hidden_channel(channels, size):
    layers = []
    for k, (a, b) in enumerate(zip(channels, channels[1:], strict=False)):
        layers += [nn.Conv1d(a, b, 2), *([nn.ReLU()] if k < len(channels) - 2 else [])]
    assert count(nn.Sequential(*layers), torch.zeros(1, channels[0], size)).independent == sum(channels[1:-1])


class Residual(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))

    def forward(self, x):
        return x + self.block(x)


@pytest.mark.parametrize("dim, hidden", [(2, 2), (3, 4)])
def test_a_skip_connection_changes_nothing(dim, hidden):
    assert count(Residual(dim, hidden), torch.zeros(1, dim)).independent == hidden


class Attention(nn.Module):
    """One head: softmax(xQᵀKxᵀ) x VᵀO."""

    def __init__(self, dim, inner):
        super().__init__()
        for name in ("q", "k", "v"):
            setattr(self, name, nn.Linear(dim, inner, bias=False))
        self.o = nn.Linear(inner, dim, bias=False)

    def forward(self, x):
        return self.o(torch.softmax(self.q(x) @ self.k(x).mT, -1) @ self.v(x))


@pytest.mark.parametrize("dim, inner", [(2, 1), (2, 2), (3, 2)])
def test_attention_has_the_laws_of_two_pairs_of_matrices(dim, inner):
    assert count(Attention(dim, inner), torch.zeros(1, 3, dim)).independent == 2 * formula((dim, inner, dim))


@pytest.mark.parametrize("features, classes", [(2, 3), (3, 2)])
def test_a_classifier_has_a_law_for_each_feature_and_one_for_the_bias(features, classes):
    network = nn.Linear(features, classes)
    assert count(network, torch.zeros(1, features), loss="cross_entropy").independent == features + 1
    assert count(network, torch.zeros(1, features)).independent == 0


@pytest.mark.parametrize("widths", [(2, 2, 2), (3, 2, 4), (3, 3, 3), (1, 3, 2), (1, 8, 2), (2, 2, 2, 1)], ids=str)
def test_momentum_keeps_the_rotations_of_linear_networks(widths):
    """r(r − 1)/2 for each hidden layer (2024), less rotations of what neither θ nor θ' reaches."""
    known = 0
    for before, r, after in zip(widths, widths[1:], widths[2:], strict=False):
        rest = max(0, r - 2 * (before + after))
        known += (r * (r - 1) - rest * (rest - 1)) // 2
    assert count(dense(widths), torch.zeros(1, widths[0]), flow="momentum").independent == known


@pytest.mark.parametrize("widths", [(2, 3, 2), (2, 2, 2, 2)], ids=str)
def test_momentum_leaves_relu_networks_no_law(widths):
    assert count(dense(widths, nn.ReLU), torch.zeros(1, widths[0]), flow="momentum").independent == 0


@pytest.mark.parametrize("widths", [(2, 2, 2), (2, 3, 1)], ids=str)
def test_weight_decay_makes_the_laws_depend_on_time_and_keeps_their_number(widths):
    found = count(dense(widths), torch.zeros(1, widths[0]), weight_decay=True)
    assert found.independent == formula(widths)


def gradient(expression, variables):
    return [sp.diff(expression, v) for v in variables]


@pytest.mark.parametrize("n, r, m", [(2, 2, 2), (1, 2, 3), (3, 1, 2)])
def test_polynomial_laws_are_laws_by_differentiation(n, r, m):
    u, v = sp.Matrix(n, r, sp.symbols(f"u:{n * r}")), sp.Matrix(m, r, sp.symbols(f"v:{m * r}"))
    variables, phi = [*u, *v], list(u * v.T)
    found = mq.count_conservation_laws(phi, variables)
    laws = list(found.polynomials(2))
    assert len(laws) >= found.independent == formula((n, r, m))
    for law in laws:
        for entry in phi:
            pairs = zip(gradient(law, variables), gradient(entry, variables), strict=True)
            assert sp.expand(sum(a * b for a, b in pairs)) == 0


def test_incomplete_quadratic_laws_are_flagged():
    """Of [1, 2, 2, 1] the six quadratic laws of layers next to each other are not all: there are seven."""
    found = count(dense((1, 2, 2, 1)), torch.zeros(1, 1))
    laws = found.polynomials(2)
    assert found.independent == 7
    assert laws.independent < 7
    assert str(laws).startswith("6 polynomial laws of degree ≤ 2, 6 independent: 1 fewer than there are")


def test_exact_and_numerical_counts_agree():
    network = dense((2, 3, 2), nn.ReLU, bias=True).double()
    torch.manual_seed(0)
    inputs = torch.randn(20, 2, dtype=torch.float64)
    numerical = count(network, inputs, exact=False)
    assert numerical.independent == count(network, inputs).independent == 3
    assert not numerical.exact
    assert numerical.gap > 1e3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"flow": "nesterov"}, "flow is 'nesterov'"),
        ({"loss": "hinge"}, "loss is 'hinge'"),
        ({"limit": 3}, "more than limit=3"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(mq.ModeqError, match=message):
        count(dense((2, 2, 2)), torch.zeros(1, 2), **options)


def test_no_example():
    with pytest.raises(mq.ModeqError, match="give an example of the network's input"):
        mq.count_conservation_laws(dense((2, 2, 2)))
