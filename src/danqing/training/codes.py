"""Images as a tokenizer's codes: written to the cache once, and read from there in batches."""

import contextlib
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from danqing import atomic, weights
from danqing.data import Augment, Batches, Dataset, caches
from danqing.data.batch import Batch
from danqing.data.cache import default_folder
from danqing.data.dataset import TensorFile
from danqing.data.degrade import Degradation
from danqing.data.records import digest
from danqing.errors import TrainingError
from danqing.families.base import Family, Tokenizes
from danqing.progress import ProgressCallback
from danqing.randomness import derived_seed
from danqing.training.config import RunConfig

VERSION = 1
HIDE_ATTRIBUTES = 0.1
"""How often each attribute of an image is hidden in training: users may leave any of them out."""
_PIXELS_AT_ONCE = 2**18
_PATIENCE_SECONDS = 0.5
_OTHERS = "Waiting for another process that writes the same codes"

_FORMATS: dict[str, np.dtype[Any]] = {"I16": np.dtype("<i2"), "I32": np.dtype("<i4")}


class Codes:
    """The codes of every view of every image, one view after another.

    read: returns the codes at some of these places, `[n, rows, columns, depth]`.
    """

    def __init__(
        self, read: Callable[[NDArray[np.int64]], NDArray[np.integer[Any]]], images: int, views: int = 1
    ) -> None:
        self._read, self.images, self.views = read, images, views

    @classmethod
    def open(cls, path: Path, images: int) -> Self:
        """Open codes in a file.

        They are read when they are needed, so that memory stays flat.
        """
        file = TensorFile(path)
        count, *shape = file.shape("codes")
        format = _FORMATS[file.dtype("codes")]
        return cls(
            lambda places: file.rows("codes", places).view(format).reshape(-1, *shape),
            images,
            count // images,
        )

    def at(self, indices: NDArray[np.int64], views: NDArray[np.int64]) -> torch.Tensor:
        """Return images' codes, each in one of its views.

        The result is int64 `[n, rows, columns, depth]`.
        """
        return torch.from_numpy(self._read(views * self.images + indices).astype(np.int64))


class CodedBatches(Batches):
    """The images of `Batches` as codes, in the same order.

    Epoch e reads view e modulo the number of views.
    """

    def __init__(self, dataset: Dataset, codes: Codes, **options: Any) -> None:
        super().__init__(dataset, **options, prefetch=False)
        self.codes = codes

    def at(self, images_seen: int) -> Batch:
        """Return the batch after `images_seen` images, on the device.

        Its images are empty, `[n, 0, 0, 0]`.
        """
        indices = self.indices(images_seen)
        epochs = np.arange(images_seen, images_seen + self.batch_size) // len(self.dataset)
        codes = self.codes.at(indices, epochs % self.codes.views)
        images = torch.empty(len(indices), 0, 0, 0, device=self.device)
        condition = self.condition(images_seen).to(self.device)
        return Batch(images, condition, codes.to(self.device, non_blocking=True))


def augmentation(config: RunConfig, dataset: Dataset) -> Augment:
    """Return a run's augmentation: as configured, or as suits the data.

    By default, images are not mirrored if their captions are read, since these may say "on the left".
    """
    if config.data.augment is not None:
        return config.data.augment
    advice = dataset.info.augment
    return advice.model_copy(update={"flip": False}) if config.model.reads_text else advice


def batch_options(config: RunConfig, device: torch.device) -> dict[str, Any]:
    """Return the options of a run's batches, of images or of codes."""
    return {
        "batch_size": config.batch_size,
        "seed": config.seed,
        "device": device,
        "use_labels": bool(config.model.labels),
        "use_texts": config.model.reads_text,
        "hide_attributes": HIDE_ATTRIBUTES,
        "degrade": Degradation(config.data.degrade) if config.data.degrade else None,
    }


class Views(NamedTuple):
    """The augmentations under which each image is encoded.

    How a view changes an image follows from the seed, the image and the view alone.
    """

    augment: Augment
    seed: int
    number: int

    def of(self, dataset: Dataset, view: int, rows: NDArray[np.int64]) -> torch.Tensor:
        """Return one view of consecutive images, float32 `[n, c, h, w]` in [-1, 1]."""
        return self.augment.apply(
            dataset.full_depth(rows), derived_seed(self.seed, "view", view), images_seen=int(rows[0])
        )

    def key(self) -> str:
        """Return what distinguishes these views from others.

        Without augmentation, the seed has no effect.
        """
        return "" if self.augment.is_off else f"{self.augment.model_dump_json()} {self.seed} {self.number}"


