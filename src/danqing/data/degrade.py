"""Degradations on the fly: they make the source images of a model that learns to restore images.

`"blur,down4,noise,jpeg"` lists steps, which are applied in that order. A step without a number draws its
strength for each image and epoch; `noise0.1` always has that strength. After `shrink4` the source image is
smaller than its target, for a model that enlarges images.
"""

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from danqing.data.augment import weighted_by_alpha
from danqing.data.dataset import Dataset
from danqing.data.dose import with_dose
from danqing.errors import ConfigError
from danqing.images import to_float, to_pil, to_uint8
from danqing.randomness import derived_seed, generator, normal

_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey value (ITU-R BT.601), as in JPEG."""


class _Kind(NamedTuple):
    """A kind of step.

    low, high: of strengths that are drawn; 0 and 0 where none is drawn. least, most: of a strength that is
    given. whole: whether it is a whole number. words: what it does, with {} for the strength.
    """

    low: float
    high: float
    least: float
    most: float
    whole: bool
    words: str


KINDS = {
    "blur": _Kind(0.4, 2.0, 0.1, 20, False, "blur of {} pixels"),
    "down": _Kind(2, 4, 2, 32, True, "sides divided by {} and enlarged again"),
    "noise": _Kind(0.02, 0.2, 0.001, 1, False, "noise of {} of the range of values"),
    "jpeg": _Kind(20, 80, 1, 95, True, "JPEG of quality {}"),
    "gray": _Kind(0, 0, 0, 0, False, "grey"),
    "dose": _Kind(2_000, 50_000, 100, 100_000, True, "X-ray noise of {} photons per ray"),
    "shrink": _Kind(0, 0, 2, 16, True, "sides divided by {}"),
}
"""The steps by their names. The strength of blur and noise is a standard deviation."""


class Step(NamedTuple):
    """One step; strength: None draws it for each image."""

    kind: str
    strength: float | None

    def draw(self, uniforms: Tensor) -> Tensor:
        """Turn uniform numbers in [0, 1) `[n]` into strengths `[n]`."""
        kind = KINDS[self.kind]
        if self.strength is not None:
            return torch.full_like(uniforms, self.strength)
        if kind.whole:
            return kind.low + (uniforms * (kind.high - kind.low + 1)).floor()
        return kind.low + uniforms * (kind.high - kind.low)

    def in_words(self) -> str:
        """Return what it does, in a few words."""
        kind = KINDS[self.kind]
        drawn = f"{kind.low:g} to {kind.high:g}"
        return kind.words.format(drawn if self.strength is None else f"{self.strength:g}")


class Degradation:
    """The steps of a description such as `"blur,down4,jpeg"`; raises ConfigError."""

    def __init__(self, description: str) -> None:
        self.steps = tuple(_parsed(part.strip(), description) for part in description.split(","))

    @property
    def scale(self) -> int:
        """Return how many times smaller a degraded image is."""
        return math.prod(int(step.strength or 1) for step in self.steps if step.kind == "shrink")

    @property
    def is_average(self) -> bool:
        """Return whether degraded values are plain averages of the image's values."""
        return all(step.kind in ("shrink", "gray") for step in self.steps)

    def channels(self, channels: int) -> int:
        """Return the channels of a degraded image; grey keeps alpha."""
        is_gray = any(step.kind == "gray" for step in self.steps)
        return 2 - channels % 2 if is_gray else channels

    def in_words(self) -> str:
        """Return what the steps do, in order."""
        return ", ".join(step.in_words() for step in self.steps)

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Degrade images float32 `[n, c, h, w]` in [-1, 1].

        Image i depends only on row i and `seeds[i]`. Returns float32 `[n, channels(c), h, w]`,
        channels-last, with 256 levels as in a file; h and w are divided by `scale` and rounded up.
        """
        if not len(images):
            height, width = (-(-side // self.scale) for side in images.shape[2:])
            return images[:, : self.channels(images.shape[1]), :height, :width]
        uniforms = torch.stack(
            [torch.rand(len(self.steps), generator=generator(seed, "degrade")) for seed in seeds]
        )
        for number, step in enumerate(self.steps):
            own = [derived_seed(seed, "step", number) for seed in seeds]
            images = _APPLY[step.kind](images, step.draw(uniforms[:, number]), own).clamp(-1, 1)
        return to_float(to_uint8(images))


def source_images(
    dataset: Dataset, indices: Sequence[int], degradation: Degradation | None, seed: int
) -> Tensor:
    """Return the source images outside of training, float32 `[n, c, h, w]` in [-1, 1].

    They are those of pairs or of another domain, or else copies of the images; `degradation` is applied to
    any of them, drawn by the seed and the index of each image.
    """
    images = to_float(dataset.source_images(indices) if dataset.has_sources else dataset.images(indices))
    if degradation is None:
        return images
    return degradation.apply(images, [derived_seed(seed, "degrade", index) for index in indices])


def _parsed(text: str, description: str) -> Step:
    found = re.fullmatch(r"([a-z]+)([0-9]*\.?[0-9]*)", text)
    name = found[1] if found else ""
    if found is None or name not in KINDS:
        raise ConfigError(
            f"degrade is {description!r}, and {text!r} is not a step: use {', '.join(KINDS)}, separated by "
            "commas, each with a strength if it should always be the same (down4)."
        )
    kind = KINDS[name]
    if not found[2] and (kind.high or not kind.most):
        return Step(name, None if kind.high else 0.0)
    try:
        strength = float(found[2])
    except ValueError:  # a lone point, or no number where one is needed
        strength = -1.0
    if not kind.most or not kind.least <= strength <= kind.most or (kind.whole and strength % 1):
        which = "a whole number" if kind.whole else "a number"
        wanted = f"{which} from {kind.least:g} to {kind.most:g}" if kind.most else "nothing"
        raise ConfigError(f"degrade has {text!r}: {name} takes {wanted} after its name.")
    return Step(name, strength)


def _blur(images: Tensor, strengths: Tensor, seeds: Sequence[int]) -> Tensor:
    """Gaussian blur; strengths: standard deviations in pixels."""
    # As far as the strongest blur reaches, whatever else is in the batch.
    radius = int(3 * max(KINDS["blur"].high, float(strengths.max()))) + 1
    places = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernels = torch.exp(-0.5 * (places / strengths[:, None]).square())
    kernels = (kernels / kernels.sum(1, keepdim=True)).to(images.device)  # [n, k]

    def blurred(images: Tensor) -> Tensor:
        n, channels, height, width = images.shape
        kernel = kernels.repeat_interleave(channels, 0)[:, None, :, None]  # [n · c, 1, k, 1]
        h = images.reshape(1, n * channels, height, width)
        h = F.conv2d(F.pad(h, (0, 0, radius, radius), mode="replicate"), kernel, groups=n * channels)
        h = F.pad(h, (radius, radius, 0, 0), mode="replicate")
        return F.conv2d(h, kernel.transpose(2, 3), groups=n * channels).reshape(images.shape)

    return weighted_by_alpha(images, blurred)


def _down(images: Tensor, strengths: Tensor, seeds: Sequence[int]) -> Tensor:
    """Average over squares, and enlarge with cubic splines; strengths: how many times smaller."""
    result, (height, width) = torch.empty_like(images), images.shape[2:]
    for factor in strengths.unique().tolist():
        small = (max(1, round(height / factor)), max(1, round(width / factor)))

        def resampled(images: Tensor, small: tuple[int, int] = small) -> Tensor:
            h = F.interpolate(images, small, mode="area")
            return F.interpolate(h, (height, width), mode="bicubic", align_corners=False)

        rows = (strengths == factor).to(images.device)
        result[rows] = weighted_by_alpha(images[rows], resampled)
    return result


def _noise(images: Tensor, strengths: Tensor, seeds: Sequence[int]) -> Tensor:
    """Gaussian noise on the colours; strengths: standard deviations as shares of the range."""
    colours = images.shape[1] - (images.shape[1] in (2, 4))
    noise = normal(seeds, (colours, *images.shape[2:]), purpose="noise", device=images.device)
    noisy = images[:, :colours] + 2 * strengths.to(images.device)[:, None, None, None] * noise
    return torch.cat([noisy, images[:, colours:]], 1)


def _jpeg(images: Tensor, strengths: Tensor, seeds: Sequence[int]) -> Tensor:
    """Through a JPEG file, as Pillow writes it, the colours alone; strengths: qualities."""
    colours = images.shape[1] - (images.shape[1] in (2, 4))
    pixels, decoded = to_uint8(images[:, :colours]).cpu().numpy(), []
    for picture, quality in zip(pixels, strengths.tolist(), strict=True):
        buffer = io.BytesIO()
        to_pil(picture).save(buffer, "JPEG", quality=round(quality))
        with Image.open(buffer) as image:
            decoded.append(np.array(image).reshape(picture.shape))
    written = to_float(torch.from_numpy(np.stack(decoded))).to(images.device)
    return torch.cat([written, images[:, colours:]], 1)


def _gray(images: Tensor, strengths: Tensor, seeds: Sequence[int]) -> Tensor:
    return torch.cat([luma(images[:, :3]), images[:, 3:]], 1) if images.shape[1] >= 3 else images


def _shrink(images: Tensor, strengths: Tensor, seeds: Sequence[int]) -> Tensor:
    """Average over squares; strengths: the side of a square, the same for all images."""
    scale = int(strengths[0])
    return weighted_by_alpha(images, lambda images: averaged(images, scale))


def luma(colours: Tensor) -> Tensor:
    """Return the grey values `[n, 1, h, w]` of red, green and blue `[n, 3, h, w]`."""
    weights = torch.tensor(_LUMA, device=colours.device, dtype=colours.dtype)[:, None, None]
    return (colours * weights).sum(1, keepdim=True)


def averaged(images: Tensor, scale: int) -> Tensor:
    """Average each square of `scale` by `scale` pixels.

    images: `[n, c, h, w]`; the sides of the result are rounded up.
    """
    return F.avg_pool2d(images, scale, ceil_mode=True) if scale > 1 else images


def _dose(images: Tensor, strengths: Tensor, seeds: Sequence[int]) -> Tensor:
    """The noise of a scan, on the colours; strengths: photons per ray."""
    colours = images.shape[1] - (images.shape[1] in (2, 4))
    return torch.cat([with_dose(images[:, :colours], strengths, seeds), images[:, colours:]], 1)


_APPLY: dict[str, Callable[[Tensor, Tensor, Sequence[int]], Tensor]] = {
    "blur": _blur,
    "down": _down,
    "noise": _noise,
    "jpeg": _jpeg,
    "gray": _gray,
    "dose": _dose,
    "shrink": _shrink,
}
