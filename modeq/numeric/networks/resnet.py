"""The ResNet-18 of He et al. 2016 (arXiv 1512.03385), of any width, with batch norms or without."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from modeq.numeric.networks.building import convolution, he_normal, normalisation, scaled, seeded, switch
from modeq.numeric.protocol import positive, whole

# Channels of the four stages of two blocks each; all but the first halve the image.
_CHANNELS = (64, 128, 256, 512)


def resnet18(
    *,
    classes: int = 200,
    width: float = 1.0,
    batch_norm: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """Return ResNet-18 for images [batch, 3, height, width].

    The stem is the published one for ImageNet: a 7×7 convolution and a 3×3 max pool, both of stride 2, so that the
    four stages see 16×16, 8×8, 4×4 and 2×2 pixels of an image of 64×64. Then come layer1, …, layer4 of two
    `ResidualBlock`s, a mean over the pixels, and fc. It has 11,689,512 parameters with 1000 classes, as published,
    and 11,279,112 with 200. Convolutions are drawn from N(0, 2/(size²·channels out)), fc by torch's default.

    Parameters
    ----------
    classes : int
        Number of outputs.
    width : positive number
        Factor of the numbers of channels.
    batch_norm : bool
        Normalise after each convolution. Without, the convolutions have biases instead, those in skips excepted,
        where the bias of the branch is enough.
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
    >>> network = resnet18(width=1 / 16)
    >>> network(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 200])
    >>> list(dict(network.named_children()))
    ['stem', 'layer1', 'layer2', 'layer3', 'layer4', 'pool', 'flatten', 'fc']
    """
    width, classes = positive(width, "width"), whole(classes, "classes", least=1)
    switch(batch_norm, "batch_norm")

    def build() -> nn.Sequential:
        sizes = [scaled(channels, width) for channels in _CHANNELS]
        layers: OrderedDict[str, nn.Module] = OrderedDict(stem=_stem(sizes[0], batch_norm))
        for number, (before, after) in enumerate(zip(sizes[:1] + sizes, sizes, strict=False), start=1):
            first = ResidualBlock(before, after, 1 if number == 1 else 2, batch_norm)
            layers[f"layer{number}"] = nn.Sequential(first, ResidualBlock(after, after, 1, batch_norm))
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(sizes[-1], classes)}
        return nn.Sequential(layers).apply(he_normal)

    return seeded(build, seed, dtype)


class ResidualBlock(nn.Module):
    """relu2(bn2(conv2(relu1(bn1(conv1(x))))) + skip(x)), with 3×3 convolutions.

    The skip is the identity where x keeps its shape, else a 1×1 convolution and a batch norm. Without batch norms,
    identities take their places.

    Examples
    --------
    >>> import torch
    >>> ResidualBlock(2, 4, stride=2, batch_norm=False)(torch.zeros(1, 2, 8, 8)).shape
    torch.Size([1, 4, 4, 4])
    """

    def __init__(self, before: int, after: int, stride: int, batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = convolution(before, after, 3, stride, bias=not batch_norm)
        self.bn1, self.relu1 = normalisation(after, batch_norm), nn.ReLU()
        self.conv2 = convolution(after, after, 3, bias=not batch_norm)
        self.bn2, self.relu2 = normalisation(after, batch_norm), nn.ReLU()
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            projection = convolution(before, after, 1, stride, bias=False)
            self.skip = nn.Sequential(OrderedDict(conv=projection, bn=normalisation(after, batch_norm)))

    def forward(self, images: Tensor) -> Tensor:
        """Return the images after the block."""
        branch = self.relu1(self.bn1(self.conv1(images)))
        return self.relu2(self.bn2(self.conv2(branch)) + self.skip(images))


def _stem(channels: int, batch_norm: bool) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=convolution(3, channels, 7, 2, bias=not batch_norm),
            bn=normalisation(channels, batch_norm),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(3, 2, padding=1),
        )
    )
