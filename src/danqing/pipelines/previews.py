"""What images look like before they are finished: the decoder's view of their latents, at a small size."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.pipelines.latents import unpacked, without_overflow

_MOST = 64
"""Latents along the longer side of a preview: decoding more takes long."""


def decoded(pipe: Any, latents: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the images `[n, 3, h, w]` in [-1, 1] of latents.

    latents: as the pipeline passes them to its callback. size: (width, height) of the images.
    """
    width, height = size
    maps = latents
    if latents.dim() == 3:
        columns, rows = (side // pipe.vae_scale_factor // 2 * 2 for side in size)
        maps = unpacked(latents, rows, columns)
    sides = maps.shape[-2:]
    if max(sides) > _MOST:
        small = [max(1, side * _MOST // max(sides)) for side in sides]
        maps = F.interpolate(maps.float(), size=small, mode="area")
    with torch.no_grad(), without_overflow(pipe.vae):
        images = _decode(pipe.vae, maps.to(pipe.vae.dtype))
    return F.interpolate(images.float(), size=(height, width), mode="bilinear").clamp(-1, 1)


def _decode(vae: Any, latents: Tensor) -> Tensor:
    config = vae.config
    scaled, shift = latents / (config.get("scaling_factor") or 1.0), config.get("shift_factor") or 0.0
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        shift, deviation = (
            torch.tensor(values, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        scaled = scaled * deviation
    if "z_dim" in config:  # of films, whose frames are an axis
        frame: Tensor = vae.decode((scaled + shift)[:, :, None], return_dict=False)[0][:, :, 0]
        return frame
    decoded: Tensor = vae.decode(scaled + shift, return_dict=False)[0]
    return decoded
