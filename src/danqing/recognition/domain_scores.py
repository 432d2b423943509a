"""Scores of how well a model's measures tell images from elsewhere, beside the likelihood that misleads."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from danqing.data import Dataset, open_dataset
from danqing.data.splits import has_split
from danqing.errors import EvaluationError
from danqing.evaluation.candidate import draw_subset
from danqing.evaluation.image_sets import batch_size_for, index_batches, map_labels
from danqing.evaluation.networks import open_network
from danqing.evaluation.roc import rate_at, roc_area
from danqing.evaluation.scores import Score
from danqing.families.abilities import HasLikelihood
from danqing.images import Images, to_float
from danqing.learners.abilities import Classifies, Embeds
from danqing.model.domain import Domain
from danqing.model.model import Model
from danqing.recognition.outside import (
    ClassDistance,
    energy,
    neighbour_distance,
    root_normalized,
    typicality,
    uncertainty,
)
from danqing.recognition.trial import Trial

_MOST = 5_000
"""Training images that measures are fitted to, at most."""
_MOST_LABELS = 20
"""A likelihood is computed for each label, which takes too long with more of them."""
_FALSE_ALARMS = 0.05
_DECLARED = ("pairs", "domains", "attributes", "buckets")
"""What data from elsewhere need not have."""


def domain_scores(trial: Trial, outside: str | Path) -> tuple[list[Score], list[str]]:
    """Measure how well images from elsewhere are told from others.

    Also returns notes. Each measure gets the area under its ROC curve, and the share of images from elsewhere
    that it finds with 5% false alarms. As many of these are used as the trial has images. Raises
    EvaluationError where the training images are not known, and as `open_dataset`.
    """
    if trial.reference.open_training is None:
        raise EvaluationError(
            "The training images of this model are not known, and images from elsewhere are compared with "
            "them: name data that has its training images."
        )
    training = draw_subset(trial.reference.open_training(), _MOST, trial.seed, "domain")
    elsewhere = draw_subset(_opened(trial, outside), len(trial.images), trial.seed, "outside")
    notes = [] if trial.reference.is_held_out else ["the images of the domain may have been learnt from"]
    model = trial.candidate.model
    if model is not None and len(model.labels) > _MOST_LABELS:
        notes.append(f"the likelihood is left out, since the model has more than {_MOST_LABELS} labels")
    scores = []
    for name, low, high in _measured(trial, training, elsewhere):
        said = f"images of {elsewhere.info.name}"
        scores.append(
            trial.score(f"outside/{name}/{said}", f"AUROC of {said} by {name}", roc_area(high, low))
        )
        found = rate_at(high, low, _FALSE_ALARMS)
        label = f"{said} found by {name} at {_FALSE_ALARMS:.0%} false alarms"
        scores.append(trial.score(f"outside/{name}/{said}/found", label, found))
    return scores, notes


def _opened(trial: Trial, outside: str | Path) -> Dataset:
    """Images from elsewhere, at the size and with the channels of the model."""
    chosen = {name: v for name, v in trial.candidate.preparation.items() if name not in (*_DECLARED, "range")}
    split = "test" if has_split(outside, "test") else "train" if has_split(outside, "train") else "all"
    return open_dataset(outside, split=split, **chosen, on_progress=trial.on_progress)


def _measured(trial: Trial, training: Dataset, elsewhere: Dataset) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What each measure says of the trial's images and of those from elsewhere; larger is more unlike."""
    learner, model, both = trial.learner, trial.candidate.model, (trial.images, elsewhere)
    trial.tell(0, 0, "Features of images from elsewhere")
    features = _features(trial)
    seen, inside, outside = (root_normalized(features(images)) for images in (training, *both))
    names = learner.classes if isinstance(learner, Classifies) else training.label_names
    labels = torch.from_numpy(map_labels(training, names)) if names else None
    distance = ClassDistance.fit(seen, labels if labels is not None and (labels >= 0).any() else None)
    yield "feature distance", distance(inside), distance(outside)
    yield "nearest features", neighbour_distance(inside, seen), neighbour_distance(outside, seen)
    if (domain := Domain.fit(_batches(training))) is not None:
        low, high = (torch.cat([domain.distances(part) for part in _batches(images)]) for images in both)
        yield "colours and detail", low, high
    if isinstance(learner, Classifies) and not learner.is_multi_label:
        first, other = (_each(trial, images, learner.logits) for images in both)
        yield "energy", energy(first), energy(other)
        yield "uncertainty", uncertainty(first), uncertainty(other)
    if model is not None and isinstance(learner, HasLikelihood) and len(model.labels) <= _MOST_LABELS:
        trial.tell(0, 0, "Likelihoods of images from elsewhere")
        bits = _likelihoods(model, trial.seed)
        usual, low, high = (bits(images) for images in (training, *both))
        yield "likelihood", low, high
        yield "typicality", typicality(low, usual), typicality(high, usual)


def _features(trial: Trial) -> Callable[[Dataset], Tensor]:
    """The features of images: the model's own, or those of a feature network."""
    learner = trial.learner
    if isinstance(learner, Embeds):
        embedder = learner
        return lambda images: _each(trial, images, embedder.embed)
    network = open_network("auto", device=trial.device)

    def features(images: Dataset) -> Tensor:
        parts = index_batches(len(images), batch_size_for(images.size))
        return torch.cat([network.features(images.images(part)) for part in parts])

    return features


def _each(trial: Trial, images: Dataset, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """What a network computes of images, on the CPU."""
    parts = []
    with torch.no_grad():
        for part in index_batches(len(images), batch_size_for(images.size)):
            pixels = to_float(images.full_depth(part)).contiguous().to(trial.device)
            parts.append(compute(pixels).float().cpu())
    return torch.cat(parts)


def _likelihoods(model: Model, seed: int) -> Callable[[Dataset], Tensor]:
    """Bits per dimension of images, under the best label: images from elsewhere have none of these."""
    labels = range(len(model.labels)) if model.labels else [None]

    def bits(images: Dataset) -> Tensor:
        shown = Images(images.images(np.arange(len(images))))
        return torch.stack([model.bits_per_dim(shown, label, seed=seed).double() for label in labels]).amin(0)

    return bits


def _batches(images: Dataset) -> Iterator[Tensor]:
    for part in index_batches(len(images), batch_size_for(images.size)):
        yield to_float(images.full_depth(part))
