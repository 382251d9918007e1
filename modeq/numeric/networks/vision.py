"""A small vision transformer for the handwritten digits."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeq.errors import InvalidProblem
from modeq.numeric.protocol import whole


class VisionTransformer(nn.Module):
    """A pre-norm vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) for images [batch, 1, side, side].

    Patches are embedded linearly, with learned positions; each block adds attention(norm1(x)) and
    mlp(norm2(x)), GELU in between; the head reads the mean over the patches of norm(x). Smooth in its parameters.

    Parameters
    ----------
    side, patch : int
        Of the images and of a patch, in pixels.
    dim, heads, depth : int
        Width of the stream, number of attention heads (a divisor of it), and number of blocks.
    hidden : int
        Width inside a block's MLP.
    classes : int
        Number of outputs.

    Raises
    ------
    InvalidProblem
        If a number is not positive, patches do not tile the image, or heads do not divide the width.

    Examples
    --------
    >>> import torch
    >>> VisionTransformer(dim=4, hidden=4)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        side: int = 8,
        patch: int = 4,
        dim: int = 12,
        heads: int = 2,
        depth: int = 1,
        hidden: int = 24,
        classes: int = 10,
    ) -> None:
        super().__init__()
        given = {"side": side, "patch": patch, "dim": dim, "heads": heads, "depth": depth, "hidden": hidden}
        for name, value in {**given, "classes": classes}.items():
            whole(value, name, least=1)
        if side % patch:
            raise InvalidProblem(f"patch is {patch}: give a divisor of the side of the image, {side}")
        if dim % heads:
            raise InvalidProblem(f"heads is {heads}: give a divisor of dim = {dim}")
        self.patch = patch
        self.embedding = nn.Linear(patch**2, dim)
        self.positions = nn.Parameter(0.02 * torch.randn((side // patch) ** 2, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [batch, classes]."""
        size = self.patch
        patches = images.unfold(2, size, size).unfold(3, size, size).reshape(len(images), -1, size**2)
        stream = self.embedding(patches) + self.positions
        for block in self.blocks:
            stream = block(stream)
        return self.head(self.norm(stream).mean(dim=1))


class Block(nn.Module):
    """x + attention(norm1(x)), and then x + fc2(gelu(fc1(norm2(x)))), for a stream [batch, tokens, dim].

    Examples
    --------
    >>> import torch
    >>> Block(dim=4, heads=2, hidden=8)(torch.zeros(1, 3, 4)).shape
    torch.Size([1, 3, 4])
    """

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.projection = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, stream: Tensor) -> Tensor:
        """Return the stream after the block."""
        stream = stream + self._attention(self.norm1(stream))
        return stream + self.fc2(F.gelu(self.fc1(self.norm2(stream))))

    def _attention(self, stream: Tensor) -> Tensor:
        batch, tokens, dim = stream.shape
        query, key, value = self.qkv(stream).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.projection(mixed.transpose(1, 2).reshape(batch, tokens, dim))


def digits_vit(
    seed: int = 0,
    *,
    patch: int = 4,
    dim: int = 12,
    heads: int = 2,
    depth: int = 1,
    hidden: int = 24,
    dtype: torch.dtype = torch.float32,
) -> VisionTransformer:
    """Return a seeded `VisionTransformer` for images [batch, 1, 8, 8] and ten classes, of 1690 parameters by default.

    Parameters
    ----------
    seed : int
        Of the initial weights; torch's global random state is left alone.
    patch, dim, heads, depth, hidden : int
        See `VisionTransformer`.
    dtype : torch.dtype
        Of the parameters; drawn in float32 in any case.

    Examples
    --------
    >>> sum(p.numel() for p in digits_vit().parameters())
    1690
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = VisionTransformer(8, patch, dim, heads, depth, hidden)
    return network.to(dtype)
