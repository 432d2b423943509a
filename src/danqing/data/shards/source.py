"""Shards as a source of records, in their own order, for the packed cache and for passes over all images."""

import functools
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from danqing.data.layout import NOTHING_DECLARED, Declared
from danqing.data.records import About, ImageSpec, Natural, Record, digest
from danqing.data.shards.reader import Part, Place, Reader
from danqing.data.shards.shard_file import ShardIndex
from danqing.data.survey import Survey
from danqing.errors import ConfigError, DataError, MissingSplitError

_WHOLE = 0.25
"""The share of a shard's images above which the whole shard is fetched."""
_AHEAD = 2
_THREADS = 16


class ShardSource:
    """The images of shards, as they were before.

    part: which of them; None for all of the split.
    Raises MissingSplitError, ConfigError for what shards do not hold, and DataError.
    """

    natural: Natural | None = None

    def __init__(
        self,
        reader: Reader,
        split: str,
        declared: Declared = NOTHING_DECLARED,
        part: Part | None = None,
    ) -> None:
        about = reader.table.about
        if split != "all" and split not in about.splits:
            raise MissingSplitError(
                f"The shards at {reader.place} have no {split} split: they have {', '.join(about.splits)}."
            )
        if declared.masks or declared.boxes or declared.label_sets:
            raise ConfigError("Shards hold no masks, boxes or label sets: use the original files for these.")
        if unknown := [name for name in declared.attributes if name not in about.attributes]:
            known = ", ".join(about.attributes) or "none"
            raise ConfigError(f"The shards have no attribute {unknown[0]!r}: they have {known}.")
        self.reader, self.split = reader, split
        shards = reader.table.shards_of(split)
        self.part = part or Part(shards, np.zeros(len(shards), np.int64), reader.table.images[shards])
        self.about = About(about.name, about.licence, about.citation, about.augment)
        self.label_names, self.attributes = about.label_names, declared.attributes
        self._columns = [about.attributes.index(name) for name in declared.attributes]

    @property
    def total_bytes(self) -> int:
        """Return how many bytes the shards have."""
        return int(self.reader.table.sizes[self.part.shards[self.part.counts > 0]].sum())

    @property
    def has_codes(self) -> bool:
        """Return whether the images are codes of a tokenizer."""
        return self.reader.table.about.codes is not None and self.split == "train"

    def taking(self, part: Part) -> "ShardSource":
        """Return the same source with other images."""
        return ShardSource(self.reader, self.split, Declared(attributes=self.attributes), part)

    def key(self) -> str:
        part, bad = self.part, sorted(self._bad())
        covered = [part.shards, part.first, part.counts]
        return digest(
            "shards", self.reader.table.digest, self.split, *self.attributes, repr(bad),
            *(values.astype("<i8").tobytes() for values in covered),
        )  # fmt: skip

    def count(self) -> int:
        return self.part.images - sum(self._bad().values())

    def survey(self) -> Survey:
        known = [self.reader.table.about.splits[split] for split in self.splits]
        labels = sorted({label for one in known for label in one.labels})
        survey = Survey()
        survey.understood = {
            "Layout": f"{len(self.part.shards):,} shards",
            "Labels": "the shards" if labels else "none: the shards have none",
            "Captions": "the shards" if any(one.has_texts for one in known) else "none: the shards have none",
            "Split": f"{self.split}, by the shards",
        }
        if self.reader.table.about.pairs:
            survey.understood["Pairs"] = "the shards"
        for shard, count in self._bad().items():
            name, reason = self.reader.table.name(shard), self.reader.bad[shard]
            why = "in shards that are left out"
            survey.leave_out(name, f"{why}: {reason}")
            survey.left_out = survey.left_out - Counter({f"{why}: {reason}": 1}) + Counter({why: count})
        return survey

    def records(self, spec: ImageSpec, start: int = 0) -> Iterator[Record]:
        part, number = self.part, 0
        good = [rank for rank in np.flatnonzero(part.counts).tolist() if self._shard(rank) not in self._bad()]
        for order, rank in enumerate(good):
            self._fetch(good[max(0, order - 1) : order + _AHEAD])
            if self.reader.index(self._shard(rank)) is None:  # now that all of it was read
                continue
            count = int(part.counts[rank])
            number += count
            for offset in range(max(0, count - max(0, number - start)), count):
                yield self._record(Place(self._shard(rank), int(part.first[rank]) + offset))

    def _shard(self, rank: int) -> int:
        return int(self.part.shards[rank])

    def _fetch(self, ranks: list[int]) -> None:
        """Fetch shards that are read next, if much of them is wanted or they are on this machine."""
        wanted = []
        for rank in ranks:
            shard, images = self._shard(rank), self.reader.table.images[self._shard(rank)]
            if self.reader.arrivals.is_here(shard) or self.part.counts[rank] > _WHOLE * images:
                wanted.append(shard)
        self.reader.arrivals.want((), wanted)

    def _record(self, place: Place) -> Record:
        index = self.reader.index(place.shard)
        if index is None:  # it has changed since it was looked at
            return Record(str(place), functools.partial(self._load, place))
        label = int(index.labels[place.image])
        return Record(
            index.names[place.image],
            functools.partial(self._load, place),
            label=index.label_names[label] if label >= 0 else None,
            text=index.texts[place.image] or None,
            source=functools.partial(self._load, place, 1) if index.partner_lengths[place.image] else None,
            attributes=self.values(index, place.image),
        )

    def values(self, index: ShardIndex, image: int) -> tuple[Any, ...]:
        """Return the declared attributes of an image; None where it has none."""
        values = index.attributes(image)
        return tuple(values[column] if column < len(values) else None for column in self._columns)

    def _load(self, place: Place, side: int = 0) -> bytes:
        found = self.reader.content(place)
        if found is None:
            raise DataError(f"Its shard {self.reader.table.name(place.shard)} has changed.")
        return found[side]

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the splits that the source reads."""
        return tuple(self.reader.table.about.splits) if self.split == "all" else (self.split,)

    def _bad(self) -> dict[int, int]:
        """Return the shards that are left out so far, with how many images they would have given."""
        assert self._are_looked_at
        part = self.part
        return {
            shard: count
            for shard, count in zip(part.shards.tolist(), part.counts.tolist(), strict=True)
            if count and shard in self.reader.bad
        }

    @functools.cached_property
    def _are_looked_at(self) -> bool:
        """Look at the end of each shard, which says whether it is there and whole."""
        there = self.part.shards[self.part.counts > 0].tolist()
        with ThreadPoolExecutor(_THREADS) as pool:
            if not any(index is not None for index in pool.map(self.reader.index, there)):
                raise DataError(f"None of the shards at {self.reader.place} can be read: write them again.")
        return True
