"""The contract between files of images and their marks: what an image says of itself, and where."""

import glob
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from danqing import atomic

SIDECAR = ".c2pa"
"""The ending of a file with credentials beside an image."""
_HAVE_SIDECARS = (".png", ".webp", ".jpeg", ".jpg")


class Marked(NamedTuple):
    """A marked file.

    content: of the file. sidecar: of the file beside it with the suffix `.c2pa`, b"" if there is none.
    notes: sentences about marks that it does not have.
    """

    content: bytes
    sidecar: bytes = b""
    notes: tuple[str, ...] = ()


class Marks(Protocol):
    """What generated images say of themselves in their files.

    Implemented by `danqing.trust.marking.Marking`, which callers pass: this module does not import it.
    """

    def write(
        self,
        pixels: NDArray[Any],
        encode: Callable[[NDArray[Any], bytes], bytes],
        *,
        xmp: bytes = b"",
        where: NDArray[np.bool_] | None = None,
        parent: bytes | None = None,
    ) -> Marked:
        """Encode an image with its marks.

        The order is: watermark, visible label, encode with XMP, sign, register.

        pixels: uint8 or uint16 `[h, w, c]`.
        encode: writes pixels and an XMP packet as a file.
        xmp: the packet that the image had before, whose other statements are kept.
        where: bool `[h, w]`, the pixels that an edit has made; others stay as they are. None means all. An
            image without such a pixel is only encoded.
        parent: the file before an edit, named as an ingredient.
        """
        ...


def write_sidecar(path: Path, sidecar: bytes) -> None:
    """Write the credentials beside an image, or remove those of the image that it replaces.

    path: of the image. sidecar: b"" for none. Credentials that were there stay if they may belong to another
        image, whose name differs only in its ending.
    """
    beside = path.with_suffix(SIDECAR)
    if sidecar:
        atomic.write_bytes(beside, sidecar)
    elif beside.exists() and not any(
        other.suffix.lower() in _HAVE_SIDECARS and other.name != path.name
        for other in path.parent.glob(f"{glob.escape(path.stem)}.*")
    ):
        beside.unlink()
