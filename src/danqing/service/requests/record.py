"""The record of a request: everything that its pictures depend on, so that they can be made again."""

from typing import Any

from danqing.service.engine.offers import Offer
from danqing.service.requests import schemas

VERSION = 1
_LEFT_OUT = {
    "images",
    "mask",
    "stream",
    "partial_images",
    "response_format",
    "user",
    "safety_identifier",
    "embed_settings",
}
"""Pictures, and fields that the pixels do not depend on."""


def record(endpoint: str, fields: schemas.Fields, offer: Offer, seed: int) -> dict[str, Any]:
    """Return the record of a checked request.

    Its `request` has the fields, with the model's name, and the seed unless it mixes several; `title` is what
    it shows, and `words` are others by which it is found.
    """
    given = fields.model_dump(exclude_none=True, exclude=_LEFT_OUT)
    request = {**given, "model": offer.name}
    if "mix" not in given:  # it has seeds of its own
        request["seed"] = seed
    shown = (str(request[name]) for name in ("prompt", "label") if request.get(name) not in (None, ""))
    title = next(shown, "")
    values = [str(request.get("label", "")), *map(str, (request.get("attributes") or {}).values())]
    return {
        "danqing": VERSION,
        "endpoint": endpoint,
        "request": request,
        "title": title,
        "words": [value for value in values if value and value != title],
    }
