"""A small smooth network with one symmetry of each family, and batches for it."""

import torch
from torch import nn

from modeq.symmetry.charges import Rescale, Scale, Translation


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
