"""How often filters block images and prompts that should pass."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from danqing.data.originals import Original
from danqing.evaluation.estimate import share_of
from danqing.trust.filters import ImageFilter, Moderation, PromptFilter

RATES = (0.01, 0.001)
"""The rates that thresholds are suggested for."""


class Rate(NamedTuple):
    """A share of images or prompts in [0, 1], with its 95% interval (Wilson 1927)."""

    blocked: int
    of: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ScoredImages:
    """The scores of a filter on images that should pass.

    names, scores: of each image. failed: the images that could not be read, and why.
    """

    filter: ImageFilter
    names: tuple[str, ...]
    scores: NDArray[np.float64] = field(repr=False)
    failed: dict[str, str] = field(default_factory=dict)

    def rate(self, moderation: Moderation = "auto") -> Rate:
        """Return the share of the images that the filter blocks."""
        return rate_of(self.scores >= self.filter.thresholds[moderation])

    def threshold_for(self, rate: float) -> float | None:
        """Return the lowest threshold that blocks at most this share of the images.

        It is rounded up to three digits. None if the images are too few for such a rate, or if none below 1
        does.
        """
        if len(self.scores) * rate < 1:
            return None
        allowed = int(len(self.scores) * rate)
        highest = float(np.sort(self.scores)[::-1][allowed]) if allowed < len(self.scores) else 0.0
        threshold = (int(highest * 1000) + 1) / 1000
        return threshold if threshold <= 1 else None

    def highest(self, count: int) -> list[tuple[str, float]]:
        """Return the names and scores of the images with the highest scores."""
        order = np.argsort(-self.scores, kind="stable")[:count]
        return [(self.names[place], float(self.scores[place])) for place in order]


def score_images(filters: Sequence[ImageFilter], images: Iterable[Original]) -> list[ScoredImages]:
    """Score images by each filter, one image at a time."""
    names, failed = list[str](), dict[str, str]()
    scores = [list[float]() for _ in filters]
    for image in images:
        if image.pixels is None:
            failed[image.name] = image.reason
            continue
        names.append(image.name)
        for each, found in zip(filters, scores, strict=True):
            found.append(float(each.scores(image.pixels[np.newaxis])[0]))
    return [
        ScoredImages(each, tuple(names), np.asarray(found, np.float64), failed)
        for each, found in zip(filters, scores, strict=True)
    ]


def blocked_prompts(
    prompt_filter: PromptFilter, prompts: Sequence[str], moderation: Moderation = "auto"
) -> tuple[Rate, list[tuple[int, str]]]:
    """Return the share of prompts that a filter blocks, and the number of each with the reason."""
    verdicts = [prompt_filter.check(prompt, moderation) for prompt in prompts]
    found = [(number, each.reason) for number, each in enumerate(verdicts, 1) if each.blocked]
    return rate_of([each.blocked for each in verdicts]), found


def rate_of(hits: Sequence[bool] | NDArray[np.bool_]) -> Rate:
    """Return the share that is true; 0 to 1 is the interval of no items."""
    values = torch.as_tensor(np.asarray(hits, bool))
    if not len(values):
        return Rate(0, 0, 0.0, 0.0, 1.0)
    estimate = share_of(values)
    low, high = estimate.interval() or (0.0, 1.0)
    return Rate(int(values.sum()), len(values), estimate.value, low, high)
