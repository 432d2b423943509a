"""Encodes pixels as image files, and files as base64 in JSON."""

import base64
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from danqing import image_files, images
from danqing.editing import files
from danqing.marks import Marks
from danqing.service.engine.orders import Painting, Pixels
from danqing.service.pictures import picture_settings

Format = Literal["png", "jpeg", "webp"]

MEDIA_TYPES: dict[str, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
PICTURE_HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
    "cache-control": "private, max-age=3600, immutable",
}
"""Headers of every answer that is a picture: no browser treats it as a page, whatever its bytes are."""

BASE64_SLICE = 196_608
"""Bytes, a multiple of three: encoding this many in base64 does not delay other requests."""
_PLACEHOLDER = b'"b64_json": ""'


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """The form in which pictures are returned.

    size: (width, height) in pixels.
    opaque: whether transparent parts become white.
    compression: the quality of jpeg and webp files, 0 to 100.
    like: the file whose format, quality, depth and metadata pictures get.
    marks: what files say of their pictures; None for nothing.
    settings: that are written to files, so that the pictures can be made again; None for nothing.
    parent: the file that was sent to be edited, which the marks name.
    """

    size: tuple[int, int]
    format: Format = "png"
    opaque: bool = False
    compression: int = 100
    like: bytes | None = None
    marks: Marks | None = None
    parent: bytes | None = None
    settings: Mapping[str, Any] | None = None

    @property
    def work(self) -> int:
        """Return the cost of encoding one picture, in pixels of a PNG."""
        return self.size[0] * self.size[1] * (4 if self.format == "webp" else 1)

    def encode(self, pixels: Painting, index: int = 0) -> bytes:
        """Encode one picture `[h, w, c]` as a file.

        It has 8 bits, or those of `like`. Raises DataError if the format of `like` cannot hold it.

        index: its number among those of the request.
        """
        if self.like is not None:
            return self._like(pixels, self.like)
        assert pixels.dtype == np.uint8
        plain = cast(Pixels, pixels)
        height, width, channels = plain.shape
        flatten = self.opaque and channels in (2, 4)
        if flatten or (width, height) != self.size:
            alpha: Literal["flatten", "keep"] = "flatten" if flatten else "keep"
            plain = images.conform(plain, size=self.size, alpha=alpha, fit="stretch")
        before = None if self.parent is None or self.marks is None else _decoded(self.parent, plain.shape[2])
        text = "" if self.settings is None else picture_settings.as_text(self.settings, index)
        return images.encode_marked(
            plain,
            self.format,
            quality=max(1, self.compression),
            marks=self.marks,
            where=None if before is None else _changed(plain, before),
            parent=self.parent,
            xmp=picture_settings.as_xmp(text) if text else b"",
            texts={picture_settings.TEXT: text} if text else None,
        ).content

    def _like(self, pixels: Painting, sent: bytes) -> bytes:
        """Encode a picture as the file that was sent; return that file if no pixel changed."""
        before, style = files.read(sent)
        if np.array_equal(before, pixels):
            return sent
        if self.marks is None:
            return files.write(pixels, style)
        marked = self.marks.write(
            pixels,
            lambda own, xmp: files.write(own, replace(style, xmp=xmp)),
            xmp=style.xmp,
            where=_changed(pixels, before),
            parent=sent,
        )
        return marked.content


def _decoded(sent: bytes, channels: int) -> Painting:
    return image_files.decode(sent, channels=channels, alpha="keep")


def _changed(pixels: Painting, before: Painting) -> NDArray[np.bool_] | None:
    """Return which pixels an edit has changed, bool `[h, w]`; None for all, such as of another size."""
    if pixels.shape != before.shape or pixels.dtype != before.dtype:
        return None
    changed: NDArray[np.bool_] = (pixels != before).any(axis=2)
    return changed


def to_base64(file: bytes) -> bytes:
    """Encode a file in base64, in slices.

    Other threads run in between.
    """
    view = memoryview(file)
    slices = (view[at : at + BASE64_SLICE] for at in range(0, len(file), BASE64_SLICE))
    return b"".join(map(base64.b64encode, slices))


def fill_pictures(text: bytes, packed: Sequence[bytes]) -> bytes:
    """Insert files in base64 into a JSON text's empty `b64_json` values.

    They bypass the JSON encoder, which would delay all other requests.
    """
    parts = text.split(_PLACEHOLDER)
    around = zip(parts, packed, strict=False)
    whole = [(part, b'"b64_json": "', file, b'"') for part, file in around]
    return b"".join([*itertools.chain.from_iterable(whole), parts[-1]])