def views_of(augment: Augment, seed: int, count: int) -> Views:
    """Return `count` views, or one if `augment` changes nothing."""
    return Views(augment, seed, 1 if augment.is_off else count)


def ensure(
    tokenizer: Family,
    dataset: Dataset,
    views: Views,
    *,
    device: torch.device,
    on_progress: ProgressCallback,
    stopped: Callable[[], bool] = lambda: False,
) -> Codes | None:
    """Return the codes of a data set, from the cache if possible.

    They are cached by the tokenizer's weights, the images and the views.

    stopped: asked between parts; if it is true, the result is None.

    Raises TrainingError if the cache cannot be written.
    """
    key = digest(
        f"codes {VERSION}", weights.digest(tokenizer.state_dict()), dataset.fingerprint, views.key()
    )[:32]
    folder = default_folder() / "codes"
    path = folder / f"{key}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / f"{key}.lock", lambda: on_progress(0, len(dataset), _OTHERS), stopped):
            for leftover in folder.glob(f".{path.name}.*.tmp"):  # of processes that were killed
                leftover.unlink(missing_ok=True)
            if not path.exists():
                _write(path, _encoded(tokenizer.to(device), dataset, views, device), on_progress, stopped)
            atomic.touch(folder / f"{key}.lock")
            return Codes.open(path, len(dataset))
    except _StoppedError:
        return None
    except OSError as error:
        raise TrainingError(
            f"The codes cannot be written to {folder} ({error.strerror or error}): free some space there, or "
            "set DANQING_CACHE to another folder."
        ) from error


@contextlib.contextmanager
def _alone(path: Path, on_wait: Callable[[], None], stopped: Callable[[], bool]) -> Iterator[None]:
    """Hold a lock. While another process has it, call `on_wait` and stop if requested."""
    lock = FileLock(path)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=_PATIENCE_SECONDS)
        except Timeout:
            on_wait()
            if stopped():
                raise _StoppedError from None
    try:
        yield
    finally:
        lock.release()


class _Encoded(NamedTuple):
    """The codes of a data set while they are computed: `shape` is that of all `parts` together."""

    name: str
    format: str
    shape: tuple[int, int, int, int]
    parts: Iterator[torch.Tensor]


def _encoded(tokenizer: Family, dataset: Dataset, views: Views, device: torch.device) -> _Encoded:
    assert isinstance(tokenizer, Tokenizes)
    count, (width, height) = len(dataset), dataset.size
    # Always the same number at once, since a product of another size may round differently.
    at_once = max(1, min(256, _PIXELS_AT_ONCE // (width * height)))

    @torch.inference_mode()
    def parts() -> Iterator[torch.Tensor]:
        for view in range(views.number):
            for start in range(0, count, at_once):
                images = views.of(dataset, view, np.arange(start, min(start + at_once, count)))
                whole = images[torch.arange(at_once) % len(images)]
                yield tokenizer.tokenize(whole.to(device))[: len(images)].cpu()

    tokenizer.eval()
    format = "I16" if tokenizer.vocabulary <= 2**15 else "I32"
    return _Encoded(dataset.info.name, format, (views.number * count, *tokenizer.code_shape), parts())


def _write(path: Path, encoded: _Encoded, on_progress: ProgressCallback, stopped: Callable[[], bool]) -> None:
    format: np.dtype[Any] = _FORMATS[encoded.format]
    size = int(np.prod(encoded.shape)) * format.itemsize
    tensor = {"dtype": encoded.format, "shape": encoded.shape, "data_offsets": [0, size]}
    header = json.dumps({**caches.metadata(encoded.name), "codes": tensor}).encode()
    header += b" " * (-len(header) % 8)
    with atomic.replacing(path) as file:
        file.write(struct.pack("<Q", len(header)) + header)
        done = 0
        for part in encoded.parts:
            if stopped():
                raise _StoppedError
            file.write(part.numpy().astype(format).tobytes())
            done += len(part)
            on_progress(done, encoded.shape[0], "Writing codes")


class _StoppedError(Exception):
    """The user has requested a stop."""
