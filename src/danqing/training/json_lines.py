"""Files of JSON lines that a resumed run can continue exactly."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danqing.errors import TrainingError
from danqing.text_encoding import lines_of


class AppendedLines:
    """A file of JSON lines that can be cut shorter.

    A resumed run cuts it, so that no line is written twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)

    def append(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    @property
    def length(self) -> int:
        """Return the length of the file in bytes."""
        return self.path.stat().st_size

    def sync(self) -> None:
        """Make the lines durable; another thread may call it."""
        os.fsync(self._file.fileno())

    def cut(self, length: int) -> None:
        """Remove everything after the first `length` bytes.

        Raises TrainingError if the file is shorter.
        """
        self._file.flush()
        if self.path.stat().st_size < length:
            raise TrainingError(f"{self.path} has lost lines: restore it, or choose another --out.")
        os.truncate(self.path, length)

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in lines_of(self.path.read_text(encoding="utf-8"))]

    def close(self) -> None:
        self._file.close()
