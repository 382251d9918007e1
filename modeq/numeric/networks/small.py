"""Small seeded networks for the handwritten digits, quick enough to train in a test."""

from collections import OrderedDict

import torch
from torch import nn


def digits_cnn(
    seed: int = 0,
    *,
    eps: float = 1e-5,
    bias: bool = False,
    channels: tuple[int, int] = (8, 16),
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """Return a convolutional ReLU network with batch norm for images [batch, 1, 8, 8] and ten classes.

    conv1 – bn1 – relu – pool – conv2 – bn2 – relu – pool – flatten – fc.

    Parameters
    ----------
    seed : int
        Of the initial weights; torch's global random state is left alone.
    eps : float
        ε of both batch norms. It breaks the scale symmetry of the convolutions a little; torch refuses 0,
        and 1e-30 is as good as 0.
    bias : bool
        Give conv1 a bias, which the batch norm after it makes redundant (a translation symmetry).
    channels : (int, int)
        Width of the two convolutions.
    dtype : torch.dtype
        Of the parameters; drawn in float32 in any case, so that both precisions start at the same point.

    Examples
    --------
    >>> import torch
    >>> digits_cnn(seed=1)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """
    first, second = channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _sequence(
            conv1=nn.Conv2d(1, first, 3, padding=1, bias=bias),
            bn1=nn.BatchNorm2d(first, eps=eps),
            relu1=nn.ReLU(),
            pool1=nn.AvgPool2d(2),
            conv2=nn.Conv2d(first, second, 3, padding=1, bias=False),
            bn2=nn.BatchNorm2d(second, eps=eps),
            relu2=nn.ReLU(),
            pool2=nn.AvgPool2d(2),
            flatten=nn.Flatten(),
            fc=nn.Linear(4 * second, 10),
        )
    return network.to(dtype)


def digits_mlp(
    seed: int = 0, *, widths: tuple[int, int] = (32, 16), dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """Return a ReLU network fc1 – relu – fc2 – relu – fc3 for images [batch, 1, 8, 8] and ten classes.

    Parameters
    ----------
    seed : int
        Of the initial weights; torch's global random state is left alone.
    widths : (int, int)
        Numbers of hidden neurons.
    dtype : torch.dtype
        Of the parameters; drawn in float32 in any case.

    Examples
    --------
    >>> [name for name, _ in digits_mlp().named_parameters()][:2]
    ['fc1.weight', 'fc1.bias']
    """
    return _dense(seed, nn.ReLU, widths, dtype)


def tanh_network(
    seed: int = 0, *, widths: tuple[int, int] = (16, 16), dtype: torch.dtype = torch.float64
) -> nn.Sequential:
    """Return a smooth network fc1 – tanh – fc2 – tanh – fc3 for images [batch, 1, 8, 8] and ten classes.

    Smooth in its parameters and small (1482 of them by default), for measurements of orders of accuracy,
    which the kinks of a ReLU would spoil.

    Parameters
    ----------
    seed : int
        Of the initial weights; torch's global random state is left alone.
    widths : (int, int)
        Numbers of hidden neurons.
    dtype : torch.dtype
        Of the parameters; drawn in float32 in any case.

    Examples
    --------
    >>> sum(p.numel() for p in tanh_network().parameters())
    1482
    """
    return _dense(seed, nn.Tanh, widths, dtype)


def _dense(seed: int, activation: type[nn.Module], widths: tuple[int, int], dtype: torch.dtype) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _sequence(
            flatten=nn.Flatten(),
            fc1=nn.Linear(64, widths[0]),
            act1=activation(),
            fc2=nn.Linear(widths[0], widths[1]),
            act2=activation(),
            fc3=nn.Linear(widths[1], 10),
        )
    return network.to(dtype)


def _sequence(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))
