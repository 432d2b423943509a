"""The metadata labels of an image: IPTC 2025.1 and TC260 (GB 45438-2025) as properties of XMP."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from danqing.errors import DataError
from danqing.trust import xmp
from danqing.trust.declaration import Declaration
from danqing.trust.settings import MarkSettings
from danqing.version import __version__

_IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
SOURCE_TYPE = f"{_IPTC}DigitalSourceType"
SYSTEM, SYSTEM_VERSION = f"{_IPTC}AISystemUsed", f"{_IPTC}AISystemVersionUsed"
PROMPT, PROMPT_WRITER = f"{_IPTC}AIPromptInformation", f"{_IPTC}AIPromptWriterName"
AIGC = "{http://www.tc260.org.cn/ns/AIGC/1.0/}AIGC"
_TIME = "{http://ns.adobe.com/xap/1.0/}MetadataDate"
_VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_ALL = (SOURCE_TYPE, SYSTEM, SYSTEM_VERSION, PROMPT, PROMPT_WRITER, AIGC)

_MOST_PROMPT = 8000
"""Characters of a prompt in a packet, for which a JPEG has 65,502 bytes. Longer ones end in an ellipsis."""
_IS_GENERATED = "1"
"""The label of TC260 for an image that an AI has generated; 2 and 3 are for images that may be."""
_PROPAGATOR = ("ContentPropagator", "PropagateID")


def packet(
    declaration: Declaration,
    settings: MarkSettings,
    *,
    image_id: str,
    pixels_sha256: str,
    previous: bytes,
    time: str | None = None,
) -> bytes:
    """Return the XMP packet of an image.

    image_id: a unique id of the image.
    pixels_sha256: of its pixels before they are encoded, in hexadecimal digits.
    previous: the packet that the image had. Its other properties are kept, and also the producer that its
        TC260 label names: the image then names us as the one who passes it on.
    time: at which the image is marked, in ISO 8601; None is now.
    Raises DataError if the previous packet cannot be read.
    """
    former = xmp.properties_of(previous).get(AIGC, ()) if previous else ()
    before = next(iter(former), "")  # a list may be empty
    properties = {
        SOURCE_TYPE: _VOCABULARY + declaration.source,
        SYSTEM: f"Danqing, model {declaration.model}" if declaration.model else "Danqing",
        SYSTEM_VERSION: ", weights ".join(filter(None, (__version__, declaration.model_digest[:12]))),
        AIGC: _aigc(settings.producer, image_id, pixels_sha256, before),
        _TIME: time or datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if settings.prompt and declaration.prompt:
        properties[PROMPT] = _shortened(declaration.prompt)
    return xmp.write(properties, previous)


def only_labels(packet: bytes) -> bytes:
    """Keep only the labels of a packet.

    Returns b"" if it has none. Raises DataError if the packet cannot be read.
    """
    return xmp.only(packet, _ALL)


def read_aigc(text: str) -> dict[str, Any]:
    """Read the value of a TC260 label, `{"Label": "1", ...}`.

    Raises DataError if it is not a JSON object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"The TC260 label is not JSON ({error}).") from error
    if not isinstance(found, dict):
        raise DataError("The TC260 label is not a JSON object.")
    return found


def _shortened(prompt: str) -> str:
    return prompt if len(prompt) <= _MOST_PROMPT else f"{prompt[: _MOST_PROMPT - 1]}…"


def _aigc(producer: str, image_id: str, pixels_sha256: str, before: str) -> str:
    """Return the value of the TC260 label (TC260-PG-20258A)."""
    fields: Mapping[str, Any] = {
        "Label": _IS_GENERATED,
        "ContentProducer": producer,
        "ProduceID": image_id,
        "ReservedCode1": f"sha256:{pixels_sha256}",
        "ContentPropagator": "",
        "PropagateID": "",
        "ReservedCode2": "",
    }
    if before:
        try:
            earlier = read_aigc(before)
        except DataError:
            earlier = {}
        if earlier.get("ContentProducer"):
            passed_on = dict(zip(_PROPAGATOR, (producer, image_id), strict=True))
            own = {"Label": _IS_GENERATED, "ReservedCode2": f"sha256:{pixels_sha256}"}
            fields = {**fields, **earlier, **passed_on, **own}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
