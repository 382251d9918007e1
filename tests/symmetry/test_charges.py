"""Charges written by hand: that they are symmetries, their pairings, their plain form, and what is refused."""

import json
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from known_charges import digits_cnn_charges, digits_mlp_charges, tanh_network_charges
from torch import nn
from torch.nn.functional import cross_entropy

from modeq.errors import InvalidCharge
from modeq.numeric.networks.small import digits_cnn, digits_mlp, tanh_network
from modeq.symmetry.charges import Charge, Rescale, Scale, Translation

F64 = torch.float64
KNOWN = {
    "cnn": (lambda: digits_cnn(eps=1e-30, dtype=F64), digits_cnn_charges()),
    "cnn with bias": (lambda: digits_cnn(eps=1e-30, bias=True, dtype=F64), digits_cnn_charges(bias=True)),
    "mlp": (lambda: digits_mlp(dtype=F64), digits_mlp_charges()),
    "tanh": (tanh_network, tanh_network_charges()),
}
CASES = [(name, charge) for name, (_, charges) in KNOWN.items() for charge in charges]
RESCALES = [(name, charge) for name, charge in CASES if isinstance(charge, Rescale)]


def tensors(seed=0, **shapes):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw, dtype=F64) for name, shape in shapes.items()}


def loss_of(module, seed=0):
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(20, 1, 8, 8, generator=draw, dtype=F64)
    labels = torch.randint(0, 10, (20,), generator=draw)
    return cross_entropy(module(images), labels)


def act(charge, parameters, amount):
    """The finite group element exp(amount·ξ) of every generator, written out entry by entry."""
    with torch.no_grad():
        for member in charge.members:
            p = parameters[member.parameter]
            if member.axis is None:
                factor = amount[0]
            else:
                size = p.shape[member.axis]
                shape = [1] * p.ndim
                shape[member.axis] = size
                factor = amount.repeat_interleave(size // len(amount)).reshape(shape)
            p.add_(factor) if charge.degree == 1 else p.mul_(torch.exp(member.sign * factor))


@pytest.mark.parametrize("network, charge", CASES, ids=lambda value: getattr(value, "name", value))
def test_hand_written_charges_are_symmetries(network, charge):
    module = KNOWN[network][0]()
    parameters = charge.parameters_of(module)
    before = loss_of(module)
    gradients = dict(zip(parameters, torch.autograd.grad(before, list(parameters.values())), strict=True))
    along = charge.pairing(parameters, gradients)
    assert (along / charge.norm(parameters)).abs().max() < 1e-14
    act(charge, parameters, torch.linspace(-0.7, 0.9, charge.count(parameters), dtype=F64))
    after = loss_of(module)
    assert abs(after.item() - before.item()) < 1e-13


@pytest.mark.parametrize("network, charge", RESCALES, ids=lambda value: getattr(value, "name", value))
def test_half_of_a_rescaling_is_no_symmetry(network, charge):
    module = KNOWN[network][0]()
    before = float(loss_of(module).detach())
    half = Scale("incoming", {m.parameter: m.axis for m in charge.members if m.sign > 0})
    parameters = half.parameters_of(module)
    act(half, parameters, torch.linspace(-0.7, 0.9, half.count(parameters), dtype=F64))
    assert abs(float(loss_of(module).detach()) - before) > 1e-5


def test_forms_equal_loops_over_entries():
    x, y = tensors(0, a=(2, 6, 3), b=(3,)), tensors(1, a=(2, 6, 3), b=(3,))
    charge = Rescale("r", incoming={"b": 0}, outgoing={"a": (1, 3)})
    for i in range(3):
        inner = sum(
            x["a"][j, 2 * i + k, m] * y["a"][j, 2 * i + k, m] for j in (0, 1) for k in (0, 1) for m in (0, 1, 2)
        )
        assert charge.pairing(x, y)[i] == pytest.approx(float(x["b"][i] * y["b"][i] - inner), rel=1e-13)
        size = sum(x["a"][j, 2 * i + k, m] ** 2 for j in (0, 1) for k in (0, 1) for m in (0, 1, 2)) + x["b"][i] ** 2
        assert charge.normaliser(x)[i] == pytest.approx(float(size), rel=1e-13)
        assert charge.generator_norm(x)[i] == pytest.approx(float(size) ** 0.5, rel=1e-13)
    shift = Translation("t", {"a": -1})
    for i in range(3):
        assert shift.pairing(x, y)[i] == pytest.approx(float(y["a"][:, :, i].sum()), rel=1e-12)
        assert shift.normaliser(y)[i] == pytest.approx(float(y["a"][:, :, i].abs().sum()), rel=1e-12)
        assert shift.generator_norm(y)[i] == pytest.approx(12**0.5)


def test_one_generator_for_a_whole_tensor():
    x = tensors(a=(2, 3), b=(4,))
    charge = Scale("s", {"a": None, "b": None})
    assert charge.value(x).shape == (1,)
    assert float(charge.value(x)[0]) == pytest.approx(float((x["a"] ** 2).sum() + (x["b"] ** 2).sum()))


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.floats(-3, 3))
def test_pairings_are_bilinear_and_symmetric_or_blind_to_the_first(seed, factor):
    x, y, z = (tensors(seed + k, a=(3, 4), b=(3,)) for k in range(3))
    mixed = {name: factor * y[name] + z[name] for name in y}
    for charge in (
        Rescale("r", {"b": 0}, {"a": 0}),
        Scale("s", {"a": 1}),
        Translation("t", {"a": 0, "b": 0}),
    ):
        expected = factor * charge.pairing(x, y) + charge.pairing(x, z)
        torch.testing.assert_close(charge.pairing(x, mixed), expected, rtol=1e-11, atol=1e-11)
        other = charge.pairing(y, x) if charge.degree == 2 else charge.pairing(z, y)
        torch.testing.assert_close(charge.pairing(x, y), other, rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.floats(-2, 2))
