"""What is scored, a model or a folder of pictures, and the parts of a data set that it is held against."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from danqing import model_folder, weights
from danqing.data import builtin
from danqing.data.dataset import Dataset
from danqing.data.probe import resolve
from danqing.data.records import ImageSpec
from danqing.data.sources import find_source, open_dataset
from danqing.data.splits import hold_out, open_if_there
from danqing.errors import EvaluationError, MissingSplitError
from danqing.evaluation.scores import ReferenceInfo
from danqing.loading import HasModel, load
from danqing.model import Model
from danqing.randomness import generator

Progress = Callable[[int, int, str], None]
_PREPARATION = ("channels", "alpha", "background", "fit")


@dataclass(frozen=True)
class Candidate:
    """What is scored: a model that has yet to paint, or pictures that are there already.

    name: what a score calls it. folder: the model folder, where there is one. preparation: how the data that
    it is held against must be read (`size`, `channels`, `alpha`, `background`, `fit`), and as_trained: how a
    model's run read it, which the fingerprint of its images follows from too. facts: settings that every
    score of it carries.
    """

    name: str
    model: Model | None = None
    pictures: Dataset | None = None
    folder: Path | None = None
    preparation: Mapping[str, Any] = field(default_factory=dict)
    as_trained: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels that its images have or can be asked for."""
        if self.model is not None:
            return self.model.labels
        assert self.pictures is not None
        return self.pictures.label_names


@dataclass(frozen=True)
class Reference:
    """The real images that a candidate is held against.

    training: what a model may have learnt from; None where that is `images` itself or not known. caution: a
    sentence on what every score against them must be read with.
    """

    images: Dataset
    info: ReferenceInfo
    training: Dataset | None = None
    caution: str = ""


def open_candidate(
    source: Model | HasModel | str | Path,
    data: str | Path,
    *,
    n: int,
    seed: int,
    size: tuple[int, int] | None = None,
    device: str = "cpu",
    on_progress: Progress | None = None,
) -> Candidate:
    """A model (itself, a run, its folder, or a hub id), or else the pictures that a source names.

    `data` is what it will be held against. Of more than `n` pictures, `n` are drawn by the seed.
    Raises ModelError, DataError or EvaluationError.
    """
    if isinstance(source, Model):
        return _of_model(source, "a model", None, size)
    path = Path(source if isinstance(source, str | Path) else source.model)
    if is_model(path):
        is_on_hub = model_folder.is_hub_id(str(path))
        folder = None if is_on_hub else model_folder.find(path)
        # A card may be published: it names the run, and not where on this machine it lies.
        name = path.resolve().parent.name if path.name == "model" else path.resolve().name
        model = load(str(path) if is_on_hub else path, device=device)
        return _of_model(model, str(path) if is_on_hub else name, folder, size)
    pictures = _open_pictures(str(source), size=size, on_progress=on_progress)
    if pictures.channels < 3 and _is_coloured(data):
        channels = pictures.channels + 2  # a grey picture of a coloured thing must not be judged in grey
        pictures = _open_pictures(str(source), size=size, channels=channels, on_progress=on_progress)
    if n < len(pictures):
        drawn = torch.randperm(len(pictures), generator=generator(seed, "candidate"))[:n]
        pictures = pictures.subset(np.sort(drawn.numpy()))
    skipped = pictures.info.report.skipped
    return Candidate(
        str(source),
        pictures=pictures,
        preparation={"size": pictures.size, "channels": pictures.channels, "alpha": "keep"},
        facts={"pictures": pictures.fingerprint[:12]} | ({"unreadable": skipped} if skipped else {}),
    )


def _open_pictures(source: str, **options: Any) -> Dataset:
    """All pictures of a source, whatever splits it has, with their transparency."""
    everything = open_if_there(source, "all", alpha="keep", **options)
    return everything if everything is not None else open_dataset(source, alpha="keep", **options)


def _is_coloured(data: str | Path) -> bool:
    try:
        source, _ = find_source(data, "train")
    except MissingSplitError:
        source, _ = find_source(data, "all")
    return resolve(source, ImageSpec())[0].channels > 2


def is_model(path: Path) -> bool:
    """Whether a path is that of a run, a model folder or a model on the hub, and not of pictures."""
    if path.is_dir():
        return any((path / name).exists() for name in ("config.toml", *model_folder.FILES[:2]))
    named = str(path).replace(":", "/").split("/")[0]
    return model_folder.is_hub_id(str(path)) and named not in builtin.names()


