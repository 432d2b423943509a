"""The process that decodes images for a cache: reads encoded files on stdin, writes pixels on stdout.

It imports no torch, so that it starts in a fraction of a second. Its messages are frames (`danqing.frames`).
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from danqing import frames
from danqing.data.buckets import Size, decode_to_nearest
from danqing.errors import DataError
from danqing.image_files import DeepPixels, Frame
from danqing.images import Pixels

if TYPE_CHECKING:  # the first imports torch, the second what this process does not need
    from danqing.data.raw_targets import FittedTargets
    from danqing.data.terms import Terms


class Decoded(NamedTuple):
    """Decoded images in order.

    reasons: why each cannot be decoded, None if it can. digests, pixels, sizes: of the others; the pixels of
    each take up equally many bytes.
    headers: format and size of each before decoding, as `headers.described` gives them.
    targets: those of each, if the source has any; None for one that cannot be read.
    terms: what each file says of the rights in it and of people.
    """

    reasons: list[str | None]
    digests: list[str]
    pixels: bytes
    sizes: Sequence[Size] = ()
    headers: Sequence[tuple[str, tuple[int, int] | None]] = ()
    targets: Sequence["FittedTargets | None"] = ()
    terms: Sequence["Terms"] = ()


def packed(outcomes: Iterable[Pixels | DeepPixels | str], bytes_per_image: int) -> Decoded:
    """Pack decoded images and reasons into one message.

    bytes_per_image: to which smaller images are filled up with zeros.
    """
    reasons, digests, blocks, sizes = list[str | None](), list[str](), list[bytes](), list[Size]()
    for outcome in outcomes:
        if isinstance(outcome, str):
            reasons.append(outcome)
        else:
            reasons.append(None)
            pixels = outcome.tobytes()
            digests.append(hashlib.blake2b(pixels, digest_size=16).hexdigest())
            blocks.append(pixels.ljust(bytes_per_image, b"\0"))
            sizes.append((outcome.shape[1], outcome.shape[0]))
    return Decoded(reasons, digests, b"".join(blocks), sizes)


def decoded_or_reason(
    source: bytes | Path | str | Frame, options: dict[str, Any]
) -> Pixels | DeepPixels | str:
    """Decode an image, or return the sentence of its DataError."""
    try:
        return decode_to_nearest(source, **options)
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

    The two arguments are the options of `decode_to_nearest`, as JSON, and the bytes of an image.
    """
    options, bytes_per_image = json.loads(sys.argv[1]), int(sys.argv[2])
    options["size"] = tuple(options["size"])
    options["range"] = options["range"] and tuple(options["range"])
    frames.write(sys.stdout.buffer, "ready")
    while True:
        try:
            header, block = frames.read(sys.stdin.buffer)
        except EOFError:
            return
        result = packed(
            (decoded_or_reason(source, options) for source in split(header, block)), bytes_per_image
        )
        frames.write(sys.stdout.buffer, [result.reasons, result.digests, result.sizes], result.pixels)


if __name__ == "__main__":
    main()
