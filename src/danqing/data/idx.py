"""IDX files, the format of MNIST: big-endian arrays, with or without gzip."""

import functools
import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danqing.data.records import About, ImageSpec, Natural, Record, digest, file_key
from danqing.data.survey import Survey
from danqing.errors import DataError

MAX_CONTENT = 8 * 2**30
_PREFIX = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read the uint8 array in an IDX file.

    Raises DataError if its header and length disagree.
    """
    try:
        with open(path, "rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if compressed else open(path, "rb") as file:
            start = file.read(4)
            if len(start) != 4 or start[:3] != b"\0\0\x08" or not 1 <= start[3] <= 4:
                raise DataError(f"{path} is not an IDX file of bytes: download it again.")
            sides = file.read(4 * start[3])
            shape = struct.unpack(f">{len(sides) // 4}I", sides[: len(sides) // 4 * 4])
            length = math.prod(shape)
            if len(shape) != start[3] or length > MAX_CONTENT:
                raise DataError(f"{path} has a damaged header: download it again.")
            content = file.read(length + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): download it again.") from error
    if len(content) != length:
        raise DataError(f"{path} does not have the length in its header: download it again.")
    return np.frombuffer(content, np.uint8).reshape(shape)


class IdxSource:
    """The images of an IDX file, with the labels of another."""

    attributes: tuple[str, ...] = ()
    natural: Natural | None = None

    def __init__(
        self, images: Path, labels: Path | None, about: About, label_names: tuple[str, ...] = ()
    ) -> None:
        self.images, self.labels, self.about = images, labels, about
        self.label_names = label_names

    def key(self) -> str:
        return digest("idx", file_key(self.images), file_key(self.labels) if self.labels else "")

    def count(self) -> int:
        return len(self._arrays[0])

    def survey(self) -> Survey:
        labels = f"the file {self.labels.name}" if self.labels else "none: there is no label file"
        return Survey(understood={"Layout": f"IDX file {self.images.name}", "Labels": labels})

    def records(self, spec: ImageSpec, start: int = 0) -> Iterator[Record]:
        images, labels = self._arrays
        for number in range(start, len(images)):
            label = None if labels is None else self._name(int(labels[number]))
            yield Record(f"{self.images.name}#{number}", functools.partial(_picture, images, number), label)

    def _name(self, label: int) -> str:
        return self.label_names[label] if label < len(self.label_names) else str(label)

    @functools.cached_property
    def _arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        images = read_idx(self.images)
        if images.ndim not in (3, 4):
            raise DataError(f"{self.images} holds labels, not images: name the file of images.")
        if 0 in images.shape[1:] or (images.ndim == 4 and images.shape[3] > 4):
            raise DataError(
                f"{self.images} has the shape {list(images.shape)}: store images as [n, height, width], or "
                "with 1 to 4 channels last."
            )
        labels = read_idx(self.labels) if self.labels else None
        if labels is not None and labels.shape != images.shape[:1]:
            raise DataError(
                f"{self.labels} has {len(labels)} labels for {len(images)} images: download both again."
            )
        return images, labels


def _picture(images: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = images[number]
    return image[:, :, None] if image.ndim == 2 else image


def find_idx(folder: Path, split: str) -> tuple[Path, Path | None] | None:
    """Return the image and label files of a split, by MNIST's names.

    None for a missing one.
    """
    prefix = _PREFIX.get(split)
    if prefix is None:
        return None
    for ending in ("", ".gz"):
        for mark in ("-", "."):
            images = folder / f"{prefix}-images{mark}idx3-ubyte{ending}"
            if images.is_file():
                return images, labels_beside(images)
    return None


def labels_beside(images: Path) -> Path | None:
    """Return the label file of an image file, compressed or not."""
    name = re.sub(r"images([-.])idx\d", r"labels\1idx1", images.name).removesuffix(".gz")
    if name == images.name.removesuffix(".gz"):
        return None
    return next((p for p in (images.with_name(name), images.with_name(name + ".gz")) if p.is_file()), None)
