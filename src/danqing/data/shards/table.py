"""The table of all shards of a data set: one small file that says what each shard holds."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from danqing.data.augment import Augment
from danqing.data.records import DataReport
from danqing.data.shards.shard_file import (
    DIGEST_BYTES,
    FOOTER_BYTES,
    LONGEST_LABEL,
    MOST_IMAGES,
    MOST_INDEX_BYTES,
    MOST_LABELS,
    MOST_SHARD_BYTES,
    ShardIndex,
    Written,
    read_index,
)
from danqing.errors import DataError

NAME = "shards.safetensors"
ENDING = ".dqs"
FORMAT = 1
SPLITS = ("train", "validation", "test")
MOST_SHARDS = 2**22
MOST_BYTES = 2**29
_COLUMNS: dict[str, tuple[type, tuple[int, ...]]] = {
    "images": (np.int64, ()),
    "sizes": (np.int64, ()),
    "index_bytes": (np.int64, ()),
    "digests": (np.uint8, (32,)),
    "splits": (np.uint8, ()),
}


class Codes(BaseModel):
    """The codes that a training split holds instead of files.

    tokenizer: the sha256 of the weights of what encoded the images. kind: whole numbers below `vocabulary`,
    or real numbers. format: of a number, as safetensors calls it. shape: of the numbers of an image. size,
    channels: of the images. mean, deviation: of each channel of latents.
    """

    model_config = ConfigDict(frozen=True)

    tokenizer: str = Field(max_length=128)
    kind: Literal["codes", "latents"]
    format: Literal["I16", "I32", "F16"]
    shape: tuple[int, int, int]
    vocabulary: int = Field(0, ge=0, le=2**31)
    size: tuple[int, int]
    channels: int = Field(ge=1, le=4)
    mean: tuple[float, ...] = Field((), max_length=4096)
    deviation: tuple[float, ...] = Field((), max_length=4096)


class SplitAbout(BaseModel):
    """What a split holds.

    labels: the number of images by label. unlabelled: those without. has_texts: whether any has captions.
    report: the account of the source.
    """

    model_config = ConfigDict(frozen=True)

    labels: dict[str, int] = Field(default_factory=dict, max_length=MOST_LABELS)
    unlabelled: int = Field(0, ge=0)
    has_texts: bool = False
    report: DataReport = DataReport()


class About(BaseModel):
    """What a data set in shards is.

    label_names: the order of the labels; empty if they are simply sorted. attributes: the names of the
    columns. pairs: whether each image has a source image. codes: of the training split; None if it holds
    files.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    name: str = Field(max_length=1024)
    licence: str = "unknown"
    citation: str = ""
    augment: Augment = Augment()
    label_names: tuple[str, ...] = Field((), max_length=MOST_LABELS)
    attributes: tuple[str, ...] = Field((), max_length=4096)
    pairs: bool = False
    codes: Codes | None = None
    splits: dict[str, SplitAbout] = {}


@dataclass(frozen=True, eq=False)
class Table:
    """All shards of a data set.

    images, sizes, index_bytes, splits: int64 `[s]`; sizes are in bytes, and splits are places in `SPLITS`,
        in ascending order.
    digests: uint8 `[s, 32]`. digest: sha256 of the table, in hexadecimal, which changes with any image.
    """

    images: NDArray[np.int64]
    sizes: NDArray[np.int64]
    index_bytes: NDArray[np.int64]
    digests: NDArray[np.uint8]
    splits: NDArray[np.uint8]
    about: About
    digest: str = ""

    def name(self, shard: int) -> str:
        """Return the file name of a shard."""
        split = int(self.splits[shard])
        return shard_name(SPLITS[split], shard - int(np.searchsorted(self.splits, split)))

    def read_index(self, shard: int, tail: bytes) -> ShardIndex:
        """Read the index of a shard from its last bytes.

        Raises DataError if it is not the one that the table names.
        """
        index = read_index(tail, int(self.sizes[shard]), self.digests[shard].tobytes())
        if len(index) != self.images[shard]:
            raise DataError("It holds another number of images than the table says.")
        return index

    def shards_of(self, split: str) -> NDArray[np.int64]:
        """Return the numbers of the shards of a split or of all."""
        if split == "all":
            return np.arange(len(self.splits))
        return np.flatnonzero(self.splits == SPLITS.index(split))


