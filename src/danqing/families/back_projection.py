"""Back-projection: move images so that their averages are exactly what their source images say.

A source image is an average of its target where it was made by `shrink` (over squares of pixels), by `gray`
(over colours), or by both. Of all images with that average, the projection is the one with the nearest
detail: each square or pixel moves by one value (Irani and Peleg 1991; Wang et al. 2023, "Zero-shot image
restoration using denoising diffusion null-space model", equation 10).

All images are `[n, c, h, w]` in [-1, 1]. A result depends only on the square around it, so that images can be
computed in tiles.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.data.degrade import averaged, luma

ROUNDS = 4
"""How often values outside of [-1, 1] are clamped and their squares moved again."""
_LEAST = 1e-6


def average_of(images: Tensor, source_channels: int, scale: int) -> Tensor:
    """Return the averages of images over colours and squares, their source images."""
    grey = images.shape[1] == 3 and source_channels == 1
    return averaged(luma(images) if grey else images, scale)


def moved(images: Tensor, source: Tensor, scale: int) -> Tensor:
    """Move each square by one value to average to the source.

    Values may leave [-1, 1]. With a grey source the values of all colours of a pixel move alike, which keeps
    the differences between them.
    """
    return images + _spread(source - average_of(images, source.shape[1], scale), scale)


def projected(images: Tensor, source: Tensor, scale: int) -> Tensor:
    """Return images in [-1, 1] that average to the source.

    They are near the given ones.
    """
    images = moved(images.clamp(-1, 1), source, scale)
    for last in [False] * (ROUNDS - 1) + [True]:
        fits = images.abs() <= 1
        if bool(fits.all()):
            break
        fits = _least_in_square(fits.to(images.dtype), source.shape[1], scale) > 0
        again = _fitted(images, source, scale) if last else moved(images.clamp(-1, 1), source, scale)
        images = torch.where(fits, images, again)  # a square does not depend on others
    return images


def _fitted(images: Tensor, source: Tensor, scale: int) -> Tensor:
    """Reduce the contrast of each square until it fits into [-1, 1], which keeps its average."""
    middle = _spread(source.clamp(-1, 1), scale)
    offset = images - middle
    room = 1 - middle * offset.sign()
    share = ((room + _LEAST) / offset.abs().clamp_min(_LEAST)).clamp_max(1)
    return (middle + offset * _least_in_square(share, source.shape[1], scale)).clamp(-1, 1)


def _spread(values: Tensor, scale: int) -> Tensor:
    """Repeat each value over its square."""
    return F.interpolate(values, scale_factor=float(scale)) if scale > 1 else values


def _least_in_square(values: Tensor, source_channels: int, scale: int) -> Tensor:
    """Return the least value of each square, repeated over it; of all colours where the source is grey."""
    if values.shape[1] == 3 and source_channels == 1:
        values = values.amin(1, keepdim=True)
    return _spread(-F.max_pool2d(-values, scale), scale) if scale > 1 else values