def open_reference(
    data: str | Path,
    candidate: Candidate,
    *,
    split: str | None = None,
    on_progress: Progress | None = None,
) -> Reference:
    """The split of the data that scores compare with, and the training images beside it.

    split: "train", "test", "validation", "held-out" (what a run kept from training) or "all"; None takes the
    first of test, validation and held-out that there is, and the training images where there is none. Raises
    DataError and EvaluationError.
    """
    options = {**candidate.preparation, "on_progress": on_progress}
    training = _open_training(data, candidate, on_progress)
    parts = _parts(candidate, training)
    learnt = training if parts is None else parts[0]
    if split == "held-out" and parts is None:
        raise EvaluationError(
            f"{candidate.name} did not keep a part of this data from training: name another --split."
        )
    if split not in (None, "held-out"):
        return _reference(open_dataset(data, split=split, **options), split, learnt, candidate)
    for name in ("test", "validation") if split is None else ():
        if (images := open_if_there(data, name, **options)) is not None:
            return _reference(images, name, learnt, candidate)
    if parts is not None:
        return _reference(parts[1], "held-out", learnt, candidate)
    return _reference(training or open_dataset(data, split="train", **options), "train", learnt, candidate)


def learnt_from(candidate: Candidate, images: Dataset) -> bool | None:
    """Whether a model's own facts say that it learnt from these images; None where they do not tell."""
    known = candidate.model.facts.get("data", {}).get("fingerprint") if candidate.model else None
    return None if known is None else known == images.fingerprint


def _of_model(model: Model, name: str, folder: Path | None, size: tuple[int, int] | None) -> Candidate:
    config = model.family.config
    if size is not None and size != (config.width, config.height):
        raise EvaluationError(
            f"This model paints {config.width}x{config.height}: leave --size out, which is for folders."
        )
    shape = {"size": (config.width, config.height), "channels": config.channels}
    usual = {"alpha": "flatten" if config.channels in (1, 3) else "keep"}
    run = _run_preparation(folder)
    seen = model.facts.get("images")
    return Candidate(
        f"{name} ({config.family}{'' if seen is None else f', {seen:,} images seen'})",
        model=model,
        folder=folder,
        preparation={**usual, **run, **shape},
        as_trained={**shape, "channels": 0, **usual, **run},
        facts={"weights": weights.digest(model.family.state_dict())[:12]},
    )


def _run_preparation(folder: Path | None) -> dict[str, Any]:
    """How the run around a model folder prepared its data; raises EvaluationError where it is damaged."""
    file = folder.parent / "config.toml" if folder is not None else None
    if file is None or not file.exists():
        return {}
    try:
        config = tomllib.loads(file.read_text(encoding="utf-8"))
        section, size = config.get("data", {}), config.get("size")
        chosen = {name: section[name] for name in _PREPARATION if name in section}
        return chosen | {"size": None if size is None else (int(size[0]), int(size[1]))}
    except (OSError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise EvaluationError(
            f"{file} cannot be read ({error}): evaluate a copy of its model folder."
        ) from error


def _open_training(data: str | Path, candidate: Candidate, on_progress: Progress | None) -> Dataset | None:
    """The training split as the candidate's run read it, where that gives images of the candidate's shape."""
    if candidate.as_trained is not None:
        images = open_if_there(data, "train", **candidate.as_trained, on_progress=on_progress)
        wanted = (candidate.preparation["size"], candidate.preparation["channels"])
        if images is None or (images.size, images.channels) == wanted:
            return images
    return open_if_there(data, "train", **candidate.preparation, on_progress=on_progress)


def _parts(candidate: Candidate, training: Dataset | None) -> tuple[Dataset, Dataset] | None:
    """What a model learnt from and what was held out, where it was trained so on these very images."""
    facts = candidate.model.facts.get("data", {}) if candidate.model else {}
    fraction = facts.get("held_out")
    if training is None or not isinstance(fraction, float) or not 0 < fraction < 1:
        return None
    parts = hold_out(training, fraction)
    same = {training.fingerprint, parts[0].fingerprint}
    return parts if facts.get("fingerprint") in same else None


def _reference(images: Dataset, split: str, training: Dataset | None, candidate: Candidate) -> Reference:
    source = images.info.source
    is_builtin = source.replace("/", ":").split(":")[0] in builtin.names()
    info = ReferenceInfo(
        name=source if is_builtin else images.info.name,
        split=split,
        count=len(images),
        fingerprint=images.fingerprint,
    )
    if training is None or split not in ("train", "all"):
        return Reference(images, info, training)
    if learnt_from(candidate, training) is False:
        return Reference(images, info, None)
    return Reference(images, info, None, "measured on images that may have been learnt from")
