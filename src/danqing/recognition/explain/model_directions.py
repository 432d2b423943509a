"""The directions of a model: where `explain` shows them, the service moves images, and Python too.

>>> from danqing.recognition.explain.model_directions import ModelDirections
>>> directions = ModelDirections(model)  # doctest: +SKIP
>>> model.sample(seeds=[directions.moved(7, {1: 2.5})])  # doctest: +SKIP
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from danqing.errors import ConfigError
from danqing.families import alternatives
from danqing.families.abilities import DrawsFromNoise
from danqing.families.base import Condition, Family
from danqing.model.conditions import drawn_condition
from danqing.model.model import Model
from danqing.randomness import MovedSeed, normal
from danqing.recognition.explain.directions import Change, Draw
from danqing.requested import image_seeds

MOST_DIRECTIONS = 6
_OBSERVED = 8
"""Images whose derivatives are averaged."""


class ModelDirections:
    """The strongest directions in the noise of a model.

    They are found when they are first used, and are the same each time. What stops that on the way, such as
    an exception of a hook, loses one image at most.

    seed: of the images that are observed. Raises ConfigError for a model that does not draw from one vector.
    """

    def __init__(self, model: Model, seed: int = 0) -> None:
        self._draw, self._observed = draw_of(model, seed), noise_of(model, seed, _OBSERVED, "directions")
        self._change = Change(self._observed.shape[1])
        self._found: tuple[Tensor, Tensor] | None = None

    def find(self) -> tuple[Tensor, Tensor]:
        """Return unit vectors `[count, d]`, and the share of all change along each, `[count]`."""
        while self._change.observed < len(self._observed):
            self._change.observe(self._draw, self._observed[self._change.observed])
        self._found = self._found or self._change.strongest(MOST_DIRECTIONS)
        return self._found

    def moved(self, seed: int, distances: Mapping[int, float]) -> int:
        """Return a seed whose image is moved along directions.

        distances: by the numbers of directions, from 1, in standard deviations of the noise; an image that is
        not moved is that of the seed itself. Raises ConfigError for a number without a direction.
        """
        vectors, _ = self.find()
        for number in distances:
            if not 1 <= number <= len(vectors):
                raise ConfigError(f"There is no direction {number}: choose one from 1 to {len(vectors)}.")
        if not any(distances.values()):
            return seed
        by = torch.zeros_like(vectors[0])
        for number, distance in sorted(distances.items()):
            by += distance * vectors[number - 1]
        return MovedSeed(seed, by.numpy())


def direction_count(family: Family) -> int:
    """Return how many directions a model has; 0 where no vector of noise stands for an image."""
    return min(MOST_DIRECTIONS, family.noise_size) if isinstance(family, DrawsFromNoise) else 0


def draw_of(model: Model, seed: int) -> Draw:
    """Return a generator as a function of noise alone.

    What else it reads stays as the seed draws it. Raises ConfigError.
    """
    family = model.family
    if not isinstance(family, DrawsFromNoise):
        raise ConfigError(
            "Directions and units need a model that draws an image from one vector of noise: use "
            f"{alternatives(DrawsFromNoise)}."
        )
    condition = drawn_condition(family.config, [seed], None, None, None, None).to(model.device)

    def draw(noise: Tensor) -> Tensor:
        images: Tensor = family.from_noise(noise.to(model.device), _repeated(condition, len(noise)))
        return images.clamp(-1, 1)

    return draw


def noise_of(model: Model, seed: int, count: int, purpose: str) -> Tensor:
    """Return the noise of some images, `[count, d]`."""
    assert isinstance(model.family, DrawsFromNoise)
    return normal(
        image_seeds(count, seed, None), (model.family.noise_size,), purpose=purpose, device=model.device
    )


def _repeated(condition: Condition, count: int) -> Condition:
    return condition[[0] * count]
