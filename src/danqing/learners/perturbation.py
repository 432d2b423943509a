"""Small changes of images that raise a value: the ball that they stay in, and gradient ascent within it.

Attacks on trained models and adversarial training share them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from danqing.errors import ConfigError

Norm = Literal["linf", "l2"]
_GRAIN = 8
"""The number of images in a batch under attack is a multiple of this."""


class Verdict(NamedTuple):
    """What an objective says of images.

    value: `[n]`, what is raised. done: `[n]` bool, whether an image needs no more steps.
    """

    value: Tensor
    done: Tensor


Objective = Callable[[Tensor, Tensor], Verdict]
"""A function of images `[m, c, h, w]` and of their rows `[m]` among those that are attacked.

Each value depends on its own image alone.
"""


@dataclass(frozen=True, slots=True)
class Ball:
    """The images around a given one, with values in their range.

    norm: "linf", the largest change of a value, or "l2", the root of the sum of squared changes.
    epsilon: how far they differ at most, as a share of the range of values, so that 8/255 is 8 levels of an
        image with 8 bits.
    Raises ConfigError.
    """

    norm: Norm = "linf"
    epsilon: float = 8 / 255

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise ConfigError(f"There is no norm {self.norm!r}: choose {' or '.join(get_args(Norm))}.")
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise ConfigError(f"epsilon must be above 0 (got {self.epsilon!r}).", "epsilon")

    @property
    def radius(self) -> float:
        """Return epsilon on the scale of [-1, 1]."""
        return 2 * self.epsilon

    def in_words(self) -> str:
        """Return what a score calls it, such as `linf 8/255`."""
        levels = self.epsilon * 255
        is_whole = self.norm == "linf" and abs(levels - round(levels)) < 1e-6
        return f"{self.norm} {f'{levels:.0f}/255' if is_whole else f'{self.epsilon:g}'}"

    def project(self, images: Tensor, originals: Tensor) -> Tensor:
        """Return the nearest images within the ball around `originals`."""
        change = images - originals
        if self.norm == "linf":
            change = change.clamp(-self.radius, self.radius)
        else:
            change = change * (self.radius / _lengths(change)).clamp_max(1)
        return (originals + change).clamp(-1, 1)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the direction of steepest ascent, of length 1 in the norm."""
        return gradient.sign() if self.norm == "linf" else gradient / _lengths(gradient)

    def start(self, originals: Tensor, noise: Tensor) -> Tensor:
        """Return random images of the ball.

        noise: standard normal values of the same shape.
        """
        is_box = self.norm == "linf"
        change = torch.erf(noise / math.sqrt(2)) if is_box else noise / _lengths(noise)  # erf: uniform
        return (originals + self.radius * change).clamp(-1, 1)


def gradient_of(objective: Objective, images: Tensor, rows: Tensor) -> tuple[Verdict, Tensor]:
    """Compute an objective and its gradient for each image.

    Raises ConfigError where there is no gradient.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_(True)
        verdict = objective(images, rows)
        if not verdict.value.requires_grad:
            raise ConfigError("The model passes no gradients to images: attack it with square.")
        (gradient,) = torch.autograd.grad(verdict.value.sum(), images)
    return Verdict(verdict.value.detach(), verdict.done), gradient


def kept_rows(done: Tensor) -> Tensor | None:
    """Return which rows of a batch an attack goes on with.

    done: `[n]` bool.
    Returns the rows that are not done, with some others, so that batches have few sizes: a library prepares
    its kernels for each of them. None is all rows.
    """
    live = int((~done).sum())
    count = min(len(done), -(-live // _GRAIN) * _GRAIN)
    if count == len(done):
        return None
    return done.byte().argsort(stable=True)[:count].sort().values


def pgd(
    objective: Objective,
    originals: Tensor,
    ball: Ball,
    *,
    steps: int,
    step_size: float,
    noise: Tensor | None = None,
) -> Tensor:
    """Climb an objective by steps of one length, projected onto the ball.

    An image stops where the objective is done.
    originals: `[n, c, h, w]` in [-1, 1].
    step_size: on that scale. One step of the ball's radius is FGSM (Goodfellow et al. 2015).
    noise: standard normal values for a random start; None starts at the originals.
    (Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks".)
    """
    found, rows = originals.clone(), torch.arange(len(originals), device=originals.device)
    images = originals if noise is None else ball.start(originals, noise)
    done = torch.zeros_like(rows, dtype=torch.bool)
    for _ in range(steps):
        verdict, gradient = gradient_of(objective, images, rows)
        found[rows[~done]] = images[~done]
        done = done | verdict.done
        if (kept := kept_rows(done)) is not None:
            rows, images, originals = rows[kept], images[kept], originals[kept]
            gradient, done = gradient[kept], done[kept]
        if not len(rows):
            return found
        images = ball.project(images + step_size * ball.steepest(gradient), originals)
    found[rows[~done]] = images[~done]
    return found


def _lengths(change: Tensor) -> Tensor:
    """The Euclidean length of each image, `[n, 1, 1, 1]`, never 0."""
    lengths: Tensor = change.flatten(1).norm(dim=1)
    return lengths.clamp_min(1e-12)[:, None, None, None]
