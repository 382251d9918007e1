"""Hypothesis strategies for small networks, and for the charges that their construction implies."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from modeq.errors import InvalidSetting
from modeq.symmetry.charges import Charge, Rescale, Scale, Translation
from modeq.testing.strategies import hypothesis_strategies, require_range

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


class Absolute(nn.Module):
    """The activation |x|."""

    def forward(self, x: Tensor) -> Tensor:
        """Return |x|."""
        return x.abs()


class Residual(nn.Module):
    """A block whose input is added to its output."""

    def __init__(self, block: nn.Sequential) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Return x + block(x)."""
        return x + self.block(x)


_HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, Absolute)
_ACTIVATIONS = (*_HOMOGENEOUS, nn.Tanh, nn.GELU)
# What a linear map is followed by; the simplest first.
_NORMS: dict[str, Callable[[int], list[nn.Module]]] = {
    "nothing": lambda width: [],
    "batch norm": lambda width: [nn.BatchNorm1d(width, eps=1e-30, affine=False)],
    "batch norm, affine": lambda width: [nn.BatchNorm1d(width, eps=1e-30)],
    "layer norm": lambda width: [nn.LayerNorm(width, eps=1e-30, elementwise_affine=False)],
    "layer norm, affine": lambda width: [nn.LayerNorm(width, eps=1e-30)],
}


def networks(
    *,
    widths: tuple[int, int] = (3, 5),
    blocks: tuple[int, int] = (1, 3),
    features: int = 3,
    outputs: int = 3,
    adjacent: bool = True,
) -> "SearchStrategy[nn.Sequential]":
    """Return a strategy for small networks of vectors, in float64 and in training mode, from a grammar.

    A network is a sequence of blocks, and a linear map at the end; a block is a linear map with or without a bias, then
    perhaps a batch or layer norm with or without affine parameters, then ReLU, leaky ReLU, abs, tanh, GELU or nothing;
    or a residual block of two linear maps, the second without a bias, around one of these. Normalisations have an ε of
    1e-30. A layer norm has three entries or more: of two it makes constants. The parameters are drawn with a seed, so
    that an example which fails is the same when it is run again. The simplest network has one hidden layer, with ReLU
    and without biases.

    Parameters
    ----------
    widths : pair of int
        The smallest and the largest number of neurons, those inside residual blocks included.
    blocks : pair of int
        The smallest and the largest number of blocks.
    features, outputs : int
        The sizes of an input and of an output.
    adjacent : bool
        Whether a linear map may follow on another, or on a norm, without an activation between them. If not, every
        block of the first kind ends with an activation. A residual block then adds to the input or to what comes out
        of an activation, which no parameter can turn, so that its second linear map and what reads the sum are bound.

    Raises
    ------
    InvalidSetting
        If a number is below 1 or a pair is not in order.

    Examples
    --------
    >>> import torch
    >>> from hypothesis import given
    >>> @given(networks(widths=(2, 3), features=2))
    ... def two_to_three(network):
    ...     assert network(torch.randn(6, 2, dtype=torch.float64)).shape == (6, 3)
    >>> two_to_three()
    """
    st = hypothesis_strategies()
    ranges = {"widths": widths, "blocks": blocks, "features": (features,) * 2, "outputs": (outputs,) * 2}
    for name, pair in ranges.items():
        require_range(pair, name)

    @st.composite
    def network(draw: Any) -> nn.Sequential:
        layers: list[nn.Module] = []
        width = features
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw(st.integers(0, 2**16)))
            for _ in range(draw(st.integers(*blocks))):
                size, bias = draw(st.integers(*widths)), draw(st.booleans())
                norms = [norm for norm in _NORMS if size > 2 or "layer" not in norm]
                form = draw(st.sampled_from([*norms, "residual"]))
                if form == "residual":
                    inner, kind = nn.Linear(width, size, bias), draw(st.sampled_from(_ACTIVATIONS))
                    layers.append(Residual(nn.Sequential(inner, kind(), nn.Linear(size, width, bias=False))))
                    continue
                layers += [nn.Linear(width, size, bias), *_NORMS[form](size)]
                kind = draw(st.sampled_from((*_ACTIVATIONS, None) if adjacent else _ACTIVATIONS))
                layers += [] if kind is None else [kind()]
                width = size
            return nn.Sequential(*layers, nn.Linear(width, outputs, draw(st.booleans()))).double()

    return network()


