"""Counts and laws against a naive implementation, on networks of all kinds, and what is refused."""

import random
from itertools import combinations_with_replacement, product

import pytest
import sympy as sp
import torch
from torch import nn
from torch.nn import functional as F

import modeq as mq

X = x, y, z, w = sp.symbols("x y z w")
TIME, FRICTION, DECAY = sp.symbols("t tau lambda")
PRIME = 2**61 - 1


def rank(rows):
    """Modulo a prime, one entry after the other."""
    rows, found = [row[:] for row in rows], 0
    for column in range(len(rows[0])):
        pivot = next((k for k in range(found, len(rows)) if rows[k][column]), None)
        if pivot is None:
            continue
        rows[found], rows[pivot] = rows[pivot], rows[found]
        inverse = pow(rows[found][column], -1, PRIME)
        for k in range(found + 1, len(rows)):
            factor = rows[k][column] * inverse
            rows[k] = [(a - factor * b) % PRIME for a, b in zip(rows[k], rows[found], strict=True)]
        found += 1
    return found


def closure(ring, pushes, drift):
    """The dimension of the smallest space of fields that contains the pushes and brackets with them and the drift."""
    source = random.Random(0)
    point = [source.randrange(1, PRIME) for _ in ring.gens]

    def number(polynomial):
        total = 0
        for powers, c in polynomial.terms():
            term = int(c.numerator) * pow(int(c.denominator), -1, PRIME)
            for value, power in zip(point, powers, strict=True):
                term = term * pow(value, power, PRIME) % PRIME
            total += term
        return total % PRIME

    def bracket(a, b):
        places = list(enumerate(ring.gens))
        return [
            sum((a[k] * right.diff(v) - b[k] * left.diff(v) for k, v in places), ring.zero)
            for left, right in zip(a, b, strict=True)
        ]

    rows, front = [], pushes
    while front:
        new = []
        for one in front:
            row = [number(component) for component in one]
            if rank([*rows, row]) > len(rows):
                rows.append(row)
                new.append(one)
        front = [bracket(a, b) for a, b in product([*pushes, *drift], new)]
    return len(rows)


def naive_count(phi, variables, flow, weight_decay):
    """With τ = 29/13 and λ = 37/11."""
    size, friction, decay = len(variables), sp.QQ(29, 13), sp.QQ(37, 11) * weight_decay
    blocks = 2 if flow == "momentum" else 1
    ring, *z = sp.ring([f"z{k}" for k in range(blocks * size)], sp.QQ)
    names = dict(zip(variables, (sp.Symbol(str(v)) for v in z), strict=False))
    zero = [ring.zero] * (size * (blocks - 1))
    pushes = [zero + [ring.from_expr(sp.diff(entry, v).subs(names)) for v in variables] for entry in phi]
    if flow == "momentum":
        drift = [[*z[size:], *(-friction * v - decay * q for q, v in zip(z[:size], z[size:], strict=True))]]
    else:
        drift = [[-decay * q for q in z]] if weight_decay else []
    return blocks * size - closure(ring, pushes, drift)


def layers(*widths):
    found, start = [], 0
    for a, b in zip(widths, widths[1:], strict=False):
        found.append(sp.Matrix(a, b, sp.symbols(f"q{start}:{start + a * b}")))
        start += a * b
    return list(sp.prod(found)), [entry for one in found for entry in one]


PHI = {
    "xy": ([x * y], X[:2]),
    "xyz": ([x * y * z], X[:3]),
    "two products": ([x * y + z * w], X),
    "not homogeneous": ([x + x * y], X[:2]),
    "two entries": ([x**2 * y, x * z], X[:3]),
    "circles": ([x**2 + y**2], X[:2]),
    "rational": ([x * y / 3 - z**2 / 2, x * z / 7], X[:3]),
    "sum": ([x + y], X[:2]),
    "one more": ([x * y, z + x**2 / 3], X),
    "2, 2, 1": layers(2, 2, 1),
    "1, 3, 1": layers(1, 3, 1),
}
FLOWS = list(product(("gradient", "momentum"), (False, True)))


