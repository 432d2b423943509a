"""Turns images of any size into others, with a model that learned it or from one label to another.

A model of convolutions alone computes an image in tiles, exactly. Any other model sees windows of the size of
its source images, which share the noise of their places and are blended where they overlap.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from danqing import options as rules
from danqing.editing import arrays
from danqing.editing.arrays import Array
from danqing.editing.batch import BatchResult
from danqing.editing.contract import ImageToEdit, Values
from danqing.editing.exact_average import averaging_to
from danqing.editing.inputs import Source
from danqing.editing.pixels import Prepared, enlarged_alpha, prepare, restore
from danqing.editing.resampling import bands, resample
from danqing.editing.tiles import blending_weights, tiles_of
from danqing.editing.window_model import Request, WindowModel, are_levels, divided, opened
from danqing.editing.windows import Window, grid
from danqing.families.abilities import IsConvolutional
from danqing.families.back_projection import projected
from danqing.image_files import Range
from danqing.images import Images
from danqing.model.model import Model
from danqing.trust.declaration import Declaration

_LEAST_TILE = 256


@dataclass(frozen=True, eq=False)
class Translation:
    """An edit that turns each image into another.

    verb: the command that it belongs to.
    whole: whether an image is shown to the model whole, at the size of its source images, and the result
        resized back; otherwise the model sees its pixels as they are, in tiles or windows.
    keep_channels: whether a grey image stays grey, and a coloured one coloured.
    strength: how much of the result counts, beside the image; 0 keeps the file.
    tile: the side of tiles or windows in pixels, 0 chooses. overlap: of these, None chooses.
    are_levels: as `WindowModel.value_range` takes it.
    Raises ConfigError for another strength, and for a tile or an overlap below 0.
    """

    model: WindowModel
    verb: str = "translate"
    whole: bool = False
    keep_channels: bool = False
    strength: float = 1.0
    tile: int = 0
    overlap: int | None = None
    are_levels: bool = True

    def __post_init__(self) -> None:
        rules.check(strength=self.strength, tile=self.tile, overlap=self.overlap)

    @property
    def settings(self) -> Mapping[str, Any]:
        own = {"strength": self.strength, "tile": self.tile, "overlap": self.overlap}
        return {**self.model.settings, **own}

    @property
    def scale(self) -> int:
        """Return how many times larger results are than images."""
        return self.model.model.family.config.source_scale

    @property
    def declaration(self) -> Declaration:
        return self.model.declaration(self.verb)

    def changes(self, image: ImageToEdit) -> bool:
        return self.strength > 0 and self.model.options.get("strength", 1.0) > 0

    @property
    def keeps_averages(self) -> bool:
        """Return whether results average exactly to the image."""
        return self.scale > 1 and self.model.model.family.config.source_is_average

    def peak_bytes(self, width: int, height: int) -> int:
        pixels, large = width * height, width * height * self.scale**2
        floats = 4 * self.model.model.family.config.channels
        if self._convolutional is not None:
            tile = self._tiling.tile
            return 4 * floats * pixels + 6 * large + self.model.peak_bytes(1, (tile, tile))
        rows = self._windows(width, height)
        waiting = 3 * floats * width * min(height, rows[0][0].height) * self.scale**2
        windows = self.model.peak_bytes(len(rows) * len(rows[0]))
        return 4 * floats * pixels + 6 * large + waiting + windows

    def apply(self, image: ImageToEdit) -> Values:
        values = image.values
        channels = self.model.channels
        is_coloured = values.shape[2] >= 3
        if self.keep_channels and channels == 1 and is_coloured:
            channels = 3  # each colour is edited alone
        prepared = prepare(values, channels, value_range=self._range(values))
        if self._convolutional is not None:
            return self._in_tiles(prepared)
        return self._in_windows(prepared, image.seed)

    # Convolutions alone: tiles
    @functools.cached_property
    def _convolutional(self) -> IsConvolutional | None:
        """Return the family if it computes in tiles; it does not where images are shown whole."""
        family = self.model.model.family
        return family if isinstance(family, IsConvolutional) and not self.whole else None

    @property
    def _tiling(self) -> "_Tiling":
        assert self._convolutional is not None
        reach, multiple = self._convolutional.receptive_radius, self._convolutional.stride
        overlap = 2 * reach if self.overlap is None else self.overlap
        return _Tiling(self.tile or max(_LEAST_TILE, 3 * overlap), overlap, multiple)

    def _in_tiles(self, prepared: Prepared) -> Values:
        values, images, scale = prepared.values, prepared.images, self.scale
        tiling, alpha = self._tiling._asdict(), self._enlarged_alpha(values)

        def compute(part: Tensor) -> Tensor:
            return self._by_colour(lambda images: self.model.translate(images, 0), part)

        result: Values | None = None
        for place, made in tiles_of(compute, images, **tiling, scale=scale):
            rows, columns = (slice(side.start // scale, side.stop // scale) for side in place.slices)
            part = Prepared(images[:, :, rows, columns], values[rows, columns], prepared.value_range)
            restored = self._restored(made, part, None if alpha is None else alpha[place.slices])
            if result is None:
                size = (values.shape[0] * scale, values.shape[1] * scale)
                result = np.empty((*size, restored.shape[2]), values.dtype)
            result[place.slices] = restored
        assert result is not None
        return result

    # Other networks: windows
    def _windows(self, width: int, height: int) -> list[list[Window]]:
        """Return the windows that cover an image, in rows."""
        shape = self.model.shape
        if self.whole:
            return grid((width, height), shape, tile=self.tile, overlap=self.overlap)
        width, height = max(width, shape[0]), max(height, shape[1])
        return grid((width, height), shape, tile=self.tile or max(shape), overlap=self.overlap)

    def _in_windows(self, prepared: Prepared, seed: int) -> Values:
        values, scale, alpha = prepared.values, self.scale, self._enlarged_alpha(prepared.values)
        height, width = values.shape[:2]
        result: Values | None = None
        for first, finished in self._blended(prepared.images, seed):
            rows = min(finished.shape[2] // scale, height - first)
            for band in bands(Window(0, first, width, rows), scale):
                large = slice(scale * band.top, scale * (band.top + band.height))
                part = finished[
                    :, :, large.start - scale * first : large.stop - scale * first, : scale * width
                ]
                source = prepared.images[:, :, band.slices[0]]
                if self.model.model.family.config.source_is_average:
                    part = projected(part, source, scale)
                kept = Prepared(source, values[band.slices[0]], prepared.value_range)
                restored = self._restored(part, kept, None if alpha is None else alpha[large])
                if result is None:
                    result = np.empty((height * scale, *restored.shape[1:]), values.dtype)
                result[large] = restored
        assert result is not None
        return result

    def _blended(self, images: Tensor, seed: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the blended results of all windows, as soon as rows are finished.

        Each is the first row of the image that it shows, and `[1, c, scale · rows, scale · w]`. An image
        smaller than a window has more rows and columns.
        """
        height, width = int(images.shape[2]), int(images.shape[3])
        rows, scale = self._windows(width, height), self.scale
        windows = [window for row in rows for window in row]
        size = (windows[0].width, windows[0].height)
        high, wide = max(height, size[1]), max(width, size[0])
        if (high, wide) != (height, width):  # an image that is smaller than the model's
            images = F.pad(images, (0, wide - width, 0, high - height), mode="replicate")
        lefts, tops = [window.left for window in rows[0]], [row[0].top for row in rows]
        across = blending_weights([scale * left for left in lefts], scale * size[0], scale * wide)
        down = blending_weights([scale * top for top in tops], scale * size[1], scale * high)
        chunk, begin = self.model.model.family.chunk, 0
        waiting: Tensor | None = None  # the rows from `begin` on, of which other windows may show a part
        for first in range(0, len(windows), chunk):
            some = windows[first : first + chunk]
            seen = [resample(images[:, :, w.slices[0], w.slices[1]], self.model.shape) for w in some]

            def compute(part: Tensor, some: list[Window] = some) -> Tensor:
                return self.model.translate(part, seed, some * (len(part) // len(some)))

            made = self._by_colour(compute, torch.cat(seen).clamp_(-1, 1))
            if waiting is None:
                waiting = torch.zeros(1, made.shape[1], 0, scale * wide)
            missing = scale * (some[-1].top + size[1] - begin) - waiting.shape[2]
            waiting = F.pad(waiting, (0, 0, 0, max(0, missing)))
            for number, window in enumerate(some, first):
                row, column = divmod(number, len(rows[0]))
                for band in bands(Window(0, 0, scale * size[0], scale * size[1])):
                    part = resample(made[number - first][None], (scale * size[0], scale * size[1]), band)
                    part = part * (down[row, band.slices[0], None] * across[column])
                    top, left = scale * (window.top - begin) + band.top, scale * window.left
                    waiting[:, :, top : top + part.shape[2], left : left + part.shape[3]] += part
            end = windows[first + chunk].top if first + chunk < len(windows) else high
            if end > begin:
                yield begin, waiting[:, :, : scale * (end - begin)]
                waiting, begin = waiting[:, :, scale * (end - begin) :].clone(), end

    # Both
    def _by_colour(self, function: Any, images: Tensor) -> Tensor:
        """Apply a function to images, or to each of their colours where the model has only grey."""
        n, channels = images.shape[:2]
        if channels == self.model.channels or channels != 3:
            found: Tensor = function(images)
            return found
        alone = images.transpose(0, 1).flatten(0, 1)[:, None]  # all images in red, in green, in blue
        made: Tensor = function(alone)
        return made.reshape(channels, n, *made.shape[2:]).transpose(0, 1).contiguous()

    def _enlarged_alpha(self, values: Values) -> Values | None:
        """Return the alpha of the result, where it has another size than that of the image."""
        if self.scale == 1 or values.shape[2] not in (2, 4):
            return None
        return enlarged_alpha(values, self.scale)

    def _restored(self, made: Tensor, prepared: Prepared, alpha: Values | None) -> Values:
        """Return results `[1, c, scale · h, scale · w]` as values, mixed with the image.

        alpha: of the results, None for that of the image.
        """
        if self.strength < 1:
            made = torch.lerp(prepared.images, made, self.strength)
        restored = restore(made, prepared, keep_channels=self.keep_channels, alpha=alpha)
        is_average = self.model.model.family.config.source_is_average
        if is_average and self.scale > 1 and prepared.values.shape[2] == restored.shape[2] in (1, 3):
            return averaging_to(restored, prepared.values, self.scale)
        return restored

    def _range(self, values: Values) -> Range | None:
        return self.model.value_range(values, are_levels=self.are_levels)


class _Tiling(NamedTuple):
    """The arguments of `tiles_of`."""

    tile: int
    overlap: int
    multiple: int


def translate(
    model: Model | str | Path,
    images: Images | Array | Source,
    *,
    out: str | Path | None = None,
    label: str | int | None = None,
    source_label: str | int | None = None,
    prompt: str | None = None,
    negative_prompt: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    seed: int = 0,
    tile: int = 0,
    overlap: int | None = None,
    **options: Any,
) -> Images | Array | BatchResult:
    """Translate each image into its counterpart, at any size.

    model: one that learned from source images, or images with labels; its folder, or its id on the hub.
    images: in memory or in files, as `editing.arrays.apply` takes them.
    out: where the results of files go: a file for one image, or a folder or zip.
    label, prompt, negative_prompt, attributes: what all results show.
    source_label: what all images show, for a model that learned images with labels.
    seed: an image's own seed depends on it and on the image's name or place.
    tile: 0 passes each image whole to the model, at the size that the model learned, and resizes the result
        back. A number of pixels divides it into tiles of this side.
    overlap: of tiles; None chooses.
    options: of the model, as in `model.sample_options`; with `out` also those of files, as of `fill`.
    Raises ConfigError and DataError as these do.
    """
    used = opened(model)
    for_files, own = divided(options, used)
    request = Request(label, prompt, negative_prompt, attributes, source_label)
    edit = Translation(
        WindowModel(used, "translate", request, own),
        whole=not tile,
        tile=tile,
        overlap=overlap,
        are_levels=are_levels(images),
    )
    return run(edit, images, out, seed, for_files)


def run(
    edit: Translation,
    images: Images | Array | Source,
    out: str | Path | None,
    seed: int,
    for_files: Mapping[str, Any],
) -> Images | Array | BatchResult:
    """Apply a translation to images in memory or in files.

    images, out: as `editing.arrays.apply` takes them.
    """
    bounds = None if edit.are_levels else edit.model.model.value_range
    return arrays.apply(edit, images, out, seed=seed, value_range=bounds, **for_files)
