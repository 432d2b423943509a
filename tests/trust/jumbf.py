"""Manifest stores that were changed: boxes that are replaced, and stores that move to other files."""

import struct
import zlib
from collections.abc import Iterator


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place < len(data):
        length = int.from_bytes(data[place : place + 4])
        yield data[place + 4 : place + 8], data[place + 8 : place + length]
        place += length


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", 8 + len(data)) + kind + data


def label_of(superbox: bytes) -> bytes:
    return next(data for kind, data in boxes(superbox) if kind == b"jumd")[17:].partition(b"\0")[0]


def with_content(store: bytes, label: str, content: bytes) -> bytes:
    """The store with other CBOR in all boxes with a label."""

    def rebuilt(data: bytes, own: bytes) -> bytes:
        result = b""
        for kind, inside in boxes(data):
            if kind == b"jumb":
                inside = rebuilt(inside, label_of(inside))
            elif kind == b"cbor" and own == label.encode():
                inside = content
            result += box(kind, inside)
        return result

    return rebuilt(store, b"")


def nested(depth: int) -> bytes:
    """A store of superboxes in superboxes."""
    kind = bytes.fromhex("63326d6100110010800000aa00389b71")
    inner = b""
    for _ in range(depth):
        inner = box(b"jumb", box(b"jumd", kind + b"\x03x\0") + inner)
    return box(b"jumb", box(b"jumd", b"c2pa" + kind[4:] + b"\x03c2pa\0") + inner)


def into(file: bytes, store: bytes) -> bytes:
    """The png or webp file with a store; one that it has stays behind it."""
    if file.startswith(b"\x89PNG"):
        chunk = b"caBX" + store
        return (
            file[:33]
            + struct.pack(">I", len(store))
            + chunk
            + struct.pack(">I", zlib.crc32(chunk))
            + file[33:]
        )
    whole = file[8:] + b"C2PA" + struct.pack("<I", len(store)) + store + b"\0" * (len(store) % 2)
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


def zeros_in_brotli(blocks: int) -> bytes:
    """Brotli (RFC 7932) of 16 MiB of zeros for each block, in 13 bytes each.

    Each alphabet has one symbol, which needs no bits. The one command inserts 2**24 literals.
    """
    block: tuple[tuple[int, int], ...] = (
        (0, 1),
        (2, 2),
        (2**24 - 1, 24),
        (0, 1),
        (0, 3),
        (0, 6),
        (0, 2),
        (0, 2),
        (1, 2),
        (0, 2),
        (0, 8),
    )
    block += ((1, 2), (0, 2), (504, 10), (1, 2), (0, 2), (0, 6), (2**24 - 22594, 24))
    bits = count = 0
    for value, width in ((0, 1), *block * blocks, (3, 2)):
        bits |= value << count
        count += width
    return bits.to_bytes(-(-count // 8), "little")


def with_brotli(store: bytes, content: bytes) -> bytes:
    """The store with another content of its compressed boxes."""
    return b"".join(
        box(kind, with_brotli(inside, content) if kind == b"jumb" else content if kind == b"brob" else inside)
        for kind, inside in boxes(store)
    )
