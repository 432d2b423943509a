"""The metadata labels that a file of anyone has: IPTC and TC260, wherever they were written."""

import json
from typing import Any, NamedTuple

from PIL import ExifTags, Image

from danqing.errors import DataError
from danqing.image_files.reading import opened
from danqing.trust import labels, xmp

_MOST_TEXT = 2**16
_AIGC = "AIGC"


class FoundLabels(NamedTuple):
    """What the metadata of a file say of its origin.

    source_type: the last part of IPTC's digital source type, "" if there is none.
    system: the AI system that it names. label, producer: of TC260.
    """

    source_type: str = ""
    system: str = ""
    label: str = ""
    producer: str = ""

    def __bool__(self) -> bool:
        return any(self)

    def sentence(self) -> str:
        """Return the labels as words."""
        parts = (
            ("source type", self.source_type),
            ("AI system", self.system),
            ("TC260 label", self.label),
            ("producer", self.producer),
        )
        return ", ".join(f"{name} {value[:100]}" for name, value in parts if value)


def find_labels(content: bytes) -> FoundLabels:
    """Read the labels of an image file.

    Raises DataError if the metadata are damaged or over the limits, or the file is not an image.
    """
    image = opened(content, max_pixels=None)
    try:
        image.load()  # a png may have its text after its pixels
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
    except Exception as error:  # Pillow raises many kinds of errors on hostile input
        raise DataError(f"The metadata cannot be read ({type(error).__name__}).") from error
    properties = xmp.properties_of(packet) if (packet := _packet(image)) else {}

    def text(name: str) -> str:
        return next(iter(properties.get(name, ("",))), "").strip()

    for found in (text(labels.AIGC), image.info.get(_AIGC), comment):
        if aigc := _aigc(found):
            break
    return FoundLabels(
        source_type=text(labels.SOURCE_TYPE).rpartition("/")[2],
        system=text(labels.SYSTEM),
        label=str(aigc.get("Label", "")),
        producer=str(aigc.get("ContentProducer", "")),
    )


def _packet(image: Image.Image) -> bytes:
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    return packet.encode() if isinstance(packet, str) else bytes(packet)


def _aigc(value: object) -> dict[str, Any]:
    """Read a TC260 label from XMP, a text of PNG or the user comment of EXIF; {} if it is none."""
    if isinstance(value, bytes):  # a user comment begins with the name of its encoding
        value = (
            value[8:].decode("utf-8", "replace")
            if b"{" not in value[:8]
            else value.decode("utf-8", "replace")
        )
    if not isinstance(value, str) or not value.strip() or len(value) > _MOST_TEXT:
        return {}
    try:
        found = labels.read_aigc(value.strip("\0 \n"))
    except DataError:
        return {}
    inner = found.get(_AIGC)
    if isinstance(inner, str):
        try:
            inner = json.loads(inner)
        except (ValueError, RecursionError):
            inner = None
    return inner if isinstance(inner, dict) else found
