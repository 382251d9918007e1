"""What is found on networks counted by hand: everything, and nothing else."""

import json

import pytest
import torch
from network_registry import LOOK_ALIKES, NETWORKS

from modeq.errors import InvalidCharge
from modeq.symmetry.finding import find_charges
from modeq.symmetry.matrix_charges import GeneralLinear
from modeq.symmetry.verification import verify


def moves(charge, module):
    """Each generator as a vector of its field over all parameters, at the parameters of the module."""
    parameters = dict(module.named_parameters())
    known = charge.parameters_of(module)
    listed = {id(p): name for name, p in parameters.items()}
    count = charge.count(known)
    rows = []
    for k in range(count):
        c = torch.zeros(count, dtype=torch.float64)
        c[k] = 1
        field = {
            listed[id(known[name])]: v for name, v in charge.moved({n: p.detach() for n, p in known.items()}, c).items()
        }
        rows.append(torch.cat([field.get(n, torch.zeros_like(p)).double().flatten() for n, p in parameters.items()]))
    return torch.stack(rows)


def span(charges, module):
    size = sum(p.numel() for p in module.parameters())
    rows = [moves(charge, module) for charge in charges]
    return torch.cat([torch.zeros(0, size, dtype=torch.float64), *rows]).detach()


def rank(rows):
    if not len(rows):
        return 0
    unit = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return int(torch.linalg.matrix_rank(unit, rtol=1e-9))


def beyond(network, module):
    """The generators that no class of charge named when they were counted, as vectors."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    rows = [torch.zeros(0, sum(p.numel() for p in parameters.values()), dtype=torch.float64)]
    for entry in network.beyond:
        for field in entry.fields(parameters):
            zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
            linear, constant = ({**zeros, **part} for part in (field.linear, field.constant))
            flat = [(linear[n] * p + constant[n]).double().flatten() for n, p in parameters.items()]
            rows.append(torch.cat(flat)[None])
    return torch.cat(rows)


@pytest.mark.some(27)
@pytest.mark.parametrize("name", NETWORKS)
def test_all_and_no_other(name):
    network = NETWORKS[name]
    module = network.build()
    inputs, targets = network.batch(torch.Generator().manual_seed(0))
    found = find_charges(module, inputs, network.loss, target=targets)
    expected = span([e.charge for e in (*network.charges, *network.matrices)], module)
    seen = span(found, module)
    allowed = torch.cat([expected, beyond(network, module)])
    assert rank(torch.cat([expected, seen])) == rank(seen), found.table()  # every expected one was found
    assert rank(torch.cat([allowed, seen])) == rank(allowed), found.table()  # and nothing that was not counted
    # What a norm's ε breaks is said to be broken, and nothing else is.
    exact = span([e.charge for e in (*network.charges, *network.matrices) if not e.approximate], module)
    seen = span([e.charge for e in found.found if e.exact], module)
    assert rank(torch.cat([exact, seen])) == rank(seen), found.table()
    assert rank(torch.cat([exact, beyond(network, module), seen])) == rank(torch.cat([exact, beyond(network, module)]))


@pytest.mark.some(14)
@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_nothing_that_only_looks_like_one(name):
    network = NETWORKS[name]
    module = network.build()
    inputs, targets = network.batch(torch.Generator().manual_seed(0))
    seen = span(find_charges(module, inputs, network.loss, target=targets), module)
    for charge in LOOK_ALIKES[name]:
        for false in moves(charge, module):  # their sum may be true, as in a rotated pair
            assert rank(torch.cat([seen, false[None]])) == rank(seen) + 1


@pytest.mark.some(27)
@pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if network.finite])
def test_what_is_found_is_verified(name):
    """To rounding, or, where a norm's ε is in the way, up to that."""
    network = NETWORKS[name]
    module = network.build()
    inputs, targets = network.batch(torch.Generator().manual_seed(0))
    charges = find_charges(module, inputs, network.loss, target=targets)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    report = verify(charges, module, network.loss, network.batch(draw))
    for entry, found in zip(report, charges.found, strict=True):
        if found.exact:
            assert entry.passed(1e-12), report.table()
        else:
            # ε counts as much as it is large beside a variance, and one channel may be nearly dead.
            assert entry.hessian < 0.1, report.table()
            assert entry.action < 1e-3, report.table()


