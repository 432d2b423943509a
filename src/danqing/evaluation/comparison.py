"""A candidate beside a reference: what the metrics are measured on, each part made once when it is needed."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.data import captions
from danqing.data.dataset import Dataset
from danqing.evaluation.agreement import Agreement
from danqing.evaluation.agreement import fit as fit_agreement
from danqing.evaluation.candidates import Candidate, Reference, learnt_from
from danqing.evaluation.classifier import Classifier, fit
from danqing.evaluation.contract import FeatureNetwork, ImageSet
from danqing.evaluation.estimate import Estimate
from danqing.evaluation.features import Features, extract
from danqing.evaluation.memorisation import Neighbourhood, crowding
from danqing.evaluation.neighbours import manifold_scores
from danqing.evaluation.painted import at_once, chunks, paint, reconstruct, relabelled, spread
from danqing.evaluation.pixels import PixelRows, hashes
from danqing.evaluation.rows import Selected
from danqing.evaluation.scores import Score
from danqing.families.base import Tokenizes
from danqing.images import Images
from danqing.model.model import Model
from danqing.precision import candidates, exact
from danqing.progress import ProgressCallback
from danqing.randomness import derived_seed, generator

MOST_NEIGHBOURHOODS = 2000
"""So many generated and so many real images are held against the training images."""
MOST_SEARCHED = 20_000
"""The features of so many training images at most are searched, unless memorisation was asked for by name."""
MOST_SHOWN = 2000
"""Likelihoods and reconstructions are measured on so many real images at most."""
MOST_CLASSIFIED = 10_000
"""A classifier learns from so many images at most."""
MOST_READ = 2000
"""Whether images show what was asked for is judged by so many at most."""
FROM_REFERENCE, CAPTIONS = "reconstructions of the reference", "captions of the reference"
RECONSTRUCTED = "of reconstructions, since a first stage has no prior to paint with"


class Comparison:
    """What is compared, and by what network; `n` images are painted where a model is the candidate.

    A model that reads text paints the captions of the reference. A first stage, whose samples show nothing
    whole, is scored by what it makes of reference images, of which there are no more than there are.
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
        on_progress: ProgressCallback | None = None,
    ) -> None:
        self.candidate, self.reference, self.network, self.thorough = candidate, reference, network, thorough
        self.seed, self.on_progress = seed, on_progress
        self.n = n if candidate.pictures is None else len(candidate.pictures)
        if self.is_first_stage:
            self.n = min(n, len(self._known(reference.images)))
        self._likelihoods: dict[tuple[str, str], Tensor] = {}

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
        """A score with all that there is to say of this comparison; better: whether higher is better.

        images: how many were looked at, where they are not the generated ones.
        """
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
            settings={
                **self.candidate.facts,
                **self._device,
                **(self._made if images is None else {}),
                **(settings or {}),
            },
            note="; ".join(part for part in (note, *self._said(images), *self.reference.cautions) if part),
        )

    @property
    def _made(self) -> dict[str, str]:
        """How a model came by its images, where it did not paint them out of nothing or from labels."""
        if self.is_first_stage:
            return {"images": FROM_REFERENCE}
        made = {"prompts": CAPTIONS} if self._reads_reference else {}
        model = self.candidate.model
        if model is not None and "precision" in model.sample_options:  # it paints as is quick on this machine
            made["painted_in"] = candidates(model.device)[0]
        return made

    def _said(self, images: int | None) -> list[str]:
        return [RECONSTRUCTED] if self.is_first_stage and images is None else []

    @functools.cached_property
    def _device(self) -> dict[str, str]:
        """What painted and looked, where that was no CPU: others round otherwise."""
        users = (self.candidate.model, self.network)
        found = {torch.device(getattr(user, "device", "cpu")).type for user in users} - {"cpu"}
        return {"device": found.pop()} if found else {}

    @property
    def is_first_stage(self) -> bool:
        """Whether a model is scored that has no prior: its images are reconstructions of the reference."""
        return self.candidate.model is not None and not self.candidate.model.family.has_prior

    @property
    def _reads_reference(self) -> bool:
        """Whether a model is scored that paints captions, and the reference has some."""
        model = self.candidate.model
        return model is not None and model.family.config.reads_text and self.reference.images.has_texts

    @functools.cached_property
    def generated(self) -> ImageSet:
        """The images that are scored: painted or reconstructed now, or read from their folder."""
        model = self.candidate.model
        if model is None:
            assert self.candidate.pictures is not None
            return self.candidate.pictures
        if self.is_first_stage:
            return reconstruct(model, self.reference.images, self._sources, on_progress=self.on_progress)
        prompts = self.prompts if self._reads_reference else None
        return paint(model, self.n, seed=self.seed, prompts=prompts, on_progress=self.on_progress)

    @functools.cached_property
    def _sources(self) -> NDArray[np.int64]:
        """Which reference image each generated one was made from, or has its prompt from."""
        rows = self._known(self.reference.images) if self.is_first_stage else None
        places = spread(len(self.reference.images if rows is None else rows), self.n)
        return places if rows is None else rows[places]

    @functools.cached_property
    def prompts(self) -> tuple[str, ...] | None:
        """What each generated image should show; None where that is not known.

        Pictures that bring captions should show those. One line of several is drawn by the seed.
        """
        if self.candidate.pictures is not None:
            return self.captions(self.candidate.pictures, np.arange(self.n))
        if self.is_first_stage or self._reads_reference:
            return self.captions(self.reference.images, self._sources)
        return None

    def captions(self, images: Dataset, rows: NDArray[np.int64], first: int = 0) -> tuple[str, ...] | None:
        """One caption for each of the images at `rows`, drawn by the seed; None where there are none.

        first: the place of the first of them, where they are a part of more.
        """
        texts = images.texts(rows)
        return None if texts is None else captions.chosen(texts, self.seed, first)

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
    def agreement(self) -> Agreement:
        """What has learnt from the training images alone which captions suit them."""
        return fit_agreement(self.training, seed=self.seed, on_progress=self.on_progress)

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
        images = self.reference.images
        return reconstruct(self.model, images, self.shown(images), on_progress=self.on_progress)

    def bits_per_dim(self, images: Dataset) -> Tensor:
        """What the real images `shown(images)` cost the model, measured once for each set."""
        return self._likelihood("bits per dim", images)

    def token_nll(self, images: Dataset) -> Tensor:
        """What their codes cost it, in nats per image."""
        return self._likelihood("token nll", images)

    @property
    def tokens_per_image(self) -> int:
        """How many codes a model of two stages writes for an image."""
        tokenizer = self.tokenizer
        assert tokenizer is not None
        return math.prod(tokenizer.code_shape)

    @property
    def tokenizer(self) -> Tokenizes | None:
        """What turns images into the codes that the model writes; None where it writes none."""
        child = getattr(self.candidate.model and self.candidate.model.family, "tokenizer", None)
        return child if isinstance(child, Tokenizes) else None

    def _likelihood(self, kind: str, images: Dataset) -> Tensor:
        key = (kind, images.fingerprint)
        if key not in self._likelihoods:
            rows, found = self.shown(images), []
            for part in chunks(len(rows), at_once(images.size, self.model.family.chunk)):
                self.tell("Measuring likelihoods", int(part[0]), len(rows))
                pictures, label = Images(images.images(rows[part])), self._model_labels(images, rows[part])
                prompt = self._model_prompts(images, rows[part], int(part[0]))
                seed = derived_seed(self.seed, kind, int(part[0]))
                with exact():
                    found.append(
                        self.model.bits_per_dim(pictures, label, prompt=prompt, seed=seed)
                        if kind == "bits per dim"
                        else self.model.token_nll(pictures, label, prompt=prompt)
                    )
            self._likelihoods[key] = torch.cat(found)
        return self._likelihoods[key]

    def shown(self, images: Dataset) -> NDArray[np.int64]:
        """Which real images the model is shown: some of those whose label it knows, drawn by the seed."""
        known = self._known(images)
        return known[self.drawn(len(known), MOST_SHOWN, "shown")]

    def _known(self, images: Dataset) -> NDArray[np.int64]:
        """The real images whose label the model knows, or all where it knows no labels."""
        if not self.model.labels:
            return np.arange(len(images))
        return np.flatnonzero(relabelled(images, self.model.labels) >= 0)

    def _model_labels(self, images: Dataset, rows: NDArray[np.int64]) -> list[int] | None:
        """The labels of real images as the model knows them; None where it knows none."""
        return relabelled(images, self.model.labels)[rows].tolist() if self.model.labels else None

    def _model_prompts(self, images: Dataset, rows: NDArray[np.int64], first: int) -> Sequence[str] | None:
        """The captions of real images; None where the model reads none, or they have none."""
        return self.captions(images, rows, first) if self.model.family.config.reads_text else None

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
