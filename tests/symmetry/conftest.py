"""One thread, and a loop that trains the smooth network."""

import pytest
import torch
from smooth_network import SMOOTH_CHARGES, SmoothNetwork, smooth_batch
from torch.nn.functional import cross_entropy

from modeq.symmetry.tracking import track


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