@pytest.mark.some(20)
@pytest.mark.parametrize("flow, weight_decay", FLOWS)
@pytest.mark.parametrize("name", PHI)
def test_counts_are_those_of_symbolic_brackets(name, flow, weight_decay):
    phi, variables = PHI[name]
    found = mq.count_conservation_laws(phi, variables, flow=flow, weight_decay=weight_decay)
    assert found.independent == naive_count(phi, variables, flow, weight_decay)
    assert found.probability < 1e-9


def change(law, phi, variables, flow, weight_decay):
    """dh/dt for an arbitrary combination of the entries of φ as the loss."""
    force = [sum(sp.Symbol(f"c{k}") * sp.diff(entry, v) for k, entry in enumerate(phi)) for v in variables]
    if weight_decay:
        force = [f - DECAY * v for v, f in zip(variables, force, strict=True)]
    speeds = [sp.Symbol(f"{v}'") for v in variables]
    slopes = dict(zip(variables, speeds if flow == "momentum" else force, strict=True))
    if flow == "momentum":
        slopes |= {s: f - FRICTION * s for s, f in zip(speeds, force, strict=True)}
    return sp.expand(sp.diff(law, TIME) + sum(sp.diff(law, v) * slope for v, slope in slopes.items()))


@pytest.mark.some(10)
@pytest.mark.parametrize("flow, weight_decay", FLOWS)
@pytest.mark.parametrize("name", PHI)
def test_polynomial_laws_do_not_change(name, flow, weight_decay):
    phi, variables = PHI[name]
    found = mq.count_conservation_laws(phi, variables, flow=flow, weight_decay=weight_decay)
    laws = found.polynomials(2)
    assert laws.independent <= found.independent
    assert [change(law, phi, variables, flow, weight_decay) for law in laws] == [0] * len(laws)


@pytest.mark.parametrize("degree", [2, 3])
@pytest.mark.parametrize("name", ["xyz", "two products", "two entries", "circles", "sum", "rational"])
def test_all_polynomial_laws_are_products_of_those_found(name, degree):
    """As many as the linear equations for the coefficients have solutions."""
    phi, variables = PHI[name]
    sizes = range(1, degree + 1)
    monomials = [sp.prod(m) for n in sizes for m in combinations_with_replacement(variables, n)]
    equations = {}
    for column, monomial in enumerate(monomials):
        for k, entry in enumerate(phi):
            slope = sum(sp.diff(monomial, v) * sp.diff(entry, v) for v in variables)
            for powers, c in sp.Poly(slope, *variables).terms():
                equations.setdefault((k, powers), {})[column] = c
    matrix = sp.Matrix([[row.get(k, 0) for k in range(len(monomials))] for row in equations.values()])
    laws = [sp.Poly(law, *variables) for law in mq.count_conservation_laws(phi, variables).polynomials(degree)]
    chosen = [sp.prod(c) for n in sizes for c in combinations_with_replacement(laws, n)]
    chosen = [one for one in chosen if one.total_degree() <= degree]
    held = sp.Matrix([[one.coeff_monomial(m) for m in monomials] for one in chosen])
    assert len(monomials) - matrix.rank() == (held.rank() if chosen else 0)


class Function(nn.Module):
    def __init__(self, function, **members):
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)
        self.function = function

    def forward(self, *inputs):
        return self.function(self, *inputs)


def parameter(*shape):
    return nn.Parameter(torch.ones(shape))


def relu_network(**options):
    return nn.Sequential(nn.Linear(2, 3, **options), nn.ReLU(), nn.Linear(3, 2, **options))


def frozen(part):
    network = relu_network()
    network.get_parameter(part).requires_grad_(False)
    return network


def tied():
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    network[2].weight = network[0].weight
    return network


def with_buffer():
    network = Function(lambda self, v: self.b(torch.relu(self.a(v)) * self.mask), a=nn.Linear(2, 3), b=nn.Linear(3, 2))
    network.register_buffer("mask", torch.tensor([1.0, 2.0, 3.0]))
    return network


