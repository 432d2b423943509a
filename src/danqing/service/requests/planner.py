"""Validates requests for pictures and plans what to paint for them, for HTTP and for jobs."""

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pydantic import ValidationError

from danqing.editing.contract import seed_of
from danqing.options import Verb
from danqing.randomness import derived_seed
from danqing.service.access.caller import Caller
from danqing.service.access.held_bytes import HeldBytes
from danqing.service.engine.offers import Offer
from danqing.service.engine.orders import SOURCE_LABEL, Order, Painting, Priority, rows_of
from danqing.service.errors import ApiError, invalid
from danqing.service.failures import from_validation
from danqing.service.pictures.encode_pool import EncodePool
from danqing.service.pictures.encoding import OutputFormat
from danqing.service.requests import field_checks, input_pictures, prompts, requested_adapters, schemas, seeds
from danqing.service.requests.forms import Uploads
from danqing.service.requests.model_choice import ModelChoice
from danqing.service.requests.moderation import Moderator, Subject, What
from danqing.service.requests.recognition import RecognitionPlanner
from danqing.service.requests.record import record
from danqing.service.requests.schemas import Endpoint
from danqing.service.settings import Limits, Settings
from danqing.trust.declaration import Declaration, SourceType
from danqing.trust.marking import Marking, marking

