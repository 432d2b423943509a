"""Images that a model has generated, in a file: any number of them takes no more memory."""

import hashlib
import itertools
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.data import Dataset
from danqing.data.cache import default_folder
from danqing.data.degrade import Degradation, source_images
from danqing.errors import EvaluationError
from danqing.evaluation.contract import ImageSet
from danqing.evaluation.image_sets import batch_size_for, index_batches
from danqing.evaluation.on_nodes import Drawn, Nodes, sample
from danqing.evaluation.real_conditions import attributes_for, labels_for
from danqing.families.abilities import Translates
from danqing.images import Images, Pixels, to_uint8
from danqing.model.model import Model
from danqing.precision import exact
from danqing.progress import ProgressCallback
from danqing.randomness import derived_seed
from danqing.requested_attributes import OutsideTrainingWarning


class GeneratedImages:
    """An `ImageSet` in a temporary file, which is deleted with this object.

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
        """Return the images at `indices`, uint8 `[n, h, w, c]`."""
        result = np.empty((len(indices), *self._shape[1:]), np.uint8)
        ends = [*(np.flatnonzero(np.diff(indices) != 1) + 1), len(indices)]  # neighbours are read at once
        with self._lock:
            for start, end in itertools.pairwise([0, *ends] if len(indices) else []):
                self._file.seek(int(indices[start]) * int(np.prod(self._shape[1:])))
                if self._file.readinto(result[start:end].data.cast("B")) != result[start:end].nbytes:  # type: ignore[attr-defined]
                    raise EvaluationError("The generated images were cut short on disk: evaluate again.")
        return torch.from_numpy(result)

    def labels_at(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return their labels as indices into `label_names`, -1 for none."""
        return self._labels[indices]

    def _digest(self) -> str:
        hasher = hashlib.sha256(f"{self._shape} {self._names}".encode() + self._labels.tobytes())
        for rows in index_batches(len(self), batch_size_for(self.size)):
            hasher.update(self.images(rows).numpy().data)
        return hasher.hexdigest()


def generate_images(
    model: Model,
    n: int,
    *,
    seed: int = 0,
    prompts: Sequence[str] | None = None,
    nodes: Nodes | None = None,
    on_progress: ProgressCallback | None = None,
) -> GeneratedImages:
    """Generate the images of `model.sample(n, seed=seed, prompt=prompts)` into a file, without marks.

    prompts: one per image, for a model that reads text. nodes: where batches are sampled; None for here.

    Raises EvaluationError where there is no room.
    """
    config = model.family.config
    seeds = [derived_seed(seed, "image", number) for number in range(n)]
    labels = model.drawn_labels(seeds)

    def batches() -> Iterator[Drawn]:
        for rows in index_batches(n, batch_size_for((config.width, config.height), model.family.chunk)):
            start, end = int(rows[0]), int(rows[-1]) + 1
            label = labels[start:end].tolist() if model.labels else None
            yield Drawn(seeds[start:end], label, None if prompts is None else prompts[start:end])

    def parts() -> Iterator[Pixels]:
        done, drawn = 0, batches()
        arrays = (sample(model, batch) for batch in drawn) if nodes is None else nodes.samples(model, drawn)
        for array in arrays:
            yield array
            done += len(array)
            if on_progress:
                on_progress(done, n, "Sampling")

    return store_images(parts(), (n, config.height, config.width, config.channels), labels, model.labels)


def reconstruct(
    model: Model,
    images: ImageSet,
    rows: NDArray[np.int64],
    *,
    on_progress: ProgressCallback | None = None,
) -> GeneratedImages:
    """Reconstruct the images at `rows` with a model, or translate their sources, into a file."""
    stage = "Translating" if isinstance(model.family, Translates) else "Reconstructing"

    def parts() -> Iterator[Pixels]:
        for part in index_batches(len(rows), batch_size_for(images.size, model.family.chunk)):
            if on_progress:
                on_progress(int(part[0]), len(rows), stage)
            with exact():
                yield remade(model, images, rows[part]).array

    (width, height), none = images.size, np.full(len(rows), -1, np.int64)
    return store_images(parts(), (len(rows), height, width, images.channels), none, ())


def remade(model: Model, images: ImageSet, rows: NDArray[np.int64]) -> Images:
    """Return the images at `rows` as a model makes them again, told of what they show.

    A model of pairs makes them from their source images, any other from their latents.
    Raises EvaluationError where there are no source images.
    """
    known: dict[str, Any] = {
        "label": labels_for(model, images, rows),
        "attributes": attributes_for(model, images, rows),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutsideTrainingWarning)  # these images are as they are
        if isinstance(model.family, Translates):
            return model.translate(sources(model, images, rows), **known, seeds=rows.tolist())
        return model.reconstruct(Images(images.images(rows)), **known)


def sources(model: Model, images: ImageSet, rows: NDArray[np.int64]) -> Images:
    """Return the source images of the images at `rows`, for a model that translates.

    They belong to them, unless they are of another domain.

    Raises EvaluationError where there are none.
    """
    steps = model.facts.get("data", {}).get("prepared", {}).get("degrade")
    if not isinstance(images, Dataset) or not (steps or images.has_sources):
        raise EvaluationError(
            "This model turns one image into another: compare it with a data set that has source images."
        )
    found = source_images(images, rows.tolist(), Degradation(steps) if steps else None, seed=0)
    return Images(to_uint8(found))


def store_images(
    parts: Iterable[Pixels], shape: tuple[int, int, int, int], labels: NDArray[np.int64], names: Sequence[str]
) -> GeneratedImages:
    """Write images to a temporary file.

    parts: the images, some at a time.
    shape: `[n, h, w, c]` of all of them.

    Raises EvaluationError.
    """
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
    return GeneratedImages(file, shape, labels, names)
