"""Writes many codes at a step, in any order.

A code that is not yet known is never a key, and a known one sees only those that were known before it. What
is likely at a place then follows from the known codes alone, whatever else is asked for beside it: a step
computes the places that it writes and no others. And keys and values of a known code are computed once: an
image costs less than two passes over all of it, in however many steps.
"""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.nets.laid_out import laid_out
from danqing.nets.raster import packs, product, unit
from danqing.nets.transformer import EPSILON, Block, Transformer
from danqing.precision import Precision

ROWS = 1024
"""About how many positions are multiplied at once, for which weights are laid out."""

TILE = 32
"""Keys are attended to by so many."""


class ParallelDecoder:
    """What `Transformer.parallel` says of the places that it is asked for; it remembers what it was given.

    The cache is one allocation. Weights are those that the transformer has when the decoder is made.
    """

    @torch.no_grad()
    def __init__(self, transformer: Transformer, prefix: Tensor, precision: Precision) -> None:
        self._shape = shape = transformer.shape
        dtype = torch.bfloat16 if precision == "bfloat16" else prefix.dtype
        # The last column takes what an image with fewer codes than its neighbours fills up with.
        columns = _rounded(shape.prefix + shape.codes + 1)
        size = (len(prefix), columns, 2 * shape.key_value_heads, shape.head_width)
        self._cache = torch.zeros((shape.layers, *size), dtype=dtype, device=prefix.device)
        weights = laid_out(transformer, ("parallel", precision), lambda: _Weights(transformer, precision))
        self._layers, self._head = weights.layers, weights.head
        self._table = transformer.embedding.weight
        self._places = (transformer.row + transformer.column + transformer.index).flatten(0, 2)
        self._epsilon = prefix.new_tensor(math.sqrt(shape.width * EPSILON))
        self._known = torch.full((len(prefix), 1), shape.prefix, device=prefix.device)
        self._most = shape.prefix  # that any image can know, however few this one does
        self._prefix: Tensor | None = prefix + transformer.prefix  # until it enters, with the first codes

    @torch.no_grad()
    def extend(self, codes: Tensor, places: Tensor, asked: Tensor) -> Tensor:
        """Take codes `[n, a]` at `places` `[n, a]`, in the order in which they became known; returns the
        logits of the places `asked` `[n, b]`, `[n, b, vocabulary]` float32.

        An image that has fewer codes to give than others fills up with -1.
        """
        shape, real = self._shape, codes >= 0
        sees = torch.cat([self._known, self._known + real.cumsum(1)], dim=1)  # how much is known by then
        self._known = sees[:, -1:]
        self._most = min(self._most + codes.shape[1], shape.prefix + shape.codes)
        columns = torch.where(real, sees[:, :-1], -1)
        sees = torch.cat([sees[:, 1:], self._known.expand_as(asked)], dim=1)
        places = torch.cat([places, asked], dim=1)
        codes = torch.cat([codes.clamp_min(0), torch.full_like(asked, shape.vocabulary)], dim=1)
        x = F.embedding(codes + places % shape.depth * (shape.vocabulary + 1), self._table)
        x += F.embedding(places, self._places)
        x = self._feed(x, places + shape.prefix, sees, columns)
        logits: Tensor = self._head(unit(x, self._epsilon).flatten(0, 1)).float().view(*asked.shape, -1)
        return logits

    def _feed(self, x: Tensor, positions: Tensor, sees: Tensor, columns: Tensor) -> Tensor:
        """The stream `[n, t, width]` of what is asked for after the last layer: of all but the first, which
        enter the cache at `columns` `[n, a]`. sees: `[n, t]`, how many columns each position then sees.
        """
        if self._prefix is not None:
            count = self._shape.prefix
            first = torch.arange(count, device=x.device).expand(len(x), -1)
            positions, columns = torch.cat([first, positions], dim=1), torch.cat([first, columns], dim=1)
            x, sees = torch.cat([self._prefix, x], dim=1), F.pad(sees, (count, 0), value=count)
            self._prefix = None
        if bool((sees == sees[:1]).all()):
            sees = sees[:1]
        share = self._shape.heads // self._shape.key_value_heads
        sees = sees.repeat_interleave(share, dim=1)  # one for each query of a key head
        most, given = _rounded(self._most), columns.shape[1]
        hidden = torch.arange(most, device=x.device) >= sees[..., None]
        mask = torch.zeros(hidden.shape, dtype=self._cache.dtype, device=x.device)
        mask = mask.masked_fill_(hidden, -math.inf)[:, None]
        where = torch.arange(len(x), device=x.device)[:, None], columns
        for layer, cache in zip(self._layers[:-1], self._cache, strict=False):
            x = layer(x, cache, positions, mask, where)
        return self._layers[-1](x, self._cache[-1], positions, mask[:, :, given * share :], where, given)


