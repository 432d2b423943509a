"""`predict`: what a model recognizes in images, in memory or in files, with calibrated probabilities."""

import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from danqing import atomic, threads
from danqing.editing import inputs
from danqing.editing.inputs import Inputs, Source
from danqing.errors import ConfigError, DataError
from danqing.image_files import DeepPixels, decode, inspect
from danqing.images import Images, to_uint16
from danqing.images import Pixels as EightBits
from danqing.learners.abilities import Classifies, Detects, Segments
from danqing.model.loading import HasModel
from danqing.model.recognizer import AT_ONCE, Pixels, Recognizer, load_recognizer
from danqing.progress import ProgressCallback
from danqing.recognition.prediction import LEAST_SCORE, FoundObject, Prediction, labels_of, objects_of
from danqing.recognition.segment import Scale, segment, segment_content, segment_files

FORMATS = ("csv", "json")


@dataclass(frozen=True)
class Predictions(Sequence[Prediction]):
    """The predictions for some images, in their order.

    classes: the names of all labels. is_calibrated: whether the probabilities were calibrated on images that
    the run held out. failed: the files that could not be read, and why.
    """

    items: tuple[Prediction, ...]
    classes: tuple[str, ...]
    is_calibrated: bool
    failed: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: Any) -> Any:
        """Return one prediction by its place, or several by a slice."""
        return self.items[place]

    def plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "predictions": [item.plain() for item in self.items],
            "calibrated": self.is_calibrated,
            "failed": dict(self.failed),
        }

    def to_csv(self) -> str:
        """Return a table with a line for each image or object.

        A line of an image has two columns for each of its labels, or a column for the share of each class of
        its mask. An image without objects has no line.
        """
        if any(item.objects is not None for item in self.items):
            return _table(
                _OBJECT_COLUMNS, (_cells(item.name, one) for item in self.items for one in item.objects or ())
            )
        if any(item.shares is not None for item in self.items):
            shares = ((item.name, item.shares or {}) for item in self.items)
            table = ([name, *(f"{of.get(each, 0):.6f}" for each in self.classes)] for name, of in shares)
            return _table(["name", *self.classes], table)
        most = max((len(item.labels) for item in self.items), default=0)
        endings = ["", *(f"_{number}" for number in range(2, most + 1))]
        head = ["name", *(f"{column}{ending}" for ending in endings for column in ("label", "probability"))]
        rows = list[list[str]]()
        for item in self.items:
            cells = itertools.chain(*((each.name, f"{each.probability:.6f}") for each in item.labels))
            row = [item.name, *cells]
            rows.append(row + [""] * (len(head) - len(row)))
        return _table(head, rows)

    def save(self, path: str | Path) -> Path:
        """Write a table (.csv) or everything (.json), atomically; raises ConfigError for another ending."""
        path = Path(path).expanduser()
        text = self.to_csv() if format_of(path) == "csv" else json.dumps(self.plain(), ensure_ascii=False)
        atomic.write_text(path, text)
        return path


_OBJECT_COLUMNS = ("name", "label", "score", "left", "top", "right", "bottom")


