"""Flicker: how much the frames of an edited film change beyond what the film itself changes."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from danqing.editing import files


def flicker_of(frames: Iterable[tuple[str, bytes, bytes]]) -> float | None:
    """Compute the flicker of an edited film.

    It is the mean absolute difference between successive outputs minus that between the inputs, as a share of
    the range from black to white, averaged over the film. 0 means that the edit adds no change; it is
    negative if the edit makes the film calmer. Frames whose sizes differ from the ones before are left out.

    frames: of each, the name and the contents of the input's and the output's file, in their order.
    Returns None for fewer than two frames.
    """
    before: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
    changes = []
    for _, source, result in frames:
        now = _unit(source), _unit(result)
        if before is not None and all(a.shape == b.shape for a, b in zip(before, now, strict=True)):
            source_change, result_change = (
                float(np.abs(b - a).mean()) for a, b in zip(before, now, strict=True)
            )
            changes.append(result_change - source_change)
        before = now
    return float(np.mean(changes)) if changes else None


def _unit(content: bytes) -> NDArray[np.float32]:
    values, _ = files.read(content)
    unit: NDArray[np.float32] = values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    return unit
