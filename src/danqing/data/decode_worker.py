"""The process that decodes images for a cache: reads encoded files on stdin, writes pixels on stdout.

It imports no torch, so that it starts in a fraction of a second. Its messages are frames (`danqing.frames`).
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from danqing import frames
from danqing.errors import DataError
from danqing.image_files import DeepPixels, Frame, decode
from danqing.images import Pixels


class Decoded(NamedTuple):
    """Decoded images in order.

    reasons: why each cannot be decoded, None if it can. digests, pixels: of the others.
    headers: format and size of each before decoding, as `headers.described` gives them.
    """

    reasons: list[str | None]
    digests: list[str]
    pixels: bytes
    headers: Sequence[tuple[str, tuple[int, int] | None]] = ()


def packed(outcomes: Iterable[Pixels | DeepPixels | str]) -> Decoded:
    """Pack decoded images and reasons into one message."""
    reasons, digests, blocks = list[str | None](), list[str](), list[bytes]()
    for outcome in outcomes:
        if isinstance(outcome, str):
            reasons.append(outcome)
        else:
            reasons.append(None)
            blocks.append(outcome.tobytes())
            digests.append(hashlib.blake2b(blocks[-1], digest_size=16).hexdigest())
    return Decoded(reasons, digests, b"".join(blocks))


def decoded_or_reason(
    source: bytes | Path | str | Frame, options: dict[str, Any]
) -> Pixels | DeepPixels | str:
    """Decode an image, or return the sentence of its DataError."""
    try:
        return decode(source, **options)
    except DataError as error:
        return str(error)


def split(header: list[Any], block: bytes) -> Iterable[bytes | str | Frame]:
    """Yield the images of a request.

    A path is given as itself, an encoded file as its length in the block, and one of several images in a file
    as a list of either and its number.
    """
    start = 0
    for entry in header:
        place, number = entry if isinstance(entry, list) else (entry, None)
        if isinstance(place, str):
            source: bytes | str = place
        else:
            source = block[start : start + place]
            start += place
        if number is None:
            yield source
        else:
            yield Frame(Path(source) if isinstance(source, str) else source, number)


def main() -> None:
    """Answer requests until stdin ends.

    The options of `decode` are the only argument, as JSON.
    """
    options = json.loads(sys.argv[1])
    options["size"] = tuple(options["size"])
    options["range"] = options["range"] and tuple(options["range"])
    frames.write(sys.stdout.buffer, "ready")
    while True:
        try:
            header, block = frames.read(sys.stdin.buffer)
        except EOFError:
            return
        result = packed(decoded_or_reason(source, options) for source in split(header, block))
        frames.write(sys.stdout.buffer, [result.reasons, result.digests], result.pixels)


if __name__ == "__main__":
    main()
