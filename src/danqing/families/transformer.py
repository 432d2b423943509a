"""A transformer that writes an image code by code, as a language model writes words (Esser et al. 2021).

This file is the whole model, to be read from top to bottom:

1. Configuration. A tokenizer, trained before, turns an image into a grid of codes (whole numbers), and codes
   into an image. Without a tokenizer, the codes are the pixels.
2. Prefix (in `prefix.py`). What the image should show, a label or a text, and attributes, becomes a few
   vectors that stand before the codes.
3. Blocks. A residual stream of vectors, one per position, to which attention and feed-forward networks add.
4. Network. Prefix and codes in, logits of every code out, each from the codes that come before it.
5. Loss. The cross-entropy of the codes of real images.
6. Generation. Draw a code from its logits, append it, repeat.

There are two orders. In order `raster` codes are written row by row, each from all codes before it, so that
p(image) = Π p(code_i | prefix, code_1 ... code_i-1). In order `masked` many codes are written per step, each
from the codes of earlier steps (Chang et al. 2022): less exact, and much faster.

`transformer_sampling.py` adds what a trained model offers: sampling with options, filling, variations. Its
decoders, in `nets/decoders/`, write the same codes as `generate` and `generate_masked` below, and are fast.
"""

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.families.base import Batch, Losses, Phase
from danqing.families.decoding import Sampling, guide
from danqing.families.masked_order import given_in_training, known_when_written, spread
from danqing.families.prefix import EMBEDDING_SCALE, Prefix
from danqing.families.tokenizers import CodeStage, TwoStageConfig, build_tokenizer
from danqing.nets.attention import attend, grid_rotations, rotate_unit
from danqing.nets.decoders.contract import TransformerShape
from danqing.nets.layers import RMS_EPSILON
from danqing.nets.recomputing import Recomputes

MOST_PIXELS = 8192  # of one image: writing more, one by one, would take hours
TRAINED_STEPS = (8, 17)  # the fewest steps that masked order is trained for, and one more than the most
GIVEN = 0.2  # share of the images from which masked order learns to fill, rather than to write all codes


# 1. Configuration
class TransformerConfig(TwoStageConfig):
    """Settings of a transformer, besides those of its condition and its tokenizer.

    features: the width of the residual stream. heads: of attention, which share key_value_heads keys and
    values; 0 is one for each. guidance_scale: the default of sampling. label_smoothing: of the targets.
    noise: the share of codes replaced by random ones where they are read, in raster order, so that the model
    learns to go on after a wrong code.
    """

    family: Literal["transformer"] = "transformer"
    order: Literal["raster", "masked"] = "raster"
    layers: int = Field(6, ge=1, le=128)
    features: int = Field(256, ge=8, le=16384)
    heads: int = Field(8, ge=1, le=256)
    key_value_heads: int = Field(0, ge=0, le=256)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    noise: float = Field(0.0, ge=0, lt=1)
    guidance_scale: float = Field(1.0, ge=0, le=100)

    @property
    def why_not_private(self) -> str:
        if self.order == "masked":
            return "Masked order draws one number of steps for all images of a batch: set order=raster."
        return ""

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if self.features % (4 * self.heads):
            raise ValueError("features must be a multiple of four times heads")
        if self.key_value_heads and self.heads % self.key_value_heads:
            raise ValueError("heads must be a multiple of key_value_heads")
        if self.tokenizer is None and self.dimensions > MOST_PIXELS:
            raise ValueError(
                f"an image of {self.dimensions} pixel values is too long to write one by one: give it a "
                "tokenizer, as the preset text2image-32 does, or a smaller size"
            )
        return self


