"""The moving average of the weights, which is what paints."""

import copy

import torch
from torch import Tensor

from danqing.families.base import Learner


class EMA:
    """An exponential moving average of a learner's weights, with a half-life in images.

    `learner` is a copy without the children that a trained model does not need. Early on the half-life is at
    most a twentieth of the images seen, so that the average soon forgets the random start (Karras et al.
    2020, StyleGAN2-ADA's ramp-up). Floating-point buffers (running statistics) are averaged, counters copied.
    """

    def __init__(self, learner: Learner, half_life_images: int) -> None:
        self.half_life_images = half_life_images
        self.learner = copy.deepcopy(learner).eval().requires_grad_(False)
        self.learner.drop_training_only()
        live = learner.state_dict(keep_vars=True)
        pairs = [(average, live[name]) for name, average in self.learner.state_dict(keep_vars=True).items()]
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, images: int, step_images: int) -> None:
        """Take in the weights after a step of `step_images`, `images` having been seen in all."""
        half_life = min(self.half_life_images, images / 20)
        decay = 0.5 ** (step_images / half_life) if half_life > 0 else 0.0
        averages: list[Tensor] = [average.data for average, _ in self._averaged]
        torch._foreach_lerp_(averages, [live.data for _, live in self._averaged], 1 - decay)
        for average, live in self._copied:
            average.copy_(live)
