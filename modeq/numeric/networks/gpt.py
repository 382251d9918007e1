"""The decoder of Radford et al. 2019, *Language models are unsupervised multitask learners* (GPT-2), of any size."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeq.errors import InvalidProblem
from modeq.numeric.networks.building import probability, seeded, switch
from modeq.numeric.protocol import whole

# Standard deviation of the initial weights (Radford et al. 2018).
_STD = 0.02


def gpt(
    *,
    layers: int = 12,
    heads: int = 12,
    dim: int = 768,
    vocabulary: int = 50257,
    context: int = 1024,
    tied: bool = True,
    bias: bool = True,
    dropout: float = 0.0,
    packed: bool = True,
    fused: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> "GPT":
    """Return a `GPT` for tokens [batch, tokens], integers below `vocabulary`.

    By default it is the smallest GPT-2, of 124,439,808 parameters. All weights are drawn from N(0, 0.02²), but those
    that end a branch, projection and fc2, from N(0, 0.02²/(2·layers)); biases are 0.

    Parameters
    ----------
    layers, heads, dim : int
        Number of blocks and of attention heads (a divisor of dim), and width of the stream.
    vocabulary, context : int
        Number of tokens there are, and the most that are read at once.
    tied : bool
        The head is the embedding of the tokens: one parameter for both.
    bias : bool
        Give all linear layers of the blocks and all layer norms biases. The head has none in any case.
    dropout : number in [0, 1)
        Probability after the embedding, on the weights of attention, and after each branch. A `TorchProblem` of a
        network in training mode needs 0.
    packed : bool
        Query, key and value are one layer qkv, else the three query, key and value.
    fused : bool
        Attention by torch's scaled_dot_product_attention, else by an explicit softmax.
    seed : int
        Of the initial weights; torch's global random state is left alone.
    dtype : torch.dtype
        Of the parameters; drawn in float32 in any case.

    Raises
    ------
    InvalidProblem
        If an option is out of range, or of another kind, or heads do not divide the width.

    Examples
    --------
    >>> import torch
    >>> network = gpt(layers=2, heads=2, dim=8, vocabulary=11, context=6)
    >>> network(torch.zeros(3, 5, dtype=torch.long)).shape
    torch.Size([3, 5, 11])
    """
    numbers = {"layers": layers, "heads": heads, "dim": dim, "vocabulary": vocabulary, "context": context}
    options: dict[str, Any] = {name: whole(value, name, least=1) for name, value in numbers.items()}
    if dim % heads:
        raise InvalidProblem(f"heads is {heads}: give a divisor of dim = {dim}")
    for name, value in {"tied": tied, "bias": bias, "packed": packed, "fused": fused}.items():
        options[name] = switch(value, name)
    options["dropout"] = probability(dropout, "dropout")
    return seeded(lambda: GPT(**options), seed, dtype)


class GPT(nn.Module):
    """Embedded tokens and learned positions, `DecoderBlock`s, a layer norm, and a linear head; see `gpt`.

    Examples
    --------
    >>> network = gpt(layers=1, heads=2, dim=8, vocabulary=11, context=6)
    >>> list(dict(network.named_children()))
    ['embedding', 'positions', 'dropout', 'blocks', 'norm', 'head']
    """

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        dim: int,
        vocabulary: int,
        context: int,
        tied: bool,
        bias: bool,
        dropout: float,
        packed: bool,
        fused: bool,
    ) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(vocabulary, dim), nn.Embedding(context, dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(DecoderBlock(dim, heads, bias, dropout, packed, fused) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(dim, bias=bias), nn.Linear(dim, vocabulary, bias=False)
        self.apply(_initialise)
        blocks: Any = self.blocks
        for block in blocks:
            for layer in (block.projection, block.fc2):
                nn.init.normal_(layer.weight, std=_STD / math.sqrt(2 * layers))
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits [batch, tokens, vocabulary] of what follows each token."""
        length, context = tokens.shape[-1], self.positions.num_embeddings
        if length > context:
            raise InvalidProblem(f"tokens has {length} of them in a row: give at most the context, {context}")
        stream = self.dropout(self.embedding(tokens) + self.positions.weight[:length])
        for block in self.blocks:
            stream = block(stream)
        return self.head(self.norm(stream))


class DecoderBlock(nn.Module):
    """x + attention(norm1(x)), and then x + fc2(gelu(fc1(norm2(x)))), for a stream [batch, tokens, dim].

    Each token attends to itself and to those before it. The inner width is 4·dim, and GELU is approximated by tanh,
    as in GPT-2.

    Examples
    --------
    >>> import torch
    >>> block = DecoderBlock(dim=4, heads=2, bias=True, dropout=0.0, packed=False, fused=True)
    >>> block(torch.zeros(1, 3, 4)).shape
    torch.Size([1, 3, 4])
    """

    def __init__(self, dim: int, heads: int, bias: bool, dropout: float, packed: bool, fused: bool) -> None:
        super().__init__()
        self.heads, self.packed, self.fused = heads, packed, fused
        self.norm1, self.norm2 = nn.LayerNorm(dim, bias=bias), nn.LayerNorm(dim, bias=bias)
        if packed:
            self.qkv = nn.Linear(dim, 3 * dim, bias)
        else:
            self.query, self.key, self.value = (nn.Linear(dim, dim, bias) for _ in range(3))
        self.projection = nn.Linear(dim, dim, bias)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim, bias), nn.Linear(4 * dim, dim, bias)
        self.gelu, self.dropout = nn.GELU(approximate="tanh"), nn.Dropout(dropout)

    def forward(self, stream: Tensor) -> Tensor:
        """Return the stream after the block."""
        stream = stream + self.dropout(self._attention(self.norm1(stream)))
        return stream + self.dropout(self.fc2(self.gelu(self.fc1(self.norm2(stream)))))

    def _attention(self, stream: Tensor) -> Tensor:
        if self.packed:
            parts = self.qkv(stream).chunk(3, dim=-1)
        else:
            parts = self.query(stream), self.key(stream), self.value(stream)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        if self.fused:
            dropped = self.dropout.p if self.training else 0.0
            mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropped, is_causal=True)
        else:
            mixed = self._explicit(query, key, value)
        return self.projection(mixed.transpose(1, 2).flatten(-2))

    def _explicit(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        tokens, size = query.shape[-2:]
        later = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).triu(1)
        scores = (query @ key.transpose(-2, -1) / math.sqrt(size)).masked_fill(later, -torch.inf)
        return self.dropout(scores.softmax(dim=-1)) @ value


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear | nn.Embedding):
        nn.init.normal_(layer.weight, std=_STD)
    if isinstance(layer, nn.Linear) and layer.bias is not None:
        nn.init.zeros_(layer.bias)
