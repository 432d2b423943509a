"""What metrics are computed from: a candidate beside a reference, each part computed once."""

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.data.dataset import Dataset
from danqing.evaluation.candidate import Candidate
from danqing.evaluation.contract import FeatureNetwork, ImageSet
from danqing.evaluation.estimate import Estimate
from danqing.evaluation.feature_rows import Selected
from danqing.evaluation.features import Features, extract, feature_info
from danqing.evaluation.flattery import was_trained_with
from danqing.evaluation.generated_images import generate_images, reconstruct
from danqing.evaluation.image_sets import draw_rows, map_labels, spread_evenly
from danqing.evaluation.judges.caption_matcher import CaptionMatcher
from danqing.evaluation.judges.caption_matcher import fit as fit_caption_matcher
from danqing.evaluation.judges.classifier import Classifier
from danqing.evaluation.judges.classifier import fit as fit_classifier
from danqing.evaluation.memorisation import Neighbourhood, crowding
from danqing.evaluation.neighbours import manifold_scores
from danqing.evaluation.on_nodes import Nodes
from danqing.evaluation.pixel_rows import PixelRows, hashes
from danqing.evaluation.real_image_results import RealImageResults, draw_captions
from danqing.evaluation.reference import Reference, learnt_from
from danqing.evaluation.scores import FeatureInfo, Score
from danqing.families.abilities import Translates
from danqing.model.model import Model
from danqing.precision import candidates
from danqing.progress import ProgressCallback
from danqing.randomness import generator

MOST_NEIGHBOURHOODS = 2000
"""At most this many generated images, and real ones, are compared with the training images."""
MOST_SEARCHED = 20_000
"""By features, at most this many training images are searched unless memorisation is requested by name."""
MOST_CLASSIFIED = 10_000
"""A classifier learns from at most this many images."""
MOST_READ = 2000
"""Whether images show what was requested is judged by at most this many."""
CAPTIONS = "captions of the reference"


def remade_in_words(model: Model) -> tuple[str, str]:
    """Return what a model that does not sample is scored by: the setting of a score, and its note."""
    if isinstance(model.family, Translates):
        return "translations of the reference's source images", "of translations of the source images"
    return "reconstructions of the reference", "of reconstructions, since a first stage does not sample"


