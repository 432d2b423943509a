"""The attacks by their names, and what a classifier still gets right under them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from danqing.errors import ConfigError
from danqing.learners.perturbation import Ball, Objective, pgd
from danqing.progress import ProgressCallback
from danqing.randomness import derived_seed, normal
from danqing.recognition.attack import objectives
from danqing.recognition.attack.apgd import apgd
from danqing.recognition.attack.objectives import Logits
from danqing.recognition.attack.square import square

Attack = Literal["fgsm", "pgd", "apgd-ce", "apgd-dlr", "square"]
USUAL: tuple[Attack, ...] = ("apgd-ce", "apgd-dlr", "square")
"""Different enough that an image which withstands all of them is likely to be robust."""
STEPS: dict[Attack, int] = {"fgsm": 1, "pgd": 40, "apgd-ce": 100, "apgd-dlr": 100, "square": 1000}
_STEP_SHARE = 0.1
"""The step of PGD as a share of the radius, where it takes 40; it takes more or less in proportion."""


@dataclass(frozen=True, slots=True)
class Attacked:
    """What an attack made of some images.

    right: `[n]` bool, whether each image is still classified correctly.
    images: `[n, c, h, w]`; those that were wrong from the start are unchanged.
    """

    right: Tensor
    images: Tensor


def chosen(names: str | Sequence[str] | None) -> tuple[Attack, ...]:
    """Return attacks by their names; raises ConfigError for an unknown one.

    names: a list, or a text with commas; None is `USUAL`.
    """
    if names is None:
        return USUAL
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else names
    known: tuple[Attack, ...] = get_args(Attack)
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"There is no attack {unknown[0]!r}: choose from {', '.join(known)}.", "attacks")
    return tuple(attack for attack in known if attack in names)


def attack_classifier(
    attack: Attack,
    logits: Logits,
    images: Tensor,
    targets: Tensor,
    ball: Ball,
    *,
    seed: int = 0,
    first_row: int = 0,
    steps: int | None = None,
) -> Attacked:
    """Attack a batch of images.

    Those that are classified wrongly from the start are left alone.
    images: `[n, c, h, w]` in [-1, 1]. targets: the true labels int64 `[n]`, or sets of labels `[n, k]`.
    seed: of the attack. The randomness of an image follows from it and the image's row.
    first_row: the row of the first image in the whole data.
    steps: None takes those of `STEPS`. Raises ConfigError.
    """
    is_set = targets.ndim == 2
    if is_set and attack == "apgd-dlr":
        raise ConfigError("apgd-dlr is for one label per image: leave it out for several.", "attacks")
    with torch.no_grad():
        right = ~_objective("square", logits, targets)(images, _all(images)).done
    rows = right.nonzero()[:, 0]
    if len(rows):
        objective = _objective(attack, logits, targets[rows])
        seeds = [derived_seed(seed, attack, first_row + row) for row in rows.tolist()]
        images = images.clone()
        images[rows] = _run(attack, objective, images[rows], ball, seeds, steps or STEPS[attack])
        with torch.no_grad():
            right = ~_objective("square", logits, targets)(images, _all(images)).done
    return Attacked(right, images)


def accuracy_under(
    attacks: Sequence[Attack],
    logits: Logits,
    images: Callable[[int, int], tuple[Tensor, Tensor]],
    count: int,
    ball: Ball,
    *,
    batch: int = 128,
    seed: int = 0,
    steps: int | None = None,
    on_progress: ProgressCallback | None = None,
) -> dict[str, Tensor]:
    """Measure which images are right without and under each attack.

    images: returns the images and targets of rows from a first to before a last one.
    Returns `[count]` bool under the names "clean", the attacks', and "worst".
    """
    right: dict[str, list[Tensor]] = {name: [] for name in ("clean", *attacks)}
    for start in range(0, count, batch):
        shown, targets = images(start, min(start + batch, count))
        with torch.no_grad():
            clean = ~_objective("square", logits, targets)(shown, _all(shown)).done
        right["clean"].append(clean.cpu())
        for number, attack in enumerate(attacks):
            if on_progress:
                done = start + len(shown) * number // len(attacks)
                on_progress(done, count, f"Attacking with {attack}")
            found = attack_classifier(
                attack, logits, shown, targets, ball, seed=seed, first_row=start, steps=steps
            )
            right[attack].append(found.right.cpu())
    joined = {name: torch.cat(parts) for name, parts in right.items()}
    return joined | {"worst": torch.stack(list(joined.values())).all(0)}


def _objective(attack: Attack, logits: Logits, targets: Tensor) -> Objective:
    if targets.ndim == 2 and attack == "square":
        return objectives.worst_label(logits, targets)
    if targets.ndim == 2:
        return objectives.binary_cross_entropy(logits, targets)
    if attack == "square":
        return objectives.margin(logits, targets)
    if attack == "apgd-dlr":
        return objectives.difference_of_logits_ratio(logits, targets)
    return objectives.cross_entropy(logits, targets)


def _run(
    attack: Attack, objective: Objective, images: Tensor, ball: Ball, seeds: list[int], steps: int
) -> Tensor:
    """The attacked images."""
    if attack == "square":
        return square(objective, images, ball, seeds=seeds, steps=steps)
    if attack == "fgsm":
        return pgd(objective, images, ball, steps=1, step_size=ball.radius)
    noise = normal(seeds, images.shape[1:], purpose="attack", device=images.device)
    if attack == "pgd":
        step_size = ball.radius * min(1.0, _STEP_SHARE * STEPS["pgd"] / steps)
        return pgd(objective, images, ball, steps=steps, step_size=step_size, noise=noise)
    return apgd(objective, images, ball, steps=steps, noise=noise)


def _all(images: Tensor) -> Tensor:
    return torch.arange(len(images), device=images.device)
