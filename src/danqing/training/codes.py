"""Images as a tokenizer's codes or latents: written to the cache once, and read from there in batches.

"Codes" means either here: whole numbers of a tokenizer, or the real numbers of an autoencoder.
"""

import contextlib
import json
import math
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import nn

from danqing import atomic, weights
from danqing.data import Augment, Batches, Dataset, caches
from danqing.data.batch import Batch
from danqing.data.cache import default_folder
from danqing.data.degrade import Degradation
from danqing.data.records import digest
from danqing.data.shards.stream import Stream
from danqing.data.tensor_file import TensorFile
from danqing.errors import TrainingError
from danqing.families.abilities import Compresses, Tokenizes
from danqing.families.tokenizers import LatentStatistics
from danqing.nets.grids import grid_of
from danqing.progress import ProgressCallback
from danqing.randomness import derived_seed
from danqing.training import adapting
from danqing.training.config import RunConfig
from danqing.training.grains import grains_of

VERSION = 1
HIDE_ATTRIBUTES = 0.1
"""How often each attribute of an image is hidden in training: users may leave any of them out."""
_PIXELS_AT_ONCE = 2**18
_BLOCK = 16
"""Images of several buckets are encoded in blocks of so many times the images at once."""
_PATIENCE_SECONDS = 0.5
_OTHERS = "Waiting for another process that writes the same codes"

FORMATS: dict[str, np.dtype[Any]] = {
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "F16": np.dtype("<f2"),
}
_LEAST_SHARE = 0.01
"""Of the largest deviation of a channel: a channel that carries nothing is not blown up to variance 1."""


class Encoding(NamedTuple):
    """What a tokenizer makes of images.

    kind: codes are whole numbers below `vocabulary`, latents are real numbers.
    format: of a number in the cache. shape: of the numbers of one image of the tokenizer's own size.
    encode, decode: from images `[n, c, h, w]` to the numbers `[n, ...]`, and back.
    factor: of latents, the sides of a place in pixels; 0 where all images must have the tokenizer's size.
    """

    kind: Literal["codes", "latents"]
    format: str
    shape: tuple[int, int, int]
    encode: Callable[[torch.Tensor], torch.Tensor]
    decode: Callable[[torch.Tensor], torch.Tensor]
    vocabulary: int = 0
    factor: int = 0

    def random(self, images: int) -> "Codes":
        """Return random numbers in place of the codes of a data set, to measure with."""
        rng, shape = np.random.default_rng(0), (1, *self.shape)
        numbers = rng.integers(0, self.vocabulary, shape) if self.vocabulary else rng.normal(size=shape)
        return Codes(lambda places: np.repeat(numbers, len(places), axis=0), images)


def encoding_of(tokenizer: object, reads: type = Tokenizes) -> Encoding:
    """Return what a tokenizer makes of images, as `HasTokenizer.reads` wants it."""
    if reads is Compresses:
        assert isinstance(tokenizer, Compresses)
        shape, factor = tokenizer.latent_shape, tokenizer.factor
        return Encoding("latents", "F16", shape, tokenizer.compress, tokenizer.expand, factor=factor)
    assert isinstance(tokenizer, Tokenizes)
    format = "I16" if tokenizer.vocabulary <= 2**15 else "I32"
    both = tokenizer.tokenize, tokenizer.detokenize
    return Encoding("codes", format, tokenizer.code_shape, *both, vocabulary=tokenizer.vocabulary)


class Codes:
    """The codes of every view of every image, one view after another.

    read: returns the codes at some of these places, `[n, ...]`.
    statistics: of latents.
    path: of their file, if they are in one.
    grids: the rows and columns of the latents of each bucket, of images of several sizes.
    """

    def __init__(
        self,
        read: Callable[[NDArray[np.int64]], NDArray[Any]],
        images: int,
        views: int = 1,
        statistics: LatentStatistics | None = None,
        path: Path | None = None,
        grids: Sequence[tuple[int, int]] = (),
    ) -> None:
        self._read, self.images, self.views, self.statistics = read, images, views, statistics
        self.path, self.grids = path, grids

    @classmethod
    def open(cls, path: Path, images: int) -> Self:
        """Open codes in a file.

        They are read when they are needed, so that memory stays flat.
        """
        file = TensorFile(path)
        count, *shape = file.shape("codes")
        format = FORMATS[file.dtype("codes")]
        return cls(
            lambda places: file.rows("codes", places).view(format).reshape(-1, *shape),
            images,
            count // images,
            Moments.read(file, shape[0]) if file.dtype("codes") == "F16" else None,
            path,
            _read_grids(file),
        )

    def at(self, indices: NDArray[np.int64], views: NDArray[np.int64], bucket: int = 0) -> torch.Tensor:
        """Return images' codes, each in one of its views.

        The result is int64 `[n, rows, columns, depth]`, or float32 `[n, channels, rows, columns]`.
        bucket: of all of these images.
        """
        found = self._read(views * self.images + indices)
        if self.grids:
            rows, columns = self.grids[bucket]
            found = found[..., : rows * columns].reshape(*found.shape[:2], rows, columns)
        return torch.from_numpy(found.astype(np.int64 if found.dtype.kind == "i" else np.float32))


