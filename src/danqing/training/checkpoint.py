"""Checkpoints: the newest few states of a run, each in a folder that is whole or absent.

The form of a folder is in `cluster/tensor_folder.py`. Runs of earlier versions have one file for each state,
which is still read.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from danqing.cluster import tensor_folder
from danqing.errors import DanqingError, TrainingError

KEPT = 2

Found = tuple[dict[str, Tensor], dict[str, Any], list[str]]
"""Tensors, state, and a sentence on each newer checkpoint that is damaged."""


class Writer:
    """Writes the checkpoints of a run in the background, one at a time.

    folder: of all checkpoints, which all ranks can write to.
    rank, size: of this process among those of the run. They write together.
    on_written: is called in the background when a checkpoint is on disk.
    """

    def __init__(
        self,
        folder: Path,
        rank: int = 0,
        size: int = 1,
        on_written: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder, self._rank, self._size, self._on_written = folder, rank, size, on_written
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._is_cancelled = threading.Event()

    def begin(
        self,
        images: int,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        before: Callable[[], None] = lambda: None,
        *,
        own: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Copy a state and write it in the background, then delete all but the newest few.

        It waits for the write before. The first rank must have waited too when the others begin, since it
        publishes what all have written. The caller may change the tensors and the state afterwards.
        tensors: the same on all ranks, which share the work.
        own: tensors that only this rank writes.
        state: plain values; those of the first rank count.
        before: what must be on disk before the checkpoint is; it runs in the background too.

        Raises TrainingError as `check` does.
        """
        self.wait()
        pieces = tensor_folder.copied(tensors, self._rank, self._size) | tensor_folder.copied(own)
        plain = json.loads(json.dumps(state))
        path = self._folder / f"images-{images:012d}"

        def write() -> None:
            try:
                before()
                is_published = tensor_folder.write(
                    path,
                    pieces,
                    plain,
                    rank=self._rank,
                    size=self._size,
                    is_cancelled=self._is_cancelled.is_set,
                )
                if is_published:
                    for old in checkpoints(self._folder)[:-KEPT]:
                        _remove(old)
                    self._on_written()
            except Exception as error:  # which `check` raises in the thread of the caller
                self._failure = error

        self._thread = threading.Thread(target=write, name="checkpoint", daemon=True)
        self._thread.start()

    @property
    def is_writing(self) -> bool:
        """Return whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def check(self) -> None:
        """Raise TrainingError if the disk has refused the last write; earlier checkpoints stay."""
        if self.is_writing or self._failure is None:
            return
        error, self._failure = self._failure, None
        if not isinstance(error, OSError):
            raise error
        raise TrainingError(
            f"The checkpoint cannot be written to {self._folder} ({error.strerror or error}): free some "
            "space or repair the folder, then run the same command again; it resumes from the last "
            "checkpoint."
        ) from error

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk; raises TrainingError as `check` does."""
        if self._thread is not None:
            self._thread.join()
        self.check()

    def stop(self) -> None:
        """Finish the write of this process, without waiting for those of others."""
        self._is_cancelled.set()
        if self._thread is not None:
            self._thread.join()


def checkpoints(folder: Path) -> list[Path]:
    """Return all checkpoints in a folder, oldest first."""
    return sorted(folder.glob("images-*"), key=lambda path: (path.stem, path.suffix == ""))


def read_latest(folder: Path) -> Found | None:
    """Read the newest checkpoint that is whole; None if there is none.

    Raises TrainingError if there are checkpoints and all are damaged.
    """
    complaints: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            return *(tensor_folder.read(path) if path.is_dir() else _read_file(path)), complaints
        except (OSError, ValueError, KeyError, SafetensorError, DanqingError) as error:
            complaints.append(f"The checkpoint {path.name} is damaged ({error}) and was skipped.")
    if complaints:
        raise TrainingError(
            f"No checkpoint in {folder} is whole: delete the run folder to start again, or restore the files."
        )
    return None


def _remove(path: Path) -> None:
    if path.is_dir():
        tensor_folder.remove(path)
    else:
        path.unlink(missing_ok=True)


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint that is one file, as an earlier version wrote it."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    if digest.hexdigest() != metadata["digest"]:
        raise ValueError("its content does not match its digest")
    return tensors, json.loads(metadata["state"])
