"""Randomness that is derived, never stored: the same (seed, purpose, numbers) always gives the same
stream.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from danqing.errors import ConfigError

if TYPE_CHECKING:  # torch is imported where it is used: the process that answers HTTP needs seeds alone
    import torch


_LATENTS = "latents"
_TINY = 2.0**-25
"""Half the distance between 1 and the float32 before it; uniform values are kept so far from 0 and 1."""


class SeedMix(int):
    """A seed whose noise lies between the noise of several seeds.

    As a number it is the seed with the largest share, which decides what cannot be mixed, such as a label
    that is drawn.

    parts: (seed, share) of each seed with a share.
    """

    parts: tuple[tuple[int, float], ...]

    def __new__(cls, parts: Sequence[tuple[int, float]]) -> Self:
        """Mix seeds.

        parts: (seed, share) of each; shares are from 0 on and need not add up to 1.
        Raises ConfigError for other shares, and if all are 0.
        """
        if any(not 0 <= share < math.inf for _, share in parts):
            raise ConfigError("The share of a seed in a mix is a number from 0 on.")
        kept = tuple((seed, share) for seed, share in parts if share > 0)
        if not kept:
            raise ConfigError("A mix of seeds needs one with a share above 0.")
        mixed = super().__new__(cls, max(kept, key=lambda part: part[1])[0])
        mixed.parts = kept
        return mixed

    @property
    def weights(self) -> list[tuple[int, float]]:
        """Return the seeds with weights whose squares add up to 1."""
        length = math.hypot(*(share for _, share in self.parts))
        return [(seed, share / length) for seed, share in self.parts]


class MovedSeed(int):
    """A seed whose latents are moved by a vector.

    What else is drawn from it, such as a label, is that of the seed.

    seed: may be a `SeedMix`. by: float32, as long as the latents of an image.
    """

    seed: int
    by: NDArray[np.float32]

    def __new__(cls, seed: int, by: NDArray[np.float32]) -> Self:
        """Move a seed."""
        moved = super().__new__(cls, seed)
        moved.seed, moved.by = seed, by
        return moved


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
    purpose: str = _LATENTS,
    device: "torch.device | str" = "cpu",
) -> "torch.Tensor":
    """Draw standard normal values `[len(seeds), *shape]`, float32.

    Row i depends on `seeds[i]` alone. They are drawn on the CPU, so that a seed gives the same image on every
    device. Those of a `SeedMix` are a weighted sum, which is standard normal too. The latents of a
    `MovedSeed` are moved.
    """
    import torch

    def draw(seed: int) -> "torch.Tensor":
        return torch.randn(tuple(shape), generator=generator(seed, purpose))

    def drawn(seed: int) -> "torch.Tensor":
        if isinstance(seed, MovedSeed):
            still = drawn(seed.seed)
            return still + torch.from_numpy(seed.by).view_as(still) if purpose == _LATENTS else still
        return _mixed(seed, draw) if isinstance(seed, SeedMix) else draw(seed)

    rows = [drawn(seed) for seed in seeds]
    return torch.stack(rows).to(device) if rows else torch.empty(0, *shape, device=device)


def uniform(
    seeds: Sequence[int], shape: Sequence[int], *, purpose: str, device: "torch.device | str" = "cpu"
) -> "torch.Tensor":
    """Draw uniform values in [0, 1), `[len(seeds), *shape]`, float32.

    They are drawn as those of `normal`. Those of a `SeedMix` are the normal values with the same
    probabilities, mixed and turned back, so that they are uniform too (a Gaussian copula).
    """
    import torch

    def draw(seed: int) -> "torch.Tensor":
        return torch.rand(tuple(shape), generator=generator(seed, purpose))

    def mixed(mix: SeedMix) -> "torch.Tensor":
        if len(mix.parts) == 1:
            return draw(mix)
        inner = _mixed(mix, lambda seed: torch.special.ndtri(draw(seed).double().clamp(_TINY, 1 - _TINY)))
        values: torch.Tensor = torch.special.ndtr(inner).clamp(max=1 - 2 * _TINY).float()
        return values

    still = [seed.seed if isinstance(seed, MovedSeed) else seed for seed in seeds]
    rows = [mixed(seed) if isinstance(seed, SeedMix) else draw(seed) for seed in still]
    return torch.stack(rows).to(device) if rows else torch.empty(0, *shape, device=device)


def _mixed(mix: SeedMix, draw: "Callable[[int], torch.Tensor]") -> "torch.Tensor":
    """Return the weighted sum of what each seed of a mix draws."""
    first, *others = mix.weights
    total = first[1] * draw(first[0])
    for seed, weight in others:
        total = total + weight * draw(seed)
    return total


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
