"""Edits at a limited size: what a network makes of a smaller copy of an image, at the size of the image."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F


def limited(function: Callable[[Tensor], Tensor], images: Tensor, side: int) -> Tensor:
    """Apply a function to images whose longer side is at most `side`.

    The result for a larger image is enlarged, and gets the details that shrinking the image has removed.

    function: from `[n, c, h, w]` to the same shape. images: `[n, c, h, w]`.
    """
    height, width = images.shape[2:]
    scale = side / max(height, width)
    if scale >= 1:
        return function(images)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = F.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)
    # The change is smooth where the function's result and its input are alike, so it is what is enlarged.
    change = F.interpolate(function(small) - small, (height, width), mode="bicubic")
    return change.add_(images)


def padded(function: Callable[[Tensor], Tensor], images: Tensor, side: int) -> Tensor:
    """Apply a function to images with sides of at least `side`.

    Smaller images are padded: their last pixels are repeated.

    function: from `[n, c, h, w]` to the same shape. images: `[n, c, h, w]`.
    """
    height, width = images.shape[2:]
    missing = (0, max(0, side - width), 0, max(0, side - height))
    if not any(missing):
        return function(images)
    return function(F.pad(images, missing, mode="replicate"))[:, :, :height, :width]