ROW, TOKENS = torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.long)
# The network, an input, and the number of laws.
NETWORKS = {
    "2-d convolutions": (
        nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 2)),
        torch.zeros(1, 1, 4, 4),
        2,
    ),
    "transposed convolutions": (
        nn.Sequential(nn.ConvTranspose1d(1, 2, 2), nn.ReLU(), nn.Conv1d(2, 1, 2)),
        torch.zeros(1, 1, 3),
        2,
    ),
    "3-d convolutions": (
        nn.Sequential(nn.Conv3d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 1)),
        torch.zeros(1, 1, 2, 2, 2),
        2,
    ),
    "every row of an embedding is trained": (nn.Embedding(30, 1), TOKENS, 0),
    "embedding and a linear layer": (nn.Sequential(nn.Embedding(12, 2), nn.Linear(2, 3, bias=False)), TOKENS, 3),
    # Of each row the sum and the norm, and the sums of the rows of the linear layer.
    "a normalised embedding": (
        nn.Sequential(nn.Embedding(4, 3), nn.LayerNorm(3, elementwise_affine=False), nn.Linear(3, 2)),
        TOKENS,
        2 * 4 + 2,
    ),
    "tied weights": (tied(), ROW, 0),
    "a bias alone": (Function(lambda self, v: v + self.b, b=parameter(2)), ROW, 0),
    "leaky ReLU": (nn.Sequential(nn.Linear(2, 3), nn.LeakyReLU(), nn.Linear(3, 2)), ROW, 3),
    "in place": (nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True), nn.Linear(3, 2)), ROW, 3),
    "PReLU": (nn.Sequential(nn.Linear(2, 3), nn.PReLU(), nn.Linear(3, 2)), ROW, 3),
    "a bilinear layer": (nn.Bilinear(2, 2, 2), (ROW, ROW), 0),
    "gates": (nn.Sequential(nn.Linear(2, 4), nn.GLU(), nn.Linear(2, 2)), ROW, 2),
    "a buffer": (with_buffer(), ROW, 3),
    "float64": (relu_network().double(), ROW.double(), 3),
    "bfloat16": (relu_network().bfloat16(), ROW.bfloat16(), 3),
    "no batch": (relu_network(), torch.zeros(2), 3),
    "a frozen matrix": (frozen("0.weight"), ROW, 0),
    "a frozen bias": (frozen("0.bias"), ROW, 0),
    # γ and β with the next layer, as many as neurons; the norm and the bias of each before.
    "batch norm": (
        nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)),
        torch.arange(8.0).view(4, 2) ** 2,
        9,
    ),
    # γ with the layer before instead, as its mean and variance are fixed numbers, here 0 and 1.
    "batch norm, running": (
        nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)).eval(),
        ROW,
        6,
    ),
    # Nothing gets through: three parameters before and γ do not move; of β and the next weights one law.
    "layer norm of one feature": (nn.Sequential(nn.Linear(2, 1), nn.LayerNorm(1), nn.Linear(1, 2)), ROW, 5),
    # Those of the outputs that are masked.
    "a mask": (
        Function(lambda self, v: self.a(v).masked_fill(torch.tensor([True, False]), 0.0), a=nn.Linear(2, 2)),
        ROW,
        3,
    ),
    # The two columns that see the number 3 differ by a constant; UᵀU − VᵀV of the rest.
    "padding with a number": (
        nn.Sequential(nn.Linear(2, 2, bias=False), nn.ConstantPad1d(1, 3.0), nn.Linear(4, 2, bias=False)),
        ROW,
        2 + 3,
    ),
    "a parameter that is not used": (Function(lambda self, v: self.a(v), a=nn.Linear(2, 2), b=nn.Linear(1, 1)), ROW, 2),
    "no parameter is used": (Function(lambda self, v: 2 * v, a=nn.Linear(2, 2)), ROW, 6),
    "weight norm": (nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)), ROW, 3),
    # e^{a + b}: a − b, whose brackets cancel.
    "numbers": (Function(lambda self, v: v * self.a.exp() * self.b.exp(), a=parameter(), b=parameter()), ROW, 1),
}


