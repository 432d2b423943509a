"""Histograms of the directions of edges: features that no training needs (Dalal and Triggs 2005)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

DIRECTIONS = 8
"""Directions that are told apart: dark to bright at every 45 degrees."""
_NARROWNESS = 8
"""The power of the cosine by which an edge counts in a direction: half of its strength at 24 degrees."""
_FLAT = 1e-3
"""Added to strengths before a division or a root, so that flat areas have gradients of finite size."""


def edge_histograms(images: Tensor, places: int) -> Tensor:
    """Return the strength of edges by direction and part of an image.

    images: `[n, c, h, w]` in [-1, 1]. places: the image is divided into as many parts a side.
    Returns float32 `[n, DIRECTIONS, places, places]`. An edge counts by its strength, in the colour channel
    where that is largest, times a power of the cosine of its angle to the direction; the root of the sum
    makes strong edges count less.
    """
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="replicate")
    across = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    down = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    strength = (across.square() + down.square() + _FLAT**2).sqrt()
    strongest = strength.argmax(1, keepdim=True)
    across, down, strength = (x.gather(1, strongest) for x in (across, down, strength))
    angles = torch.arange(DIRECTIONS, device=images.device) * (2 * math.pi / DIRECTIONS)
    along = across * angles.cos().view(1, -1, 1, 1) + down * angles.sin().view(1, -1, 1, 1)
    counted = (along.relu() / strength) ** _NARROWNESS * strength
    return (F.adaptive_avg_pool2d(counted, places) + _FLAT**2).sqrt()
