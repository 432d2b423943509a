"""The first stage of a family of two: a trained tokenizer, or the pixels themselves.

A tokenizer turns images into codes, which a transformer writes, or into latents, which a flow model
generates.
"""

import math
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny, model_validator
from torch import Tensor, nn

from danqing import families
from danqing.errors import ConfigError
from danqing.families.abilities import Compresses, HasTokenizer, Tokenizes
from danqing.families.base import Batch, Family, FamilyConfig
from danqing.families.conditioning import ConditionedConfig
from danqing.images import to_float, to_uint8

LEVELS = 256
MOST_CODES = 65_536
"""Most codes of one image: writing more would take hours and all memory, whatever a small file requests."""


def _parsed(value: Any) -> Any:
    return families.parse_config(value) if isinstance(value, dict) else value


class TwoStageConfig(ConditionedConfig):
    """Settings of a model that may have a tokenizer.

    tokenizer: the first stage; None: the model generates pixels.
    """

    from_data: ClassVar[frozenset[str]] = ConditionedConfig.from_data | {"tokenizer"}

    tokenizer: Annotated[SerializeAsAny[FamilyConfig], BeforeValidator(_parsed)] | None = None

    @model_validator(mode="after")
    def _tokenizer_fits(self) -> Self:
        sides = ("width", "height", "channels")
        if self.tokenizer and any(getattr(self.tokenizer, side) != getattr(self, side) for side in sides):
            raise ValueError("the tokenizer must be of images of the same width, height and channels")
        return self


class SecondStage(Family, HasTokenizer):
    """A family that learns from what a frozen tokenizer makes of images."""

    tokenizer: nn.Module

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.tokenizer.eval()
        return self


def frozen(config: FamilyConfig, protocol: type, ability: str) -> Family:
    """Build a frozen tokenizer, whose trained weights are to be loaded.

    protocol, ability: what it must implement, and in words.
    Raises ConfigError where the configuration is not of such a tokenizer.
    """
    tokenizer = families.build(config)
    if not isinstance(tokenizer, protocol):
        raise ConfigError(families.cannot(config, ability, protocol))
    tokenizer.drop_training_only()
    return tokenizer.eval().requires_grad_(False)


# Codes
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

    def code_vectors(self) -> Tensor:
        """Return the values, float32 `[256, 1]`."""
        return torch.arange(LEVELS, dtype=torch.float32)[:, None]


def build_tokenizer(config: FamilyConfig | None, images: FamilyConfig) -> nn.Module:
    """Build the frozen tokenizer of a family that writes codes.

    config: of the tokenizer; None is the pixels themselves.
    images: the configuration of the family that writes the codes: height, width, channels.
    Raises ConfigError where the configuration is not of a tokenizer, or an image would be too many codes.
    """
    if config is None:
        return PixelCodes(images.height, images.width, images.channels)
    tokenizer = frozen(config, Tokenizes, "turn images into codes")
    assert isinstance(tokenizer, Tokenizes)
    if (count := math.prod(tokenizer.code_shape)) > MOST_CODES:
        raise ConfigError(
            f"An image would be {count:,} codes, too many to write: use a tokenizer with more downsamplings, "
            "or smaller images."
        )
    return tokenizer


class CodeStage(SecondStage):
    """A family that learns to write the codes of a frozen tokenizer."""

    @property
    def codec(self) -> Tokenizes:
        """Return the tokenizer, typed by what it does."""
        assert isinstance(self.tokenizer, Tokenizes)
        return self.tokenizer

    def codes_of(self, batch: Batch) -> Tensor:
        """Return the codes of a batch in grid order, int64 `[n, N]`."""
        codes = self.codec.tokenize(batch.images) if batch.codes is None else batch.codes
        return codes.long().flatten(1)  # from [n, rows, columns, depth]


# Latents
class LatentStatistics(BaseModel):
    """Mean and standard deviation of each channel of the training images' latents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def normalize(self, latents: Tensor) -> Tensor:
        """Bring each channel of latents to mean 0 and variance 1.

        latents: `[n, channels, rows, columns]`.
        """
        return (latents - _by_channel(self.mean, latents)) / _by_channel(self.deviation, latents)

    def restore(self, latents: Tensor) -> Tensor:
        """Return latents as they were before `normalize`."""
        return latents * _by_channel(self.deviation, latents) + _by_channel(self.mean, latents)


class LatentConfig(TwoStageConfig):
    """Settings of a model that generates latents or pixels.

    latent_statistics: by which latents are normalized; None leaves them as they are.
    """

    from_data: ClassVar[frozenset[str]] = TwoStageConfig.from_data | {"latent_statistics"}

    latent_statistics: LatentStatistics | None = None


class PixelLatents(nn.Module):
    """The tokenizer that changes nothing: latents are the image itself."""

    factor = 1

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.latent_shape = (channels, height, width)

    def compress(self, images: Tensor) -> Tensor:
        """Return the images."""
        return images

    def expand(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return the latents, bounded to [-1, 1].

        They have the size of the images.
        """
        return latents.clamp(-1, 1)


class LatentStage(SecondStage):
    """A family that learns to generate latents, or pixels.

    The latents are those of a frozen tokenizer, `[n, channels, rows, columns]` float32, of mean 0 and
    variance 1 in each channel. Without a tokenizer they are the images.
    """

    reads: ClassVar[type] = Compresses

    config: LatentConfig

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = (
            PixelLatents(config.channels, config.height, config.width)
            if config.tokenizer is None
            else frozen(config.tokenizer, Compresses, "turn images into latents")
        )

    @property
    def codec(self) -> Compresses:
        """Return the tokenizer, typed by what it does."""
        assert isinstance(self.tokenizer, Compresses)
        return self.tokenizer

    def latents_of(self, images: Tensor) -> Tensor:
        """Turn images `[n, c, h, w]` into latents."""
        return self._normalized(self.codec.compress(images))

    def images_of(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Turn latents into images `[n, c, h, w]` in [-1, 1].

        size: (width, height) of the images, by default the model's own.
        """
        statistics = self.config.latent_statistics
        return self.codec.expand(latents if statistics is None else statistics.restore(latents), size)

    def batch_latents(self, batch: Batch) -> Tensor:
        """Return the latents of a batch, computed before or now."""
        return self.latents_of(batch.images) if batch.codes is None else self._normalized(batch.codes)

    def bounded(self, latents: Tensor) -> Tensor:
        """Return predicted pixels within [-1, 1]; latents have no bounds."""
        return latents.clamp(-1, 1) if self.config.tokenizer is None else latents

    def _normalized(self, latents: Tensor) -> Tensor:
        statistics = self.config.latent_statistics
        return latents if statistics is None else statistics.normalize(latents)


def _by_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)
