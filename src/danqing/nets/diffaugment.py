"""DiffAugment: the same random changes to real and generated images, differentiable (Zhao et al. 2020).

Each function maps images `[n, c, h, w]` in [-1, 1] to images of the same shape; every image has its own
changes, drawn from `rng`, which lives on the images' device.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Augmentation = Literal["colour", "translation", "cutout"]


def augment(images: Tensor, kinds: Sequence[Augmentation], rng: torch.Generator) -> Tensor:
    """Apply the named augmentations in turn."""
    functions = {"colour": colour, "translation": translation, "cutout": cutout}
    for kind in kinds:
        images = functions[kind](images, rng)
    return images


def colour(images: Tensor, rng: torch.Generator) -> Tensor:
    """Change brightness, saturation and contrast.

    Brightness by up to ± 0.5, then saturation by a factor of 0 to 2, then contrast by 0.5 to 1.5.
    """
    brightness, saturation, contrast = _uniform(images, rng, 3).unbind(1)
    x = images + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (2 * saturation)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (contrast + 0.5)


def translation(images: Tensor, rng: torch.Generator, ratio: float = 0.125) -> Tensor:
    """Shift by up to a share of the sides.

    What comes in from outside is 0, the middle grey.
    """
    n, _, height, width = images.shape
    u = _uniform(images, rng, 2)[..., 0, 0]  # [n, 2, 1]
    rows, columns = _shifted(height, ratio, u[:, 0]), _shifted(width, ratio, u[:, 1])
    padded = F.pad(images, (1, 1, 1, 1)).permute(0, 2, 3, 1)  # places beyond the edge fall on this border
    image = torch.arange(n, device=images.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(images: Tensor, rng: torch.Generator, ratio: float = 0.5) -> Tensor:
    """Replace a rectangle, centred anywhere, by 0.

    ratio: of its sides to those of the image.
    """
    height, width = images.shape[-2:]
    sides = (int(height * ratio + 0.5), int(width * ratio + 0.5))
    centre = _uniform(images, rng, 2)[:, :, 0]  # [n, 2, 1, 1]
    y = torch.arange(height, device=images.device)[None, :, None] - (centre[:, 0] * height).floor()
    x = torch.arange(width, device=images.device)[None, None, :] - (centre[:, 1] * width).floor()
    tall = (y >= -(sides[0] // 2)) & (y < (sides[0] + 1) // 2)
    wide = (x >= -(sides[1] // 2)) & (x < (sides[1] + 1) // 2)
    return images * ~(tall & wide)[:, None]


def _shifted(side: int, ratio: float, u: Tensor) -> Tensor:
    """Where each place of a side, padded by one, is taken from: `[n, side]` for `u` `[n, 1]` in [0, 1)."""
    reach = int(side * ratio + 0.5)
    shift = ((2 * reach + 1) * u).floor().long() - reach
    return (torch.arange(1, side + 1, device=u.device) + shift).clamp(0, side + 1)


def _uniform(images: Tensor, rng: torch.Generator, count: int) -> Tensor:
    """`[n, count, 1, 1, 1]` in [0, 1)."""
    return torch.rand((len(images), count, 1, 1, 1), generator=rng, device=images.device)
