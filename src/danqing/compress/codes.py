"""The plan for transformers of either order: a step with its cache, and a decoder from codes to images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.compress.one_shot import decoder_of
from danqing.compress.plan import ConditionPorts, GraphPlan, Plan, Size, own_size
from danqing.compress.runtime.manifest import Codes, Port
from danqing.errors import ModelError
from danqing.families.masked_order import spread
from danqing.families.tokenizers import PixelCodes
from danqing.families.transformer import Block, Transformer
from danqing.families.transformer_sampling import TransformerFamily
from danqing.families.vqvae import VQVAE
from danqing.nets.attention import rotate
from danqing.nets.layers import RMS_EPSILON

_CACHED, _ENTERING, _REQUESTED = 6, 3, 5
"""Codes in the examples of a step, all different, so that no two axes are taken for one."""


class _CachedBlock(nn.Module):
    """A block that reads earlier positions from a cache, without complex numbers.

    rotations: complex `[2, t, d / 2]`, of the queries and the keys at all positions.
    """

    rotations: Tensor

    def __init__(self, block: Block, rotations: Tensor) -> None:
        super().__init__()
        self.block = block
        pairs = torch.view_as_real(block.attention.scaled_rotations(rotations).detach())
        self.register_buffer("rotations", pairs.contiguous(), persistent=False)  # [t, heads, d / 2, 2]

    def heads(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries `[n, t, heads, d]`, and keys and values `[n, t, 2 · key heads, d]`.

        x: the stream `[n, t, width]`. positions: `[t]`.
        """
        attention = self.block.attention
        width, rotating = attention.head_width, attention.heads + attention.key_value_heads
        qkv = attention.qkv(x).unflatten(2, (-1, width))
        units = F.rms_norm(qkv[:, :, :rotating], (width,), eps=RMS_EPSILON) * width**-0.5
        turned = rotate(units, self.rotations[positions]).transpose(1, 2)
        return turned[:, :, : attention.heads], torch.cat(
            [turned[:, :, attention.heads :], qkv[:, :, rotating:]], 2
        )

    def step(
        self, x: Tensor, positions: Tensor, before: Tensor | None, entering: int, seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the stream `[n, t, width]` after the block, and the cache after it."""
        queries, entries = self.heads(x, positions)
        cache = entries[:, :entering]
        if before is not None:
            cache = torch.cat([before, cache], 1)
        attention = self.block.attention
        groups, share = attention.key_value_heads, attention.heads // attention.key_value_heads
        q = queries.unflatten(2, (groups, share)).permute(0, 2, 3, 1, 4)  # [n, groups, share, t, d]
        keys, values = cache.permute(0, 2, 1, 3)[:, :, None].chunk(2, dim=1)  # [n, groups, 1, s, d] each
        scores = (q @ keys.transpose(3, 4)).masked_fill(~seen, -torch.inf)
        read = (scores.softmax(-1) @ values).permute(0, 3, 1, 2, 4).flatten(2)  # [n, t, heads · d]
        return self.block.feed(x + attention.out(read)), cache


class _Network(nn.Module):
    """What all graphs of a transformer share.

    rotations: complex `[2, p + N, d / 2]`, of the queries and the keys at all positions.
    """

    places: Tensor

    def __init__(self, net: Transformer, rotations: Tensor) -> None:
        super().__init__()
        self.net, self.shape = net, net.shape
        self.layers = nn.ModuleList(_CachedBlock(block, rotations) for block in net.blocks)  # type: ignore[arg-type]
        self.register_buffer("places", net.places().detach().clone(), persistent=False)

    def through(
        self, x: Tensor, positions: Tensor, cache: Tensor | None, entering: int, seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run all blocks; return the stream and the cache `[n, layers, s, 2 · key heads, d]`."""
        entries = []
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, _CachedBlock)
            before = None if cache is None else cache[:, number]
            x, entry = layer.step(x, positions, before, entering, seen)
            entries.append(entry)
        return x, torch.stack(entries, 1)

    def embedded(self, codes: Tensor, places: Tensor, ahead: int) -> Tensor:
        """Turn codes `[n, t]` at some places `[t]` into vectors; ahead: as of `Transformer.embed`."""
        rows = codes + places % self.shape.depth * (self.shape.vocabulary + 1)
        vectors: Tensor = self.net.embedding(rows)
        return vectors + self.places[places + ahead]


class _Begin(nn.Module):
    """A condition in, the cache of the prefix out; in raster order after the logits of the first code.

    `count` stands for a batch where there is no condition: its length counts.
    """

    def __init__(self, family: TransformerFamily, network: _Network, given: ConditionPorts) -> None:
        super().__init__()
        self.prefix, self.network, self._given = family.prefix, network, given
        self._is_raster = family.config.order == "raster"

    def forward(self, count: Tensor, *condition: Tensor) -> tuple[Tensor, ...]:
        named = self._given.named(condition)
        nobody = torch.zeros_like(count, dtype=torch.bool)
        x = self.prefix.of_encoded(
            self._given.condition(condition),
            named.get("tokens"),
            named.get("absent", nobody),
            named.get("blank", nobody),
        )
        x, length = x + self.network.net.prefix, self.network.shape.prefix
        seen = torch.ones(length, length, dtype=torch.bool)
        x, cache = self.network.through(
            x, torch.arange(length), None, length, seen.tril() if self._is_raster else seen
        )
        return (self.network.net.read(x[:, -1]), cache) if self._is_raster else (cache,)


