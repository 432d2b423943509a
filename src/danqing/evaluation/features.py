"""Features of any number of images: computed once, kept on disk, and read back slice by slice."""

import io
import json
import struct
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import filelock
import numpy as np
import torch
from torch import Tensor

from danqing import atomic
from danqing.data import Dataset, caches
from danqing.data.cache import default_folder
from danqing.data.records import digest
from danqing.errors import EvaluationError
from danqing.evaluation.contract import FeatureNetwork, ImageSet
from danqing.evaluation.image_sets import index_batches
from danqing.evaluation.networks.module import UserModule
from danqing.evaluation.on_nodes import Nodes
from danqing.evaluation.resize import images_at_once
from danqing.evaluation.scores import FeatureInfo
from danqing.progress import ProgressCallback

VERSION = 1
"""Part of a cached file's name; raised when the same network would give other features than before."""
_AT_ONCE = 256


class Features:
    """Feature vectors float32 `[n, d]` in a file.

    `features[start:stop]` reads some of them as a tensor.

    Nothing is mapped or held, so that memory stays flat in n. The file is closed with the object; one that
    was not to be kept has no name and goes with it.
    """

    def __init__(self, file: IO[bytes], start: int, shape: tuple[int, int], info: FeatureInfo) -> None:
        self.shape, self.info = shape, info
        self._file, self._start = cast(io.BufferedReader, file), start
        weakref.finalize(self, file.close)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice, /) -> Tensor:
        first, last, step = rows.indices(len(self))
        if step != 1:
            raise ValueError("features are read in their order, without gaps")
        found = np.empty((max(0, last - first), self.shape[1]), "<f4")
        place = self._start + first * self.shape[1] * found.itemsize
        unread = found.reshape(-1).view(np.uint8).data
        with self._lock:
            self._file.seek(place)
            while unread:  # one call reads 2 GiB at most
                count = self._file.readinto(unread)
                if not count:
                    raise EvaluationError("A file of features ends too early: delete it, and evaluate again.")
                unread = unread[count:]
        return torch.from_numpy(found)

    def __repr__(self) -> str:
        return f"Features({self.shape[0]}x{self.shape[1]} of {self.info.name})"


def extract(
    images: ImageSet,
    network: FeatureNetwork,
    *,
    keep: bool,
    nodes: Nodes | None = None,
    on_progress: ProgressCallback | None = None,
) -> Features:
    """Compute the features of all images, in their order.

    nodes: where batches are computed; None for here.

    `keep=True` keeps them in the folder for caches, under all that they follow from, and finds them there the
    next time: meant for reference sets. Two processes that ask at once compute them once, and one that is
    killed leaves nothing that passes for a result. Those of a user's own module are never kept, as no
    fingerprint tells what its code does. What is not kept needs room on the same disk for a while. Raises
    EvaluationError.
    """
    info = feature_info(network)
    folder = default_folder() / "features"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not keep or isinstance(network, UserModule):
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with the object
            return Features(file, *_write(file, images, network, nodes, on_progress), info)
        key = digest(f"features {VERSION}", images.fingerprint, info.model_dump_json())[:32]
        path = folder / f"{key}.safetensors"
        with filelock.FileLock(folder / f"{key}.lock"):
            found = _open(path, len(images), info)
            if found is None:
                for leftover in folder.glob(f".{path.name}.*.tmp"):
                    leftover.unlink(missing_ok=True)
                with atomic.replacing(path) as target:
                    _write(target, images, network, nodes, on_progress)
                found = _open(path, len(images), info)
            atomic.touch(folder / f"{key}.lock")
        assert found is not None
        return found
    except OSError as error:
        raise EvaluationError(
            f"Features cannot be written to {folder} ({error.strerror or error}): make room there, or set "
            "DANQING_CACHE to another folder."
        ) from error


def feature_info(network: FeatureNetwork) -> FeatureInfo:
    """Return what a score says about its feature network."""
    return FeatureInfo(
        name=network.name,
        sha256=network.sha256,
        resizer=network.resizer,
        normalization=network.normalization,
        precision=network.precision,
    )


def _write(
    file: IO[bytes],
    images: ImageSet,
    network: FeatureNetwork,
    nodes: Nodes | None,
    on_progress: ProgressCallback | None,
) -> tuple[int, tuple[int, int]]:
    """Write a safetensors file; returns where its rows begin, and the shape of the features."""
    total, message = len(images), f"Features of {network.name}"
    name = images.info.name if isinstance(images, Dataset) else ""
    start_of_rows = done = 0
    batches = index_batches(total, min(_AT_ONCE, images_at_once(images.size)))
    shape = (total, network.dimensions)
    found: Iterator[Tensor]
    if nodes is None:
        found = (network.features(images.images(rows)) for rows in batches)
    else:
        found = nodes.features(network, images, batches)
    for rows in found:
        if done == 0:
            shape = (total, rows.shape[1])
            start_of_rows = file.write(_header(shape, name, network.name))
        file.write(rows.contiguous().numpy().astype("<f4", copy=False).data.cast("B"))
        done += len(rows)
        if on_progress:
            on_progress(done, total, message)
    if not total:
        start_of_rows = file.write(_header(shape, name, network.name))
    return start_of_rows, shape


def _open(path: Path, count: int, info: FeatureInfo) -> Features | None:
    """The features that an earlier extraction left; None where there are none, or the file is damaged."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    length = path.stat().st_size
    try:
        (header,) = struct.unpack("<Q", file.read(8))
        rows, dimensions = json.loads(file.read(min(header, length)))["features"]["shape"]
        shape = (int(rows), int(dimensions))
        whole = shape[0] == count and length == 8 + header + count * shape[1] * 4
    except (struct.error, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        file.close()
        return None
    return Features(file, 8 + header, shape, info)


def _header(shape: tuple[int, int], data: str, network: str) -> bytes:
    """The beginning of a safetensors file with one tensor, padded to a multiple of 64 bytes."""
    tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, shape[0] * shape[1] * 4]}
    text = json.dumps({**caches.metadata(data, network=network), "features": tensor}).encode()
    text = text.ljust(-(-(len(text) + 8) // 64) * 64 - 8)
    return struct.pack("<Q", len(text)) + text
