"""Varies images of any size in windows, with the detail that is finer than the model's pixels."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danqing import options as rules
from danqing.editing import arrays
from danqing.editing.arrays import Array
from danqing.editing.batch import BatchResult
from danqing.editing.contract import ImageToEdit, Values
from danqing.editing.inputs import Source
from danqing.editing.pixels import prepare, restore
from danqing.editing.resampling import bands, resample
from danqing.editing.tiles import blending_weights
from danqing.editing.window_model import Request, WindowModel, are_levels, divided, opened
from danqing.editing.windows import Window, grid
from danqing.image_files import Range
from danqing.images import Images, on_white
from danqing.model.model import Model
from danqing.model.verb_options import STRENGTH
from danqing.trust.declaration import Declaration


@dataclass(frozen=True, eq=False)
class Vary:
    """An edit that varies whole images.

    The windows of `windows.grid` cover the image; they share the noise of their places and are blended where
    they overlap. A window that is larger than the model is varied at the model's size. What this size cannot
    show stays in a share of `1 - strength`.

    strength: from 0, which keeps the file, to 1, which keeps nothing of the image.
    tile, overlap: of the windows. are_levels: as `WindowModel.value_range` takes it.
    Raises ConfigError for another strength, and for a tile or an overlap below 0.
    """

    model: WindowModel
    strength: float = STRENGTH
    tile: int = 0
    overlap: int | None = None
    are_levels: bool = True

    def __post_init__(self) -> None:
        rules.check(strength=self.strength, tile=self.tile, overlap=self.overlap)

    @property
    def verb(self) -> str:
        return "vary"

    @property
    def settings(self) -> Mapping[str, Any]:
        own = {"strength": self.strength, "tile": self.tile, "overlap": self.overlap}
        return {**self.model.settings, **own}

    @property
    def declaration(self) -> Declaration:
        return self.model.declaration(self.verb)

    def changes(self, image: ImageToEdit) -> bool:
        return self.strength > 0

    def peak_bytes(self, width: int, height: int) -> int:
        rows = grid((width, height), self.model.shape, tile=self.tile, overlap=self.overlap)
        windows = len(rows) * len(rows[0])
        return width * height * (8 + 16 * self.model.channels) + self.model.peak_bytes(windows)

    def apply(self, image: ImageToEdit) -> Values:
        values, kept = image.values, 1 - self.strength
        height, width = values.shape[:2]
        changes = self._changes(values, image.seed)
        result = np.empty_like(values)
        for band in bands(Window(0, 0, width, height)):
            part = prepare(values[band.slices], self.model.channels, value_range=self._range(values))
            images = (changes[:, :, band.slices[0]] + kept * part.images).clamp_(-1, 1)
            if images.shape[1] in (2, 4) and values.shape[2] in (1, 3):
                images = on_white(images)
            result[band.slices] = restore(images, part, keep_channels=True)
        return result

    def _changes(self, values: Values, seed: int) -> Tensor:
        """Return what is added to the share of the image that stays, `[1, c, h, w]`."""
        height, width = values.shape[:2]
        rows = grid((width, height), self.model.shape, tile=self.tile, overlap=self.overlap)
        windows = [window for row in rows for window in row]
        size = (windows[0].width, windows[0].height)
        across = blending_weights([window.left for window in rows[0]], size[0], width)
        down = blending_weights([row[0].top for row in rows], size[1], height)
        changes = torch.zeros(1, self.model.channels, height, width)
        chunk = self.model.model.family.chunk
        for first in range(0, len(windows), chunk):
            some = windows[first : first + chunk]
            small = torch.cat([self._small(values, window) for window in some])
            varied = self.model.vary(small, self.strength, seed, some).clamp_(-1, 1)
            added = varied - (1 - self.strength) * small
            for number, window in enumerate(some, first):
                row, column = divmod(number, len(rows[0]))
                for band in bands(Window(0, 0, *size)):
                    part = resample(added[number - first][None], size, band)
                    part = part * (down[row, band.slices[0], None] * across[column])
                    top = window.top + band.top
                    place = (slice(top, top + band.height), window.slices[1])
                    changes[:, :, place[0], place[1]] += part
        return changes

    def _small(self, values: Values, window: Window) -> Tensor:
        """Return a window at the size of the model."""
        crop = values[window.slices]
        images = prepare(crop, self.model.channels, value_range=self._range(values)).images
        return resample(images, self.model.shape).clamp_(-1, 1)

    def _range(self, values: Values) -> Range | None:
        return self.model.value_range(values, are_levels=self.are_levels)


def vary(
    model: Model | str | Path,
    images: Images | Array | Source,
    *,
    out: str | Path | None = None,
    strength: float = STRENGTH,
    label: str | int | None = None,
    prompt: str | None = None,
    negative_prompt: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    seed: int = 0,
    tile: int = 0,
    overlap: int | None = None,
    **options: Any,
) -> Images | Array | BatchResult:
    """Make a variation of each image, at any size.

    strength: from 0, which keeps the image, to 1, which keeps nothing of it.
    tile, overlap: the longer side of the windows in pixels, and how far they overlap; 0 takes the largest
        windows that fit, and None a quarter of their side.
    options: as of `fill`; those of the model are in `model.options_of("vary")`.
    Other arguments and errors are those of `fill`.
    """
    used = opened(model)
    for_files, own = divided(options, used)
    request = Request(label, prompt, negative_prompt, attributes)
    window_model = WindowModel(used, "vary", request, own)
    edit = Vary(window_model, strength, tile, overlap, are_levels(images))
    bounds = None if edit.are_levels else window_model.model.value_range
    return arrays.apply(edit, images, out, seed=seed, value_range=bounds, **for_files)
