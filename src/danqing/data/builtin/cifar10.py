"""CIFAR-10: photographs of ten kinds of things, 32x32 colour, from the publisher's binary version."""

import functools
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danqing.data.augment import Augment
from danqing.data.download import Published, present
from danqing.data.records import About, ImageSpec, Natural, Record, Source, digest, file_key
from danqing.data.survey import Survey
from danqing.errors import DataError, MissingSplitError
from danqing.progress import ProgressCallback

SUMMARY = "60,000 photographs, 32x32 colour, 10 labels (downloads 170 MB)"
ABOUT = About(
    "cifar10",
    "not stated by the publisher",
    "A. Krizhevsky: Learning multiple layers of features from tiny images. University of Toronto, 2009.",
    Augment(flip=True),
)
LABELS = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
ARCHIVE = "cifar-10-binary.tar.gz"
PUBLISHED = Published(
    "cifar10",
    "https://www.cs.toronto.edu/~kriz/",
    {ARCHIVE: "c32a1d4ab5d03f1284b67883e8d87530"},
)
PARTS = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
ROW = 1 + 3 * 32 * 32


def fetch(on_progress: ProgressCallback | None = None) -> Path:
    """Return the folder of the files; download them if they are missing."""
    return PUBLISHED.folder(on_progress)


def open(
    split: str, part: tuple[str, ...], on_progress: ProgressCallback | None
) -> tuple[Source, tuple[str, ...]]:
    """Open the training or test photographs; `part` names the classes to select."""
    if split not in (*PARTS, "all"):
        raise MissingSplitError(f"cifar10 has no {split} split: it has train and test.")
    files = PARTS[split] if split in PARTS else PARTS["train"] + PARTS["test"]
    folder = PUBLISHED.folder(on_progress)
    return CifarSource(present(folder, ARCHIVE) or folder / ARCHIVE, files), part


class CifarSource:
    """Rows of a label and 3x32x32 bytes, from an archive's files."""

    about = ABOUT
    label_names: tuple[str, ...] = LABELS
    attributes: tuple[str, ...] = ()
    natural: Natural | None = Natural((32, 32), True, False)

    def __init__(self, archive: Path, files: tuple[str, ...]) -> None:
        self.archive, self.files = archive, files

    def key(self) -> str:
        return digest("cifar10", file_key(self.archive), *self.files)

    def count(self) -> int:
        return len(self._rows)

    def survey(self) -> Survey:
        return Survey()

    def records(self, spec: ImageSpec, start: int = 0) -> Iterator[Record]:
        for number in range(start, len(self._rows)):
            label = LABELS[min(9, int(self._rows[number, 0]))]
            yield Record(f"cifar10#{number}", functools.partial(self._picture, number), label)

    def _picture(self, number: int) -> NDArray[np.uint8]:
        return self._rows[number, 1:].reshape(3, 32, 32).transpose(1, 2, 0)

    @functools.cached_property
    def _rows(self) -> NDArray[np.uint8]:
        contents: dict[str, bytes] = {}
        try:
            with tarfile.open(self.archive) as archive:
                for member in archive:
                    name = member.name.rsplit("/", 1)[-1]
                    if (
                        name in self.files
                        and member.size <= 10_000 * ROW
                        and (file := archive.extractfile(member))
                    ):
                        contents[name] = file.read()
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{self.archive} is damaged ({error}): delete it, and it is downloaded again."
            ) from error
        if set(contents) != set(self.files) or any(len(content) % ROW for content in contents.values()):
            raise DataError(f"{self.archive} is incomplete: delete it, and it is downloaded again.")
        joined = b"".join(contents[name] for name in self.files)
        return np.frombuffer(joined, np.uint8).reshape(-1, ROW)