VERBS: dict[Endpoint, tuple[Verb, ...]] = {
    "generations": ("sample",),
    "edits": ("fill", "translate", "relabel", "stylize"),
    "variations": ("vary",),
}
"""What a model may do for each endpoint; the first that it can do is the default."""
_DOES = {"generations": "generate pictures", "edits": "edit a picture", "variations": "vary a picture"}


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request whose fields fit its model.

    Its pictures have not been read yet.

    verb: what the model does.
    meaning: what the prompt and the label mean to the model.
    options: of the model's sampling, each with a valid value.
    owner: the id of the key that the request came with, or "".
    """

    endpoint: Endpoint
    fields: schemas.Generation | schemas.Edit | schemas.Variation
    offer: Offer
    verb: Verb
    meaning: prompts.PromptMeaning
    options: dict[str, Any]
    owner: str

    @property
    def n(self) -> int:
        """Return how many pictures are requested."""
        return self.fields.n or 1

    @property
    def subject(self) -> Subject:
        """Return what filters know of the request."""
        fields = self.fields
        moderation = fields.moderation if isinstance(fields, schemas.Guided) else None
        return Subject(self.offer.name, self.owner, moderation or "auto")


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """A validated request: what to paint, and how to return it.

    seed: of all pictures, given by the client or drawn.
    revised: the prompt in the model's own words, None if it is unchanged.
    tokens: of the text and of the pictures that were sent.
    alpha: whether painted pictures have an alpha channel, before `output` is applied.
    compose: makes the pictures to return from the painted ones; None if they are the same.
    screen: raises ApiError if a filter blocks one of the pictures to return; None without filters. Its
        arguments are the pictures `[h, w, c]`, what they are to filters, and their priority.
    """

    endpoint: Endpoint
    fields: schemas.Generation | schemas.Edit | schemas.Variation
    offer: Offer
    order: Order
    output: OutputFormat
    seed: int
    revised: str | None
    tokens: tuple[int, int]
    alpha: bool
    compose: Callable[[Painting], Sequence[Painting]] | None = None
    screen: Callable[[Sequence[Painting], What, Priority], Awaitable[None]] | None = None

    @property
    def n(self) -> int:
        """Return how many pictures are requested."""
        return len(self.order.rows)

    @property
    def streams(self) -> bool:
        """Return whether the client wants the answer as events."""
        return bool(isinstance(self.fields, schemas.Guided) and self.fields.stream)

    @property
    def sampled_size(self) -> tuple[int, int]:
        """Return the (width, height) at which the pictures are generated."""
        size: tuple[int, int] = self.order.options.get("size", (self.offer.width, self.offer.height))
        return size

    @property
    def preview_output(self) -> OutputFormat:
        """Return the form of unfinished pictures, whose marks are metadata labels alone."""
        marks = self.output.marks
        own = marks.metadata_only() if isinstance(marks, Marking) else None
        return replace(self.output, marks=own, settings=None)

    @property
    def record(self) -> dict[str, Any]:
        """Return everything that the pictures depend on."""
        return record(self.endpoint, self.fields, self.offer, self.seed)

    @property
    def work(self) -> int:
        """Return the cost of encoding all pictures, previews included; see `OutputFormat.work`."""
        width, height = self.sampled_size
        return self.n * max(self.output.work, width * height) * (1 + self.order.previews)


class Planner:
    """Turns the fields of requests into planned requests.

    offers: the models of the service by name; they change while it runs.
    pool: its threads decode the pictures of requests.
    moderator: blocks prompts and pictures; None without filters.
    models: chooses among the offers. recognition: plans requests to recognize pictures.
    """

    def __init__(
        self,
        settings: Settings,
        offers: Mapping[str, Offer],
        pool: EncodePool,
        moderator: Moderator | None = None,
    ) -> None:
        self._settings, self._pool, self._moderator = settings, pool, moderator
        self.models = ModelChoice(settings, offers)
        self.recognition = RecognitionPlanner(settings, self.models, pool, moderator)

    async def check(
        self, endpoint: Endpoint, body: Mapping[str, Any], caller: Caller, *, as_text: bool = False
    ) -> CheckedRequest:
        """Check the fields of a request.

        Raises ApiError with the name of a wrong field, and for a prompt that a filter blocks.

        as_text: whether values may be text, as in a form.
        """
        fields = _fields(endpoint, body, self._settings.limits, as_text=as_text)
        offer = self.models.choose(fields.model, caller, lambda one: bool(one.verbs))
        verb = _verb(endpoint, fields, offer)
        if verb is None:
            raise self._unable(endpoint, fields, offer, caller)
        prompt = fields.prompt if isinstance(fields, schemas.Guided) else None
        meaning = prompts.read(offer, prompt, fields.label)
        shown = _source_label(verb, fields, offer, meaning)
        field_checks.check_attributes(offer, fields)
        options = field_checks.sampling_options(offer, verb, fields, as_text=as_text) | shown
        options |= requested_adapters.options(offer, fields.adapters, caller)
        checked = CheckedRequest(endpoint, fields, offer, verb, meaning, options, caller.owner)
        if self._moderator is not None:
            for text in _texts_to_follow(checked):
                await self._moderator.check_text(text, checked.subject)
        return checked

    async def read_pictures(
        self, request: CheckedRequest, held: HeldBytes, uploads: Uploads | None = None
    ) -> Uploads | None:
        """Return the pictures of a request, None if it has none.

        Raises ApiError.

        uploads: the files of a form. Otherwise pictures are decoded from the JSON body, or fetched.
        """
        if isinstance(request.fields, schemas.Generation):
            return None
        sent = request.fields.images if uploads is None else uploads.images
        input_pictures.check_count(request.fields, request.offer, len(sent or ()))
        return uploads or await input_pictures.read(request.fields, self._settings, held)

    async def embed(self, body: Mapping[str, Any], sent: Uploads, held: HeldBytes) -> dict[str, Any]:
        """Return a JSON body with its pictures in it.

        The content of their addresses may change later.
        """

        async def embedded(reference: Mapping[str, Any], content: bytes) -> Mapping[str, Any]:
            if input_pictures.is_data_url(reference["image_url"]):
                return reference
            packed = (await self._pool.to_base64([content]))[0].decode()
            held.hold(len(packed))
            return {**reference, "image_url": f"data:application/octet-stream;base64,{packed}"}

        whole = {**body, "images": [await embedded(body["images"][0], sent.images[0])]}
        if sent.mask is not None:
            whole["mask"] = await embedded(body["mask"], sent.mask)
        return whole

    async def plan(self, request: CheckedRequest, sent: Uploads | None, *, name: str = "") -> PlannedRequest:
        """Plan what to paint for a checked request and its pictures.

        name: of the picture in an archive; its own seeds are those of `danqing fill` and other commands.
        Raises ApiError.
        """
        fields, offer, n, limits = request.fields, request.offer, request.n, self._settings.limits
        seed = seeds.drawn_seed(fields)
        own, alpha, given = (offer.width, offer.height), offer.channels in (2, 4), None
        if not isinstance(fields, schemas.Generation):
            assert sent is not None
            work = partial(input_pictures.prepare, fields, request.verb, offer, sent, limits)
            given = await self._pool.run(request.owner, work)
            if self._moderator is not None:
                read = partial(input_pictures.decoded, sent.images[0], limits, "image", offer.range)
                await self._moderator.check_pictures([read], "upload", request.subject)
            own, alpha = given.size or own, given.alpha
        field_checks.check_background(fields, offer, alpha)
        verb = request.verb
        size = field_checks.output_size(fields.size, own, offer, n, limits, verb=verb)
        options = dict(request.options)
        if verb == "sample" and size != own and offer.sizes.fits(size):
            options["size"] = size  # otherwise pictures of the model's own size are resampled
        prompt, negative, previews = None, None, 0
        whole = None if given is None else given.whole
        if isinstance(fields, schemas.Guided):
            prompt, negative = fields.prompt, fields.negative_prompt
            previews = (fields.partial_images or 0) if offer.steps and whole is None else 0
        own_seeds = [seed_of(seed, name, k) if name else derived_seed(seed, "image", k) for k in range(n)]
        order = Order(
            model=offer.name,
            rows=rows_of(
                own_seeds,
                label=request.meaning.label,
                prompt=request.meaning.prompt,
                negative_prompt=negative,
                attributes=fields.attributes,
                mixes=seeds.mixes(fields, offer, n),
                moves=seeds.moves(fields, offer),
            ),
            verb=verb,
            options=options,
            images=None if given is None else given.images,
            masks=None if given is None else given.masks,
            whole=whole,
            previews=previews,
            owner=request.owner,
            seconds=limits.seconds,
        )
        embeds = fields.embed_settings and fields.output_format != "input"
        sent_tokens = 0 if given is None else given.pictures * offer.image_tokens()
        return PlannedRequest(
            endpoint=request.endpoint,
            fields=fields,
            offer=offer,
            order=order,
            output=replace(
                _output(fields, given, size),
                marks=self._marks(offer, verb, fields),
                parent=None if sent is None else sent.images[0],
                settings=record(request.endpoint, fields, offer, seed) if embeds else None,
            ),
            seed=seed,
            revised=request.meaning.revised,
            tokens=(_text_tokens(prompt, negative), sent_tokens),
            alpha=alpha,
            compose=None if given is None else given.compose,
            screen=None if self._moderator is None else partial(_screen, self._moderator, request.subject),
        )

    async def check_and_plan(
        self,
        endpoint: Endpoint,
        body: Mapping[str, Any],
        caller: Caller,
        held: HeldBytes,
        uploads: Uploads | None = None,
    ) -> PlannedRequest:
        """Check a request, read its pictures and plan it; raises ApiError.

        body: the fields from JSON, or the text fields of a form whose files are `uploads`.
        """
        request = await self.check(endpoint, body, caller, as_text=uploads is not None)
        return await self.plan(request, await self.read_pictures(request, held, uploads))

    def _marks(self, offer: Offer, verb: Verb, fields: schemas.Fields) -> Marking | None:
        prompt = fields.prompt if isinstance(fields, schemas.Guided) else None
        used = ", ".join(fields.adapters or ())
        declaration = Declaration(
            source=SourceType.of(offer.task or verb),
            action=offer.task or verb,
            model=f"{offer.name} with {used}" if used else offer.name,
            model_digest=offer.digest,
            prompt=prompt or "",
            licence=requested_adapters.licence(offer, fields.adapters),
            creator=offer.creator,
        )
        return marking(self._settings.mark_settings, declaration)

    def _unable(self, endpoint: Endpoint, fields: schemas.Fields, offer: Offer, caller: Caller) -> ApiError:
        advice = self.models.advice(caller, lambda one: _verb(endpoint, fields, one) is not None)
        task = fields.task if isinstance(fields, schemas.Edit) else None
        does = _DOES[endpoint] if task is None else f"{task} a picture"
        if endpoint == "generations" and {"translate", "stylize"} & {*offer.verbs}:
            advice = f"it changes pictures that are sent to /v1/images/edits, and to generate, {advice}"
        return invalid(f"{offer.name} cannot {does}: {advice}.", "model", "unsupported_model")


async def _screen(
    moderator: Moderator, subject: Subject, pictures: Sequence[Painting], what: What, priority: Priority
) -> None:
    """Raise ApiError if a filter blocks one of the pictures `[h, w, c]` of an answer."""

    def read(picture: Painting) -> Painting:
        return picture

    every = [partial(read, picture) for picture in pictures]
    await moderator.check_pictures(every, what, replace(subject, priority=priority))


def _texts_to_follow(request: CheckedRequest) -> Iterator[str]:
    """Yield the texts that the pictures of a request may show.

    With a guidance scale below 1, a model follows its negative prompt instead of avoiding it.
    """
    fields = request.fields
    if not isinstance(fields, schemas.Guided):
        return
    yield fields.prompt
    usual = request.offer.options[request.verb].get("guidance_scale", 1)
    if fields.negative_prompt is not None and request.options.get("guidance_scale", usual) < 1:
        yield fields.negative_prompt


def _verb(endpoint: Endpoint, fields: schemas.Fields, offer: Offer) -> Verb | None:
    """Return what a model does for a request; None if it cannot."""
    able = [verb for verb in VERBS[endpoint] if verb in offer.verbs]
    if not isinstance(fields, schemas.Edit):
        return next(iter(able), None)
    if fields.task is None and fields.source_label is not None and "relabel" in able:
        return "relabel"
    if fields.task is None:
        return next(iter(able), None)
    if fields.task not in offer.tasks:
        return None
    return next((verb for verb in able if (verb == "fill") == (fields.task == "fill")), None)


def _source_label(
    verb: Verb, fields: schemas.Fields, offer: Offer, meaning: prompts.PromptMeaning
) -> dict[str, Any]:
    """Return the option that says what a picture shows that is turned from one label into another.

    Raises ApiError where a label is missing or is not for this model.
    """
    shown = fields.source_label if isinstance(fields, schemas.Edit) else None
    if verb != "relabel":
        if shown is not None:
            message = f"{offer.name} does not turn one label into another: leave source_label out."
            raise invalid(message, SOURCE_LABEL, "unsupported_parameter")
        return {}
    if shown is None:
        message = f"{offer.name} turns one label into another: say by source_label what the picture shows."
        raise invalid(message, SOURCE_LABEL, "missing_required_parameter")
    if meaning.label is None:
        message = "label is missing: say what the result shows."
        raise invalid(message, "label", "missing_required_parameter")
    return {SOURCE_LABEL: prompts.label(offer, shown, SOURCE_LABEL)}


def _output(
    fields: schemas.Fields, given: input_pictures.PreparedPictures | None, size: tuple[int, int]
) -> OutputFormat:
    """Return the form of the answer's pictures."""
    format = fields.output_format or "png"
    if format != "input":
        compression = 100 if fields.output_compression is None else fields.output_compression
        return OutputFormat(size, format, fields.background == "opaque", compression)
    assert given is not None
    assert given.whole is not None
    return OutputFormat(size, input_pictures.format_of(given.whole.content), like=given.whole.content)


