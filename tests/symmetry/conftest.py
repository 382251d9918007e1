"""A small smooth network with one symmetry of each family, and a loop that trains whatever it is given."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from modeq.symmetry.charges import Rescale, Scale, Translation
from modeq.symmetry.tracking import track


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class SmoothNetwork(nn.Module):
    """Rows of `unit` divided by their norm, tanh, then two linear maps in a row, then a softmax."""

    def __init__(self, seed=0, dtype=torch.float64):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.unit = nn.Parameter(torch.randn(4, 3, generator=draw, dtype=torch.float64).to(dtype))
        self.inner = nn.Parameter(torch.randn(5, 4, generator=draw, dtype=torch.float64).to(dtype))
        self.outer = nn.Parameter(torch.randn(3, 5, generator=draw, dtype=torch.float64).to(dtype))

    def forward(self, x):
        features = torch.tanh(x @ (self.unit / self.unit.norm(dim=1, keepdim=True)).T)
        return features @ self.inner.T @ self.outer.T


SMOOTH_CHARGES = (
    Scale("unit", {"unit": 0}),
    Rescale("inner-outer", incoming={"inner": 0}, outgoing={"outer": 1}),
    Translation("outer", {"outer": 1}),
)


def smooth_batch(step=0, size=12, dtype=torch.float64):
    draw = torch.Generator().manual_seed(1000 + step)
    x = torch.randn(size, 3, generator=draw, dtype=torch.float64).to(dtype)
    return x, torch.randint(0, 3, (size,), generator=draw)


@pytest.fixture
def train():
    """Train the smooth network, tracked; `before_step(k, module, optimizer)` may interfere."""

    def run(steps=40, *, full_batch=False, before_step=None, dtype=torch.float64, every=1, **hyperparameters):
        module = SmoothNetwork(dtype=dtype)
        optimizer = torch.optim.SGD(module.parameters(), **hyperparameters)
        sign = -1.0 if hyperparameters.get("maximize") else 1.0
        with track(module, optimizer, SMOOTH_CHARGES, every=every) as tracker:
            for k in range(steps):
                x, y = smooth_batch(0 if full_batch else k, dtype=dtype)
                optimizer.zero_grad()
                (sign * cross_entropy(module(x), y)).backward()
                if before_step is not None:
                    before_step(k, module, optimizer)
                optimizer.step()
        return tracker

    return run
