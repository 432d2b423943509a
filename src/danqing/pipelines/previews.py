"""What images look like before they are finished: the decoder's view of their latents, at a small size."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_MOST = 64
"""Latents along the longer side of a preview: decoding more takes long."""


def decoded(pipe: Any, latents: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the images `[n, 3, h, w]` in [-1, 1] of latents.

    latents: as the pipeline passes them to its callback. size: (width, height) of the images.
    """
    width, height = size
    maps = _unpacked(latents, pipe.vae_scale_factor, size) if latents.dim() == 3 else latents
    shrink = max(1.0, max(maps.shape[-2:]) / _MOST)
    if shrink > 1:
        maps = F.interpolate(maps.float(), scale_factor=1 / shrink, mode="area")
    with torch.no_grad():
        images = _decode(pipe.vae, maps.to(pipe.vae.dtype))
    return F.interpolate(images.float(), size=(height, width), mode="bilinear").clamp(-1, 1)


def _unpacked(latents: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """Return maps `[n, c, h, w]` of latents whose 2x2 patches are rows `[n, patches, 4 c]`."""
    columns, rows = size[0] // factor // 2, size[1] // factor // 2
    patches = latents.reshape(len(latents), rows, columns, -1, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def _decode(vae: Any, latents: Tensor) -> Tensor:
    config = vae.config
    if "z_dim" in config and config.get("latents_mean") is not None:
        mean, std = (
            torch.tensor(values, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        images: Tensor = vae.decode((latents * std + mean)[:, :, None], return_dict=False)[0][:, :, 0]
        return images
    scaled = latents / (config.get("scaling_factor") or 1.0) + (config.get("shift_factor") or 0.0)
    decoded: Tensor = vae.decode(scaled, return_dict=False)[0]
    return decoded
