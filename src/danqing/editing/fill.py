"""Fills parts of images of any size: the model fills windows around a mask, and all else keeps its bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing import options as rules
from danqing.editing import arrays
from danqing.editing.arrays import Array
from danqing.editing.batch import BatchResult
from danqing.editing.contract import ImageToEdit, Values
from danqing.editing.inputs import Source
from danqing.editing.masks import Masked, Masks
from danqing.editing.pixels import prepare, restore
from danqing.editing.resampling import bands, resample
from danqing.editing.window_model import Request, WindowModel, are_levels, divided, opened
from danqing.editing.windows import Mask, Step, Window, lay, plan, resize_mask
from danqing.errors import ConfigError
from danqing.image_files import Range
from danqing.images import Images, on_white
from danqing.model.model import Model
from danqing.trust.declaration import Declaration


@dataclass(frozen=True, eq=False)
class Fill:
    """An edit that fills what masks cover.

    tile, overlap: of the windows, as `windows.plan` takes them.
    are_levels: as `WindowModel.value_range` takes it.
    Raises ConfigError for a tile or an overlap below 0.
    """

    model: WindowModel
    masks: Masks
    tile: int = 0
    overlap: int | None = None
    are_levels: bool = True

    def __post_init__(self) -> None:
        rules.check(tile=self.tile, overlap=self.overlap)

    @property
    def verb(self) -> str:
        return "fill"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {**self.model.settings, **self.masks.settings, "tile": self.tile, "overlap": self.overlap}

    @property
    def declaration(self) -> Declaration:
        return self.model.declaration(self.verb)

    def changes(self, image: ImageToEdit) -> bool:
        return not self.masks.is_empty(image)

    def peak_bytes(self, width: int, height: int) -> int:
        size = self.masks.size(width, height)
        distances = 24 if self.masks.grow or self.masks.feather else 0
        most = max(distances, 14 * self.model.channels)  # the mask is complete before a window is prepared
        return size[0] * size[1] * (14 + most) + self.model.peak_bytes(1)

    def kept(self, image: ImageToEdit) -> Mask:
        """Return which pixels of the image `[h, w]` stay as they are."""
        (height, width), (left, top, *_) = image.values.shape[:2], self.masks.expand
        kept: Mask = ~self.masks.of(image).where[top : top + height, left : left + width]
        return kept

    def apply(self, image: ImageToEdit) -> Values:
        masked = self.masks.of(image)
        for step in plan(masked.where, self.model.shape, tile=self.tile, overlap=self.overlap):
            self._take(step, masked, image.seed)
        return masked.canvas

    def _take(self, step: Step, masked: Masked, seed: int) -> None:
        """Fill one window of the canvas."""
        crop = masked.canvas[step.window.slices]
        images = prepare(crop, self.model.channels, value_range=self._range(crop)).images
        hidden = torch.from_numpy(step.hidden)
        for plane in images[0]:  # what is hidden must not shine through the edges of the mask
            plane[hidden] = plane[~hidden].mean().nan_to_num(0)
        small = resample(images, self.model.shape).clamp_(-1, 1)
        del images
        where = torch.from_numpy(resize_mask(step.hidden, self.model.shape))[None, None].float()
        filled = self.model.fill(small, where, seed, [step.window])
        weight = None if masked.weight is None else masked.weight[step.window.slices]
        for band in bands(_touched(step.filled)):
            fresh = resample(filled, (step.window.width, step.window.height), band).clamp(-1, 1)
            share = None if weight is None else torch.from_numpy(weight[band.slices])
            part = crop[band.slices]
            lay(part, step.filled[band.slices], self._mixed(part, fresh, share))

    def _mixed(self, values: Values, fresh: Tensor, weight: Tensor | None) -> Values:
        """Return new pixels as values, mixed with those that are there.

        A pixel is as opaque as the model made it, and opaque if the model does not know transparency.
        values: `[h, w, c]`. fresh: `[1, c, h, w]`, those of the model. weight: `[h, w]`, their share.
        """
        is_transparent, has_alpha = values.shape[2] in (2, 4), fresh.shape[1] in (2, 4)
        if has_alpha and not is_transparent:
            fresh = on_white(fresh)
        prepared = prepare(values, int(fresh.shape[1]), value_range=self._range(values))
        if weight is not None:
            fresh = torch.lerp(prepared.images, fresh, weight)
        if is_transparent and not has_alpha:
            opaque, top = values.copy(), np.iinfo(values.dtype).max
            alpha = values[:, :, -1].astype(np.float32)
            opaque[:, :, -1] = np.round(alpha + (top - alpha) * (1 if weight is None else weight.numpy()))
            prepared = prepared._replace(values=opaque)
        return restore(fresh, prepared, keep_channels=True)

    def _range(self, values: Values) -> Range | None:
        return self.model.value_range(values, are_levels=self.are_levels)


def fill(
    model: Model | str | Path,
    images: Images | Array | Source,
    *,
    out: str | Path | None = None,
    mask: str | Path | NDArray[np.bool_] | None = None,
    box: Sequence[int] | Sequence[Sequence[int]] = (),
    alpha: bool = False,
    invert: bool = False,
    grow: int = 0,
    feather: int = 0,
    expand: Sequence[int] = (0, 0, 0, 0),
    label: str | int | None = None,
    prompt: str | None = None,
    negative_prompt: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    seed: int = 0,
    tile: int = 0,
    overlap: int | None = None,
    **options: Any,
) -> Images | Array | BatchResult:
    """Generate a part of each image, at any size.

    Every byte outside of the mask stays.

    model: a model, its folder or its id on the hub.
    images: in memory or in files, as `editing.arrays.apply` takes them.
    out: where the results of files go: a file for one image, or a folder or zip.
    mask: a file for all images or a folder of files by name, white where to fill; or bool `[h, w]`.
    box: left, top, width and height of a part to fill, or several boxes.
    alpha, invert, grow, feather, expand: as of `editing.masks.Masks`.
    label, prompt, negative_prompt, attributes: what all images show.
    seed: an image's own seed depends on it and on the image's name or place.
    tile, overlap: the longer side of the windows in pixels, and how far they overlap; 0 and None choose.
    options: of the model, as in `model.options_of("fill")`; with `out` also n, strip, dry_run, sequence,
        memory, on_plan and on_progress of `editing.batch.edit_files`, and marks, compare and reference of
        `editing.arrays.apply`.
    Raises ConfigError and DataError as these do.
    """
    masks = Masks(
        source=Path(mask) if isinstance(mask, str | Path) else mask,
        boxes=_boxes(box),
        alpha=alpha,
        invert=invert,
        grow=grow,
        feather=feather,
        expand=_four("expand", expand),
    )
    used = opened(model)
    for_files, own = divided(options, used)
    request = Request(label, prompt, negative_prompt, attributes)
    edit = Fill(WindowModel(used, "fill", request, own), masks, tile, overlap, are_levels(images))
    if out is not None:
        for_files["extra"] = masks.own
    bounds = None if edit.are_levels else edit.model.model.value_range
    return arrays.apply(edit, images, out, seed=seed, value_range=bounds, **for_files)


def _boxes(box: Sequence[int] | Sequence[Sequence[int]]) -> tuple[Window, ...]:
    """Return boxes, of which one may be given without a list around it; raises ConfigError."""
    is_one = len(box) > 0 and np.ndim(box[0]) == 0
    return tuple(Window(*_four("box", each)) for each in cast(Any, [box] if is_one else box))


def _four(name: str, numbers: Sequence[int]) -> tuple[int, int, int, int]:
    """Return four numbers; raises ConfigError for any other."""
    if np.shape(numbers) != (4,) or not all(isinstance(each, Integral) for each in numbers):
        raise ConfigError(f"{name} has four whole numbers, and {numbers!r} is not that.", name)
    first, second, third, fourth = (int(each) for each in numbers)
    return first, second, third, fourth


def _touched(where: Mask) -> Window:
    """Return the smallest window around all true pixels, of which there must be one."""
    ys, xs = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
    return Window(int(xs[0]), int(ys[0]), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1)
