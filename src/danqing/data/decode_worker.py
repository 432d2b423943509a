"""The process that decodes pictures for a cache: reads encoded files on stdin, writes pixels on stdout.

It imports no torch, so that it starts in a fraction of a second. Its messages are frames (`danqing.frames`).
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from danqing import frames
from danqing.errors import DataError
from danqing.images import Pixels, decode


class Decoded(NamedTuple):
    """Some pictures in order: why each cannot be decoded (None if it can); digests and pixels of the rest."""

    reasons: list[str | None]
    digests: list[str]
    pixels: bytes


def packed(outcomes: Iterable[Pixels | str]) -> Decoded:
    """Pictures, or the reasons why there are none, as one block."""
    reasons, digests, blocks = list[str | None](), list[str](), list[bytes]()
    for outcome in outcomes:
        if isinstance(outcome, str):
            reasons.append(outcome)
        else:
            reasons.append(None)
            blocks.append(outcome.tobytes())
            digests.append(hashlib.blake2b(blocks[-1], digest_size=16).hexdigest())
    return Decoded(reasons, digests, b"".join(blocks))


def decoded_or_reason(source: bytes | Path | str, options: dict[str, Any]) -> Pixels | str:
    """One picture by `images.decode`, or the sentence of its DataError."""
    try:
        return decode(source, **options)
    except DataError as error:
        return str(error)


def split(header: list[str | int], block: bytes) -> Iterable[bytes | str]:
    """A request's pictures: a path stands as itself, an encoded file as its length in the block."""
    start = 0
    for entry in header:
        if isinstance(entry, str):
            yield entry
        else:
            yield block[start : start + entry]
            start += entry


def main() -> None:
    """Answer requests until stdin ends; the options of `images.decode` are the only argument, as JSON."""
    options = json.loads(sys.argv[1])
    options["size"] = tuple(options["size"])
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
