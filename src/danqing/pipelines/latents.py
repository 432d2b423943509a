"""Latents as the networks of a pipeline take them, and the autoencoder that makes them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def packed(latents: Tensor) -> Tensor:
    """Turn squares of two by two latents into channels.

    From `[n, c, h, w]` to `[n, h w / 4, 4 c]`.
    """
    n, c, h, w = latents.shape
    squares = latents.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(n, (h // 2) * (w // 2), 4 * c)


def unpacked(latents: Tensor, height: int, width: int) -> Tensor:
    """Undo `packed`; returns `[n, c, height, width]`."""
    n, _, c = latents.shape
    squares = latents.reshape(n, height // 2, width // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(n, c // 4, height, width)


@contextlib.contextmanager
def without_overflow(vae: Any) -> Iterator[None]:
    """Let an autoencoder compute in float32 where it overflows in float16.

    Its configuration says whether it does.
    """
    overflows = vae.dtype == torch.float16 and bool(vae.config.get("force_upcast"))
    if overflows:
        vae.float()
    try:
        yield
    finally:
        if overflows:
            vae.half()
