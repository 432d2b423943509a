"""A safetensors file that is read on demand: rows of a tensor, or a part of its bytes."""

import json
import struct
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danqing.errors import DataError


class TensorFile:
    """A safetensors file that is read at offsets, not mapped into memory.

    A mapped page counts as this process's memory, a shuffled epoch touches all pages, and a kernel may map 2
    MiB around each. Reading at an offset is as fast, and memory does not grow with the data.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with this object
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        (length,) = struct.unpack("<Q", self._read(0, 8))
        self._start = 8 + length
        self._layout: dict[str, dict[str, Any]] = json.loads(self._read(8, length))

    def __contains__(self, name: str) -> bool:
        return name in self._layout

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._layout[name]["shape"])

    def dtype(self, name: str) -> str:
        """Return the number format of a tensor, as safetensors calls it."""
        return str(self._layout[name]["dtype"])

    def rows(self, name: str, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read some rows of a tensor as bytes, `[len(places), bytes per row]`."""
        start, end = self._layout[name]["data_offsets"]
        length = (end - start) // max(1, self.shape(name)[0])
        result = np.empty((len(places), length), np.uint8)
        if len(places) > 1 and (np.diff(places) == 1).all():
            self._read_into(self._start + start + int(places[0]) * length, result.data.cast("B"))
            return result
        offsets = (places * length + (self._start + start)).tolist()
        with self._lock:
            seek, read_into = self._file.seek, self._file.readinto
            for row, offset in zip(result, offsets, strict=True):
                seek(offset)
                if read_into(row) != length:
                    raise DataError(
                        f"{self._file.name} ends too early: delete its folder, and it is built again."
                    )
        return result

    def part(self, name: str, start: int, end: int) -> bytes:
        """Read the bytes from `start` to `end` of a tensor."""
        return self._read(self._start + self._layout[name]["data_offsets"][0] + start, end - start)

    def _read(self, offset: int, length: int) -> bytes:
        result = bytearray(length)
        self._read_into(offset, memoryview(result))
        return bytes(result)

    def _read_into(self, offset: int, target: memoryview) -> None:
        with self._lock:
            self._file.seek(offset)
            done = 0
            while done < len(target):  # one call reads 2 GiB at most
                count = self._file.readinto(target[done:])
                if not count:
                    raise DataError(
                        f"{self._file.name} ends too early: delete its folder, and it is built again."
                    )
                done += count
