"""A transformer that writes the codes of an image, place after place or all at once.

Pre-norm blocks with RMSNorm (Zhang and Sennrich 2019), SwiGLU (Shazeer 2020), grouped keys (Ainslie et al.
2023), normalised queries and keys (Henry et al. 2020), and rotary positions (Su et al. 2021) in two
dimensions (Heo et al. 2024, axial): one half of a head turns with the row, the other with the column.

The sequence is a prefix, which says what to paint, and the codes. In raster order position i holds code i - 1
and writes code i, and the last of the prefix writes the first code. A query turns to the place that it writes
and a key to the place that it holds, so that "the code above the one I write" is one offset everywhere, at
the edges too.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.precision import Precision

ROTARY_BASE = 100.0
"""The quickest pair of a head turns about a hundred times as fast as the slowest: grids are tens of places."""


class Shape(NamedTuple):
    """What a transformer has to know: the codes' grid, its own size, and how long the prefix is.

    heads is a multiple of key_value_heads and divides width into head widths that are multiples of four;
    prefix, the number of prefix tokens, is 1 at least.
    """

    vocabulary: int
    rows: int
    columns: int
    depth: int
    width: int
    layers: int
    heads: int
    key_value_heads: int
    prefix: int

    @property
    def codes(self) -> int:
        """Codes in one image."""
        return self.rows * self.columns * self.depth

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def hidden(self) -> int:
        """Width inside the feed-forward: 8/3 of the width: three matrices cost what two of 4 would."""
        return 32 * math.ceil(self.width / 12)


class RMSNorm(nn.Module):
    """x / rms(x), times a learned gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.gain.shape, self.gain, 1e-6)


class Attention(nn.Module):
    """The projections of self-attention; the attending itself is the caller's, with or without a cache."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.key_value_heads = shape.heads, shape.key_value_heads
        self.head_width = shape.head_width
        self.qkv = nn.Linear(
            shape.width, (self.heads + 2 * self.key_value_heads) * self.head_width, bias=False
        )
        self.query_norm, self.key_norm = RMSNorm(self.head_width), RMSNorm(self.head_width)
        self.out = nn.Linear(shape.width, shape.width, bias=False)

    def project(self, x: Tensor, query_turn: Tensor, key_turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`[n, t, width]` to queries, keys and values `[n, heads, t, head width]`, normalised and turned."""
        qkv = self.qkv(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.key_value_heads, self.key_value_heads], dim=1)
        q, k = turn(self.query_norm(q), query_turn), turn(self.key_norm(k), key_turn)
        return q.to(v.dtype), k.to(v.dtype), v

    def forward(self, x: Tensor, query_turn: Tensor, key_turn: Tensor, causal: bool) -> Tensor:
        q, k, v = self.project(x, query_turn, key_turn)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm, self.attention = RMSNorm(shape.width), Attention(shape)
        self.feed_norm = RMSNorm(shape.width)
        self.gate_up = nn.Linear(shape.width, 2 * shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)
        for into_stream in (self.attention.out, self.down):
            nn.init.normal_(into_stream.weight, std=(2 * shape.layers * into_stream.in_features) ** -0.5)
        for inner in (self.attention.qkv, self.gate_up):
            nn.init.normal_(inner.weight, std=inner.in_features**-0.5)

    def forward(self, x: Tensor, query_turn: Tensor, key_turn: Tensor, causal: bool) -> Tensor:
        x = x + self.attention(self.attention_norm(x), query_turn, key_turn, causal)
        return self.feed(x)

    def feed(self, x: Tensor) -> Tensor:
        """x + feed-forward(norm(x))."""
        gate, up = self.gate_up(self.feed_norm(x)).chunk(2, dim=-1)
        out: Tensor = x + self.down(F.silu(gate) * up)
        return out