def test_rescaling_changes_a_charge_as_its_hyperbola_says(seed, shift):
    x = tensors(seed, a=(3, 4), b=(3,))
    charge = Rescale("r", {"b": 0}, {"a": 0})
    incoming, outgoing = x["b"].square(), x["a"].square().sum(1)
    act(charge, x, torch.full((3,), shift, dtype=F64))
    expected = np.exp(2 * shift) * incoming - np.exp(-2 * shift) * outgoing
    torch.testing.assert_close(charge.value(x), expected, rtol=1e-12, atol=1e-12)


def test_sums_of_single_precision_are_taken_in_double():
    x = {"a": torch.full((10**6,), 0.1)}
    expected = 10**6 * float(torch.tensor(0.1)) ** 2
    assert float(Scale("s", {"a": None}).value(x)[0]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("charge", [charge for _, charge in CASES], ids=lambda charge: charge.name)
def test_charges_survive_plain_types_pickle_and_repr(charge):
    assert Charge.from_dict(json.loads(json.dumps(charge.to_dict()))) == charge
    assert pickle.loads(pickle.dumps(charge)) == charge
    assert eval(repr(charge)) == charge
    assert hash(eval(repr(charge))) == hash(charge)


def network():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))
    module.register_parameter("phase", nn.Parameter(torch.zeros(2, dtype=torch.complex64)))
    module.register_parameter("index", nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False))
    module.tied = nn.Linear(4, 2, bias=False)
    module.tied.weight = module[2].weight
    return module


@pytest.mark.parametrize(
    "charge, message",
    [
        (Scale("s", {"3.weight": 0}), r"no parameter '3.weight'; it has phase, index, 0.weight"),
        (Scale("s", {"1.running_mean": 0}), "'1.running_mean' is a buffer"),
        (Scale("s", {"phase": 0}), "'phase' has dtype torch.complex64"),
        (Scale("s", {"index": 0}), "'index' has dtype torch.int64"),
        (
            Scale("s", {"0.weight": 2}),
            r"'0.weight' has shape \(4, 3\) and no axis 2; give an axis from 0 to 1",
        ),
        (Scale("s", {"0.weight": -3}), "no axis -3"),
        (Scale("s", {"0.weight": (0, 3)}), "length 4, which does not split into 3 equal groups"),
        (Scale("s", {"0.weight": (0, 0)}), "does not split into 0 equal groups"),
        (
            Scale("s", {"0.weight": 0, "2.weight": 0}),
            r"different numbers of generators, {'0.weight': 4, '2.weight': 2}",
        ),
        (Scale("s", {"2.weight": 0, "tied.weight": 0}), "'2.weight' and 'tied.weight' are the same tensor"),
    ],
)
def test_charges_that_do_not_fit_a_module_are_refused(charge, message):
    with pytest.raises(InvalidCharge, match=message):
        charge.parameters_of(network())


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Translation("t", {}), "charge 't' names no parameter"),
        (lambda: Rescale("r", {"a": 0}, {}), "charge 'r', outgoing, names no parameter"),
        (lambda: Rescale("r", {"a": 0}, {"a": 1}), "'a' both incoming and outgoing"),
        (lambda: Scale("s", {"a": "0"}), "the axis of 'a' is '0'; give an integer, a pair"),
        (lambda: Scale("s", {"a": True}), "the axis of 'a' is True"),
        (lambda: Scale("s", {"a": (0, 1, 2)}), r"the axis of 'a' is \(0, 1, 2\)"),
        (
            lambda: Charge.from_dict({"kind": "spin", "name": "x"}),
            "unknown kind of charge 'spin'; known are transl",
        ),
    ],
)
def test_charges_that_make_no_sense_are_refused(build, message):
    with pytest.raises(InvalidCharge, match=message):
        build()


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Translation("a", "w"), "charge 'a' gets 'w' for its parameters; give a mapping of names to axes"),
        (lambda: Translation("a", ["w"]), r"charge 'a' gets \['w'\] for its parameters; give a mapping"),
        (lambda: Scale("a", None), "charge 'a' gets None for its parameters; give a mapping"),
        (lambda: Rescale("a", ["w"], {"v": 0}), r"charge 'a', incoming, gets \['w'\] for its parameters"),
        (lambda: Rescale("a", {"w": 0}, "v"), "charge 'a', outgoing, gets 'v' for its parameters"),
        (lambda: Scale("a", {0: 0}), "charge 'a' names the parameter 0; give a string"),
        (lambda: Scale("a", {"w": 0}).parameters_of(None), "module is None; give the network"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused(build, message):
    with pytest.raises(InvalidCharge, match=message):
        build()
