"""Checkpoints: one safetensors file each, whole or absent, checked by a digest when read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from danqing import atomic, weights
from danqing.errors import TrainingError

KEPT = 2

Found = tuple[dict[str, Tensor], dict[str, Any], list[str]]
"""Tensors, state, and a sentence on each newer checkpoint that is damaged."""


def write(folder: Path, images: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write the checkpoint at `images`, then delete all but the newest few.

    Raises TrainingError when the disk refuses; earlier checkpoints stay as they are.
    """
    path = folder / f"images-{images:012d}.safetensors"
    compact = {name: weights.on_its_own(tensor) for name, tensor in tensors.items()}
    metadata = {"state": json.dumps(state), "digest": _digest(compact)}
    try:
        atomic.write_bytes(path, save(compact, metadata))
    except OSError as error:
        raise TrainingError(
            f"The checkpoint cannot be written to {folder} ({error.strerror}): free some space or repair the "
            "folder, then run the same command again; it resumes from the last checkpoint."
        ) from error
    for old in _all(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def read_latest(folder: Path) -> Found | None:
    """Read the newest checkpoint that is whole; None if there is none.

    Raises TrainingError if there are checkpoints and all are damaged.
    """
    atomic.remove_leftovers(folder)
    complaints: list[str] = []
    for path in reversed(_all(folder)):
        try:
            return *_read(path), complaints
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            complaints.append(f"The checkpoint {path.name} is damaged ({error}) and was skipped.")
    if complaints:
        raise TrainingError(
            f"No checkpoint in {folder} is whole: delete the run folder to start again, or restore the files."
        )
    return None


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if _digest(tensors) != metadata["digest"]:
        raise ValueError("its content does not match its digest")
    return tensors, json.loads(metadata["state"])


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("images-*.safetensors"))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
