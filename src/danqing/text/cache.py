"""A cache of how texts are read: in bounded memory, and on disk where a folder is given."""

import contextlib
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from danqing import atomic, weights
from danqing.text.bpe import MOST_CHARACTERS

MEMORY = 256 * 2**20
"""The most bytes of rows in memory."""
_SHARD = 256
"""Rows that are written to the disk together."""


class MakesRows(Protocol):
    """A reader of single texts.

    `row` turns a text into ids `[tokens]` or hidden states `[tokens, width]`. `measure` returns how many
    tokens a text has, and how many of them are read where a row has `length`.
    """

    def row(self, text: str) -> Tensor: ...
    def measure(self, text: str, length: int) -> tuple[int, int]: ...


class RememberedRows:
    """A `TextEncoder` that calls `maker` once per text and caches the rows.

    Each text is read on its own, so that no other one changes its row. A copy is the same object, since the
    cache depends on the texts alone.
    """

    def __init__(self, maker: MakesRows, length: int, *, name: str, memory: int = MEMORY) -> None:
        self._maker, self._length, self._name, self._memory = maker, length, name, memory
        self._rows: OrderedDict[str, Tensor] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()
        self._disk: _Shards | None = None

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def keep_in(self, folder: Path) -> None:
        """Write rows below a folder too, and read those written before."""
        self._disk = _Shards(folder / self._name)

    def flush(self) -> None:
        """Write the rows that are not yet on disk."""
        if self._disk is not None:
            self._disk.flush()

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Encode texts as ids or hidden states.

        Returns ids `[n, length]` or hidden states `[n, length, width]`, zeros beyond the end of each text.
        """
        # A row that is computed while sampling may later be a part of a training step.
        with self._lock, torch.inference_mode(False), torch.no_grad():
            rows = [self._row(text[:MOST_CHARACTERS]) for text in texts or ("",)]
            result = torch.zeros(len(rows), self._length, *rows[0].shape[1:], dtype=rows[0].dtype)
            for place, row in zip(result, rows, strict=True):
                place[: len(row)] = row
        return result[: len(texts)]

    def measure(self, text: str) -> tuple[int, int]:
        """Return how many tokens a text has, and how many are read."""
        return self._maker.measure(text.encode("utf-8", "replace").decode(), self._length)

    def _row(self, text: str) -> Tensor:
        row = self._rows.get(text)
        if row is not None:
            self._rows.move_to_end(text)
            return row
        key = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() if self._disk else ""
        row = self._disk.get(key) if self._disk else None
        if row is None:
            row = self._maker.row(text.encode("utf-8", "replace").decode())[: self._length].clone()
            if self._disk:
                self._disk.put(key, row)
        self._rows[text] = row
        self._held += row.nbytes
        while self._held > self._memory and len(self._rows) > 1:
            self._held -= self._rows.popitem(last=False)[1].nbytes
        return row


class _Shards:
    """Rows in safetensors files, named by the sha256 of their text; several processes may add to them.

    What cannot be read or written is computed again: these files save time and nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, Path] = {}
        self._new: dict[str, Tensor] = {}
        atomic.touch(folder)
        for path in sorted(folder.glob("*.safetensors")):
            with contextlib.suppress(SafetensorError, OSError), safe_open(path, "pt") as file:
                self._places |= dict.fromkeys(file.keys(), path)

    def get(self, key: str) -> Tensor | None:
        if key in self._new or key not in self._places:
            return self._new.get(key)
        try:
            with safe_open(self._places[key], "pt") as file:
                row: Tensor = file.get_tensor(key)
        except (SafetensorError, OSError):
            return None
        return row.clone()  # not a view of a file that may be replaced

    def put(self, key: str, row: Tensor) -> None:
        self._new[key] = row
        if len(self._new) >= _SHARD:
            self.flush()

    def flush(self) -> None:
        if not self._new:
            return
        name = hashlib.sha256("".join(sorted(self._new)).encode()).hexdigest()[:32]
        path = self._folder / f"{name}.safetensors"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            atomic.write_bytes(path, weights.to_bytes(self._new, {"format": "pt"}))
        except OSError:
            return
        finally:
            rows, self._new = self._new, {}
        self._places |= dict.fromkeys(rows, path)