class _RasterStep(nn.Module):
    """The next code of each image and its place in, the logits of the code after it and the cache out."""

    def __init__(self, network: _Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, codes: Tensor, place: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        x = self.network.embedded(codes[:, None], place, 1)
        seen = torch.ones(1, cache.shape[2] + 1, dtype=torch.bool)
        x, cache = self.network.through(x, place + self.network.shape.prefix, cache, 1, seen)
        return self.network.net.read(x[:, 0]), cache


class _MaskedStep(nn.Module):
    """Codes that have become known in, the logits of requested places and the cache out."""

    def __init__(self, network: _Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, codes: Tensor, entering: Tensor, requested: Tensor, cache: Tensor
    ) -> tuple[Tensor, Tensor]:
        count, held = entering.shape[0], cache.shape[2]
        unknown = torch.full_like(requested, self.network.shape.vocabulary).expand(codes.shape[0], -1)
        places = torch.cat([entering, requested])
        x = self.network.embedded(torch.cat([codes, unknown], 1), places, 0)
        # A known code sees itself and those before it, a requested place all that are known.
        columns, rows = torch.arange(held + count), torch.arange(count + requested.shape[0])
        seen = columns <= (rows + held)[:, None]
        x, cache = self.network.through(x, places + self.network.shape.prefix, cache, count, seen)
        return self.network.net.read(x[:, count:]), cache


def of_transformer(family: TransformerFamily) -> Plan:
    """Return the plan of a transformer; raises ModelError where it has none."""
    config, net = family.config, family.net
    is_raster, tokenizer = config.order == "raster", family.tokenizer
    rotations = (
        net.raster_rotations() if is_raster else torch.view_as_complex(net.rotations).expand(2, -1, -1)
    )
    network = _Network(net, rotations)
    given = ConditionPorts(config, label=config.reads_labels, attributes=config.reads_attributes, absent=True)
    graphs = {"begin": _begin(family, network, given), "step": _step(network, is_raster=is_raster)}
    if isinstance(tokenizer, VQVAE):
        graphs["decode"] = decoder_of(tokenizer)
    elif not isinstance(tokenizer, PixelCodes):
        raise ModelError(f"The tokenizer {type(tokenizer).__name__} cannot be exported.")
    options = dict(family.sample_defaults())
    options.pop("precision")
    shape = family.codec.code_shape
    loop = Codes(
        kind="raster" if is_raster else "masked",
        shape=shape,
        vocabulary=family.codec.vocabulary,
        are_pixels="decode" not in graphs,
        order=() if is_raster else tuple(spread(*shape).argsort().tolist()),
        has_condition=family.guidance_rules.has_condition,
        has_dropout=family.guidance_rules.has_dropout,
    )
    return Plan(loop, graphs, own_size(config), options, given.text)


def _begin(family: TransformerFamily, network: _Network, given: ConditionPorts) -> GraphPlan:
    def examples(batch: int, size: Size, rng: torch.Generator) -> tuple[Tensor, ...]:
        return torch.zeros(batch), *given.examples(batch, rng)

    count = Port(name="count", dtype="float32", shape=("n",))
    outputs = (*_logits(network, ("n",))[: family.config.order == "raster"], _cache(network, "cache"))
    return GraphPlan(_Begin(family, network, given).eval(), (count, *given.ports), outputs, examples)


def _step(network: _Network, *, is_raster: bool) -> GraphPlan:
    shape = network.shape

    def cached(batch: int, rng: torch.Generator) -> Tensor:
        size = (batch, shape.layers, shape.prefix + _CACHED, 2 * shape.key_value_heads, shape.head_width)
        return torch.randn(size, generator=rng)

    def raster(batch: int, size: Size, rng: torch.Generator) -> tuple[Tensor, ...]:
        codes = torch.randint(shape.vocabulary, (batch,), generator=rng)
        return codes, torch.tensor([min(_CACHED, shape.codes - 2)]), cached(batch, rng)

    def masked(batch: int, size: Size, rng: torch.Generator) -> tuple[Tensor, ...]:
        codes = torch.randint(shape.vocabulary, (batch, _ENTERING), generator=rng)
        entering, requested = (
            torch.randint(shape.codes, (count,), generator=rng) for count in (_ENTERING, _REQUESTED)
        )
        return codes, entering, requested, cached(batch, rng)

    places = [Port(name=name, dtype="int64", shape=(axis,)) for name, axis in _PLACES]
    if is_raster:
        codes = Port(name="codes", dtype="int64", shape=("n",))
        place = Port(name="place", dtype="int64", shape=(1,))
        inputs: tuple[Port, ...] = (codes, place, _cache(network, "cache"))
        outputs = (*_logits(network, ("n",)), _cache(network, "extended", "s1"))
        return GraphPlan(_RasterStep(network).eval(), inputs, outputs, raster)
    codes = Port(name="codes", dtype="int64", shape=("n", "a"))
    inputs = (codes, *places, _cache(network, "cache"))
    outputs = (*_logits(network, ("n", "b")), _cache(network, "extended", "s1"))
    return GraphPlan(_MaskedStep(network).eval(), inputs, outputs, masked)


_PLACES = (("entering", "a"), ("requested", "b"))


def _cache(network: _Network, name: str, axis: str = "s") -> Port:
    """Return the port of keys and values of earlier positions, axis `s` of them."""
    shape = network.shape
    sides = ("n", shape.layers, axis, 2 * shape.key_value_heads, shape.head_width)
    return Port(name=name, dtype="float32", shape=sides)


def _logits(network: _Network, places: tuple[str, ...]) -> tuple[Port, ...]:
    return (Port(name="logits", dtype="float32", shape=(*places, network.shape.vocabulary)),)
