"""All diagonal and constant symmetries of a small network, without a look at its graph."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from modeq.errors import InvalidCharge


class NullSpace(NamedTuple):
    """The fields a∘θ + c along which no gradient points.

    Attributes
    ----------
    fields : tensor (dimension, 2d), rows (a, c), orthonormal
    gap : the smallest singular value that counts over the largest that does not; what is far below 1e6 is no answer
    """

    fields: Tensor
    gap: float


def diagonal_symmetries(
    module: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    draw: Callable[[torch.Generator], tuple[Tensor, Tensor]],
    *,
    seed: int = 0,
    tolerance: float = 1e-10,
) -> NullSpace:
    """Return every field ξ(θ) = a∘θ + c with ⟨g(θ), ξ(θ)⟩ = 0 at all θ for all batches.

    It is the null space of the rows (g∘θ, g) at twice as many random θ and batches as there are unknowns.

    Parameters
    ----------
    module : nn.Module
        In float64, with few parameters: the rows are decomposed as one matrix.
    loss : callable on (output, target)
    draw : callable
        From a generator to a random (input, target), always of the same shapes.
    seed : int
    tolerance : float
        Singular values below it, relative to the largest, count as 0.

    Raises
    ------
    InvalidCharge
        If the module is not in float64.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    >>> def draw(generator):
    ...     return tuple(torch.randn(6, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    >>> len(diagonal_symmetries(net, torch.nn.functional.mse_loss, draw).fields)
    3
    """
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if any(p.dtype != torch.float64 for p in parameters.values()):
        raise InvalidCharge("the null space of gradients needs float64: give module.double()")
    generator = torch.Generator().manual_seed(seed)
    size = sum(p.numel() for p in parameters.values())
    points = [(_parameters(parameters, generator), *draw(generator)) for _ in range(4 * size + 16)]
    theta = {name: torch.stack([point[0][name] for point in points]) for name in parameters}
    inputs, targets = (torch.stack([point[k] for point in points]) for k in (1, 2))
    fixed = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
    buffers = {name: b.expand(len(points), *b.shape).clone() for name, b in module.named_buffers()}

    def value(theta: dict[str, Tensor], state: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(functional_call(module, {**theta, **fixed, **state}, (x,)), y)

    slopes = vmap(grad(value), randomness="different")(theta, buffers, inputs, targets)
    flat, g = (torch.cat([values[name].flatten(1) for name in parameters], 1) for values in (theta, slopes))
    length = g.norm(dim=1, keepdim=True)
    kept = length[:, 0] > 0  # all neurons may be dead
    rows = (torch.cat([g * flat, g], 1) / length)[kept]
    _, singular, vectors = torch.linalg.svd(rows, full_matrices=True)
    rank = int((singular > tolerance * singular[0]).sum())
    below = singular[rank] if rank < len(singular) else torch.tensor(0.0)
    gap = float(singular[rank - 1] / below.clamp_min(torch.finfo(torch.float64).tiny))
    return NullSpace(vectors[rank:], gap)


def _parameters(like: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Of order one and away from 0, a matrix divided by the root of its inputs."""
    found = {}
    for name, p in like.items():
        size = 0.4 + 1.2 * torch.rand(p.shape, generator=generator, dtype=torch.float64)
        sign = torch.randint(0, 2, p.shape, generator=generator) * 2 - 1
        found[name] = size * sign / (p[0].numel() ** 0.5 if p.dim() > 1 else 1)
    return found
