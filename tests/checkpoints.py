"""The newest checkpoint of a run, for tests that look into it."""

from pathlib import Path
from typing import Any

from torch import Tensor

from danqing.training import checkpoint


def newest(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the state of the newest checkpoint of a run."""
    found = checkpoint.read_latest(run / "checkpoints")
    assert found is not None
    return found[0], found[1]


def write(folder: Path, images: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write a checkpoint and wait for it; returns its folder."""
    writer = checkpoint.Writer(folder)
    writer.begin(images, tensors, state)
    writer.wait()
    return checkpoint.checkpoints(folder)[-1]
