"""What a model has painted, in a file on disk: as many images as are asked for take no more memory."""

import hashlib
import itertools
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.data.cache import default_folder
from danqing.errors import EvaluationError
from danqing.evaluation.contract import ImageSet
from danqing.evaluation.resize import images_at_once
from danqing.images import Images, Pixels
from danqing.model.model import Model
from danqing.precision import exact
from danqing.progress import ProgressCallback
from danqing.randomness import derived_seed

_MOST_AT_ONCE = 256


class Painted:
    """Images of one size in a temporary file that goes with this object: an `ImageSet`.

    labels: for each image the index of its label, or -1. fingerprint: follows from all pixels and labels.
    """

    def __init__(
        self,
        file: BinaryIO,
        shape: tuple[int, int, int, int],
        labels: NDArray[np.int64],
        names: Sequence[str],
    ) -> None:
        self._file, self._shape, self._labels = file, shape, labels
        self._names = tuple(names)
        self._lock = threading.Lock()
        self.fingerprint = self._digest()

    def __len__(self) -> int:
        return self._shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self._shape[2], self._shape[1]

    @property
    def channels(self) -> int:
        """1 grey, 2 grey and alpha, 3 RGB, 4 RGBA."""
        return self._shape[3]

    @property
    def label_names(self) -> tuple[str, ...]:
        """What each label is called; empty where the model knows none."""
        return self._names

    def images(self, indices: NDArray[np.int64]) -> Tensor:
        """The images at `indices`, uint8 `[n, h, w, c]`."""
        result = np.empty((len(indices), *self._shape[1:]), np.uint8)
        ends = [*(np.flatnonzero(np.diff(indices) != 1) + 1), len(indices)]  # neighbours are read at once
        with self._lock:
            for start, end in itertools.pairwise([0, *ends] if len(indices) else []):
                self._file.seek(int(indices[start]) * int(np.prod(self._shape[1:])))
                if self._file.readinto(result[start:end].data.cast("B")) != result[start:end].nbytes:  # type: ignore[attr-defined]
                    raise EvaluationError("The painted images were cut short on disk: evaluate again.")
        return torch.from_numpy(result)

    def labels_at(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Their labels as indices into `label_names`, -1 for none."""
        return self._labels[indices]

    def _digest(self) -> str:
        hasher = hashlib.sha256(f"{self._shape} {self._names}".encode() + self._labels.tobytes())
        for rows in chunks(len(self), at_once(self.size)):
            hasher.update(self.images(rows).numpy().data)
        return hasher.hexdigest()


def paint(
    model: Model,
    n: int,
    *,
    seed: int = 0,
    prompts: Sequence[str] | None = None,
    on_progress: ProgressCallback | None = None,
) -> Painted:
    """The images of `model.sample(n, seed=seed, prompt=prompts)`, painted chunk by chunk onto the disk.

    prompts: one per image, for a model that reads text. Raises EvaluationError where there is no room.
    """
    config = model.family.config
    seeds = [derived_seed(seed, "image", number) for number in range(n)]
    labels = model.drawn_labels(seeds)

    def parts() -> Iterator[Pixels]:
        for rows in chunks(n, at_once((config.width, config.height), model.family.chunk)):
            start, end = int(rows[0]), int(rows[-1]) + 1
            label = labels[start:end].tolist() if model.labels else None
            with exact():
                painted = model.sample(
                    end - start,
                    seeds=seeds[start:end],
                    label=label,
                    prompt=None if prompts is None else prompts[start:end],
                )
            yield painted.array
            if on_progress:
                on_progress(end, n, "Painting")

    return store(parts(), (n, config.height, config.width, config.channels), labels, model.labels)


def reconstruct(
    model: Model,
    images: ImageSet,
    rows: NDArray[np.int64],
    *,
    on_progress: ProgressCallback | None = None,
) -> Painted:
    """What a model makes of the images at `rows`: through its latents and back, onto the disk."""
    labels = relabelled(images, model.labels)[rows].tolist() if model.labels else None

    def parts() -> Iterator[Pixels]:
        for part in chunks(len(rows), at_once(images.size, model.family.chunk)):
            if on_progress:
                on_progress(int(part[0]), len(rows), "Reconstructing")
            label = None if labels is None else labels[part[0] : part[-1] + 1]
            with exact():
                again = model.reconstruct(Images(images.images(rows[part])), label)
            yield again.array

    (width, height), none = images.size, np.full(len(rows), -1, np.int64)
    return store(parts(), (len(rows), height, width, images.channels), none, ())


def store(
    parts: Iterable[Pixels], shape: tuple[int, int, int, int], labels: NDArray[np.int64], names: Sequence[str]
) -> Painted:
    """Images of the `shape` `[n, h, w, c]`, given some at a time, on the disk; raises EvaluationError."""
    folder = default_folder()  # not the system's, which may lie in memory
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with the object that reads it
        for part in parts:
            file.write(part.data)
        file.flush()
    except OSError as error:
        raise EvaluationError(
            f"{shape[0]:,} images cannot be kept in {folder} ({error.strerror or error}): make room there, "
            "or set DANQING_CACHE to another folder."
        ) from error
    return Painted(file, shape, labels, names)


def at_once(size: tuple[int, int], least: int = 1) -> int:
    """How many images of a size (width, height) to hold at once, fewer of large ones; least: how many a model
    treats at once in any case.
    """
    return max(least, min(_MOST_AT_ONCE, images_at_once(size)))


def chunks(n: int, size: int = _MOST_AT_ONCE) -> Iterator[NDArray[np.int64]]:
    """The numbers from 0 to n - 1, `size` at a time."""
    for start in range(0, n, size):
        yield np.arange(start, min(start + size, n))


def labels_of(images: ImageSet) -> NDArray[np.int64]:
    """Every image's label, `[n]`."""
    return images.labels_at(np.arange(len(images)))


def relabelled(images: ImageSet, names: Sequence[str]) -> NDArray[np.int64]:
    """Every image's label as an index into other `names`, -1 where it is none of them: `[n]`."""
    places = {name: place for place, name in enumerate(names)}
    table = np.array([*(places.get(name, -1) for name in images.label_names), -1], np.int64)
    renamed: NDArray[np.int64] = table[labels_of(images)]
    return renamed


def spread(count: int, n: int) -> NDArray[np.int64]:
    """Which of `count` things `n` images stand for: each as often as the others, or evenly chosen of many."""
    return np.arange(n) * count // n if n < count else np.arange(n) % count
