"""Images that are read from shards while a model learns: what a `Dataset` reads instead of a packed cache."""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danqing import threads
from danqing.attributes import Attribute
from danqing.data.attributes import in_columns, tabulate
from danqing.data.buckets import decode_to_nearest
from danqing.data.decoding import RESERVED
from danqing.data.manifest import VERSION, Manifest
from danqing.data.probe import resolve
from danqing.data.records import DataReport, ImageSpec, digest
from danqing.data.shards.order import WindowOrder
from danqing.data.shards.reader import Part, Place, Reader
from danqing.data.shards.source import ShardSource
from danqing.data.shards.table import Codes
from danqing.data.terms import terms_of
from danqing.errors import ConfigError, DataError
from danqing.names import natural_order

WINDOW = 16
"""Shards whose images are shuffled among each other, by default."""
_LOOKED_AT = 1000
_SURVEYED_SHARDS, _SURVEYED = 16, 10_000
"""Images that stand for all others where all cannot be looked at."""
_FORMATS: dict[str, np.dtype[Any]] = {"I16": np.dtype("<i2"), "I32": np.dtype("<i4"), "F16": np.dtype("<f2")}
_RENAMED_KEPT = 64
_DECODED = 64
"""Codes that become images at once."""
_READERS = 16
"""Threads that wait for single images of a store."""


