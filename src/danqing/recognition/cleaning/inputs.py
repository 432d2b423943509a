"""One pass over the images of all splits: what each finding is computed from."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.data.cleaned import digest_of, shown_name
from danqing.data.decoding import Decoder
from danqing.data.headers import described
from danqing.data.probe import resolve
from danqing.data.records import ImageSpec, Record, Source
from danqing.data.sources import find_source
from danqing.data.splits import has_split
from danqing.errors import DataError
from danqing.evaluation.contract import FeatureNetwork
from danqing.evaluation.resize import flattened
from danqing.images import Pixels
from danqing.names import match, natural_order
from danqing.progress import ProgressCallback
from danqing.recognition.cleaning import near_duplicates
from danqing.recognition.cleaning.near_duplicates import Described
from danqing.recognition.cleaning.quality import Quality, measure

SPLITS = ("test", "validation", "train")
"""The splits in the order in which one of several copies is kept: held-out images stay."""
_SHOWN_SIDE = 256
"""Pixels of the longer side of an image on the page."""


class Opened(NamedTuple):
    """A split of the data, and the labels to select.

    No labels select all.
    """

    split: str
    source: Source
    part: tuple[str, ...]


@dataclass(frozen=True)
class Inputs:
    """What is known of all images.

    Every list and array has one entry for each. places: in their source. labels: int64, -1 for none, of
    `label_names`. sizes: int64 `[n, 2]`, width and height of the file, 0 if unknown. pixels: a digest of the
    decoded pixels. features: `[n, d]`. unreadable: names and reasons of images that cannot be read.
    spec: how images were decoded.
    """

    name: str
    opened: tuple[Opened, ...]
    spec: ImageSpec
    splits: list[str]
    names: list[str]
    places: list[int]
    labels: NDArray[np.int64]
    label_names: tuple[str, ...]
    sizes: NDArray[np.int64]
    pixels: list[str]
    quality: Quality
    features: Tensor
    described: Described
    unreadable: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.names)


def open_splits(data: str | Path) -> tuple[Opened, ...]:
    """Open every split of the data; raises DataError if there is none."""
    present = [split for split in SPLITS if has_split(data, split)] or ["train"]
    found: dict[str, Opened] = {}
    for split in reversed(
        present
    ):  # a file that serves as several splits is looked at once, as training data
        source, part = find_source(data, split)
        found.setdefault(source.key(), Opened(split, source, part))
    return tuple(reversed(found.values()))


def read_inputs(
    data: str | Path,
    network: FeatureNetwork,
    *,
    size: tuple[int, int] | None = None,
    on_progress: ProgressCallback | None = None,
) -> Inputs:
    """Decode every image once, at the size of training, and measure it.

    size: width and height; None takes what `train` would. Raises DataError.
    """
    opened = open_splits(data)
    spec = resolve(opened[-1].source, ImageSpec(size, depth=8, fit="stretch"))[0]
    rows, unreadable = list[_Row](), list[tuple[str, str]]()
    features, crops, thumbs, qualities = list[Tensor](), list[Tensor](), list[Tensor](), list[Quality]()
    total, seen = sum(one.source.count() for one in opened), 0
    for one in opened:
        for found, images, failed in _decoded(one, spec):
            seen += len(found) + len(failed)
            unreadable += failed
            if found:
                rows += found
                levels = flattened(images).div_(255)
                qualities.append(measure(levels.mean(1, keepdim=True)))
                small = near_duplicates.describe(levels.expand(-1, 3, -1, -1))
                crops.append(small.crops)
                thumbs.append(small.thumbs)
                features.append(network.features(images))
            if on_progress:
                on_progress(min(seen, total), total, "Looking at images")
    if not rows:
        raise DataError(
            f"{opened[-1].source.about.name} has no image that can be read: danqing data check says why."
        )
    texts = sorted({row.label for row in rows if row.label is not None}, key=natural_order)
    places = {name: number for number, name in enumerate(texts)}
    return Inputs(
        name=opened[-1].source.about.name,
        opened=opened,
        spec=spec,
        splits=[row.split for row in rows],
        names=[row.name for row in rows],
        places=[row.place for row in rows],
        labels=np.array([-1 if row.label is None else places[row.label] for row in rows], np.int64),
        label_names=tuple(texts),
        sizes=np.array([row.size for row in rows], np.int64).reshape(-1, 2),
        pixels=[row.pixels for row in rows],
        quality=Quality(*(np.concatenate(values) for values in zip(*qualities, strict=True))),
        features=torch.cat(features),
        described=Described(torch.cat(crops), torch.cat(thumbs)),
        unreadable=unreadable,
    )


class _Row(NamedTuple):
    split: str
    name: str
    place: int
    label: str | None
    size: tuple[int, int]
    pixels: str


def _decoded(opened: Opened, spec: ImageSpec) -> Iterator[tuple[list[_Row], Tensor, list[tuple[str, str]]]]:
    """Yield images with their pixels uint8 `[n, h, w, c]`, and those that cannot be read."""
    assert spec.size is not None
    width, height = spec.size
    places = deque[int]()

    def chosen() -> Iterator[Record]:
        for place, record in enumerate(opened.source.records(spec)):
            if not opened.part or (record.label is not None and _is_among(record.label, opened.part)):
                places.append(place)
                yield record

    with Decoder(spec, opened.source.count()) as decoder:
        for records, decoded in decoder(chosen()):
            rows, failed, good = list[_Row](), list[tuple[str, str]](), iter(decoded.digests)
            for record, reason, (_, size) in zip(records, decoded.reasons, decoded.headers, strict=True):
                place, name = places.popleft(), shown_name(record.name)
                if reason is None:
                    rows.append(_Row(opened.split, name, place, record.label, size or (0, 0), next(good)))
                else:
                    failed.append((name, reason))
            pixels = np.frombuffer(bytearray(decoded.pixels), np.uint8)
            yield rows, torch.from_numpy(pixels.reshape(len(rows), height, width, spec.channels)), failed


def _is_among(label: str, part: tuple[str, ...]) -> bool:
    return any(match(wanted, (label,)) is not None for wanted in part)


class Shown(NamedTuple):
    """The pixels of an image on the page, and its digest.

    None and "" if it cannot be read.
    """

    pixels: Pixels | None
    digest: str


def read_shown(
    inputs: Inputs, rows: set[int], pictured: set[int], on_progress: ProgressCallback | None = None
) -> dict[int, Shown]:
    """Read the digests of some images, and small copies for the page.

    rows: of the inputs. pictured: those among them that need pixels.
    """
    shown: dict[int, Shown] = {}
    for one in inputs.opened:
        wanted = {inputs.places[row]: row for row in rows if inputs.splits[row] == one.split}
        if not wanted:
            continue
        last = max(wanted)
        for place, record in enumerate(one.source.records(ImageSpec())):
            if (row := wanted.get(place)) is not None:
                pixels = _small(record, inputs.spec) if row in pictured else None
                shown[row] = Shown(pixels, digest_of(record) or "")
                if on_progress:
                    on_progress(len(shown), len(rows), "Reading what was found")
            if place == last:
                break
    return shown


def _small(record: Record, spec: ImageSpec) -> Pixels | None:
    """Return a small copy of an image; None if it cannot be read."""
    try:
        image = record.load()
        width, height = described(image)[1] or spec.size or (1, 1)
        scale = min(1.0, _SHOWN_SIDE / max(width, height))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = replace(spec, size=size, alpha="keep", channels=0).prepared(image)
    except DataError:
        return None
    assert pixels.dtype == np.uint8
    return pixels  # type: ignore[return-value]