class Transformer(nn.Module):
    """A prefix `[n, p, width]` and codes int64 `[n, N]` to logits of every code, `[n, N, vocabulary]`
    float32.

    The N codes are those of the grid, row by row, place by place, `depth` at each.
    """

    query_turns: Tensor
    key_turns: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        # One vector per code and depth, and one for a code that is not yet known.
        self.embedding = nn.Embedding(shape.depth * (shape.vocabulary + 1), shape.width)
        self.row = nn.Parameter(torch.empty(shape.rows, 1, 1, shape.width))
        self.column = nn.Parameter(torch.empty(1, shape.columns, 1, shape.width))
        self.index = nn.Parameter(torch.empty(1, 1, shape.depth, shape.width))
        self.prefix = nn.Parameter(torch.empty(shape.prefix, shape.width))
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        for table in (self.embedding.weight, self.row, self.column, self.index, self.prefix):
            nn.init.normal_(table, std=0.02)
        nn.init.normal_(self.head.weight, std=0.5 * shape.width**-0.5)
        still, turns = (
            torch.ones(shape.prefix, shape.head_width // 2, dtype=torch.complex64),
            rotations(shape),
        )
        keys = torch.cat([still, turns])
        queries = torch.cat([still[1:], turns, turns[-1:]])  # the last of the prefix writes the first code
        self.register_buffer("query_turns", torch.view_as_real(queries), persistent=False)
        self.register_buffer("key_turns", torch.view_as_real(keys), persistent=False)

    def forward(self, prefix: Tensor, codes: Tensor) -> Tensor:
        """Raster order: the logits of code i follow from the prefix and from codes before i alone."""
        x = torch.cat([prefix + self.prefix, self.embed(codes[:, :-1], 0, 1)], dim=1)
        length = x.shape[1]
        for block in self.blocks:
            x = block(x, self.query_turns[:length], self.key_turns[:length], causal=True)
        return self.read(x[:, self.shape.prefix - 1 :])

    def parallel(self, prefix: Tensor, codes: Tensor) -> Tensor:
        """Any order: every place sees all others; a code that is not yet known is the id `vocabulary`."""
        x = torch.cat([prefix + self.prefix, self.embed(codes, 0, 0)], dim=1)
        for block in self.blocks:
            x = block(x, self.key_turns, self.key_turns, causal=False)
        return self.read(x[:, self.shape.prefix :])

    def decoder(self, prefix: Tensor, *, precision: Precision = "float32") -> "Decoder":
        """What writes codes in raster order after `prefix`, one call per code."""
        return Decoder(self, prefix, precision)

    def embed(self, codes: Tensor, first: int, ahead: int) -> Tensor:
        """Codes `[n, m]`, the first of which is number `first`, to vectors `[n, m, width]` of what they are
        and of the place that they write, `ahead` codes further on.
        """
        places = (self.row + self.column + self.index).flatten(0, 2)
        stop = first + codes.shape[1]
        depths = torch.arange(first, stop, device=codes.device) % self.shape.depth
        vectors: Tensor = self.embedding(codes + depths * (self.shape.vocabulary + 1))
        return vectors + places[first + ahead : stop + ahead]

    def read(self, x: Tensor) -> Tensor:
        """The residual stream to logits."""
        logits: Tensor = self.head(self.norm(x)).float()
        return logits


class Decoder:
    """Writes codes in raster order, remembering the keys and values of all that came before.

    logits: `[n, vocabulary]` float32, of the next code. One allocation holds the cache.
    """

    def __init__(self, transformer: Transformer, prefix: Tensor, precision: Precision) -> None:
        shape = transformer.shape
        self.transformer = transformer
        size = (shape.layers, len(prefix), shape.key_value_heads)
        length = shape.prefix + shape.codes - 1
        self._keys = prefix.new_empty(*size, length, shape.head_width)
        self._values = torch.empty_like(self._keys)
        self._filled = 0
        self.logits = self._feed(prefix + transformer.prefix)

    def extend(self, codes: Tensor) -> Tensor:
        """Take the next codes `[n, m]`; returns the logits of the one after them."""
        first = self._filled - self.transformer.shape.prefix
        self.logits = self._feed(self.transformer.embed(codes, first, 1))
        return self.logits

    def _feed(self, x: Tensor) -> Tensor:
        net, start, stop = self.transformer, self._filled, self._filled + x.shape[1]
        seen = torch.ones(stop - start, stop, dtype=torch.bool, device=x.device).tril(start)
        for block, keys, values in zip(net.blocks, self._keys, self._values, strict=True):
            assert isinstance(block, Block)
            q, k, v = block.attention.project(
                block.attention_norm(x), net.query_turns[start:stop], net.key_turns[start:stop]
            )
            keys[:, :, start:stop], values[:, :, start:stop] = k, v
            attended = F.scaled_dot_product_attention(
                q, keys[:, :, :stop], values[:, :, :stop], attn_mask=seen, enable_gqa=True
            )
            x = block.feed(x + block.attention.out(attended.transpose(1, 2).flatten(2)))
        self._filled = stop
        return net.read(x[:, -1])


def rotations(shape: Shape) -> Tensor:
    """How each code's place turns a head: unit complex numbers `[N, head width / 2]`, rows then columns."""
    quarter = shape.head_width // 4
    speeds = ROTARY_BASE ** (-torch.arange(quarter) / quarter)
    grid = torch.cartesian_prod(
        torch.arange(shape.rows), torch.arange(shape.columns), torch.arange(shape.depth)
    ).reshape(-1, 3)
    angles = torch.cat([grid[:, :1] * speeds, grid[:, 1:2] * speeds], dim=1)
    return torch.polar(torch.ones_like(angles), angles)


def turn(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate pairs of neighbouring values of `x` `[..., t, d]` float32 by `turns` `[t, d/2, 2]`."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * torch.view_as_complex(turns)).flatten(-2)
