"""What is found about a learner on held-out images: its scores, and what a report shows besides."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from danqing.evaluation.estimate import Estimate
from danqing.evaluation.scores import ReferenceInfo, Score
from danqing.families.base import Learner
from danqing.sheet import Sheet


@dataclass(frozen=True)
class ScoreContext:
    """What all scores of a learner on one set of images share.

    seed: of the intervals. reference: describes the images.
    trained: what the model folder says of the training; None at the end of a run, where it is found out.
    """

    seed: int
    reference: ReferenceInfo | None = None
    trained: Mapping[str, Any] | None = None

    def score(
        self,
        learner: Learner,
        metric: str,
        name: str,
        estimate: Estimate,
        *,
        headline: bool = False,
        better: bool = True,
        unit: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> Score:
        """Return an estimate as a score that says how it was measured.

        name: in words. better: whether higher values are.
        """
        return Score(
            metric=metric,
            name=name,
            value=estimate.value,
            interval=estimate.interval(self.seed),
            unit=unit,
            higher_is_better=better,
            images=len(estimate.influences[0]),
            candidate=f"a model ({learner.config.family})",
            reference=self.reference,
            seed=self.seed,
            settings=dict(settings or {}),
            headline=headline,
        )


@dataclass(frozen=True)
class Examination:
    """The result of examining a learner.

    scores: all of them; the headline is the one to quote.
    trained: what the model folder says of its training besides, such as its temperature.
    details: plain values for the report, by what they are about, such as "confusion".
    pictures: sheets of images for the report, by name, such as "mistakes".
    """

    scores: tuple[Score, ...]
    trained: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Sheet] = field(default_factory=dict)

    @property
    def headline(self) -> Score:
        """Return the score to quote."""
        return next((score for score in self.scores if score.headline), self.scores[0])
