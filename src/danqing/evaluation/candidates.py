"""What is scored, a model or a folder of pictures, and the parts of a data set that it is held against."""

import functools
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from danqing import weights
from danqing.data import builtin
from danqing.data.dataset import Dataset
from danqing.data.folder import Folder
from danqing.data.headers import LOSSY
from danqing.data.probe import resolve
from danqing.data.records import DataReport, ImageSpec
from danqing.data.sources import find_source, open_dataset
from danqing.data.splits import has_split, has_two, hold_out, open_if_there
from danqing.errors import ConfigError, DataError, EvaluationError
from danqing.evaluation.scores import ReferenceInfo
from danqing.model import folder as model_folder
from danqing.model.loading import HasModel, load
from danqing.model.model import Model
from danqing.progress import ProgressCallback
from danqing.randomness import generator

MOST_REFERENCE = 50_000
"""Scores compare with so many real images at most: the time that some take grows with their square."""
_Sizes = tuple[tuple[int, int], tuple[int, int]]
_UNLIKE_SHARE = 0.5
"""How far the shares of lossy files may be apart before a score says so."""
_PREPARATION = ("channels", "alpha", "background", "fit", "range")
_LEARNT = "measured on images that may have been learnt from"
_LEARNT_OTHERS = f"{_LEARNT} (the model says that it learnt from others, and these may be among them)"
_TOKENIZER = "its tokenizer learnt from other images than the model did, and these may be among them"
_CHOSEN = "the model was chosen by its scores on these images, which flatters it a little"
_LOST = (
    "the images that the run held out cannot be told from the others any more: the data, or how it is read, "
    "has changed since"
)


@dataclass(frozen=True)
class Candidate:
    """What is scored: a model that has yet to paint, or pictures that are there already.

    name: what a score calls it. folder: the model folder, where there is one. preparation: how the data that
    it is held against must be read (`size`, `channels`, `alpha`, `background`, `fit`, `range`), and
    as_trained: how a model's run read it, which the fingerprint of its images follows from too. facts:
    settings that every score of it carries.
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

    is_held_out: whether they are others than those that may have been learnt from. open_training: what opens
    the latter, None where they are not known. cautions: what every score against them must be read with.
    """

    images: Dataset
    info: ReferenceInfo
    open_training: Callable[[], Dataset] | None = None
    is_held_out: bool = False
    cautions: tuple[str, ...] = ()