class Stream:
    """The images of shards by number, decoded when they are read.

    source: its `part` says which images. spec: the form that they get. window: how many shards are shuffled
    among each other. cache_dir: where the held-out images are packed.

    A shard that is missing, truncated or changed is left out: in the place of its image k stands image k,
    modulo their number, of the next shard that is good. In the place of an image that cannot be decoded, or
    whose owner reserves training, stands the next one of its shard. So an image follows from its number and
    the shards alone, and order and resuming stay exact.
    """

    def __init__(
        self, source: ShardSource, spec: ImageSpec, window: int = WINDOW, cache_dir: Path | None = None
    ) -> None:
        if spec.buckets:
            raise ConfigError("Streamed images need one size: give a size such as 64x64 instead of auto.")
        self._source, self.window, self.cache_dir = source, window, cache_dir
        self.reader: Reader = source.reader
        self.part: Part = source.part
        self._ends = np.cumsum(self.part.counts)
        surveyed = source.taking(self.part.some(_SURVEYED_SHARDS, _SURVEYED))
        codes = self.codes
        if codes is not None:
            size = codes.size
            if spec.size not in (None, size) or spec.channels not in (0, codes.channels):
                raise ConfigError(
                    f"These shards hold codes of images of {size[0]}x{size[1]} with {codes.channels} "
                    f"channels: give the size {size[0]}x{size[1]}, and leave the channels out."
                )
            self.spec, notes = replace(spec, size=size, channels=codes.channels, depth=8), list[str]()
        else:
            looked = source.taking(self.part.some(_SURVEYED_SHARDS, _LOOKED_AT))
            self.spec, notes = resolve(looked, spec)
        self._options = self.spec.decode_options()
        self.decode: Callable[[NDArray[Any]], NDArray[np.uint8]] | None = None
        """Turns codes into images, uint8 `[n, h, w, c]`; None if they cannot be shown."""
        self._undecodable: dict[Place, str] = {}
        self._renamed: dict[int, NDArray[np.int64]] = {}
        self._pool = ThreadPoolExecutor(max(_READERS, threads.cores()), thread_name_prefix="danqing-stream")
        self.manifest = self._describe(surveyed, notes)
        self._places = {name: place for place, name in enumerate(self.manifest.label_names)}

    @property
    def codes(self) -> Codes | None:
        """Return what the codes are, if the shards hold codes."""
        return self.reader.table.about.codes if self._source.has_codes else None

    @functools.cached_property
    def label_counts(self) -> NDArray[np.int64]:
        """Return the number of images of each label in the whole split.

        The last number is that of images without a label.
        """
        known, names = self._source.reader.table.about.splits, self.manifest.label_names
        splits = [known[split] for split in self._source.splits]
        counts = [sum(one.labels.get(name, 0) for one in splits) for name in names]
        everything = sum(sum(one.labels.values()) + one.unlabelled for one in splits)
        return np.array([*counts, everything - sum(counts)], np.int64)

    def surveyed_rows(self) -> NDArray[np.int64]:
        """Return the numbers of images that stand for all.

        These are at most 10,000 in 16 shards.
        """
        chosen = self.part.some(_SURVEYED_SHARDS, _SURVEYED)
        ranks = np.searchsorted(self.part.shards, chosen.shards)
        starts = (self._ends - self.part.counts)[ranks]
        return np.concatenate(
            [np.arange(start, start + count) for start, count in zip(starts, chosen.counts, strict=True)]
        )

    def order(self, batch_size: int, seed: int) -> WindowOrder:
        """Return the order in which batches are drawn."""
        return WindowOrder(self.part.counts, batch_size, seed, self.window)

    def fetch(self, order: WindowOrder, images_seen: int) -> None:
        """Fetch the shards of a batch and of the window after it."""
        now, following = (
            [int(self.part.shards[rank]) for rank in ranks] for ranks in order.shards_at(images_seen)
        )
        self.reader.arrivals.want(now, following)

    def held_out(self, fraction: float) -> tuple["Stream", ShardSource]:
        """Return the stream of the rest, and the held-out images.

        Held-out images have the smallest digests.

        At most 10,000 are held out.
        """
        share = min(fraction, _SURVEYED / max(1, self.part.images))
        rest, held = self.part.split(share)
        if not held.images or not rest.images:
            raise DataError(
                f"{self.part.images} images are too few to hold {fraction:.0%} of them out: add images, or "
                "learn without a held-out split."
            )
        stream = Stream(self._source.taking(rest), self.spec, self.window, self.cache_dir)
        return stream, self._source.taking(held)

    def images(
        self, rows: NDArray[np.int64], *, side: int = 0, bucket: int = 0
    ) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Return images, `[n, h, w, c]`; side: 1 returns the source images of pairs."""
        if self.codes is not None:
            if self.decode is None:
                raise DataError("These shards hold codes, not images: train on them with their --tokenizer.")
            codes = self.codes_at(rows)
            parts = [self.decode(codes[start : start + _DECODED]) for start in range(0, len(rows), _DECODED)]
            return np.concatenate(parts)
        assert self.spec.size is not None
        width, height = self.spec.size
        result = np.empty((len(rows), height, width, self.spec.channels), self._dtype)

        def decode(number: int, place: Place) -> None:
            result[number] = self._decoded(place, int(rows[number]))[side]

        self._each(rows, decode)
        return result

    def codes_at(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the codes of images, `[n, *shape]`."""
        codes = self.codes
        assert codes is not None
        format, count = _FORMATS[codes.format], int(np.prod(codes.shape))
        result = np.zeros((len(rows), *codes.shape), format)

        def read(number: int, place: Place) -> None:
            found = self.reader.content(place)
            while found is None:
                found = self.reader.content(place := self._located(rows[number : number + 1])[0])
            values = np.frombuffer(found[0], format) if len(found[0]) == count * format.itemsize else None
            if values is None or (
                codes.vocabulary and not 0 <= values.min() <= values.max() < codes.vocabulary
            ):
                raise DataError(
                    f"The codes {self.reader.name(place)!r} in {self.reader.table.name(place.shard)} are not "
                    "of the tokenizer that the table of the shards names: write the shards again."
                )
            result[number] = values.reshape(codes.shape)

        self._each(rows, read)
        return result

    def _each(self, rows: NDArray[np.int64], work: Callable[[int, Place], None]) -> None:
        """Do some work for each image, with as many threads as there are cores, or more that wait."""
        places = self._located(rows)
        is_here = self.reader.arrivals.has({place.shard for place in places})
        count = min(threads.cores() if is_here else _READERS, max(1, len(rows)))

        def part(start: int) -> None:
            for number in range(start, len(rows), count):
                work(number, places[number])

        list(self._pool.map(part, range(count)))

    def buckets_at(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return zeros: all images have one size."""
        return np.zeros(len(rows), np.uint8)

    def labels_at(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the labels of images, -1 for none."""
        return np.array([self._label(place) for place in self._usable(rows)], np.int64)

    def texts(self, rows: NDArray[np.int64]) -> tuple[str, ...]:
        """Return the captions of images."""
        return tuple(index.texts[place.image] for place, index in self._indexed(rows))

    def attributes(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the attributes of images, `[n, sum of widths]`."""
        cells = [self._source.values(index, place.image) for place, index in self._indexed(rows)]
        return in_columns(self.manifest.attributes, cells)

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.spec.depth == 16 else "u1")

    def _located(self, rows: NDArray[np.int64]) -> list[Place]:
        """Return where images are, or those that stand for them in good shards."""
        ranks = np.searchsorted(self._ends, rows, side="right")
        offsets = rows - (self._ends - self.part.counts)[ranks]
        stands = {rank: self._good(rank) for rank in np.unique(ranks).tolist()}
        places = []
        for rank, offset in zip(ranks.tolist(), offsets.tolist(), strict=True):
            good = stands[rank]
            offset %= int(self.part.counts[good])
            places.append(Place(int(self.part.shards[good]), int(self.part.first[good]) + offset))
        return places

    def _good(self, rank: int) -> int:
        """Return the rank of a shard, or of the next one that is good."""
        count = len(self.part.shards)
        for step in range(count):
            found = (rank + step) % count
            if not self.part.counts[found]:
                continue
            shard = int(self.part.shards[found])
            # One that stands for another is read as a whole, else it would depend on what was read before.
            is_good = self.reader.is_whole(shard) if step else self.reader.index(shard) is not None
            if is_good:
                return found
        raise DataError(f"None of the shards at {self.reader.place} can be read: write them again.")

    def _usable(self, rows: NDArray[np.int64]) -> list[Place]:
        """Return where images are, or those that stand for them as far as is known."""
        return [self._next(place) if place in self._undecodable else place for place in self._located(rows)]

    def _next(self, place: Place) -> Place:
        """Return the next image of the part in a shard that is not known to be undecodable."""
        rank = int(np.searchsorted(self.part.shards, place.shard))
        first, count = int(self.part.first[rank]), int(self.part.counts[rank])
        for step in range(1, count + 1):
            found = Place(place.shard, first + (place.image - first + step) % count)
            if found not in self._undecodable:
                return found
        raise DataError(
            f"No image of {self.reader.table.name(place.shard)} can be decoded: remove it, or write it again."
        )

    def _decoded(self, place: Place, row: int) -> list[NDArray[Any]]:
        """Return an image and its source image, or those that stand for them."""
        while True:
            if place in self._undecodable:
                place = self._next(place)
            found = self.reader.content(place)
            if found is None:  # its shard was good a moment ago
                (place,) = self._located(np.array([row]))
                continue
            try:
                if not self.spec.ignore_reservations and any(
                    terms_of(one).is_reserved for one in found if one
                ):
                    raise DataError(RESERVED)
                return [decode_to_nearest(content, **self._options) for content in found if content]
            except DataError as error:
                self._undecodable[place] = str(error)
                self.reader.report_image(place, str(error))

    def _label(self, place: Place) -> int:
        index = self.reader.index(place.shard)
        if index is None:
            return -1
        renamed = self._renamed.get(place.shard)
        if renamed is None:
            renamed = np.array([self._places.get(name, -1) for name in index.label_names] + [-1], np.int64)
            if len(self._renamed) >= _RENAMED_KEPT:
                self._renamed.clear()
            self._renamed[place.shard] = renamed
        return int(renamed[index.labels[place.image]])

    def _indexed(self, rows: NDArray[np.int64]) -> Iterator[tuple[Place, Any]]:
        for place in self._usable(rows):
            index = self.reader.index(place.shard)
            assert index is not None
            yield place, index

    def _describe(self, surveyed: ShardSource, notes: Sequence[str]) -> Manifest:
        about, spec = self.reader.table.about, self.spec
        splits = [about.splits[split] for split in self._source.splits]
        report = splits[0].report if len(splits) == 1 else DataReport()
        places = {name: place for place, name in enumerate(about.label_names)}
        found = {label for one in splits for label, count in one.labels.items() if count}
        names = tuple(sorted(found, key=lambda name: (places.get(name, len(places)), natural_order(name))))
        names = names if len(names) > 1 else ()  # a single class is no information
        counts = np.array([sum(one.labels.get(name, 0) for one in splits) for name in names], float)
        columns: tuple[Attribute, ...] = ()
        if self._source.attributes:
            rows = [record.attributes for record in surveyed.records(spec)]
            columns = tabulate(self._source.attributes, rows)[1]
        assert spec.size is not None
        shape = (self.part.images, spec.size[1], spec.size[0], spec.channels)
        part = [values.astype("<i8").tobytes() for values in self.part]
        fingerprint = digest(
            "stream", self.reader.table.digest, json.dumps(spec.asked(), sort_keys=True), *part
        )
        told = [*report.notes, *notes, f"The images are streamed from shards, {self.window} at a time."]
        return Manifest(
            version=VERSION,
            fingerprint=fingerprint,
            shape=shape,
            label_names=names,
            label_frequencies=tuple(counts / max(1.0, counts.sum())) if names else (),
            has_texts=any(one.has_texts for one in splits),
            report=report.model_copy(update={"notes": tuple(told)}),
            name=about.name,
            depth=spec.depth,
            range=spec.range if spec.depth > 8 else None,
            pairs=about.pairs,
            attributes=columns,
        )
