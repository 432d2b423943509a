"""Attacks on what encoders and generators compute of images: how far a small change moves the result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from danqing.errors import ConfigError
from danqing.families.abilities import Encodes, Fills, Translates
from danqing.families.base import Condition, Learner
from danqing.learners.abilities import Embeds
from danqing.learners.perturbation import Ball, Objective, gradient_of
from danqing.randomness import derived_seed, normal
from danqing.recognition.attack.apgd import apgd
from danqing.recognition.attack.objectives import mean_square, squared_change
from danqing.recognition.attack.square import square

_SEARCHES = 10
"""Steps of a search for each step along a gradient."""
Compute = Callable[[Tensor, Tensor], Tensor]
"""From images `[m, c, h, w]` and their rows `[m]` to vectors or images `[m, ...]`."""


@dataclass(frozen=True, slots=True)
class Change:
    """How far the results of some images move.

    attacked, random: `[n]`, the root mean square change under the attack, and under random noise of the same
    size. spread: how far a result is from that of another image. has_gradients: whether the attack was APGD,
    and not Square.
    """

    attacked: Tensor
    random: Tensor
    spread: Tensor
    has_gradients: bool


def attack_results(
    compute: Compute, images: Tensor, ball: Ball, *, seeds: Sequence[int], steps: int = 40
) -> Change:
    """Change images so that what a model computes of them changes most.

    images: `[n, c, h, w]` in [-1, 1]; at least two.
    compute: each result depends on its own image and row alone. Where it passes no gradients, Square searches
        in `_SEARCHES` times as many steps.
    Raises ConfigError for a norm that Square does not know.
    """
    rows = torch.arange(len(images), device=images.device)
    with torch.no_grad():
        results = compute(images, rows)
    objective = squared_change(compute, results)
    noise = normal(seeds, images.shape[1:], purpose="attack", device=images.device)
    has_gradients = _has_gradients(objective, ball.start(images, noise), rows)
    if has_gradients:
        attacked = apgd(objective, images, ball, steps=steps, noise=noise)
    else:
        attacked = square(objective, images, ball, seeds=seeds, steps=_SEARCHES * steps)
    other_noise = normal(seeds, images.shape[1:], purpose="random change", device=images.device)
    with torch.no_grad():
        others = (
            compute(attacked, rows),
            compute(ball.start(images, other_noise), rows),
            results.roll(1, 0),
        )
    moved, random, spread = (mean_square(other, results).double().sqrt().cpu() for other in others)
    return Change(moved, random, spread, has_gradients)


def _has_gradients(objective: Objective, images: Tensor, rows: Tensor) -> bool:
    """Whether an objective has a gradient somewhere; codes pass none, or zeros."""
    try:
        return bool(gradient_of(objective, images, rows)[1].any())
    except ConfigError:
        return False


def computations(
    learner: Learner,
    condition: Condition,
    seeds: Sequence[int],
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Mapping[str, Compute]:
    """Return what a learner computes of images, by verb.

    condition: of the images, one row each. seeds: of generated results, one for each image. options: of the
        verbs "fill" and "translate".
    "fill" generates the middle quarter of each image, and only that is compared.
    """
    found: dict[str, Compute] = {}
    chosen = options or {}
    if isinstance(learner, Embeds):
        found["embed"] = lambda images, rows: learner.embed(images)
    if isinstance(learner, Encodes):
        found["encode"] = lambda images, rows: learner.encode(images, condition[rows.tolist()])
    if isinstance(learner, Fills):
        found["fill"] = _filling(learner, condition, seeds, chosen.get("fill", {}))
    if isinstance(learner, Translates):
        found["translate"] = _translating(learner, condition, seeds, chosen.get("translate", {}))
    return found


def seeds_of(seed: int, first: int, count: int) -> list[int]:
    """Return the seed of each image from a first row on."""
    return [derived_seed(seed, "change", first + row) for row in range(count)]


def _filling(
    family: Fills, condition: Condition, seeds: Sequence[int], options: Mapping[str, Any]
) -> Compute:
    def fill(images: Tensor, rows: Tensor) -> Tensor:
        mask = torch.zeros_like(images[:, :1])
        height, width = images.shape[2:]
        mask[:, :, height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
        own = [seeds[row] for row in rows.tolist()]
        return mask * family.fill(images, mask, condition[rows.tolist()], seeds=own, **options)

    return fill


def _translating(
    family: Translates, condition: Condition, seeds: Sequence[int], options: Mapping[str, Any]
) -> Compute:
    def translate(images: Tensor, rows: Tensor) -> Tensor:
        own = [seeds[row] for row in rows.tolist()]
        return family.translate(images, condition[rows.tolist()], seeds=own, **options)

    return translate
