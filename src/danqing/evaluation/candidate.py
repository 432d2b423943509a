"""What is scored: a model or a folder of images."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danqing.data import builtin
from danqing.data.cleaned import cleaned
from danqing.data.dataset import Dataset
from danqing.data.folder import Folder
from danqing.data.layout import Declared
from danqing.data.probe import resolve
from danqing.data.records import ImageSpec
from danqing.data.sources import find_source, open_dataset
from danqing.data.splits import has_split, open_if_there
from danqing.errors import ConfigError, DataError, EvaluationError
from danqing.evaluation.image_sets import draw_rows
from danqing.model import folder as model_folder
from danqing.model import shipped
from danqing.model.loading import HasModel
from danqing.model.model import Model
from danqing.model.recognizer import Recognizer, open_trained
from danqing.pipelines.layout import is_pipeline
from danqing.pipelines.sources import MODELSCOPE, split_source
from danqing.progress import ProgressCallback
from danqing.trust.sealed_file import is_sealed

_DECLARED = ("pairs", "domains", "masks", "boxes", "label_sets", "clean", "ignore_reservations")
"""Those that are not about the form of an image: what belongs to it, and which images are used."""
_PREPARATION = ("channels", "alpha", "background", "fit", "range", *_DECLARED)


@dataclass(frozen=True)
class Candidate:
    """What is scored: a model, or a folder of images.

    name: what a score calls it. model: where it samples images. recognizer: where it recognizes them. folder:
    the model folder, where there is one. preparation: how the data that it is compared with must be read
    (`size`, `channels`, `alpha`, `background`, `fit`, `range`, `attributes` and declarations), and
    as_trained: how a model's run read it, which the fingerprint of its images follows from too. facts:
    settings that every score of it carries.
    """

    name: str
    model: Model | None = None
    recognizer: Recognizer | None = None
    pictures: Dataset | None = None
    folder: Path | None = None
    preparation: Mapping[str, Any] = field(default_factory=dict)
    as_trained: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trained(self) -> Model | Recognizer | None:
        """The model or the recognizer; None for images."""
        return self.model or self.recognizer

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels that its images have or can be asked for."""
        if self.model is not None:
            return self.model.labels
        if self.recognizer is not None:
            return self.recognizer.learner.config.labels
        assert self.pictures is not None
        return self.pictures.label_names


def open_candidate(
    source: Model | Recognizer | HasModel | str | Path,
    data: str | Path,
    *,
    n: int,
    seed: int,
    size: tuple[int, int] | None = None,
    device: str = "cpu",
    on_progress: ProgressCallback | None = None,
) -> Candidate:
    """Open a model, or a source of images, to be scored.

    source: a model, a run, its folder, a hub id, or a source of images.
    data: what it will be compared with.
    n: of more images than this, `n` are drawn by the seed.

    Raises ModelError, DataError or EvaluationError.
    """
    if isinstance(source, Model | Recognizer):
        return _of_model(source, "a model", None, size, data)
    path = Path(source if isinstance(source, str | Path) else source.model)
    if is_model(path):
        given, path = str(path), Path(split_source(str(path))[0])
        is_on_hub = model_folder.is_hub_id(str(path)) or str(path).startswith(MODELSCOPE)
        # The folder gets the scores; that of the package or of a pipeline is not ours to change.
        is_others = is_on_hub or is_pipeline(path) or shipped.find(path) is not None
        is_own = not is_others and not is_sealed(path)
        folder = model_folder.find(path) if is_own else None
        # A card may be published: it names the run, and not where on this machine it lies.
        name = path.resolve().parent.name if path.name == "model" else path.resolve().name
        model = open_trained(given if is_others else path, device=device)
        return _of_model(model, str(path) if is_on_hub else name, folder, size, data)
    pictures = _open_pictures(str(source), size=size, on_progress=on_progress)
    if pictures.channels < 3 and _is_coloured(data):
        channels = pictures.channels + 2  # a grey picture of a coloured thing must not be judged in grey
        pictures = _open_pictures(str(source), size=size, channels=channels, on_progress=on_progress)
    skipped = pictures.info.report.skipped
    return Candidate(
        str(source),
        pictures=draw_subset(pictures, n, seed, "candidate"),
        preparation={
            "size": pictures.size,
            "channels": pictures.channels,
            "alpha": "keep",
            "range": pictures.range,
        },
        facts={"pictures": pictures.fingerprint[:12]} | ({"unreadable": skipped} if skipped else {}),
    )


