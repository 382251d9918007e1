"""Small seeded networks for the handwritten digits, quick enough to train in a test."""

from collections import OrderedDict

import torch
from torch import nn

from modeq.errors import InvalidProblem, choice

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "softplus": nn.Softplus}


def digits_cnn(
    seed: int = 0,
    *,
    eps: float = 1e-5,
    bias: bool = False,
    channels: tuple[int, int] = (8, 16),
    batch_norm: bool = True,
    activation: str = "relu",
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """Return a convolutional network for images [batch, 1, 8, 8] and ten classes.

    conv1 – bn1 – relu1 – pool1 – conv2 – bn2 – relu2 – pool2 – flatten – fc, with 3×3 convolutions and pools that
    average over 2×2. Smooth in its parameters with another activation than relu.

    Parameters
    ----------
    seed : int
        Of the initial weights; torch's global random state is left alone.
    eps : float
        ε of both batch norms. It breaks the scale symmetry of the convolutions a little; torch refuses 0,
        and 1e-30 is as good as 0.
    bias : bool
        Give conv1 a bias, which the batch norm after it makes redundant (a translation symmetry). Without batch
        norms both convolutions have biases.
    channels : (int, int)
        Width of the two convolutions; (128, 256) makes 300,000 parameters.
    batch_norm : bool
        Leave bn1 and bn2 out if not.
    activation : {"relu", "tanh", "gelu", "softplus"}
        The layers are called after it, ``tanh1`` and ``tanh2`` for instance.
    dtype : torch.dtype
        Of the parameters; drawn in float32 in any case, so that both precisions start at the same point.

    Raises
    ------
    InvalidProblem
        If there is no such activation.

    Examples
    --------
    >>> import torch
    >>> digits_cnn(seed=1)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    >>> list(dict(digits_cnn(batch_norm=False, activation="tanh").named_children()))
    ['conv1', 'tanh1', 'pool1', 'conv2', 'tanh2', 'pool2', 'flatten', 'fc']
    """
    smooth, (first, second) = activation_layer(activation), channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _sequence(
            conv1=nn.Conv2d(1, first, 3, padding=1, bias=bias or not batch_norm),
            bn1=nn.BatchNorm2d(first, eps=eps) if batch_norm else None,
            **{f"{activation}1": smooth()},
            pool1=nn.AvgPool2d(2),
            conv2=nn.Conv2d(first, second, 3, padding=1, bias=not batch_norm),
            bn2=nn.BatchNorm2d(second, eps=eps) if batch_norm else None,
            **{f"{activation}2": smooth()},
            pool2=nn.AvgPool2d(2),
            flatten=nn.Flatten(),
            fc=nn.Linear(4 * second, 10),
        )
    return network.to(dtype)


def activation_layer(name: str) -> type[nn.Module]:
    """Return the class of an activation, or raise `InvalidProblem`.

    Examples
    --------
    >>> activation_layer("tanh")()
    Tanh()
    """
    if name not in ACTIVATIONS:
        raise InvalidProblem(f"activation is {choice(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


def digits_mlp(
    seed: int = 0,
    *,
    widths: tuple[int, int] = (32, 16),
    activation: str = "relu",
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """Return a network fc1 – act1 – fc2 – act2 – fc3 for images [batch, 1, 8, 8] and ten classes.

    Parameters
    ----------
    seed : int
        Of the initial weights; torch's global random state is left alone.
    widths : (int, int)
        Numbers of hidden neurons.
    activation : {"relu", "tanh", "gelu", "softplus"}
        The network is smooth in its parameters with another one than relu.
    dtype : torch.dtype
        Of the parameters; drawn in float32 in any case.

    Raises
    ------
    InvalidProblem
        If there is no such activation.

    Examples
    --------
    >>> [name for name, _ in digits_mlp().named_parameters()][:2]
    ['fc1.weight', 'fc1.bias']
    """
    return _dense(seed, activation_layer(activation), widths, dtype)


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


def _sequence(**layers: nn.Module | None) -> nn.Sequential:
    return nn.Sequential(OrderedDict((name, layer) for name, layer in layers.items() if layer is not None))
