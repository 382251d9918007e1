"""On networks from a grammar what is found is all there is: the null space of gradients knows nothing of graphs."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from modeq.errors import InvalidCharge, InvalidSetting
from modeq.symmetry.charges import Translation
from modeq.symmetry.finding import find_charges
from modeq.symmetry.matrix_charges import GeneralLinear
from modeq.testing import affine_symmetries, diagonal_symmetries, networks

F64 = torch.float64


def labels(features):
    def draw(generator):
        inputs = torch.randn(8, features, generator=generator, dtype=F64)
        return inputs, torch.randint(0, 3, (8,), generator=generator)

    return draw


def numbers(features, outputs=3):
    def draw(generator):
        return tuple(torch.randn(8, size, generator=generator, dtype=F64) for size in (features, outputs))

    return draw


LOSSES = {"cross_entropy": (F.cross_entropy, labels), "mse": (F.mse_loss, numbers)}


def generators(charges, module):
    """What each diagonal generator adds to entries, or multiplies them by, flat, and whether it is a translation."""
    parameters = dict(module.named_parameters())
    for charge in charges:
        known = charge.parameters_of(module)
        ones = {name: torch.ones_like(p).detach() for name, p in known.items()}
        units = torch.eye(charge.count(known), dtype=F64)
        if isinstance(charge, GeneralLinear):
            units = [unit for unit in units if is_diagonal(charge, known, unit)]
        for unit in units:
            moved = charge.moved(ones, unit)
            flat = [moved.get(name, torch.zeros_like(p)).flatten() for name, p in parameters.items()]
            yield torch.cat(flat).detach(), isinstance(charge, Translation)


def is_diagonal(charge, known, unit):
    matrices = charge.combined(known, unit)
    return bool((matrices == torch.diag_embed(matrices.diagonal(dim1=1, dim2=2))).all())


def matrices(charges, module):
    """Each generator of a matrix charge as a D×D matrix M, ξ(θ) = Mθ."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    sizes = [p.numel() for p in parameters.values()]

    def field(charge, known, unit, theta):
        parts = zip(parameters.items(), theta.split(sizes), strict=True)
        split = {name: part.view(p.shape) for (name, p), part in parts}
        moved = charge.moved({name: split[name] for name in known}, unit)
        return torch.cat([moved.get(name, torch.zeros_like(p)).flatten() for name, p in parameters.items()])

    for charge in charges:
        if isinstance(charge, GeneralLinear):
            known = charge.parameters_of(module)
            for unit in torch.eye(charge.count(known), dtype=F64):
                columns = [field(charge, known, unit, theta) for theta in torch.eye(sum(sizes), dtype=F64)]
                yield torch.stack(columns, 1)


def size_of(module):
    return sum(p.numel() for p in module.parameters())


def diagonal_fields(charges, module):
    """The generators as rows (a, c); an entry that may move alone does not matter, and may be multiplied too."""
    rows = []
    for flat, constant in generators(charges, module):
        still = torch.zeros_like(flat)
        rows.append(torch.cat([still, flat] if constant else [flat, still]))
        if constant and int((flat != 0).sum()) == 1:
            rows.append(torch.cat([flat, still]))
    return rows


def affine_fields(charges, module):
    """The generators as matrices [M, c]: translations times all affine functions, and those with a matrix M."""
    size = size_of(module)
    rows = []
    still = torch.zeros(size, 1, dtype=F64)
    for flat, constant in generators(charges, module):
        if constant:
            rows += [torch.outer(flat, unit).flatten() for unit in torch.eye(size + 1, dtype=F64)]
        else:
            rows.append(torch.cat([flat.diag(), still], 1).flatten())
    rows += [torch.cat([matrix, still], 1).flatten() for matrix in matrices(charges, module)]
    return [*rows, *taken_back(module)]


