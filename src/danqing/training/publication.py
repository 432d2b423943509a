"""What a run shows of its model: the model folder, and grids of samples and real images."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing import atomic, families
from danqing.data import Dataset
from danqing.data.degrade import Degradation, source_images
from danqing.data.splits import Held
from danqing.errors import DataError
from danqing.evaluation import scores
from danqing.evaluation.examination import Examination
from danqing.evaluation.generated_images import remade, sources
from danqing.evaluation.image_sets import batch_size_for, index_batches, map_labels
from danqing.families.abilities import Translates
from danqing.families.base import Family, FamilyConfig, Learner
from danqing.images import Images, to_float, to_uint8, with_channels
from danqing.model import folder as model_folder
from danqing.model.card import describe
from danqing.model.model import Model
from danqing.nets import adapters
from danqing.nets.layers import crop
from danqing.randomness import generator
from danqing.training.colour import channel_means
from danqing.training.config import RunConfig
from danqing.training.run_folder import RunFolder

BRIEF_STEPS = 8
"""Steps of the grids during training, whose time is better spent on training."""
_PER_SAMPLE = 4
"""Real images per sample of a grid, whose colours the samples should have."""


class Publisher:
    """Writes a run's sample grids and its model folder.

    real: as many real images as a grid has.
    """

    def __init__(self, folder: RunFolder, config: RunConfig, dataset: Dataset, held: Held | None) -> None:
        self._folder, self._config, self._dataset = folder, config, dataset
        self.real = real_images(dataset, config)
        # A first stage shows reconstructions, if possible of images that it is not trained on.
        self._originals = held.judged if held else dataset

    @functools.cached_property
    def real_colours(self) -> NDArray[np.float64]:
        """The channel means of real images that show what a grid shows, `[m, c]` in levels of 255.

        They are the originals of a first stage, and the targets of pairs. Otherwise several images are drawn
        for each sample, of its label if it has one: a grid holds all labels alike, however rare they are.
        """
        count, dataset = self._config.training.sample_images, self._dataset
        if self._config.model.reads_source or not families.has_prior(self._config.model):
            rows = _drawn_rows(self._originals, count, self._config.seed)[: max(1, count // 2)]
            return channel_means(self._originals.images(rows).numpy())
        labels, rng = self._config.model.labels, generator(self._config.seed, "colours")
        surveyed = dataset.surveyed_rows()
        groups = [surveyed] * count
        if labels:
            known = map_labels(dataset, labels, surveyed)
            of_labels = [surveyed[known == label] for label in _spread_labels(len(labels), count)]
            groups = of_labels if any(map(len, of_labels)) else groups  # an adapter may call images otherwise
        drawn = [
            group[torch.randint(len(group), (_PER_SAMPLE,), generator=rng).numpy()]
            for group in groups
            if len(group)
        ]
        rows = np.sort(np.concatenate(drawn))
        batches = index_batches(len(rows), batch_size_for(dataset.size))
        return np.concatenate([channel_means(dataset.images(rows[part]).numpy()) for part in batches])

    def write_real(self) -> None:
        """Write the grid of real images; each source image of a pair stands beside its target."""
        path = self._folder.samples / "data.png"
        path.unlink(missing_ok=True)
        if not self._config.model.reads_source or self._config.model.reads_domains:
            self.real.save(path)
            return
        rows = _drawn_rows(self._dataset, self._config.training.sample_images, self._config.seed)
        steps, seed = self._config.data.degrade, self._config.seed
        source = source_images(self._dataset, rows.tolist(), Degradation(steps) if steps else None, seed)
        shown = _as_targets(source, self._config.model)
        Images(np.concatenate([shown, self.real.array], axis=2)).save(path)

    def write_latest(self, model: Model, *, is_best: bool, in_brief: bool) -> tuple[Path, Images]:
        """Write a grid of samples; if `is_best`, write the model folder too.

        in_brief: sample in few steps, if the model samples in many.
        Returns the path of the grid and its images.
        """
        samples = self._grid(model, brief_options(model) if in_brief else {})
        path = self._folder.samples / f"{model.facts['images']:09d}.png"
        samples.save(path)
        if is_best and not holds(self._folder.model, model.family, model.facts):
            publish(self._folder.model, model, samples)
        return path, samples

    def write(self, model: Model) -> None:
        """Write a model without a score to the model folder."""
        publish(self._folder.model, model, self._grid(model))

    def write_best(self, learner: Learner, trained: Mapping[str, Any], score: scores.Score) -> None:
        """Write the learner with the best score to the model folder.

        After a kill the folder may hold a model that was trained further than the run has been saved.
        """
        folder = self._folder.model
        if holds(folder, learner, trained) and is_scored(folder, learner):
            return
        if isinstance(learner, Family):
            model = Model(learner, trained, name=self._folder.name)
            publish(folder, model, self._grid(model), [score])
        else:
            publish_learner(folder, learner, trained, [score])

    def sampled(self, grid: Images) -> NDArray[np.uint8]:
        """Return what the model made of a grid, `[n, h, w, c]`, without the real images beside it."""
        width = self._dataset.size[0]
        return grid.array if grid.array.shape[2] == width else grid.array[:, :, width : 2 * width]

    def _grid(self, model: Model, options: Mapping[str, Any] | None = None) -> Images:
        """The images of a grid, sampled with some options.

        A first stage cannot sample: each original stands beside its reconstruction. A model that translates
        shows each source, what it made of it, and the target, if there is one.
        """
        if adapters.is_adapted(model.family):
            model = Model(adapters.merged(model.family), model.facts, name=model.name)
        if model.family.has_prior:
            return sample_grid(model, self._config, options)
        count = self._config.training.sample_images
        rows = _drawn_rows(self._originals, count, self._config.seed)[: max(1, count // 2)]
        originals, again = self._originals.images(rows).numpy(), remade(model, self._originals, rows).array
        if not isinstance(model.family, Translates):
            marks = model.marking("reconstruct", overview=True)
            return Images(np.concatenate([originals, again], axis=2), marks)
        source = torch.from_numpy(sources(model, self._originals, rows).array)
        shown = _as_targets(to_float(source), self._config.model)
        targets = [] if model.family.config.reads_domains else [originals]
        pictures = np.concatenate([shown, again, *targets], axis=2)
        return Images(pictures, model.marking("translate", overview=True))


def _as_targets(source: Tensor, config: FamilyConfig) -> NDArray[np.uint8]:
    """Return source images `[n, c, h, w]` in [-1, 1] with the size and channels of their targets.

    Their pixels are repeated; the result is uint8 `[n, h, w, c]`.
    """
    large = source.repeat_interleave(config.source_scale, 2).repeat_interleave(config.source_scale, 3)
    return to_uint8(with_channels(crop(large, (config.height, config.width)), config.channels)).numpy()


def sample_grid(model: Model, config: RunConfig, options: Mapping[str, Any] | None = None) -> Images:
    """Return the samples of a grid, always of the same seeds, evenly of all labels or captions.

    options: of sampling, instead of the model's own.
    """
    count, labels, options = config.training.sample_images, model.labels, options or {}
    if shown := prompts(config):
        samples = model.sample(count, prompt=shown, seed=config.seed, **options)
    else:
        spread = _spread_labels(len(labels), count) if labels else None
        samples = model.sample(count, label=spread, seed=config.seed, **options)
    return Images(samples.array, model.marking("sample", overview=True))


def brief_options(model: Model) -> dict[str, Any]:
    """Return the options that sample in few steps; empty if the model takes no more than these."""
    return {"num_steps": BRIEF_STEPS} if sampling_steps(model) > BRIEF_STEPS else {}


def sampling_steps(model: Model) -> int:
    """Return the steps that a model samples in by default; 0 if that is not one of its options."""
    return int(model.sample_options.get("num_steps", 0)) if model.family.has_prior else 0


def _spread_labels(labels: int, count: int) -> list[int]:
    """The label of each image in a grid of `count`: of all labels, alike."""
    return [i * labels // count if labels <= count else i % labels for i in range(count)]


def prompts(config: RunConfig) -> list[str]:
    """Return the prompts of a grid: captions from all over the data.

    Empty if the model does not read text.
    """
    count, captions = config.training.sample_images, config.model.captions
    return [captions[number * len(captions) // count] for number in range(count)] if captions else []


def real_images(dataset: Dataset, config: RunConfig) -> Images:
    """Return as many real images as a grid has, drawn evenly."""
    return Images(dataset.images(_drawn_rows(dataset, config.training.sample_images, config.seed)))


def _drawn_rows(dataset: Dataset, count: int, seed: int) -> NDArray[np.int64]:
    """At most `count` rows of a data set, drawn evenly, in order."""
    surveyed = dataset.surveyed_rows()
    chosen = torch.randperm(len(surveyed), generator=generator(seed, "real images"))[:count]
    rows: NDArray[np.int64] = surveyed[np.sort(chosen.numpy())]
    return rows


def publish(folder: Path, model: Model, samples: Images, measured: Sequence[scores.Score] = ()) -> None:
    """Write a model and its scores to the model folder.

    Scores and neighbours of the model that was there are removed.
    """
    _replace_scores(folder, measured)
    model.save(folder, samples)


def publish_learner(
    folder: Path, learner: Learner, trained: Mapping[str, Any], measured: Sequence[scores.Score] = ()
) -> None:
    """Write a learner that does not sample images, and its scores, to the model folder."""
    _replace_scores(folder, measured)
    model_folder.write(folder, learner, trained, describe(learner, trained))


def publish_examined(
    folder: RunFolder, learner: Learner, trained: Mapping[str, Any], found: Examination
) -> None:
    """Write a learner with all of its scores, and what the report shows of them."""
    weights_of = {"weights": learner.digest()[:12]}
    measured = [score.model_copy(update={"settings": score.settings | weights_of}) for score in found.scores]
    publish_learner(folder.model, learner, {**trained, **found.trained}, measured)
    folder.examination.mkdir(exist_ok=True)
    for picture in folder.examination.glob("*.png"):
        picture.unlink()
    for name, sheet in found.pictures.items():
        sheet.save(folder.examination / f"{name}.png")
    atomic.write_json(folder.examination / "details.json", dict(found.details))


def _replace_scores(folder: Path, measured: Sequence[scores.Score]) -> None:
    """Write the scores of a model that is about to be written; those of the one before are removed."""
    folder.mkdir(exist_ok=True)
    (folder / "neighbours.png").unlink(missing_ok=True)
    scores.write(folder / "scores.json", measured)


def holds(folder: Path, learner: Learner, trained: Mapping[str, Any]) -> bool:
    """Whether a model folder holds exactly the weights of a learner, trained on as many images."""
    try:
        there = json.loads((folder / "config.json").read_text(encoding="utf-8"))["trained"]
        content = (folder / model_folder.weights_file(learner)).read_bytes()
    except (OSError, ValueError, KeyError):
        return False
    same = bool(there["images"] == trained["images"])
    return same and content == model_folder.content_of(learner)


def is_scored(folder: Path, learner: Learner) -> bool:
    """Whether a model folder may hold a score of a learner's weights."""
    digest = learner.digest()
    try:
        found = scores.read(folder / "scores.json")
    except DataError:
        return False
    return any(model_folder.says_of(score.settings, digest) for score in found)
