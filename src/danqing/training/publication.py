"""What a run shows of its model: the model folder, and grids of painted and real images."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from danqing import weights
from danqing.data import Dataset
from danqing.errors import DataError
from danqing.evaluation import scores
from danqing.families.base import Learner
from danqing.images import Images
from danqing.model import folder as model_folder
from danqing.model.card import describe
from danqing.model.model import Model
from danqing.randomness import generator
from danqing.training.config import RunConfig


def grid(model: Model, config: RunConfig, real: Images) -> Images:
    """As many images as the run's grids have, always of the same seeds, evenly of all labels or captions.

    A first stage has nothing of its own to paint: it shows `real` images, each beside its reconstruction.
    """
    count, labels = config.training.sample_images, model.labels
    if not model.family.has_prior:
        originals = real[: max(1, count // 2)]
        return Images(np.concatenate([originals.array, model.reconstruct(originals).array], axis=2))
    if asked := prompts(config):
        return model.sample(count, prompt=asked, seed=config.seed)
    shown = [i * len(labels) // count if len(labels) <= count else i % len(labels) for i in range(count)]
    return model.sample(count, label=shown if labels else None, seed=config.seed)


def prompts(config: RunConfig) -> list[str]:
    """What the images of a grid are to show, where the model reads text: captions from all over the data."""
    count, captions = config.training.sample_images, config.model.captions
    return [captions[number * len(captions) // count] for number in range(count)] if captions else []


def real_images(dataset: Dataset, config: RunConfig) -> Images:
    """As many real images as a grid has, drawn evenly from the data."""
    count = min(config.training.sample_images, len(dataset))
    rng = generator(config.seed, "real images")
    chosen = torch.randperm(len(dataset), generator=rng)[:count].numpy()
    return Images(dataset.images(np.sort(chosen)))


def publish(folder: Path, model: Model, samples: Images, measured: Sequence[scores.Score] = ()) -> None:
    """Let the model folder hold this model with its scores; what was measured on others leaves it."""
    folder.mkdir(exist_ok=True)
    (folder / "neighbours.png").unlink(missing_ok=True)
    scores.write(folder / "scores.json", measured)
    model.save(folder, samples)


def publish_learner(folder: Path, learner: Learner, trained: Mapping[str, Any]) -> None:
    """Let the model folder hold a learner that does not sample images."""
    model_folder.write(folder, learner, trained, describe(learner, trained))


def holds(folder: Path, model: Model) -> bool:
    """Whether a model folder holds the very weights of `model`, and whatever has been measured on them."""
    try:
        trained = json.loads((folder / "config.json").read_text(encoding="utf-8"))["trained"]
        content = (folder / "model.safetensors").read_bytes()
    except (OSError, ValueError, KeyError):
        return False
    same = bool(trained["images"] == model.facts["images"])
    return same and content == weights.to_bytes(model.family.state_dict(), {"format": "pt"})


def is_scored(folder: Path, model: Model) -> bool:
    """Whether a model folder holds a score that may be of these weights."""
    digest = weights.digest(model.family.state_dict())
    try:
        found = scores.read(folder / "scores.json")
    except DataError:
        return False
    return any(model_folder.says_of(score.settings, digest) for score in found)
