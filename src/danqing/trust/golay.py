"""The extended Golay code: blocks of 12 bits as 24, any 3 wrong bits of a block corrected.

Source: M. J. E. Golay, "Notes on digital coding", Proc. IRE 37, 1949. Decoding here is soft: it compares a
block with all 4,096 words, so it also corrects most errors of more than 3 bits that are weak.
"""

import functools

import numpy as np
from numpy.typing import NDArray

MESSAGE, BLOCK = 12, 24
"""The bits of a block before and after encoding."""
_GENERATOR = 0b110001110101
"""x^11 + x^10 + x^6 + x^5 + x^4 + x^2 + 1, which generates the code of 23 bits."""


@functools.cache
def words() -> NDArray[np.float32]:
    """Return all words of the code as signs, `[4096, 24]`.

    A bit 0 is +1 and a bit 1 is -1. The message comes first.
    """
    messages = np.arange(1 << MESSAGE, dtype=np.int64)
    remainder = messages << (BLOCK - 1 - MESSAGE)
    for bit in range(BLOCK - 2, BLOCK - 2 - MESSAGE, -1):
        remainder ^= np.where(remainder >> bit & 1, _GENERATOR << (bit - (BLOCK - 1 - MESSAGE)), 0)
    words = messages << (BLOCK - 1 - MESSAGE) | remainder
    bits = words[:, None] >> np.arange(BLOCK - 2, -1, -1) & 1
    parity = bits.sum(1, keepdims=True) & 1
    signs = (1 - 2 * np.concatenate([bits, parity], axis=1)).astype(np.float32)
    signs.flags.writeable = False
    return signs


def encode(number: int, blocks: int) -> NDArray[np.float32]:
    """Encode a number as signs `[24 * blocks]`.

    number: only its lowest 12 * blocks bits count; the lowest 12 are the first block.
    """
    places = [number >> (MESSAGE * block) & ((1 << MESSAGE) - 1) for block in range(blocks)]
    return words()[places].reshape(-1)


def decode(values: NDArray[np.float32]) -> tuple[int, NDArray[np.float32]]:
    """Return the number whose signs correlate most with values.

    values: `[24 * blocks]`. Also returns the correlation of each block with all words, `[blocks, 4096]`.
    """
    correlations = values.reshape(-1, BLOCK) @ words().T
    best = correlations.argmax(1)
    return sum(int(message) << (MESSAGE * block) for block, message in enumerate(best)), correlations
