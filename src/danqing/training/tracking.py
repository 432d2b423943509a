"""What a run writes down while it goes: exact averages, and lines that a resumed run repeats exactly."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danqing.errors import TrainingError


class Meter:
    """Averages of scalars between two lines of the log, kept as sums on the device so that no step waits for
    it.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, prefix: str, logged: Mapping[str, Tensor]) -> None:
        """Take in the scalars of one loss."""
        for name, value in logged.items():
            key = f"{prefix}/{name}"
            value = value.detach().to(torch.float32)
            self.sums[key] = self.sums[key] + value if key in self.sums else value
            self.counts[key] = self.counts.get(key, 0) + 1

    def drain(self) -> dict[str, float]:
        """The averages since the last call, by name: a resumed run must write its lines in the same order."""
        averages = {key: float(self.sums[key]) / self.counts[key] for key in sorted(self.sums)}
        self.sums, self.counts = {}, {}
        return averages


class AppendedLines:
    """A file of JSON lines that can be cut back to a known length, so that a resumed run repeats no line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)

    def append(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def sync(self) -> int:
        """Make the lines durable; the file's length in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self.path.stat().st_size

    def cut(self, length: int) -> None:
        """Forget everything behind the first `length` bytes."""
        self._file.flush()
        if self.path.stat().st_size < length:
            raise TrainingError(f"{self.path} has lost lines: restore it, or choose another --out.")
        os.truncate(self.path, length)

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def close(self) -> None:
        self._file.close()