class CodedBatches(Batches):
    """The images of `Batches` as codes, in the same order.

    Epoch e of an image reads view e modulo the number of views.
    """

    def __init__(self, dataset: Dataset, codes: Codes, **options: Any) -> None:
        super().__init__(dataset, **options, prefetch=False)
        self.codes = codes

    def at(self, images_seen: int, rows: slice | None = None) -> Batch:
        """Return the batch after `images_seen` images, on the device.

        Its images are empty, `[n, 0, 0, 0]`.
        rows: as of `Batches.at`.
        """
        self.fetch(images_seen)
        rows = self.rows if rows is None else rows
        drawn = self._order.at(images_seen)
        indices, views = drawn.indices[rows], drawn.epochs[rows] % self.codes.views
        bucket = int(self.dataset.buckets_at(indices[:1])[0]) if self.codes.grids else 0
        codes = self.codes.at(indices, views, bucket)
        images = torch.empty(len(indices), 0, 0, 0, device=self.device)
        condition = self.condition(images_seen, rows).to(self.device)
        return Batch(images, condition, codes.to(self.device, non_blocking=True))


def augmentation(config: RunConfig, dataset: Dataset) -> Augment:
    """Return a run's augmentation: as configured, or as suits the data.

    By default, images are not mirrored if their captions are read, since these may say "on the left".
    """
    if config.data.augment is not None:
        return config.data.augment
    advice = dataset.info.augment
    return advice.model_copy(update={"flip": False}) if config.model.reads_text else advice


def batch_options(config: RunConfig, dataset: Dataset, device: torch.device) -> dict[str, Any]:
    """Return the options of a run's batches, of images or of codes.

    Where several processes compute a run, each reads its own rows.
    """
    grains = grains_of(config)
    return {
        "rows": None if grains is None else grains.rows,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "device": device,
        "use_labels": bool(config.model.labels),
        "use_texts": config.model.reads_text,
        "hide_attributes": HIDE_ATTRIBUTES,
        "degrade": Degradation(config.data.degrade) if config.data.degrade else None,
        "told": adapting.told(config, dataset),
    }


class Views(NamedTuple):
    """The augmentations under which each image is encoded.

    How a view changes an image follows from the seed, the image and the view alone.
    """

    augment: Augment
    seed: int
    number: int

    def of(self, dataset: Dataset, view: int, rows: NDArray[np.int64]) -> torch.Tensor:
        """Return one view of images of one size, float32 `[n, c, h, w]` in [-1, 1].

        rows: ascending; consecutive if there are no buckets.
        """
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
    tokenizer: nn.Module,
    dataset: Dataset,
    views: Views,
    *,
    reads: type = Tokenizes,
    device: torch.device,
    on_progress: ProgressCallback,
    stopped: Callable[[], bool] = lambda: False,
) -> Codes | None:
    """Return the codes of a data set, from the cache if possible.

    They are cached by the tokenizer's weights, the images and the views.

    reads: whether codes or latents are wanted, as in `HasTokenizer`.
    stopped: asked between parts; if it is true, the result is None.

    Raises TrainingError if the cache cannot be written.
    """
    if dataset.stream is not None and dataset.stream.codes is not None:
        return streamed(dataset, dataset.stream)
    encoding = encoding_of(tokenizer.eval().to(device), reads)
    kind = encoding.kind
    key = digest(
        f"{kind} {VERSION}", weights.digest(tokenizer.state_dict()), dataset.fingerprint, views.key()
    )[:32]
    folder = default_folder() / kind
    path = folder / f"{key}.safetensors"
    try:
        write_once(path, _encoded(encoding, dataset, views, device), on_progress, stopped)
        return Codes.open(path, len(dataset))
    except _StoppedError:
        return None
    except OSError as error:
        raise TrainingError(
            f"The {kind} cannot be written to {folder} ({error.strerror or error}): free some space there, "
            "or set DANQING_CACHE to another folder."
        ) from error


