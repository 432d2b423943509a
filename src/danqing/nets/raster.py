"""Writes codes one after another.

A step is some forty calls per block on few numbers, and reads every weight: it is quick where calls are few,
where weights are laid out as the processor multiplies them, and where they take half the bytes.
"""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.nets.laid_out import laid_out
from danqing.nets.transformer import EPSILON, Block, Transformer
from danqing.precision import Precision


class RasterDecoder:
    """What a transformer says of the next code; it remembers the keys and values of all that came before.

    logits: `[n, vocabulary]` float32, of the next code. The cache is one allocation. Weights are those that
    the transformer has when the decoder is made. precision: of the products with weights, and of attention
    where that is quicker.
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
        self._places = (transformer.row + transformer.column + transformer.index).flatten(0, 2)
        n = len(prefix)
        weights = laid_out(transformer, ("raster", n, precision), lambda: _Weights(transformer, n, precision))
        self._layers, self._head = weights.layers, weights.head
        self._epsilon = prefix.new_tensor(math.sqrt(shape.width * EPSILON))
        self.logits = self._begin(transformer, prefix + transformer.prefix)

    @torch.no_grad()
    def extend(self, codes: Tensor) -> Tensor:
        """Take the next code of each image, `[n]`; returns the logits of the one after it."""
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
        """Take the prefix `[n, p, width]`, all at once."""
        positions = x.shape[1]
        turns = transformer.raster_turns()[:, :positions]
        for module, keys, values in zip(transformer.blocks, self._keys, self._values, strict=True):
            block = cast(Block, module)
            q, k, v = block.attention.project(x, turns)
            keys[:, :positions], values[:, :positions] = k.flatten(0, 1), v.flatten(0, 1)
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=True)
            x = block.feed(x + block.attention.out(attended.transpose(1, 2).flatten(2)))
        return transformer.read(x[:, -1])


class _Weights:
    """All that a step multiplies by."""

    def __init__(self, transformer: Transformer, n: int, precision: Precision) -> None:
        turns = transformer.raster_turns()
        self.layers = [_Layer(cast(Block, block), n, precision, turns) for block in transformer.blocks]
        self.head = product(transformer.head.weight, n, precision, transformer.head.gain)


class _Layer:
    """A block that takes one position. The queries of a key head, its key and its value stand together, so
    that none has to be moved before it is multiplied.
    """

    def __init__(self, block: Block, n: int, precision: Precision, turns: Tensor) -> None:
        attention = block.attention
        heads, self.groups, self.width = attention.heads, attention.key_value_heads, attention.head_width
        numbers = torch.arange(heads + 2 * self.groups)
        order = torch.cat([numbers[:heads].view(self.groups, -1), numbers[heads:].view(2, -1).t()], dim=1)
        weight = attention.qkv.weight.view(-1, self.width, attention.qkv.weight.shape[1])[order].flatten(0, 2)
        self.qkv = product(weight, n, precision, attention.qkv.gain)
        self.out = product(attention.out.weight, n, precision)
        self.gate_up = product(block.gate_up.weight, n, precision, block.gate_up.gain)
        self.down = product(block.down.weight, n, precision)
        self.turns = attention.turns(turns)[:, order[:, :-1]]  # [t, key heads, queries and key, width / 2]
        self.epsilon = weight.new_tensor(math.sqrt(weight.shape[1] * EPSILON))
        self.head_epsilon = weight.new_tensor(math.sqrt(self.width * EPSILON))

    def step(self, x: Tensor, keys: Tensor, values: Tensor) -> None:
        """Change the stream `[n, width]` in place; the last of the keys and values
        `[n · groups, t, head width]` are those of this position, to be written.
        """
        n, turn = len(x), self.turns[keys.shape[1] - 1]
        heads = self.qkv(unit(x, self.epsilon)).view(n, self.groups, -1, self.width)
        units = unit(heads[:, :, :-1].to(self.turns.real.dtype), self.head_epsilon)
        pairs = torch.view_as_complex(units.view(n, *turn.shape, 2))
        turned = torch.view_as_real(pairs.mul_(turn)).view(len(keys), -1, self.width)
        queries, keys[:, -1] = turned[:, :-1].to(keys.dtype), turned[:, -1]
        values[:, -1] = heads[:, :, -1].flatten(0, 1)
        if keys.dtype == torch.bfloat16:
            attended = F.scaled_dot_product_attention(queries[None], keys[None], values[None], scale=1.0)
        else:
            attended = torch.bmm(torch.softmax(torch.bmm(queries, keys.mT), dim=-1), values)
        x += self.out(attended.reshape(n, -1))
        gate, up = self.gate_up(unit(x, self.epsilon)).view(n, 2, -1).unbind(1)
        x += self.down(F.silu(gate).mul_(up))


def product(
    weight: Tensor, n: int, precision: Precision, gain: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """What multiplies `[n, inputs]` by weights `[outputs, inputs]`: to `[n, outputs]`, in `precision`.

    gain: of the norm before it, whose √inputs goes with it: what is multiplied is a unit vector.
    """
    if gain is not None:
        weight = weight * (gain * math.sqrt(len(gain)))
    if precision == "float32":
        matrix = weight.t().contiguous()
        return lambda x: torch.mm(x, matrix)
    weight = weight.bfloat16()
    if not packs(weight):
        return lambda x: F.linear(x.bfloat16(), weight)
    # torch.mm would lay the weights out anew at every call, which takes as long as to multiply by them.
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, n)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: cast(Tensor, multiply(x.bfloat16(), packed, None, "none", [], ""))


def packs(weight: Tensor) -> bool:
    """Whether the processor multiplies by weights in bfloat16 that were laid out for it beforehand."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _cache_dtype(prefix: Tensor, precision: Precision, sharing: int) -> torch.dtype:
    """What keys and values are kept in, where `sharing` queries meet each. Half the bytes are read quicker,
    but float32 is quicker to multiply: for a processor that counts where a key is used more than once, and
    everywhere if it has no tiles (AMX).
    """
    if prefix.device.type == "cpu" and (sharing > 1 or not torch.cpu._is_amx_tile_supported()):
        return prefix.dtype
    return torch.bfloat16 if precision == "bfloat16" else prefix.dtype


def unit(x: Tensor, epsilon: Tensor) -> Tensor:
    """x / √(‖x‖² + ε²) along the last axis, in the precision of ε."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=epsilon.dtype)
    return x / length.hypot_(epsilon)
