"""RePaint on a flow: fill a part of an image with a model that never saw a mask (Lugmayr et al. 2022).

Written from the paper, on the coordinates of the linear path: z = t x + (1 - t) ε, with t from 0 at noise.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from danqing.samplers import Velocity, predicted_image

DIFFUSION_STEPS, FIRST_BETA, LAST_BETA = 1000, 1e-4, 0.02
"""The linear noise schedule of the paper's models (Ho et al. 2020)."""


def repaint(
    velocity: Velocity,
    images: Tensor,
    mask: Tensor,
    rng: torch.Generator,
    *,
    steps: int = 250,
    resamplings: int = 10,
    jump: int = 10,
) -> tuple[Tensor, int]:
    """Fill images `[n, c, h, w]` in [-1, 1] where `mask` `[n, 1, h, w]` is 1, as algorithm 1 and section 4.2.

    steps: of ancestral sampling.
    resamplings: how often each `jump` steps are walked; both are 10 in the paper.
    Returns the filled images and how often the velocity was evaluated.
    """
    times, evaluations = schedule(steps), 0

    def noise() -> Tensor:
        return torch.randn(images.shape, generator=rng)

    z = (1 - times[0]) * noise()
    for start, end in walk(steps, resamplings, jump):
        t, s = times[start], times[end]
        if end < start:
            z = noisier(z, s, t, noise())
            continue
        evaluations += 1
        moments = torch.full((len(images),), t)
        image = predicted_image(z, moments, velocity(z, moments)).clamp(-1, 1)
        known = s * images + (1 - s) * noise()
        z = torch.where(mask > 0, cleaner(z, image, t, s, noise()), known)
    return torch.where(mask > 0, z, images).clamp(-1, 1), evaluations


def schedule(steps: int) -> list[float]:
    """Return `steps` + 1 times of the linear path, from noise to the image.

    A variance-preserving path √ᾱ x + √(1 - ᾱ) ε is at t = √ᾱ / (√ᾱ + √(1 - ᾱ)).
    """
    betas = torch.linspace(FIRST_BETA, LAST_BETA, DIFFUSION_STEPS, dtype=torch.float64)
    kept = (1 - betas).cumprod(0)
    places = torch.linspace(DIFFUSION_STEPS - 1, 0, steps, dtype=torch.float64).round().long()
    times = [math.sqrt(a) / (math.sqrt(a) + math.sqrt(1 - a)) for a in kept[places].tolist()]
    return [*times, 1.0]


def walk(steps: int, resamplings: int, jump: int) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each move: one step ahead, or `jump` steps back to more noise."""
    for first in range(0, steps, jump):
        last = min(first + jump, steps)
        for again in range(resamplings):
            if again:
                yield last, first
            yield from ((step, step + 1) for step in range(first, last))


def cleaner(z: Tensor, image: Tensor, t: float, s: float, noise: Tensor) -> Tensor:
    """Draw z at a later time s from what is at t and the predicted image (Ho et al. 2020, equation 7).

    The posterior has the variance (1 - s)² · forward variance / (1 - t)². In the form of Song et al. 2021,
    equation 12, it is the predicted noise scaled down, and fresh noise.
    """
    variance = (1 - s) ** 2 * _forward_variance(t, s) / (1 - t) ** 2
    predicted_noise = (z - t * image) / (1 - t)
    rest = math.sqrt(max((1 - s) ** 2 - variance, 0.0))
    return s * image + rest * predicted_noise + math.sqrt(variance) * noise


def noisier(z: Tensor, t: float, s: float, noise: Tensor) -> Tensor:
    """Draw z at the earlier time t from what is at s: the forward process."""
    return t / s * z + math.sqrt(_forward_variance(t, s)) * noise


def _forward_variance(t: float, s: float) -> float:
    """Of z at t given z at s > t, which is scaled by t / s."""
    return max((1 - t) ** 2 - (t / s * (1 - s)) ** 2, 0.0)
