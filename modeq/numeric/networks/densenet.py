"""The DenseNet-BC of Huang et al. 2017 (arXiv 1608.06993) for images of 32×32, with batch norms or without."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modeq.errors import InvalidProblem
from modeq.numeric.networks.building import convolution, he_normal, normalisation, seeded, switch
from modeq.numeric.protocol import positive, whole


def densenet(
    *,
    growth: int = 12,
    blocks: Sequence[int] = (6, 6, 6),
    classes: int = 10,
    compression: float = 0.5,
    batch_norm: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """Return DenseNet-BC for images [batch, 3, height, width].

    A 3×3 convolution to 2·growth channels; block1, block2, … of `DenseLayer`s, with transition1, … between them: batch
    norm, relu, a 1×1 convolution to a part of the channels, and a mean over 2×2 pixels; then batch norm, relu, the
    mean over all pixels, and fc. The depth is twice the number of layers, plus the number of blocks, plus 1: 40 by
    default. Blocks of (16, 16, 16) make the published one of depth 100 and 0.8 million parameters; it has 769,162.
    Convolutions are drawn from N(0, 2/(size²·channels out)), fc by torch's default.

    Parameters
    ----------
    growth : int
        Channels that each layer adds.
    blocks : sequence of int
        Number of layers in each block. The images are halved between two blocks.
    classes : int
        Number of outputs.
    compression : number in (0, 1]
        Part of the channels that a transition keeps, rounded down.
    batch_norm : bool
        Normalise before each convolution but the first. Without, the convolutions have biases instead.
    seed : int
        Of the initial weights; torch's global random state is left alone.
    dtype : torch.dtype
        Of the parameters; drawn in float32 in any case.

    Raises
    ------
    InvalidProblem
        If an option is out of range, or of another kind.

    Examples
    --------
    >>> import torch
    >>> network = densenet(growth=2, blocks=(1, 2))
    >>> network(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    >>> list(dict(network.named_children()))
    ['stem', 'block1', 'transition1', 'block2', 'bn', 'relu', 'pool', 'flatten', 'fc']
    """
    growth, classes = whole(growth, "growth", least=1), whole(classes, "classes", least=1)
    if not isinstance(blocks, Sequence) or not blocks:
        raise InvalidProblem(f"blocks is {blocks!r}: give the number of layers of each block, (6, 6, 6) for instance")
    blocks = [whole(layers, f"blocks[{n}]", least=1) for n, layers in enumerate(blocks)]
    if positive(compression, "compression") > 1:
        raise InvalidProblem(f"compression is {compression!r}: give a number above 0, and at most 1")
    switch(batch_norm, "batch_norm")

    def build() -> nn.Sequential:
        channels = 2 * growth
        layers: OrderedDict[str, nn.Module] = OrderedDict(stem=convolution(3, channels, 3, bias=not batch_norm))
        for number, count in enumerate(blocks, start=1):
            if number > 1:
                kept = max(1, int(compression * channels))
                layers[f"transition{number - 1}"] = _transition(channels, kept, batch_norm)
                channels = kept
            dense = (DenseLayer(channels + n * growth, growth, batch_norm) for n in range(count))
            layers[f"block{number}"] = nn.Sequential(*dense)
            channels += count * growth
        layers |= {"bn": normalisation(channels, batch_norm), "relu": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1)}
        layers |= {"flatten": nn.Flatten(), "fc": nn.Linear(channels, classes)}
        return nn.Sequential(layers).apply(he_normal)

    return seeded(build, seed, dtype)


class DenseLayer(nn.Sequential):
    """The channels x, and after them conv2(relu2(bn2(conv1(relu1(bn1(x)))))).

    The bottleneck conv1 is 1×1 with 4·growth channels, conv2 is 3×3 with `growth`. Without batch norms, identities
    take their places.

    Examples
    --------
    >>> import torch
    >>> DenseLayer(5, growth=2, batch_norm=True)(torch.zeros(1, 5, 8, 8)).shape
    torch.Size([1, 7, 8, 8])
    """

    def __init__(self, channels: int, growth: int, batch_norm: bool) -> None:
        first = _activated(channels, 4 * growth, 1, batch_norm)
        second = _activated(4 * growth, growth, 3, batch_norm)
        layers = ((f"{name}{n}", layer) for n, part in ((1, first), (2, second)) for name, layer in part.items())
        super().__init__(OrderedDict(layers))

    def forward(self, images: Tensor) -> Tensor:
        """Return the images with `growth` more channels."""
        return torch.cat([images, super().forward(images)], dim=1)


def _activated(before: int, after: int, size: int, batch_norm: bool) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        bn=normalisation(before, batch_norm),
        relu=nn.ReLU(),
        conv=convolution(before, after, size, bias=not batch_norm),
    )


def _transition(before: int, after: int, batch_norm: bool) -> nn.Sequential:
    return nn.Sequential(_activated(before, after, 1, batch_norm) | {"pool": nn.AvgPool2d(2)})
