"""Fast style transfer: a network that gives images one style, in one evaluation (Johnson et al. 2016).

It learns from images of any kind, without pairs: its results should show what the images show, and have the
texture and the colours of the style image, as the features of a trained network see both.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from danqing.errors import ConfigError, DataError
from danqing.families.base import Batch, FamilyConfig, Learner, Losses, Phase
from danqing.families.style_loss import Stages, StyleLoss
from danqing.image_files import decode
from danqing.images import conform, to_float, with_channels
from danqing.nets.style import StyleNet
from danqing.pretrained import fingerprint

PHASE = "style"


class StyleConfig(FamilyConfig):
    """Settings of a style.

    style_image: the file with the style. style_side: its shorter side in training, in pixels; the smaller it
        is, the smaller are the strokes.
    content, style, smoothness: the weights of the terms of the loss.
    features, blocks: of the network.
    """

    display_name: ClassVar[str] = "style network"
    from_data: ClassVar[frozenset[str]] = FamilyConfig.from_data | {"style_sha256"}

    family: Literal["style"] = "style"
    style_image: str = ""
    style_sha256: str = ""
    style_side: int = Field(256, ge=16, le=4096)
    content: float = Field(1.0, ge=0)
    style: float = Field(10.0, gt=0)
    smoothness: float = Field(0.1, ge=0)
    perceptual_network: str = "hed-own-size"
    features: int = Field(16, ge=4, le=256)
    blocks: int = Field(4, ge=1, le=32)

    @property
    def reads_labels(self) -> bool:
        return False

    def check_shape(self) -> None:
        super().check_shape()
        if min(self.width, self.height) < 32:
            raise ConfigError(
                "A style is learned from images of at least 32x32 pixels: choose a larger --size."
            )
        if self.channels in (2, 4):
            raise ConfigError("A style has no transparency: set data.alpha=flatten.")

    def complete(self, captions: Sequence[str]) -> "StyleConfig":
        if not self.style_image:
            raise ConfigError("A style is learned from an image: name it by --style-image FILE.")
        return self.model_copy(update={"style_sha256": _digest(self.style_image)})


class Style(Learner):
    """A network from an image to the same scene in one style."""

    config: StyleConfig

    def __init__(self, config: StyleConfig) -> None:
        super().__init__()
        self.config = config
        self.network = StyleNet(config.channels, features=config.features, blocks=config.blocks)
        self._compare: StyleLoss | None = None

    @property
    def perceptual_network(self) -> str:
        """Return the network whose features are compared."""
        return self.config.perceptual_network

    def perceive(self, stages: Stages) -> None:
        """Take the function for that network's feature maps; read the style image.

        stages: turns images into feature maps.
        Raises ConfigError if the file is not the one that the run began with.
        """
        if _digest(self.config.style_image) != self.config.style_sha256:
            raise ConfigError(
                f"{self.config.style_image} is not the image that this run learns the style of: restore the "
                "file, or use another --out."
            )
        style = read_style(Path(self.config.style_image), self.config.channels, side=self.config.style_side)
        weight = next(self.network.parameters())
        self._compare = StyleLoss(stages, style.to(weight.device))

    def phases(self) -> tuple[Phase, ...]:
        return (Phase(PHASE, ("network",)),)

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        """Compute the loss (Johnson et al. 2016, equation 5) with the terms of `StyleLoss`."""
        assert self._compare is not None, "perceive() has not been called"
        made: Tensor = self.network(batch.images).float()
        terms = self._compare.terms(made, self._compare.content_of(batch.images))
        config = self.config
        total = config.content * terms.content + config.style * terms.style
        total = total + config.smoothness * terms.variation
        return Losses(total, {name: value.detach() for name, value in terms._asdict().items()})


def read_style(path: Path, channels: int, *, side: int = 0, longer_side: int = 0) -> Tensor:
    """Read a style image, `[1, channels, h, w]` in [-1, 1].

    side, longer_side: one of the two, its shorter or its longer side in pixels.
    Raises DataError if it cannot be read.
    """
    pixels = decode(path, channels=3)
    lengths = pixels.shape[:2]
    scale = side / min(lengths) if side else longer_side / max(lengths)
    height, width = (max(32, round(length * scale)) for length in lengths)
    resized = conform(pixels, size=(width, height), fit="stretch")
    return with_channels(to_float(torch.from_numpy(resized.copy())[None]), channels)


def _digest(path: str) -> str:
    if not Path(path).is_file():
        raise DataError(f"The style image {path} does not exist: name an image file.")
    return fingerprint.of_file(Path(path))
