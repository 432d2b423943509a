"""The style that a network was trained for, in one evaluation."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.editing.tiles import run_in_tiles
from danqing.errors import ModelError
from danqing.families.style import Style
from danqing.model import folder as model_folder
from danqing.model.files import WEIGHTS
from danqing.model.loading import open_source
from danqing.nets.style import STRIDE

_TILE = 512
_BYTES_PER_PIXEL = 1_000
"""Of the features of the network in a tile, with 16 features at full resolution."""


@dataclass(frozen=True)
class TrainedStyle:
    """A network that was trained for one style.

    All tiles of an image are normalised by a thumbnail of it.

    weights: the sha256 of its weights. tile: the side of a tile in pixels; 0 chooses it.
    """

    style: Style
    weights: str
    tile: int = 0

    @property
    def channels(self) -> int:
        """Return how many channels the network takes."""
        return self.style.config.channels

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return all that the result depends on besides the image."""
        return {"method": "model", "weights": self.weights, "tile": self.tile}

    def peak_bytes(self, width: int, height: int) -> int:
        """Estimate the memory for an image of this size, in bytes."""
        side = self.tile or _TILE
        pixels = min(width, side) * min(height, side)
        features = self.style.config.features / 16
        return round(60 * width * height + _BYTES_PER_PIXEL * features * pixels) + 100_000_000

    def apply(self, images: Tensor) -> Tensor:
        """Return images `[1, c, h, w]` in [-1, 1] in this style."""
        network, side = self.style.network, self.tile or _TILE
        device = next(network.parameters()).device
        with torch.no_grad(), network.statistics_of(_thumbnail(images, side).to(device)):
            return run_in_tiles(
                lambda tile: network(tile.to(device)).cpu(),
                images,
                tile=side,
                overlap=2 * network.reach,
                multiple=STRIDE,
            )


def load(model: str | Path, *, device: str = "cpu", tile: int = 0) -> TrainedStyle:
    """Load a trained style from a folder, run or sealed file.

    Raises ModelError if it is not a style, or as `danqing.load`.
    """
    files = open_source(model)
    learner, _ = model_folder.read_learner(files)
    if not isinstance(learner, Style):
        raise ModelError(
            f"{model} is not a style: train one by danqing train DATA --task style --style-image FILE, "
            "or leave the model out and give a style image."
        )
    digest = hashlib.sha256(files.read(WEIGHTS)).hexdigest()
    return TrainedStyle(learner.eval().requires_grad_(False).to(device), digest, tile)


def _thumbnail(images: Tensor, side: int) -> Tensor:
    height, width = images.shape[2:]
    scale = side / max(height, width)
    if scale >= 1:
        return images
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)
