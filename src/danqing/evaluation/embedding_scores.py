"""The scores of vectors of held-out images: whether their neighbours share their label, or show the same."""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from danqing.data import Dataset
from danqing.errors import EvaluationError
from danqing.evaluation.estimate import Estimate
from danqing.evaluation.examination import Examination, ScoreContext
from danqing.evaluation.image_sets import (
    batch_size_for,
    index_batches,
    labels_of,
    spread_evenly,
)
from danqing.evaluation.neighbours import nearest
from danqing.evaluation.probes import NEIGHBOURS, neighbour_accuracy, partner_accuracy
from danqing.evaluation.scores import Score
from danqing.evaluation.verification import FEWEST_FALSE, Roc, draw_pairs
from danqing.families.base import Learner
from danqing.images import Images, to_float
from danqing.learners.abilities import Embeds
from danqing.nets.views import Changes, random_views
from danqing.randomness import generator
from danqing.sheet import Sheet

FEWEST_LABELLED = 20
"""Fewer labelled images have no neighbours to speak of."""
VIEWS = Changes(area=(0.5, 0.9), flip=False, colour=0.2)
"""The views of an image that should find each other."""
SHOWN, NEAREST = 8, 7
"""How many images are shown with how many of their nearest ones."""
_NAMES = {
    "neighbour_accuracy": f"label by {NEIGHBOURS} nearest neighbours",
    "view_retrieval": "views of an image that find each other",
    "verification_area": "images of one label told from others, area under the curve",
    "verification_matches": "images of one label that match at 1% false matches",
}
FALSE_MATCHES = 0.01
"""The share of pairs with different labels that match where those of one label are counted."""


def score(learner: Embeds, images: Dataset, context: ScoreContext) -> Score:
    """Measure the headline of an embedder.

    It is the accuracy of the nearest neighbours where the images have labels. Otherwise it is the share of
    images whose view is nearest to another view of the same image.
    """
    _check(images)
    rows, labels = _labelled(images)
    if len(rows):
        metric = "neighbour_accuracy"
        estimate = neighbour_accuracy(embedded(learner, images.subset(rows)), labels)
    else:
        metric, estimate = "view_retrieval", _retrieval(learner, images, context.seed)
    return context.score(cast(Learner, learner), metric, _NAMES[metric], estimate)


def examine(learner: Embeds, images: Dataset, context: ScoreContext) -> Examination:
    """Measure all scores of an embedder, and show the nearest images of some.

    Raises EvaluationError for fewer than two images.
    """
    _check(images)
    vectors = F.normalize(embedded(learner, images), dim=1)
    rows, labels = _labelled(images)
    estimates: dict[str, Estimate] = {}
    if len(rows):
        estimates["neighbour_accuracy"] = neighbour_accuracy(vectors[rows], labels)
    estimates["view_retrieval"] = _retrieval(learner, images, context.seed)
    verified, threshold = _verification(vectors[rows], labels, context.seed)
    estimates |= verified
    chosen = next(iter(estimates))
    return Examination(
        tuple(
            context.score(
                cast(Learner, learner),
                metric,
                _NAMES[metric],
                estimate,
                headline=metric == chosen,
                settings={"threshold": threshold} if metric == "verification_matches" else None,
            )
            for metric, estimate in estimates.items()
        ),
        pictures={"nearest": _nearest_images(images, vectors)},
    )


def _check(images: Dataset) -> None:
    if len(images) < 2:
        raise EvaluationError("Vectors of one image cannot be compared: give at least two images.")


def _labelled(images: Dataset) -> tuple[NDArray[np.int64], Tensor]:
    """The rows of labelled images and their labels; none where they are too few to have neighbours."""
    labels = labels_of(images) if images.label_names else np.full(len(images), -1)
    rows = np.flatnonzero(labels >= 0)
    if len(rows) < FEWEST_LABELLED or len(np.unique(labels[rows])) < 2:
        rows = rows[:0]
    return rows, torch.from_numpy(labels[rows])


def _retrieval(learner: Embeds, images: Dataset, seed: int) -> Estimate:
    """The share of images whose view is nearest to another view of the same image."""
    views = [F.normalize(embedded(learner, images, view=n, seed=seed), dim=1) for n in (0, 1)]
    return partner_accuracy(*views)


def _verification(vectors: Tensor, labels: Tensor, seed: int) -> tuple[dict[str, Estimate], float]:
    """How well images of one label are told from others, and the similarity from which they match.

    Draws as many pairs of each kind as there are images, and leaves out scores for which these are too few.
    """
    if not len(labels) or int(labels.bincount().max()) < 2:
        return {}, 1.0
    one, other, same = draw_pairs(labels, len(labels), seed)
    roc = Roc.of(F.cosine_similarity(vectors[one], vectors[other]), same)
    found = {"verification_area": roc.area()}
    if FALSE_MATCHES * len(labels) < FEWEST_FALSE:
        return found, 1.0
    threshold = roc.threshold(FALSE_MATCHES)
    return found | {"verification_matches": roc.matches(threshold)}, round(threshold, 4)


def _nearest_images(images: Dataset, vectors: Tensor) -> Sheet:
    """Some images, evenly spread, each at the beginning of a row of those that are nearest to it."""
    shown = spread_evenly(len(images), min(SHOWN, len(images)))
    count = min(NEAREST, len(images) - 1)
    distances, found = nearest(vectors[shown], vectors, count + 1)
    rows, captions = list[int](), list[str]()
    for row, near, away in zip(shown.tolist(), found.tolist(), distances.tolist(), strict=True):
        others = [(r, 1 - d**2 / 2) for r, d in zip(near, away, strict=True) if r != row][:count]
        rows += [row, *(r for r, _ in others)]
        captions += ["", *(f"{cosine:.2f}" for _, cosine in others)]
    return Sheet(Images(images.images(np.array(rows))), captions, columns=count + 1)


def embedded(learner: Embeds, images: Dataset, *, view: int | None = None, seed: int = 0) -> Tensor:
    """Return the vectors of all images, float32 `[n, d]` on the CPU.

    view: which random view of each image is embedded, drawn by the seed; None is the whole image.
    """
    device = next(cast(Learner, learner).parameters()).device
    found = []
    with torch.no_grad():
        for part in index_batches(len(images), batch_size_for(images.size)):
            pixels = to_float(images.full_depth(part)).to(device)
            if view is not None:
                rng = generator(seed, "judged view", view, int(part[0]), device=device)
                pixels = random_views(pixels, (pixels.shape[2], pixels.shape[3]), VIEWS, rng)
            found.append(learner.embed(pixels).float().cpu())
    return torch.cat(found)
