"""Scores of masks agree with scikit-learn, with brute force and with what resampling would give."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score
from torch import Tensor

from danqing.data.targets import IGNORED
from danqing.errors import EvaluationError
from danqing.evaluation.segmentation import (
    boundary_f1,
    boundary_scores,
    class_iou,
    joined,
    mask_counts,
    mean_dice,
    mean_iou,
    pixel_accuracy,
)
from danqing.randomness import generator

CLASSES = 4


def masks(count: int, side: int = 12) -> tuple[Tensor, Tensor]:
    """Blocky true masks with some ignored pixels, and predictions that are often right."""
    rng = generator(0, "masks")
    coarse = torch.randint(CLASSES - 1, (count, side // 3, side // 3), generator=rng)
    actual = coarse.repeat_interleave(3, 1).repeat_interleave(3, 2)
    wrong = torch.rand(actual.shape, generator=rng) < 0.2
    predicted = torch.where(wrong, torch.randint(CLASSES - 1, actual.shape, generator=rng), actual)
    actual[torch.rand(actual.shape, generator=rng) < 0.1] = IGNORED
    return predicted, actual


def test_scores_agree_with_scikit_learn() -> None:
    predicted, actual = masks(30)
    counts = joined(
        [mask_counts(predicted[:10], actual[:10], CLASSES), mask_counts(predicted[10:], actual[10:], CLASSES)]
    )
    known = actual != IGNORED
    truth, guess = actual[known].numpy(), predicted[known].numpy()
    assert mean_iou(counts).value == pytest.approx(jaccard_score(truth, guess, average="macro"))
    assert mean_dice(counts).value == pytest.approx(f1_score(truth, guess, average="macro"))
    assert pixel_accuracy(counts).value == pytest.approx((truth == guess).mean())
    assert [each is None for each in class_iou(counts)] == [
        False,
        False,
        False,
        True,
    ]  # the last never occurs


def test_the_interval_of_miou_is_what_resampling_images_gives() -> None:
    predicted, actual = masks(80)
    counts = mask_counts(predicted, actual, CLASSES)
    low, high = mean_iou(counts).interval() or (0.0, 0.0)
    values = []
    for number in range(400):
        rows = torch.randint(80, (80,), generator=generator(1, "rows", number))
        values.append(mean_iou(type(counts)(*(part[rows] for part in counts))).value)
    below, above = np.quantile(values, [0.025, 0.975])
    assert low == pytest.approx(below, abs=0.15 * (above - below))
    assert high == pytest.approx(above, abs=0.15 * (above - below))


def test_a_perfect_mask_scores_1_and_its_interval_ends_there() -> None:
    _, actual = masks(20)
    predicted = torch.where(actual == IGNORED, 0, actual)
    found = mean_iou(mask_counts(predicted, actual, CLASSES))
    assert found.value == 1
    assert (found.interval() or (0, 0))[1] == 1
    assert boundary_f1(boundary_scores(predicted, actual, CLASSES)).value > 0.9  # ignored pixels hide some


def brute_force(predicted: Tensor, actual: Tensor, radius: float) -> float:
    """The boundary F1 of one pair of masks without ignored pixels, pair of pixels by pair of pixels."""

    def boundary(mask: Tensor, number: int) -> list[tuple[int, int]]:
        height, width = mask.shape
        found = []
        for y, x in itertools.product(range(height), range(width)):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [mask[v, u] for v, u in around if 0 <= v < height and 0 <= u < width]
            if mask[y, x] == number and any(value != number for value in inside):
                found.append((y, x))
        return found

    def share(these: list[tuple[int, int]], those: list[tuple[int, int]]) -> float:
        near = [any(math.dist(one, other) <= radius for other in those) for one in these]
        return sum(near) / len(near) if near else 0.0

    scores = []
    for number in range(CLASSES):
        found, sought = boundary(predicted, number), boundary(actual, number)
        if found or sought:
            precision, recall = share(found, sought), share(sought, found)
            scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return sum(scores) / len(scores)


@pytest.mark.parametrize("tolerance", [0.0075, 0.15])
def test_boundary_f1_agrees_with_distances_between_all_pixels(tolerance: float) -> None:
    predicted, actual = masks(4)
    actual[actual == IGNORED] = 0
    found = boundary_scores(predicted, actual, CLASSES, tolerance=tolerance)
    radius = max(1.0, tolerance * math.hypot(12, 12))
    expected = [brute_force(one, other, radius) for one, other in zip(predicted, actual, strict=True)]
    assert found.tolist() == pytest.approx(expected)


def test_masks_without_boundaries_are_left_out_of_boundary_f1() -> None:
    flat = torch.zeros(2, 8, 8, dtype=torch.long)
    assert boundary_scores(flat, flat, CLASSES).isnan().all()
    with pytest.raises(EvaluationError, match="no mask has one"):
        boundary_f1(boundary_scores(flat, flat, CLASSES))


def test_masks_that_do_not_fit_are_rejected() -> None:
    flat = torch.zeros(2, 8, 8, dtype=torch.long)
    with pytest.raises(EvaluationError, match=r"two sets of masks \[n, h, w\]"):
        mask_counts(flat, flat[:1], CLASSES)
    with pytest.raises(EvaluationError, match="holds the class 5, and there are 4"):
        mask_counts(flat, flat + 5, CLASSES)
    with pytest.raises(EvaluationError, match="all pixels are ignored"):
        mean_iou(mask_counts(flat, flat + IGNORED, CLASSES))
