"""Random changes of training images for recognition, which leave what an image shows as it is.

Each function takes images `[n, c, h, w]` in [-1, 1] and draws from `rng`, which lives on their device; every
image has its own changes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def shift(images: Tensor, rng: torch.Generator, share: float) -> Tensor:
    """Move each image by up to a share of its sides.

    Its edge pixels are repeated.
    """
    n, _, height, width = images.shape
    drawn = torch.rand(2, n, 1, generator=rng, device=images.device) * 2 - 1
    rows, columns = (
        (torch.arange(side, device=images.device) + (u * side * share).round().long()).clamp(0, side - 1)
        for side, u in zip((height, width), drawn, strict=True)
    )
    image = torch.arange(n, device=images.device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def mirror(images: Tensor, rng: torch.Generator, probability: float) -> Tensor:
    """Turn each image into its mirror image with a probability."""
    chosen = torch.rand(len(images), generator=rng, device=images.device) < probability
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def mix(images: Tensor, targets: Tensor, rng: torch.Generator, most: float) -> tuple[Tensor, Tensor]:
    """Mix each image and its targets with another (Zhang et al. 2018, mixup).

    targets: `[n, k]` floats. most: the largest share of the other image, in [0, 0.5]; shares are uniform.
    """
    n = len(images)
    other = torch.randperm(n, generator=rng, device=images.device)
    share = torch.rand(n, generator=rng, device=images.device) * most
    blended = torch.lerp(images, images[other], share[:, None, None, None])
    return blended, torch.lerp(targets, targets[other], share[:, None])


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Turn labels `[n]` into targets `[n, classes]` float32.

    -1 gives zeros, which count for nothing.
    """
    known = labels >= 0
    return F.one_hot(labels.clamp_min(0), classes).float() * known[:, None]
