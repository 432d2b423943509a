"""Average precision: closed forms, an independent implementation, and influences by finite differences."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from danqing.evaluation import detection
from danqing.evaluation.detection import OVERLAPS, Matches, Truth, match, mean_average_precision
from danqing.learners.abilities import Detection

BOX = (0.0, 0.0, 10.0, 10.0)
FAR = (50.0, 50.0, 60.0, 60.0)
Said = Sequence[tuple[Sequence[float], int, float]]


def found(*said: tuple[Sequence[float], int, float]) -> Detection:
    ordered = sorted(said, key=lambda each: -each[2])
    return Detection(
        torch.tensor([list(box) for box, _, _ in ordered]).reshape(-1, 4),
        torch.tensor([label for _, label, _ in ordered], dtype=torch.long),
        torch.tensor([score for _, _, score in ordered]),
    )


def real(*objects: tuple[Sequence[float], int]) -> Truth:
    return Truth(
        torch.tensor([list(box) for box, _ in objects]).reshape(-1, 4),
        torch.tensor([label for _, label in objects], dtype=torch.long),
    )


def ap50(answers: list[Detection], truth: list[Truth], classes: int = 1) -> float:
    return mean_average_precision(match(answers, truth, classes, [0.5])).value


def test_closed_forms() -> None:
    truth = [real((BOX, 0)), real((BOX, 0))]
    right = found((BOX, 0, 0.9))
    assert ap50([right, right], truth) == 1
    assert ap50([found(), found()], truth) == 0
    # half of the objects, all answers right: the precision is 1 up to a recall of 0.5, the first 51 of 101
    assert ap50([right, found()], truth) == pytest.approx(51 / 101)
    # a false answer before the only right one halves the precision
    assert ap50([found((FAR, 0, 0.95), (BOX, 0, 0.9))], truth[:1]) == 0.5
    # a second answer for the same object is false, and a later false answer costs nothing
    assert ap50([found((BOX, 0, 0.9), (BOX, 0, 0.8))], truth[:1]) == 1
    # a box of another class does not count, and a class without objects is left out
    assert ap50([found((BOX, 1, 0.9))], truth[:1], classes=2) == 0
    assert np.isnan(ap50([right], [real()]))


def test_an_overlap_counts_up_to_its_own_limit() -> None:
    shifted = (0.0, 0.0, 10.0, 7.2)  # overlaps by 0.72
    matches = match([found((shifted, 0, 0.9))], [real((BOX, 0))], 1)
    assert matches[0].hits[0].tolist() == [limit <= 0.72 for limit in OVERLAPS]
    assert mean_average_precision(matches).value == pytest.approx(0.5)
    assert mean_average_precision(matches, slice(5, 6)).value == 0


def random_scenes(count: int, seed: int) -> tuple[list[Detection], list[Truth]]:
    rng = np.random.default_rng(seed)
    answers, truth = [], []
    for _ in range(count):
        corners = rng.uniform(0, 40, (rng.integers(0, 5), 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 20, corners.shape)], 1)
        labels = rng.integers(0, 3, len(boxes))
        truth.append(real(*zip(boxes.tolist(), labels.tolist(), strict=True)))
        said = [
            ((box + rng.normal(0, 1.5, 4)).tolist(), int(label), float(rng.uniform()))
            for box, label in zip(boxes, labels, strict=True)
            for _ in range(rng.integers(0, 3))
        ]
        said += [([0, 0, *rng.uniform(5, 30, 2)], int(rng.integers(0, 3)), float(rng.uniform()))]
        answers.append(found(*said))
    return answers, truth


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def plain_average_precision(answers: list[Detection], truth: list[Truth], label: int, limit: float) -> float:
    """The definition, one answer after the other."""
    said, total = [], 0
    for number, (answer, are) in enumerate(zip(answers, truth, strict=True)):
        total += int((are.classes == label).sum())
        rows = zip(answer.boxes.tolist(), answer.classes.tolist(), answer.scores.tolist(), strict=True)
        said += [(score, number, box) for box, k, score in rows if k == label]
    taken, hits = set(), []
    for _, number, box in sorted(said, key=lambda each: -each[0]):
        real_ones = zip(truth[number].boxes.tolist(), truth[number].classes.tolist(), strict=True)
        options = [
            (overlap(box, other), place)
            for place, (other, k) in enumerate(real_ones)
            if k == label and (number, place) not in taken and overlap(box, other) >= limit
        ]
        if options:
            taken.add((number, max(options)[1]))
        hits.append(bool(options))
    precisions = [
        (sum(hits[: rank + 1]) / total, sum(hits[: rank + 1]) / (rank + 1)) for rank in range(len(hits))
    ]
    levels = [
        max((precision for recall, precision in precisions if recall >= step / 100 - 1e-12), default=0.0)
        for step in range(101)
    ]
    return sum(levels) / 101


@pytest.mark.parametrize("seed", range(3))
def test_an_independent_implementation_agrees(seed: int) -> None:
    answers, truth = random_scenes(20, seed)
    expected = [
        plain_average_precision(answers, truth, label, limit) for label in range(3) for limit in OVERLAPS
    ]
    assert mean_average_precision(match(answers, truth, 3)).value == pytest.approx(np.mean(expected))


def repeated(matches: Matches, counts: np.ndarray) -> Matches:
    """The matches if each image were there several times."""
    rows = np.repeat(np.arange(len(matches.images)), counts[matches.images])
    return Matches(matches.images[rows], matches.hits[rows], matches.objects * counts)


def area(matches: Matches) -> float:
    """The area under the curve, which has no steps of 1/101."""
    hits = matches.hits[:, 0]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[hits].sum() / matches.objects.sum())


def test_influences_are_the_derivative_by_the_weight_of_an_image() -> None:
    answers, truth = random_scenes(25, 7)
    matches = match(answers, truth, 3, [0.5])[0]
    _, influences = detection._average_precision(matches.images, matches.hits[:, 0], matches.objects)
    times = 200
    base = area(repeated(matches, np.full(25, times)))
    changes = [
        (area(repeated(matches, np.full(25, times) + (np.arange(25) == row))) - base) * times * 25
        for row in range(25)
    ]
    assert influences.sum() == pytest.approx(0, abs=1e-9)
    assert influences == pytest.approx(np.array(changes), abs=0.02)


def test_the_interval_is_that_of_resampled_images() -> None:
    answers, truth = random_scenes(60, 3)
    matches = match(answers, truth, 3, [0.5])
    interval = mean_average_precision(matches).interval()
    assert interval is not None
    rng = np.random.default_rng(0)
    values = []
    for _ in range(300):
        counts = np.bincount(rng.integers(0, 60, 60), minlength=60)
        values.append(mean_average_precision([repeated(each, counts) for each in matches]).value)
    low, high = np.quantile(values, [0.025, 0.975])
    assert interval[1] - interval[0] == pytest.approx(high - low, rel=0.3)
