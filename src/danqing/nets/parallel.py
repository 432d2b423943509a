"""Writes many codes at a step, in any order.

A code that is not yet known is never a key, and a known one sees only those that were known before it. What
is likely at a place then follows from the known codes alone, whatever else is asked for beside it: a step
computes the places that it writes and no others. And keys and values of a known code are computed once: an
image costs less than two passes over all of it, in however many steps.
"""

import math
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.nets.fused import EPSILON, lengths
from danqing.nets.transformer import Block, Transformer
from danqing.precision import Precision


class ParallelDecoder:
    """What `Transformer.parallel` says of the places that it is asked for; it remembers what it was given.

    The cache is one allocation. Weights are read once, when the decoder is made.
    """

    @torch.no_grad()
    def __init__(self, transformer: Transformer, prefix: Tensor, precision: Precision) -> None:
        self._shape = shape = transformer.shape
        dtype = torch.bfloat16 if precision == "bfloat16" else prefix.dtype
        # The last column takes what an image with fewer codes than its neighbours fills up with.
        size = (len(prefix), shape.prefix + shape.codes + 1, shape.key_value_heads, shape.head_width)
        cache = torch.zeros((shape.layers, 2, *size), dtype=dtype, device=prefix.device)
        turns = torch.view_as_complex(transformer.turns).expand(2, -1, -1)
        self._layers = [
            _Layer(cast(Block, block), turns, *of_layer)
            for block, of_layer in zip(transformer.blocks, cache, strict=True)
        ]
        self._table = transformer.embedding.weight
        self._places = (transformer.row + transformer.column + transformer.index).flatten(0, 2)
        self._head = _matrix(transformer.head.weight, dtype, transformer.head.gain)
        positions = torch.arange(shape.prefix, device=prefix.device).expand(len(prefix), -1)
        self._known = torch.full_like(positions[:, :1], shape.prefix)
        sees = self._known.expand(-1, shape.prefix)
        self._feed(prefix + transformer.prefix, positions, sees, positions)

    @torch.no_grad()
    def extend(self, codes: Tensor, places: Tensor, asked: Tensor) -> Tensor:
        """Take codes `[n, a]` at `places` `[n, a]`, in the order in which they became known; returns the
        logits of the places `asked` `[n, b]`, `[n, b, vocabulary]` float32.

        An image that has fewer codes to give than others fills up with -1.
        """
        shape, given = self._shape, codes.shape[1]
        real = codes >= 0
        sees = torch.cat([self._known, self._known + real.cumsum(1)], dim=1)  # how much is known by then
        self._known = sees[:, -1:]
        columns = torch.where(real, sees[:, :-1], shape.prefix + shape.codes)
        sees = torch.cat([sees[:, 1:], self._known.expand_as(asked)], dim=1)
        places = torch.cat([places, asked], dim=1)
        codes = torch.cat([codes.clamp_min(0), torch.full_like(asked, shape.vocabulary)], dim=1)
        x = F.embedding(codes + places % shape.depth * (shape.vocabulary + 1), self._table)
        x = self._feed(x + self._places[places], places + shape.prefix, sees, columns)
        return torch.matmul(_unit(x[:, given:], self._head), self._head).float()

    def _feed(self, x: Tensor, positions: Tensor, sees: Tensor, columns: Tensor) -> Tensor:
        """The stream `[n, t, width]` after the last layer. sees: `[n, t]`, how many columns of the cache each
        position sees, after the first of them have entered it at `columns` `[n, a]`.
        """
        most, seen = int(sees.max()), None
        if bool((sees < most).any()):
            if bool((sees == sees[:1]).all()):
                sees = sees[:1]
            seen = (torch.arange(most, device=x.device) < sees[..., None])[:, None]
        for layer in self._layers:
            x = layer(x, positions, most, seen, columns)
        return x


class _Layer:
    """A block, the keys and values `[n, columns, groups, head width]` that it remembers, and how it turns."""

    def __init__(self, block: Block, turns: Tensor, keys: Tensor, values: Tensor) -> None:
        attention, dtype = block.attention, keys.dtype
        self.keys, self.values = keys, values
        self.turns = attention.turns(turns)
        self.qkv = _matrix(attention.qkv.weight, dtype, attention.qkv.gain)
        self.out = _matrix(attention.out.weight, dtype)
        self.gate_up = _matrix(block.gate_up.weight, dtype, block.gate_up.gain)
        self.down = _matrix(block.down.weight, dtype)
        self.split = [attention.heads, attention.key_value_heads, attention.key_value_heads]
        self.width = attention.head_width

    def __call__(
        self, x: Tensor, positions: Tensor, most: int, seen: Tensor | None, columns: Tensor
    ) -> Tensor:
        qkv = torch.matmul(_unit(x, self.qkv), self.qkv).view(*x.shape[:2], -1, self.width)
        qk, v = torch.split(qkv, [sum(self.split[:2]), self.split[2]], dim=2)
        qk = qk.float() if qk.dtype == torch.bfloat16 else qk
        unit = qk / lengths(qk, math.sqrt(self.width * EPSILON))
        pairs = torch.view_as_complex(unit.view(*unit.shape[:3], -1, 2))
        turned = torch.view_as_real(pairs.mul_(self.turns[positions])).flatten(3).to(v.dtype)
        q, k = torch.split(turned, self.split[:2], dim=2)
        images, given = torch.arange(len(x), device=x.device)[:, None], columns.shape[1]
        self.keys[images, columns] = k[:, :given]
        self.values[images, columns] = v[:, :given]
        keys, values = self.keys[:, :most].transpose(1, 2), self.values[:, :most].transpose(1, 2)
        attended = F.scaled_dot_product_attention(
            q.transpose(1, 2), keys, values, attn_mask=seen, scale=1.0, enable_gqa=True
        )
        x = x + torch.matmul(attended.transpose(1, 2).flatten(2), self.out)
        gate, up = torch.matmul(_unit(x, self.gate_up), self.gate_up).chunk(2, dim=-1)
        return x.add_(torch.matmul(F.silu(gate).mul_(up), self.down))


def _matrix(weight: Tensor, dtype: torch.dtype, gain: Tensor | None = None) -> Tensor:
    """Weights `[outputs, inputs]` as `[inputs, outputs]`, with the gain of the norm before them, whose
    √inputs goes with it: what they multiply is a unit vector.
    """
    matrix = weight.t() if gain is None else weight.t() * (gain * math.sqrt(len(gain)))[:, None]
    return matrix.to(dtype).contiguous()


def _unit(x: Tensor, matrix: Tensor) -> Tensor:
    """x / √(‖x‖² + ε²) along the last axis, to be multiplied by `matrix`."""
    return (x / lengths(x, math.sqrt(x.shape[-1] * EPSILON))).to(matrix.dtype)