@pytest.mark.some(13)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_all_kinds(name):
    network, inputs, laws = NETWORKS[name]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert mq.count_conservation_laws(network, inputs).independent == laws
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    "name", ["2-d convolutions", "gates", "a mask", "padding with a number", "batch norm, running", "a bilinear layer"]
)
def test_numerical_counts_agree(name):
    network, inputs, laws = NETWORKS[name]
    found = mq.count_conservation_laws(network, inputs, exact=False)
    assert (found.independent, found.exact) == (laws, False)
    assert found.gap > 1e3


def test_what_is_granted_is_said():
    assert "tokens" in str(mq.count_conservation_laws(nn.Embedding(3, 1), TOKENS))
    numerical = mq.count_conservation_laws(nn.Embedding(3, 1), TOKENS, exact=False)
    assert (numerical.independent, numerical.granted) == (
        2,
        ("tokens are drawn from 0 to 0, the largest in the example",),
    )
    assert mq.count_conservation_laws(nn.Embedding(3, 1), TOKENS + 2, exact=False).independent == 0


def test_dead_neurons_are_told():
    """At some points neurons of the second layer are dead."""
    network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    found = mq.count_conservation_laws(network, ROW, exact=False)
    assert found.independent == 8
    assert "had the largest dimension: where neurons are dead" in found.granted[0]


def test_the_seed_and_more_entries_change_nothing():
    phi, variables = PHI["2, 2, 1"]
    more = [*phi, sp.expand(sum(phi) ** 2), 3 * phi[0] + 5, sp.Integer(7)]
    found = {
        mq.count_conservation_laws(entries, variables, seed=k).independent for k in range(3) for entries in (phi, more)
    }
    assert len(found) == 1


@pytest.mark.parametrize("phi", [sp.Matrix([x * y, z]), (x * y, z), {x * y, z}, ["x*y", z], sp.Poly(x * y + z)])
def test_ways_to_give_a_reparametrisation(phi):
    found = mq.count_conservation_laws(phi, sp.Matrix([x, y, z]))
    assert found.independent == (2 if isinstance(phi, sp.Poly) else 1)


def test_momentum_laws_need_not_be_the_known_ones():
    """Of [1, 3, 1] there are the rotations of u + v and of u − v, six, where uᵀ and v together give three."""
    phi, variables = layers(1, 3, 1)
    laws = mq.count_conservation_laws(phi, variables, flow="momentum").polynomials(2)
    assert laws.complete
    assert laws.independent == 6


def overwritten(network, v):
    found = network.a(v)
    found[:, 0] = 0
    return found


