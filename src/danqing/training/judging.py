"""What a run is scored by on held-out images: its samples beside theirs, or what it recognizes in them."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from danqing import families
from danqing.data import Dataset
from danqing.data.splits import Held
from danqing.errors import TrainingError
from danqing.evaluation.learner_scores import score_learner
from danqing.evaluation.scores import ReferenceInfo, Score
from danqing.families.base import Family, Learner
from danqing.model.model import Model
from danqing.nets import adapters
from danqing.progress import ProgressCallback
from danqing.training.config import RunConfig
from danqing.training.config_sections import EvaluationConfig

_JUDGED_PER_SAMPLE = 2
_JUDGED_BY_RECOGNITION = 5
"""How many times `evaluation.samples` images are judged. To recognize one costs little."""


class Judge(Protocol):
    """Scores the learner of a run."""

    def score(self, learner: Learner, facts: Mapping[str, Any], seed: int) -> Score:
        """Measure one score; facts: what the model folder says of the training."""
        ...

    def check(self, earlier: Sequence[Score]) -> None:
        """Raise TrainingError if new scores could not be compared with earlier ones."""
        ...


def open_judge(config: RunConfig, held: Held, device: torch.device, on_progress: ProgressCallback) -> Judge:
    """Open what scores the learners of a run.

    Raises EvaluationError if the feature network is not available.
    """
    if families.can_sample(config.family):
        return _OfSamples(config.evaluation, held, device, on_progress)
    return _OfRecognition(judged_by_recognition(held, config.evaluation), held.split)


def judged_by_recognition(held: Held, config: EvaluationConfig) -> Dataset:
    """Return the held-out images on which recognition is scored."""
    return _spread(held.judged, _JUDGED_BY_RECOGNITION * config.samples)


def reference_of(judged: Dataset, split: str) -> ReferenceInfo:
    """Describe the images that a score is measured on."""
    return ReferenceInfo(
        name=judged.info.name, split=split, count=len(judged), fingerprint=judged.fingerprint
    )


class _OfSamples:
    """The distance between samples and held-out images."""

    def __init__(
        self, config: EvaluationConfig, held: Held, device: torch.device, on_progress: ProgressCallback
    ) -> None:
        # Imported here, since importing feature networks takes time that most runs do not need.
        from danqing.evaluation.features import extract
        from danqing.evaluation.networks import open_network

        self._config = config
        self._images = _spread(held.judged, _JUDGED_PER_SAMPLE * config.samples)
        self._judged = reference_of(self._images, held.split)
        with torch.random.fork_rng(devices=[]):
            self._network = open_network(config.features, device=device)
            self._reference = extract(self._images, self._network, keep=True, on_progress=on_progress)

    def score(self, learner: Learner, facts: Mapping[str, Any], seed: int) -> Score:
        from danqing.evaluation.evaluate import score_samples

        assert isinstance(learner, Family)
        with torch.random.fork_rng(devices=[]):
            return score_samples(
                Model(adapters.merged(learner), facts),
                self._reference,
                self._network,
                metric=self._config.metric,
                n=self._config.samples,
                seed=seed,
                reference=self._judged,
                judged=self._images,
            )

    def check(self, earlier: Sequence[Score]) -> None:
        networks = [score.features for score in earlier if score.features is not None]
        if not networks:
            return
        before, now = networks[-1], self._network
        if before.sha256 != now.sha256:
            raise TrainingError(
                f"The scores of this run were made with the features of {before.name}, and now there is "
                f"{now.name}: install {before.name} again, or choose another --out."
            )
        if before.normalization != now.normalization:
            raise TrainingError(
                f"The scores of this run were made by {before.name} with another normalization of images "
                f"({before.normalization or 'not recorded'}, now {now.normalization}) and cannot be "
                "compared: choose another --out."
            )


class _OfRecognition:
    """The learner's own score."""

    def __init__(self, images: Dataset, split: str) -> None:
        self._images, self._reference = images, reference_of(images, split)

    def score(self, learner: Learner, facts: Mapping[str, Any], seed: int) -> Score:
        images = self._images
        return score_learner(learner, images, n=len(images), seed=seed, reference=self._reference)

    def check(self, earlier: Sequence[Score]) -> None:
        """Accept all: the score follows from the weights and the images."""


def _spread(images: Dataset, most: int) -> Dataset:
    """At most `most` images, evenly spaced, since data is often sorted by class."""
    if len(images) <= most:
        return images
    return images.subset(np.linspace(0, len(images) - 1, most).astype(np.int64))
