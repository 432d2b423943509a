"""Derived randomness: the same (seed, purpose, numbers) always gives the same stream; nothing is stored."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported where it is used: the process that answers HTTP needs only seeds
    import torch


def derived_seed(seed: int, purpose: str, *numbers: int) -> int:
    """Return a 63-bit seed for one use; `numbers` are, for example, the step and the rank."""
    text = ":".join([str(seed), purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(
    seed: int, purpose: str, *numbers: int, device: "torch.device | str" = "cpu"
) -> "torch.Generator":
    """Return a torch generator for one use; `device` is where its numbers are drawn."""
    import torch

    return torch.Generator(device).manual_seed(derived_seed(seed, purpose, *numbers))


def normal(
    seeds: Sequence[int],
    shape: Sequence[int],
    *,
    purpose: str = "latents",
    device: "torch.device | str" = "cpu",
) -> "torch.Tensor":
    """Return standard normal values `[len(seeds), *shape]`, float32; row i depends only on `seeds[i]`.

    They are drawn on the CPU, so that a seed gives the same image on every device.
    """
    import torch

    rows = [torch.randn(tuple(shape), generator=generator(seed, purpose)) for seed in seeds]
    return torch.stack(rows).to(device) if rows else torch.empty(0, *shape, device=device)


def uniform(
    seeds: Sequence[int], shape: Sequence[int], *, purpose: str, device: "torch.device | str" = "cpu"
) -> "torch.Tensor":
    """Return uniform values in [0, 1), `[len(seeds), *shape]`, float32, drawn like those of `normal`."""
    import torch

    rows = [torch.rand(tuple(shape), generator=generator(seed, purpose)) for seed in seeds]
    return torch.stack(rows).to(device) if rows else torch.empty(0, *shape, device=device)
