"""The VGG-16 that Kunin et al. 2021 (arXiv 2012.04728) trained on Tiny ImageNet, of any width."""

from collections import OrderedDict

import torch
from torch import nn

from modeq.errors import InvalidProblem
from modeq.numeric.networks.building import he_normal, probability, scaled, seeded, switch
from modeq.numeric.protocol import positive, whole

# Channels of the 3×3 convolutions of each stage; a pool halves the image after it (Simonyan, Zisserman 2015).
_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_HIDDEN = 1024


def vgg16(
    seed: int = 0,
    *,
    width: float = 1.0,
    batch_norm: bool = False,
    dropout: float = 0.5,
    classes: int = 200,
    image_size: int = 64,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """Return VGG-16 for images [batch, 3, image_size, image_size].

    Thirteen 3×3 convolutions with biases conv1, …, conv13, each followed by bn (if asked for) and relu; a max pool
    after the 2nd, 4th, 7th, 10th and 13th; then fc1, fc2, fc3 of 1024, 1024 and `classes` neurons. For images of
    64×64 and 200 classes it has 18,067,464 parameters. Convolutions are drawn from N(0, 2/(9·channels out)), linear
    layers from N(0, 0.01²), and biases are 0.

    Parameters
    ----------
    seed : int
        Of the initial weights; torch's global random state is left alone.
    width : positive number
        Factor of the numbers of channels and of hidden neurons.
    batch_norm : bool
        Normalise after each convolution; the biases before it then are redundant (a translation symmetry).
    dropout : number in [0, 1)
        Probability after fc1 and fc2. With 0 there is none, as a `TorchProblem` of a network in training mode needs.
    classes : int
        Number of outputs.
    image_size : int
        A multiple of 32.
    dtype : torch.dtype
        Of the parameters; drawn in float32 in any case.

    Raises
    ------
    InvalidProblem
        If an option is out of range, or of another kind.

    Examples
    --------
    >>> import torch
    >>> network = vgg16(width=1 / 16, dropout=0)
    >>> network(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 200])
    """
    width, classes = positive(width, "width"), whole(classes, "classes", least=1)
    if whole(image_size, "image_size", least=1) % 32:
        raise InvalidProblem(f"image_size is {image_size}: give a multiple of 32, since five pools halve the image")
    dropout, batch_norm = probability(dropout, "dropout"), switch(batch_norm, "batch_norm")

    def build() -> nn.Sequential:
        layers, channels = _convolutions(width, batch_norm)
        layers |= _classifier(channels * (image_size // 32) ** 2, scaled(_HIDDEN, width), classes, dropout)
        return nn.Sequential(layers).apply(_initialise)

    return seeded(build, seed, dtype)


def _convolutions(width: float, batch_norm: bool) -> tuple[OrderedDict[str, nn.Module], int]:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before, number = 3, 0
    for stage, sizes in enumerate(_STAGES, start=1):
        for size in sizes:
            number, after = number + 1, scaled(size, width)
            layers[f"conv{number}"] = nn.Conv2d(before, after, 3, padding=1)
            if batch_norm:
                layers[f"bn{number}"] = nn.BatchNorm2d(after)
            layers[f"relu{number}"] = nn.ReLU()
            before = after
        layers[f"pool{stage}"] = nn.MaxPool2d(2)
    return layers, before


def _classifier(features: int, hidden: int, classes: int, dropout: float) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, size in enumerate((features, hidden), start=1):
        layers[f"fc{number}"] = nn.Linear(size, hidden)
        layers[f"relu{number + 13}"] = nn.ReLU()
        if dropout:
            layers[f"dropout{number}"] = nn.Dropout(dropout)
    layers["fc3"] = nn.Linear(hidden, classes)
    return layers


def _initialise(layer: nn.Module) -> None:
    he_normal(layer)
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
