"""The way from a request's fields to pictures: everything is checked here, once, for HTTP and for jobs."""

import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from danqing.randomness import derived_seed
from danqing.service import checks, prompts, sources, wire
from danqing.service.errors import FINAL, ApiError, from_validation, invalid
from danqing.service.orders import Offer, Order, Painted, Pixels, Verb, rows_of
from danqing.service.pictures import Look, Pictures, filled
from danqing.service.sse import json_of
from danqing.service.wire import Endpoint

if TYPE_CHECKING:
    from danqing.service.caller import Caller
    from danqing.service.settings import Limits
    from danqing.service.state import Service

_log = logging.getLogger("danqing.service")

VERBS: dict[Endpoint, Verb] = {"generations": "sample", "edits": "fill", "variations": "vary"}
_DOES = {"generations": "paint", "edits": "edit a picture", "variations": "vary a picture"}

_DRAWN_SEEDS = 2**53  # those that a client in any language can read as a number and send again


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that has been checked: what to order, and what to make of what is painted.

    seed: that which all pictures follow from, given or drawn. tokens: of the text and of the pictures that
    were sent. alpha: whether pictures have an alpha channel before `look` is heeded. compose: what makes the
    pictures to hand out of those painted; None where they are the same.
    """

    endpoint: Endpoint
    fields: wire.Generation | wire.Edit | wire.Variation
    offer: Offer
    order: Order
    look: Look
    seed: int
    revised: str | None
    tokens: tuple[int, int]
    alpha: bool
    pictures: Pictures
    compose: Callable[[Pixels], Sequence[Pixels]] | None = None

    @property
    def n(self) -> int:
        """How many pictures."""
        return len(self.order.rows)

    @property
    def streams(self) -> bool:
        """Whether the answer is to come as events."""
        return bool(isinstance(self.fields, wire.Guided) and self.fields.stream)

    @property
    def work(self) -> int:
        """What making its files will cost, intermediate ones as well."""
        return self.n * max(self.look.work, self.offer.width * self.offer.height) * (1 + self.order.previews)

    @property
    def format(self) -> str:
        """Of the files: png, jpeg or webp."""
        return self.look.format

    async def encode(self, pixels: Pixels) -> list[bytes]:
        """Painted pictures `[n, h, w, c]`, finished or not, as files in the size and format asked for."""
        return await self.pictures.render(pixels, self.look, self.compose, self.order.owner)

    async def finish(self, painted: Painted, address: Callable[[], str]) -> bytes:
        """The body of the answer, in JSON. address: of the service, where the client wants addresses of
        pictures.
        """
        files = await self.encode(painted.pixels)
        packed: list[bytes] = []
        if self.fields.response_format == "url":
            names = await self.pictures.keep(files, self.look.format, self.order.owner)
            data = [{"url": f"{address().rstrip('/')}/v1/pictures/{name}"} for name in names]
        else:
            packed = await self.pictures.pack(files)
            data = [{"b64_json": ""} for _ in packed]
        if self.revised is not None:
            data = [{**picture, "revised_prompt": self.revised} for picture in data]
        return filled(json_of(self.describe(data)), packed)

    def describe(self, data: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The body of the answer around its pictures, however these are given."""
        body = {"created": int(time.time()), "data": data, **self.facts(), "usage": self.usage()}
        if body["quality"] == "auto":
            del body["quality"]
        return body | self.origin()

    def origin(self) -> dict[str, Any]:
        """Where pictures come from: the seed, and for whom they were painted, where that was said."""
        identifier = self.fields.identifier
        told = {} if identifier is None else {"safety_identifier": identifier}
        return {"seed": self.seed, **told}

    def facts(self) -> dict[str, Any]:
        """What is told of each picture, in a whole answer and in the events of a stream."""
        quality = getattr(self.fields, "quality", None)
        keeps_alpha = self.alpha and not self.look.opaque and self.look.format != "jpeg"
        return {
            "background": "transparent" if keeps_alpha else "opaque",
            "output_format": self.look.format,
            "size": f"{self.look.size[0]}x{self.look.size[1]}",
            "quality": quality if quality in checks.QUALITY else "auto",
        }

    def usage(self, index: int | None = None) -> dict[str, Any]:
        """The tokens of the request; of one picture's event, where only the first counts what was sent."""
        text, sent = (0, 0) if index else self.tokens
        painted = _tokens(self.offer) * (self.n if index is None else 1)
        return {
            "total_tokens": text + sent + painted,
            "input_tokens": text + sent,
            "output_tokens": painted,
            "input_tokens_details": {"text_tokens": text, "image_tokens": sent},
            "output_tokens_details": {"text_tokens": 0, "image_tokens": painted},
        }


class Asked(NamedTuple):
    """What a request asks for, its pictures aside, which have not been looked at."""

    fields: wire.Generation | wire.Edit | wire.Variation
    offer: Offer
    reading: prompts.Reading
    options: dict[str, Any]


def check(
    service: "Service", endpoint: Endpoint, body: Mapping[str, Any], caller: "Caller", *, words: bool = False
) -> Asked:
    """Check the fields of a request; raises ApiError as `plan`. words: they are written, as in a form."""
    fields = _fields(endpoint, body, service.settings.limits, words=words)
    offer = _offer(service, fields.model, caller)
    if VERBS[endpoint] not in offer.verbs:
        raise _unable(service, endpoint, offer, caller)
    prompt = fields.prompt if isinstance(fields, wire.Guided) else None
    reading = prompts.read(offer, prompt, fields.label)
    return Asked(fields, offer, reading, checks.options(offer, VERBS[endpoint], fields, words=words))


