"""Writes many codes per step, in any order, and computes only the codes that a step reads or writes.

`families.transformer.generate_masked` runs the network over all codes at every step. But an unknown code is
never a key, and a known code sees only codes that were known before it. So what is likely at a place follows
from the known codes alone, whatever else is computed beside it. This decoder computes keys and values of a
code once, when it becomes known, and logits only of the places that a step writes: an image costs less than
two passes of the network, in however many steps.
"""

import math
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.nets.decoders.contract import Block, Transformer
from danqing.nets.decoders.layout_cache import cached_layout
from danqing.nets.decoders.products import gated, product, unit
from danqing.nets.layers import RMS_EPSILON
from danqing.precision import Precision

ROWS = 1024
"""About how many positions are multiplied at once: weights are laid out for so many rows."""

TILE = 32
"""Attention reads keys in multiples of so many."""


class ParallelDecoder:
    """Computes the logits of requested places; caches keys and values.

    The logits are those of `Transformer.parallel`.

    transformer: its weights are read when the decoder is made.
    prefix: `[n, p, width]`.
    precision: of all products.
    """

    @torch.no_grad()
    def __init__(self, transformer: Transformer, prefix: Tensor, precision: Precision) -> None:
        self._shape = shape = transformer.shape
        dtype = torch.bfloat16 if precision == "bfloat16" else prefix.dtype
        # The last column takes the padding of images that have fewer codes to give than others.
        columns = _rounded(shape.prefix + shape.codes + 1)
        size = (len(prefix), columns, 2 * shape.key_value_heads, shape.head_width)
        self._cache = torch.zeros((shape.layers, *size), dtype=dtype, device=prefix.device)
        weights = cached_layout(
            transformer, ("parallel", precision), lambda: _ParallelWeights(transformer, precision)
        )
        self._layers, self._head = weights.layers, weights.head
        self._table = transformer.embedding.weight
        self._places = transformer.places()
        self._epsilon = prefix.new_tensor(math.sqrt(shape.width * RMS_EPSILON))
        self._known = torch.full((len(prefix), 1), shape.prefix, device=prefix.device)
        self._most = shape.prefix  # known codes and prefix that any image can have so far
        # None once it is in the cache, where it goes with the first codes.
        self._prefix: Tensor | None = prefix + transformer.prefix

    @torch.no_grad()
    def extend(self, codes: Tensor, places: Tensor, requested: Tensor) -> Tensor:
        """Take known codes; return the logits of other places.

        codes: `[n, a]`, in the order in which they became known; images with fewer are padded with -1.
        places: `[n, a]`, where these codes stand.
        requested: `[n, b]`, the places whose logits are needed.
        Returns float32 `[n, b, vocabulary]`.
        """
        shape, real = self._shape, codes >= 0
        sees = torch.cat(
            [self._known, self._known + real.cumsum(1)], dim=1
        )  # how much is known at that point
        self._known = sees[:, -1:]
        self._most = min(self._most + codes.shape[1], shape.prefix + shape.codes)
        columns = torch.where(real, sees[:, :-1], -1)
        sees = torch.cat([sees[:, 1:], self._known.expand_as(requested)], dim=1)
        places = torch.cat([places, requested], dim=1)
        codes = torch.cat([codes.clamp_min(0), torch.full_like(requested, shape.vocabulary)], dim=1)
        x = F.embedding(codes + places % shape.depth * (shape.vocabulary + 1), self._table)
        x += F.embedding(places, self._places)
        x = self._feed(x, places + shape.prefix, sees, columns)
        logits: Tensor = self._head(unit(x, self._epsilon).flatten(0, 1)).float().view(*requested.shape, -1)
        return logits

    def _feed(self, x: Tensor, positions: Tensor, sees: Tensor, columns: Tensor) -> Tensor:
        """Return the residual stream of the requested places after the last block, `[n, b, width]`.

        x: `[n, t, width]`, the a = t - b known codes, which enter the cache, then the requested places.
        positions: `[n, t]`, which rotation each has.
        sees: `[n, t]`, how many columns of the cache each sees.
        columns: `[n, a]`, where the known codes enter the cache.
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


class _ParallelWeights:
    """All weights that a step multiplies by."""

    def __init__(self, transformer: Transformer, precision: Precision) -> None:
        rotations = torch.view_as_complex(transformer.rotations).expand(2, -1, -1)
        self.layers = [
            _ParallelBlock(cast(Block, block), rotations, precision) for block in transformer.blocks
        ]
        self.head = product(transformer.head.weight, ROWS, precision, transformer.head.gain)


class _ParallelBlock:
    """A block with its rotations."""

    def __init__(self, block: Block, rotations: Tensor, precision: Precision) -> None:
        attention = block.attention
        self.heads, self.groups, self.width = attention.heads, attention.key_value_heads, attention.head_width
        self.rotations = torch.view_as_real(attention.scaled_rotations(rotations)).flatten(
            1
        )  # [p + N, heads rotated · width]
        self.qkv = product(attention.qkv.weight, ROWS, precision, attention.qkv.gain)
        read = attention.out.weight.view(-1, self.groups, self.heads // self.groups, self.width)
        self.out = product(read.transpose(1, 2).flatten(1), ROWS, precision)  # in the order of `attend`
        self.gated = gated(block.gate_up.weight, ROWS, precision, block.gate_up.gain)
        self.down = product(block.down.weight, ROWS, precision)
        weight = attention.qkv.weight
        self.epsilon = weight.new_tensor(math.sqrt(weight.shape[1] * RMS_EPSILON))
        self.head_epsilon = weight.new_tensor(math.sqrt(self.width * RMS_EPSILON))

    def __call__(
        self,
        x: Tensor,
        cache: Tensor,
        positions: Tensor,
        mask: Tensor,
        where: tuple[Tensor, Tensor],
        start: int = 0,
    ) -> Tensor:
        """Add to the residual stream `[n, t, width]` in place; return it from position `start` on.

        cache: `[n, columns, 2 · groups, head width]`; the first positions write their keys and values there.
        positions: `[n, t]`, which rotation each has.
        mask: added to the scores of queries from `start` on, `heads / groups` for each position.
        where: the images and columns of the cache that are written.
        """
        n, t, _ = x.shape
        heads = self.qkv(unit(x, self.epsilon).flatten(0, 1)).view(n, t, -1, self.width)
        rotating = heads[:, :, : -self.groups]
        units = unit(rotating.to(self.rotations.dtype), self.head_epsilon).view(n, t, -1, 2)
        rotations = F.embedding(positions, self.rotations).view_as(units)
        rotated = torch.view_as_complex(units).mul_(torch.view_as_complex(rotations))
        rotating.copy_(torch.view_as_real(rotated).view_as(rotating))
        cache[where] = heads[:, : where[1].shape[1], self.heads :]
        if start == t:
            return x[:, start:]
        x = x[:, start:].flatten(0, 1)
        q = heads[:, start:, : self.heads]
        x += self.out(self.attend(q, cache[:, : mask.shape[3]], mask).flatten(0, 1))
        x += self.down(self.gated(unit(x, self.epsilon)))
        return x.view(n, t - start, -1)

    def attend(self, q: Tensor, cache: Tensor, mask: Tensor) -> Tensor:
        """Return what queries `[n, t, heads, head width]` read from the cache, `[n, t, width]`.

        The output holds the first query of each key head, then the second of each, and so on.
        """
        n, t, _, width = q.shape
        keys, values = cache.transpose(1, 2).chunk(2, dim=1)
        # The queries of one key head stand as if they were positions: fewer, larger products.
        q = q.view(n, t, self.groups, -1, width).transpose(1, 2).flatten(2, 3)
        attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=1.0)
        return attended.transpose(1, 2).reshape(n, t, -1)


def _rounded(columns: int) -> int:
    """Return the next multiple of TILE: a part of a tile would cost more than all of it."""
    return math.ceil(columns / TILE) * TILE