# --- networks of full size, and what is refused -----------------------------------------------------------------------


def test_networks_are_left_as_they_are():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(), torch.nn.Linear(4, 2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    inputs = torch.randn(5, 3)
    torch.random.set_rng_state(state)
    charges = find_charges(net, inputs, "cross_entropy")
    verify(charges, net, "cross_entropy", (inputs, torch.zeros(5, dtype=torch.long)))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_resnet_and_gpt_have_their_charges():
    from modeq.numeric.networks.gpt import gpt
    from modeq.numeric.networks.resnet import resnet18

    found = find_charges(resnet18(width=0.0625, classes=5), torch.randn(2, 3, 32, 32), "cross_entropy")
    assert not found.unknown
    assert len([c for c in found if type(c).__name__ == "Scale"]) == 20  # one for each convolution
    assert len([c for c in found if type(c).__name__ == "Rescale"]) == 12  # 8 within blocks, 4 residual streams
    options = {"layers": 2, "heads": 2, "dim": 8, "vocabulary": 11, "context": 5}
    for packed in (True, False):
        for fused in (True, False):
            net = gpt(**options, packed=packed, fused=fused, tied=False)
            found = find_charges(net, torch.randint(0, 11, (2, 5)), "cross_entropy")
            assert not found.unknown
            # 8 of them exchanged by the tables of tokens and positions, 128 mixed in the heads
            assert found.generators == 301
            assert sum(e.generators for e in found.found if isinstance(e.charge, GeneralLinear)) == 2 * 2 * 2 * 4**2


def test_unknown_operations_make_no_claim_and_are_listed():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.fc2(torch.cumprod(self.fc1(x), 1))

    found = find_charges(Odd(), torch.randn(2, 3), "mse")
    assert len(found) == 0
    assert found.unknown == ("cumprod in cumprod",)
    assert "no rule for cumprod in cumprod: nothing is claimed of what it sees" in found.table()


class Fails(torch.nn.Module):
    def forward(self, x):
        raise KeyError("no such thing")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((3, torch.zeros(1, 3)), "module is 3: give the network"),
        ((torch.nn.Linear(3, 2), "x"), "example_input is 'x': give a tensor"),
        ((torch.nn.Linear(3, 2), torch.zeros(1, 4), "mse"), r"Linear fails on an input of the shapes \[\(1, 4\)\]"),
        (
            (torch.nn.Linear(3, 2), torch.zeros(1, 4)),
            r"Linear fails on an input of the shapes \[\(1, 4\)",
        ),
        ((Fails(), torch.zeros(1, 3)), "Fails fails on an input .* KeyError: .no such thing"),
        ((torch.nn.Linear(3, 2), torch.zeros(1, 3), "hinge"), "loss is 'hinge': choose from"),
        ((torch.nn.Linear(3, 2), torch.zeros(1, 3), torch.nn.MSELoss()), "loss is a callable, and target is None"),
        ((torch.nn.Linear(3, 2, device="meta"), torch.zeros(1, 3), "mse"), "fails on an input|cannot be traced"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(InvalidCharge, match=message):
        find_charges(*arguments)
    with pytest.raises(InvalidCharge, match="loss is 'hinge'"):
        verify([], torch.nn.Linear(1, 1), "hinge", (torch.zeros(1, 1), torch.zeros(1, 1)))
    with pytest.raises(InvalidCharge, match="batch is Tensor: give"):
        verify([], torch.nn.Linear(1, 1), "mse", torch.zeros(1, 1))


class Between(torch.nn.Module):
    """Something between two linear maps of three and four features."""

    def __init__(self, function, after=4):
        super().__init__()
        self.fc1, self.fc2, self.function = torch.nn.Linear(3, 4), torch.nn.Linear(after, 2), function

    def forward(self, x):
        return self.fc2(self.function(self.fc1(x)))


@pytest.mark.parametrize(
    "function, after, generators",
    [
        (lambda h: h.relu().max(1, keepdim=True)[0], 1, 1),
        (lambda h: h.min(1, keepdim=True).values, 1, 1),
        (lambda h: torch.max(h, 2 * h), 4, 4),
        (lambda h: torch.nn.functional.pad(h.relu()[:, None], (1, 1))[:, 0], 6, 1),
        (lambda h: torch.nn.functional.pad(h.relu()[:, None], (1, 1), value=0.5)[:, 0], 6, 0),
        (lambda h: torch.nn.functional.hardshrink(h), 4, 0),
        (lambda h: torch.nn.functional.alpha_dropout(h, 0.5, True), 4, 0),
        (lambda h: torch.nn.functional.threshold(h, 0.5, 0.0), 4, 0),
        (lambda h: h.clamp(min=0.0), 4, 4),
        (lambda h: h.clamp(min=0.1), 4, 0),
        (lambda h: torch.where(h > 0, h, 0.1 * h), 4, 0),  # no rule, no claim
    ],
)
def test_what_is_homogeneous_between_linear_maps(function, after, generators):
    module = Between(function, after)
    found = find_charges(module, torch.randn(5, 3), "mse")
    assert found.generators == generators, found.table()


class Table(torch.nn.Module):
    """A table with one column, read by a linear map."""

    def __init__(self):
        super().__init__()
        self.embedding, self.fc = torch.nn.Embedding(5, 1), torch.nn.Linear(1, 3)

    def forward(self, tokens):
        return self.fc(self.embedding(tokens).relu())


class Products(torch.nn.Module):
    """x W₁, ReLU, times W₂, with a single hidden neuron and weights stored as inputs × outputs."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Parameter(torch.tensor([[0.5], [0.7], [0.9]]))
        self.second = torch.nn.Parameter(torch.tensor([[0.5, -0.7]]))

    def forward(self, x):
        return (x @ self.first).relu() @ self.second


@pytest.mark.parametrize("kind, inputs", [(Table, torch.arange(5)), (Products, torch.rand(5, 3))])
def test_a_single_column_moves_as_a_whole(kind, inputs):
    torch.manual_seed(0)  # some entries of the table are positive
    module, inputs = kind().double(), inputs if inputs.dtype == torch.long else inputs.double()
    charges = find_charges(module, inputs, "mse")
    target = torch.rand(module(inputs).shape, dtype=torch.float64)
    assert charges.generators == 1
    assert verify(charges, module, "mse", (inputs, target)).passed(), charges.table()


def test_tokens_are_verified_with_the_loss_by_name():
    from modeq.numeric.networks.gpt import gpt

    net = gpt(layers=1, heads=2, dim=8, vocabulary=11, context=5, tied=False, dtype=torch.float64)
    tokens, labels = torch.randint(0, 11, (3, 5)), torch.randint(0, 11, (3, 5))
    charges = find_charges(net, tokens, "cross_entropy", target=labels)
    report = verify(charges, net, "cross_entropy", (tokens, labels))
    assert charges.generators == find_charges(net, tokens, "cross_entropy").generators == 171
    assert all(entry.passed(1e-12) for entry, found in zip(report, charges.found, strict=True) if found.exact)
    for loss in (["mse"], 3, "hinge"):
        with pytest.raises(InvalidCharge, match="loss is .*: choose from"):
            verify(charges, net, loss, (tokens, labels))


# --- what depends on data, tables, exchanged constants ----------------------------------------------------------------


class Branching(torch.nn.Module):
    """ReLU if the sum is positive, else tanh, then as many ReLU more as the first entry says."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)

    def forward(self, x):
        h = self.fc1(x)
        h = h.relu() if x.sum() > 0 else h.tanh()
        for _ in range(int(x[0, 0])):
            h = h.relu()
        return self.fc2(h * x[0, 1].item() + sum(x[0].tolist()) * 0.0 * h)


def test_of_a_branch_on_data_the_path_taken_is_seen_and_it_is_said():
    torch.manual_seed(0)
    x = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.5, 0.5]])
    found = find_charges(Branching(), x, "mse")
    assert [type(charge).__name__ for charge in found] == ["Rescale"]
    assert found.branches == ("bool: True", "int: 1", "item: 2.0", "tolist: [1.0, 2.0, 3.0]")
    assert "one branch was seen: the network read bool: True, int: 1, item: 2.0, … off its data" in found.table()
    other = find_charges(Branching(), -x, "mse")
    assert (len(other), other.branches[:2]) == (0, ("bool: False", "int: -1"))
    assert find_charges(torch.nn.Linear(3, 2), x, "mse").branches == ()


