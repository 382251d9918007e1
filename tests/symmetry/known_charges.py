"""The charges of the small networks, written down by hand.

They are read off the architecture: a classifier before a softmax, a bias before a batch norm, weights before
a batch norm, and each pair of maps with only homogeneous layers (ReLU, pooling, flattening) in between.
"""

from modeq.symmetry.charges import Charge, Rescale, Scale, Translation


def digits_cnn_charges(*, bias: bool = False, channels: tuple[int, int] = (8, 16)) -> tuple[Charge, ...]:
    """Return the charges of `modeq.numeric.networks.small.digits_cnn`.

    Parameters
    ----------
    bias : bool
        As given to the network: whether conv1 has a bias. Its charges are single small numbers whose gradient
        is zero up to rounding, so in float32 their relative residuals are the largest.
    channels : (int, int)
        As given to the network: the second cuts the classifier's input features by channel.

    Examples
    --------
    >>> [charge.name for charge in digits_cnn_charges()]
    ['conv1', 'conv2', 'bn1-conv2', 'bn2-fc', 'fc', 'fc bias']
    """
    redundant = (Translation("conv1 bias", {"conv1.bias": 0}),) if bias else ()
    return (
        *redundant,
        Scale("conv1", {"conv1.weight": 0}),
        Scale("conv2", {"conv2.weight": 0}),
        Rescale("bn1-conv2", incoming={"bn1.weight": 0, "bn1.bias": 0}, outgoing={"conv2.weight": 1}),
        Rescale("bn2-fc", incoming={"bn2.weight": 0, "bn2.bias": 0}, outgoing={"fc.weight": (1, channels[1])}),
        Translation("fc", {"fc.weight": 1}),
        Translation("fc bias", {"fc.bias": None}),
    )


def digits_mlp_charges() -> tuple[Charge, ...]:
    """Return the charges of `modeq.numeric.networks.small.digits_mlp`.

    Examples
    --------
    >>> [charge.name for charge in digits_mlp_charges()]
    ['fc1-fc2', 'fc2-fc3', 'fc3', 'fc3 bias']
    """
    return (
        Rescale("fc1-fc2", incoming={"fc1.weight": 0, "fc1.bias": 0}, outgoing={"fc2.weight": 1}),
        Rescale("fc2-fc3", incoming={"fc2.weight": 0, "fc2.bias": 0}, outgoing={"fc3.weight": 1}),
        *tanh_network_charges(),
    )


def tanh_network_charges() -> tuple[Charge, ...]:
    """Return the charges of `modeq.numeric.networks.small.tanh_network`: its classifier alone has any.

    Examples
    --------
    >>> [charge.name for charge in tanh_network_charges()]
    ['fc3', 'fc3 bias']
    """
    return (Translation("fc3", {"fc3.weight": 1}), Translation("fc3 bias", {"fc3.bias": None}))
