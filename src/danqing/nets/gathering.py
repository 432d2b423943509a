"""Modules that learn in their forward pass, and how they do so when a batch is computed in grains."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn


class Grain(NamedTuple):
    """Which grain of a batch a forward pass computes.

    Grains have equal sizes.

    number: from 0. grains: how many a batch has.
    """

    number: int
    grains: int


class Gathers(nn.Module):
    """A module whose buffers learn from what its forward pass sees.

    By default, it learns at once. When a batch is computed in grains, perhaps by several processes, every
    grain must find the same buffers. The forward pass then leaves them as they are and keeps what it has
    seen. The module learns in `settle`, from the mean of what all grains have seen. Its own buffers change in
    no other way.

    grain: which grain is computed; None outside of grains.
    starting: whether the forward pass may set buffers that need a first batch, and learns nothing else.
    seen: what the forward pass of a grain has kept: float32 tensors whose shapes are always the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.grain: Grain | None = None
        self.starting = False
        self.seen: list[Tensor] | None = None

    @property
    def has_started(self) -> bool:
        """Return whether the buffers need no first batch."""
        return True

    def settle(self, seen: Sequence[Tensor], grains: int) -> None:
        """Learn from a batch.

        seen: the mean of what its grains have kept.
        grains: how many there were.
        """
        raise NotImplementedError