def open_candidate(
    source: Model | HasModel | str | Path,
    data: str | Path,
    *,
    n: int,
    seed: int,
    size: tuple[int, int] | None = None,
    device: str = "cpu",
    on_progress: ProgressCallback | None = None,
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
    skipped = pictures.info.report.skipped
    return Candidate(
        str(source),
        pictures=_drawn(pictures, n, seed, "candidate"),
        preparation={
            "size": pictures.size,
            "channels": pictures.channels,
            "alpha": "keep",
            "range": pictures.range,
        },
        facts={"pictures": pictures.fingerprint[:12]} | ({"unreadable": skipped} if skipped else {}),
    )


def _drawn(images: Dataset, most: int, seed: int, purpose: str) -> Dataset:
    """The images, or as many as are wanted at most, drawn by the seed, in their order."""
    if len(images) <= most:
        return images
    drawn = torch.randperm(len(images), generator=generator(seed, purpose))[:most]
    return images.subset(np.sort(drawn.numpy()))


def _open_pictures(source: str, **options: Any) -> Dataset:
    """All pictures of a source, whatever splits it has, with their transparency."""
    everything = open_if_there(source, "all", alpha="keep", **options)
    return everything if everything is not None else open_dataset(source, alpha="keep", **options)


def _is_coloured(data: str | Path) -> bool:
    source, _ = find_source(data, "train" if has_split(data, "train") else "all")
    return resolve(source, ImageSpec())[0].channels > 2


def is_model(path: Path) -> bool:
    """Return whether a path is a run, a model folder or a model on the hub, and not images.

    A folder of images may hold a `config.json` of something else: only one beside weights makes a model.
    """
    if path.is_dir():
        if (path / "config.toml").exists() and (path / "run.json").exists():
            return True
        if (path / model_folder.FILES[1]).exists() or model_folder.names_a_family(path):
            return True
        has_settings = any((path / name).exists() for name in ("config.toml", model_folder.FILES[0]))
        return has_settings and Folder(path).count_images(0) == 0
    named = str(path).replace(":", "/").split("/")[0]
    return model_folder.is_hub_id(str(path)) and named not in builtin.names()


def open_reference(
    data: str | Path,
    candidate: Candidate,
    *,
    split: str | None = None,
    seed: int = 0,
    on_progress: ProgressCallback | None = None,
) -> Reference:
    """The split of the data that scores compare with, and the training images beside it.

    split: "train", "test", "validation", "held-out" (what a run kept from training) or "all"; None takes the
    first of test, validation and held-out that there is, and the training images where there is none. Of more
    than `MOST_REFERENCE` images, as many are drawn by the seed. Raises DataError and EvaluationError.
    """
    seen = _Seen(data, candidate, on_progress)
    chosen = _usual_split(data, seen) if split is None else split
    cautions = []
    if chosen == "held-out":
        if seen.parts is None:
            raise EvaluationError(_why_none_held_out(candidate))
        images = seen.parts[1]
    elif chosen == "train" and seen.whole is not None:
        images = seen.whole
        others = learnt_from(candidate, images) is False and seen.parts is None
        cautions.append(_LEARNT_OTHERS if others else _LEARNT)
        if split is None and _share_held_out(candidate):
            cautions.append(_LOST)
    else:
        images = open_dataset(data, split=chosen, **candidate.preparation, on_progress=on_progress)
        cautions += [_LEARNT] if chosen in ("train", "all") else []
    cautions += _unlike_files(candidate, images)
    if candidate.model is not None and candidate.model.facts.get("data", {}).get("chosen_by") == chosen:
        cautions.append(_CHOSEN)
    is_held_out = chosen == "held-out" or (chosen not in ("train", "all") and has_two(data, "train", chosen))
    if is_held_out and _has_foreign_tokenizer(candidate, seen, chosen):
        cautions.append(_TOKENIZER)
    whole = images
    if len(whole) > MOST_REFERENCE:
        cautions.append(f"{MOST_REFERENCE:,} of {len(whole):,} images were drawn from the {chosen} split")
        images = _drawn(whole, MOST_REFERENCE, seed, "reference")
    return Reference(
        images=images,
        info=reference_info(images, chosen),
        open_training=seen.learnt if is_held_out else (lambda: whole) if chosen in ("train", "all") else None,
        is_held_out=is_held_out,
        cautions=tuple(cautions),
    )


def _unlike_files(candidate: Candidate, reference: Dataset) -> list[str]:
    """What to beware of where images and reference come from different kinds of files."""
    if candidate.pictures is None:
        return []
    cautions, ours, theirs = [], candidate.pictures.info.report, reference.info.report
    shares = [share for report in (ours, theirs) if (share := _lossy_share(report)) is not None]
    if len(shares) == 2 and abs(shares[0] - shares[1]) > _UNLIKE_SHARE:
        mine, other = (" and ".join(list(report.formats)[:2]) for report in (ours, theirs))
        cautions.append(
            f"these images are {mine} and the reference is {other}: traces of compression change every "
            "distance, so save both in one format"
        )
    sizes = [report.source_sizes for report in (ours, theirs) if report.source_sizes is not None]
    if len(sizes) == 2 and _are_far_apart(*sizes):
        mine, other = ("x".join(map(str, largest)) for _, largest in sizes)
        cautions.append(
            f"these images had at most {mine} pixels before they were resized and the reference at most "
            f"{other}: resizing changes every distance, so compare images of similar size"
        )
    return cautions


def _lossy_share(report: DataReport) -> float | None:
    """The share of images that come from files of a lossy format; None where the formats are not known."""
    total = sum(report.formats.values())
    return sum(n for name, n in report.formats.items() if name in LOSSY) / total if total else None


def _are_far_apart(sizes: _Sizes, others: _Sizes) -> bool:
    """Whether the largest of one side are at most half of the smallest of the other, in width and height."""
    return any(
        all(2 * largest <= smallest for largest, smallest in zip(small[1], large[0], strict=True))
        for small, large in ((sizes, others), (others, sizes))
    )


class _Seen:
    """The training images of some data as a candidate's run saw them, opened when they are first needed."""

    def __init__(self, data: str | Path, candidate: Candidate, on_progress: ProgressCallback | None) -> None:
        self._data, self._candidate, self._on_progress = data, candidate, on_progress

    @functools.cached_property
    def whole(self) -> Dataset | None:
        """The training split as the run read it, where that gives images of the candidate's shape."""
        candidate = self._candidate
        if candidate.as_trained is not None:
            images = open_if_there(self._data, "train", **candidate.as_trained, on_progress=self._on_progress)
            wanted = (candidate.preparation["size"], candidate.preparation["channels"])
            if images is None or (images.size, images.channels) == wanted:
                return images
        return open_if_there(self._data, "train", **candidate.preparation, on_progress=self._on_progress)

    @functools.cached_property
    def parts(self) -> tuple[Dataset, Dataset] | None:
        """What a model learnt from and what was held out, where it was trained so on these very images."""
        share = _share_held_out(self._candidate)
        if share is None or self.whole is None:
            return None
        try:
            parts = hold_out(self.whole, share)
        except DataError:  # fewer images than any run could have held some out of
            return None
        return parts if any(learnt_from(self._candidate, one) for one in (self.whole, parts[0])) else None

    def learnt(self) -> Dataset:
        """What may have been learnt from; only where there is a training split."""
        assert self.whole is not None
        return self.whole if self.parts is None else self.parts[0]


def _usual_split(data: str | Path, seen: _Seen) -> str:
    for name in ("test", "validation"):
        if has_split(data, name):
            return name
    return "train" if seen.parts is None else "held-out"


def _has_foreign_tokenizer(candidate: Candidate, seen: _Seen, split: str) -> bool:
    """Whether a model says that its tokenizer learnt from images among which those of a split may be."""
    facts = candidate.model.facts if candidate.model is not None else {}
    told = facts.get("tokenizer", {}).get("fingerprint")
    if told in (None, facts.get("data", {}).get("fingerprint")):
        return False
    harmless = [seen.parts[0]] if seen.parts is not None else []
    harmless += [seen.whole] if seen.whole is not None and split != "held-out" else []
    return told not in [images.fingerprint for images in harmless]


def _share_held_out(candidate: Candidate) -> float | None:
    """The share of its data that a model says was held out; None where none was."""
    told = candidate.model.facts.get("data", {}).get("held_out") if candidate.model else None
    return told if isinstance(told, float) and 0 < told < 1 else None


def _why_none_held_out(candidate: Candidate) -> str:
    if candidate.model is None:
        return f"{candidate.name} is no model, and only a model's run holds images out: name another --split."
    if _share_held_out(candidate) is not None:
        return f"For {candidate.name}, {_LOST}: name another --split."
    return f"{candidate.name} did not keep a part of this data from training: name another --split."


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
    run = {**(_run_preparation(folder) or _told_preparation(model)), "range": model.value_range}
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


def _told_preparation(model: Model) -> dict[str, Any]:
    """How a model says that its data was prepared; empty where it does not, or says what cannot be."""
    told = model.facts.get("data", {}).get("prepared")
    if not isinstance(told, Mapping):
        return {}
    chosen = {name: told[name] for name in _PREPARATION if name in told}
    try:
        ImageSpec(**chosen)
    except ConfigError:
        return {}
    return chosen


def reference_info(images: Dataset, split: str) -> ReferenceInfo:
    """What a score says of the images that it compares with."""
    source = images.info.source
    is_builtin = source.replace("/", ":").split(":")[0] in builtin.names()
    return ReferenceInfo(
        name=source if is_builtin else images.info.name,
        split=split,
        count=len(images),
        fingerprint=images.fingerprint,
    )
