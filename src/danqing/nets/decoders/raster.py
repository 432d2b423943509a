"""Writes codes one after another, and computes each position of the sequence once.

`families.transformer.generate` runs the network over all N positions for each of N codes. This decoder caches
keys and values, so that a step runs it over one position: N times less work, and the same logits.

A step is then some forty calls per block on few numbers, and reads every weight. It is fast where calls are
few, where weights lie as the processor multiplies them, and where they take half the bytes (bfloat16).
"""

import math
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.nets.decoders.contract import Block, Transformer
from danqing.nets.decoders.layout_cache import cached_layout
from danqing.nets.decoders.products import product, unit
from danqing.nets.layers import RMS_EPSILON
from danqing.precision import Precision


class RasterDecoder:
    """Computes the logits of the next code; caches keys and values.

    logits: `[n, vocabulary]` float32, of the next code.
    transformer: its weights are read when the decoder is made.
    prefix: `[n, p, width]`.
    precision: of products with weights, and of attention where that is faster.
    """

    @torch.no_grad()
    def __init__(self, transformer: Transformer, prefix: Tensor, precision: Precision) -> None:
        self._shape = shape = transformer.shape
        self._written = 0
        length, width = shape.prefix + shape.codes, shape.head_width
        cache = torch.empty(
            (2, shape.layers, len(prefix) * shape.key_value_heads, length * width),
            device=prefix.device,
            dtype=_cache_dtype(prefix, precision, shape.heads // shape.key_value_heads),
        )
        self._keys, self._values = cache.view(*cache.shape[:3], length, width)
        if cache.dtype != torch.bfloat16:  # keys lie in columns, as queries are multiplied by them fastest
            self._keys = cache[0].view(*cache.shape[1:3], width, length).mT
        self._table = transformer.embedding.weight
        self._places = transformer.places()
        n = len(prefix)
        weights = cached_layout(
            transformer, ("raster", n, precision), lambda: _RasterWeights(transformer, n, precision)
        )
        self._layers, self._head = weights.layers, weights.head
        self._epsilon = prefix.new_tensor(math.sqrt(shape.width * RMS_EPSILON))
        self.logits = self._begin(transformer, prefix + transformer.prefix)

    @torch.no_grad()
    def extend(self, codes: Tensor) -> Tensor:
        """Take the next code of each image; return the next logits.

        codes: `[n]`.
        """
        shape, number = self._shape, self._written
        x = F.embedding(codes + number % shape.depth * (shape.vocabulary + 1), self._table)
        x += self._places[number + 1]
        seen = shape.prefix + number + 1
        keys, values = self._keys[:, :, :seen].unbind(), self._values[:, :, :seen].unbind()
        for layer, *cache in zip(self._layers, keys, values, strict=True):
            layer.step(x, *cache)
        self._written += 1
        self.logits = self._head(unit(x, self._epsilon)).float()
        return self.logits

    def _begin(self, transformer: Transformer, x: Tensor) -> Tensor:
        """Take the prefix `[n, p, width]` in one pass; return the logits of the first code."""
        positions = x.shape[1]
        rotations = transformer.raster_rotations()[:, :positions]
        for module, keys, values in zip(transformer.blocks, self._keys, self._values, strict=True):
            block = cast(Block, module)
            q, k, v = block.attention.project(x, rotations)
            keys[:, :positions], values[:, :positions] = k.flatten(0, 1), v.flatten(0, 1)
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=True)
            x = block.feed(x + block.attention.out(attended.transpose(1, 2).flatten(2)))
        return transformer.read(x[:, -1])


class _RasterWeights:
    """All weights that a step multiplies by."""

    def __init__(self, transformer: Transformer, n: int, precision: Precision) -> None:
        rotations = transformer.raster_rotations()
        self.layers = [
            _RasterBlock(cast(Block, block), n, precision, rotations) for block in transformer.blocks
        ]
        self.head = product(transformer.head.weight, n, precision, transformer.head.gain)


class _RasterBlock:
    """A block that takes one position.

    The queries of a key head, its key and its value stand together, so that none has to be moved before it is
    multiplied.
    """

    def __init__(self, block: Block, n: int, precision: Precision, rotations: Tensor) -> None:
        attention = block.attention
        heads, self.groups, self.width = attention.heads, attention.key_value_heads, attention.head_width
        numbers = torch.arange(heads + 2 * self.groups)
        order = torch.cat([numbers[:heads].view(self.groups, -1), numbers[heads:].view(2, -1).t()], dim=1)
        weight = attention.qkv.weight.view(-1, self.width, attention.qkv.weight.shape[1])[order].flatten(0, 2)
        self.qkv = product(weight, n, precision, attention.qkv.gain)
        self.out = product(attention.out.weight, n, precision)
        self.gate_up = product(block.gate_up.weight, n, precision, block.gate_up.gain)
        self.down = product(block.down.weight, n, precision)
        # [t, key heads, queries and key, head width / 2]
        self.rotations = attention.scaled_rotations(rotations)[:, order[:, :-1]]
        self.epsilon = weight.new_tensor(math.sqrt(weight.shape[1] * RMS_EPSILON))
        self.head_epsilon = weight.new_tensor(math.sqrt(self.width * RMS_EPSILON))

    def step(self, x: Tensor, keys: Tensor, values: Tensor) -> None:
        """Add to the residual stream `[n, width]` in place.

        keys, values: `[n · groups, t, head width]`; the last of the t are written here, for this position.
        """
        n, rotation = len(x), self.rotations[keys.shape[1] - 1]
        heads = self.qkv(unit(x, self.epsilon)).view(n, self.groups, -1, self.width)
        units = unit(heads[:, :, :-1].to(self.rotations.real.dtype), self.head_epsilon)
        pairs = torch.view_as_complex(units.view(n, *rotation.shape, 2))
        rotated = torch.view_as_real(pairs.mul_(rotation)).view(len(keys), -1, self.width)
        queries, keys[:, -1] = rotated[:, :-1].to(keys.dtype), rotated[:, -1]
        values[:, -1] = heads[:, :, -1].flatten(0, 1)
        if keys.dtype == torch.bfloat16:
            attended = F.scaled_dot_product_attention(queries[None], keys[None], values[None], scale=1.0)
        else:
            attended = torch.bmm(torch.softmax(torch.bmm(queries, keys.mT), dim=-1), values)
        x += self.out(attended.reshape(n, -1))
        gate, up = self.gate_up(unit(x, self.epsilon)).view(n, 2, -1).unbind(1)
        x += self.down(F.silu(gate).mul_(up))


def _cache_dtype(prefix: Tensor, precision: Precision, sharing: int) -> torch.dtype:
    """Return the number format of cached keys and values, each read by `sharing` queries.

    bfloat16 is faster to read, float32 faster to multiply. On a processor the multiplication decides where
    keys are shared, and everywhere if it has no matrix tiles (AMX).
    """
    if prefix.device.type == "cpu" and (sharing > 1 or not torch.cpu._is_amx_tile_supported()):
        return prefix.dtype
    return torch.bfloat16 if precision == "bfloat16" else prefix.dtype
