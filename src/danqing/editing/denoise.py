"""Denoising without a trained model: what is learned, is learned from the noisy image itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from danqing import options as rules
from danqing.editing import zero_shot
from danqing.editing.contract import ImageToEdit, Values
from danqing.editing.mixing import mixed
from danqing.editing.pixels import prepare
from danqing.editing.tiles import run_in_tiles
from danqing.errors import ConfigError, DataError
from danqing.randomness import generator
from danqing.trust.declaration import Declaration, SourceType

Noise = Literal["auto", "white", "correlated"]
"""white: the noise of each pixel is its own. correlated: that of neighbours is alike. auto: measured."""

_TILE = 512
_BYTES_PER_PIXEL_OF_A_TILE = 600
"""Of the features of the network, forward."""


@dataclass(frozen=True)
class ZeroShotDenoise:
    """An edit that denoises each image without a trained model.

    A small network learns to denoise from that image alone.

    strength: from 0, which changes nothing, to 1; between them the result is mixed with the input.
    steps: of training, for each image. tile: the side of tiles in pixels; 0 chooses it.
    Raises ConfigError for another noise, or numbers out of range.
    """

    noise: Noise = "auto"
    strength: float = 1.0
    steps: int = 200
    tile: int = 0
    device: str = "cpu"

    verb = "enhance"

    def __post_init__(self) -> None:
        if self.noise not in get_args(Noise):
            raise ConfigError(f"noise is {self.noise!r}: choose auto, white or correlated.", "noise")
        rules.check(strength=self.strength, tile=self.tile)
        if self.steps < 1:
            raise ConfigError(f"steps is {self.steps}: choose at least 1.", "steps")

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return all that the result depends on besides image and seed."""
        return {
            "method": "zero-shot",
            "noise": self.noise,
            "strength": self.strength,
            "steps": self.steps,
            "tile": self.tile,
        }

    @property
    def declaration(self) -> Declaration:
        """Return what the results declare of themselves."""
        return Declaration(SourceType.of(self.verb), self.verb, "zero-shot denoiser")

    def changes(self, image: ImageToEdit) -> bool:
        """Return whether it would change the image."""
        return self.strength > 0

    def peak_bytes(self, width: int, height: int) -> int:
        """Estimate the memory for an image of this size, in bytes."""
        side = self.tile or _TILE
        tile = min(width, side) * min(height, side)
        return 60 * width * height + _BYTES_PER_PIXEL_OF_A_TILE * tile + 200_000_000

    def apply(self, image: ImageToEdit) -> Values:
        """Denoise one image; transparency stays as it is.

        Raises DataError for an image that is too small to learn from.
        """
        height, width, channels = image.values.shape
        if min(height, width) < zero_shot.SMALLEST:
            raise DataError(
                f"An image of {width}x{height} pixels is too small to learn its noise: both sides need at "
                f"least {zero_shot.SMALLEST} pixels."
            )
        prepared = prepare(image.values, 1 if channels < 3 else 3)
        noisy = prepared.images.to(self.device)
        with torch.inference_mode(False), torch.enable_grad():
            denoiser = zero_shot.learned(
                noisy,
                stride=self._stride(noisy),
                steps=self.steps,
                rng=generator(image.seed, "zero-shot"),
            )
        if denoiser is None:
            return image.values
        with torch.no_grad():
            clean = run_in_tiles(
                denoiser,
                noisy,
                tile=self.tile or _TILE,
                overlap=2 * zero_shot.MARGIN * denoiser.stride,
                multiple=denoiser.stride,
            )
        return mixed(clean.cpu(), prepared, self.strength, keep_channels=True)

    def _stride(self, noisy: torch.Tensor) -> int:
        if self.noise == "white":
            return 1
        measure = zero_shot.independent_stride if self.noise == "auto" else zero_shot.correlated_stride
        return measure(noisy)
