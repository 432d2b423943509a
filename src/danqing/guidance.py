"""Which guidance a model can follow, and how strong it is: the same rules with and without PyTorch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from danqing.errors import ConfigError
from danqing.options import Schedule


@dataclass(frozen=True, slots=True)
class GuidanceRules:
    """What guidance can lead away from in a model.

    has_condition: whether it learned from labels, captions or attributes. has_dropout: whether it also
        learned without them.
    has_guide: whether it has an early copy of itself. guide_trained: whether that has weights yet.
    """

    has_condition: bool
    has_dropout: bool
    has_guide: bool = False
    guide_trained: bool = False

    def check_code_guidance(self, options: Mapping[str, Any], negative_texts: Sequence[str]) -> None:
        """Raise ConfigError for guidance of codes that is not possible."""
        guided = options["guidance_scale"] != 1
        if guided and not self.has_condition:
            raise ConfigError(
                "This model was trained without labels, captions or attributes: leave guidance_scale at 1.",
                "guidance_scale",
            )
        if guided and not self.has_dropout:
            raise ConfigError(
                "This model did not learn to sample without a condition, which guidance needs: leave "
                "guidance_scale at 1, or train it with condition_dropout=0.1.",
                "guidance_scale",
            )
        if not guided and any(text.strip() for text in negative_texts):
            raise ConfigError(
                "A negative prompt is what guidance leads away from: set guidance_scale above 1, or "
                "leave the negative prompt out.",
                "negative_prompt",
            )

    def check_flow_guidance(self, options: Mapping[str, Any], negative_texts: Sequence[str]) -> None:
        """Raise ConfigError for guidance of a flow that is not possible."""
        guided = options.get("guidance_scale", 1) != 1
        by_guide = guided and options["guidance"] == "guide"
        if by_guide and not self.has_guide:
            raise ConfigError("This model has no guide: train it with guide=true.", "guidance")
        if by_guide and not self.guide_trained:
            raise ConfigError(
                "The guide of this model is not trained yet: leave guidance_scale at 1.", "guidance"
            )
        if guided and not by_guide and not self.has_condition:
            raise ConfigError(
                "This model has no condition that guidance could lead away from: set guidance to guide, or "
                "leave guidance_scale at 1.",
                "guidance_scale",
            )
        if guided and not by_guide and not self.has_dropout:
            raise ConfigError(
                "This model never learned images without their condition, which guidance needs: leave "
                "guidance_scale at 1, or train it with condition_dropout=0.1.",
                "guidance_scale",
            )
        if any(text.strip() for text in negative_texts) and (by_guide or not guided):
            raise ConfigError(
                "A negative prompt is what guidance leads away from: set guidance_scale above 1 and guidance "
                "to condition, or leave the negative prompt out.",
                "negative_prompt",
            )


def scale_at(scale: float, schedule: Schedule, progress: float) -> float:
    """Return the guidance scale at some point of writing.

    scale: at the end. schedule: whether it is constant, or rises from 1. progress: the share of the image
        that is written, in [0, 1].
    """
    share = {
        "constant": 1.0,
        "linear": progress,
        "cosine": (1 - math.cos(math.pi * progress)) / 2,
    }[schedule]
    return 1 + (scale - 1) * share
