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
LARGEST = 128
"""The longest side that is chosen unasked; larger ones cost much and are for the user to ask for."""


def resolve(source: Source, spec: ImageSpec) -> ImageSpec:
    """`spec` with what it leaves open decided from up to `SAMPLE` records, evenly spaced.

    Size: that of the images if all agree, otherwise the median width and height in multiples of 8; shrunk
    until the longer side is at most `LARGEST`. Channels: grey if all are grey, otherwise colour; alpha if it
    is to be kept and any image is really transparent somewhere.
    """
    if spec.size is not None and spec.channels:
        return spec
    if source.natural is not None:
        found = [source.natural]
    else:
        step = max(1, source.count() // SAMPLE)
        records = islice(source.records(spec), 0, None, step)
        found = [seen for record in records if (seen := _look(record)) is not None]
    if not found:
        raise DataError(f"No picture of {source.about.name} can be read: check that these are images.")
    size = spec.size or _common_size([seen.size for seen in found])
    return replace(spec, size=size, channels=spec.channels or _channels(found, spec))


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
