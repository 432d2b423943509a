"""Which training images of a run look most like a picture: nearest vectors, which are kept in a file."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing import atomic, image_files
from danqing.errors import DataError
from danqing.model.reading import reading
from danqing.service.gallery.likeness import scaled
from danqing.service.training.set_folder import SetFolder
from danqing.training.run_files import read_json
from danqing.trust.fingerprint import LENGTH, vector

Vectors = NDArray[np.int16]
Run = Callable[[Callable[[], Vectors]], Awaitable[Vectors]]
"""Runs work with pixels in a thread."""

FILE = "fingerprints-1.bin"
"""Vectors as little-endian int16, in the order of the images. The number is that of the kind of vectors."""
_MOST_RUNS = 4
_AT_ONCE = 32
_CELLS = 16
"""Of a vector, along each axis: its squares sum over so many cells of luminance."""
_UNREADABLE = np.iinfo(np.int16).min


class Match(NamedTuple):
    """An image that was trained on.

    distance: the root mean square difference of coarse structure and colours, in steps of 8 bits.
    """

    image: str
    distance: float


@dataclass(slots=True)
class _Known:
    """The training images of one run, and the vectors `[n, LENGTH]` of the first of them."""

    names: tuple[str, ...]
    options: Mapping[str, Any]
    parts: list[Vectors] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    forgotten: bool = False


class Nearest:
    """Finds training images of runs.

    Images are compared as the model saw them. A run's images never change, so their vectors are computed
    once. Those of the runs that were asked for last stay in memory: 200 bytes for each image.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def find(self, folder: Path, content: bytes, count: int, run: Run) -> list[Match]:
        """Return the images most like a picture, the most similar first.

        folder: of a finished run. content: the file of the picture. If this is cancelled, the vectors that
        were computed stay. Raises DataError where the picture cannot be decoded.
        """
        known = await self._of(folder)
        (wanted,) = await run(lambda: _vectors([content], known.options, strict=True))
        async with known.lock:
            rows = await self._rows(folder, known, run)
        found = await asyncio.to_thread(_nearest, rows, wanted, count)
        return [Match(known.names[place], distance) for place, distance in found]

    async def forget(self, folder: Path) -> None:
        """Drop the vectors of a run that is deleted."""
        if (known := self._known.pop(folder.name, None)) is not None:
            known.forgotten = True
            async with known.lock:  # so that nothing is written from now on
                pass

    async def _of(self, folder: Path) -> _Known:
        if folder.name not in self._known:
            known = await asyncio.to_thread(_read, folder)
            self._known.setdefault(folder.name, known)
        self._known.move_to_end(folder.name)
        while len(self._known) > _MOST_RUNS:
            self._known.popitem(last=False)
        return self._known[folder.name]

    async def _rows(self, folder: Path, known: _Known, run: Run) -> Vectors:
        """Return the vectors of all images, and compute those that are missing."""
        done, images = sum(map(len, known.parts)), SetFolder(folder / "data").images
        is_new = done < len(known.names)
        while done < len(known.names) and not known.forgotten:
            paths = [images / name for name in known.names[done : done + _AT_ONCE]]
            known.parts.append(await run(lambda paths=paths: _vectors(paths, known.options)))  # type: ignore[misc]
            done += len(paths)
        known.parts = [np.concatenate(known.parts)] if known.parts else [np.empty((0, LENGTH), np.int16)]
        if is_new and not known.forgotten:
            content = known.parts[0].astype("<i2").tobytes()
            with contextlib.suppress(OSError):  # a full disk costs the same work another time
                await asyncio.to_thread(atomic.write_bytes, folder / FILE, content)
        return known.parts[0]


def _read(folder: Path) -> _Known:
    """Read which images a run was trained on, how its model saw them, and the vectors that are kept."""
    entries = SetFolder(folder / "data").entries()
    dropped = _dropped(folder / "data" / "clean.csv")
    names = tuple(one.name for one in entries if one.name not in dropped)
    told = read_json(folder / "run" / "model" / "config.json")
    config, trained = told.get("model") or {}, told.get("trained") or {}
    known = _Known(names, reading(trained, (config["width"], config["height"]), config["channels"]))
    with contextlib.suppress(OSError):
        content = (folder / FILE).read_bytes()
        if len(content) == 2 * LENGTH * len(names):
            known.parts = [np.frombuffer(content, "<i2").reshape(-1, LENGTH).astype(np.int16)]
    return known


def _dropped(path: Path) -> set[str]:
    from danqing.data.clean_list import read_clean_list

    return {row.name for row in read_clean_list(path) if row.decision == "drop"} if path.exists() else set()


def _vectors(sources: Sequence[Path | bytes], options: Mapping[str, Any], *, strict: bool = False) -> Vectors:
    """Return the vectors of images `[n, LENGTH]`.

    strict: whether one that cannot be decoded raises DataError; otherwise it is marked.
    """
    rows = np.full((len(sources), LENGTH), _UNREADABLE, np.int16)
    for place, source in enumerate(sources):
        try:
            rows[place] = vector(image_files.decode(source, **options))
        except (DataError, OSError):  # training left it out
            if strict:
                raise
    return rows


def _nearest(rows: Vectors, wanted: NDArray[np.int16], count: int) -> list[tuple[int, float]]:
    """Return the places of the nearest rows with their distances, the nearest first."""
    own = np.flatnonzero((rows != _UNREADABLE).any(1))
    differences = scaled(rows[own]) - scaled(wanted[None])
    distances = np.sqrt(np.square(differences).sum(1)) / _CELLS
    best = np.lexsort((own, distances))[:count]
    return [(int(own[one]), round(float(distances[one]), 3)) for one in best]
