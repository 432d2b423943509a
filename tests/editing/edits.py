"""Small edits for tests."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from danqing.editing.contract import ImageToEdit, Values
from danqing.editing.pixels import prepare, restore
from danqing.errors import DataError
from danqing.trust.declaration import Declaration


@dataclasses.dataclass(frozen=True)
class Invert:
    """Inverts the colours of an image as a model would: as floats, with noise of the image's own seed.

    scale: how much larger the result is. strength: 0 changes nothing. channels: of the model.
    """

    channels: int = 3
    scale: int = 1
    strength: float = 1.0
    noise: bool = False
    verb: str = "invert"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"channels": self.channels, "scale": self.scale, "strength": self.strength}

    @property
    def declaration(self) -> Declaration:
        return Declaration(action=self.verb, model="of a test")

    def changes(self, image: ImageToEdit) -> bool:
        return self.strength > 0

    def peak_bytes(self, width: int, height: int) -> int:
        return 100 * width * height

    def apply(self, image: ImageToEdit) -> Values:
        prepared = prepare(image.values, self.channels)
        if "dark" in image.name and image.values.max() == 0:
            raise DataError("The image is black.")
        images = prepared.images
        if prepared.alpha is not None and self.channels in (1, 3):
            black = 2 * (np.float32(1) * prepared.alpha / np.iinfo(image.values.dtype).max) - 1
            images = images.new_tensor(black)[None, None] - 1 - images  # 1 - colour, times alpha
        else:
            images = -images
        images = images.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)
        result = restore(images, prepared, keep_channels=True)
        if self.noise:
            spread = np.random.default_rng(image.seed).integers(0, 20, result.shape, dtype=result.dtype)
            result = np.where(result > 200, result - spread, result + spread)
        return result


@dataclasses.dataclass(frozen=True)
class Nothing:
    """Computes with the pixels, but changes none."""

    channels: int = 3
    verb: str = "nothing"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def declaration(self) -> Declaration:
        return Declaration(action=self.verb, model="of a test")

    def changes(self, image: ImageToEdit) -> bool:
        return True

    def peak_bytes(self, width: int, height: int) -> int:
        return 0

    def apply(self, image: ImageToEdit) -> Values:
        prepared = prepare(image.values, self.channels)
        return restore(prepared.images, prepared, keep_channels=True)
