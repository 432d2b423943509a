"""Diversity within a class: how far its images lie from one another."""

import numpy as np
import torch
from numpy.typing import NDArray

from danqing.errors import EvaluationError
from danqing.evaluation.contract import Rows
from danqing.evaluation.estimate import Estimate
from danqing.evaluation.feature_rows import check_comparable, tiles

Labels = NDArray[np.int64]


def relative_diversity(
    generated: Rows,
    generated_labels: Labels | None,
    reference: Rows,
    reference_labels: Labels | None,
) -> Estimate:
    """Return the diversity of generated images within classes, divided by that of real ones.

    Diversity is the mean squared distance of two images of a class: 2 tr Σ, with Σ the covariance within the
    class (divided by n - 1). 1 means as diverse as real images.

    generated, reference: features `[n, d]` and `[m, d]`.
    generated_labels, reference_labels: `[n]` and `[m]`; rows with labels below 0 are left out. Where either
        is None, all images are one class. A class with two images on either side has the weight that it has
        among the real images, so that a different mix of classes does not count as diversity.

    Raises EvaluationError where no class is left, or where no two real images of a class differ.
    """
    check_comparable(generated, reference)
    if generated_labels is None or reference_labels is None:
        generated_labels = reference_labels = None
    ours, real = _Spread(generated, generated_labels), _Spread(reference, reference_labels)
    weights = _shares(real, [label for label in real.classes if label in ours.classes])
    below = real.mean(weights)
    if not below > 0:
        raise EvaluationError(
            "The real images of each class are all the same: choose others to compare with."
        )
    value = ours.mean(weights) / below
    return Estimate(value, (ours.influences(weights) / below, -value / below * real.influences(weights)))


def _shares(spread: "_Spread", labels: list[int]) -> dict[int, float]:
    total = sum(spread.counts[label] for label in labels)
    if not total:
        raise EvaluationError("Diversity within a class needs a class with two images or more: add images.")
    return {label: spread.counts[label] / total for label in labels}


class _Spread:
    """The squared distance of each row to the mean of its class, `[n]`, read in two passes."""

    def __init__(self, features: Rows, labels: Labels | None) -> None:
        count, dimensions = features.shape
        self.labels = torch.from_numpy(np.zeros(count, np.int64) if labels is None else labels)
        found, rank, counts = torch.unique(self.labels, return_inverse=True, return_counts=True)
        self.counts: dict[int, int] = dict(zip(found.tolist(), counts.tolist(), strict=True))
        means = torch.zeros(len(found), dimensions, dtype=torch.float64)
        for start, tile in tiles(features):
            means.index_add_(0, rank[start : start + len(tile)], tile.double())
        means /= counts[:, None]
        self.squares = torch.zeros(count, dtype=torch.float64)
        for start, tile in tiles(features):
            here = slice(start, start + len(tile))
            self.squares[here] = (tile.double() - means[rank[here]]).square_().sum(1)

    @property
    def classes(self) -> list[int]:
        """The labels of at least two rows."""
        return [label for label, count in self.counts.items() if label >= 0 and count > 1]

    def pairwise(self, label: int) -> float:
        return 2 * float(self.squares[self.labels == label].sum()) / (self.counts[label] - 1)

    def mean(self, weights: dict[int, float]) -> float:
        return sum(weight * self.pairwise(label) for label, weight in weights.items())

    def influences(self, weights: dict[int, float]) -> torch.Tensor:
        """Return how each row influences the weighted sum over classes, `[n]`."""
        result = torch.zeros_like(self.squares)
        for label, weight in weights.items():
            inside = self.labels == label
            count = self.counts[label]
            each = 2 * self.squares[inside] * count / (count - 1) - self.pairwise(label)
            result[inside] = weight * len(result) / count * each
        return result