def taken_back(module):
    """Constants added to a bias that all linear maps which read it take back by theirs: linear in their weights.

    These have no charge, as the matrix of the field is not symmetric.
    """
    names = {id(p): name for name, p in module.named_parameters()}
    ends = torch.tensor([p.numel() for p in module.parameters()]).cumsum(0).tolist()
    starts = dict(zip(names.values(), [0, *ends[:-1]], strict=True))
    size, rows = size_of(module), []
    layers = list(module.children())
    for k, layer in enumerate(layers):
        written = getattr(layer, "bias", None)
        if written is None:
            continue
        after = layers[k + 1 :]
        skips = 0
        while skips < len(after) and hasattr(after[skips], "block"):
            skips += 1
        if skips == len(after) or not isinstance(after[skips], nn.Linear):
            continue
        readers = [*(skip.block[0] for skip in after[:skips]), after[skips]]
        if readers[-1].bias is None and any(isinstance(n, nn.BatchNorm1d) for n in after[skips + 1 : skips + 2]):
            readers.pop()  # the mean is taken off
        if not readers or any(reader.bias is None for reader in readers):
            continue
        for i in range(len(written)):
            row = torch.zeros(size, size + 1, dtype=F64)
            row[starts[names[id(written)]] + i, -1] = 1
            for reader in readers:
                weight, bias = (starts[names[id(p)]] for p in (reader.weight, reader.bias))
                for o in range(reader.out_features):
                    row[bias + o, weight + o * reader.in_features + i] = -1
            rows.append(row.flatten())
    return rows


def compared(module, loss, features, oracle, written_out):
    """The dimensions of what is found and of what there is; everything that is found must be there."""
    function, drawing = LOSSES[loss]
    draw = drawing(features)
    inputs, target = draw(torch.Generator().manual_seed(1))
    charges = find_charges(module, inputs, loss, target=target)
    report = f"{module}\n{charges.table()}"
    assert not charges.unknown, report
    assert not charges.others, report
    null = oracle(module, function, draw)
    assert null.gap > 1e6, f"{null.gap}\n{report}"
    rows = written_out(charges, module)
    if not rows:
        return 0, len(null.fields), report
    found = torch.stack(rows)
    found = found / found.norm(dim=1, keepdim=True)
    outside = found - (found @ null.fields.T) @ null.fields
    assert outside.norm() < 1e-8, report
    rank = torch.linalg.matrix_rank(found @ found.T, rtol=1e-10, hermitian=True)
    return int(rank), len(null.fields), report


def check_diagonal(module, loss):
    found, all_there_are, report = compared(module, loss, 3, diagonal_symmetries, diagonal_fields)
    assert found == all_there_are, report


@given(networks(), st.sampled_from(sorted(LOSSES)))
@settings(max_examples=12, deadline=None)
def test_what_is_found_is_all_there_is(module, loss):
    check_diagonal(module, loss)


@pytest.mark.slow
@given(networks(), st.sampled_from(sorted(LOSSES)))
@settings(max_examples=300, deadline=None)
def test_what_is_found_is_all_there_is_on_three_hundred_networks(module, loss):
    check_diagonal(module, loss)


# --- affine fields ----------------------------------------------------------------------------------------------------
# A field Mθ + c has D(D + 1) unknowns: these networks are narrow, and have at most so many parameters.
LARGEST = 40


def small(**grammar):
    return networks(widths=(2, 3), features=2, **grammar).filter(lambda module: size_of(module) <= LARGEST)


def check_affine(module, loss):
    found, all_there_are, report = compared(module, loss, 2, affine_symmetries, affine_fields)
    assert found == all_there_are, report


@given(small(adjacent=False), st.sampled_from(sorted(LOSSES)))
@settings(max_examples=20, deadline=None)
def test_no_affine_symmetry_is_missing(module, loss):
    check_affine(module, loss)


@given(small(), st.sampled_from(sorted(LOSSES)))
@settings(max_examples=12, deadline=None)
def test_no_affine_symmetry_is_missing_where_linear_maps_are_adjacent(module, loss):
    check_affine(module, loss)


@pytest.mark.slow
@given(small(), st.sampled_from(sorted(LOSSES)))
@settings(max_examples=1000, deadline=None)
def test_no_affine_symmetry_is_missing_on_a_thousand_networks(module, loss):
    check_affine(module, loss)


class Added(nn.Module):
    """x + V act(Ux)."""

    def __init__(self, width, inner):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(width, inner, bias=False), nn.Tanh(), nn.Linear(inner, width, bias=False))

    def forward(self, x):
        return x + self.block(x)


def plain(*sizes):
    return [nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)]


