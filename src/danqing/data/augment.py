"""Augmentation of whole batches, deterministic in (seed, images seen)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from danqing.data.boxes import clipped
from danqing.data.targets import Targets
from danqing.images import to_float
from danqing.randomness import generator


class Augment(BaseModel):
    """How much training images may change; everything is off by default.

    flip: probability of a mirror image (true means 0.5). rotation: by up to this many degrees either way.
    scale: up to (1 + scale) times larger or smaller. crop: shifted by up to this fraction of each side, with
    a mirrored border. colour: brightness, contrast and saturation vary by up to this fraction, but not
    transparency.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip: bool | float = Field(False, ge=0, le=1)
    rotation: float = Field(0.0, ge=0, le=180)
    scale: float = Field(0.0, ge=0, le=1)
    crop: float = Field(0.0, ge=0, le=0.5)
    colour: float = Field(0.0, ge=0, le=1)

    @property
    def is_off(self) -> bool:
        return not (self.flip or self.rotation or self.scale or self.crop or self.colour)

    def apply(
        self, images: Tensor, seed: int, images_seen: int, *, first: int = 0, of: int | None = None
    ) -> Tensor:
        """Change images uint8 or uint16 `[n, h, w, c]`.

        first, of: the images are those from row `first` on in a batch of `of` images. They change as they do
            in the whole batch.
        Returns float32 `[n, c, h, w]` in [-1, 1], channels-last.
        """
        if self.is_off:
            return to_float(images)
        rng = generator(seed, "augment", images_seen)
        dtype, whole = images.dtype, len(images) if of is None else of
        rows = slice(first, first + len(images))
        change = self._drawn(whole, images.shape[1] / images.shape[2], rng)[rows]
        if dtype == torch.uint16:  # torch can move few unsigned types; the sign does not matter
            images = images.view(torch.int16)
        result = to_float(change.in_pixels(images).view(dtype))
        if change.matrices is not None:
            result = _turned(result, change.matrices)
        if self.colour:
            draws = (torch.rand(whole, 3, generator=rng) * 2 - 1) * self.colour
            result = recoloured(result, draws[rows].to(result.device))
        return result.contiguous(memory_format=torch.channels_last)

    def apply_to_targets(
        self,
        targets: Targets,
        size: tuple[int, int],
        seed: int,
        images_seen: int,
        *,
        first: int = 0,
        of: int | None = None,
    ) -> Targets:
        """Change masks and boxes as `apply` changes their images.

        size: the (width, height) of the images. A mask keeps its values, and boxes that leave the image are
        dropped. The box of a turned object is the one around its turned box.
        """
        if self.is_off or (targets.mask is None and targets.boxes is None):
            return targets
        n = len(targets.mask if targets.mask is not None else cast(Tensor, targets.boxes))
        rng = generator(seed, "augment", images_seen)
        change = self._drawn(n if of is None else of, size[1] / size[0], rng)[first : first + n]
        if targets.mask is not None:
            mask = change.in_pixels(targets.mask[..., None])
            if change.matrices is not None:
                floats = mask.permute(0, 3, 1, 2).float()
                turned = F.grid_sample(floats, _grid(floats, change.matrices), "nearest", "reflection", False)
                mask = turned.to(torch.uint8).permute(0, 2, 3, 1)
            targets = replace(targets, mask=mask[..., 0].contiguous())
        if targets.boxes is not None:
            assert targets.box_labels is not None
            boxes, kept = clipped(change.of_boxes(targets.boxes, size), size)
            kept &= targets.box_labels >= 0
            order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)  # the boxes that are kept come first
            boxes = torch.where(kept[..., None], boxes, 0.0)
            labels = targets.box_labels.where(kept, -1)
            boxes = boxes.gather(1, order[..., None].expand_as(boxes))
            targets = replace(targets, boxes=boxes, box_labels=labels.gather(1, order))
        return targets

    def _drawn(self, n: int, aspect: float, rng: torch.Generator) -> "_Change":
        """Draw how n images move; `aspect` is height / width."""
        flips = None
        if self.flip:
            chance = 0.5 if self.flip is True else float(self.flip)
            flips = torch.rand(n, generator=rng) < chance
        shift = (torch.rand(n, 2, generator=rng) * 2 - 1) * self.crop if self.crop else torch.zeros(n, 2)
        if not (self.rotation or self.scale):
            return _Change(flips, shift if self.crop else None, None)
        return _Change(flips, None, self._matrices(n, shift, aspect, rng))

    def _matrices(self, n: int, shift: Tensor, aspect: float, rng: torch.Generator) -> Tensor:
        """Return affine maps `[n, 2, 3]` from target to source positions; `aspect` is height / width."""
        angle = (torch.rand(n, generator=rng) * 2 - 1) * math.radians(self.rotation)
        zoom = torch.exp((torch.rand(n, generator=rng) * 2 - 1) * math.log1p(self.scale))
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        rows = [cos, -sin * aspect, 2 * shift[:, 0], sin / aspect, cos, 2 * shift[:, 1]]
        return torch.stack(rows, dim=1).view(n, 2, 3)


