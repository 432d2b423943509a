"""Models that paint what a test wants: drawn shapes by their captions, rightly or wrongly."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from danqing.data.builtin import shapes
from danqing.data.builtin.shapes import Combination
from danqing.families.base import Condition, Family, FamilyConfig
from danqing.images import to_float
from danqing.model.model import Model

Change = Callable[[Combination], Combination]


class PainterConfig(FamilyConfig):
    """It reads captions."""

    family: Literal["painter"] = "painter"

    @property
    def reads_text(self) -> bool:
        return True


class Painter(Family):
    """Draws what a caption of the set `shapes` says, after `change`; something at random for other texts."""

    def __init__(self, config: PainterConfig, change: Change) -> None:
        super().__init__()
        self.config, self.change = config, change
        self.weight = nn.Parameter(torch.zeros(1))

    def sample(self, condition: Condition, *, seeds: Sequence[int], **options: Any) -> Tensor:
        assert condition.text is not None
        size, known = (self.config.width, self.config.height), shapes.by_caption()
        every = shapes.combinations()
        wanted = [
            known.get(text) or every[seed % len(every)]
            for text, seed in zip(condition.text, seeds, strict=True)
        ]
        images = [
            shapes.drawn(self.change(one), str(seed), size) for one, seed in zip(wanted, seeds, strict=True)
        ]
        return to_float(torch.from_numpy(np.stack(images)))


class Copier(Family):
    """A first stage that loses nothing, or all: its samples mean nothing."""

    has_prior: ClassVar[bool] = False

    def __init__(self, config: FamilyConfig, keeps: float) -> None:
        super().__init__()
        self.config, self.keeps = config, keeps
        self.weight = nn.Parameter(torch.zeros(1))

    def sample(self, condition: Condition, *, seeds: Sequence[int], **options: Any) -> Tensor:
        raise AssertionError("a first stage is not asked for samples")

    def encode(self, images: Tensor, condition: Condition) -> Tensor:
        return images * self.keeps

    def decode(self, latents: Tensor, condition: Condition) -> Tensor:
        return latents


def painter(change: Change = lambda one: one, side: int = 24) -> Model:
    """A model that generates the requested image, after `change`."""
    config = PainterConfig(width=side, height=side, channels=3, captions=("a small red ring on the left",))
    return Model(Painter(config, change))


def always(**attributes: Any) -> Change:
    """Paints some attributes always the same."""
    return lambda one: replace(one, **attributes)


def copier(keeps: float = 1.0, side: int = 24) -> Model:
    """A first stage that keeps so much of an image's contrast."""
    return Model(Copier(FamilyConfig(family="copier", width=side, height=side, channels=3), keeps))
