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
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.nets.fused import EPSILON, attend, rms_normalised, swiglu, unit_turned
from danqing.precision import Precision

ROTARY_BASE = 100.0
"""How many times as fast the quickest pair of a head turns as the slowest: grids are tens of places wide."""

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
        return F.linear(rms_normalised(x), self.weight * self.gain)


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

    def forward(self, x: Tensor, turns: Tensor, causal: bool) -> Tensor:
        attended = attend(*self.project(x, turns), causal=causal)
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.gate_up = NormedLinear(shape.width, 2 * shape.hidden)
        self.down = into_stream(shape, shape.hidden)

    def forward(self, x: Tensor, turns: Tensor, causal: bool) -> Tensor:
        return self.feed(x + self.attention(x, turns, causal))

    def feed(self, x: Tensor) -> Tensor:
        """x + feed-forward(norm(x))."""
        out: Tensor = x + self.down(swiglu(self.gate_up(x)))
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
            x = block(x, turns, causal=True)
        return self.read(x[:, self.shape.prefix - 1 :])

    def parallel(self, prefix: Tensor, codes: Tensor) -> Tensor:
        """Any order: every place sees all others; a code that is not yet known is the id `vocabulary`."""
        x = torch.cat([prefix + self.prefix, self.embed(codes, 0, 0)], dim=1)
        turns = torch.view_as_complex(self.turns).expand(2, -1, -1)
        for block in self.blocks:
            x = block(x, turns, causal=False)
        return self.read(x[:, self.shape.prefix :])

    def decoder(self, prefix: Tensor, *, precision: Precision = "float32") -> "Decoder":
        """What writes codes in raster order after `prefix`, one call per code."""
        return Decoder(self, prefix, precision)

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


class Decoder:
    """Writes codes in raster order, remembering the keys and values of all that came before.

    logits: `[n, vocabulary]` float32, of the next code. The cache is one allocation. Weights are read once,
    when the decoder is made. Most of a step's time is the reading of weights and cache, so that half the
    bytes, bfloat16, are worth the rounding.
    """

    @torch.no_grad()
    def __init__(self, transformer: Transformer, prefix: Tensor, precision: Precision) -> None:
        shape = transformer.shape
        n, groups, width = len(prefix), shape.key_value_heads, shape.head_width
        self._transformer, self._written = transformer, -shape.prefix
        length = shape.prefix + shape.codes
        # A position's key stands together: written apart, each number would move a line of memory.
        self._cache = torch.empty(
            (shape.layers, 2, n, groups, length, width),
            device=prefix.device,
            dtype=_cache_dtype(prefix, precision),
        )
        self._table = transformer.embedding.weight
        self._places = (transformer.row + transformer.column + transformer.index).flatten(0, 2)
        blocks = [cast(Block, block) for block in transformer.blocks]
        self._layers = [_Layer(block, precision) for block in blocks]
        turns = transformer.raster_turns()
        self._turns = torch.stack([block.attention.turns(turns) for block in blocks], dim=1)
        self._head = _Product(transformer.head.weight, precision, transformer.head.gain)
        self._epsilon = prefix.new_tensor(math.sqrt(shape.width * EPSILON))
        self.logits = self._prefill(prefix + transformer.prefix)

    @torch.no_grad()
    def extend(self, codes: Tensor) -> Tensor:
        """Take the next codes `[n, m]`; returns the logits of the one after them."""
        if codes.shape[1] == 1:
            self.logits = self._step(codes[:, 0])
        else:
            self.logits = self._prefill(self._transformer.embed(codes, self._written, 1))
        return self.logits

    def _step(self, codes: Tensor) -> Tensor:
        shape, number = self._transformer.shape, self._written
        x = F.embedding(codes + number % shape.depth * (shape.vocabulary + 1), self._table)
        x += self._places[number + 1]
        position = number + shape.prefix
        turns = self._turns[position].unbind()
        caches = self._cache[..., : position + 1, :].unbind()
        for layer, turn, cache in zip(self._layers, turns, caches, strict=True):
            layer.step(x, turn, cache)
        self._written += 1
        return self._head(_unit(x, self._epsilon)).float()

    def _prefill(self, x: Tensor) -> Tensor:
        """Feed positions `[n, m, width]` at once, in float32."""
        net = self._transformer
        start = self._written + net.shape.prefix
        stop = start + x.shape[1]
        turns = net.raster_turns()[:, start:stop]
        seen = torch.ones(stop - start, stop, dtype=torch.bool, device=x.device).tril(start)
        for module, cache in zip(net.blocks, self._cache, strict=True):
            block = cast(Block, module)
            q, k, v = block.attention.project(x, turns)
            cache[0, :, :, start:stop], cache[1, :, :, start:stop] = k, v
            k, v = cache[..., :stop, :].to(x.dtype).unbind()
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=1.0, enable_gqa=True)
            x = block.feed(x + block.attention.out(attended.transpose(1, 2).flatten(2)))
        self._written += x.shape[1]
        return net.read(x[:, -1])


