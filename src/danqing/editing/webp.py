"""How a WebP file was encoded: without loss, or with which quality (RFC 6386 and 9649)."""

from collections.abc import Iterator

_LAST_INDEX = 127
"""The index of the coarsest quantiser."""
_SEGMENTS = 4
_FRAME_HEADER = 10


def encoding(content: bytes) -> dict[str, bool | float]:
    """Return the options of Pillow that match a WebP file.

    With them, Pillow encodes pixels as those of the file were encoded.
    """
    for kind, body in _chunks(content):
        if kind == b"VP8L":
            return {"lossless": True}
        if kind == b"VP8 ":
            return {"lossless": False, "quality": _quality(body)}
    return {"lossless": True}


def _quality(frame: bytes) -> float:
    """Return the quality, from 0 to 100, for which libwebp would choose the quantisers of a frame.

    Its rule: index = 127 (1 - c), where c is the cube root of 2/3 of the quality q (from 0 to 1), or of
    2 q - 1 above 0.75 (libwebp, src/enc/quant_enc.c). Segments vary around it.
    """
    indices = _quantizer_indices(frame[_FRAME_HEADER:])
    linear = (1 - sum(indices) / len(indices) / _LAST_INDEX) ** 3
    return round(100 * (1.5 * linear if linear < 0.5 else (linear + 1) / 2), 1)


def _quantizer_indices(partition: bytes) -> list[int]:
    """Read the quantiser of each segment from a frame's header (RFC 6386, section 9.3 to 9.6)."""
    bits = _Bits(partition)
    bits.take(2)  # colour space and clamping
    segments, is_absolute = [0], False
    if bits.take(1):
        has_map, has_values = bits.take(1), bits.take(1)
        if has_values:
            is_absolute = bool(bits.take(1))
            segments = [bits.take_signed(7) for _ in range(_SEGMENTS)]
            for _ in range(_SEGMENTS):
                bits.take_signed(6)  # of the loop filter
        if has_map:
            for _ in range(_SEGMENTS - 1):
                if bits.take(1):
                    bits.take(8)
    bits.take(10)  # type, level and sharpness of the loop filter
    if bits.take(1) and bits.take(1):
        for _ in range(8):
            bits.take_signed(6)
    bits.take(2)  # the number of partitions
    base = bits.take(7)
    indices = segments if is_absolute else [base + each for each in segments]
    return [min(max(index, 0), _LAST_INDEX) for index in indices]


class _Bits:
    """Bits of even odds from the arithmetic decoder of VP8 (RFC 6386, section 7.3)."""

    def __init__(self, content: bytes) -> None:
        self._bytes = iter(content)
        self._value = self._next() << 8 | self._next()
        self._range, self._shifted = 255, 0

    def take(self, count: int) -> int:
        """Read a number, its highest bit first."""
        number = 0
        for _ in range(count):
            number = number << 1 | self._bit()
        return number

    def take_signed(self, count: int) -> int:
        """Read a number and its sign if a bit says that there is one; otherwise it is 0."""
        if not self._bit():
            return 0
        size = self.take(count)
        return -size if self._bit() else size

    def _bit(self) -> int:
        split = 1 + ((self._range - 1) * 128 >> 8)
        bit = int(self._value >= split << 8)
        if bit:
            self._range -= split
            self._value -= split << 8
        else:
            self._range = split
        while self._range < 128:
            self._value, self._range, self._shifted = self._value << 1, self._range << 1, self._shifted + 1
            if self._shifted == 8:
                self._value, self._shifted = self._value | self._next(), 0
        return bit

    def _next(self) -> int:
        return next(self._bytes, 0)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 12
    while place + 8 <= len(content):
        length = int.from_bytes(content[place + 4 : place + 8], "little")
        yield content[place : place + 4], content[place + 8 : place + 8 + length]
        place += 8 + (length + 1) // 2 * 2