def networks_with_charges(
    *,
    widths: tuple[int, int] = (3, 5),
    blocks: tuple[int, int] = (1, 3),
    features: int = 3,
    outputs: int = 3,
    loss: str = "mse",
) -> "SearchStrategy[tuple[nn.Sequential, tuple[Charge, ...]]]":
    """Return a strategy for pairs of a network and all its charges, by what it was built from.

    The networks are those of `networks` with an activation after each block, ``adjacent=False``. Which charges such a
    network has is known from its parts, without a look at its graph or its numbers, so that a finder of charges can be
    compared with them, and a tracker can follow them:

    - a batch norm: a scale for each neuron of the linear map before it, a translation for each entry of its bias;
    - a layer norm: a scale of that map with its bias, translations of its columns and of its bias;
    - an activation that is positively homogeneous (ReLU, leaky ReLU, abs): a rescale for each neuron between what
      writes and what reads it, residual blocks included, unless a norm without affine parameters writes it;
    - cross-entropy: translations of the columns of the last linear map, and of its bias.

    Parameters
    ----------
    widths, blocks, features, outputs : as in `networks`
    loss : {"mse", "cross_entropy"}

    Raises
    ------
    InvalidSetting
        If a number is below 1, a pair is not in order, or the loss is another.

    Examples
    --------
    >>> import torch
    >>> from hypothesis import given, settings
    >>> from modeq.testing import assert_conserved
    >>> @settings(max_examples=10)
    ... @given(networks_with_charges(loss="cross_entropy"))
    ... def conserved(pair):
    ...     network, charges = pair
    ...     batch = torch.randn(8, 3, dtype=torch.float64), torch.randint(0, 3, (8,))
    ...     assert_conserved(charges, network, "cross_entropy", batch, tolerance=1e-8)
    >>> conserved()
    """
    if loss not in ("mse", "cross_entropy"):
        raise InvalidSetting(f"loss is {loss!r}; give 'mse' or 'cross_entropy'")
    drawn = networks(widths=widths, blocks=blocks, features=features, outputs=outputs, adjacent=False)
    return drawn.map(lambda network: (network, _implied(network, loss)))


def _implied(network: nn.Sequential, loss: str) -> tuple[Charge, ...]:
    """The charges of a network of the grammar in which each block ends with an activation."""
    charges: list[Charge] = []
    # The rows that write each entry of the present value, if they may be scaled, and the columns that read it.
    writers: dict[str, Any] = {}
    readers: dict[str, Any] = {}
    linear, written = "", writers
    for name, layer in network.named_children():
        own = _rows(name, layer)
        if isinstance(layer, nn.Linear):
            if writers:
                charges.append(_rescale(writers, {**readers, f"{name}.weight": 1}))
            linear, written, writers, readers = name, own, own, {}
        elif isinstance(layer, nn.BatchNorm1d):
            charges += [Scale(linear, written), *(Translation(bias, {bias: 0}) for bias in list(written)[1:])]
            writers = own
        elif isinstance(layer, nn.LayerNorm):
            charges += [Scale(linear, dict.fromkeys(written)), *_shifts(written)]
            writers = own
        elif isinstance(layer, Residual):
            first, second = f"{name}.block.0", f"{name}.block.2"
            if isinstance(layer.block[1], _HOMOGENEOUS):
                charges.append(_rescale(_rows(first, layer.block[0]), {f"{second}.weight": 1}))
            if writers:
                writers, readers = {**writers, f"{second}.weight": 0}, {**readers, f"{first}.weight": 1}
        elif not isinstance(layer, _HOMOGENEOUS):
            writers = {}
    return (*charges, *(_shifts(written) if loss == "cross_entropy" else ()))


def _rows(name: str, layer: nn.Module) -> dict[str, Any]:
    return {f"{name}.{parameter}": 0 for parameter, _ in layer.named_parameters(recurse=False)}


def _rescale(writers: dict[str, Any], readers: dict[str, Any]) -> Rescale:
    first, last = next(iter(writers)), list(readers)[-1]
    return Rescale(f"{first.rpartition('.')[0]}-{last.rpartition('.')[0]}", writers, readers)


def _shifts(written: dict[str, Any]) -> list[Translation]:
    """What a softmax or the mean of a layer norm takes off: a constant for each column, and for the bias."""
    weight, *bias = written
    return [Translation(weight, {weight: 1}), *(Translation(entry, {entry: None}) for entry in bias)]
