"""Unlabelled images as training data, with the labels that a trained classifier is sure of.

The classifier is the model that the run starts from. First its statistics are adapted to the unlabelled
images, which may be of another domain (`recognition/adapt.py`). Then each image whose most probable label is
probable enough becomes a training image with this label (Lee 2013, "Pseudo-Label"; Sohn et al. 2020,
"FixMatch", equation 4).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from danqing import atomic, weights
from danqing.data import Dataset, open_dataset
from danqing.data.splits import Held, pixel_keys
from danqing.errors import ConfigError, ModelError, TrainingError
from danqing.evaluation.image_sets import spread_evenly
from danqing.images import Images
from danqing.learners.abilities import Classifies
from danqing.model.recognizer import Recognizer, load_recognizer
from danqing.recognition.adapt import FEWEST, adapt, has_statistics
from danqing.training.added_images import Pool
from danqing.training.config import RunConfig
from danqing.training.effect import measured
from danqing.training.listener import Listener
from danqing.training.run_folder import RunFolder

_ADAPTED_TO = 2048
"""Images whose statistics the classifier is adapted to, at most."""
_AT_ONCE = 512


def check(config: RunConfig) -> None:
    """Raise ConfigError where a run cannot learn from unlabelled images."""
    if not config.init:
        raise ConfigError(
            "Unlabelled images get their labels from a classifier: train one on the labelled images first, "
            "and name it by --init MODEL."
        )
    if config.data.generated:
        raise ConfigError("A run learns from generated or from unlabelled images: leave out one of them.")
    if config.data.buckets:
        raise ConfigError("A run with unlabelled images needs one size: give one such as 64x64.")


def open_pool(
    config: RunConfig, dataset: Dataset, held: Held | None, folder: RunFolder, listener: Listener
) -> Pool:
    """Return the unlabelled images that a classifier is sure of.

    They are labelled where the run has none yet. Images that are held out are never among them. The labels
    are written to the run folder, so that a resumed run has the same.
    """
    unlabelled = _open(config, dataset, listener)
    file = folder.pseudo_labels_file
    known = folder.facts().get("unlabelled", {})
    if folder.has_checkpoints and known.get("fingerprint") != unlabelled.fingerprint:
        raise TrainingError(
            f"The unlabelled images have changed since the run in {folder.path} began: choose another --out."
        )
    found = (
        _read(file, known.get("images", 0)) if known.get("fingerprint") == unlabelled.fingerprint else None
    )
    if found is None:
        rows, labels, share = _label(config, dataset, held, unlabelled, listener)
        atomic.write_bytes(file, weights.to_bytes({"rows": rows, "labels": labels}, {}))
        text = (
            f"{config.data.unlabelled_share:.0%} of each batch is drawn from {len(rows):,} of "
            f"{len(unlabelled):,} unlabelled images ({share:.0%}), to whose label {config.init} gives a "
            f"probability of {config.data.confidence:g} or more."
        )
        told = {"source": config.data.unlabelled, "images": len(rows), "of": len(unlabelled), "text": text}
        folder.update_facts(unlabelled={**told, "fingerprint": unlabelled.fingerprint})
        listener.on_message(text)
        found = rows, labels
    places, named = found[0].numpy(), found[1].numpy()
    return Pool(lambda rows: unlabelled.full_depth(places[rows]), named)


def compare(folder: RunFolder, config: RunConfig, held: Held) -> bool:
    """Record how much better a run is than the first classifier.

    Both are judged on held-out images.
    Returns whether something was recorded.
    """
    known, images = folder.facts().get("unlabelled", {}), folder.facts()["progress"]["images"]
    if known.get("compared_at") == images:
        return False
    both = load_recognizer(folder.model), load_recognizer(config.init)
    effect = measured("Unlabelled images", *both, held.judged, config.seed)
    folder.update_facts(unlabelled={**known, **effect, "compared_at": images})
    return True


def _open(config: RunConfig, dataset: Dataset, listener: Listener) -> Dataset:
    options: dict[str, Any] = config.data.model_dump(
        include={"alpha", "background", "fit", "ignore_reservations"}
    )
    options |= {"size": dataset.size, "channels": dataset.channels, "range": dataset.range}
    return open_dataset(config.data.unlabelled, **options, on_progress=listener.on_data)


def _label(
    config: RunConfig, dataset: Dataset, held: Held | None, unlabelled: Dataset, listener: Listener
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return the rows that get a label, their labels as the data numbers them, and their share."""
    teacher = load_recognizer(config.init)
    if not isinstance(teacher.learner, Classifies) or teacher.is_multi_label:
        raise ConfigError(
            f"{config.init} does not give an image one label: start from a model of the task classify."
        )
    names = [
        dataset.label_names.index(name) if name in dataset.label_names else -1 for name in teacher.classes
    ]
    rows = np.arange(len(unlabelled))
    if held is not None:
        rows = np.flatnonzero(~np.isin(pixel_keys(unlabelled), pixel_keys(held.judged)))
    if not len(rows):
        raise ConfigError("All unlabelled images are held out here: give others.")
    teacher = _adapted(teacher, config.init, unlabelled, rows, listener)
    sure, labels = [], []
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        chance, said = teacher.probabilities(Images(unlabelled.images(part))).max(1)
        place = torch.tensor(names)[said]
        kept = (chance >= config.data.confidence) & (place >= 0)
        sure.append(torch.from_numpy(part)[kept])
        labels.append(place[kept])
        listener.on_data(min(start + _AT_ONCE, len(rows)), len(rows), "Labelling images")
    chosen, given = torch.cat(sure), torch.cat(labels)
    if not len(chosen):
        raise ConfigError(
            f"{config.init} is not sure of any unlabelled image: lower data.confidence (now "
            f"{config.data.confidence:g}), or train it on more labelled images."
        )
    return chosen, given, len(chosen) / len(unlabelled)


def _adapted(
    teacher: Recognizer, name: str, unlabelled: Dataset, rows: NDArray[np.int64], listener: Listener
) -> Recognizer:
    """Return the classifier with the statistics of the unlabelled images, where it has any to adapt."""
    if has_statistics(teacher.learner) and len(rows) >= FEWEST:
        few = rows[spread_evenly(len(rows), min(_ADAPTED_TO, len(rows)))]
        return adapt(teacher, Images(unlabelled.images(few)))
    why = (
        f"there are fewer than {FEWEST}"
        if has_statistics(teacher.learner)
        else "the model has no statistics to adapt"
    )
    listener.on_message(f"{name} is not adapted to the unlabelled images before it labels them, since {why}.")
    return teacher


def _read(file: Path, count: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return the rows and labels in a file; None where it is missing or damaged."""
    expected = {name: torch.empty(count, dtype=torch.int64, device="meta") for name in ("rows", "labels")}
    try:
        weights.check(file, expected)
        found = weights.read(file, expected)
    except ModelError:
        return None
    return found["rows"], found["labels"]
