"""A family whose edits are random pixels: all that the mask does not cover must come from elsewhere."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from danqing.families.base import Condition, Family, FamilyConfig
from danqing.model.model import Model
from danqing.randomness import normal


class RandomPixels(Family):
    """Fills and varies with random pixels of the seed, or of the noise of each place."""

    config: FamilyConfig

    def __init__(self, width: int, height: int, channels: int) -> None:
        super().__init__()
        self.config = FamilyConfig(family="random", width=width, height=height, channels=channels)
        self.weight = nn.Parameter(torch.zeros(1))

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        return self.config.channels, self.config.height, self.config.width

    def fill(
        self,
        images: Tensor,
        mask: Tensor,
        condition: Condition,
        *,
        seeds: Sequence[int],
        noise: Tensor | None = None,
    ) -> Tensor:
        drawn = normal(seeds, self.noise_shape) if noise is None else noise
        return drawn.clamp(-1, 1)  # also where the mask leaves the image, which must not matter

    def vary(
        self,
        images: Tensor,
        condition: Condition,
        *,
        seeds: Sequence[int],
        strength: float,
        noise: Tensor | None = None,
    ) -> Tensor:
        drawn = normal(seeds, self.noise_shape) if noise is None else noise
        return torch.lerp(images, drawn.clamp(-1, 1), strength)


def random_pixels(width: int = 8, height: int = 8, channels: int = 3) -> Model:
    return Model(RandomPixels(width, height, channels))