LINEAR = nn.Linear(2, 2)
REFUSED = [
    ([x / y], {}, "entry 0 of the reparametrisation, x/y, is no polynomial"),
    ([x * y, sp.sqrt(x)], {}, r"entry 1 of the reparametrisation, sqrt\(x\), is no polynomial"),
    ([sum(sp.symbols("q:40")) ** 6], {}, "up to 8145060 terms, more than 500000"),
    ([x * y], {"input": x}, r"input is \(x,\), without y"),
    ([x * y], {"input": "xy"}, "give the variables of φ, different sympy symbols"),
    ([x * y], {"input": (x, x, y)}, "different sympy symbols"),
    ([x * y], {"input": (sp.Symbol("x", positive=True), y)}, "symbols with other assumptions are others"),
    ([x * y], {"loss": "mse"}, "loss and exact=False are for networks"),
    ([x * y], {"limit": 1}, "2 parameters, more than limit=1"),
    ([1, 2], {}, "the reparametrisation is constant"),
    ([], {}, "the reparametrisation is constant"),
    (sp.Eq(x, y), {}, "is no reparametrisation: give sympy expressions"),
    ("x*y", {}, "'x[*]y' is no reparametrisation"),
    (nn.Linear, {}, "is no reparametrisation: give sympy expressions, in one list, or a torch module"),
    (None, {}, "None is no reparametrisation"),
    (nn.Sequential(), {"input": ROW}, "Sequential has no parameter that requires a gradient"),
    (nn.ReLU(), {"input": ROW}, "ReLU has no parameter that requires a gradient"),
    (nn.LazyLinear(2), {"input": ROW}, "weight of LazyLinear has no shape yet: call the module once"),
    (nn.Linear(2, 2, dtype=torch.complex64), {"input": ROW}, "weight of Linear is complex"),
    (LINEAR, {"input": [ROW]}, "give an example of the network's input"),
    (LINEAR, {"input": torch.zeros(0, 2)}, "give at least one sample"),
    (LINEAR, {"input": torch.zeros(1, 5)}, "input does not fit the network"),
    (LINEAR, {"input": ROW.double()}, "must have the same dtype"),
    (nn.BatchNorm1d(2), {"input": ROW}, "Expected more than 1 value per channel"),
    (LINEAR, {"input": torch.zeros(2), "loss": "cross_entropy"}, r"has the shape \(2,\): give an input with a batch"),
    (LINEAR, {"input": ROW, "loss": F.mse_loss}, "give None or one of"),
    (LINEAR, {"input": ROW, "flow": ["gradient"]}, "flow is"),
    (LINEAR, {"input": ROW, "weight_decay": 0.1}, "weight_decay is 0.1: give True or False"),
    (LINEAR, {"input": ROW, "exact": "no"}, "exact is 'no': give None, True or False"),
    (LINEAR, {"input": ROW, "seed": 0.5}, "seed is 0.5: give an integer"),
    (LINEAR, {"input": ROW, "limit": 0}, "limit is 0: give the most parameters"),
    (nn.Linear(100, 100), {"input": torch.zeros(1, 100)}, "limit=10100; the time grows"),
    (nn.Conv2d(3, 8, 3), {"input": torch.zeros(1, 3, 512, 512)}, "smaller images"),
    (Function(lambda self, v: (self.a(v), v), a=LINEAR), {"input": ROW}, "give a module that returns one tensor"),
    (Function(lambda self, v: self.a(v) * self.a(v).detach(), a=LINEAR), {"input": ROW}, "without detach"),
    (Function(overwritten, a=LINEAR), {"input": ROW}, "changes in place a tensor that is used again"),
    (Function(lambda self, v: v / (self.a - self.a), a=parameter(2)), {"input": ROW}, "the network divides by 0"),
    (nn.EmbeddingBag(4, 2), {"input": TOKENS}, "torch has no nested derivatives of embedding_bag"),
    (
        nn.Sequential(nn.ConvTranspose1d(1, 2, 2)),
        {"input": torch.zeros(1, 1, 3), "exact": True},
        "no exact count: there is no rule for conv_transpose1d in 0",
    ),
    (nn.TransformerEncoderLayer(2, 1, 2, batch_first=True), {"input": torch.zeros(1, 2, 2)}, "give module.eval()"),
]


@pytest.mark.parametrize("network, options, message", REFUSED, ids=[message for *_, message in REFUSED])
def test_what_is_refused(network, options, message):
    with pytest.raises(mq.errors.InvalidProblem, match=message):
        mq.count_conservation_laws(network, **options)


@pytest.mark.parametrize("degree", [0, -1, 1.5, True, "2"])
def test_a_degree_is_a_positive_integer(degree):
    with pytest.raises(mq.errors.InvalidProblem, match=f"degree is {degree!r}: give a positive integer"):
        mq.count_conservation_laws([x * y]).polynomials(degree)


def test_polynomials_that_cannot_be_found():
    with pytest.raises(mq.errors.InvalidProblem, match="167668501 coefficients, more than"):
        mq.count_conservation_laws([x * y * z]).polynomials(1000)
    with pytest.raises(mq.errors.InvalidProblem, match="polynomial laws need an exact one: give a network whose"):
        mq.count_conservation_laws(LINEAR, ROW, exact=False).polynomials(2)
