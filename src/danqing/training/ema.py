"""Moving averages of the weights, which are what samples: with a half-life, or a fixed share of the run."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from danqing.families.abilities import Grows
from danqing.families.base import Learner
from danqing.nets import adapters
from danqing.training.parts import is_here

SHORTEST, LONGEST = 0.01, 0.28
"""Bounds of an EMA length. The plain average of all weights has the length 12**-0.5 = 0.289."""


class Decay(Protocol):
    """How much the newest weights count."""

    def newest(self, images: int, step_images: int) -> float:
        """Return the share, in [0, 1], of the weights after a step of `step_images` that ends at `images`."""
        ...


@dataclass(frozen=True, slots=True)
class HalfLife:
    """An exponential average with a half-life in images.

    Early in a run the half-life is at most a twentieth of the images seen, so that the average soon forgets
    the random start (Karras et al. 2020, StyleGAN2-ADA's ramp-up).
    """

    images: int

    def newest(self, images: int, step_images: int) -> float:
        half_life = min(self.images, images / 20)
        decay: float = 0.5 ** (step_images / half_life) if half_life > 0 else 0.0
        return 1 - decay


@dataclass(frozen=True, slots=True)
class PowerFunction:
    """An average whose width is a fixed share of the run so far (Karras et al. 2024, EDM2, section 3.1).

    Weights at `t` of `T` images count in proportion to (t/T)^γ. The random start counts for nothing.
    length: the standard deviation of that profile as a share of T, σ_rel in the paper.
    """

    length: float

    def newest(self, images: int, step_images: int) -> float:
        # The integral of the normalised profile over the step, during which the weights are constant.
        earlier: float = ((images - step_images) / images) ** (exponent(self.length) + 1)
        return 1 - earlier


@functools.cache
def exponent(length: float) -> float:
    """Return γ of the profile (t/T)^γ whose standard deviation is `length` of T.

    length: in [SHORTEST, LONGEST], where γ falls from about 98 to 0.1.
    The standard deviation is sqrt(γ+1) / ((γ+2) sqrt(γ+3)) (EDM2, section 3.1).
    """
    low, high = 0.0, 1 / length
    while low < (middle := (low + high) / 2) < high:
        deviation = math.sqrt(middle + 1) / ((middle + 2) * math.sqrt(middle + 3))
        low, high = (middle, high) if deviation > length else (low, middle)
    return middle


def averaged_names(learner: Learner) -> set[str]:
    """Return what is averaged of a learner: weights and floating-point buffers of what a phase trains.

    All else is copied: counters, and frozen children, which may change as a whole.
    """
    trained = {module for phase in learner.phases() for module in phase.modules}
    return {
        name
        for name, tensor in learner.state_dict().items()
        if tensor.is_floating_point() and name.partition(".")[0] in trained
    }


class EMA:
    """A moving average of a learner's weights.

    `learner` is a copy without the children that a trained model does not need.
    """

    def __init__(self, learner: Learner, decay: Decay) -> None:
        self.decay = decay
        self.learner = adapters.copied(learner).eval().requires_grad_(False)
        self.learner.drop_training_only()
        names, live = averaged_names(learner), learner.state_dict(keep_vars=True)
        shared = adapters.fixed(learner)
        pairs = {
            name: (average, live[name])
            for name, average in self.learner.state_dict(keep_vars=True).items()
            if name not in shared
        }
        self._averaged = {name: pair for name, pair in pairs.items() if name in names}
        self._starts: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for name, pair in self._averaged.items():
            start = learner.starts_at(name) if isinstance(learner, Grows) else 0
            self._starts.setdefault(start, []).append(pair)
        self._copied = [pair for name, pair in pairs.items() if name not in names]

    @torch.no_grad()
    def update(self, images: int, step_images: int, begins: Sequence[int] = (0,)) -> None:
        """Include the weights after a step of `step_images`, when `images` have been seen in total.

        begins: after how many images each size of a run that grows has begun. The average of a weight begins
            with its size, so that it soon forgets what the weight was before it learned.
        """
        for start, pairs in self._starts.items():
            if start < len(begins):
                newest = self.decay.newest(images - begins[start], step_images)
                here = [(average, live) for average, live in pairs if is_here(live)]
                averages: list[Tensor] = [average.data for average, _ in here]
                torch._foreach_lerp_(averages, [live.data for _, live in here], newest)
        for average, live in self._copied:
            average.copy_(live)

    def averaged(self) -> dict[str, Tensor]:
        """Return what is averaged, by name: the very tensors, detached."""
        return {name: average.detach() for name, (average, _) in self._averaged.items()}
