"""How well masks agree: intersection over union, Dice, boundaries, each with an interval.

All scores leave out pixels whose true class is `IGNORED`. Intervals resample the images.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.data.targets import IGNORED
from danqing.errors import EvaluationError
from danqing.evaluation.estimate import Estimate, mean_of

TOLERANCE = 0.0075
"""How far apart boundaries may be, as a share of the image's diagonal (Csurka et al. 2013, section 3.2)."""


class MaskCounts(NamedTuple):
    """How many pixels of each image have each class, float64 `[n, k]`.

    agreed: predicted and true. predicted, actual: the one or the other.
    """

    agreed: Tensor
    predicted: Tensor
    actual: Tensor

    @property
    def present(self) -> Tensor:
        """Return which classes are predicted or true in some image, boolean `[k]`."""
        return (self.predicted + self.actual).sum(0) > 0


def mask_counts(predicted: Tensor, actual: Tensor, classes: int) -> MaskCounts:
    """Count the pixels of each class in each image.

    predicted: integers `[n, h, w]` in [0, classes). actual: the same, or `IGNORED`.
    Raises EvaluationError where the shapes differ or a class is out of range.
    """
    _check(predicted, actual, classes)
    known = actual != IGNORED
    agrees = known & (predicted == actual)
    return MaskCounts(
        _histograms(actual, agrees, classes),
        _histograms(predicted, known, classes),
        _histograms(actual, known, classes),
    )


