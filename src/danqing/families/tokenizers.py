"""The first stage of a family that writes codes: a trained tokenizer, or the pixels themselves."""

import math
from typing import Self

from torch import Tensor, nn

from danqing import families
from danqing.errors import ConfigError
from danqing.families.base import Batch, Family, FamilyConfig, HasTokenizer, Tokenizes
from danqing.images import to_float, to_uint8

LEVELS = 256
MOST_CODES = 65_536
"""Most codes of one image: writing more would take hours and all memory, whatever a small file requests."""


class PixelCodes(nn.Module):
    """The tokenizer that loses nothing: each 8-bit value is a code.

    The channels of a pixel stand one after another. Other values are rounded to the nearest 8-bit value.
    """

    def __init__(self, height: int, width: int, channels: int) -> None:
        super().__init__()
        self.code_shape = (height, width, channels)
        self.vocabulary = LEVELS

    def tokenize(self, images: Tensor) -> Tensor:
        """Turn images into codes int64 `[n, h, w, c]` in [0, 256).

        images: `[n, c, h, w]` in [-1, 1].
        """
        return to_uint8(images).long()

    def detokenize(self, codes: Tensor) -> Tensor:
        """Turn codes back into images, exactly."""
        return to_float(codes.byte())


def build_tokenizer(config: FamilyConfig | None, images: FamilyConfig) -> nn.Module:
    """Build a frozen tokenizer, whose trained weights are to be loaded.

    config: of the tokenizer; None is the pixels themselves.
    images: the configuration of the family that writes the codes: height, width, channels.
    Raises ConfigError where the configuration is not of a tokenizer, or an image would be too many codes.
    """
    if config is None:
        return PixelCodes(images.height, images.width, images.channels)
    tokenizer = families.build(config)
    if not isinstance(tokenizer, Tokenizes):
        raise ConfigError(families.cannot(config, "turn images into codes", Tokenizes))
    if (count := math.prod(tokenizer.code_shape)) > MOST_CODES:
        raise ConfigError(
            f"An image would be {count:,} codes, too many to write: use a tokenizer with more downsamplings, "
            "or smaller images."
        )
    tokenizer.drop_training_only()
    return tokenizer.eval().requires_grad_(False)


class SecondStage(Family, HasTokenizer):
    """A family that learns to write the codes of a frozen tokenizer."""

    tokenizer: nn.Module

    @property
    def codec(self) -> Tokenizes:
        """Return the tokenizer, typed by what it does."""
        assert isinstance(self.tokenizer, Tokenizes)
        return self.tokenizer

    def codes_of(self, batch: Batch) -> Tensor:
        """Return the codes of a batch in grid order, int64 `[n, N]`."""
        codes = self.codec.tokenize(batch.images) if batch.codes is None else batch.codes
        return codes.long().flatten(1)  # from [n, rows, columns, depth]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.tokenizer.eval()
        return self