# 3. Blocks
class NormedLinear(nn.Module):
    """A linear layer with RMSNorm before it.

    W (g · RMSNorm(x)) with RMSNorm(x) = x / √(mean(x²) + ε) (Zhang and Sennrich 2019).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(inputs))
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.normal_(self.weight, std=inputs**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.rms_norm(x, x.shape[-1:], eps=RMS_EPSILON), self.weight * self.gain)


def into_stream(shape: TransformerShape, inputs: int) -> nn.Linear:
    """Return a matrix whose output is added to the stream.

    It starts small, so that the stream stays as large as it was (Radford et al. 2019, section 2.3).
    """
    linear = nn.Linear(inputs, shape.width, bias=False)
    nn.init.normal_(linear.weight, std=(2 * shape.layers * inputs) ** -0.5)
    return linear


class Attention(nn.Module):
    """Self-attention: softmax(q kᵀ) v over the positions that each position sees.

    Queries and keys are unit vectors (Henry et al. 2020), rotated by their positions, so that their product
    depends on how far apart they are. Groups of queries share a key and a value (Ainslie et al. 2023).

    gain: `[heads, head width / 2]`, the weight of each pair of a query. One for keys too would be redundant,
    and one for each number of a pair would not commute with the rotation.
    """

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.heads, self.key_value_heads = shape.heads, shape.key_value_heads
        self.head_width = shape.head_width
        self.qkv = NormedLinear(shape.width, (self.heads + 2 * self.key_value_heads) * self.head_width)
        self.gain = nn.Parameter(torch.ones(self.heads, self.head_width // 2))
        self.out = into_stream(shape, self.heads * self.head_width)

    def scaled_rotations(self, rotations: Tensor) -> Tensor:
        """Scale the rotations of queries and keys.

        rotations: `[2, t, d / 2]`, of queries and of keys.
        Returns factors `[t, heads + key heads, d / 2]`. √d makes products of random unit vectors about
        standard normal.
        """
        queries = rotations[0][:, None] * (self.gain * math.sqrt(self.head_width))
        return torch.cat([queries, rotations[1][:, None].expand(-1, self.key_value_heads, -1)], dim=1)

    def project(self, x: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project the stream to queries, keys and values, `[n, heads, t, d]`.

        x: the stream `[n, t, width]`.
        """
        qkv = self.qkv(x).view(*x.shape[:2], -1, self.head_width)  # [n, t, heads + 2 · key heads, d]
        qk, v = torch.split(qkv, [self.heads + self.key_value_heads, self.key_value_heads], dim=2)
        qk = rotate_unit(qk, self.scaled_rotations(rotations))  # [n, heads + key heads, t, d]
        q, k = torch.split(qk, [self.heads, self.key_value_heads], dim=1)
        return q, k, v.transpose(1, 2)

    def forward(self, x: Tensor, rotations: Tensor, seen: Tensor | None = None, start: int = 0) -> Tensor:
        """Return what positions from `start` on read, `[n, t - start, width]`.

        seen: bool `[n, t - start, s]`, which of the first s positions each sees; None is all before it.
        """
        q, k, v = self.project(x, rotations)
        if seen is not None:
            q, k, v = q[:, :, start:], k[:, :, : seen.shape[2]], v[:, :, : seen.shape[2]]
        heads = attend(q, k, v, seen)  # [n, heads, t - start, d]
        out: Tensor = self.out(heads.transpose(1, 2).flatten(2))  # [n, t - start, width]
        return out


