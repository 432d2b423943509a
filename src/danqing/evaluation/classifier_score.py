"""Classifier score: whether a classifier is sure of each image, and unsure of them all together."""

import itertools

import torch
from torch import Tensor

from danqing.errors import EvaluationError
from danqing.evaluation.contract import Rows
from danqing.evaluation.estimate import Estimate
from danqing.evaluation.feature_rows import tiles


def classifier_score(probabilities: Rows, *, splits: int = 1) -> Estimate:
    """Return the classifier score of class probabilities `[n, classes]`.

    It is exp of the mean KL(p(y|x) ‖ p(y)), from 1 to `classes`; higher is better.

    The Inception score where the classifier is the Inception network (Salimans et al. 2016, section 4). The
    usual mean over ten splits of the images lies lower, since a tenth of them mixes fewer classes into p(y);
    `splits` (equal parts, in order) is for comparison with such figures. Raises EvaluationError for fewer
    than two images per split.
    """
    count = probabilities.shape[0]
    if count < 2 * splits:
        raise EvaluationError(
            f"A classifier score over {splits} splits needs at least {2 * splits} images: add images."
        )
    borders = [count * number // splits for number in range(splits + 1)]
    values, influences = [], []
    for first, last in itertools.pairwise(borders):
        divergences = _divergences(probabilities, first, last)
        values.append(divergences.mean().exp())
        influences.append(values[-1] * (divergences - divergences.mean()))
    return Estimate(float(torch.stack(values).mean()), (torch.cat(influences),))


def _divergences(probabilities: Rows, first: int, last: int) -> Tensor:
    """KL(p(y|x) ‖ p(y)) of the images from `first` to before `last`, which p(y) is the mean of; `[n]`.

    They are also how its mean answers to the weight of each image: the change of p(y) adds a constant.
    """
    part = _Part(probabilities, first, last)
    marginal = torch.zeros(probabilities.shape[1], dtype=torch.float64)
    for _, tile in tiles(part):
        marginal += tile.double().sum(0)
    marginal /= last - first
    return torch.cat([_divergence(tile.double(), marginal) for _, tile in tiles(part)])


def _divergence(probabilities: Tensor, marginal: Tensor) -> Tensor:
    surprise = torch.xlogy(probabilities, probabilities) - torch.xlogy(probabilities, marginal)
    return surprise.sum(1)


class _Part:
    def __init__(self, rows: Rows, first: int, last: int) -> None:
        self._rows = rows
        self._first = first
        self.shape: tuple[int, ...] = (last - first, rows.shape[1])

    def __getitem__(self, rows: slice, /) -> Tensor:
        start, stop, _ = rows.indices(self.shape[0])
        return self._rows[self._first + start : self._first + stop]
