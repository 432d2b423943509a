"""Wrong labels, found by confident learning (Northcutt, Jiang and Chuang 2021, arXiv:1911.00068)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing.errors import EvaluationError

FEWEST = 5
"""Labels with fewer images than this are not judged: too little is known about them."""
_CONFIDENT = 0.9
"""A probability that is enough for any label, since a mean of 0.99 would pass over half of the flips."""


class LabelErrors(NamedTuple):
    """Images whose label is probably wrong, the most certain first.

    rows: int64 `[m]`, places among the images. suggested: int64 `[m]`, the label that fits better.
    given, better: float32 `[m]`, the probability of the label that the image has, and of the suggested one.
    joint: float64 `[k, k]`, the estimated number of images by given label and by true label.
    """

    rows: NDArray[np.int64]
    suggested: NDArray[np.int64]
    given: NDArray[np.float32]
    better: NDArray[np.float32]
    joint: NDArray[np.float64]


def find_label_errors(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> LabelErrors:
    """Find the images whose label is probably wrong.

    probabilities: `[n, k]`, of images that the model that gives them did not learn from.
    labels: `[n]` in [0, k), -1 for images without a label, which are not judged.

    An image counts for the label that is most probable among those whose probability is at least its mean
    over the images with that label (equation 1), or 0.9 if that is less. The counts, scaled to the number of
    images of each label (equation 3), say how many images of label i truly have label j; so many are chosen,
    by their margin (section 4.2, "prune by noise rate"). An image is never chosen if its label is the most
    probable one. The less probable its label, the more certain is the error.

    Raises EvaluationError where the shapes do not fit together.
    """
    n, k = probabilities.shape
    if labels.shape != (n,) or (n and int(labels.max()) >= k):
        raise EvaluationError(f"Give one label below {k} for each of the {n} rows of probabilities.")
    counts = np.bincount(labels[labels >= 0], minlength=k)
    judged = np.flatnonzero((labels >= 0) & (counts >= FEWEST)[labels])
    given, known = labels[judged], counts >= FEWEST
    seen = np.where(known, probabilities[judged], -np.inf).astype(np.float32, copy=False)
    own = seen[np.arange(len(judged)), given]
    sums = np.bincount(given, weights=own, minlength=k)
    means = np.minimum(sums / np.maximum(counts, 1), _CONFIDENT)
    thresholds = np.where(known, means, np.inf).astype(np.float32)
    confident = np.where(seen >= thresholds, seen, -np.inf).argmax(1)
    counted = (seen >= thresholds).any(1)
    joint = np.bincount(given[counted] * k + confident[counted], minlength=k * k).reshape(k, k).astype(float)
    empty = known & (joint.sum(1) == 0)
    joint[empty, empty] = 1  # nothing is confident: the labels are taken as they are
    joint *= (np.where(known, counts, 0) / np.maximum(joint.sum(1), 1))[:, None]
    likeliest = seen.argmax(1)
    chosen = _most_certain(seen, own, given, likeliest, joint)
    chosen = chosen[np.lexsort((judged[chosen], own[chosen]))]
    better = seen[chosen, likeliest[chosen]]
    return LabelErrors(judged[chosen], likeliest[chosen], own[chosen], better, joint)


def _most_certain(
    seen: NDArray[np.float32],
    own: NDArray[np.float32],
    given: NDArray[np.int64],
    likeliest: NDArray[np.int64],
    joint: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Return as many images of each pair of labels as the joint counts say."""
    is_chosen = np.zeros(len(given), bool)
    order = np.argsort(given, kind="stable")
    ends = np.searchsorted(given[order], np.arange(len(joint) + 1))
    wanted = np.rint(joint).astype(np.int64)
    np.fill_diagonal(wanted, 0)
    for label in np.flatnonzero(wanted.any(1)):
        rows = order[ends[label] : ends[label + 1]]
        others = np.flatnonzero(wanted[label])
        margins = seen[rows][:, others] - own[rows][:, None]
        for column, other in enumerate(others):
            count = min(int(wanted[label, other]), len(rows))
            is_chosen[rows[np.argpartition(-margins[:, column], count - 1)[:count]]] = True
    is_chosen &= likeliest != given
    return np.flatnonzero(is_chosen)
