"""Verification of images: whether two of them show the same face or object."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from danqing.data import Dataset
from danqing.errors import ConfigError
from danqing.evaluation.image_sets import labels_of
from danqing.evaluation.verification import Roc, draw_pairs
from danqing.images import Images
from danqing.recognition.encode import Source, encode, encoder_of

FALSE_MATCH_RATE = 1e-3
PAIRS = 10_000


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found about pairs of images.

    similarities: the cosine of both vectors of each pair, float32 `[n]` in [-1, 1].
    threshold: pairs that are at least this similar match.
    roc: the errors at all thresholds; None where it was not said which pairs show the same thing.
    """

    similarities: NDArray[np.float32]
    threshold: float
    roc: Roc | None = None

    @property
    def matches(self) -> NDArray[np.bool_]:
        """Return which pairs match."""
        return self.similarities.astype(np.float64) >= self.threshold

    def __str__(self) -> str:
        matching = f"{int(self.matches.sum()):,} of {len(self.similarities):,} pairs match"
        if self.roc is None:
            return f"{matching} at a similarity of {self.threshold:.4f}"
        found, false, area = (
            estimate.value
            for estimate in (
                self.roc.matches(self.threshold),
                self.roc.false_matches(self.threshold),
                self.roc.area(),
            )
        )
        return (
            f"{matching} at a similarity of {self.threshold:.4f}: {found:.1%} of those that are the same, "
            f"and {false:.2%} of the others (area under the curve {area:.4f}, equal error rate "
            f"{self.roc.equal_error_rate():.2%})"
        )


def verify_pairs(
    source: Source,
    first: Images | NDArray[np.uint8],
    second: Images | NDArray[np.uint8],
    *,
    same: Sequence[bool] | NDArray[np.bool_] | None = None,
    threshold: float | None = None,
    false_match_rate: float = FALSE_MATCH_RATE,
    device: str = "auto",
) -> Verification:
    """Decide of each pair of images whether both show the same thing.

    source: what turns images into vectors, as of `encode`.
    first, second: as many images.
    same: whether each pair does show the same thing, if that is known; its errors are then measured.
    threshold: pairs that are at least this similar match. By default it is found on these pairs: the lowest
        at which at most `false_match_rate` of the different pairs match. To verify further pairs, give the
        threshold that was found.
    Raises ConfigError where neither `same` nor a threshold is given, and DanqingError as `encode`.
    """
    if len(first) != len(second):
        raise ConfigError(
            f"Pairs need as many first images as second ones, not {len(first)} and {len(second)}: give a "
            "partner for each image."
        )
    if same is not None and len(same) != len(first):
        raise ConfigError(
            f"same says of {len(same)} pairs what they show, and there are {len(first)}: give one value for "
            "each pair."
        )
    encoder = encoder_of(source, device=device)
    vectors = [encode(encoder, images) for images in (first, second)]
    truth = None if same is None else np.asarray(same, bool)
    return _verified(vectors[0], vectors[1], truth, threshold, false_match_rate)


def verify_labels(
    source: Source,
    images: Dataset,
    *,
    pairs: int = PAIRS,
    seed: int = 0,
    threshold: float | None = None,
    false_match_rate: float = FALSE_MATCH_RATE,
    device: str = "auto",
) -> Verification:
    """Measure how well images with the same label are told from others.

    pairs: how many are drawn of each kind. Other arguments and errors are those of `verify_pairs`; the images
    should not be those that the encoder learned from.
    """
    one, other, same = draw_pairs(torch.from_numpy(labels_of(images)), pairs, seed)
    vectors = encode(source, images, device=device)
    return _verified(vectors[one.numpy()], vectors[other.numpy()], same.numpy(), threshold, false_match_rate)


def _verified(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    same: NDArray[np.bool_] | None,
    threshold: float | None,
    false_match_rate: float,
) -> Verification:
    if same is None and threshold is None:
        raise ConfigError("A threshold is found on pairs that are known: give same, or a threshold.")
    similarities = F.cosine_similarity(torch.from_numpy(first), torch.from_numpy(second))
    roc = None if same is None else Roc.of(similarities, torch.from_numpy(same))
    if threshold is None:
        assert roc is not None
        threshold = roc.threshold(false_match_rate)
    return Verification(similarities.numpy(), threshold, roc)
