"""APGD: projected gradient ascent that chooses its step size (Croce and Hein 2020, algorithm 1)."""

import math
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from danqing.learners.perturbation import Ball, Objective, gradient_of, kept_rows

_MOMENTUM = 0.75
_LEAST_INCREASES = 0.75
"""A step size is halved if fewer of the steps since the last checkpoint have raised the value."""


@dataclass(slots=True)
class _State:
    """Everything that is known of the images in the batch, one row each.

    The best of those that are done is what they stay.
    """

    rows: Tensor
    originals: Tensor
    images: Tensor
    before: Tensor
    value: Tensor
    gradient: Tensor
    best: Tensor
    best_value: Tensor
    best_gradient: Tensor
    step_size: Tensor
    increases: Tensor
    best_at_checkpoint: Tensor
    halved_at_checkpoint: Tensor
    done: Tensor

    def only(self, kept: Tensor) -> Self:
        """Return the state of some images."""
        return type(self)(**{field.name: getattr(self, field.name)[kept] for field in fields(self)})


def apgd(
    objective: Objective, originals: Tensor, ball: Ball, *, steps: int = 100, noise: Tensor | None = None
) -> Tensor:
    """Climb an objective with momentum and step sizes of its own choice.

    Images leave the batch once the objective is done, so that later steps cost less.
    originals: `[n, c, h, w]` in [-1, 1].
    noise: standard normal values for a random start; None starts at the originals.
    Returns for each image the one that was done, or that with the highest value.
    """
    found = originals.clone()
    checkpoints = _checkpoints(steps)
    state = _begin(objective, originals, ball, noise)
    since = 0
    for step in range(1, steps + 1):
        if (kept := kept_rows(state.done)) is not None:
            found[state.rows] = state.best
            state = state.only(kept)
            if not len(state.rows):
                return found
        images = _proposal(state, ball, is_first=step == 1)
        verdict, gradient = gradient_of(objective, images, state.rows)
        state.before, state.images, state.gradient = state.images, images, gradient
        state.increases += verdict.value > state.value
        state.value = verdict.value
        better = ~state.done & ((verdict.value > state.best_value) | verdict.done)
        state.best[better], state.best_gradient[better] = images[better], gradient[better]
        state.best_value[better] = verdict.value[better]
        state.done = state.done | verdict.done
        if step in checkpoints:
            _check(state, step - since)
            since = step
    found[state.rows] = state.best
    return found


def _begin(objective: Objective, originals: Tensor, ball: Ball, noise: Tensor | None) -> _State:
    rows = torch.arange(len(originals), device=originals.device)
    images = originals if noise is None else ball.start(originals, noise)
    verdict, gradient = gradient_of(objective, images, rows)
    return _State(
        rows=rows,
        originals=originals,
        images=images,
        before=images,
        value=verdict.value,
        gradient=gradient,
        best=images.clone(),
        best_value=verdict.value.clone(),
        best_gradient=gradient.clone(),
        step_size=torch.full_like(images[:, :1, :1, :1], 2 * ball.radius),
        increases=torch.zeros_like(rows),
        best_at_checkpoint=verdict.value.clone(),
        halved_at_checkpoint=torch.ones_like(rows, dtype=torch.bool),
        done=verdict.done,
    )


def _proposal(state: _State, ball: Ball, *, is_first: bool) -> Tensor:
    """The next images: a projected step, mixed with the step before it."""
    stepped = state.images + state.step_size * ball.steepest(state.gradient)
    stepped = ball.project(stepped, state.originals)
    if is_first:
        return stepped
    mixed = state.images + _MOMENTUM * (stepped - state.images)
    return ball.project(mixed + (1 - _MOMENTUM) * (state.images - state.before), state.originals)


def _check(state: _State, steps: int) -> None:
    """Halve the step size of images that climb too seldom or no longer, which go on from their best."""
    seldom = state.increases < _LEAST_INCREASES * steps
    stuck = ~state.halved_at_checkpoint & (state.best_value <= state.best_at_checkpoint)
    halved = seldom | stuck
    state.step_size[halved] /= 2
    state.images[halved], state.gradient[halved] = state.best[halved], state.best_gradient[halved]
    state.value[halved] = state.best_value[halved]
    state.increases.zero_()
    state.halved_at_checkpoint, state.best_at_checkpoint = halved, state.best_value.clone()


def _checkpoints(steps: int) -> set[int]:
    """The steps at which step sizes are checked, closer and closer (equation 2 and section 3.1)."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return {math.ceil(share * steps) for share in shares[1:]}
