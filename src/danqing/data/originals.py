"""Images of a source at their own size, one after the other, without a cache."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from danqing.data.records import ImageSpec, Loaded
from danqing.data.sources import find_source
from danqing.errors import DataError
from danqing.image_files import Frame, convert, decode
from danqing.images import Pixels, eight_bits
from danqing.names import match
from danqing.progress import ProgressCallback


class Original(NamedTuple):
    """An image as its source has it.

    pixels: uint8 `[h, w, c]`, upright and in sRGB. None if it cannot be read, and reason says why.
    """

    name: str
    pixels: Pixels | None
    reason: str = ""


class Originals:
    """The images of a source at their own size.

    most: how many there are at most, evenly spaced over the source; 0 is all.
    on_progress: receives (done, total, stage).
    Raises DataError as `open_dataset` does.
    """

    def __init__(
        self,
        data: str | Path,
        *,
        split: str = "all",
        most: int = 0,
        on_progress: ProgressCallback | None = None,
        stage: str = "Reading images",
    ) -> None:
        self._on_progress, self._stage = on_progress or (lambda done, total, stage: None), stage
        self._source, self._part = find_source(data, split)
        count = self._source.count()
        self._step = max(1, -(-count // most)) if most else 1
        self._count = -(-count // self._step)

    def __len__(self) -> int:
        """Return how many images there are, at most."""
        return self._count

    def __iter__(self) -> Iterator[Original]:
        """Yield the images, and those that cannot be read, in the order of the source."""
        records = self._source.records(ImageSpec())
        if self._part:
            records = (one for one in records if one.label is not None and match(one.label, self._part))
        for number, record in enumerate(islice(records, 0, None, self._step), 1):
            try:
                yield Original(record.name, _pixels(record.load()))
            except DataError as error:
                yield Original(record.name, None, str(error))
            self._on_progress(number, self._count, self._stage)


def _pixels(image: Loaded) -> Pixels:
    if isinstance(image, bytes | Path | Frame):
        return decode(image, alpha="keep")
    return eight_bits(convert(image, alpha="keep"))
