"""How well objects are found: average precision, as COCO defines it, with an interval."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from danqing.evaluation.estimate import Estimate
from danqing.learners.abilities import Detection
from danqing.learners.box_geometry import overlaps

OVERLAPS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""The overlaps from which on a box counts as found, from loose to tight."""
_RECALLS = np.linspace(0, 1, 101)


class Truth(NamedTuple):
    """The objects in an image: boxes `[m, 4]` and classes `[m]`."""

    boxes: torch.Tensor
    classes: torch.Tensor


class Matches(NamedTuple):
    """The answers of one class on all images, the most certain first.

    images: `[d]`, the image of each. hits: `[d, overlaps]`, whether each is the best answer for an object.
    objects: `[images]`, the number of objects of the class in each image.
    """

    images: NDArray[np.int64]
    hits: NDArray[np.bool_]
    objects: NDArray[np.int64]


def match(
    found: Sequence[Detection], truth: Sequence[Truth], classes: int, limits: Sequence[float] = OVERLAPS
) -> list[Matches]:
    """Compare answers with objects, for each class.

    The answers of an image are taken in the order of their scores. Each hits the object of its class that it
    overlaps most among those that no other has hit, if the overlap is large enough.
    limits: the overlaps from which on an object counts as found.
    """
    scores: list[list[float]] = [[] for _ in range(classes)]
    images: list[list[int]] = [[] for _ in range(classes)]
    hits: list[list[NDArray[np.bool_]]] = [[] for _ in range(classes)]
    objects = np.zeros((classes, len(truth)), np.int64)
    for number, (answer, real) in enumerate(zip(found, truth, strict=True)):
        of_all = overlaps(answer.boxes[:, None], real.boxes[None])[0].double().cpu().numpy()
        said, are = answer.classes.cpu().numpy(), real.classes.cpu().numpy()
        objects[:, number] = np.bincount(are, minlength=classes)
        for label in np.unique(said).tolist():
            (rows,) = np.nonzero(said == label)
            of_label = of_all[rows][:, are == label]
            scores[label] += answer.scores[torch.from_numpy(rows)].tolist()
            images[label] += [number] * len(rows)
            hits[label] += _hits(of_label, np.asarray(limits))
    result = []
    for label in range(classes):
        order = np.argsort(-np.array(scores[label]), kind="stable")
        matrix = np.array(hits[label], bool).reshape(-1, len(limits))
        result.append(Matches(np.array(images[label], np.int64)[order], matrix[order], objects[label]))
    return result


def _hits(overlap: NDArray[np.float64], limits: NDArray[np.float64]) -> list[NDArray[np.bool_]]:
    """Which answers `[d, m]` hit an object, `[overlaps]` for each answer."""
    free = np.ones((len(limits), overlap.shape[1]), bool)
    found = []
    for row in overlap:
        usable = np.where(free & (row >= limits[:, None]), row, -1.0)
        best = usable.argmax(1) if overlap.shape[1] else np.zeros(len(limits), np.int64)
        is_hit = usable.max(1, initial=-1.0) >= 0
        free[np.flatnonzero(is_hit), best[is_hit]] = False
        found.append(is_hit)
    return found


def mean_average_precision(matches: Sequence[Matches], limits: slice = slice(None)) -> Estimate:
    """Return the mean average precision.

    It is the mean over the classes that occur and over some overlaps.
    limits: which of the overlaps that were matched.
    An average precision is the mean over 101 recalls of the best precision at that recall or above (Lin et
    al. 2014, the evaluation code of COCO). Its influences are the derivative of the area under the same curve
    by the weight of each image.
    """
    values, influences = list[float](), list[NDArray[np.float64]]()
    for each in matches:
        if each.objects.sum():
            for column in range(each.hits.shape[1])[limits]:
                value, influence = _average_precision(each.images, each.hits[:, column], each.objects)
                values.append(value)
                influences.append(influence)
    if not values:
        return Estimate(float("nan"))
    mean = torch.from_numpy(np.mean(influences, axis=0))
    return Estimate(float(np.mean(values)), (mean,), least=0.0, most=1.0)


def _average_precision(
    images: NDArray[np.int64], hits: NDArray[np.bool_], objects: NDArray[np.int64]
) -> tuple[float, NDArray[np.float64]]:
    """Return an average precision, and how it changes with the weight of each image, times their number."""
    total, count = int(objects.sum()), len(objects)
    influence = np.zeros(count)
    if not hits.any():
        return 0.0, influence
    ranks = np.arange(1, len(hits) + 1)
    precision = np.cumsum(hits) / ranks
    best = _best_from(precision)
    envelope = precision[best]
    recall = np.cumsum(hits) / total
    first = np.searchsorted(recall, _RECALLS, side="left")
    reached = first < len(hits)
    value = float(envelope[first[reached]].sum() / len(_RECALLS))
    # area = sum over hits d of w(d) q(d) / P, with q = hits until b(d) / answers until b(d), P = objects
    of_hits = np.flatnonzero(hits)
    at = best[of_hits]
    area = envelope[of_hits].sum() / total
    per_rank = np.bincount(at, 1 / ranks[at], len(hits))
    per_precision = np.bincount(at, precision[at] / ranks[at], len(hits))
    later, later_precision = per_rank[::-1].cumsum()[::-1], per_precision[::-1].cumsum()[::-1]
    gain = hits * (envelope + later) - later_precision
    influence = np.bincount(images, gain, count) / total - objects * area / total
    return value, influence * count


def _best_from(precision: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each place the first from there on that has the highest value from there on."""
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.where(precision >= highest, np.arange(len(precision)), len(precision))
    best: NDArray[np.int64] = np.minimum.accumulate(places[::-1])[::-1]
    return best
