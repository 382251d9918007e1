"""What the networks share: seeds, checks of options, convolutions with or without a bias, He's initialisation."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from modeq.errors import InvalidProblem
from modeq.numeric.protocol import whole

Built = TypeVar("Built", bound=nn.Module)


def seeded(build: Callable[[], Built], seed: int, dtype: torch.dtype) -> Built:
    """Return the network that is built from a seed, in a dtype; torch's global random state is left alone.

    Raises
    ------
    InvalidProblem
        If the seed is not an integer from 0, or the dtype not one of real numbers.

    Examples
    --------
    >>> seeded(lambda: nn.Linear(2, 1), 0, torch.float64).weight.dtype
    torch.float64
    """
    seed = whole(seed, "seed", least=0)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InvalidProblem(f"dtype is {dtype!r}: give one of real numbers, torch.float32 for instance")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().to(dtype)


def scaled(channels: int, width: float) -> int:
    """Return a number of channels times the width, rounded, and at least 1.

    Examples
    --------
    >>> scaled(64, 1 / 8), scaled(64, 0.001)
    (8, 1)
    """
    return max(1, round(channels * width))


def probability(value: Any, argument: str) -> float:
    """Return a probability below 1, or raise `InvalidProblem` naming the argument.

    Examples
    --------
    >>> probability(0.5, "dropout")
    0.5
    """
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise InvalidProblem(f"{argument} is {value!r}: give a probability from 0, and below 1")
    return float(value)


def switch(value: Any, argument: str) -> bool:
    """Return True or False, or raise `InvalidProblem` naming the argument.

    Examples
    --------
    >>> switch("no", "batch_norm")
    Traceback (most recent call last):
    ...
    modeq.errors.InvalidProblem: batch_norm is 'no': give True or False
    """
    if not isinstance(value, bool):
        raise InvalidProblem(f"{argument} is {value!r}: give True or False")
    return value


def he_normal(layer: nn.Module) -> None:
    """Draw the weights of a convolution from N(0, 2/(size²·channels out)), its bias is 0; leave other layers alone.

    He et al. 2015 (arXiv 1502.01852).

    Examples
    --------
    >>> layer = nn.Conv2d(3, 8, 3)
    >>> he_normal(layer)
    >>> bool(layer.bias.any())
    False
    """
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def convolution(before: int, after: int, size: int, stride: int = 1, *, bias: bool) -> nn.Conv2d:
    """Return a convolution of odd size that keeps the image, but for the stride.

    Examples
    --------
    >>> convolution(3, 4, 7, 2, bias=False)
    Conv2d(3, 4, kernel_size=(7, 7), stride=(2, 2), padding=(3, 3), bias=False)
    """
    return nn.Conv2d(before, after, size, stride, padding=size // 2, bias=bias)


def normalisation(channels: int, batch_norm: bool) -> nn.Module:
    """Return a batch norm, or the identity in its place.

    Examples
    --------
    >>> normalisation(4, False)
    Identity()
    """
    return nn.BatchNorm2d(channels) if batch_norm else nn.Identity()
