"""The scores of a classifier on labelled images, and the pictures that it gets most wrong."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from danqing.data import Dataset
from danqing.data.targets import TargetClasses
from danqing.errors import EvaluationError
from danqing.evaluation import classification
from danqing.evaluation.classification import Answers
from danqing.evaluation.estimate import Estimate
from danqing.evaluation.examination import Examination, ScoreContext
from danqing.evaluation.image_sets import batch_size_for, index_batches, map_labels
from danqing.evaluation.scores import Score
from danqing.families.base import Learner
from danqing.images import Images, to_float
from danqing.learners.abilities import Classifies
from danqing.sheet import Sheet

MISTAKES = 24
"""How many of the most confident mistakes are shown."""
TEMPERATURE = "temperature"
"""The setting of a score, and the fact of a model folder, that holds the temperature."""


def score(learner: Classifies, images: Dataset, context: ScoreContext) -> Score:
    """Measure the headline of a classifier.

    It is the accuracy. With several labels per image it is the mean F1, and for a classifier that balances
    its labels the balanced accuracy. The temperature that suits these images is among the settings.
    """
    answers, _ = answer(learner, images)
    metric, estimate = _headline(learner, answers)
    temperature = classification.fit_temperature(answers)
    return _score(context, learner, metric, estimate, temperature)


def examine(learner: Classifies, images: Dataset, context: ScoreContext) -> Examination:
    """Measure all scores of a classifier, its confusions and its worst mistakes.

    Without facts of its training, the temperature is fitted on these images, and the calibration error is
    measured with one that is fitted on other images.
    """
    answers, rows = answer(learner, images)
    chosen, _ = _headline(learner, answers)
    if context.trained is None:
        temperature = classification.fit_temperature(answers)
        calibration_error = classification.calibrated_error(answers)
    else:
        temperature = float(context.trained.get(TEMPERATURE, 1.0))
        calibration_error = classification.calibration_error(answers, temperature)
    estimates = {
        "accuracy": classification.accuracy(answers),
        **(
            {"exact_match": classification.exact_match(answers)}
            if answers.is_multi_label
            else {"balanced_accuracy": classification.balanced_accuracy(answers)}
        ),
        "f1": classification.mean_f1(answers),
        "calibration_error": calibration_error,
        "uncalibrated_error": classification.calibration_error(answers),
        "nll": classification.negative_log_likelihood(answers, temperature),
    }
    scores = tuple(
        _score(
            context,
            learner,
            name,
            each,
            None if name == "uncalibrated_error" else temperature,
            headline=name == chosen,
        )
        for name, each in estimates.items()
    )
    details: dict[str, Any] = {
        "classes": list(learner.classes),
        "images": len(rows),
        TEMPERATURE: temperature,
        "labels": _by_label(answers),
        "reliability": classification.reliability(answers, temperature),
    }
    pictures = {}
    if not answers.is_multi_label:
        details["confusion"] = classification.confusion(answers).tolist()
        wrong, captions = _mistakes(answers, temperature, learner.classes)
        if len(wrong):
            pictures["mistakes"] = Sheet(Images(images.images(rows[wrong])), captions, columns=8)
    return Examination(
        scores,
        trained={TEMPERATURE: temperature},
        details={"classification": details},
        pictures=pictures,
    )


def answer(learner: Classifies, images: Dataset) -> tuple[Answers, NDArray[np.int64]]:
    """Return what a classifier says of the images whose labels it knows.

    Also returns which images these are.
    Raises EvaluationError where it knows the labels of none of them.
    """
    targets = _targets(learner, images)
    labelled = targets.any(1).numpy()
    rows = np.arange(len(images)) if learner.is_multi_label and labelled.any() else np.flatnonzero(labelled)
    if not len(rows):
        raise EvaluationError(
            f"None of these images has a label that the model knows ({', '.join(learner.classes[:8])}): "
            "evaluate on images with the same labels."
        )
    module = cast(Learner, learner)
    device = next(module.parameters()).device
    found = []
    with torch.no_grad():
        for part in index_batches(len(rows), batch_size_for(images.size)):
            pixels = to_float(images.full_depth(rows[part])).to(device)
            found.append(learner.logits(pixels).float().cpu())
    return Answers(torch.cat(found), targets[rows], learner.is_multi_label), rows


def _targets(learner: Classifies, images: Dataset) -> Tensor:
    """Return the labels of all images as the classifier names them, `[n, k]`; zeros where it has none."""
    if learner.is_multi_label:
        named = images.with_classes(TargetClasses(label_set=learner.classes))
        found = named.targets_at(np.arange(len(images))).label_set if images.has_targets else None
        return torch.zeros(len(images), len(learner.classes)) if found is None else found
    labels = torch.from_numpy(map_labels(images, learner.classes))
    return F.one_hot(labels + 1, len(learner.classes) + 1)[:, 1:].float()


def _headline(learner: Classifies, answers: Answers) -> tuple[str, Estimate]:
    """The name and the value of the score by which a run chooses its best model."""
    if answers.is_multi_label:
        return "f1", classification.mean_f1(answers)
    if getattr(cast(Learner, learner).config, "balanced", False):
        return "balanced_accuracy", classification.balanced_accuracy(answers)
    return "accuracy", classification.accuracy(answers)


_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "exact_match": "exact match",
    "f1": "mean F1",
    "calibration_error": "calibration error (ECE)",
    "uncalibrated_error": "calibration error (ECE) without temperature",
    "nll": "negative log-likelihood",
}
_HIGHER = {"accuracy", "balanced_accuracy", "exact_match", "f1"}


def _score(
    context: ScoreContext,
    learner: Classifies,
    metric: str,
    estimate: Estimate,
    temperature: float | None,
    *,
    headline: bool = False,
) -> Score:
    return context.score(
        cast(Learner, learner),
        metric,
        _NAMES[metric],
        estimate,
        headline=headline,
        better=metric in _HIGHER,
        unit="nats" if metric == "nll" else "",
        settings={} if temperature is None else {TEMPERATURE: round(temperature, 4)},
    )


def _by_label(answers: Answers) -> list[list[int]]:
    """For each label: how many images have it, how many are said to have it, and how many both."""
    if answers.is_multi_label:
        has, said = answers.targets > 0.5, answers.logits > 0
    else:
        k = answers.targets.shape[1]
        has, said = answers.targets > 0.5, F.one_hot(torch.from_numpy(answers.said), k) > 0
    return [has.sum(0).tolist(), said.sum(0).tolist(), (has & said).sum(0).tolist()]


def _mistakes(
    answers: Answers, temperature: float, classes: Sequence[str]
) -> tuple[NDArray[np.int64], list[str]]:
    """The most confident mistakes: which answers, and for each a caption."""
    chance = answers.probabilities(temperature)
    wrong = np.flatnonzero(answers.true != answers.said)
    confidence = chance.max(1).values.numpy()
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    true, said = answers.true, answers.said
    return worst, [f"{classes[true[i]]}, called {classes[said[i]]} ({confidence[i]:.0%})" for i in worst]
