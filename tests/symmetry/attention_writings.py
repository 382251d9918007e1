"""Attention written in different ways, small, in float64, and what acts between its parts."""

import torch
from torch import nn
from torch.nn import functional as F

F64 = torch.float64
WIDTH, HEADS, SIZE = 6, 2, 3


def split(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def joined(x):
    return x.transpose(1, 2).flatten(-2)


def explicit(q, k, v):
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v


class MultiHead(nn.Module):
    """torch's own, whose three projections are one parameter."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        nn.init.normal_(self.attention.in_proj_bias)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class CrossAttention(MultiHead):
    """The same with keys and values from elsewhere, of which torch cuts the parameter."""

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        memory = torch.tanh(self.other(x))
        return self.attention(x, memory, memory, need_weights=True)[0]


class Packed(nn.Module):
    """One linear map for queries, keys and values, in thirds or head by head, and torch's fused attention."""

    def __init__(self, by_heads=False):
        super().__init__()
        self.qkv, self.out, self.by_heads = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), by_heads

    def forward(self, x):
        if self.by_heads:
            q, k, v = self.qkv(x).unflatten(-1, (HEADS, 3, SIZE)).permute(3, 0, 2, 1, 4)
        else:
            q, k, v = (split(part, HEADS) for part in self.qkv(x).chunk(3, -1))
        return self.out(joined(F.scaled_dot_product_attention(q, k, v, is_causal=True)))


class Separate(nn.Module):
    """Linear maps of their own, and an explicit softmax, or sums written with letters."""

    def __init__(self, letters=False):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.letters = letters

    def forward(self, x):
        if not self.letters:
            return self.o(joined(explicit(*(split(layer(x), HEADS) for layer in (self.q, self.k, self.v)))))
        q, k, v = (layer(x).view(*x.shape[:2], HEADS, SIZE) for layer in (self.q, self.k, self.v))
        weights = (torch.einsum("bthd,bshd->bhts", q, k) * SIZE**-0.5).softmax(-1)
        mixed = torch.einsum("bhts,bshd->bthd", weights, v).reshape(*x.shape[:2], WIDTH)
        return F.linear(mixed, self.o.weight, self.o.bias)


class Grouped(nn.Module):
    """Four heads of queries of size 2 for two of keys and values."""

    def __init__(self, writing):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(a, b) for a, b in ((WIDTH, 8), (WIDTH, 4), (WIDTH, 4), (8, WIDTH)))
        self.writing = writing

    def forward(self, x):
        q, k, v = split(self.q(x), 4), split(self.k(x), 2), split(self.v(x), 2)
        if self.writing == "torch":
            mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        elif self.writing == "repeated":
            mixed = explicit(q, *(part.repeat_interleave(2, 1) for part in (k, v)))
        elif self.writing == "expanded":
            k, v = (part[:, :, None].expand(-1, -1, 2, -1, -1).reshape(q.shape) for part in (k, v))
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:  # queries of one group beside each other in an axis of their own
            grouped = q.unflatten(1, (2, 2))
            mixed = explicit(grouped, k[:, :, None], v[:, :, None]).flatten(1, 2)
        return self.o(joined(mixed))


def turned(x, angles, way, early=False):
    """Rotate planes of the last axis by angles times the position, which is the last axis but one, or but two."""
    turn = torch.outer(torch.arange(x.shape[-3 if early else -2], dtype=x.dtype), angles)
    turn = turn[:, None] if early else turn
    if way == "complex":
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(turn), turn)).flatten(-2)
    if way == "rotate half":
        cos, sin = (torch.cat([part, part], -1) for part in (turn.cos(), turn.sin()))
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin
    first, second = x.chunk(2, -1) if way == "halves" else (x[..., ::2], x[..., 1::2])
    parts = first * turn.cos() - second * turn.sin(), first * turn.sin() + second * turn.cos()
    return torch.cat(parts, -1) if way == "halves" else torch.stack(parts, -1).flatten(-2)


class Rotary(nn.Module):
    """Queries and keys, two heads of size 4, of which planes are turned by the positions, before or after a transpose.

    The angles of two planes, or of one if the other stays; `shared` has one head of keys and values for both.
    """

    def __init__(self, way="neighbours", angles=(1.0, 0.3), early=False, shared=False):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, width) for width in (8, 4 if shared else 8, 4 if shared else 8))
        self.o = nn.Linear(8, WIDTH)
        self.register_buffer("angles", torch.tensor(angles, dtype=F64))
        self.way, self.early, self.shared = way, early, shared

    def forward(self, x):
        heads = 1 if self.shared else 2
        q, k, v = self.q(x).unflatten(-1, (2, -1)), self.k(x).unflatten(-1, (heads, -1)), split(self.v(x), heads)
        q, k = (self._turned(part) if self.early else self._turned(part.transpose(1, 2)) for part in (q, k))
        q, k = (part.transpose(1, 2) if self.early else part for part in (q, k))
        return self.o(joined(F.scaled_dot_product_attention(q, k, v, enable_gqa=self.shared)))

    def _turned(self, x):
        width = 2 * len(self.angles)
        moving = turned(x[..., :width], self.angles.to(x.dtype), self.way, self.early)
        return torch.cat([moving, x[..., width:]], -1) if width < x.shape[-1] else moving