class Block(Recomputes):
    """Attention and a feed-forward network, which add to the stream.

    x + attention(norm(x)), then x + down(silu(gate(norm(x))) · up(norm(x))): SwiGLU (Shazeer 2020).
    """

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.gate_up = NormedLinear(shape.width, 2 * shape.hidden)
        self.down = into_stream(shape, shape.hidden)

    def forward(self, x: Tensor, rotations: Tensor, seen: Tensor | None = None, start: int = 0) -> Tensor:
        """Return the stream `[n, t - start, width]` from position `start` on."""
        return self.feed(x[:, start:] + self.attention(x, rotations, seen, start))

    def feed(self, x: Tensor) -> Tensor:
        """Add the feed-forward network."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)  # [n, t, hidden] each
        out: Tensor = x + self.down(F.silu(gate) * up)
        return out


# 4. Network
class Transformer(nn.Module):
    """The network: a prefix and codes in, logits of codes out.

    A prefix is `[n, p, width]`, codes are int64 `[n, N]`, logits float32 `[n, N, vocabulary]`. The N codes
    are those of the grid, row by row, place by place, `depth` at each place.
    """

    rotations: Tensor

    def __init__(self, shape: TransformerShape) -> None:
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
        with torch.device("cpu"):  # on any device of the weights: no file holds these
            place = torch.arange(-shape.prefix, shape.codes).clamp(min=0) // shape.depth  # [p + N]
            rotations = grid_rotations(place // shape.columns, place % shape.columns, shape.head_width)
            self.register_buffer("rotations", rotations, persistent=False)

    def forward(self, prefix: Tensor, codes: Tensor) -> Tensor:
        """Compute the logits of each code from those before it.

        This is raster order. Position i holds code i - 1 and writes code i; the last position of the prefix
        writes the first code.
        """
        x = torch.cat([prefix + self.prefix, self.embed(codes[:, :-1], 0, 1)], dim=1)  # [n, p + N - 1, width]
        rotations = self.raster_rotations()[:, : x.shape[1]]
        for block in self.blocks:
            x = block(x, rotations)
        return self.read(x[:, self.shape.prefix - 1 :])

    def parallel(self, prefix: Tensor, codes: Tensor, ranks: Tensor, before: Tensor) -> Tensor:
        """Compute the logits of each code from those known before it.

        ranks: `[n, N]`, the place of each code in the order of writing, which may be any.
        before: `[n, N]`, how many codes are known when each is written; at most its rank.

        Each code stands in the sequence twice (two streams, Yang et al. 2019, section 2.3). As itself it sees
        itself and the codes known before it, and is seen. As a question it sees the codes known when it is
        written, and is not seen. The prefix sees itself, and all see the prefix.
        """
        count, codes_count = self.shape.prefix, self.shape.codes
        seen = torch.cat([ranks[:, None] <= ranks[:, :, None], ranks[:, None] < before[:, :, None]], dim=1)
        seen = F.pad(seen, (0, 0, count, 0), value=False)
        seen = F.pad(seen, (count, 0), value=True)  # [n, p + 2N, p + N]
        unknown = torch.full_like(codes, self.shape.vocabulary)
        x = torch.cat([prefix + self.prefix, self.embed(codes, 0, 0), self.embed(unknown, 0, 0)], dim=1)
        held = torch.view_as_complex(self.rotations)
        rotations = torch.cat([held, held[count:]]).expand(2, -1, -1)  # [2, p + 2N, head width / 2]
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x, rotations, seen)
        questions = count + codes_count
        return self.read(last(x, rotations, seen[:, questions:], questions))

    def raster_rotations(self) -> Tensor:
        """Return the rotations of queries and keys in raster order.

        They are complex, `[2, p + N, head width / 2]`. A query rotates to the place that it writes, a key to
        the place that it holds. Then "the code above the one that I write" is the same rotation everywhere,
        even at the edges.
        """
        held = torch.view_as_complex(self.rotations)
        return torch.stack([torch.cat([held[1:], held[-1:]]), held])

    def places(self) -> Tensor:
        """Return the learned vector of each code's place, `[N, width]`."""
        return (self.row + self.column + self.index).flatten(0, 2)  # from [rows, columns, depth, width]

    def embed(self, codes: Tensor, first: int, ahead: int) -> Tensor:
        """Turn codes `[n, m]` into vectors `[n, m, width]`.

        first: the number of the first of them. ahead: how much further on the code is that each writes.
        """
        stop = first + codes.shape[1]
        depths = torch.arange(first, stop, device=codes.device) % self.shape.depth
        vectors: Tensor = self.embedding(codes + depths * (self.shape.vocabulary + 1))
        return vectors + self.places()[first + ahead : stop + ahead]

    def read(self, x: Tensor) -> Tensor:
        """Turn the stream into logits."""
        logits: Tensor = self.head(x).float()
        return logits


