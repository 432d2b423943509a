"""Images one after the other with their names, for uses that need no cache: nothing is kept on disk."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from danqing.data.decoding import Decoder
from danqing.data.probe import resolve
from danqing.data.records import ImageSpec, Record
from danqing.data.sources import find_source
from danqing.data.survey import Skipped
from danqing.names import match
from danqing.progress import ProgressCallback


class NamedImages(NamedTuple):
    """Some images of a source.

    names, labels: of each image; "" for no label. images: uint8 `[n, h, w, c]`. skipped: those that cannot be
    read.
    """

    names: list[str]
    labels: list[str]
    images: Tensor
    skipped: list[Skipped]


class NamedSource:
    """The images of a folder, archive or built-in set, by name.

    The name is the one that the source gives an image. spec: the form of the images; what it leaves open is
    chosen as `open_dataset` does. Images of more than 8 bits are read at 8. Raises DataError and ConfigError
    as `open_dataset` does.
    """

    def __init__(
        self,
        data: str | Path,
        spec: ImageSpec,
        *,
        split: str = "train",
        on_progress: ProgressCallback | None = None,
    ) -> None:
        self._source, self._part = find_source(data, split, on_progress)
        is_settled = bool(spec.size and spec.channels and spec.depth)
        settled = spec if is_settled else resolve(self._source, replace(spec, depth=8))[0]
        self.spec = replace(settled, ignore_reservations=True)  # which are about training
        self._on_progress = on_progress

    def names(self) -> list[str]:
        """Return the names of all images, even of unreadable ones."""
        return [record.name for record in self._records()]

    def read(self, names: Collection[str] | None = None) -> Iterator[NamedImages]:
        """Yield the images, or those of some names, in the source's order."""
        wanted = None if names is None else set(names)
        total = self._source.count() if wanted is None else len(wanted)
        records = (record for record in self._records() if wanted is None or record.name in wanted)
        assert self.spec.size is not None
        (width, height), done = self.spec.size, 0
        with Decoder(self.spec, total) as decoder:
            for chunk, decoded in decoder(records):
                read = [
                    record for record, reason in zip(chunk, decoded.reasons, strict=True) if reason is None
                ]
                pixels = np.frombuffer(bytearray(decoded.pixels), np.uint8)
                skipped = [
                    Skipped(name=record.name, reason=reason)
                    for record, reason in zip(chunk, decoded.reasons, strict=True)
                    if reason is not None
                ]
                yield NamedImages(
                    [record.name for record in read],
                    [record.label or "" for record in read],
                    torch.from_numpy(pixels.reshape(len(read), height, width, self.spec.channels)),
                    skipped,
                )
                done += len(chunk)
                if self._on_progress:
                    self._on_progress(done, max(done, total), "Reading images")

    def _records(self) -> Iterator[Record]:
        """The records, or those whose label is among the requested ones, as in `mnist:0,1`."""
        records = self._source.records(self.spec)
        if not self._part:
            return records
        return (record for record in records if record.label is not None and match(record.label, self._part))
