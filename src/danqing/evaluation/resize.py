"""Pictures brought to a feature network's size, a batch at a time: both ways that published scores use."""

import functools
from typing import Literal

import torch
from torch import Tensor

Resizer = Literal["antialiased", "legacy"]

_IN_WORDS: dict[Resizer, str] = {
    "antialiased": "antialiased bicubic",
    "legacy": "legacy bilinear (TensorFlow 1)",
}
_SHARPNESS = -0.5
"""Keys' parameter: Pillow's, and that of `interpolate(antialias=True)`."""


def in_words(size: tuple[int, int], resizer: Resizer = "antialiased") -> str:
    """Return what `prepared` does to images, as a score reports it."""
    return f"{_IN_WORDS[resizer]} to {size[0]}x{size[1]}, clamped to 0..255"


def prepared(images: Tensor, size: tuple[int, int], resizer: Resizer = "antialiased") -> Tensor:
    """Resize images to RGB of another size, float32 `[n, 3, h, w]`.

    images: levels `[n, h, w, c]` in [0, 255].
    size: width and height.

    Grey becomes RGB, and what is transparent shows white. `antialiased` is Pillow's bicubic filter without
    its rounding to whole levels (Parmar et al. 2022, "On Aliased Resizing"); `legacy` is TensorFlow 1's
    `resize_bilinear`, which shrinks by leaving pixels out, as the published FID values were made.
    """
    pixels = flattened(images)
    width, height = size
    if pixels.shape[-1] != width:
        pixels = pixels @ _weights(resizer, pixels.shape[-1], width).to(pixels.device).T
    if pixels.shape[-2] != height:
        pixels = _weights(resizer, pixels.shape[-2], height).to(pixels.device) @ pixels
    return pixels.clamp(0, 255).expand(-1, 3, -1, -1)


def flattened(images: Tensor) -> Tensor:
    """Remove the alpha of images, on white.

    images: levels `[n, h, w, c]`. Returns float32 `[n, 1 or 3, h, w]` in [0, 255].
    """
    pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    if pixels.shape[1] in (1, 3):
        return pixels
    colours, alpha = pixels[:, :-1], pixels[:, -1:] / 255
    flat = 255 + alpha * (colours - 255)
    return flat if images.is_floating_point() else flat.round()  # rounded levels would pass no gradient


@functools.lru_cache(maxsize=64)
def _weights(resizer: Resizer, old: int, new: int) -> Tensor:
    """What each old pixel of a row gives to each new one, `[new, old]`; its rows add up to 1.

    Both filters are linear and treat rows and columns alike, so that two products of matrices are the whole
    resizing: several times as fast on a processor as visiting the pixels.
    """
    scale = old / new
    if resizer == "legacy":
        places = torch.arange(new, dtype=torch.float32) * torch.tensor(scale, dtype=torch.float32)
        low = places.long()  # pixel 0 stays where it is: the half-pixel shift is what TensorFlow 1 forgot
        share = (places - low)[:, None]
        one_hot = torch.eye(old)
        return one_hot[low] * (1 - share) + one_hot[(low + 1).clamp_max(old - 1)] * share
    stretch = max(scale, 1.0)  # when shrinking, the filter widens to cover every old pixel
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * scale
    support = 2 * stretch
    first = (centres - support + 0.5).trunc().clamp_min(0)
    last = (centres + support + 0.5).trunc().clamp_max(old)
    old_places = torch.arange(old, dtype=torch.float64)
    weights = _cubic((old_places + 0.5 - centres[:, None]) / stretch)
    weights *= (old_places >= first[:, None]) & (old_places < last[:, None])
    return (weights / weights.sum(1, keepdim=True)).float()


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel (1981, eq. 4)."""
    a, x = _SHARPNESS, x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def images_at_once(size: tuple[int, int], budget_bytes: int = 64 * 2**20) -> int:
    """Return how many images to process at once, a power of two.

    size: width and height. budget_bytes: about how much working memory they take.
    """
    count = budget_bytes // (size[0] * size[1] * 4 * 4)
    return 1 << max(0, count.bit_length() - 1)