@dataclass(frozen=True, slots=True)
class _Change:
    """How the images of a batch move.

    flips: `[n]`, which are mirrored. shift: `[n, 2]`, by which share of the sides they are moved in whole
    pixels, x first. matrices: `[n, 2, 3]`, from target to source positions in [-1, 1]. None for no change.
    """

    flips: Tensor | None
    shift: Tensor | None
    matrices: Tensor | None

    def __getitem__(self, rows: slice) -> "_Change":
        parts = (self.flips, self.shift, self.matrices)
        return _Change(*(None if part is None else part[rows] for part in parts))

    def in_pixels(self, images: Tensor) -> Tensor:
        """Mirror and move images `[n, h, w, c]` in whole pixels."""
        if self.flips is not None:
            images = torch.where(self.flips.to(images.device)[:, None, None, None], images.flip(2), images)
        return images if self.shift is None else _shifted(images, self.shift.to(images.device))

    def of_boxes(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Return where boxes `[n, most, 4]` are in the changed images, not clipped."""
        sides = torch.tensor(size, dtype=boxes.dtype, device=boxes.device)
        if self.flips is not None:
            mirrored = torch.stack(
                [size[0] - boxes[..., 2], boxes[..., 1], size[0] - boxes[..., 0], boxes[..., 3]], -1
            )
            boxes = torch.where(self.flips.to(boxes.device)[:, None, None], mirrored, boxes)
        if self.shift is not None:
            moved = (self.shift.to(boxes.device) * sides).round()
            boxes = boxes - moved.repeat(1, 2)[:, None]
        if self.matrices is None:
            return boxes
        matrices = self.matrices.to(boxes.device)
        corners = boxes[..., [0, 1, 2, 1, 0, 3, 2, 3]].unflatten(-1, (4, 2)) / sides * 2 - 1
        turn, shift = matrices[:, None, None, :, :2], matrices[:, None, None, :, 2]
        corners = torch.linalg.solve(turn, (corners - shift)[..., None])[..., 0]  # from source to target
        corners = (corners + 1) / 2 * sides
        return torch.cat([corners.amin(-2), corners.amax(-2)], -1)


def _shifted(images: Tensor, shift: Tensor) -> Tensor:
    """Move each image `[h, w, c]` by its fraction of the sides in whole pixels, mirrored at the border."""
    n, height, width, _ = images.shape
    rows = _mirrored(
        torch.arange(height, device=images.device) + (shift[:, 1:] * height).round().long(), height
    )
    columns = _mirrored(
        torch.arange(width, device=images.device) + (shift[:, :1] * width).round().long(), width
    )
    number = torch.arange(n, device=images.device)[:, None, None]
    return images[number, rows[:, :, None], columns[:, None, :]]


def _mirrored(index: Tensor, length: int) -> Tensor:
    index = index.remainder(2 * length)
    return torch.where(index >= length, 2 * length - 1 - index, index)


def _turned(images: Tensor, matrices: Tensor) -> Tensor:
    """Apply each image's affine map, bilinear."""
    grid = _grid(images, matrices)

    def turned(images: Tensor) -> Tensor:
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    return weighted_by_alpha(images, turned).clamp_(-1, 1)


def _grid(images: Tensor, matrices: Tensor) -> Tensor:
    return F.affine_grid(matrices.to(images.device), list(images.shape), align_corners=False)


def weighted_by_alpha(images: Tensor, average: Callable[[Tensor], Tensor]) -> Tensor:
    """Average pixels `[n, c, h, w]` in [-1, 1] with colours weighted by alpha.

    Hidden colours stay hidden.
    average: replaces pixels by linear combinations of others, in each channel alike.
    """
    if images.shape[1] not in (2, 4):
        return average(images)
    alpha = (images[:, -1:] + 1) / 2
    images = average(torch.cat([(images[:, :-1] + 1) * alpha, alpha], dim=1))
    alpha = images[:, -1:]
    return torch.cat([images[:, :-1] / alpha.clamp_min(1 / 512) - 1, alpha * 2 - 1], dim=1)


def recoloured(images: Tensor, changes: Tensor) -> Tensor:
    """Change saturation, contrast and brightness of images, but not their transparency.

    images: `[n, c, h, w]` in [-1, 1]; so are the results.
    changes: `[n, 3]`. Saturation and contrast are multiplied by 1 + change, brightness is shifted by it.
    """
    saturation, contrast, brightness = changes[:, :, None, None, None].unbind(1)
    channels = images.shape[1]
    colours = channels - (channels in (2, 4))
    picture = images[:, :colours]
    if colours == 3:
        grey = picture.mean(dim=1, keepdim=True)
        picture = grey + (picture - grey) * (1 + saturation)
    middle = picture.mean(dim=(1, 2, 3), keepdim=True)
    picture = (middle + (picture - middle) * (1 + contrast) + brightness).clamp(-1, 1)
    return torch.cat([picture, images[:, colours:]], dim=1) if colours < channels else picture
