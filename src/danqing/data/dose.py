"""Scans at a lower dose: the noise that few X-ray photons leave in a computed tomogram.

A slice is projected along parallel rays, the photons that pass are counted with Poisson noise, and the change
of the projections is reconstructed by filtered back-projection (Kak and Slaney 1988, sections 3.3 and 4.1).
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from danqing.randomness import generator

ABSORPTION = 4.0
"""Of a ray through the whole side of an image that is white, as the logarithm of the share that is absorbed:
about that of 20 cm of water at 70 keV."""


def with_dose(images: Tensor, photons: Tensor, seeds: Sequence[int]) -> Tensor:
    """Add the noise of a scan to slices.

    Reconstruction is linear, so only the change of the projections is reconstructed. A slice itself loses
    nothing, and pixels outside of the scanned circle are noisy too.

    images: float32 `[n, c, h, w]` in [-1, 1]; -1 is air. Each channel is a slice of its own.
    photons: `[n]`, that reach a detector where nothing is in the way. seeds: one for each image.
    """
    height, width = images.shape[2:]
    scale = ABSORPTION / max(height, width)
    change = _measured(projected((images.float() + 1) / 2 * scale), photons, seeds)
    return images + 2 / scale * reconstructed(change, (height, width))


def _measured(projections: Tensor, photons: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return what counting photons changes of projections `[n, c, angles, detectors]`."""
    sent = photons.view(-1, 1, 1, 1)
    expected = sent * torch.exp(-projections.cpu())
    counted = torch.stack(
        [torch.poisson(each, generator(seed, "photons")) for each, seed in zip(expected, seeds, strict=True)]
    )
    measured = -torch.log(counted.clamp_min(1) / sent)  # a ray without a photon counts as one
    return measured.to(projections.device) - projections


def projected(slices: Tensor) -> Tensor:
    """Return the sums along parallel rays, `[n, c, angles, detectors]`.

    slices: `[n, c, h, w]`. A pixel is shared between the two detectors that are nearest to it.
    """
    n, channels, height, width = slices.shape
    pixels = slices.reshape(n * channels, height * width).T.contiguous()
    rays = pixels.new_zeros(_angles((height, width)), _detectors((height, width)), n * channels)
    for angle, detectors in enumerate(rays):
        low, share = _places((height, width), angle, pixels.device)
        detectors.index_add_(0, low, pixels * (1 - share)).index_add_(0, low + 1, pixels * share)
    return rays.permute(2, 0, 1).reshape(n, channels, *rays.shape[:2])


def reconstructed(projections: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the slices that have some projections, `[n, c, h, w]`.

    projections: `[n, c, angles, detectors]`. size: (height, width) of a slice.
    """
    n, channels, angles, detectors = projections.shape
    length = 2 ** math.ceil(math.log2(2 * detectors))
    response = _ramp(length).to(projections.device)
    filtered = torch.fft.irfft(torch.fft.rfft(projections, length) * response, length)[..., :detectors]
    rows = filtered.reshape(n * channels, angles, detectors).permute(1, 2, 0).contiguous()
    pixels = rows.new_zeros(size[0] * size[1], n * channels)
    for angle, row in enumerate(rows):
        low, share = _places(size, angle, rows.device)
        pixels += torch.lerp(row[low], row[low + 1], share)
    slices: Tensor = pixels.T * (math.pi / angles)
    return slices.reshape(n, channels, *size)


def _angles(size: tuple[int, int]) -> int:
    """Return how many directions of half a turn are projected."""
    return max(8, math.ceil(max(size) / 2))


def _detectors(size: tuple[int, int]) -> int:
    """Return how many detectors of the width of a pixel see a slice from any direction."""
    return math.ceil(math.hypot(*size)) + 2


def _places(size: tuple[int, int], angle: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return which detector sees each pixel, `[h * w]`, and the share of the next one, `[h * w, 1]`."""
    height, width = size
    radians = math.pi * angle / _angles(size)
    across = (torch.arange(width, device=device) - (width - 1) / 2) * math.cos(radians)
    down = (torch.arange(height, device=device) - (height - 1) / 2) * math.sin(radians)
    places = (across + down[:, None]).flatten() + (_detectors(size) - 1) / 2
    low = places.floor()
    return low.long(), (places - low)[:, None]


@functools.lru_cache(maxsize=8)
def _ramp(length: int) -> Tensor:
    """Return the response of the ramp filter, from its values in space (Kak and Slaney, equation 3.61)."""
    places = torch.fft.fftfreq(length, 1 / length).round()  # 0, 1, … and then …, -1
    kernel = torch.zeros(length)
    kernel[0] = 0.25
    kernel[1::2] = -1 / (math.pi * places[1::2]).square()
    response: Tensor = torch.fft.rfft(kernel).real
    return response
