"""The pictures of contestants: sampled by models for the same prompts and seeds, or read from folders."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from danqing import weights
from danqing.data.dataset import Dataset
from danqing.data.named_images import NamedSource
from danqing.data.records import ImageSpec
from danqing.data.sources import open_dataset
from danqing.data.splits import open_if_there
from danqing.errors import ConfigError, EvaluationError
from danqing.evaluation.candidate import is_model
from danqing.evaluation.image_sets import draw_rows
from danqing.images import Pixels, conform, to_pil
from danqing.model.model import Model
from danqing.model.recognizer import open_trained
from danqing.progress import ProgressCallback
from danqing.randomness import derived_seed

REAL = "real images"
_BLUR = 1 / 14
"""The radius of the planted blur, as a share of the shorter side: nobody who looks can miss it."""


@dataclass(frozen=True)
class Entrant:
    """A contestant and its pictures.

    pictures: uint8 `[n, h, w, 3]`.
    facts: what identifies it: `weights` of a model.
    """

    name: str
    source: str
    pictures: Pixels
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Gathered:
    """All contestants, with as many pictures each.

    captions: what each picture should show; empty if nothing in particular.
    real: which contestant are real images.
    """

    entrants: tuple[Entrant, ...]
    captions: tuple[str, ...]
    real: int | None


def gather(
    sources: Sequence[str | Path],
    *,
    real: str | Path | None = None,
    n: int = 50,
    prompts: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    seed: int = 0,
    device: str = "cpu",
    on_progress: ProgressCallback | None = None,
) -> Gathered:
    """Return the pictures that are to be judged.

    sources: models, or folders of pictures, whose i-th pictures are compared with each other.
    real: a data set whose images compete as one more contestant.
    n: pictures of each; a folder or data set with fewer reduces that for all.
    prompts: what models paint and pictures should show, in turn: texts or labels. By default, models that
        read text get captions of the real images or of the first model, and models with labels their labels.
    size: (width, height) of all; by default that of the models, or of the first folder.

    Raises EvaluationError, DataError, ModelError and ConfigError.
    """
    tell = on_progress or (lambda done, total, stage: None)
    total = len(sources) + (real is not None)
    if total < 2:
        raise ConfigError("A contest needs at least two contestants: name another, or give real images.")
    models: dict[int, Model] = {}
    for number, source in enumerate(sources):
        if is_model(Path(source)):
            tell(number, total, "Loading models")
            models[number] = _model(source, device)
    size = size or _common_size(models, sources)
    folders = {
        number: _read(str(source), size, n) for number, source in enumerate(sources) if number not in models
    }
    data = None if real is None else _real(real, size, on_progress)
    n = min([n, *map(len, folders.values()), *([len(data)] if data is not None else [])])
    if n < 1:
        raise EvaluationError("A contestant has no pictures that can be read: check its folder.")
    captions, rows = _subjects(models, data, prompts, n, seed)
    entrants = []
    names = names_of([str(source) for source in sources])
    for number, source in enumerate(sources):
        tell(number, total, f"Painting {names[number]}")
        if number in models:
            model = models[number]
            pictures = _paint(model, captions, n, seed, size)
            facts = {"weights": weights.digest(model.family.state_dict())[:12]}
        else:
            pictures, facts = folders[number][:n], {}
        entrants.append(Entrant(names[number], str(source), pictures, facts))
    if data is not None:
        pixels = data.images(rows).numpy()
        entrants.append(Entrant(REAL, str(real), np.stack([_conformed(one, size) for one in pixels])))
    return Gathered(tuple(entrants), captions, None if real is None else len(entrants) - 1)


def as_png(pixels: Pixels) -> bytes:
    """Return a PNG without metadata.

    They would tell real images from generated ones.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def blurred(pixels: Pixels) -> Pixels:
    """Return a blurred picture.

    Whoever looks at it sees that it is blurred.
    """
    radius = max(1.5, _BLUR * min(pixels.shape[:2]))
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def _model(source: str | Path, device: str) -> Model:
    model = open_trained(source, device=device)
    if not isinstance(model, Model):
        raise EvaluationError(f"{source} recognizes images and generates none: leave it out.")
    return model


def _common_size(models: Mapping[int, Model], sources: Sequence[str | Path]) -> tuple[int, int]:
    sizes = {(model.config.width, model.config.height) for model in models.values()}
    if len(sizes) > 1:
        told = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
        raise ConfigError(
            f"The models have different sizes ({told}), which would tell them apart: give a size."
        )
    if sizes:
        return sizes.pop()
    if not sources:
        raise ConfigError("Name at least one model or folder.")
    found = NamedSource(str(sources[0]), ImageSpec(), split="all").spec.size
    assert found is not None
    return found


