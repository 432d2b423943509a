"""Randomness that is derived, never stored: the same (seed, purpose, numbers) always gives the same
stream.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported where it is used: the process that answers HTTP needs seeds alone
    import torch


def derived_seed(seed: int, purpose: str, *numbers: int) -> int:
    """Return a 63-bit seed for one use.

    numbers: the position in the run, for instance the step and the rank.
    """
    text = ":".join([str(seed), purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(
    seed: int, purpose: str, *numbers: int, device: "torch.device | str" = "cpu"
) -> "torch.Generator":
    """Return a torch generator for one use.

    device: where its numbers are drawn.
    """
    import torch

    return torch.Generator(device).manual_seed(derived_seed(seed, purpose, *numbers))


def normal(
    seeds: Sequence[int],
    shape: Sequence[int],
    *,
    purpose: str = "latents",
    device: "torch.device | str" = "cpu",
) -> "torch.Tensor":
    """Draw standard normal values `[len(seeds), *shape]`, float32.

    Row i depends on `seeds[i]` alone. They are drawn on the CPU, so that a seed gives the same image on every
    device.
    """
    import torch

    rows = [torch.randn(tuple(shape), generator=generator(seed, purpose)) for seed in seeds]
    return torch.stack(rows).to(device) if rows else torch.empty(0, *shape, device=device)


def uniform(
    seeds: Sequence[int], shape: Sequence[int], *, purpose: str, device: "torch.device | str" = "cpu"
) -> "torch.Tensor":
    """Draw uniform values in [0, 1), `[len(seeds), *shape]`, float32.

    They are drawn as those of `normal`.
    """
    import torch

    rows = [torch.rand(tuple(shape), generator=generator(seed, purpose)) for seed in seeds]
    return torch.stack(rows).to(device) if rows else torch.empty(0, *shape, device=device)
