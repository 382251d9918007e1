"""On networks from a grammar what is found is all there is: the null space of gradients knows nothing of graphs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from modeq.symmetry.charges import Translation
from modeq.symmetry.finding import find_charges
from modeq.testing import diagonal_symmetries, networks

F64 = torch.float64


def labels(generator):
    return torch.randn(8, 3, generator=generator, dtype=F64), torch.randint(0, 3, (8,), generator=generator)


def numbers(generator):
    return torch.randn(8, 3, generator=generator, dtype=F64), torch.randn(8, 3, generator=generator, dtype=F64)


LOSSES = {"cross_entropy": (F.cross_entropy, labels), "mse": (F.mse_loss, numbers)}


def written_out(charges, module):
    """The generators as rows (a, c); an entry that may move alone does not matter, and may be multiplied too."""
    parameters = dict(module.named_parameters())
    rows = []
    for charge in charges:
        known = charge.parameters_of(module)
        ones = {name: torch.ones_like(p).detach() for name, p in known.items()}
        count = charge.count(known)
        for k in range(count):
            c = torch.zeros(count, dtype=F64)
            c[k] = 1
            moved = charge.moved(ones, c)
            flat = torch.cat(
                [moved.get(name, torch.zeros_like(p)).flatten() for name, p in parameters.items()]
            ).detach()
            still = torch.zeros_like(flat)
            if isinstance(charge, Translation):
                rows.append(torch.cat([still, flat]))
                if int((flat != 0).sum()) == 1:
                    rows.append(torch.cat([flat, still]))
            else:
                rows.append(torch.cat([flat, still]))
    return torch.stack(rows) if rows else torch.zeros(0, 2 * sum(p.numel() for p in parameters.values()), dtype=F64)


def check(module, loss):
    function, draw = LOSSES[loss]
    inputs, target = draw(torch.Generator().manual_seed(1))
    charges = find_charges(module, inputs, loss, target=target)
    assert not charges.unknown
    assert not charges.others
    null = diagonal_symmetries(module, function, draw)
    assert null.gap > 1e4, null.gap
    found = written_out(charges, module)
    found = found / found.norm(dim=1, keepdim=True)
    outside = found - (found @ null.fields.T) @ null.fields
    report = f"{module}\n{charges.table()}"
    assert outside.norm() < 1e-8, report  # none is false
    assert (int(torch.linalg.matrix_rank(found, rtol=1e-9)) if len(found) else 0) == len(null.fields), report


@given(networks(), st.sampled_from(sorted(LOSSES)))
@settings(max_examples=40, deadline=None)
def test_what_is_found_is_all_there_is(module, loss):
    check(module, loss)


@pytest.mark.slow
@given(networks(), st.sampled_from(sorted(LOSSES)))
@settings(max_examples=300, deadline=None)
def test_what_is_found_is_all_there_is_on_three_hundred_networks(module, loss):
    check(module, loss)