# 5. Loss
class TransformerLearner(CodeStage):
    """Tokenizer, prefix and network, and how they learn."""

    config: TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = build_tokenizer(config.tokenizer, config)
        self.prefix = Prefix(config, config.features)
        shared = config.key_value_heads or config.heads
        sizes = (config.features, config.layers, config.heads, shared, self.prefix.length)
        self.net = Transformer(TransformerShape(self.codec.vocabulary, *self.codec.code_shape, *sizes))

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("transformer", ("prefix", "net")),)

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        """Compute the cross-entropy of codes given those known before them.

        It is in nats per code.
        """
        codes = self.codes_of(batch)
        if self.config.order == "raster":
            logits = self._raster_logits(batch, codes, rng).flatten(0, 1)  # [n · N, vocabulary]
            return self._cross_entropy(logits, codes.flatten())
        logits, written = self._masked_logits(batch, codes, rng)
        return self._cross_entropy(logits[written], codes[written])

    def _raster_logits(self, batch: Batch, codes: Tensor, rng: torch.Generator) -> Tensor:
        """Compute logits `[n, N, vocabulary]` of all codes in one pass, each from the codes before it."""
        if self.config.noise:
            wrong = torch.rand(codes.shape, generator=rng, device=rng.device) < self.config.noise
            others = torch.randint(self.codec.vocabulary, codes.shape, generator=rng, device=rng.device)
            codes = torch.where(wrong, others, codes)
        logits: Tensor = self.net(self._prefix_with_dropout(batch, rng), codes)
        return logits

    def _masked_logits(self, batch: Batch, codes: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Compute logits `[n, N, vocabulary]` as sampling in some number of steps would.

        Also returns which codes it would write, `[n, N]`: in some images a part is given, as in filling.
        """
        shape = self.codec.code_shape
        given = given_in_training(*shape, len(codes), GIVEN, rng)  # [n, N]
        ranks = (spread(*shape).to(codes.device) + ~given).argsort(1).argsort(1)  # given codes come first
        num_steps = int(torch.randint(*TRAINED_STEPS, (), generator=rng, device=rng.device))
        before = known_when_written(ranks, given.sum(1), num_steps)
        return self.net.parallel(self._prefix_with_dropout(batch, rng), codes, ranks, before), ~given

    def _prefix_with_dropout(self, batch: Batch, rng: torch.Generator) -> Tensor:
        absent = torch.rand(len(batch), generator=rng, device=rng.device) < self.config.condition_dropout
        prefix: Tensor = self.prefix(batch.condition, absent)
        return prefix

    def _cross_entropy(self, logits: Tensor, codes: Tensor) -> Losses:
        """Average over codes `[m]` under logits `[m, vocabulary]`."""
        logs = F.log_softmax(logits.float(), -1)
        nll, smooth = F.nll_loss(logs, codes), self.config.label_smoothing
        total = nll if not smooth else (1 - smooth) * nll - smooth * logs.mean()
        with torch.no_grad():
            logged = {"nll": nll.detach(), "accuracy": (logs.argmax(-1) == codes).float().mean()}
            if self.config.tokenizer is None and self.config.order == "raster":
                logged["bits_per_dim"] = nll.detach() / math.log(2)
        return Losses(total, logged)


# 6. Generation
@torch.no_grad()
def generate(net: Transformer, prefix: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
    """Write codes int64 `[n, N]` in raster order.

    The network runs once for each code.

    prefix: `[n, p, width]`; with guidance `[2n, p, width]`, under the condition, then without it.
    uniforms: `[n, N]` in [0, 1), the random numbers of each image.
    """
    codes = torch.zeros(uniforms.shape, dtype=torch.int64)  # [n, N]: a code is read once it is written
    for i in range(codes.shape[1]):
        read = codes.repeat(len(prefix) // len(codes), 1)  # [n, N], guided [2n, N]
        logits = net(prefix, read)[:, i]  # [n, N, vocabulary] -> [n, vocabulary], guided [2n, vocabulary]
        if sampling.is_guided:
            logits = guide(logits, sampling.guidance(i / max(codes.shape[1] - 1, 1)))  # [n, vocabulary]
        codes[:, i] = sampling.choose(logits, uniforms[:, i])  # [n]
    return codes


@torch.no_grad()
def generate_masked(
    net: Transformer, prefix: Tensor, uniforms: Tensor, sampling: Sampling, num_steps: int
) -> Tensor:
    """Write codes int64 `[n, N]` in masked order.

    The network runs once for each step. Arguments are those of `generate`, and the number of steps.
    """
    shape, codes = net.shape, torch.zeros(uniforms.shape, dtype=torch.int64)  # [n, N]
    ranks = spread(shape.rows, shape.columns, shape.depth).argsort().argsort().expand_as(codes)  # [n, N]
    before = known_when_written(ranks, torch.zeros(len(codes), dtype=torch.int64), num_steps)  # [n, N]
    for step, known in enumerate(before.unique()):  # ascending: how many codes are known at each step
        inputs = (each.repeat(len(prefix) // len(codes), 1) for each in (codes, ranks, before))
        logits = net.parallel(prefix, *inputs)  # [n, N, vocabulary], guided [2n, N, vocabulary]
        if sampling.is_guided:
            logits = guide(logits, sampling.guidance(step / max(num_steps - 1, 1)))  # [n, N, vocabulary]
        codes = torch.where(before == known, sampling.choose(logits, uniforms), codes)
    return codes