def joined(parts: list[MaskCounts]) -> MaskCounts:
    """Join the counts of several sets of images."""
    return MaskCounts(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def class_iou(counts: MaskCounts) -> list[Estimate | None]:
    """Compute the intersection over union of each class over all images.

    None for a class that is neither predicted nor true anywhere.
    """
    return _ratios(counts.agreed, counts.predicted + counts.actual - counts.agreed)


def class_dice(counts: MaskCounts) -> list[Estimate | None]:
    """Compute 2·agreed / (predicted + actual) of each class over all images.

    None for a class that is neither predicted nor true anywhere.
    """
    return _ratios(2 * counts.agreed, counts.predicted + counts.actual)


def mean_iou(counts: MaskCounts) -> Estimate:
    """Compute the mean over classes of their intersection over union (mIoU), in [0, 1].

    Raises EvaluationError if no pixel has a class.
    """
    return _mean(class_iou(counts))


def mean_dice(counts: MaskCounts) -> Estimate:
    """Compute the mean over classes of their Dice coefficient, in [0, 1].

    Raises EvaluationError if no pixel has a class.
    """
    return _mean(class_dice(counts))


def pixel_accuracy(counts: MaskCounts) -> Estimate:
    """Compute the share of pixels whose class is right.

    Raises EvaluationError if no pixel has a class.
    """
    return _mean(_ratios(counts.agreed.sum(1, keepdim=True), counts.actual.sum(1, keepdim=True)))


def boundary_scores(
    predicted: Tensor, actual: Tensor, classes: int, *, tolerance: float = TOLERANCE
) -> Tensor:
    """Compute the boundary F1 of each image, float64 `[n]`; NaN where neither mask has a boundary.

    The boundary of a class is its pixels next to another class. Precision is the share of predicted boundary
    pixels within the tolerance of a true one, recall the reverse. F1 is the mean over the classes that have a
    boundary in either mask (Csurka et al. 2013, "What is a good evaluation measure for semantic
    segmentation?", section 3.2).

    predicted, actual: as of `mask_counts`.
    tolerance: as a share of the diagonal; it is at least one pixel.
    """
    _check(predicted, actual, classes)
    disc = _disc(max(1.0, tolerance * float(torch.tensor(actual.shape[1:]).float().norm())))
    known = actual != IGNORED
    total = torch.zeros(len(actual), dtype=torch.float64)
    counted = torch.zeros_like(total)
    for number in range(classes):
        found = _boundary(predicted == number, known)
        sought = _boundary(actual == number, known)
        matched = (found & _grown(sought, disc)).sum((1, 2)).double(), found.sum((1, 2)).double()
        reached = (sought & _grown(found, disc)).sum((1, 2)).double(), sought.sum((1, 2)).double()
        precision, recall = (hits / of.clamp_min(1) for hits, of in (matched, reached))
        total += 2 * precision * recall / (precision + recall).clamp_min(1e-12)
        counted += (matched[1] + reached[1]) > 0
    return torch.where(counted > 0, total / counted.clamp_min(1), torch.nan)


def boundary_f1(scores: Tensor) -> Estimate:
    """Compute the mean of `boundary_scores` over the images that have a boundary.

    Raises EvaluationError if none has.
    """
    scores = scores[~scores.isnan()]
    if not len(scores):
        raise EvaluationError("The boundaries cannot be scored, since no mask has one: choose other images.")
    found = mean_of(scores)
    return Estimate(found.value, found.influences, least=0.0, most=1.0)


def _check(predicted: Tensor, actual: Tensor, classes: int) -> None:
    if predicted.shape != actual.shape or predicted.dim() != 3:
        raise EvaluationError(
            f"The masks have the shapes {list(predicted.shape)} and {list(actual.shape)}: give two sets of "
            "masks [n, h, w] of one size."
        )
    known = actual[actual != IGNORED]
    highest = max((int(mask.max()) for mask in (predicted, known) if mask.numel()), default=0)
    if highest >= classes:
        raise EvaluationError(
            f"A mask holds the class {highest}, and there are {classes}: check the masks' values."
        )


def _histograms(masks: Tensor, counted: Tensor, classes: int) -> Tensor:
    """Return how many counted pixels of each image have each class, float64 `[n, k]`."""
    values = torch.where(counted, masks.long(), classes).flatten(1)
    places = values + (classes + 1) * torch.arange(len(values), device=masks.device)[:, None]
    found = torch.bincount(places.flatten(), minlength=len(values) * (classes + 1))
    return found.view(len(values), classes + 1)[:, :classes].double().cpu()


def _ratios(above: Tensor, below: Tensor) -> list[Estimate | None]:
    """Return the sum of `above` over that of `below` for each column of `[n, k]`.

    The influence of an image is that of a ratio of sums (Efron and Tibshirani 1993, section 21.4).
    """
    found: list[Estimate | None] = []
    for a, b in zip(above.T, below.T, strict=True):
        if not b.sum():
            found.append(None)
            continue
        value = a.sum() / b.sum()
        influence = value + (a - value * b) / b.mean()
        found.append(Estimate(float(value), (influence,), least=0.0, most=1.0))
    return found


def _mean(estimates: list[Estimate | None]) -> Estimate:
    found = [estimate for estimate in estimates if estimate is not None]
    if not found:
        raise EvaluationError(
            "The masks cannot be scored, since all pixels are ignored: choose other images."
        )
    influence = torch.stack([estimate.influences[0] for estimate in found]).mean(0)
    value = sum(estimate.value for estimate in found) / len(found)
    return Estimate(value, (influence,), least=0.0, most=1.0)


def _boundary(inside: Tensor, known: Tensor) -> Tensor:
    """Return the pixels of a class that have a known neighbour of another, to a side or above or below."""
    others = known & ~inside
    beside = F.pad(others.float()[:, None], (1, 1, 1, 1))
    touches = (
        beside[:, :, 1:-1, :-2] + beside[:, :, 1:-1, 2:] + beside[:, :, :-2, 1:-1] + beside[:, :, 2:, 1:-1]
    )
    return known & inside & (touches[:, 0] > 0)


def _disc(radius: float) -> Tensor:
    """Return the places within a radius of the middle, float32 `[1, 1, d, d]`."""
    side = torch.arange(-int(radius), int(radius) + 1)
    return ((side[:, None] ** 2 + side**2) <= radius**2).float()[None, None]


def _grown(pixels: Tensor, disc: Tensor) -> Tensor:
    """Return the pixels within a disc around some of `[n, h, w]`."""
    near = F.conv2d(pixels.float()[:, None], disc.to(pixels.device), padding=disc.shape[-1] // 2)
    return near[:, 0] > 0.5
