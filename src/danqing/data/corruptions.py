"""Common corruptions of images, each at five severities, to measure how well a model withstands them.

The kinds are those of Hendrycks and Dietterich 2019 ("Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations") that need no photographs of glass, frost or snow. Their strengths are for one
size of image each; here lengths are shares of the shorter side, so that any size is corrupted alike.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.data.degrade import Degradation
from danqing.errors import ConfigError
from danqing.images import to_float, to_uint8
from danqing.randomness import normal, uniform

SEVERITIES = (1, 2, 3, 4, 5)
_FOG_DECAY = 0.6
"""How much weaker each octave of fog is than the one of twice its size."""
_WAVE = 0.15
"""The length of an elastic wave, as a share of the side."""


def corrupt(images: Tensor, kind: str, severity: int, seeds: Sequence[int]) -> Tensor:
    """Corrupt images float32 `[n, c, h, w]` in [-1, 1]; transparency stays.

    kind: one of `KINDS`. severity: from 1 to 5.
    seeds: one for each image, which alone decides what is random in it.
    Returns images of the same shape with 256 levels, as in a file. Raises ConfigError.
    """
    if kind not in KINDS:
        raise ConfigError(f"There is no corruption {kind!r}: choose from {', '.join(KINDS)}.", "corruptions")
    if severity not in SEVERITIES:
        raise ConfigError(f"A severity is 1, 2, 3, 4 or 5 (got {severity!r}).", "severity")
    strengths, apply = KINDS[kind]
    colours = images.shape[1] - (images.shape[1] in (2, 4))
    found = apply((images[:, :colours] + 1) / 2, strengths[severity - 1], seeds)
    corrupted = torch.cat([found.clamp(0, 1) * 2 - 1, images[:, colours:]], 1)
    return to_float(to_uint8(corrupted))


def _degraded(step: str) -> Callable[[Tensor, float, Sequence[int]], Tensor]:
    """The step of a degradation as a corruption."""

    def apply(images: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
        return (Degradation(f"{step}{strength:g}").apply(images * 2 - 1, seeds) + 1) / 2

    return apply


def _shot_noise(images: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
    """Counting noise; strength: photons in a white pixel. A normal stands for the Poisson distribution."""
    noise = normal(seeds, images.shape[1:], purpose="shot", device=images.device)
    return images + noise * (images / strength).sqrt()


def _impulse_noise(images: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
    """Black and white values; strength: their share."""
    drawn = uniform(seeds, images.shape[1:], purpose="impulse", device=images.device)
    return images.where(drawn >= strength, (drawn < strength / 2).to(images.dtype))


def _defocus(images: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
    """The blur of a round aperture; strength: its radius, as a share of the side."""
    radius = strength * min(images.shape[2:])
    distances = _places(math.ceil(radius)).norm(dim=-1)
    disc = (radius + 1 - distances).clamp(0, 1)  # the edge of the disc is one pixel wide
    return _filtered(images, disc.expand(len(images), -1, -1))


def _motion(images: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
    """The blur of a straight motion; strength: its length, as a share of the side."""
    half = strength * min(images.shape[2:]) / 2
    angles = uniform(seeds, (1, 1), purpose="motion") * math.pi
    places = _places(math.ceil(half))
    along = places[..., 0] * angles.cos() + places[..., 1] * angles.sin()
    across = places[..., 1] * angles.cos() - places[..., 0] * angles.sin()
    line = (half + 1 - along.abs()).clamp(0, 1) * (1 - across.abs()).clamp_min(0)
    return _filtered(images, line)


def _zoom(images: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
    """The blur of moving towards the scene; strength: the largest magnification above 1."""
    total, count = torch.zeros_like(images), 8
    for step in range(count):
        turn = torch.eye(2, 3, device=images.device) / (1 + strength * step / (count - 1))
        grid = F.affine_grid(turn.expand(len(images), -1, -1), list(images.shape), align_corners=False)
        total += F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return total / count


def _fog(images: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
    """A bright cloud of many sizes; strength: of the cloud beside the image."""
    height, width = images.shape[2:]
    cloud = torch.zeros(len(images), 1, height, width, device=images.device)
    for octave in range(1, max(2, int(math.log2(min(height, width))))):
        size = (2**octave + 1, 2**octave + 1)
        drawn = uniform(seeds, (1, *size), purpose=f"fog {octave}", device=images.device)
        cloud += _FOG_DECAY**octave * F.interpolate(
            drawn, (height, width), mode="bicubic", align_corners=True
        )
    lowest, highest = cloud.amin((1, 2, 3), keepdim=True), cloud.amax((1, 2, 3), keepdim=True)
    cloud = (cloud - lowest) / (highest - lowest).clamp_min(1e-6)
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + strength * cloud) * brightest / (brightest + strength)


def _brightness(images: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
    return images + strength


def _contrast(images: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
    """strength: the share of the contrast that is left."""
    mean = images.mean((2, 3), keepdim=True)
    return mean + strength * (images - mean)


def _elastic(images: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
    """Waves that move pixels; strength: the standard deviation of a move, as a share of the side."""
    height, width = images.shape[2:]
    waves = math.ceil(1 / _WAVE) + 1
    drawn = normal(seeds, (2, waves, waves), purpose="elastic", device=images.device)
    moves = F.interpolate(drawn, (height, width), mode="bicubic", align_corners=True) * 2 * strength
    still = torch.eye(2, 3, device=images.device).expand(len(images), -1, -1)
    grid = F.affine_grid(still, list(images.shape), align_corners=False) + moves.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _pixelate(images: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
    """strength: the share of the pixels of a side that are left."""
    height, width = images.shape[2:]
    small = (max(1, round(height * strength)), max(1, round(width * strength)))
    return F.interpolate(F.interpolate(images, small, mode="area"), (height, width), mode="nearest-exact")


def _places(reach: int) -> Tensor:
    """The offsets of a kernel from its centre, `[2 * reach + 1, 2 * reach + 1, 2]`."""
    line = torch.arange(-reach, reach + 1, dtype=torch.float32)
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)


def _filtered(images: Tensor, kernels: Tensor) -> Tensor:
    """Each image through its own kernel `[n, k, k]`, which is scaled to a sum of 1."""
    n, channels, height, width = images.shape
    kernels = (kernels / kernels.sum((1, 2), keepdim=True)).to(images.device)
    kernel, reach = kernels.repeat_interleave(channels, 0)[:, None], kernels.shape[1] // 2
    padded = F.pad(images.reshape(1, n * channels, height, width), (reach,) * 4, mode="replicate")
    return F.conv2d(padded, kernel, groups=n * channels).reshape(images.shape)


KINDS: dict[str, tuple[Sequence[float], Callable[[Tensor, float, Sequence[int]], Tensor]]] = {
    "gaussian-noise": ((0.04, 0.08, 0.12, 0.18, 0.26), _degraded("noise")),
    "shot-noise": ((250, 100, 50, 25, 12), _shot_noise),
    "impulse-noise": ((0.01, 0.03, 0.06, 0.1, 0.17), _impulse_noise),
    "defocus": ((0.015, 0.025, 0.035, 0.05, 0.07), _defocus),
    "motion": ((0.06, 0.1, 0.15, 0.2, 0.28), _motion),
    "zoom": ((0.06, 0.11, 0.16, 0.21, 0.26), _zoom),
    "fog": ((0.2, 0.4, 0.7, 1.0, 1.5), _fog),
    "brightness": ((0.1, 0.2, 0.3, 0.4, 0.5), _brightness),
    "contrast": ((0.6, 0.45, 0.3, 0.2, 0.1), _contrast),
    "elastic": ((0.01, 0.02, 0.03, 0.04, 0.05), _elastic),
    "pixelate": ((0.8, 0.6, 0.45, 0.35, 0.25), _pixelate),
    "jpeg": ((60, 40, 25, 15, 8), _degraded("jpeg")),
}
"""The corruptions by their names: strengths of the five severities, and the function."""
