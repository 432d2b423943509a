"""The scores of a segmenter on images with masks, and the masks that it gets most wrong."""

from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.data import Dataset
from danqing.data.targets import IGNORED
from danqing.errors import EvaluationError
from danqing.evaluation import segmentation
from danqing.evaluation.estimate import Estimate
from danqing.evaluation.examination import Examination, ScoreContext
from danqing.evaluation.image_sets import batch_size_for, index_batches
from danqing.evaluation.mask_overlays import overlaid
from danqing.evaluation.scores import Score
from danqing.evaluation.segmentation import MaskCounts
from danqing.families.base import Learner
from danqing.images import Images, to_float
from danqing.learners.abilities import Segments
from danqing.sheet import Sheet

SHOWN = 8
"""How many of the worst masks are shown."""
_NAMES = {
    "mean_iou": "mIoU",
    "mean_dice": "mean Dice",
    "boundary_f1": "boundary F1",
    "pixel_accuracy": "pixel accuracy",
}


class _Found(NamedTuple):
    """What a segmenter finds in images.

    counts: of their pixels. boundaries: the boundary F1 of each image. confusion: how many pixels of each
    true class are said to be of each class, `[k, k]`.
    """

    counts: MaskCounts
    boundaries: Tensor
    confusion: Tensor


def score(learner: Segments, images: Dataset, context: ScoreContext) -> Score:
    """Measure the mIoU of a segmenter.

    Raises EvaluationError where no pixel has a class that it knows.
    """
    estimate = segmentation.mean_iou(_find(learner, images).counts)
    return context.score(cast(Learner, learner), "mean_iou", _NAMES["mean_iou"], estimate)


def examine(learner: Segments, images: Dataset, context: ScoreContext) -> Examination:
    """Measure all scores of a segmenter, of each class too, and show the worst masks.

    Raises EvaluationError as `score` does.
    """
    found = _find(learner, images)
    counts, classes, whole = found.counts, learner.classes, cast(Learner, learner)
    estimates = {
        "mean_iou": segmentation.mean_iou(counts),
        "mean_dice": segmentation.mean_dice(counts),
        "boundary_f1": _boundary_f1(found.boundaries),
        "pixel_accuracy": segmentation.pixel_accuracy(counts),
    }
    scores = [
        context.score(whole, metric, _NAMES[metric], each, headline=metric == "mean_iou")
        for metric, each in estimates.items()
        if each is not None
    ]
    scores += [
        context.score(whole, f"iou/{name}", f"IoU of {name}", each)
        for name, each in zip(classes, segmentation.class_iou(counts), strict=True)
        if each is not None
    ]
    details: dict[str, Any] = {
        "classes": list(classes),
        "images": len(images),
        "labels": [part.sum(0).long().tolist() for part in (counts.actual, counts.predicted, counts.agreed)],
        "confusion": found.confusion.long().tolist(),
    }
    return Examination(
        tuple(scores),
        details={"segmentation": details},
        pictures={"worst-masks": _worst(learner, images, counts)},
    )


def predicted_masks(learner: Segments, images: Dataset, rows: NDArray[np.int64]) -> Tensor:
    """Return the class of each pixel of some images, uint8 `[n, h, w]`."""
    device = next(cast(Learner, learner).parameters()).device
    with torch.no_grad():
        logits = learner.mask_logits(to_float(images.full_depth(rows)).to(device))
    return logits.argmax(1).byte().cpu()


def _find(learner: Segments, images: Dataset) -> _Found:
    judged, k = _with_masks(learner, images), len(learner.classes)
    parts, boundaries, confusion = [], [], torch.zeros(k * k, dtype=torch.float64)
    for rows in index_batches(len(judged), batch_size_for(judged.size)):
        predicted, actual = predicted_masks(learner, judged, rows), _true_masks(judged, rows)
        parts.append(segmentation.mask_counts(predicted, actual, k))
        boundaries.append(segmentation.boundary_scores(predicted, actual, k))
        known = actual != IGNORED
        places = actual[known].long() * k + predicted[known].long()
        confusion += torch.bincount(places, minlength=k * k)
    return _Found(segmentation.joined(parts), torch.cat(boundaries), confusion.view(k, k))


def _with_masks(learner: Segments, images: Dataset) -> Dataset:
    """The same images, their masks numbered as the learner does; raise EvaluationError without any."""
    if not images.target_classes.mask:
        raise EvaluationError(
            f"{images.info.name} has no masks to compare with: evaluate on images with masks (data.masks)."
        )
    return images.with_classes(images.target_classes.model_copy(update={"mask": learner.classes}))


def _true_masks(images: Dataset, rows: NDArray[np.int64]) -> Tensor:
    mask = images.targets_at(rows).mask
    assert mask is not None
    return mask


def _boundary_f1(scores: Tensor) -> Estimate | None:
    """The mean over the images with boundaries; None if there are none."""
    return None if scores.isnan().all() else segmentation.boundary_f1(scores)


def _worst(learner: Segments, images: Dataset, counts: MaskCounts) -> Sheet:
    """The images with the most wrong pixels: the image, its true mask and the one found."""
    right, known = counts.agreed.sum(1), counts.actual.sum(1)
    shares = right / known.clamp_min(1)
    rows = torch.argsort(torch.where(known > 0, shares, 2.0), stable=True)[:SHOWN].numpy()
    judged = _with_masks(learner, images)
    pixels = judged.images(rows).numpy()
    truth, said = _true_masks(judged, rows).numpy(), predicted_masks(learner, judged, rows).numpy()
    said = np.where(truth == IGNORED, IGNORED, said)
    strips = [
        np.concatenate([overlaid(one, mask, strength=0), overlaid(one, mask), overlaid(one, other)], axis=1)
        for one, mask, other in zip(pixels, truth, said, strict=True)
    ]
    captions = [f"{float(shares[row]):.0%} of the pixels are right" for row in rows]
    note = "Each row shows the image with the true boundaries, its true mask, and the mask found."
    return Sheet(Images(np.stack(strips)), captions, columns=2, note=note)
