"""Square: a random search that needs no gradients (Andriushchenko et al. 2020, algorithms 1 and 2)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from danqing.errors import ConfigError
from danqing.learners.perturbation import Ball, Objective, kept_rows
from danqing.randomness import uniform

_FIRST_SHARE = 0.8
"""The share of the image that the first squares cover."""
_HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After how many of 10,000 steps that share is halved."""


def square(
    objective: Objective, originals: Tensor, ball: Ball, *, seeds: Sequence[int], steps: int = 1000
) -> Tensor:
    """Change squares of images, and keep what raises the objective.

    An image leaves the batch as soon as the objective is done.
    originals: `[n, c, h, w]` in [-1, 1].
    ball: of norm linf.
    seeds: one for each image.
    Returns for each image the one that was done, or that with the highest value. Raises ConfigError.
    """
    if ball.norm != "linf":
        raise ConfigError("Square attacks in the norm linf alone: leave it out for other norms.", "norm")
    n, channels, height, width = originals.shape
    device, radius = originals.device, ball.radius
    found, rows = originals.clone(), torch.arange(n, device=device)
    drawn = uniform(seeds, (channels * width + steps * (2 + channels),), purpose="square", device=device)
    stripes = _signs(drawn[:, : channels * width].view(n, channels, 1, width))
    places = drawn[:, channels * width :].view(n, steps, 2 + channels)
    with torch.no_grad():
        images = (originals + radius * stripes).clamp(-1, 1)
        verdict = objective(images, rows)
        best, best_value = images, verdict.value
        done = verdict.done
        for step in range(steps):
            if (kept := kept_rows(done)) is not None:
                found[rows] = best
                rows, originals, done = rows[kept], originals[kept], done[kept]
                best, best_value = best[kept], best_value[kept]
                if not len(rows):
                    return found
            side = _side(step, steps, height, width)
            draw = places[rows, step]
            top, left = (
                (draw[:, :2] * torch.tensor([height - side + 1, width - side + 1], device=device)).long().T
            )
            inside = _within(top, side, height)[:, None, :, None] & _within(left, side, width)[:, None, None]
            changed = (originals + radius * _signs(draw[:, 2:])[:, :, None, None]).clamp(-1, 1)
            images = torch.where(inside, changed, best)
            verdict = objective(images, rows)
            better = ~done & ((verdict.value > best_value) | verdict.done)
            best = torch.where(better[:, None, None, None], images, best)
            best_value, done = torch.where(better, verdict.value, best_value), done | verdict.done
    found[rows] = best
    return found


def _signs(uniforms: Tensor) -> Tensor:
    return torch.where(uniforms < 0.5, -1.0, 1.0)


def _within(first: Tensor, side: int, length: int) -> Tensor:
    """Which of `length` places lie in the square of each image, `[n, length]`."""
    places = torch.arange(length, device=first.device)
    return (places >= first[:, None]) & (places < first[:, None] + side)


def _side(step: int, steps: int, height: int, width: int) -> int:
    halvings = sum(step * 10_000 // steps > threshold for threshold in _HALVED_AT)
    side = math.sqrt(_FIRST_SHARE * 0.5**halvings * height * width)
    return max(1, min(round(side), height, width))
