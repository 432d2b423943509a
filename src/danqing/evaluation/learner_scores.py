"""The scores of learners that recognize instead of sampling: each ability has its own."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from danqing import families
from danqing.data import Dataset
from danqing.errors import EvaluationError
from danqing.evaluation import classifier_scores, detector_scores, embedding_scores, segmenter_scores
from danqing.evaluation.candidate import draw_subset
from danqing.evaluation.classifier_scores import TEMPERATURE
from danqing.evaluation.examination import Examination, ScoreContext
from danqing.evaluation.scores import ReferenceInfo, Score
from danqing.families.base import Learner
from danqing.learners.abilities import Classifies, Detects, Embeds, Segments


class _Scorer(NamedTuple):
    """How learners with an ability are scored.

    score: measures the headline. examine: measures all scores.
    """

    ability: type
    score: Callable[[Any, Dataset, ScoreContext], Score]
    examine: Callable[[Any, Dataset, ScoreContext], Examination]


_SCORERS = (
    _Scorer(Classifies, classifier_scores.score, classifier_scores.examine),
    _Scorer(Segments, segmenter_scores.score, segmenter_scores.examine),
    _Scorer(Detects, detector_scores.score, detector_scores.examine),
    _Scorer(Embeds, embedding_scores.score, embedding_scores.examine),
)
"""A learner is scored by the first of these abilities that it has."""


def has_own_score(family: str) -> bool:
    """Return whether learners of a family are scored by what they recognize."""
    return families.implements(family, *(scorer.ability for scorer in _SCORERS))


def score_learner(
    learner: Learner, judged: Dataset, *, n: int, seed: int, reference: ReferenceInfo | None = None
) -> Score:
    """Measure the one score by which a run chooses its best model.

    learner: in eval mode. judged: held-out images with what the learner predicts.
    n: of more images than this, `n` are drawn by the seed. reference: describes the judged images.
    What the model folder says of these weights besides, such as their temperature, is in the settings of the
    score. Raises EvaluationError if there is nothing to score.
    """
    images = draw_subset(judged, n, seed, "judged")
    return _scorer_of(learner).score(learner, images, ScoreContext(seed, reference))


def examine_learner(
    learner: Learner,
    judged: Dataset,
    *,
    n: int,
    seed: int,
    reference: ReferenceInfo | None = None,
    trained: Mapping[str, Any] | None = None,
) -> Examination:
    """Measure all scores of a learner, and what its report shows.

    trained: what its model folder says, such as its temperature; None at the end of a run, where that is
        found on these images. Other arguments and errors are those of `score_learner`.
    """
    images = draw_subset(judged, n, seed, "judged")
    return _scorer_of(learner).examine(learner, images, ScoreContext(seed, reference, trained))


def learned_facts(score: Score) -> dict[str, float]:
    """Return what a score found for the model folder: its temperature."""
    found = score.settings.get(TEMPERATURE)
    return {} if found is None else {TEMPERATURE: float(found)}


def _scorer_of(learner: Learner) -> _Scorer:
    """Return how a learner is scored; raises EvaluationError if it has no score."""
    for scorer in _SCORERS:
        if isinstance(learner, scorer.ability):
            return scorer
    name = families.display_name(learner.config.family)
    raise EvaluationError(f"This {name} has no score on held-out images: set evaluation.every_images=0.")