class Masked(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 2)

    def forward(self, x):
        h = self.fc(x)
        return h[h[:, 0] > 0]


def test_shapes_that_depend_on_data_are_refused():
    with pytest.raises(InvalidCharge, match=r"Masked has a value whose shape depends on the data, index"):
        find_charges(Masked(), torch.randn(9, 3))


def test_tensors_on_two_devices_are_refused():
    with pytest.raises(InvalidCharge, match="tensors lie on cpu, meta: put all on one device"):
        find_charges(torch.nn.Linear(3, 2, device="meta"), torch.zeros(1, 3), "mse")


class Looked(torch.nn.Module):
    """A table, a function of what is looked up, a linear map."""

    def __init__(self, function, **options):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.fc, self.function = torch.nn.Embedding(7, 4, **options), torch.nn.Linear(4, 3), function

    def forward(self, tokens):
        return self.fc(self.function(self.table(tokens)))


def normed(h):
    return torch.nn.functional.layer_norm(h, (4,), eps=1e-30).tanh()


@pytest.mark.parametrize(
    "function, options, expected",
    [
        (torch.relu, {}, {"table-fc": 4}),
        (torch.relu, {"padding_idx": 2}, {"table-fc": 4}),  # whose row is 0
        (torch.relu, {"scale_grad_by_freq": True}, {}),
        (normed, {}, {"table": 7, "table.weight": 7}),
        (normed, {"padding_idx": 2}, {"table": 7, "table.weight": 6}),
        (lambda h: torch.nn.functional.normalize(h, dim=-1).tanh(), {}, {"table": 7}),
        (lambda h: torch.nn.functional.normalize(h, dim=0).tanh(), {}, {"table": 4}),  # over the tokens
        (lambda h: (h / h.norm(dim=-1, keepdim=True)).tanh(), {}, {"table": 7}),
        (lambda h: (h / (1 + h.norm(dim=-1, keepdim=True))).tanh(), {}, {}),
        (lambda h: torch.nn.functional.rms_norm(h, (4,), eps=1e-30).tanh() + 0 * h, {}, {}),
    ],
)
def test_tables(function, options, expected):
    module, tokens = Looked(function, **options).double(), torch.arange(21) % 7
    labels = torch.arange(21) % 3
    charges = find_charges(module, tokens, "cross_entropy")
    assert {e.charge.name: e.generators for e in charges.found if not e.charge.name.startswith("fc.")} == expected
    assert verify(charges, module, "cross_entropy", (tokens, labels)).passed()
    if "padding_idx" in options and expected.get("table-fc"):
        with torch.no_grad():  # a row that is not 0, and that no gradient reaches, breaks it
            module.table.weight[2] = 1.0
        assert "table-fc" not in [charge.name for charge in find_charges(module, tokens, "cross_entropy")]
        assert verify(charges, module, "cross_entropy", (tokens, labels))[0].gradient > 1e-3