def _read(source: str, size: tuple[int, int], n: int) -> Pixels:
    """Read the first pictures of a folder, in the order of their names."""
    opened = NamedSource(source, ImageSpec(size=size, channels=3, depth=8), split="all")
    found: list[Pixels] = []
    for batch in opened.read(opened.names()[:n]):
        if batch.skipped:
            first = batch.skipped[0]
            raise EvaluationError(
                f"{first.name} in {source} cannot be read ({first.reason}), so that others would be compared "
                "with those that do not belong to them: repair it, or take it out of every folder."
            )
        found += list(batch.images.numpy())
    return np.stack(found) if found else np.zeros((0, size[1], size[0], 3), np.uint8)


def _real(source: str | Path, size: tuple[int, int], on_progress: ProgressCallback | None) -> Dataset:
    """Open images that models have hopefully not learnt from: the test split, if there is one."""
    options: dict[str, Any] = {"size": size, "channels": 3, "on_progress": on_progress}
    for split in ("test", "validation"):
        if (found := open_if_there(source, split, ignore_reservations=True, **options)) is not None:
            return found
    return open_dataset(source, ignore_reservations=True, **options)


def _subjects(
    models: Mapping[int, Model], data: Dataset | None, prompts: Sequence[str], n: int, seed: int
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return what each picture should show, and which real images show that."""
    rows = np.zeros(0, np.int64) if data is None else draw_rows(len(data), n, seed, "judging")
    reads_text = [model for model in models.values() if model.config.reads_text]
    labelled = [model for model in models.values() if model.labels]
    if prompts:
        captions = tuple(prompts[number % len(prompts)] for number in range(n))
    elif reads_text and data is not None and (texts := data.texts(rows)) is not None:
        captions = tuple(text.split("\n")[0] for text in texts)
    elif reads_text:
        seeds = [derived_seed(seed, "image", number) for number in range(n)]
        captions = reads_text[0].drawn_prompts(seeds) or ()
    elif labelled:
        common = set.intersection(*(set(model.labels) for model in labelled))
        known = [label for label in labelled[0].labels if label in common]
        if data is not None and data.label_names:
            known = [label for label in known if label in data.label_names]
        if not known:
            return (), rows
        captions = tuple(known[number % len(known)] for number in range(n))
    else:
        return (), rows
    if data is not None and not (reads_text and not prompts and data.has_texts):
        rows = _showing(data, captions, seed)
    return captions, rows


def _showing(data: Dataset, captions: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Return real images whose label is the caption, each once if there are enough."""
    names, labels = list(data.label_names), np.asarray(data.labels)
    rows, used = [], dict[str, int]()
    for caption in captions:
        if caption not in names:
            raise EvaluationError(
                f"No real image is labelled {caption!r}, so that captions would tell which ones are real: "
                "leave the real images out, or give prompts that are labels of the data."
            )
        own = np.flatnonzero(labels == names.index(caption))
        order = np.random.default_rng(derived_seed(seed, f"judging {caption}")).permutation(len(own))
        turn = used.setdefault(caption, 0)
        used[caption] += 1
        rows.append(int(own[order[turn % len(own)]]))
    return np.array(rows, np.int64)


def _paint(
    model: Model, captions: Sequence[str], n: int, seed: int, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Sample pictures without marks, which would tell them from real ones."""
    wanted: dict[str, Any] = {}
    if captions and model.config.reads_text:
        wanted["prompt"] = list(captions)
    elif captions and model.labels:
        if unknown := sorted(set(captions) - set(model.labels)):
            raise ConfigError(f"{unknown[0]!r} is not a label of the {model.config.family} model.")
        wanted["label"] = list(captions)
    sampled = model.sample(n, seed=seed, **wanted)
    return np.stack([_conformed(pixels, size) for pixels in sampled.array])


def _conformed(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return conform(to_pil(pixels), size=size, channels=3)


def names_of(sources: Sequence[str]) -> list[str]:
    """Return a short name for each path; equal ones are numbered."""
    found: list[str] = []
    for source in sources:
        path = Path(source)
        name = path.resolve().parent.name if path.name == "model" else path.resolve().name
        number, base = 2, name
        while name in found or name == REAL:
            name, number = f"{base} {number}", number + 1
        found.append(name)
    return found
