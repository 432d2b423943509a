"""The settings that a picture was made with, in its file: as a text of PNG, and in XMP."""

import json
from collections.abc import Mapping
from typing import Any

from danqing.errors import DataError
from danqing.image_files.embedded import embedded
from danqing.trust import xmp

TEXT = "danqing"
"""The keyword of the settings among the texts of a PNG file."""
PROPERTY = "{urn:danqing:settings:}settings"
"""Their name in XMP."""
_MOST = 200_000  # characters


def as_text(settings: Mapping[str, Any], index: int) -> str:
    """Return settings as the file of one picture holds them."""
    return json.dumps({**settings, "index": index}, ensure_ascii=False, sort_keys=True)


def as_xmp(text: str) -> bytes:
    """Return an XMP packet with settings."""
    return xmp.write({PROPERTY: text})


def settings_in(content: bytes) -> dict[str, Any] | None:
    """Return the settings in a file, or None.

    They come from anywhere: they have a `request`, which is an object, and nothing more is sure.
    """
    try:
        found = embedded(content)
        texts = [found.texts.get(TEXT, "")]
        texts += [text for packet in found.xmp for text in xmp.properties_of(packet).get(PROPERTY, ())]
    except DataError:
        return None
    for text in filter(None, texts):
        if len(text) > _MOST:
            continue
        try:
            settings = json.loads(text)
            json.dumps(settings, allow_nan=False, ensure_ascii=False).encode()  # as an answer is written
        except (ValueError, RecursionError):
            continue
        if isinstance(settings, dict) and isinstance(settings.get("request"), dict):
            return settings
    return None