class _Layer:
    """A block that takes one position, in as few calls as can be: most of their time is the calling."""

    def __init__(self, block: Block, precision: Precision) -> None:
        attention = block.attention
        self.qkv = _Product(attention.qkv.weight, precision, attention.qkv.gain)
        self.out = _Product(attention.out.weight, precision)
        self.gate_up = _Product(block.gate_up.weight, precision, block.gate_up.gain)
        self.down = _Product(block.down.weight, precision)
        self.heads, self.groups, self.width = attention.heads, attention.key_value_heads, attention.head_width
        weight = attention.qkv.weight
        self.epsilons = (
            weight.new_tensor(math.sqrt(weight.shape[1] * EPSILON)),
            weight.new_tensor(math.sqrt(self.width * EPSILON)),
        )

    def step(self, x: Tensor, turn: Tensor, cache: Tensor) -> None:
        """Change the stream `[n, width]` in place; the last of the cache's keys and values
        `[2, n, groups, t, head width]` are those of this position, to be written.
        """
        n, (epsilon, head_epsilon) = len(x), self.epsilons
        qkv = self.qkv(_unit(x, epsilon)).view(n, -1, self.width)
        qk, v = torch.split(qkv, [self.heads + self.groups, self.groups], dim=1)
        pairs = torch.view_as_complex(_unit(qk, head_epsilon).view(n, -1, self.width // 2, 2))
        turned = torch.view_as_real(pairs.mul_(turn)).flatten(2)
        q, k = torch.split(turned, [self.heads, self.groups], dim=1)
        keys, values = cache.unbind()
        keys[:, :, -1] = k
        values[:, :, -1] = v
        # The queries of one key head stand as if they were places: none is hidden from any.
        q = q.reshape(n, self.groups, -1, self.width).to(cache.dtype)
        if cache.dtype == torch.bfloat16:
            attended = F.scaled_dot_product_attention(q, keys, values, scale=1.0)
        else:
            attended = torch.softmax(q @ keys.transpose(2, 3), dim=-1) @ values
        self.out.add_to(x, attended.reshape(n, -1))
        gate, up = self.gate_up(_unit(x, epsilon)).chunk(2, dim=-1)
        self.down.add_to(x, F.silu(gate).mul_(up))


class _Product:
    """x · Wᵀ for weights `[outputs, inputs]`, kept as the processor multiplies them fastest.

    gain: of the norm before it, whose √width goes with it: x then is the unit vector.
    """

    def __init__(self, weight: Tensor, precision: Precision, gain: Tensor | None = None) -> None:
        matrix = weight.t() if gain is None else weight.t() * (gain * math.sqrt(len(gain)))[:, None]
        self.reduced = precision == "bfloat16"
        self.matrix = matrix.to(torch.bfloat16 if self.reduced else weight.dtype).contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        if self.reduced:
            return torch.mm(x.bfloat16(), self.matrix)
        return torch.mm(x, self.matrix)

    def add_to(self, stream: Tensor, x: Tensor) -> None:
        """stream += x · Wᵀ."""
        if self.reduced:
            stream += torch.mm(x.bfloat16(), self.matrix)
        else:
            stream.addmm_(x, self.matrix)


def _cache_dtype(prefix: Tensor, precision: Precision) -> torch.dtype:
    """What keys and values are kept in: half as many bytes to read where bfloat16 attends as fast. Without
    tiles (AMX), one query takes a processor four times as long in bfloat16 as in float32.
    """
    quick = prefix.device.type != "cpu" or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if precision == "bfloat16" and quick else prefix.dtype


def _unit(x: Tensor, epsilon: Tensor) -> Tensor:
    """x / √(‖x‖² + ε²) along the last axis, in the precision of ε."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=epsilon.dtype)
    return x / length.hypot_(epsilon)


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
