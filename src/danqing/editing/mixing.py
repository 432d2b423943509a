"""The last step of edits of whole images: their result, mixed with the input, as pixels of its kind."""

import numpy as np
import torch
from torch import Tensor

from danqing.data.degrade import luma
from danqing.editing.contract import Values
from danqing.editing.pixels import Prepared, restore
from danqing.editing.resampling import bands
from danqing.editing.windows import Window


def mixed(
    made: Tensor, prepared: Prepared, strength: float, *, keep_channels: bool, keep_colors: bool = False
) -> Values:
    """Mix a result with the input.

    A few rows are mixed at a time, so that large images need little memory.

    made: `[1, c, h, w]`, of the shape of the prepared images; other values than [-1, 1] are clamped.
    strength: the share of the result. keep_channels: see `restore`.
    keep_colors: take the luma alone from the result, if the images have colours.
    """
    height, width = int(made.shape[2]), int(made.shape[3])
    whole: Values | None = None
    for band in bands(Window(0, 0, width, height)):
        rows = band.slices[0]
        images, result = prepared.images[:, :, rows], made[:, :, rows].clamp(-1, 1)
        if keep_colors and images.shape[1] == 3:
            result = with_luma_of(result, images)
        part = Prepared(images, prepared.values[rows], prepared.value_range)
        restored = restore(torch.lerp(images, result, strength), part, keep_channels=keep_channels)
        if whole is None:
            whole = np.empty((height, width, restored.shape[2]), prepared.values.dtype)
        whole[rows] = restored
    assert whole is not None
    return whole


def with_luma_of(made: Tensor, images: Tensor) -> Tensor:
    """Return images with the luma of others.

    The differences between red, green and blue stay exactly the same. Where they would leave the range of
    values with the new luma, the nearest possible luma is used.

    made: `[n, 3, h, w]` in [-1, 1], which have the new luma. images: of the same shape and range.
    """
    colours = images - luma(images)
    lowest, highest = -1 - colours.amin(1, keepdim=True), 1 - colours.amax(1, keepdim=True)
    return torch.minimum(torch.maximum(luma(made), lowest), highest) + colours