class _Weights:
    """All that a step multiplies by."""

    def __init__(self, transformer: Transformer, precision: Precision) -> None:
        turns = torch.view_as_complex(transformer.turns).expand(2, -1, -1)
        self.layers = [_Layer(cast(Block, block), turns, precision) for block in transformer.blocks]
        self.head = product(transformer.head.weight, ROWS, precision, transformer.head.gain)


class _Layer:
    """A block, and how it turns."""

    def __init__(self, block: Block, turns: Tensor, precision: Precision) -> None:
        attention = block.attention
        self.heads, self.groups, self.width = attention.heads, attention.key_value_heads, attention.head_width
        self.turns = torch.view_as_real(attention.turns(turns)).flatten(1)  # [p + N, heads turned · width]
        self.qkv = product(attention.qkv.weight, ROWS, precision, attention.qkv.gain)
        read = attention.out.weight.view(-1, self.groups, self.heads // self.groups, self.width)
        self.out = product(read.transpose(1, 2).flatten(1), ROWS, precision)  # in the order of `attend`
        self.gated = _gated(block.gate_up.weight, ROWS, precision, block.gate_up.gain)
        self.down = product(block.down.weight, ROWS, precision)
        weight = attention.qkv.weight
        self.epsilon = weight.new_tensor(math.sqrt(weight.shape[1] * EPSILON))
        self.head_epsilon = weight.new_tensor(math.sqrt(self.width * EPSILON))

    def __call__(
        self,
        x: Tensor,
        cache: Tensor,
        positions: Tensor,
        mask: Tensor,
        where: tuple[Tensor, Tensor],
        start: int = 0,
    ) -> Tensor:
        """The stream `[n, t, width]`, changed in place, from position `start` on; the first of them leave
        keys and values in the cache `[n, columns, 2 · groups, head width]` at the images and columns
        `where`. mask: added to the scores of queries from `start` on, `heads / groups` for each position.
        """
        n, t, _ = x.shape
        heads = self.qkv(unit(x, self.epsilon).flatten(0, 1)).view(n, t, -1, self.width)
        turning = heads[:, :, : -self.groups]
        units = unit(turning.to(self.turns.dtype), self.head_epsilon).view(n, t, -1, 2)
        turns = F.embedding(positions, self.turns).view_as(units)
        turned = torch.view_as_complex(units).mul_(torch.view_as_complex(turns))
        turning.copy_(torch.view_as_real(turned).view_as(turning))
        cache[where] = heads[:, : where[1].shape[1], self.heads :]
        if start == t:
            return x[:, start:]
        x = x[:, start:].flatten(0, 1)
        q = heads[:, start:, : self.heads]
        x += self.out(self.attend(q, cache[:, : mask.shape[3]], mask).flatten(0, 1))
        x += self.down(self.gated(unit(x, self.epsilon)))
        return x.view(n, t - start, -1)

    def attend(self, q: Tensor, cache: Tensor, mask: Tensor) -> Tensor:
        """What queries `[n, t, heads, head width]` read from the cache, `[n, t, width]`: first that of
        the first query of each key head, then that of the second...
        """
        n, t, _, width = q.shape
        keys, values = cache.transpose(1, 2).chunk(2, dim=1)
        # The queries of one key head stand as if they were positions: fewer, larger products.
        q = q.view(n, t, self.groups, -1, width).transpose(1, 2).flatten(2, 3)
        attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=1.0)
        return attended.transpose(1, 2).reshape(n, t, -1)  # as it lies there


def _gated(weight: Tensor, n: int, precision: Precision, gain: Tensor) -> Callable[[Tensor], Tensor]:
    """What makes silu(gate) · up of unit vectors `[n, inputs]`, where the first half of the rows of `weight`
    gives the gate. Other arguments are those of `product`.
    """
    if precision == "float32" or not packs(weight):
        both = product(weight, n, precision, gain)

        def apart(x: Tensor) -> Tensor:
            gate, up = both(x).chunk(2, dim=-1)
            return F.silu(gate).mul_(up)

        return apart
    halves = (weight * (gain * math.sqrt(len(gain)))).bfloat16().chunk(2)
    gates, ups = (torch.ops.mkldnn._reorder_linear_weight(half.contiguous(), n) for half in halves)
    multiply = torch.ops.mkldnn._linear_pointwise

    def fused(x: Tensor) -> Tensor:
        x = x.bfloat16()
        gate = multiply.default(x, gates, None, "swish", [], "")
        return cast(Tensor, multiply.binary(x, gate, ups, None, "mul"))

    return fused


def _rounded(columns: int) -> int:
    """Tiles of products have so many columns: a part of one would cost more than all of it."""
    return math.ceil(columns / TILE) * TILE