class Met(torch.nn.Module):
    """Two linear maps, of whose results a function is read by a third."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.fc = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4), torch.nn.Linear(4, 3)
        self.function = function

    def forward(self, x):
        return self.fc(self.function(self.a(x), self.b(x.sin())).tanh())


@pytest.mark.parametrize(
    "function, generators, opposite",
    [
        (lambda a, b: a + b, 4, True),
        (lambda a, b: a - b, 4, False),
        (lambda a, b: (a + b).flip(1), 4, True),
        (
            lambda a, b: torch.cat([a[:, :2] + b[:, :2], a[:, 2:] - b[:, 2:]], 1),
            0,
            True,
        ),  # both halves have two readers
        (lambda a, b: torch.add(a, b, alpha=2), 0, True),
        (lambda a, b: 2 * a + b, 0, True),
        (lambda a, b: a.relu() + b, 0, True),
        (lambda a, b: a + b + a.sin(), 0, True),
        (lambda a, b: a * b, 0, True),
        (lambda a, b: a + b.flip(1), 4, True),
        (lambda a, b: a - b.neg(), 0, True),
        (lambda a, b: a / 2 + b / 2, 0, True),
        (lambda a, b: torch.stack([a, b]).sum(0), 0, True),  # no rule, no claim
    ],
)
def test_constants_that_two_biases_exchange(function, generators, opposite):
    module, x = Met(function).double(), torch.randn(9, 3, dtype=torch.float64)
    charges = find_charges(module, x, "mse")
    pairs = [charge for charge in charges if charge.name == "a.bias-b.bias"]
    assert sum(charge.count(charge.parameters_of(module)) for charge in pairs) == generators
    assert all(("opposite" in charge.to_dict()) == opposite for charge in pairs)
    assert verify(charges, module, "mse", (x, x)).passed()


def test_what_was_found_is_saved():
    module = Met(torch.add)
    charges = find_charges(module, torch.randn(9, 3), "cross_entropy")
    again = type(charges).from_dict(json.loads(json.dumps(charges.to_dict())))
    assert list(again) == list(charges)
    assert again.table() == charges.table()
    assert again.graph == charges.graph
    assert [e.exact for e in again.found] == [e.exact for e in charges.found]
    for other in ({"charges": []}, 3, {**charges.to_dict(), "charges": [{"kind": "scale"}]}):
        with pytest.raises(InvalidCharge, match=r"data is not what Charges\.to_dict gives"):
            type(charges).from_dict(other)


def batch_normed(width, **options):
    return torch.nn.BatchNorm1d(width, eps=1e-30, **options)


THROUGH = {
    # What a linear map makes of a constant is a constant, which the mean subtraction takes off.
    "a bias": ([torch.nn.Linear(3, 4), torch.nn.Linear(4, 5), batch_normed(5)], {"0.bias": 4, "1.bias": 5}),
    "the shift of a norm": (
        [torch.nn.Linear(3, 4), batch_normed(4), torch.nn.Linear(4, 5, bias=False), batch_normed(5)],
        {"0.bias": 4, "1.bias": 4},
    ),
    "two linear maps": (
        [torch.nn.Linear(3, 4), torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 5, bias=False), batch_normed(5)],
        {"0.bias": 4},
    ),
    "a norm over features, which sees it": (
        [torch.nn.Linear(3, 4), torch.nn.Linear(4, 5, bias=False), torch.nn.LayerNorm(5, eps=1e-30)],
        {},
    ),
    "an activation on the way": (
        [torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 5, bias=False), batch_normed(5)],
        {},
    ),
    "an evaluated norm": (
        [torch.nn.Linear(3, 4), torch.nn.Linear(4, 5, bias=False), batch_normed(5).eval()],
        {},
    ),
}


@pytest.mark.parametrize("name", THROUGH)
def test_a_constant_through_linear_maps(name):
    torch.manual_seed(0)
    layers, expected = THROUGH[name]
    module = torch.nn.Sequential(*layers, torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    x = torch.randn(9, 3, dtype=torch.float64)
    charges = find_charges(module, x, "mse")
    found = {e.charge.name: e.generators for e in charges.found if e.charge.name.endswith(".bias")}
    assert found == expected
    translations = [c for c in charges if c.name in found]
    assert verify(translations, module, "mse", (x, torch.randn(9, 3, dtype=torch.float64))).passed()


@pytest.mark.parametrize("padding, expected", [(0, 4), (1, 0), ("same", 0), ("valid", 4)])
def test_a_constant_through_convolutions(padding, expected):
    torch.manual_seed(0)
    second = torch.nn.Conv2d(4, 5, 3, padding=padding, bias=False)
    layers = [torch.nn.Conv2d(1, 4, 3), second, torch.nn.BatchNorm2d(5, eps=1e-30), torch.nn.Tanh()]
    module = torch.nn.Sequential(*layers).double()
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    charges = find_charges(module, x, "mse")
    assert sum(e.generators for e in charges.found if e.charge.name == "0.bias") == expected
    shift = [c for c in charges if c.name == "0.bias"]
    assert verify(shift, module, "mse", (x, torch.randn_like(module(x)).detach())).passed()
