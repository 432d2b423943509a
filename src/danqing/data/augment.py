"""Augmentation of whole batches, deterministic in (seed, images seen)."""

import math
from collections.abc import Callable

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

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

    def apply(self, images: Tensor, seed: int, images_seen: int) -> Tensor:
        """Change images uint8 or uint16 `[n, h, w, c]`.

        Returns float32 `[n, c, h, w]` in [-1, 1], channels-last.
        """
        if self.is_off:
            return to_float(images)
        rng = generator(seed, "augment", images_seen)
        n, dtype = images.shape[0], images.dtype
        if dtype == torch.uint16:  # torch can move few unsigned types; the sign does not matter
            images = images.view(torch.int16)
        if self.flip:
            chance = 0.5 if self.flip is True else float(self.flip)
            chosen = (torch.rand(n, generator=rng) < chance).to(images.device)
            images = torch.where(chosen[:, None, None, None], images.flip(2), images)
        turns = bool(self.rotation or self.scale)
        shift = (torch.rand(n, 2, generator=rng) * 2 - 1) * self.crop if self.crop else torch.zeros(n, 2)
        if self.crop and not turns:
            images = _shifted(images, shift.to(images.device))
        result = to_float(images.view(dtype))
        if turns:
            result = _turned(result, self._matrices(n, shift, result.shape[2] / result.shape[3], rng))
        if self.colour:
            result = _recoloured(result, self.colour, rng)
        return result.contiguous(memory_format=torch.channels_last)

    def _matrices(self, n: int, shift: Tensor, aspect: float, rng: torch.Generator) -> Tensor:
        """Return affine maps `[n, 2, 3]` from target to source positions; `aspect` is height / width."""
        angle = (torch.rand(n, generator=rng) * 2 - 1) * math.radians(self.rotation)
        zoom = torch.exp((torch.rand(n, generator=rng) * 2 - 1) * math.log1p(self.scale))
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        rows = [cos, -sin * aspect, 2 * shift[:, 0], sin / aspect, cos, 2 * shift[:, 1]]
        return torch.stack(rows, dim=1).view(n, 2, 3)


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
    grid = F.affine_grid(matrices.to(images.device), list(images.shape), align_corners=False)

    def turned(images: Tensor) -> Tensor:
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    return weighted_by_alpha(images, turned).clamp_(-1, 1)


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


def _recoloured(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    n, channels = images.shape[:2]
    draws = ((torch.rand(n, 3, generator=rng) * 2 - 1) * strength).to(images.device)[:, :, None, None, None]
    colours = channels - (channels in (2, 4))
    picture = images[:, :colours]
    if colours == 3:
        grey = picture.mean(dim=1, keepdim=True)
        picture = grey + (picture - grey) * (1 + draws[:, 0])
    middle = picture.mean(dim=(1, 2, 3), keepdim=True)
    picture = (middle + (picture - middle) * (1 + draws[:, 1]) + draws[:, 2]).clamp(-1, 1)
    return torch.cat([picture, images[:, colours:]], dim=1) if colours < channels else picture
