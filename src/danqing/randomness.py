"""Randomness that is derived, never stored: the same (seed, purpose, numbers) always gives the same
stream.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

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


def keyed_uniform(key: bytes, purpose: str, *numbers: int, count: int) -> NDArray[np.float64]:
    """Draw uniform numbers that only the holder of a key can repeat.

    key: 32 bytes.
    Returns float64 `[count]` in (0, 1), from the output of SHAKE-256 (FIPS 202) over the key, the purpose and
    the position.
    """
    text = ":".join([purpose, *map(str, numbers)]).encode()
    words = np.frombuffer(hashlib.shake_256(key + text).digest(8 * count), "<u8")
    uniforms: NDArray[np.float64] = (words >> np.uint64(11)).astype(np.float64)
    uniforms += 0.5
    uniforms *= 2.0**-53
    return uniforms


def keyed_normal(key: bytes, purpose: str, *numbers: int, count: int) -> NDArray[np.float64]:
    """Draw standard normal numbers `[count]` as `keyed_uniform` draws uniform ones.

    Two uniform numbers give two normal ones (Box and Muller 1958).
    """
    half = -(-count // 2)
    first, second = keyed_uniform(key, purpose, *numbers, count=2 * half).reshape(2, half)
    radius, angle = np.sqrt(-2 * np.log(first)), 2 * np.pi * second
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
