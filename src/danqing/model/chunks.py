"""Computes images in chunks of a fixed size, with previews while a family samples in steps.

A matrix product of another size may round differently, and an image must not depend on how many others are
requested. So each chunk has as many rows as the family says, and the first rows fill up the last chunk.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danqing.errors import ConfigError
from danqing.families.abilities import PaintsInSteps
from danqing.families.base import Condition, Family, FamilyConfig
from danqing.images import Images, to_float, to_uint8
from danqing.marks import Marks

OnPainting = Callable[[int, int, Callable[[], Images]], None]
"""A function that is called after each step, with the steps done, the steps in all, and a function that
returns the images so far, without those that have not begun. To stop sampling, it raises an exception of its
own."""


def in_chunks(compute: Callable[[list[int]], Tensor], n: int, chunk: int) -> Tensor:
    """Compute `n` rows in chunks; returns them on the CPU.

    compute: called with the numbers of `chunk` rows, returns one result for each.
    Raises ConfigError where `n` is 0.
    """
    if n == 0:
        raise ConfigError("Give at least one image.")
    results = []
    with torch.inference_mode():
        for start in range(0, n, chunk):
            rows = [row % n for row in range(start, start + chunk)]
            results.append(compute(rows)[: n - start].cpu())
    return torch.cat(results)


def sample_in_chunks(
    family: Family,
    draw: Callable[..., Tensor],
    condition: Callable[[list[int]], Condition],
    seeds: Sequence[int],
    options: Mapping[str, Any],
    on_step: OnPainting | None,
    marks: Marks | None = None,
) -> Images:
    """Sample one image per seed.

    draw: called with the numbers of rows, their condition, and by keyword their seeds, the options and, for a
        family that samples in steps, `on_step`; returns images `[n, c, h, w]` in [-1, 1].
    condition: gives the condition of some rows.
    marks: of the images, and of previews.
    """
    n, finished = len(seeds), list[Tensor]()
    chunks = -(-n // family.chunk)
    in_steps = isinstance(family, PaintsInSteps)

    def report(done: int, total: int, preview: Callable[[], Tensor]) -> None:
        assert on_step is not None
        shown = functools.partial(_preview, finished.copy(), preview, n, marks)
        on_step(len(finished) * total + done, chunks * total, shown)

    def compute(rows: list[int]) -> Tensor:
        callback = {"on_step": report} if in_steps and on_step is not None else {}
        images = draw(rows, condition(rows), seeds=[seeds[row] for row in rows], **options, **callback)
        if on_step is not None and not in_steps:
            report(1, 1, lambda: images)
        finished.append(to_uint8(images).cpu())
        return finished[-1]

    return Images(in_chunks(compute, n, family.chunk), marks)


def pixels_of(
    images: Images, config: FamilyConfig, device: torch.device, *, of_source: bool = False
) -> Callable[[list[int]], Tensor]:
    """Return a function that gives some images as floats.

    They are `[n, c, h, w]` on a device.
    of_source: whether they are source images, which may have another size and other channels.
    Raises ConfigError where they do not have the size and the channels of the model.
    """
    width, height = config.source_size if of_source else (config.width, config.height)
    channels = (config.source_channels if of_source else 0) or config.channels
    pixels = torch.from_numpy(np.ascontiguousarray(images.array))  # images[::-1] is a view
    if tuple(pixels.shape[1:]) != (height, width, channels):
        raise ConfigError(
            f"This model takes images of {width}x{height} with {channels} channels, "
            f"and these have {pixels.shape[2]}x{pixels.shape[1]} with {pixels.shape[3]}: resize them first."
        )
    return lambda rows: to_float(pixels[rows]).to(device)


def frames_to_uint8(frames: Tensor) -> Tensor:
    """Turn float frames into uint8.

    From `[n, steps, c, h, w]` in [-1, 1] to `[n, steps, h, w, c]`.
    """
    n, steps, channels, height, width = frames.shape
    return to_uint8(frames.flatten(0, 1)).reshape(n, steps, height, width, channels)


def _preview(
    finished: Sequence[Tensor], preview: Callable[[], Tensor], n: int, marks: Marks | None
) -> Images:
    """Return the images that are finished, and the next ones as they are so far."""
    return Images(torch.cat([*finished, to_uint8(preview()).cpu()])[:n], marks)