BATCH, LAYER = (nn.BatchNorm1d(3, eps=1e-30), nn.LayerNorm(3, eps=1e-30, elementwise_affine=False))
# Layers, and the dimension modulo translations.
BEYOND = {
    "GL(3) between two linear maps": (plain(2, 3, 3), 9),
    "GL(2) and GL(3) along three": (plain(2, 2, 3, 3), 4 + 9),
    "GL(3) on a bias too, which moves what comes after": ([nn.Linear(2, 3), nn.Linear(3, 3)], 9 + 3),
    "GL(3) on the stream of a residual block": ([*plain(2, 3), Added(3, 2), *plain(3, 3)], 9),
    "O(2) and a scale where a layer norm lies between": ([*plain(2, 3), LAYER, *plain(3, 3)], 1 + 1),
    "scales and shifts of a batch norm before a linear map": ([*plain(2, 3), BATCH, nn.Linear(3, 3)], 3 + 3 + 3),
    "antisymmetric 2×2 for each of 3 neurons that write to a scalar": ([Added(2, 3), *plain(2, 1)], 3),
    "antisymmetric 3×3 for each of 2 neurons": ([*plain(2, 3), nn.Tanh(), Added(3, 2), *plain(3, 1)], 3 * 2),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_is_not_diagonal_is_seen(name):
    layers, expected = BEYOND[name]
    module = nn.Sequential(*layers).double()
    null = affine_symmetries(module, F.mse_loss, numbers(2, layers[-1].out_features))
    assert null.gap > 1e6
    size = size_of(module)
    constant = null.fields.view(-1, size, size + 1)[:, :, -1]  # a translation alone has the singular value 1
    translations = int((torch.linalg.svdvals(constant) > 1 - 1e-8).sum())
    assert len(null.fields) - translations * (size + 1) == expected


def test_the_null_space_is_orthonormal_and_no_gradient_points_along_it():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, eps=1e-30), nn.ReLU(), nn.Linear(3, 3)).double()
    fields = affine_symmetries(module, F.cross_entropy, labels(2)).fields
    torch.testing.assert_close(fields @ fields.T, torch.eye(len(fields), dtype=F64))
    parameters = list(module.parameters())
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        for p in parameters:
            torch.nn.init.normal_(p, generator=generator)
        inputs, target = labels(2)(generator)
        slopes = torch.autograd.grad(F.cross_entropy(module(inputs), target), parameters)
        theta, g = (torch.cat([x.detach().flatten() for x in xs]) for xs in (parameters, slopes))
        extended = torch.cat([theta, torch.ones(1, dtype=F64)])
        along = fields.view(-1, len(theta), len(theta) + 1) @ extended @ g
        assert along.abs().max() < 1e-9 * g.norm() * extended.norm()


ORACLES = {"diagonal": (diagonal_symmetries, diagonal_fields), "affine": (affine_symmetries, affine_fields)}


@pytest.mark.parametrize("kind", ORACLES)
def test_where_all_neurons_are_dead_and_a_norm_divides_0_by_0_rounding_makes_no_condition(kind):
    norm = nn.BatchNorm1d(2, eps=1e-30)
    layers = [nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), norm, nn.ReLU(), nn.Linear(2, 3, bias=False)]
    module = nn.Sequential(*layers).double()
    found, all_there_are, report = compared(module, "cross_entropy", 2, *ORACLES[kind])
    assert found == all_there_are, report


@pytest.mark.parametrize("oracle", [diagonal_symmetries, affine_symmetries])
def test_single_precision_is_no_ground_for_a_null_space(oracle):
    with pytest.raises(InvalidCharge, match="float64"):
        oracle(nn.Linear(2, 3), F.mse_loss, numbers(2))


def test_a_loss_without_gradients_has_no_null_space():
    with pytest.raises(InvalidCharge, match="no gradient"):
        affine_symmetries(nn.Linear(2, 3).double(), lambda output, target: 0 * output.sum(), numbers(2))


@pytest.mark.parametrize("grammar", [{"widths": (3, 2)}, {"blocks": (0, 1)}, {"features": 0}, {"outputs": -1}])
def test_a_grammar_of_nothing_is_refused(grammar):
    with pytest.raises(InvalidSetting, match=next(iter(grammar))):
        networks(**grammar)
