"""The size and channels of a data set, where the user leaves them open."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from danqing.data.records import ImageSpec, Natural, Record, Source
from danqing.errors import DataError
from danqing.images import decode, inspect, parse_background

SAMPLE = 1000
FEW = 100
LARGEST = 128
"""The longest side that is chosen unasked; larger ones cost much and are for the user to ask for."""


def resolve(source: Source, spec: ImageSpec) -> tuple[ImageSpec, list[str]]:
    """`spec` with what it leaves open decided from up to `SAMPLE` records, and remarks on those.

    Size: that of the images if all agree, otherwise the median width and height in multiples of 8; shrunk
    until the longer side is at most `LARGEST`. Channels: grey if all are grey, otherwise colour; alpha if it
    is to be kept and any image is really transparent somewhere.
    """
    if source.natural is not None:
        found = [source.natural]
    else:
        step = max(1, source.count() // SAMPLE)
        records = islice(source.records(spec), 0, None, step)
        found = [seen for record in records if (seen := _look(record)) is not None]
    if not found:
        raise DataError(f"No picture of {source.about.name} can be read: check that these are images.")
    size = spec.size or _common_size([seen.size for seen in found])
    spec = replace(spec, size=size, channels=spec.channels or _channels(found, spec))
    return spec, _remarks(found if source.natural is None else [], spec, source.count())


def _remarks(found: list[Natural], spec: ImageSpec, count: int) -> list[str]:
    assert spec.size is not None
    width, height = spec.size
    remarks = []
    if count < FEW:
        remarks.append(f"{count} pictures are few: a model will copy them rather than learn from them.")
    sizes = sorted({seen.size for seen in found}, key=lambda size: size[0] * size[1])
    if len(sizes) > 1:
        (small_w, small_h), (large_w, large_h) = sizes[0], sizes[-1]
        verb = {"crop": "cropped and resized", "pad": "resized and padded", "stretch": "stretched"}[spec.fit]
        remarks.append(
            f"Sizes differ, {small_w}x{small_h} to {large_w}x{large_h}: all are {verb} to {width}x{height}."
        )
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


def _look(record: Record) -> Natural | None:
    try:
        image = record.load()
        if isinstance(image, bytes | Path):
            size, colour, may_be_transparent = inspect(image)
            if not may_be_transparent:
                return Natural(size, colour, False)
            pixels = decode(image, channels=4)
            return Natural(size, colour, bool((pixels[:, :, 3] < 255).any()))
        if isinstance(image, Image.Image):
            image = np.asarray(image.convert("RGBA"))
        height, width, channels = image.shape
        transparent = channels in (2, 4) and bool((image[:, :, -1] < 255).any())
        return Natural((width, height), channels > 2, transparent)
    except DataError:
        return None
