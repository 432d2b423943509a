"""Marks images: watermark, visible label, encode with XMP, sign, register, in this order."""

import functools
import hashlib
import hmac
import uuid
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danqing import image_files, images
from danqing.errors import DataError, MarkWarning
from danqing.image_files.formats import recognised
from danqing.marks import Marked
from danqing.trust import credentials, labels, registry, visible, watermark
from danqing.trust.declaration import Declaration
from danqing.trust.settings import MarkSettings, trust_folder
from danqing.trust.watermark_key import WatermarkKey

_WITH_XMP = ("PNG", "JPEG", "WEBP", "TIFF")
_SIGNED = ("PNG", "JPEG", "WEBP")
"""The formats that hold Content Credentials, and those that hold XMP, as Pillow calls them."""

_LOSSY = ("JPEG", "WEBP")
_NUMBER_BYTES = 6
"""Of the number that a watermark carries at most."""

_said: set[str] = set()


class Marking:
    """What the images of one model and one verb declare.

    This implements `danqing.marks.Marks`.

    settings: which marks they get; at least one regime.
    declaration: what they declare, or a function that returns it. The function is called when the first
        image is written, because the digest of a model's weights takes time.
    """

    def __init__(self, settings: MarkSettings, declaration: Declaration | Callable[[], Declaration]) -> None:
        self.settings = settings
        self._declared = declaration

    @functools.cached_property
    def declaration(self) -> Declaration:
        """Return what the images declare."""
        found = self._declared if isinstance(self._declared, Declaration) else self._declared()
        return found if self.settings.prompt else replace(found, prompt="")

    def metadata_only(self) -> "Marking":
        """Return the marking of overviews and unfinished images: metadata labels alone."""
        return Marking(self.settings.metadata_only(), self._declared)

    def write(
        self,
        pixels: NDArray[Any],
        encode: Callable[[NDArray[Any], bytes], bytes],
        *,
        xmp: bytes = b"",
        where: NDArray[np.bool_] | None = None,
        parent: bytes | None = None,
    ) -> Marked:
        """Encode an image with its marks, as `danqing.marks.Marks` says.

        Raises DataError if the image cannot be encoded or signed.
        """
        if where is not None and not where.any():
            return Marked(encode(pixels, xmp))
        notes: list[str] = []
        image_id = uuid.uuid4().hex
        watermarked, number = self._watermarked(pixels, where, notes)
        pixels = self._labelled(watermarked, where, notes)
        content = encode(pixels, self._packet(pixels, image_id, xmp, notes))
        format = recognised(content)
        if format not in _WITH_XMP:
            notes.append(f"{format or 'These'} files hold no metadata: the image has no labels in its file.")
        signed, sidecar = self._signed(content, format, parent, image_id, notes)
        if self.settings.registers:
            is_signed = bool(sidecar) or signed is not content
            manifest = credentials.manifest_id(image_id) if is_signed else ""
            # An image that is too large to be read again is registered as it was before its compression.
            is_read = format in _LOSSY and pixels.shape[0] * pixels.shape[1] <= image_files.MAX_PIXELS
            shown = images.conform(image_files.opened(signed), alpha="keep") if is_read else pixels
            registered = registry.shared(trust_folder() / "registry.sqlite")
            registered.add(shown, self.declaration, image_id=image_id, number=number, manifest=manifest)
        return Marked(signed, sidecar, tuple(notes))

    def _watermarked(
        self, pixels: NDArray[Any], where: NDArray[np.bool_] | None, notes: list[str]
    ) -> tuple[NDArray[Any], int | None]:
        """Return the image with its watermark, and the number that it carries.

        The number follows from the pixels, so that the same image is marked in the same way again.
        """
        if not self.settings.watermark:
            return pixels, None
        key = WatermarkKey.of(trust_folder())
        digest = hmac.digest(key.secret, np.ravel(pixels).data, "sha256")
        number = int.from_bytes(digest[:_NUMBER_BYTES], "big")
        marked = watermark.embed(pixels, number, key=key, where=where)
        if marked is None:
            part = "image" if where is None else "changed part"
            notes.append(f"The {part} is too small or too even for the invisible watermark.")
        return (pixels, None) if marked is None else (marked, number)

    def _labelled(
        self, pixels: NDArray[Any], where: NDArray[np.bool_] | None, notes: list[str]
    ) -> NDArray[Any]:
        if not self.settings.labels:
            return pixels
        labelled = visible.label(pixels, self.settings.language, where)
        if labelled is None:
            notes.append("The changed part is too small for the visible label.")
        return pixels if labelled is None else labelled

    def _packet(self, pixels: NDArray[Any], image_id: str, previous: bytes, notes: list[str]) -> bytes:
        digest = hashlib.sha256(np.ravel(pixels).data).hexdigest()
        packet = functools.partial(
            labels.packet, self.declaration, self.settings, image_id=image_id, pixels_sha256=digest
        )
        try:
            return packet(previous=previous)
        except DataError as error:
            notes.append(f"{error} They were replaced.")
            return packet(previous=b"")

    def _signed(
        self, content: bytes, format: str, parent: bytes | None, image_id: str, notes: list[str]
    ) -> tuple[bytes, bytes]:
        """Return the signed file and its sidecar; the file itself and b"" where it is not signed."""
        if not self.settings.signs:
            return content, b""
        if not credentials.is_installed():
            once("Images get no Content Credentials, which need more packages: pip install 'danqing[trust]'.")
            return content, b""
        if format not in _SIGNED:
            notes.append(f"{format or 'These'} files hold no Content Credentials.")
            return content, b""
        from danqing.trust import authority  # needs the extra `trust`

        arguments: dict[str, Any] = {
            "authority": authority.load(trust_folder() / "authority"),
            "parent": parent,
            "image_id": image_id,
        }
        if self.settings.credentials == "sidecar":
            return content, credentials.sidecar(content, format, self.declaration, **arguments)
        return credentials.sign(content, format, self.declaration, **arguments), b""


def marking(settings: MarkSettings, declaration: Declaration | Callable[[], Declaration]) -> Marking | None:
    """Return the marking for some settings; None if images get no marks.

    Arguments are those of `Marking`.
    """
    return Marking(settings, declaration) if settings.regimes else None


def prepare(settings: MarkSettings) -> None:
    """Create the keys that images of some settings need.

    The first image then does not wait for them.
    Raises TrustError for keys that cannot be used.
    """
    if settings.signs and credentials.is_installed():
        from danqing.trust import authority  # needs the extra `trust`

        authority.load(trust_folder() / "authority")
    if settings.regimes and settings.watermark:
        WatermarkKey.of(trust_folder())


def once(message: str) -> None:
    """Warn of something, once in each process."""
    if message not in _said:
        _said.add(message)
        warnings.warn(message, MarkWarning, stacklevel=2)
