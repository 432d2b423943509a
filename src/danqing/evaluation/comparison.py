"""A candidate beside a reference: what the metrics are measured on, each part made once when it is needed."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.data.dataset import Dataset
from danqing.evaluation.candidates import Candidate, Reference, learnt_from
from danqing.evaluation.classifier import Classifier, fit, relabelled
from danqing.evaluation.contract import FeatureNetwork, ImageSet
from danqing.evaluation.estimate import Estimate
from danqing.evaluation.features import Features, extract
from danqing.evaluation.memorisation import Neighbourhood, crowding
from danqing.evaluation.neighbours import manifold_scores
from danqing.evaluation.painted import at_once, chunks, paint, store
from danqing.evaluation.pixels import PixelRows, hashes
from danqing.evaluation.rows import Selected
from danqing.evaluation.scores import Score
from danqing.images import Images, Pixels
from danqing.model import CHUNK, Model
from danqing.precision import exact
from danqing.randomness import derived_seed, generator

Progress = Callable[[int, int, str], None]

MOST_NEIGHBOURHOODS = 2000
"""So many generated and so many real images are held against the training images."""
MOST_SEARCHED = 20_000
"""The features of so many training images at most are searched, unless memorisation was asked for by name."""
MOST_SHOWN = 2000
"""Likelihoods and reconstructions are measured on so many real images at most."""
MOST_CLASSIFIED = 10_000
"""A classifier learns from so many images at most."""


class Comparison:
    """What is compared, and by what network; `n` images are painted where a model is the candidate.

    thorough: whether all training images are searched by features, however many there are.
    """

    def __init__(
        self,
        candidate: Candidate,
        reference: Reference,
        network: FeatureNetwork,
        *,
        n: int,
        seed: int,
        thorough: bool = False,
        on_progress: Progress | None = None,
    ) -> None:
        self.candidate, self.reference, self.network, self.thorough = candidate, reference, network, thorough
        self.n = n if candidate.pictures is None else len(candidate.pictures)
        self.seed, self.on_progress = seed, on_progress
        self._bits: dict[str, Tensor] = {}

    def score(
        self,
        metric: str,
        name: str,
        measured: Estimate | float,
        *,
        better: bool | None = None,
        unit: str = "",
        features: Features | None = None,
        settings: dict[str, Any] | None = None,
        note: str = "",
        images: int | None = None,
    ) -> Score:
        """A score with all that there is to say of this comparison; better: whether higher is better."""
        estimate = measured if isinstance(measured, Estimate) else Estimate(measured)
        return Score(
            metric=metric,
            name=name,
            value=estimate.value,
            interval=estimate.interval(self.seed),
            unit=unit,
            higher_is_better=better,
            images=self.n if images is None else images,
            candidate=self.candidate.name,
            reference=self.reference.info,
            features=None if features is None else features.info,
            seed=self.seed,
            settings={**self.candidate.facts, **self._device, **(settings or {})},
            note="; ".join(part for part in (note, *self.reference.cautions) if part),
        )

    @functools.cached_property
    def _device(self) -> dict[str, str]:
        """What painted and looked, where that was no CPU: others round otherwise."""
        users = (self.candidate.model, self.network)
        found = {torch.device(getattr(user, "device", "cpu")).type for user in users} - {"cpu"}
        return {"device": found.pop()} if found else {}

    @functools.cached_property
    def generated(self) -> ImageSet:
        """The images that are scored: painted now, or read from their folder."""
        if self.candidate.model is not None:
            return paint(self.candidate.model, self.n, seed=self.seed, on_progress=self.on_progress)
        assert self.candidate.pictures is not None
        return self.candidate.pictures

    @functools.cached_property
    def training(self) -> Dataset:
        """The images that a model may have learnt from; the reference images where they are not known."""
        opens = self.reference.open_training
        return self.reference.images if opens is None else opens()

    @property
    def knows_training(self) -> bool:
        """Whether there are images that a model may have learnt from."""
        return self.reference.open_training is not None

    @property
    def uses_training(self) -> bool:
        """Whether the training images have been needed so far."""
        return "training" in vars(self)

    @property
    def is_held_out(self) -> bool:
        """Whether the reference images are others than those that may have been learnt from."""
        return self.reference.is_held_out

    @functools.cached_property
    def doubt(self) -> str:
        """What makes it doubtful that the training images were learnt from; empty for nothing."""
        if not self.is_held_out or learnt_from(self.candidate, self.training) is not False:
            return ""
        return "the model says that it learnt from other images than this training split"

    @functools.cached_property
    def generated_features(self) -> Features:
        """The candidate's features, which are not kept."""
        return self._features(self.generated, "the candidate", keep=False)

    @functools.cached_property
    def reference_features(self) -> Features:
        """The reference's features, kept under its fingerprint."""
        return self._features(self.reference.images, f"the {self.reference.info.split} split", keep=True)

    @functools.cached_property
    def searched(self) -> NDArray[np.int64]:
        """Which training images are searched by features: the same for every seed, so that they are kept."""
        count = len(self.training)
        if self.thorough or self._training_is_reference or count <= MOST_SEARCHED:
            return np.arange(count)
        rng = generator(0, "searched by features")
        return np.sort(torch.randperm(count, generator=rng)[:MOST_SEARCHED].numpy())

    @functools.cached_property
    def training_features(self) -> Features:
        """The features of the training images that are searched, kept under their fingerprint."""
        if self._training_is_reference:
            return self.reference_features
        whole = len(self.searched) == len(self.training)
        images = self.training if whole else self.training.subset(self.searched)
        return self._features(images, "the train split", keep=True)

    @property
    def _training_is_reference(self) -> bool:
        return self.training.fingerprint == self.reference.images.fingerprint

    @functools.cached_property
    def manifold(self) -> dict[str, Estimate]:
        """Precision, recall, density and coverage."""
        self.tell("Comparing neighbours")
        return manifold_scores(self.generated_features, self.reference_features)

    @functools.cached_property
    def taught_images(self) -> int:
        """From how many images either classifier learns, so that they can be compared."""
        sides = (self.labels(images) for images in (self.generated, self.training))
        return min(*(int((labels >= 0).sum()) for labels in sides), MOST_CLASSIFIED)

    @functools.cached_property
    def classifier_of_generated(self) -> Classifier:
        """A classifier that has seen generated images alone."""
        return self._classifier(self.generated)

    @functools.cached_property
    def classifier_of_real(self) -> Classifier:
        """A classifier that has seen as many training images."""
        return self._classifier(self.training)

    @functools.cached_property
    def judged(self) -> NDArray[np.int64]:
        """Which generated images are held against the training images, drawn by the seed."""
        return self._drawn(len(self.generated))

    @functools.cached_property
    def judged_reference(self) -> NDArray[np.int64]:
        """Which real images are."""
        return self._drawn(len(self.reference.images))

    @functools.cached_property
    def near_generated(self) -> dict[str, Neighbourhood]:
        """The training images nearest to generated ones, by features and by pixels."""
        return self._neighbourhoods(self.generated_features, self.generated, self.judged)

    @functools.cached_property
    def near_reference(self) -> dict[str, Neighbourhood]:
        """The training images nearest to real ones that were not learnt from."""
        return self._neighbourhoods(self.reference_features, self.reference.images, self.judged_reference)

    @functools.cached_property
    def crowds(self) -> tuple[Tensor, Tensor]:
        """The distances from generated to other generated images, and from as many real ones to real ones."""
        count = min(len(self.judged), len(self.judged_reference))
        chosen = (
            (self.generated_features, self.judged[:count]),
            (self.reference_features, self.judged_reference[:count]),
        )
        first, second = (crowding(_read(Selected(features, rows))) for features, rows in chosen)
        return first, second

    @property
    def model(self) -> Model:
        """The model that is scored; only where there is one."""
        assert self.candidate.model is not None
        return self.candidate.model

    @functools.cached_property
    def reconstructed(self) -> ImageSet:
        """What the model makes of the real images `shown(reference.images)`: through its latents and back."""
        images, model = self.reference.images, self.model
        rows = self.shown(images)

        def parts() -> Iterator[Pixels]:
            for part in chunks(len(rows), at_once(images.size, CHUNK)):
                self.tell("Reconstructing", int(part[0]), len(rows))
                label = self.model_labels(images, rows[part])
                with exact():
                    again = model.reconstruct(Images(images.images(rows[part])), label)
                yield again.array

        (width, height), none = images.size, np.full(len(rows), -1, np.int64)
        return store(parts(), (len(rows), height, width, images.channels), none, ())

    def bits_per_dim(self, images: ImageSet) -> Tensor:
        """What the real images `shown(images)` cost the model, measured once for each set."""
        if images.fingerprint not in self._bits:
            rows, found = self.shown(images), []
            for part in chunks(len(rows), at_once(images.size, CHUNK)):
                self.tell("Measuring likelihoods", int(part[0]), len(rows))
                label = self.model_labels(images, rows[part])
                seed = derived_seed(self.seed, "bits per dim", int(part[0]))
                pictures = Images(images.images(rows[part]))
                with exact():
                    found.append(self.model.bits_per_dim(pictures, label, seed=seed))
            self._bits[images.fingerprint] = torch.cat(found)
        return self._bits[images.fingerprint]

    def shown(self, images: ImageSet) -> NDArray[np.int64]:
        """Which real images the model is shown: some of those whose label it knows, drawn by the seed."""
        known = np.arange(len(images))
        if self.model.labels:
            known = np.flatnonzero(relabelled(images, self.model.labels) >= 0)
        return known[self.drawn(len(known), MOST_SHOWN, "shown")]

    def model_labels(self, images: ImageSet, rows: NDArray[np.int64]) -> list[int] | None:
        """The labels of real images as the model knows them; None where it knows none."""
        return relabelled(images, self.model.labels)[rows].tolist() if self.model.labels else None

    @functools.cached_property
    def generated_keys(self) -> NDArray[np.uint64]:
        """A number per generated image that tells equal ones."""
        return hashes(self.generated)

    @functools.cached_property
    def training_keys(self) -> NDArray[np.uint64]:
        """A number per training image that tells equal ones."""
        return hashes(self.training)

    def tell(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Pass on what is being done."""
        if self.on_progress is not None:
            self.on_progress(done, total, stage)

    def drawn(self, count: int, most: int, purpose: str) -> NDArray[np.int64]:
        """At most so many of `count` images, drawn by the seed, in their order."""
        rng = generator(self.seed, purpose)
        return np.sort(torch.randperm(count, generator=rng)[:most].numpy())

    def _drawn(self, count: int) -> NDArray[np.int64]:
        return self.drawn(count, MOST_NEIGHBOURHOODS, "neighbours")

    def _features(self, images: ImageSet, whose: str, *, keep: bool) -> Features:
        def tell(done: int, total: int, stage: str) -> None:
            self.tell(f"Features of {whose}", done, total)

        return extract(images, self.network, keep=keep, on_progress=tell)

    def _classifier(self, images: ImageSet) -> Classifier:
        return fit(
            images,
            label_names=self.shared_labels,
            limit=self.taught_images,
            flip=bool(self.reference.images.info.augment.flip),
            seed=self.seed,
            on_progress=self.on_progress,
        )

    @functools.cached_property
    def shared_labels(self) -> tuple[str, ...]:
        """The labels that both sides have, by name."""
        theirs = self.reference.images.label_names
        return tuple(name for name in self.candidate.label_names if name in theirs)

    def labels(self, images: ImageSet) -> NDArray[np.int64]:
        """Every image's label as an index into `shared_labels`, -1 for others."""
        return relabelled(images, self.shared_labels)

    def _neighbourhoods(
        self, features: Features, images: ImageSet, rows: NDArray[np.int64]
    ) -> dict[str, Neighbourhood]:
        self.tell("Looking for the nearest training images")
        by_features = Neighbourhood.of(_read(Selected(features, rows)), self.training_features)
        by_pixels = Neighbourhood.of(_read(Selected(PixelRows(images), rows)), PixelRows(self.training))
        indices = torch.from_numpy(self.searched)[by_features.indices]
        return {"features": Neighbourhood(by_features.distances, indices), "pixels": by_pixels}


def _read(rows: Selected) -> Tensor:
    return rows[0 : rows.shape[0]]