def streamed(dataset: Dataset, stream: Stream) -> Codes:
    """Return codes that are read from shards, in one view."""
    about = stream.codes
    assert about is not None
    statistics = None
    if about.kind == "latents":
        statistics = LatentStatistics(mean=about.mean, deviation=about.deviation)
    return Codes(stream.codes_at, len(dataset), statistics=statistics)


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


def write_once(
    path: Path, encoded: "Encoded", on_progress: ProgressCallback, stopped: Callable[[], bool]
) -> None:
    """Write a file of the cache if it is missing.

    One process computes it while others wait.
    stopped: as of `ensure`; if it is true, _StoppedError is raised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_suffix(".lock")
    with _alone(lock, lambda: on_progress(0, encoded.shape[0], _OTHERS), stopped):
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of processes that were killed
            leftover.unlink(missing_ok=True)
        if not path.exists():
            _write(path, encoded, on_progress, stopped)
        atomic.touch(lock)


class Encoded(NamedTuple):
    """Numbers to be cached, while they are computed: `shape` is that of all `parts` together.

    name: of the data. kind: what they are, and the folder of the cache. format: a key of `FORMATS`.
    grids: the rows and columns of each bucket, of images of several sizes. Their latents, of `places` in all,
        are then rows of the same length, which end with zeros.
    """

    name: str
    kind: str
    format: str
    shape: tuple[int, int, int, int]
    parts: Iterator[torch.Tensor]
    grids: Sequence[tuple[int, int]] = ()
    places: int = 0


def seconds_to_encode(encoding: Encoding, dataset: Dataset, views: Views, device: torch.device) -> float:
    """Measure how long it will take to encode all views of a data set.

    Images are encoded once without counting, and once more.
    """
    at_once, count, spent = _at_once(dataset), len(dataset), 0.0
    (rows,) = np.nonzero(dataset.buckets_at(np.arange(min(count, _BLOCK * at_once))) == 0)
    rows = rows[:at_once] if len(rows) else np.zeros(1, np.int64)
    with torch.inference_mode():
        for _ in range(2):
            started = time.perf_counter()
            images = views.of(dataset, 0, rows)
            encoding.encode(images[torch.arange(at_once) % len(images)].to(device)).cpu()
            spent = time.perf_counter() - started
    return spent * views.number * math.ceil(count / at_once)


def _at_once(dataset: Dataset) -> int:
    """Return how many images are encoded at once.

    It is always the same number, since a product of another size may round differently.
    """
    width, height = dataset.size
    return max(1, min(256, _PIXELS_AT_ONCE // (width * height)))


def _encoded(encoding: Encoding, dataset: Dataset, views: Views, device: torch.device) -> Encoded:
    count = len(dataset)
    at_once = _at_once(dataset)

    def encoded(view: int, rows: NDArray[np.int64]) -> torch.Tensor:
        images = views.of(dataset, view, rows)
        whole = images[torch.arange(at_once) % len(images)]
        return encoding.encode(whole.to(device))[: len(images)].cpu()

    @torch.inference_mode()
    def parts() -> Iterator[torch.Tensor]:
        for view in range(views.number):
            for start in range(0, count, at_once):
                yield encoded(view, np.arange(start, min(start + at_once, count)))

    if len(dataset.sizes) == 1:
        shape = (views.number * count, *encoding.shape)
        return Encoded(dataset.info.name, encoding.kind, encoding.format, shape, parts())
    assert encoding.factor  # a family that reads codes takes one size
    grids = [grid_of((high, wide), encoding.factor) for wide, high in dataset.sizes]
    longest, buckets = max(map(math.prod, grids)), dataset.buckets_at(np.arange(count))

    @torch.inference_mode()
    def padded() -> Iterator[torch.Tensor]:
        """Encode images bucket by bucket within blocks of the data, since an encoder takes one size."""
        for view in range(views.number):
            for start in range(0, count, _BLOCK * at_once):
                block = np.arange(start, min(start + _BLOCK * at_once, count))
                found = torch.zeros(len(block), encoding.shape[0], 1, longest)
                for bucket, (rows, columns) in enumerate(grids):
                    members = block[buckets[block] == bucket]
                    for first in range(0, len(members), at_once):
                        some = members[first : first + at_once]
                        latents = encoded(view, some).flatten(2)
                        found[torch.from_numpy(some - start), :, 0, : rows * columns] = latents
                yield found

    return Encoded(
        dataset.info.name,
        encoding.kind,
        encoding.format,
        (views.number * count, encoding.shape[0], 1, longest),
        padded(),
        grids,
        views.number * sum(math.prod(grids[bucket]) for bucket in buckets.tolist()),
    )


def _read_grids(file: TensorFile) -> list[tuple[int, int]]:
    """Return the rows and columns of each bucket; nothing if there are no buckets."""
    if "grids" not in file:
        return []
    found = np.frombuffer(file.part("grids", 0, 8 * file.shape("grids")[0]), "<i4").reshape(-1, 2)
    return [(rows, columns) for rows, columns in found.tolist()]


def _write(path: Path, encoded: Encoded, on_progress: ProgressCallback, stopped: Callable[[], bool]) -> None:
    format: np.dtype[Any] = FORMATS[encoded.format]
    end = int(np.prod(encoded.shape)) * format.itemsize
    layout: dict[str, dict[str, Any]] = {
        "codes": {"dtype": encoded.format, "shape": encoded.shape, "data_offsets": [0, end]}
    }
    moments = Moments(encoded.shape[1], encoded.places) if encoded.kind == "latents" else None
    grids = np.array(encoded.grids, "<i4").tobytes()
    if moments is not None:
        layout |= moments.layout(end)
        end = layout["moments"]["data_offsets"][1]
    if grids:
        shape = [len(encoded.grids), 2]
        layout["grids"] = {"dtype": "I32", "shape": shape, "data_offsets": [end, end + len(grids)]}
    header = json.dumps({**caches.metadata(encoded.name), **layout}).encode()
    header += b" " * (-len(header) % 8)
    with atomic.replacing(path) as file:
        file.write(struct.pack("<Q", len(header)) + header)
        done = 0
        for part in encoded.parts:
            if stopped():
                raise _StoppedError
            numbers = part.numpy().astype(format)
            file.write(numbers.tobytes())
            if moments is not None:
                moments.add(numbers)
            done += len(part)
            on_progress(done, encoded.shape[0], f"Writing {encoded.kind}")
        if moments is not None:
            file.write(moments.to_bytes())
        file.write(grids)


class Moments:
    """Sums over latents, for the mean and the deviation of each channel, which stand in their file.

    places: how many there are in all, where zeros that do not count are added too.
    """

    def __init__(self, channels: int, places: int = 0) -> None:
        self._count, self._sums, self._places = 0, np.zeros((2, channels)), places

    def add(self, latents: NDArray[np.float16]) -> None:
        """Count latents `[n, channels, rows, columns]`."""
        values = latents.astype(np.float64)
        self._sums += np.stack([values.sum((0, 2, 3)), np.square(values).sum((0, 2, 3))])
        self._count += latents.shape[0] * latents.shape[2] * latents.shape[3]

    def _values(self) -> NDArray[np.float64]:
        mean, square = self._sums / max(1, self._places or self._count)
        deviation = np.sqrt(np.maximum(square - mean**2, 0))
        least = max(_LEAST_SHARE * deviation.max(), 1e-6)
        return np.stack([mean, np.maximum(deviation, least)])

    def to_bytes(self) -> bytes:
        return self._values().astype("<f8").tobytes()

    def statistics(self) -> LatentStatistics:
        """Return the mean and the deviation of each channel."""
        mean, deviation = self._values().tolist()
        return LatentStatistics(mean=mean, deviation=deviation)

    def state(self) -> dict[str, Any]:
        """Return the sums so far, as plain values."""
        return {"count": self._count, "sums": self._sums.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self._count, self._sums = int(state["count"]), np.array(state["sums"])

    def layout(self, start: int) -> dict[str, dict[str, Any]]:
        """Return how the header of a file describes the moments, which begin at `start`."""
        shape = list(self._sums.shape)
        return {
            "moments": {"dtype": "F64", "shape": shape, "data_offsets": [start, start + self._sums.nbytes]}
        }

    @staticmethod
    def read(file: TensorFile, channels: int) -> LatentStatistics:
        """Return the statistics in a file of latents."""
        found = np.frombuffer(file.part("moments", 0, 16 * channels), "<f8").reshape(2, channels)
        mean, deviation = found.tolist()
        return LatentStatistics(mean=mean, deviation=deviation)


class _StoppedError(Exception):
    """The user has requested a stop."""
