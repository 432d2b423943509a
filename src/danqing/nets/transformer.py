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

EPSILON = 1e-6
"""Added to mean squares before they divide."""

ROTARY_BASE = 100.0
"""About how many times as fast the quickest pair of a head turns as the slowest: grids are tens of places
wide.
"""

LONGEST = 512
"""Positions at most whose attention weights are kept for the way back, of which there are a square."""

EMBEDDING_SCALE = 0.3
"""Standard deviation of fresh embeddings: about what a block adds to them, which then does not drown what
they say. With 0.02, as language models start, the first thousands of images teach less.
"""


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


class NormedLinear(nn.Module):
    """A matrix product of RMSNorm(x); the norm's gain goes with the weights, `[outputs, inputs]`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(inputs))
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.normal_(self.weight, std=inputs**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.rms_norm(x, x.shape[-1:], eps=EPSILON), self.weight * self.gain)


class Attention(nn.Module):
    """Self-attention, after an RMSNorm, whose queries and keys are unit vectors, turned by their places.

    gain: `[heads, head width / 2]`, how much each pair of a query weighs. One for queries and keys both would
    say the same twice, and one for each number of a pair would not commute with its turning.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.key_value_heads = shape.heads, shape.key_value_heads
        self.head_width = shape.head_width
        self.qkv = NormedLinear(shape.width, (self.heads + 2 * self.key_value_heads) * self.head_width)
        self.gain = nn.Parameter(torch.ones(self.heads, self.head_width // 2))
        self.out = into_stream(shape, self.heads * self.head_width)

    def turns(self, turns: Tensor) -> Tensor:
        """`[2, t, head width / 2]`, of queries and of keys, to what each head's pairs are multiplied by,
        complex `[t, heads + key heads, head width / 2]`.

        The factor makes the products of random unit vectors about standard normal.
        """
        queries = turns[0][:, None] * (self.gain * math.sqrt(self.head_width))
        return torch.cat([queries, turns[1][:, None].expand(-1, self.key_value_heads, -1)], dim=1)

    def project(self, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`[n, t, width]` to queries, keys and values `[n, heads, t, head width]`, to be attended to with
        scale 1.
        """
        qkv = self.qkv(x).view(*x.shape[:2], -1, self.head_width)
        qk, v = torch.split(qkv, [self.heads + self.key_value_heads, self.key_value_heads], dim=2)
        q, k = torch.split(unit_turned(qk, self.turns(turns)), [self.heads, self.key_value_heads], dim=1)
        return q, k, v.transpose(1, 2)

    def forward(self, x: Tensor, turns: Tensor, seen: Tensor | None = None, start: int = 0) -> Tensor:
        """`[n, t, width]` to what positions from `start` on add to the stream. seen: as of `attend`; keys are
        as many of the first positions as it has columns.
        """
        q, k, v = self.project(x, turns)
        if seen is not None:
            q, k, v = q[:, :, start:], k[:, :, : seen.shape[2]], v[:, :, : seen.shape[2]]
        out: Tensor = self.out(attend(q, k, v, seen).transpose(1, 2).flatten(2))
        return out


def unit_turned(x: Tensor, turns: Tensor) -> Tensor:
    """Vectors `[n, t, heads, d]` at length 1, their pairs of neighbours multiplied by complex numbers
    `[t, heads, d / 2]`, as `[n, heads, t, d]`.
    """
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    unit = F.rms_norm(exact, x.shape[-1:], eps=EPSILON) / math.sqrt(x.shape[-1])
    turned = torch.view_as_real(torch.view_as_complex(unit.reshape(*unit.shape[:-1], -1, 2)) * turns)
    return turned.flatten(-2).transpose(1, 2).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ) v for queries `[n, heads, t, d]`, keys and values `[n, heads / g, s, d]`.

    seen: bool `[n, t, s]`, which keys each query sees, one at least; causal where it is None. The scale is 1.
    """
    if q.requires_grad and q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.shape[2] <= LONGEST:
        # Torch's own kernel makes a training step in bfloat16 longer by a tenth to a third.
        hidden = (
            q.new_ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1) if seen is None else ~seen[:, None]
        )
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        least = torch.zeros_like(hidden, dtype=q.dtype).masked_fill_(hidden, -torch.inf)
        return torch.softmax(q @ k.transpose(2, 3) + least, dim=-1) @ v
    mask = None if seen is None else seen[:, None]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=1.0, enable_gqa=True
    )


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.gate_up = NormedLinear(shape.width, 2 * shape.hidden)
        self.down = into_stream(shape, shape.hidden)

    def forward(self, x: Tensor, turns: Tensor, seen: Tensor | None = None, start: int = 0) -> Tensor:
        """The stream `[n, t, width]` from position `start` on."""
        return self.feed(x[:, start:] + self.attention(x, turns, seen, start))

    def feed(self, x: Tensor) -> Tensor:
        """x + feed-forward(norm(x))."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = x + self.down(F.silu(gate) * up)
        return out


def into_stream(shape: Shape, inputs: int) -> nn.Linear:
    """A product that is added to the stream, so small at first that the stream stays as wide as it was
    (Radford et al. 2019, section 2.3).
    """
    linear = nn.Linear(inputs, shape.width, bias=False)
    nn.init.normal_(linear.weight, std=(2 * shape.layers * inputs) ** -0.5)
    return linear


class Transformer(nn.Module):
    """A prefix `[n, p, width]` and codes int64 `[n, N]` to logits of every code, `[n, N, vocabulary]`
    float32.

    The N codes are those of the grid, row by row, place by place, `depth` at each.
    """

    turns: Tensor

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
        self.head = NormedLinear(shape.width, shape.vocabulary)
        for table in (self.embedding.weight, self.row, self.column, self.index, self.prefix):
            nn.init.normal_(table, std=EMBEDDING_SCALE)
        with torch.no_grad():
            self.head.weight.mul_(0.5)  # starts near the uniform distribution
        with torch.device("cpu"):  # whatever the weights are built on: no file will bring these
            self.register_buffer("turns", rotations(shape), persistent=False)

    def forward(self, prefix: Tensor, codes: Tensor) -> Tensor:
        """Raster order: the logits of code i follow from the prefix and from codes before i alone."""
        x = torch.cat([prefix + self.prefix, self.embed(codes[:, :-1], 0, 1)], dim=1)
        turns = self.raster_turns()[:, : x.shape[1]]
        for block in self.blocks:
            x = block(x, turns)
        return self.read(x[:, self.shape.prefix - 1 :])

    def parallel(self, prefix: Tensor, codes: Tensor, ranks: Tensor, before: Tensor) -> Tensor:
        """Any order: the logits of every code follow from the prefix and from the codes that were known when
        it was written.

        ranks: `[n, N]`, when each becomes known; before: `[n, N]`, how many are known when it is written, its
        rank at most. A place stands twice in the sequence (Yang et al. 2019, section 2.3): as its code, which
        sees itself and those known before it, so that a `ParallelDecoder` can remember it, and as what is
        asked for, which is no key. The prefix sees itself.
        """
        count, codes_count = self.shape.prefix, self.shape.codes
        seen = torch.cat([ranks[:, None] <= ranks[:, :, None], ranks[:, None] < before[:, :, None]], dim=1)
        seen = F.pad(seen, (0, 0, count, 0), value=False)  # the prefix sees no code, and all see the prefix
        seen = F.pad(seen, (count, 0), value=True)
        unknown = torch.full_like(codes, self.shape.vocabulary)
        x = torch.cat([prefix + self.prefix, self.embed(codes, 0, 0), self.embed(unknown, 0, 0)], dim=1)
        held = torch.view_as_complex(self.turns)
        turns = torch.cat([held, held[count:]]).expand(2, -1, -1)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x, turns, seen)
        asked = count + codes_count
        return self.read(last(x, turns, seen[:, asked:], asked))

    def raster_turns(self) -> Tensor:
        """How queries and keys turn in raster order, complex `[2, p + N, head width / 2]`."""
        held = torch.view_as_complex(self.turns)
        return torch.stack([torch.cat([held[1:], held[-1:]]), held])

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
        logits: Tensor = self.head(x).float()
        return logits


def rotations(shape: Shape) -> Tensor:
    """How each position turns a head: unit complex numbers as real pairs, `[p + N, head width / 2, 2]`.

    Half of the pairs turn with the row, half with the column; the prefix stands at the first place.
    """
    quarter = shape.head_width // 4
    speeds = ROTARY_BASE ** (-torch.arange(quarter) / quarter)
    number = torch.arange(-shape.prefix, shape.codes).clamp(min=0) // shape.depth
    angles = torch.cat(
        [(number // shape.columns)[:, None] * speeds, (number % shape.columns)[:, None] * speeds], dim=1
    )
    return torch.stack([angles.cos(), angles.sin()], dim=-1)
