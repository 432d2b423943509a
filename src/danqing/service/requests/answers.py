"""What clients receive for planned requests: the files of their pictures, and the fields of answers."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from danqing.service.engine.orders import Painting, Priority
from danqing.service.pictures.encode_pool import EncodePool
from danqing.service.pictures.encoding import OutputFormat
from danqing.service.requests.field_checks import QUALITY
from danqing.service.requests.moderation import What
from danqing.service.requests.planner import PlannedRequest


async def encode(
    pool: EncodePool,
    request: PlannedRequest,
    pixels: Painting,
    output: OutputFormat,
    *,
    what: What = "output",
    priority: Priority = Priority.INTERACTIVE,
) -> list[bytes]:
    """Encode painted pictures `[n, h, w, c]` as files.

    Raises ApiError if a filter blocks one of them.
    """
    owner, compose = request.order.owner, request.compose
    if request.screen is None:
        return await pool.encode(pixels, output, compose, owner)
    pictures = list(pixels) if compose is None else await pool.run(owner, partial(compose, pixels))
    await request.screen(pictures, what, priority)
    return await pool.encode(pixels, output, lambda _: pictures, owner)


def describe(request: PlannedRequest, data: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the body of an answer.

    data: one object per picture, with its content or its address.
    """
    body = {"created": int(time.time()), "data": data, **image_facts(request), "usage": usage(request)}
    if body["quality"] == "auto":
        del body["quality"]
    return body | origin(request)


def revision(request: PlannedRequest) -> dict[str, Any]:
    """Return the prompt in the model's words, if these differ."""
    return {} if request.revised is None else {"revised_prompt": request.revised}


def origin(request: PlannedRequest) -> dict[str, Any]:
    """Return the seed, and the user that the client named, if any."""
    identifier = request.fields.identifier
    return {"seed": request.seed, **({} if identifier is None else {"safety_identifier": identifier})}


def image_facts(request: PlannedRequest) -> dict[str, Any]:
    """Return the fields that answers and stream events share."""
    quality, output = getattr(request.fields, "quality", None), request.output
    keeps_alpha = request.alpha and not output.opaque and output.format != "jpeg"
    return {
        "background": "transparent" if keeps_alpha else "opaque",
        "output_format": output.format,
        "size": f"{output.size[0]}x{output.size[1]}",
        "quality": quality if quality in QUALITY else "auto",
    }


def usage(request: PlannedRequest, index: int | None = None) -> dict[str, Any]:
    """Return the tokens of a request.

    index: of a picture, for its event; only the first counts the input.
    """
    text, sent = (0, 0) if index else request.tokens
    one = request.offer.image_tokens(request.sampled_size)
    painted = one * (request.n if index is None else 1)
    return {
        "total_tokens": text + sent + painted,
        "input_tokens": text + sent,
        "output_tokens": painted,
        "input_tokens_details": {"text_tokens": text, "image_tokens": sent},
        "output_tokens_details": {"text_tokens": 0, "image_tokens": painted},
    }
