"""What all scores of one call of `attack` share: the model, the images, and how a score is written down."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.data import Dataset
from danqing.evaluation.candidate import Candidate, draw_subset
from danqing.evaluation.estimate import Estimate
from danqing.evaluation.reference import Reference
from danqing.evaluation.scores import Score
from danqing.families.base import Learner
from danqing.images import to_float
from danqing.learners.perturbation import Ball
from danqing.progress import ProgressCallback


@dataclass(frozen=True)
class Trial:
    """What all scores of one call share."""

    candidate: Candidate
    reference: Reference
    images: Dataset
    ball: Ball
    seed: int
    on_progress: ProgressCallback | None = None

    def of(self, count: int) -> "Trial":
        """Return the same trial of at most so many images."""
        return replace(self, images=draw_subset(self.images, count, self.seed, "attacked"))

    @property
    def learner(self) -> Learner:
        """Return the network that is attacked."""
        if self.candidate.model is not None:
            return self.candidate.model.family
        assert self.candidate.recognizer is not None
        return self.candidate.recognizer.learner

    @property
    def device(self) -> torch.device:
        """Return where its weights are."""
        return next(self.learner.parameters()).device

    def pixels(self, rows: NDArray[Any]) -> Tensor:
        """Return the images at `rows`, `[n, c, h, w]` in [-1, 1]."""
        return to_float(self.images.full_depth(rows)).contiguous().to(self.device)

    def tell(self, done: int, total: int, what: str) -> None:
        """Report progress."""
        if self.on_progress:
            self.on_progress(done, total, what)

    def score(
        self,
        metric: str,
        name: str,
        estimate: Estimate,
        *,
        better: bool = True,
        **settings: Any,
    ) -> Score:
        """Return an estimate as a score that says how it was measured."""
        return Score(
            metric=metric,
            name=name,
            value=estimate.value,
            interval=estimate.interval(self.seed),
            higher_is_better=better,
            images=len(estimate.influences[0]),
            candidate=self.candidate.name,
            reference=self.reference.info,
            seed=self.seed,
            settings={**self.candidate.facts, **settings},
        )
