"""Filters: whether a prompt or an image is blocked, by the operator's phrase lists and classifiers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from danqing.errors import ConfigError
from danqing.images import conform, eight_bits
from danqing.trust.phrases import PhraseList, Phrases

Moderation = Literal["auto", "low"]
"""How strict a filter is: `low` blocks less. These are the values of the OpenAI images API."""
Scorer = Callable[[NDArray[np.uint8]], NDArray[np.floating[Any]]]
"""Turns RGB images uint8 `[n, h, w, 3]` of any size into the probabilities `[n]` that they are unwanted."""
_BACKGROUNDS = ("#ffffff", "#000000")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What filters say of a prompt or an image.

    filter: the name of the one that blocks it. reason: for the operator; it never repeats the prompt.
    score: of an image, the highest probability that it is unwanted.
    """

    blocked: bool = False
    filter: str = ""
    reason: str = ""
    score: float = 0.0


ALLOWED = Verdict()


class PromptFilter:
    """Blocks prompts that contain a phrase of the operator's lists."""

    name = "prompts"

    def __init__(self, lists: Sequence[PhraseList]) -> None:
        self.lists = tuple(lists)
        self._phrases: dict[Moderation, Phrases] = {
            "auto": Phrases(self.lists),
            "low": Phrases([each for each in self.lists if each.when_low]),
        }

    def check(self, text: str, moderation: Moderation = "auto") -> Verdict:
        """Decide whether a prompt is blocked.

        moderation: `low` leaves out the lists that are for `auto` alone.
        """
        found = self._phrases[moderation].find(text)
        return ALLOWED if found is None else Verdict(True, self.name, str(found))


class Thresholds:
    """Decides from the probability of a classifier whether an image is blocked.

    name: of the classifier, for people.
    threshold, low_threshold: the probabilities from which an image is blocked, for `auto` and for `low`.
    Raises ConfigError unless 0 < threshold <= low_threshold <= 1.
    """

    def __init__(self, name: str, *, threshold: float, low_threshold: float) -> None:
        if not 0 < threshold <= low_threshold <= 1:
            raise ConfigError(
                f"The filter {name} has the thresholds {threshold:g} and {low_threshold:g}: choose both "
                "above 0 and up to 1, the one for low moderation not below the other."
            )
        self.name = name
        self.thresholds: dict[Moderation, float] = {"auto": threshold, "low": low_threshold}

    def verdict(self, score: float, moderation: Moderation = "auto") -> Verdict:
        """Return what a probability means."""
        limit = self.thresholds[moderation]
        if score < limit:
            return Verdict(score=score)
        return Verdict(True, self.name, f"{score:.3f} of {self.name}, from {limit:g} on", score)


class ImageFilter(Thresholds):
    """Blocks images that a classifier takes for unwanted.

    scorer: the classifier. The other arguments and errors are those of `Thresholds`.
    """

    def __init__(self, name: str, scorer: Scorer, *, threshold: float, low_threshold: float) -> None:
        super().__init__(name, threshold=threshold, low_threshold=low_threshold)
        self._scorer = scorer

    def check(
        self, pixels: NDArray[np.uint8] | NDArray[np.uint16], moderation: Moderation = "auto"
    ) -> Verdict:
        """Decide whether an image is blocked.

        pixels: uint8 or uint16 `[h, w, c]` with 1 to 4 channels.
        """
        return self.check_all(pixels[np.newaxis], moderation)[0]

    def check_all(
        self, pixels: NDArray[np.uint8] | NDArray[np.uint16], moderation: Moderation = "auto"
    ) -> list[Verdict]:
        """Decide whether images are blocked.

        pixels: uint8 or uint16 `[n, h, w, c]` with 1 to 4 channels.
        """
        return [self.verdict(score, moderation) for score in self.scores(pixels).tolist()]

    def scores(self, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.float64]:
        """Return the probability that each image is unwanted, float64 `[n]`.

        The highest one counts of an image that is judged more than once; see `judged`.
        """
        scores = [self._scorer(images) for images in judged(pixels)]
        highest: NDArray[np.float64] = np.max(np.asarray(scores, np.float64), axis=0)
        return highest


def judged(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> list[NDArray[np.uint8]]:
    """Return images `[n, h, w, c]` as classifiers see them, uint8 RGB.

    Transparent images are there twice, on white and on black.
    """
    pixels = eight_bits(pixels)
    see_through = pixels.shape[3] in (2, 4) and bool((pixels[..., -1] < 255).any())
    backgrounds = _BACKGROUNDS if see_through else _BACKGROUNDS[:1]
    return [
        np.stack([conform(one, channels=3, background=behind) for one in pixels]) for behind in backgrounds
    ]


@dataclass(frozen=True)
class Filters:
    """All filters that an operator chose; none by default."""

    prompts: PromptFilter | None = None
    images: tuple[ImageFilter, ...] = ()

    def check_prompt(self, text: str, moderation: Moderation = "auto") -> Verdict:
        """Decide whether a prompt is blocked."""
        return self.prompts.check(text, moderation) if self.prompts else ALLOWED

    def check_images(
        self, pixels: NDArray[np.uint8] | NDArray[np.uint16], moderation: Moderation = "auto"
    ) -> list[Verdict]:
        """Decide whether images `[n, h, w, c]` are blocked, uint8 or uint16.

        The verdict of an image is that of the first filter that blocks it.
        """
        verdicts = [ALLOWED] * len(pixels)
        for each in self.images if len(pixels) else ():
            found = each.check_all(pixels, moderation)
            verdicts = [old if old.blocked else new for old, new in zip(verdicts, found, strict=True)]
        return verdicts
