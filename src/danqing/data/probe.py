"""The size, channels and value range of a data set, if the user does not set them."""

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from danqing.data import buckets
from danqing.data.records import ImageSpec, Natural, Record, Source, common_reasons, reason_kind
from danqing.data.survey import Skipped
from danqing.errors import DataError
from danqing.image_files import Deep, Frame, decode, deep_values, inspect
from danqing.image_files.levels import Range, sample, value_range
from danqing.images import parse_background

SAMPLE = 1000
FEW = 100
LARGEST = 128
"""The longest side that is chosen by default; larger images are expensive, so users must request them."""


class _ImageFacts(NamedTuple):
    """The properties of one image: some of its values if they have more than 8 bits, and a missing extra."""

    natural: Natural
    values: NDArray[np.float64] | None = None
    lacks: str = ""


def resolve(source: Source, spec: ImageSpec) -> tuple[ImageSpec, list[str]]:
    """Decide what `spec` leaves open, from up to `SAMPLE` records.

    Size: that of the images if all agree, otherwise the median width and height in multiples of 8; shrunk
    until the longer side is at most `LARGEST`. Channels: grey if all are grey, otherwise colour; alpha if it
    is to be kept and any image is really transparent somewhere. Depth: 16 if any image has more than 8 bits.
    Range: one for all such images, chosen by `value_range`. Buckets: chosen by `buckets.choose`, and none if
    one size suits all images.
    """
    failed: list[Skipped] = []
    if source.natural is not None:
        seen = [_ImageFacts(source.natural)]
    else:
        step = max(1, source.count() // SAMPLE)
        records = islice(source.records(spec), 0, None, step)
        looked = [(load.name, _look(load)) for record in records for load in _loads(record)]
        seen = [one for _, one in looked if isinstance(one, _ImageFacts)]
        failed = [Skipped(name=name, reason=one) for name, one in looked if isinstance(one, str)]
    if not seen:
        reasons = Counter(reason_kind(one.reason) for one in failed)
        raise DataError(f"No image of {source.about.name} can be read: {common_reasons(reasons, failed)}.")
    found = [one.natural for one in seen]
    size = spec.size or _common_size([one.size for one in found])
    sizes = spec.buckets
    if sizes is True:
        sizes = buckets.choose(size, [one.size for one in found])
    if sizes:
        size = sizes[0]
    depth = spec.depth or max(one.depth for one in found)
    values = [one.values for one in seen if one.values is not None]
    asked, bounds = spec.range, spec.range
    if bounds is None and values:
        bounds = value_range(np.concatenate(values))
    spec = replace(
        spec,
        size=size,
        channels=spec.channels or _channels(found, spec),
        depth=depth,
        range=bounds,
        buckets=sizes if len(sizes) > 1 else (),
    )
    remarks = _remarks(found if source.natural is None else [], spec, source.count() - len(failed))
    return spec, remarks + _range_remarks(values, asked, bounds) + _lacking(seen)


def _range_remarks(values: list[NDArray[np.float64]], asked: Range | None, bounds: Range | None) -> list[str]:
    if not values or bounds is None:
        return ["The range has no effect: the images have no more than 8 bits."] if asked else []
    low, high = bounds
    pooled = np.concatenate(values)
    outside = float(((pooled < low) | (pooled > high)).mean()) if pooled.size else 0.0
    clipped = f" {outside:.2%} of the values lie outside and are clipped." if outside else ""
    chosen = "" if asked else f" This range was chosen from {len(values)} images; data.range sets another."
    return [f"Values of more than 8 bits: {low:g} becomes black and {high:g} white.{clipped}{chosen}"]


def _lacking(seen: list[_ImageFacts]) -> list[str]:
    count = sum(one.lacks == "scans" for one in seen)
    if not count:
        return []
    return [
        f"{count / len(seen):.0%} of the images have more than 8 bits per colour and are read at 8: "
        "pip install 'danqing[scans]' to keep all of them."
    ]


def _remarks(found: list[Natural], spec: ImageSpec, count: int) -> list[str]:
    assert spec.size is not None
    width, height = spec.size
    remarks = []
    if count < FEW:
        remarks.append(f"There are only {count} images: a model will copy them rather than learn from them.")
    if count == 1:
        remarks[0] = "There is only one image: a model will copy it rather than learn from it."
    sizes = sorted({seen.size for seen in found}, key=lambda size: size[0] * size[1])
    if len(sizes) > 1:
        (small_w, small_h), (large_w, large_h) = sizes[0], sizes[-1]
        verb = {"crop": "cropped and resized", "pad": "resized and padded", "stretch": "stretched"}[spec.fit]
        to = f"all are {verb} to {width}x{height}"
        if spec.chosen_buckets:
            to = f"each is {verb} to the nearest of {len(spec.chosen_buckets)} sizes of about the same area"
        remarks.append(f"Sizes differ, {small_w}x{small_h} to {large_w}x{large_h}: {to}.")
    small = sum(seen.size[0] * 1.5 < width or seen.size[1] * 1.5 < height for seen in found)
    if small > len(found) / 10:
        remarks.append(
            f"{small / len(found):.0%} are much smaller than {width}x{height}: choose a smaller size."
        )
    return remarks


def _common_size(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    width, height = (float(side) for side in np.median(np.array(sizes), axis=0))
    shrink = min(1.0, LARGEST / max(width, height))
    if len(set(sizes)) == 1:
        return max(4, round(width * shrink)), max(4, round(height * shrink))
    return max(8, 8 * int(width * shrink / 8 + 0.5)), max(8, 8 * int(height * shrink / 8 + 0.5))


def _channels(found: list[Natural], spec: ImageSpec) -> int:
    transparent = any(seen.transparent for seen in found)
    colour = any(seen.colour for seen in found)
    if transparent and spec.alpha == "flatten":
        colour = colour or len(set(parse_background(spec.background))) > 1
    return (3 if colour else 1) + (transparent and spec.alpha == "keep")


def _loads(record: Record) -> list[Record]:
    """Return the images of a record: its own, and the source image of a pair."""
    return [record] if record.source is None else [record, Record(record.name, record.source)]


def _look(record: Record) -> _ImageFacts | str:
    """Return the properties of an image, or why it cannot be read."""
    try:
        image = record.load()
        if isinstance(image, bytes | Path | Frame):
            header = inspect(image)
            deep = deep_values(image) if header.depth > 8 else None
            transparent = header.transparent and bool((decode(image, channels=4)[:, :, 3] < 255).any())
            natural = Natural(header.size, header.colour, transparent, 8 if deep is None else 16)
            return _ImageFacts(natural, None if deep is None else sample(deep), header.lacks)
        if isinstance(image, Deep):
            height, width, channels = image.values.shape
            return _ImageFacts(Natural((width, height), channels > 2, False, 16), sample(image))
        if isinstance(image, Image.Image):
            image = np.asarray(image.convert("RGBA"))
        height, width, channels = image.shape
        transparent = channels in (2, 4) and bool((image[:, :, -1] < 255).any())
        return _ImageFacts(Natural((width, height), channels > 2, transparent))
    except DataError as error:
        return str(error)