async def plan(
    service: "Service",
    endpoint: Endpoint,
    body: Mapping[str, Any],
    caller: "Caller",
    uploads: "sources.Uploads | None" = None,
) -> Plan:
    """Check a request, and say what is to be painted for it.

    body: the fields, parsed from JSON, or as the words of a form, whose files are `uploads`. Raises ApiError
    for whatever is wrong, with the name of the field.
    """
    limits = service.settings.limits
    fields, offer, reading, options = check(service, endpoint, body, caller, words=uploads is not None)
    n = fields.n or 1
    seed = secrets.randbelow(_DRAWN_SEEDS) if fields.seed is None else fields.seed
    owner = caller.key_id or ""
    own, alpha, given = (offer.width, offer.height), offer.channels in (2, 4), None
    if not isinstance(fields, wire.Generation):
        given = await sources.given(service, fields, offer, n, uploads, owner)
        own, alpha = given.size or own, given.alpha
    checks.check_background(fields, offer, alpha)
    size = checks.size(fields.size, own, offer, n, limits)
    prompt, negative = None, None
    if isinstance(fields, wire.Guided):
        prompt, negative = fields.prompt, fields.negative_prompt
    order = Order(
        model=offer.name,
        rows=rows_of(
            [derived_seed(seed, "image", number) for number in range(n)],
            label=reading.label,
            prompt=reading.prompt,
            negative_prompt=negative,
        ),
        verb=VERBS[endpoint],
        options=options,
        images=None if given is None else given.images,
        masks=None if given is None else given.masks,
        previews=(fields.partial_images or 0) if isinstance(fields, wire.Guided) and offer.steps else 0,
        owner=owner,
        seconds=limits.seconds,
    )
    compression = 100 if fields.output_compression is None else fields.output_compression
    return Plan(
        endpoint=endpoint,
        fields=fields,
        offer=offer,
        order=order,
        look=Look(size, fields.output_format or "png", fields.background == "opaque", compression),
        seed=seed,
        revised=reading.revised,
        tokens=(_text_tokens(prompt, negative), 0 if given is None else given.pictures * _tokens(offer)),
        alpha=alpha,
        pictures=service.pictures,
        compose=None if given is None else given.compose,
    )


def find(service: "Service", name: str, caller: "Caller") -> Offer:
    """The model of a name or an alias; raises ApiError 404, and 403 where the key may not use it."""
    offers = service.engine.offers
    offer = offers.get(service.settings.aliases.get(name, name))
    if offer is None:
        known = [one for one in offers if caller.may_use(one)]
        near = prompts.nearest(name, known) or known
        raise ApiError(
            404,
            f"There is no model {name[:100]!r} here: choose {prompts.some(near)}.",
            param="model",
            code="model_not_found",
        )
    caller.permit(offer.name)
    return offer


def _fields(
    endpoint: Endpoint, body: Mapping[str, Any], limits: "Limits", *, words: bool
) -> wire.Generation | wire.Edit | wire.Variation:
    """The fields as they should be, as far as that can be said without the model."""
    kind = wire.FIELDS[endpoint]
    for name in kind.refused.keys() & body.keys():
        if body[name] is not None:
            raise invalid(
                f"{name} is not possible here: {kind.refused[name]}.", name, "unsupported_parameter"
            )
    try:
        fields = kind.model_validate(body, strict=False if words else None)
    except ValidationError as error:
        raise from_validation(error) from None
    if fields.n is not None and fields.n > limits.n:
        raise invalid(f"n may be at most {limits.n} (got {fields.n}).", "n")
    if fields.output_compression not in (None, 100) and fields.output_format in (None, "png"):
        message = "output_compression is for jpeg and webp: a png loses nothing."
        raise invalid(message, "output_compression")
    if isinstance(fields, wire.Guided):
        _check_words(fields, limits)
    return fields


def _check_words(fields: wire.Guided, limits: "Limits") -> None:
    prompts.check_length(fields.prompt, "prompt", limits.prompt)
    prompts.check_length(fields.negative_prompt, "negative_prompt", limits.prompt)
    if fields.style is not None:
        message = "style is not possible here: no model of this service has styles, say it in the prompt."
        raise invalid(message, "style", "unsupported_parameter")
    if fields.partial_images and not fields.stream:
        raise invalid("partial_images need a stream: set stream to true.", "partial_images")
    if fields.stream and fields.response_format == "url":
        message = "A stream carries its pictures itself: leave response_format out."
        raise invalid(message, "response_format")


def _offer(service: "Service", name: str | None, caller: "Caller") -> Offer:
    """The model that is asked for; where none is, the first that the caller may use."""
    if name is None:
        allowed = [model for model in service.settings.models if caller.may_use(model)]
        name = next(iter(allowed or service.settings.models))
    offer = find(service, name, caller)
    if offer.fault is not None:  # which may name files of this machine
        _log.warning("%s cannot be used: %s", offer.name, offer.fault)
        message = f"{offer.name} cannot be used now: the log of the service says why."
        raise ApiError(503, message, param="model", code="model_unavailable", headers=FINAL)
    return offer


def _unable(service: "Service", endpoint: Endpoint, offer: Offer, caller: "Caller") -> ApiError:
    able = [
        one.name
        for one in service.engine.offers.values()
        if VERBS[endpoint] in one.verbs and one.fault is None and caller.may_use(one.name)
    ]
    advice = f"use {prompts.some(able)}" if able else "no model of this service can"
    message = f"{offer.name} cannot {_DOES[endpoint]}: {advice}."
    return invalid(message, "model", "unsupported_model")


def _tokens(offer: Offer) -> int:
    """What one picture counts."""
    return offer.tokens or math.ceil(offer.width / 16) * math.ceil(offer.height / 16)


def _text_tokens(*texts: str | None) -> int:
    return sum(math.ceil(len(text.encode("utf-8")) / 4) for text in texts if text)