def shard_name(split: str, number: int) -> str:
    """Return the name of a shard by its number."""
    return f"{split}-{number:06d}{ENDING}"


def write_table(shards: list[tuple[str, Written]], about: About) -> bytes:
    """Return the table of shards as a file.

    shards: their splits, in the order of `SPLITS`, and what was written. The same shards give the same bytes.
    """
    from safetensors.numpy import save

    written = [one for _, one in shards]
    digests = b"".join(one.digest for one in written)
    return save(
        {
            "images": np.array([one.images for one in written], np.int64),
            "sizes": np.array([one.size for one in written], np.int64),
            "index_bytes": np.array([one.index_bytes for one in written], np.int64),
            "digests": np.frombuffer(digests, np.uint8).reshape(-1, 32),
            "splits": np.array([SPLITS.index(split) for split, _ in shards], np.uint8),
            "about": np.frombuffer(json.dumps(about.model_dump(mode="json")).encode(), np.uint8),
        }
    )


def read_table(content: bytes, place: str) -> Table:
    """Read a table, whose numbers may be anything.

    place: where it is, for messages. Raises DataError.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(content)
        about = About.model_validate_json(tensors["about"].tobytes())
        columns: dict[str, NDArray[Any]] = {name: tensors[name] for name in _COLUMNS}
    except (SafetensorError, ValidationError, ValueError, KeyError, RecursionError) as error:
        raise DataError(
            f"The table of shards {place} is damaged ({type(error).__name__}): write the shards again."
        ) from error
    if about.format > FORMAT:
        raise DataError(f"The shards at {place} were written by a later version: upgrade danqing.")
    count = columns["images"].size
    for name, (dtype, shape) in _COLUMNS.items():
        if columns[name].dtype != dtype or columns[name].shape != (count, *shape):
            raise DataError(f"The table of shards {place} is damaged ({name}): write the shards again.")
    images, sizes, index = columns["images"], columns["sizes"], columns["index_bytes"]
    limits = (
        (images, 1, MOST_IMAGES),
        (index, DIGEST_BYTES, MOST_INDEX_BYTES),
        (sizes, index + FOOTER_BYTES + 1, MOST_SHARD_BYTES),
        (columns["splits"], 0, len(SPLITS) - 1),
        (np.diff(columns["splits"].astype(np.int64)), 0, len(SPLITS)),
    )
    labels = {name for split in about.splits.values() for name in split.labels}
    counted = [number for split in about.splits.values() for number in split.labels.values()]
    counted += [split.unlabelled for split in about.splits.values()]
    is_in_range = all(((values >= low) & (values <= high)).all() for values, low, high in limits)
    if (
        not 0 < count <= MOST_SHARDS
        or not is_in_range
        or any(len(name.encode("utf-8", "replace")) > LONGEST_LABEL for name in labels)
        or about.splits.keys() != {SPLITS[number] for number in np.unique(columns["splits"])}
        or any(not 0 <= number <= MOST_SHARDS * MOST_IMAGES for number in counted)
        or (about.codes is not None and not _is_plausible(about.codes))
    ):
        raise DataError(f"The table of shards {place} has numbers that are out of range: write it again.")
    return Table(**columns, about=about, digest=hashlib.sha256(content).hexdigest())


def _is_plausible(codes: Codes) -> bool:
    sides = (*codes.shape, *codes.size)
    return all(1 <= side <= 4096 for side in sides) and int(np.prod(codes.shape)) <= 2**24