def _fields(
    endpoint: Endpoint, body: Mapping[str, Any], limits: Limits, *, as_text: bool
) -> schemas.Generation | schemas.Edit | schemas.Variation:
    """Parse and check the fields, except for checks that depend on the model."""
    kind = schemas.FIELDS[endpoint]
    for name in kind.unsupported.keys() & body.keys():
        if body[name] is not None:
            raise invalid(
                f"{name} is not supported: {kind.unsupported[name]}.", name, "unsupported_parameter"
            )
    try:
        fields = kind.model_validate(body, strict=False if as_text else None)
    except ValidationError as error:
        raise from_validation(error) from None
    if fields.n is not None and fields.n > limits.n:
        raise invalid(f"n may be at most {limits.n} (got {fields.n}).", "n")
    if fields.output_compression not in (None, 100) and fields.output_format in (None, "png", "input"):
        message = (
            "output_compression is for jpeg and webp: png is lossless, and a file keeps its own quality."
        )
        raise invalid(message, "output_compression")
    if isinstance(fields, schemas.Guided):
        _check_guided(fields, limits)
    return fields


def _check_guided(fields: schemas.Guided, limits: Limits) -> None:
    prompts.check_length(fields.prompt, "prompt", limits.prompt)
    prompts.check_length(fields.negative_prompt, "negative_prompt", limits.prompt)
    if fields.style is not None:
        message = "style is not supported: no model of this service has styles, describe it in the prompt."
        raise invalid(message, "style", "unsupported_parameter")
    if fields.partial_images and not fields.stream:
        raise invalid("partial_images requires a stream: set stream to true.", "partial_images")
    if fields.stream and fields.response_format == "url":
        message = "A stream contains its pictures: leave response_format out."
        raise invalid(message, "response_format")


def _text_tokens(*texts: str | None) -> int:
    return sum(math.ceil(len(text.encode("utf-8")) / 4) for text in texts if text)
