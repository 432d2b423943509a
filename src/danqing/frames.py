"""Messages between processes: a JSON header and raw bytes, nothing pickled.

A frame is the length of the header (4 bytes, little-endian), the length of the block (8 bytes), the header in
UTF-8 and the block.
"""

import json
import struct
from collections.abc import Sequence
from typing import IO, Any

Header = dict[str, Any]
Buffer = bytes | bytearray | memoryview

LENGTHS = struct.Struct("<IQ")
_encode = json.JSONEncoder(separators=(",", ":")).encode


def frame(header: Any, blocks: Sequence[Buffer] = ()) -> list[Buffer]:
    """Return the parts of a frame, in order; blocks are not copied.

    header: any JSON value.
    blocks: joined, they are the block of the frame.
    """
    text = _encode(header).encode()
    views = [memoryview(block).cast("B") for block in blocks]
    return [LENGTHS.pack(len(text), sum(view.nbytes for view in views)) + text, *views]


def write(stream: IO[bytes], header: Any, block: Buffer = b"") -> None:
    """Write a frame to a stream and flush it."""
    stream.writelines(frame(header, [block]))
    stream.flush()


def read(stream: IO[bytes]) -> tuple[Any, bytes]:
    """Read a frame from a stream; raise EOFError at its end."""
    header, block = LENGTHS.unpack(_exactly(stream, LENGTHS.size))
    return json.loads(_exactly(stream, header)), _exactly(stream, block)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    content = stream.read(count)
    if len(content) < count:
        raise EOFError("the stream ended within a frame")
    return content
