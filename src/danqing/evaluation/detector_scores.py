"""The scores of a detector on images with boxes, and pictures of what it found in some of them."""

from typing import Any, NamedTuple, cast

import numpy as np
import torch

from danqing.data import Dataset
from danqing.data.targets import TargetClasses
from danqing.errors import EvaluationError
from danqing.evaluation import detection
from danqing.evaluation.box_drawing import draw_boxes
from danqing.evaluation.examination import Examination, ScoreContext
from danqing.evaluation.image_sets import batch_size_for, index_batches, spread_evenly
from danqing.evaluation.scores import Score
from danqing.families.base import Learner
from danqing.images import Images, to_float
from danqing.learners.abilities import Detection, Detects
from danqing.sheet import Sheet

SHOWN = 12
"""How many images are shown with their boxes."""
CERTAIN = 0.3
"""The score from which on a box is shown."""
_LIMITS = {"map": slice(None), "map50": slice(0, 1), "map75": slice(5, 6)}
_NAMES = {"map": "mAP", "map50": "mAP50", "map75": "mAP75"}


class Answers(NamedTuple):
    """What a detector found in images, and what is in them."""

    found: list[Detection]
    truth: list[detection.Truth]


def score(learner: Detects, images: Dataset, context: ScoreContext) -> Score:
    """Measure the mean average precision over overlaps from 0.5 to 0.95."""
    matches = _match(learner, answer(learner, images))
    estimate = detection.mean_average_precision(matches)
    return context.score(cast(Learner, learner), "map", _NAMES["map"], estimate)


def examine(learner: Detects, images: Dataset, context: ScoreContext) -> Examination:
    """Measure all scores of a detector, and draw what it found."""
    answers = answer(learner, images)
    matches = _match(learner, answers)
    scores = tuple(
        context.score(
            cast(Learner, learner),
            metric,
            _NAMES[metric],
            detection.mean_average_precision(matches, limits),
            headline=metric == "map",
        )
        for metric, limits in _LIMITS.items()
    )
    by_class = [
        [int(each.objects.sum()), detection.mean_average_precision([each], _LIMITS["map50"]).value]
        if each.objects.any()
        else [0, 0.0]
        for each in matches
    ]
    details: dict[str, Any] = {"classes": list(learner.classes), "images": len(images), "by_class": by_class}
    return Examination(
        scores,
        details={"detection": details},
        pictures={"found": _drawn(learner, images, answers)},
    )


def answer(learner: Detects, images: Dataset) -> Answers:
    """Return what a detector finds, and the true boxes.

    Raises EvaluationError if no image has a box of a class that it knows.
    """
    has_boxes = bool(images.target_classes.boxes)
    images = images.with_classes(TargetClasses(boxes=learner.classes))
    device = next(cast(Learner, learner).parameters()).device
    found, truth = list[Detection](), list[detection.Truth]()
    if has_boxes:
        with torch.no_grad():
            for part in index_batches(len(images), batch_size_for(images.size)):
                pixels = to_float(images.full_depth(part)).to(device)
                found += [Detection(*(each.cpu() for each in one)) for one in learner.detect(pixels)]
                targets = images.targets_at(part)
                assert targets.boxes is not None
                assert targets.box_labels is not None
                for boxes, labels in zip(targets.boxes, targets.box_labels, strict=True):
                    truth.append(detection.Truth(boxes[labels >= 0], labels[labels >= 0]))
    if not any(len(one.classes) for one in truth):
        raise EvaluationError(
            "None of these images has a box of a class that the model knows "
            f"({', '.join(learner.classes[:8])}): evaluate on images with the same classes."
        )
    return Answers(found, truth)


def _match(learner: Detects, answers: Answers) -> list[detection.Matches]:
    return detection.match(answers.found, answers.truth, len(learner.classes))


def _drawn(learner: Detects, images: Dataset, answers: Answers) -> Sheet:
    """Some images, evenly spaced, with the boxes that are found with some certainty."""
    rows = spread_evenly(len(images), min(SHOWN, len(images)))
    drawn, captions = [], []
    for row, pixels in zip(rows.tolist(), images.images(rows).numpy(), strict=True):
        one = answers.found[row]
        kept = one.scores >= CERTAIN
        boxes, classes, scores = (each[kept].tolist() for each in one)
        drawn.append(np.asarray(draw_boxes(pixels, boxes, classes, learner.classes, scores)))
        captions.append(f"{len(boxes)} found, {len(answers.truth[row].boxes)} there")
    return Sheet(Images(np.stack(drawn)), captions)
