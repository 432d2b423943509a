"""What a decoder reads of a transformer: `families/transformer.py` has the network and explains each part."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from torch import Tensor, nn


class TransformerShape(NamedTuple):
    """Sizes of a transformer, its grid of codes and its prefix.

    heads is a multiple of key_value_heads; width is a multiple of 4 · heads; prefix is at least 1.
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
        """Return N, the number of codes in one image."""
        return self.rows * self.columns * self.depth

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def hidden(self) -> int:
        """Return the width inside the feed-forward network.

        It is 8/3 · width, so that its three matrices cost 8 · width².
        """
        return 32 * math.ceil(self.width / 12)


class NormedLinear(Protocol):
    """A matrix `[outputs, inputs]` after an RMSNorm with gain `[inputs]`."""

    weight: nn.Parameter
    gain: nn.Parameter


class Attention(Protocol):
    """Self-attention over normalised, rotated queries and keys."""

    heads: int
    key_value_heads: int
    head_width: int
    out: nn.Linear

    @property
    def qkv(self) -> NormedLinear: ...

    def scaled_rotations(self, rotations: Tensor) -> Tensor: ...

    def project(self, x: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...


class Block(Protocol):
    """Attention, then a feed-forward network."""

    down: nn.Linear

    @property
    def attention(self) -> Attention: ...

    @property
    def gate_up(self) -> NormedLinear: ...

    def feed(self, x: Tensor) -> Tensor: ...


class Transformer(Protocol):
    """Embeddings of codes and places, blocks, and the head that gives logits."""

    embedding: nn.Embedding
    prefix: nn.Parameter
    rotations: Tensor
    shape: TransformerShape

    @property
    def blocks(self) -> Iterable[nn.Module]: ...

    @property
    def head(self) -> NormedLinear: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def places(self) -> Tensor: ...

    def raster_rotations(self) -> Tensor: ...

    def read(self, x: Tensor) -> Tensor: ...
