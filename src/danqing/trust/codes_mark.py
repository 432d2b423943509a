"""The mark in the codes of a transformer: it favours codes that only the holder of a key can list.

At each place of an image, a key favours a quarter of all kinds of codes. While a transformer samples, the
logits of codes of these kinds are raised. An image is recognized by its codes alone: too many of them are of
a favoured kind. (Kirchenbauer et al. 2023, "A Watermark for Large Language Models", sections 3 and 4.)

An image that becomes codes again has other codes at many places, so two things differ from text. What is
favoured depends on the place and not on the codes before it, which would be lost with any of them. And it
depends on the kind of a code: similar codes, which replace each other when an image becomes codes again, are
of one kind.
"""

import functools
import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRENGTH = 3.0
"""What is added to the logits of favoured codes."""
SHARE = 0.25
"""The share of kinds that are favoured."""
KINDS = 32
_ROUNDS = 30


@dataclass(frozen=True, slots=True)
class CodesDetection:
    """How many places of an image have a favoured code.

    p_value: the probability that a random key favours at least so many. It is exact for any image that was
    not made with the key. favoured, count: of the places.
    """

    p_value: float
    favoured: int
    count: int


@dataclass(frozen=True, slots=True)
class CodesMark:
    """The mark of a key.

    secret: at least 16 bytes, which are never shown.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) < 16:
            raise ValueError(f"expected a secret of at least 16 bytes, got {len(self.secret)}")

    def favoured(self, places: int, kinds: int) -> NDArray[np.bool_]:
        """Return which kinds are favoured at each place, `[places, kinds]`."""
        return _favoured(self.secret, places, kinds)

    def detect(self, found: NDArray[np.int64], kinds: int) -> CodesDetection:
        """Count the places of an image whose code is favoured.

        found: the kind at each place, `[places]`, below `kinds`.
        """
        favoured = int(self.favoured(len(found), kinds)[np.arange(len(found)), found].sum())
        return CodesDetection(p_value(favoured, len(found)), favoured, len(found))


def kinds_of(vectors: NDArray[Any]) -> NDArray[np.int64]:
    """Return the kind of each code, `[vocabulary]`, below `KINDS`.

    vectors: `[vocabulary, width]`, near each other where codes are similar. They are grouped by Lloyd's
    k-means, which begins at evenly spaced codes and uses no random numbers.
    """
    values = np.asarray(vectors, np.float64)
    vocabulary, width = values.shape
    if vocabulary <= KINDS:
        return np.arange(vocabulary)
    centres = values[np.linspace(0, vocabulary - 1, KINDS).round().astype(np.int64)]
    kinds = np.zeros(vocabulary, np.int64)
    for _ in range(_ROUNDS):
        kinds = ((centres**2).sum(1) - 2 * values @ centres.T).argmin(1)
        sizes = np.bincount(kinds, minlength=KINDS)
        sums = np.stack([np.bincount(kinds, values[:, axis], KINDS) for axis in range(width)], axis=1)
        centres = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)
    return kinds


def p_value(favoured: int, places: int) -> float:
    """Return the probability of so many favoured places by chance.

    It is the probability that a random key favours at least so many.
    """
    logs = (
        math.lgamma(places + 1)
        - math.lgamma(each + 1)
        - math.lgamma(places - each + 1)
        + each * math.log(SHARE)
        + (places - each) * math.log(1 - SHARE)
        for each in range(favoured, places + 1)
    )
    return min(1.0, math.fsum(map(math.exp, logs)))


@functools.lru_cache(4)
def _favoured(secret: bytes, places: int, kinds: int) -> NDArray[np.bool_]:
    """Favour each kind at each place independently: where its byte of SHAKE-256 is small."""
    head = f"danqing codes mark 1, {len(secret)}, {places}, {kinds}: ".encode()
    drawn = np.frombuffer(hashlib.shake_256(head + secret).digest(places * kinds), np.uint8)
    favoured: NDArray[np.bool_] = drawn.reshape(places, kinds) < round(256 * SHARE)
    favoured.flags.writeable = False
    return favoured