def _cells(name: str, found: FoundObject) -> list[str]:
    return [name, found.name, f"{found.score:.6f}", *(f"{side:.2f}" for side in found.box)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()


def format_of(path: Path) -> str:
    """Return the format of a file of predictions; raises ConfigError."""
    chosen = path.suffix.lower().lstrip(".")
    if chosen not in FORMATS:
        raise ConfigError(f"{path} is not a name for predictions: end it in .csv or .json.")
    return chosen


def predict(
    model: Recognizer | HasModel | str | Path,
    images: Images | NDArray[Any] | Tensor | Source,
    *,
    top: int = 1,
    threshold: float | None = None,
    scale: Scale = "model",
    device: str = "auto",
    on_progress: ProgressCallback | None = None,
) -> Predictions:
    """Recognize images in memory or in files.

    model: a `Recognizer`, or what `load_recognizer` takes.
    images: `Images`, an array or a tensor as `Recognizer.inputs` takes it; otherwise a file, a folder, a zip
        or a pattern, or several files.
    top: how many labels of each image are returned, the most probable first.
    threshold: where an image may have several labels, those that are at least as probable are returned
        instead, however many they are, by default 0.5. Of objects, those that are at least as certain, by
        default 0.3.
    scale: whether a model that segments sees images at the scale of those that it learned from ("model"), or
        as they are ("own").
    device: for a model that is not loaded yet.
    on_progress: receives (done, total, what).
    A file that cannot be read is listed with its reason. Raises DanqingError, also if none can be read.
    """
    if top < 1 or not 0 <= (threshold or 0) <= 1:
        raise ConfigError("top must be at least 1, and threshold between 0 and 1.")
    recognizer = model if isinstance(model, Recognizer) else load_recognizer(model, device=device)
    _check_used(recognizer, top, threshold, scale)
    failed: dict[str, str] = {}
    items: list[Prediction] = []
    if isinstance(recognizer.learner, Segments):
        items += _segmented(recognizer, images, scale, failed, on_progress)
        return gathered(recognizer, items, failed)
    for batch in _batches(recognizer, images, failed, on_progress):
        items += _recognized(recognizer, batch, top, threshold)
    return gathered(recognizer, items, failed)


def predict_contents(
    recognizer: Recognizer,
    contents: Sequence[bytes],
    *,
    top: int = 1,
    threshold: float | None = None,
    scale: Scale = "model",
) -> list[Prediction]:
    """Recognize encoded images; a prediction is named by its place.

    top, threshold, scale: as of `predict`. Raises DataError where an image cannot be read.
    """
    if isinstance(recognizer.learner, Segments):
        masks = (segment_content(recognizer, content, scale=scale) for content in contents)
        return [Prediction.of_mask(str(n), mask, recognizer.classes) for n, mask in enumerate(masks)]
    pixels = np.stack([decode(content, **recognizer.reading()) for content in contents])
    names, sizes = [str(n) for n in range(len(contents))], [inspect(content).size for content in contents]
    return _recognized(recognizer, _Batch(names, pixels, sizes), top, threshold)


def _recognized(
    recognizer: Recognizer, batch: "_Batch", top: int, threshold: float | None
) -> list[Prediction]:
    """Classify some images, or find the objects in them."""
    classes = recognizer.classes
    if isinstance(recognizer.learner, Detects):
        fit = recognizer.reading().get("fit", "crop")
        found = recognizer.detect(batch.pixels, threshold=LEAST_SCORE if threshold is None else threshold)
        return [
            Prediction(
                name,
                objects=objects_of(
                    classes,
                    boxes.cpu().numpy(),
                    places.cpu().numpy(),
                    scores.cpu().numpy(),
                    natural=size,
                    size=recognizer.size,
                    fit=fit,
                ),
            )
            for name, size, (boxes, places, scores) in zip(batch.names, batch.sizes, found, strict=True)
        ]
    rows = zip(batch.names, recognizer.probabilities(batch.pixels), strict=True)
    return [
        Prediction(
            name, labels_of(classes, row.numpy(), top, threshold, is_multi_label=recognizer.is_multi_label)
        )
        for name, row in rows
    ]


def _check_used(recognizer: Recognizer, top: int, threshold: float | None, scale: Scale) -> None:
    """Raise ConfigError for a model without answers, and for an option that these do not depend on."""
    if not isinstance(recognizer.learner, Classifies | Segments | Detects):
        raise ConfigError(
            "This model turns images into vectors and says nothing else of them: use danqing index and "
            "danqing search, or danqing.encode in Python."
        )
    finds, segments = isinstance(recognizer.learner, Detects), isinstance(recognizer.learner, Segments)
    if top != 1 and (finds or segments):
        raise ConfigError("top is for models that give an image labels: leave it out.")
    if threshold is not None and not (finds or recognizer.is_multi_label):
        raise ConfigError("threshold is for objects and for several labels of an image: leave it out.")
    if scale != "model" and not segments:
        raise ConfigError("scale is for models that segment: leave it out.")


def gathered(recognizer: Recognizer, items: Sequence[Prediction], failed: Mapping[str, str]) -> Predictions:
    """Return predictions together; raises DataError if no file can be read."""
    if failed and not items:
        name, why = next(iter(failed.items()))
        raise DataError(f"None of the {len(failed):,} files can be read; of {name}: {why}")
    return Predictions(tuple(items), recognizer.classes, "temperature" in recognizer.facts, failed)


def _segmented(
    recognizer: Recognizer,
    images: Images | NDArray[Any] | Tensor | Source,
    scale: Scale,
    failed: dict[str, str],
    on_progress: ProgressCallback | None,
) -> Iterator[Prediction]:
    """Segment images, one at a time; files that cannot be read are added to `failed`."""
    if isinstance(images, Images | np.ndarray | Tensor):
        for number, pixels in enumerate(_pixels_of(images)):
            mask = segment(recognizer, pixels, scale=scale)
            yield Prediction.of_mask(str(number), mask, recognizer.classes)
        return
    for one in segment_files(recognizer, inputs.find(images), scale=scale, on_progress=on_progress):
        if one.mask is None:
            failed[one.name] = one.failure
        else:
            yield Prediction.of_mask(one.name, one.mask, recognizer.classes)


def _pixels_of(images: Images | NDArray[Any] | Tensor) -> NDArray[Any]:
    """Images in memory as uint8 or uint16 `[n, h, w, c]`."""
    if isinstance(images, Tensor) and images.is_floating_point():
        images = to_uint16(images)
    return images.array if isinstance(images, Images) else np.asarray(images)


class _Batch(NamedTuple):
    """Some images; sizes: the (width, height) of each as it was given."""

    names: list[str]
    pixels: Pixels
    sizes: list[tuple[int, int]]


def _batches(
    recognizer: Recognizer,
    images: Images | NDArray[Any] | Tensor | Source,
    failed: dict[str, str],
    on_progress: ProgressCallback | None,
) -> Iterator[_Batch]:
    """The images, some at a time; files that cannot be read are added to `failed`."""
    if isinstance(images, Images | np.ndarray | Tensor):
        for start in range(0, len(images), AT_ONCE):
            part = images[slice(start, start + AT_ONCE)]
            yield _Batch([str(start + n) for n in range(len(part))], part, [_size_of(part)] * len(part))
        return
    found = inputs.find(images)
    with ThreadPoolExecutor(threads.cores()) as pool:
        for start in range(0, len(found.names), AT_ONCE):
            if on_progress is not None:
                on_progress(start, len(found.names), "Recognizing")
            names = found.names[start : start + AT_ONCE]
            read = list(pool.map(lambda name: _read(found, name, recognizer.reading()), names))
            failed |= {name: one for name, one in zip(names, read, strict=True) if isinstance(one, str)}
            good = [(name, one) for name, one in zip(names, read, strict=True) if not isinstance(one, str)]
            if good:
                sizes = [size for _, (_, size) in good]
                yield _Batch([name for name, _ in good], np.stack([one for _, (one, _) in good]), sizes)


def _size_of(images: Pixels) -> tuple[int, int]:
    """The (width, height) of images in memory, which a tensor of floats has last."""
    shape = images.array.shape if isinstance(images, Images) else images.shape
    channels_first = isinstance(images, Tensor) and images.is_floating_point()
    return (shape[3], shape[2]) if channels_first else (shape[2], shape[1])


def _read(
    found: Inputs, name: str, options: Mapping[str, Any]
) -> tuple[EightBits | DeepPixels, tuple[int, int]] | str:
    """One image as the recognizer takes it and its own size, or why it cannot be read."""
    try:
        content = found.read(name)
        return decode(content, **options), inspect(content).size
    except DataError as error:
        return str(error)
