"""A shard: the contents of many images, one after the other, then an index of them, then a footer.

The index is a safetensors file in memory, so that nothing in it can run. Its sha256 is the digest of the
shard: it covers the digest of every image, and so every byte that is ever used. Images are in ascending order
of their digests, which are as good as random, so that the first images of a shard are a fair sample of it.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing.errors import DataError
from danqing.image_files import MAX_BYTES

MAGIC = b"DQSHARD1"
_FOOTER = struct.Struct("<QQ32s8s")
FOOTER_BYTES = _FOOTER.size
"""The footer: where the index begins, how long it is, its sha256, and the magic word."""
DIGEST_BYTES = 16
MOST_IMAGES = 2**20
MOST_INDEX_BYTES = 2**28
MOST_SHARD_BYTES = 2**36
MOST_LABELS = 2**20
LONGEST_NAME, LONGEST_LABEL, LONGEST_TEXT = 2**12, 2**10, 2**16
"""The most bytes of a name, a label, and the captions or attributes of an image."""


class Entry(NamedTuple):
    """One image as it is written.

    content: its file, or its codes. partner: the file of its source image, if the data holds pairs.
    attributes: values that JSON can express.
    """

    content: bytes
    name: str
    label: str | None = None
    text: str = ""
    partner: bytes = b""
    attributes: Sequence[Any] = ()


class Written(NamedTuple):
    """What a table says of a shard.

    The number of images, the bytes of all and of the index, and the sha256 of the index.
    """

    images: int
    size: int
    index_bytes: int
    digest: bytes


class Strings:
    """Many texts in one block of bytes, decoded one at a time."""

    def __init__(self, ends: NDArray[np.int64], block: bytes) -> None:
        self._ends, self._block = ends, block

    def __getitem__(self, place: int) -> str:
        start = int(self._ends[place - 1]) if place else 0
        return self._block[start : int(self._ends[place])].decode("utf-8", "replace")


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The index of a shard, checked.

    starts, lengths, partner_lengths: where the contents are, int64 `[n]`; that of a partner follows.
    digests: uint8 `[n, 16]`, of content and partner. labels: int32 `[n]`, places in `label_names`, -1 for
    none.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    partner_lengths: NDArray[np.int64]
    digests: NDArray[np.uint8]
    labels: NDArray[np.int32]
    label_names: tuple[str, ...]
    names: Strings
    texts: Strings
    _attributes: Strings

    def __len__(self) -> int:
        return len(self.starts)

    def attributes(self, place: int) -> tuple[Any, ...]:
        """Return the attributes of an image; none unless they are a list."""
        try:
            found = json.loads(self._attributes[place] or "[]")
        except (ValueError, RecursionError):
            return ()
        return tuple(found) if isinstance(found, list) else ()

    def span(self, place: int) -> tuple[int, int]:
        """Return where an image begins and its partner ends."""
        start = int(self.starts[place])
        return start, start + int(self.lengths[place]) + int(self.partner_lengths[place])

    def is_intact(self, place: int, content: bytes) -> bool:
        """Return whether the bytes of a span are those that were written."""
        digest: bytes = self.digests[place].tobytes()
        return digest_of(content) == digest


def digest_of(content: bytes) -> bytes:
    """Return the digest of an image, 16 bytes of BLAKE2b.

    It covers the content of the image and that of its partner.
    """
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES, person=b"danqing-shard").digest()


def write_shard(file: BinaryIO, entries: Iterable[tuple[bytes, Entry]]) -> Written:
    """Write a shard.

    entries: digests and images, in ascending order of the digests. The same entries give the same bytes.
    """
    rows = [
        (digest, entry._replace(content=b"", partner=b""), len(entry.content), len(entry.partner))
        for digest, entry in _written(file, entries)
    ]
    lengths = np.array([row[2] for row in rows], np.int64)
    partners = np.array([row[3] for row in rows], np.int64)
    labels = sorted({row[1].label for row in rows if row[1].label is not None})
    places = {label: place for place, label in enumerate(labels)}
    tensors: dict[str, NDArray[Any]] = {
        "lengths": lengths,
        "partner_lengths": partners,
        "digests": np.frombuffer(b"".join(row[0] for row in rows), np.uint8).reshape(-1, DIGEST_BYTES),
        "labels": np.array([-1 if row[1].label is None else places[row[1].label] for row in rows], np.int32),
        **_block("label_names", labels),
        **_block("names", [row[1].name for row in rows]),
        **_block("texts", [row[1].text for row in rows]),
        **_block("attributes", [json.dumps(row[1].attributes) if row[1].attributes else "" for row in rows]),
    }
    from safetensors.numpy import save

    index = save(tensors)
    end = int(lengths.sum() + partners.sum())
    digest = hashlib.sha256(index).digest()
    file.write(index)
    file.write(_FOOTER.pack(end, len(index), digest, MAGIC))
    return Written(len(rows), end + len(index) + FOOTER_BYTES, len(index), digest)


def _written(file: BinaryIO, entries: Iterable[tuple[bytes, Entry]]) -> Iterable[tuple[bytes, Entry]]:
    for digest, entry in entries:
        file.write(entry.content)
        file.write(entry.partner)
        yield digest, entry


def _block(name: str, texts: Sequence[str]) -> dict[str, NDArray[Any]]:
    encoded = [text.encode("utf-8", "replace") for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return {f"{name}_ends": ends, name: np.frombuffer(b"".join(encoded), np.uint8)}


def read_index(tail: bytes, shard_bytes: int, digest: bytes) -> ShardIndex:
    """Read the index from the end of a shard.

    tail: the index and the footer. shard_bytes: of the whole shard. digest: which the index must have.
    Raises DataError, which says what is wrong, for anything but a whole shard with that digest.
    """
    try:
        end, length, claimed, magic = _FOOTER.unpack(tail[-FOOTER_BYTES:])
    except struct.error:
        raise DataError("It ends too early.") from None
    if magic != MAGIC:
        raise DataError("Its end is not that of a shard: it is truncated or has changed.")
    if length != len(tail) - FOOTER_BYTES or end + len(tail) != shard_bytes:
        raise DataError("Its length is not the one in its footer: it is truncated or has changed.")
    index = tail[:-FOOTER_BYTES]
    if claimed != digest or hashlib.sha256(index).digest() != digest:
        raise DataError("It is not the shard that was written: its digest is another one.")
    return _checked(index, end)


def _checked(index: bytes, end: int) -> ShardIndex:
    """Read an index whose numbers may be anything."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(index)
        lengths, partners = (_tensor(tensors, name, np.int64) for name in ("lengths", "partner_lengths"))
        count = len(lengths)
        digests = _tensor(tensors, "digests", np.uint8, (count, DIGEST_BYTES))
        labels = _tensor(tensors, "labels", np.int32, (count,))
        names = _strings(tensors, "names", count, LONGEST_NAME)
        texts = _strings(tensors, "texts", count, LONGEST_TEXT)
        attributes = _strings(tensors, "attributes", count, LONGEST_TEXT)
        label_count = len(_tensor(tensors, "label_names_ends", np.int64))
        label_names = _strings(tensors, "label_names", label_count, LONGEST_LABEL)
    except (SafetensorError, ValueError, KeyError, OverflowError) as error:
        raise DataError(f"Its index is damaged ({error}).") from error
    if not 1 <= count <= MOST_IMAGES or partners.shape != lengths.shape or label_count > MOST_LABELS:
        raise DataError("Its index is damaged (the number of images or labels is out of range).")
    is_in_range = (lengths >= 1) & (lengths <= MAX_BYTES) & (partners >= 0) & (partners <= MAX_BYTES)
    if not is_in_range.all() or int(lengths.sum() + partners.sum()) != end:
        raise DataError("Its index is damaged (the lengths of images are out of range).")
    if labels.min() < -1 or labels.max() >= label_count:
        raise DataError("Its index is damaged (a label is out of range).")
    starts = np.cumsum(lengths + partners) - (lengths + partners)
    known = tuple(label_names[place] for place in range(label_count))
    return ShardIndex(starts, lengths, partners, digests, labels, known, names, texts, attributes)


def _tensor(
    tensors: dict[str, NDArray[Any]], name: str, dtype: type, shape: tuple[int, ...] | None = None
) -> NDArray[Any]:
    found = tensors[name]
    if found.dtype != dtype or (found.ndim != 1 if shape is None else found.shape != shape):
        raise ValueError(f"{name} has another form")
    return found


def _strings(tensors: dict[str, NDArray[Any]], name: str, count: int, longest: int) -> Strings:
    ends, block = _tensor(tensors, f"{name}_ends", np.int64, (count,)), _tensor(tensors, name, np.uint8)
    lengths = np.diff(ends, prepend=0)
    if count and (lengths.min() < 0 or lengths.max() > longest or ends[-1] != len(block)):
        raise ValueError(f"{name} are out of range")
    return Strings(ends, block.tobytes())