class MetricInputs:
    """What metrics are computed from, each part computed when first needed.

    Where a model is the candidate, `n` images are sampled.

    A model that reads text samples the captions of the reference. A first stage, whose samples show nothing
    meaningful, is scored by its reconstructions of reference images, at most as many as there are. A model of
    pairs is scored by its translations of their source images.
    thorough: whether all training images are searched by features, however many there are.
    nodes: where samples and features are computed; None for here.
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
        nodes: Nodes | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        self._nodes = nodes
        self.candidate, self.reference, self.network, self.thorough = candidate, reference, network, thorough
        self.seed, self.on_progress = seed, on_progress
        self.n = n if candidate.pictures is None else len(candidate.pictures)
        if self.remakes_reference:
            self.n = min(n, len(self.on_real_images.known(reference.images)))

    def score(
        self,
        metric: str,
        name: str,
        measured: Estimate | float,
        *,
        better: bool | None = None,
        unit: str = "",
        features: FeatureInfo | None = None,
        settings: dict[str, Any] | None = None,
        note: str = "",
        images: int | None = None,
    ) -> Score:
        """Return a score with a record of how it was measured.

        better: whether higher is better; None where neither is.
        features: the network that it is computed on.
        images: how many images it is computed from, where they are not the generated ones.
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
            features=features,
            flattered=features is not None and self.is_flattered(features),
            seed=self.seed,
            settings={
                **self.candidate.facts,
                **self._device,
                **(self._made if images is None else {}),
                **(settings or {}),
            },
            note="; ".join(part for part in (note, *self._said(images), *self.reference.cautions) if part),
        )

    @functools.cached_property
    def feature_info(self) -> FeatureInfo:
        """What scores say about the feature network."""
        return feature_info(self.network)

    def is_flattered(self, features: FeatureInfo) -> bool:
        """Return whether the model was trained with this network."""
        return self.candidate.model is not None and was_trained_with(self.candidate.model, features)

    @property
    def _made(self) -> dict[str, str]:
        """How a model made its images, unless it sampled them freely or by labels."""
        model = self.candidate.model
        if model is None:
            return {}
        made = {"prompts": CAPTIONS} if self._reads_reference else {}
        if self.remakes_reference:
            made = {"images": remade_in_words(model)[0]}
        if "precision" in model.sample_options:  # it samples in what is fast on this machine
            made["painted_in"] = candidates(model.device)[0]
        return made

    def _said(self, images: int | None) -> list[str]:
        model = self.candidate.model
        if model is None or images is not None or not self.remakes_reference:
            return []
        return [remade_in_words(model)[1]]

    @functools.cached_property
    def _device(self) -> dict[str, str]:
        """The device of the model or the network, unless it is a CPU: others round differently."""
        users = (self.candidate.model, self.network)
        found = {torch.device(getattr(user, "device", "cpu")).type for user in users} - {"cpu"}
        return {"device": found.pop()} if found else {}

    @property
    def remakes_reference(self) -> bool:
        """Whether the model does not sample, and is scored by what it makes of reference images."""
        return self.candidate.model is not None and not self.candidate.model.family.has_prior

    @property
    def _reads_reference(self) -> bool:
        """Whether a model is scored that reads text, and the reference has captions."""
        model = self.candidate.model
        return model is not None and model.family.config.reads_text and self.reference.images.has_texts

    @functools.cached_property
    def generated(self) -> ImageSet:
        """The images that are scored: sampled, reconstructed, or read from a folder."""
        model = self.candidate.model
        if model is None:
            assert self.candidate.pictures is not None
            return self.candidate.pictures
        if self.remakes_reference:
            return reconstruct(model, self.reference.images, self._sources, on_progress=self.on_progress)
        prompts = self.prompts if self._reads_reference else None
        return generate_images(
            model, self.n, seed=self.seed, prompts=prompts, nodes=self._nodes, on_progress=self.on_progress
        )

    @functools.cached_property
    def _sources(self) -> NDArray[np.int64]:
        """Which reference image each generated one was made from, or has its prompt from."""
        rows = self.on_real_images.known(self.reference.images) if self.remakes_reference else None
        places = spread_evenly(len(self.reference.images if rows is None else rows), self.n)
        return places if rows is None else rows[places]

    @functools.cached_property
    def prompts(self) -> tuple[str, ...] | None:
        """What each generated image should show; None where that is not known.

        Pictures that bring captions should show those. One line of several is drawn by the seed.
        """
        if self.candidate.pictures is not None:
            return draw_captions(self.candidate.pictures, np.arange(self.n), self.seed)
        if self.remakes_reference or self._reads_reference:
            return draw_captions(self.reference.images, self._sources, self.seed)
        return None

    @functools.cached_property
    def training(self) -> Dataset:
        """The images that a model may have learnt from.

        Where they are not known, these are the reference images.
        """
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
        """Whether the model cannot have learnt from the reference images."""
        return self.reference.is_held_out

    @functools.cached_property
    def doubt(self) -> str:
        """Why the training images may be other ones; empty without doubt."""
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
        """The training images that are searched by features.

        They are the same for every seed, so that their features are kept.
        """
        count = len(self.training)
        if self.thorough or self._training_is_reference or count <= MOST_SEARCHED:
            return np.arange(count)
        rng = generator(0, "searched by features")
        return np.sort(torch.randperm(count, generator=rng)[:MOST_SEARCHED].numpy())

    @functools.cached_property
    def training_features(self) -> Features:
        """The features of the searched training images, which are kept."""
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
        """How many images either classifier learns from, so that they compare."""
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
    def caption_matcher(self) -> CaptionMatcher:
        """What has learnt from the training images alone which captions suit them."""
        return fit_caption_matcher(self.training, seed=self.seed, on_progress=self.on_progress)

    @functools.cached_property
    def judged(self) -> NDArray[np.int64]:
        """The generated images that are compared with training images."""
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
        """Distances to the nearest other image, among generated and among real images."""
        count = min(len(self.judged), len(self.judged_reference))
        chosen = (
            (self.generated_features, self.judged[:count]),
            (self.reference_features, self.judged_reference[:count]),
        )
        first, second = (crowding(_read(Selected(features, rows))) for features, rows in chosen)
        return first, second

    @functools.cached_property
    def on_real_images(self) -> RealImageResults:
        """What the model makes of real images; only where a model is scored."""
        assert self.candidate.model is not None
        return RealImageResults(
            self.candidate.model, self.reference.images, seed=self.seed, on_progress=self.on_progress
        )

    @functools.cached_property
    def generated_keys(self) -> NDArray[np.uint64]:
        """A number for each generated image; equal images have equal ones."""
        return hashes(self.generated)

    @functools.cached_property
    def training_keys(self) -> NDArray[np.uint64]:
        """A number for each training image; equal images have equal ones."""
        return hashes(self.training)

    def tell(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Report what is being done."""
        if self.on_progress is not None:
            self.on_progress(done, total, stage)

    def _drawn(self, count: int) -> NDArray[np.int64]:
        return draw_rows(count, MOST_NEIGHBOURHOODS, self.seed, "neighbours")

    def _features(self, images: ImageSet, whose: str, *, keep: bool) -> Features:
        def tell(done: int, total: int, stage: str) -> None:
            self.tell(f"Features of {whose}", done, total)

        return extract(images, self.network, keep=keep, nodes=self._nodes, on_progress=tell)

    def _classifier(self, images: ImageSet) -> Classifier:
        return fit_classifier(
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
        """Return the label of every image as an index into `shared_labels`.

        Other labels become -1.
        """
        return map_labels(images, self.shared_labels)

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