def _open_pictures(source: str, **options: Any) -> Dataset:
    """All pictures of a source, whatever splits it has, with their transparency."""
    everything = open_if_there(source, "all", alpha="keep", **options)
    return everything if everything is not None else open_dataset(source, alpha="keep", **options)


def _is_coloured(data: str | Path) -> bool:
    source, _ = find_source(data, "train" if has_split(data, "train") else "all")
    return resolve(source, ImageSpec())[0].channels > 2


def is_model(path: Path) -> bool:
    """Return whether a path names a model, and not images.

    A run, a model folder, a sealed model, a model on the hub and a shipped model are models.

    A folder of images may hold a `config.json` of something else: only one beside weights makes a model.
    """
    path = Path(split_source(str(path))[0])
    if path.is_dir():
        if (path / "config.toml").exists() and (path / "run.json").exists():
            return True
        if is_pipeline(path) or (path / model_folder.FILES[1]).exists() or model_folder.names_a_family(path):
            return True
        has_settings = any((path / name).exists() for name in ("config.toml", model_folder.FILES[0]))
        return has_settings and Folder(path).count_images(0) == 0
    named = str(path).replace(":", "/").split("/")[0]
    if str(path).startswith(MODELSCOPE):
        return True
    if shipped.find(path) is not None or is_sealed(path):
        return True
    return model_folder.is_hub_id(str(path)) and named not in builtin.names()


def _of_model(
    model: Model | Recognizer,
    name: str,
    folder: Path | None,
    size: tuple[int, int] | None,
    data: str | Path,
) -> Candidate:
    learner = model.family if isinstance(model, Model) else model.learner
    config = learner.config
    if size is not None and size != (config.width, config.height):
        works = "generates" if isinstance(model, Model) else "works at"
        raise EvaluationError(
            f"This model {works} {config.width}x{config.height}: leave --size out, which is for folders."
        )
    shape: dict[str, Any] = {"size": (config.width, config.height), "channels": config.channels}
    if config.sizes:
        shape["buckets"] = config.sizes
    usual = {"alpha": "flatten" if config.channels in (1, 3) else "keep"}
    run = {**(_run_preparation(folder) or _told_preparation(model)), "range": model.value_range}
    attributes = tuple(column.name for column in config.attributes)
    run["attributes"] = attributes if _has_attributes(data, attributes) else ()  # other data has none
    if not _is_about(run.get("clean", ""), data):
        del run["clean"]  # a list of other images, or one that was deleted
    seen = model.facts.get("images")
    return Candidate(
        f"{name} ({config.family}{'' if seen is None else f', {seen:,} images seen'})",
        model=model if isinstance(model, Model) else None,
        recognizer=None if isinstance(model, Model) else model,
        folder=folder,
        preparation={**usual, **run, **shape},
        as_trained={**shape, "channels": 0, **usual, **run},
        facts={"weights": learner.digest()[:12]},
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
    except (OSError, ValueError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise EvaluationError(
            f"{file} cannot be read ({error}): evaluate a copy of its model folder."
        ) from error


def _told_preparation(model: Model | Recognizer) -> dict[str, Any]:
    """How a model says that its data was prepared; empty where it does not, or says what cannot be."""
    told = model.facts.get("data", {}).get("prepared")
    if not isinstance(told, Mapping):
        return {}
    chosen = {name: told[name] for name in _PREPARATION if name in told}
    try:
        ImageSpec(**{name: value for name, value in chosen.items() if name not in _DECLARED})
    except ConfigError:
        return {}
    return chosen


def _has_attributes(data: str | Path, names: Sequence[str]) -> bool:
    """Return whether some data has the columns of the attributes that a model learned."""
    if not names:
        return True
    try:
        source, _ = find_source(data, "all", declared=Declared(attributes=tuple(names)))
        next(iter(source.records(ImageSpec())), None)  # a folder looks for columns when it is read
    except (ConfigError, DataError):
        return False
    return True


def _is_about(clean: str, data: str | Path) -> bool:
    """Return whether a clean list can be applied to some data."""
    if not clean:
        return True
    try:
        found, _ = find_source(data, "train")
        cleaned(found, "train", clean).count()
    except DataError:
        return False
    return True


def draw_subset(images: Dataset, most: int, seed: int, purpose: str) -> Dataset:
    """Return at most `most` images, drawn by the seed, in their order."""
    return images if len(images) <= most else images.subset(draw_rows(len(images), most, seed, purpose))
