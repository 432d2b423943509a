"""What a run shows of its model: the model folder, and grids of samples and real images."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from danqing import weights
from danqing.data import Dataset
from danqing.data.splits import Held
from danqing.errors import DataError
from danqing.evaluation import scores
from danqing.families.base import Learner
from danqing.images import Images
from danqing.model import folder as model_folder
from danqing.model.model import Model, describe
from danqing.randomness import generator
from danqing.training.config import RunConfig
from danqing.training.run_folder import RunFolder


class Publisher:
    """Writes a run's sample grids and its model folder.

    real: as many real images as a grid has.
    """

    def __init__(self, folder: RunFolder, config: RunConfig, dataset: Dataset, held: Held | None) -> None:
        self._folder, self._config = folder, config
        self.real = real_images(dataset, config)
        # A first stage shows reconstructions, if possible of images that it is not trained on.
        self._originals = real_images(held.judged, config) if held else self.real

    def write_real(self) -> None:
        """Write the grid of real images."""
        path = self._folder.samples / "data.png"
        path.unlink(missing_ok=True)
        self.real.save(path)

    def write_latest(self, model: Model, *, is_best: bool) -> tuple[Path, Images]:
        """Write a grid of samples; if `is_best`, write the model folder too.

        Returns the path of the grid and its images.
        """
        samples = self._grid(model)
        path = self._folder.samples / f"{model.facts['images']:09d}.png"
        samples.save(path)
        if is_best and not holds(self._folder.model, model):
            publish(self._folder.model, model, samples)
        return path, samples

    def write(self, model: Model) -> None:
        """Write a model without a score to the model folder."""
        publish(self._folder.model, model, self._grid(model))

    def write_best(self, model: Model, score: scores.Score) -> None:
        """Write the model with the best score to the model folder.

        After a kill the folder may hold a model that was trained further than the run has been saved.
        """
        folder = self._folder.model
        if not (holds(folder, model) and is_scored(folder, model)):
            publish(folder, model, self._grid(model), [score])

    def _grid(self, model: Model) -> Images:
        """The images of a grid; a first stage cannot sample and shows originals beside reconstructions."""
        if not model.family.has_prior:
            originals = self._originals[: max(1, self._config.training.sample_images // 2)]
            return Images(np.concatenate([originals.array, model.reconstruct(originals).array], axis=2))
        return sample_grid(model, self._config)


def sample_grid(model: Model, config: RunConfig) -> Images:
    """Return the samples of a grid, always of the same seeds, evenly of all labels or captions."""
    count, labels = config.training.sample_images, model.labels
    if shown := prompts(config):
        return model.sample(count, prompt=shown, seed=config.seed)
    spread = [i * len(labels) // count if len(labels) <= count else i % len(labels) for i in range(count)]
    return model.sample(count, label=spread if labels else None, seed=config.seed)


def prompts(config: RunConfig) -> list[str]:
    """Return the prompts of a grid: captions from all over the data.

    Empty if the model does not read text.
    """
    count, captions = config.training.sample_images, config.model.captions
    return [captions[number * len(captions) // count] for number in range(count)] if captions else []


def real_images(dataset: Dataset, config: RunConfig) -> Images:
    """Return as many real images as a grid has, drawn evenly."""
    count = min(config.training.sample_images, len(dataset))
    rng = generator(config.seed, "real images")
    chosen = torch.randperm(len(dataset), generator=rng)[:count].numpy()
    return Images(dataset.images(np.sort(chosen)))


def publish(folder: Path, model: Model, samples: Images, measured: Sequence[scores.Score] = ()) -> None:
    """Write a model and its scores to the model folder.

    Scores and neighbours of the model that was there are removed.
    """
    folder.mkdir(exist_ok=True)
    (folder / "neighbours.png").unlink(missing_ok=True)
    scores.write(folder / "scores.json", measured)
    model.save(folder, samples)


def publish_learner(folder: Path, learner: Learner, trained: Mapping[str, Any]) -> None:
    """Write a learner that does not sample images to the model folder."""
    model_folder.write(folder, learner, trained, describe(learner, trained))


def holds(folder: Path, model: Model) -> bool:
    """Whether a model folder holds exactly the weights of `model`."""
    try:
        trained = json.loads((folder / "config.json").read_text(encoding="utf-8"))["trained"]
        content = (folder / "model.safetensors").read_bytes()
    except (OSError, ValueError, KeyError):
        return False
    same = bool(trained["images"] == model.facts["images"])
    return same and content == weights.to_bytes(model.family.state_dict(), {"format": "pt"})


def is_scored(folder: Path, model: Model) -> bool:
    """Whether a model folder may hold a score of these weights."""
    digest = weights.digest(model.family.state_dict())
    try:
        found = scores.read(folder / "scores.json")
    except DataError:
        return False
    return any(model_folder.says_of(score.settings, digest) for score in found)
