"""Resizes floats as the images of training were resized: with Lanczos's filter down, bicubic up."""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from danqing.editing.windows import Size, Window

_BAND = 1 << 20


def resample(images: Tensor, size: Size, part: Window | None = None) -> Tensor:
    """Resize floats `[n, c, h, w]` to (width, height), without bounds on their values.

    part: only this window of the result is computed.
    """
    height, width = images.shape[-2:]
    if size == (width, height):
        return images if part is None else images[..., part.slices[0], part.slices[1]]
    across, down = width / size[0], height / size[1]
    is_shrinking = across > 1
    method = Image.Resampling.LANCZOS if is_shrinking else Image.Resampling.BICUBIC
    window = part or Window(0, 0, *size)
    box = (
        window.left * across,
        window.top * down,
        min((window.left + window.width) * across, width),
        min((window.top + window.height) * down, height),
    )
    gap = 3.0 if is_shrinking and part is None else None
    result = torch.empty(*images.shape[:2], window.height, window.width)
    for target, plane in zip(result.flatten(0, 1), images.flatten(0, 1), strict=True):
        picture = Image.fromarray(np.ascontiguousarray(plane.numpy()))
        resized = picture.resize((window.width, window.height), method, box=box, reducing_gap=gap)
        target.copy_(torch.from_numpy(np.array(resized)))
    return result


def bands(window: Window, scale: int = 1) -> Iterator[Window]:
    """Split a window into bands of whole rows, from top to bottom.

    A band has about a million pixels after it is enlarged by `scale`.
    """
    rows = max(1, _BAND // (window.width * scale**2))
    for top in range(window.top, window.top + window.height, rows):
        height = min(rows, window.top + window.height - top)
        yield Window(window.left, top, window.width, height)
