"""Validates requests to recognize pictures and texts, plans them, and describes what was found."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from pydantic import ValidationError

from danqing.service.access.caller import Caller
from danqing.service.access.held_bytes import HeldBytes
from danqing.service.engine.offers import Offer
from danqing.service.engine.orders import Ability, Finding, ImageRow, Order, Query, rows_of
from danqing.service.errors import invalid
from danqing.service.failures import from_validation
from danqing.service.pictures.encode_pool import EncodePool
from danqing.service.requests import archives, input_pictures, prompts
from danqing.service.requests import recognition_schemas as schemas
from danqing.service.requests.forms import Uploads
from danqing.service.requests.model_choice import ModelChoice
from danqing.service.requests.moderation import Moderator, Subject
from danqing.service.requests.schemas import RecognitionEndpoint, Reference
from danqing.service.settings import Limits, Settings

ABILITIES: dict[RecognitionEndpoint, Ability] = {
    "classifications": "classify",
    "detections": "detect",
    "segmentations": "segment",
    "embeddings": "embed",
    "search": "search",
    "attributions": "attribute",
}
_DOES: dict[RecognitionEndpoint, str] = {
    "classifications": "classify pictures",
    "detections": "find objects in pictures",
    "segmentations": "segment pictures",
    "embeddings": "turn pictures into vectors",
    "search": "be searched",
    "attributions": "show which places of a picture count",
}
_OBJECTS: dict[RecognitionEndpoint, str] = {
    "classifications": "classification",
    "detections": "detection",
    "segmentations": "segmentation",
    "embeddings": "embedding",
    "search": "search_result",
    "attributions": "attribution",
}
_BASE64_OF_FILES = ("iVBORw0KGgo", "/9j/", "UklGR")
"""How the base64 of png, jpeg and webp files begins."""


@dataclass(frozen=True, slots=True)
class CheckedRecognition:
    """A request whose fields fit its model.

    Its pictures have not been read yet.

    inputs: the texts and pictures in the JSON body; empty for a form.
    owner: the id of the key that the request came with, or "".
    """

    endpoint: RecognitionEndpoint
    fields: schemas.RecognitionFields
    offer: Offer
    inputs: tuple[str | Reference, ...]
    owner: str


@dataclass(frozen=True, slots=True)
class PlannedRecognition:
    """A validated request.

    sizes: (width, height) of each picture, None for texts. tokens: of all pictures and texts.
    """

    endpoint: RecognitionEndpoint
    fields: schemas.RecognitionFields
    offer: Offer
    order: Order
    sizes: tuple[tuple[int, int] | None, ...]
    tokens: int

    @property
    def n(self) -> int:
        """Return how many pictures and texts were sent."""
        return len(self.order.rows)


class RecognitionPlanner:
    """Turns the fields of requests into planned requests.

    pool: its threads check the pictures.
    moderator: blocks texts and pictures; None without filters.
    """

    def __init__(
        self, settings: Settings, models: ModelChoice, pool: EncodePool, moderator: Moderator | None = None
    ) -> None:
        self._settings, self._models, self._pool, self._moderator = settings, models, pool, moderator

    async def check_and_plan(
        self,
        endpoint: RecognitionEndpoint,
        body: Mapping[str, Any],
        caller: Caller,
        held: HeldBytes,
        uploads: Uploads | None = None,
    ) -> PlannedRecognition:
        """Check a request, read its pictures and plan it; raises ApiError.

        body: the fields from JSON, or the text fields of a form whose files are `uploads`.
        """
        request = self.check(endpoint, body, caller, uploads)
        return await self.plan(request, await self.read(request, held, uploads))

    def check(
        self,
        endpoint: RecognitionEndpoint,
        body: Mapping[str, Any],
        caller: Caller,
        uploads: Uploads | None = None,
    ) -> CheckedRecognition:
        """Check the fields of a request.

        Raises ApiError with the name of a wrong field.
        """
        ability, limits = ABILITIES[endpoint], self._settings.limits
        try:
            kind = schemas.FIELDS[endpoint]
            fields = kind.model_validate(body, strict=None if uploads is None else False)
        except ValidationError as error:
            raise from_validation(error) from None

        prompt = fields.prompt if isinstance(fields, schemas.Attribution) else None
        if isinstance(fields, schemas.Attribution):  # over a model that generates, or by one that recognizes
            caller.require("recognize" if prompt is None else "generate")
            prompts.check_length(prompt, "prompt", limits.prompt)

        def suits(one: Offer) -> bool:
            fits = fields.model is not None or bool(one.verbs) == (prompt is not None)
            return ability in one.recognizes and fits

        offer = self._models.choose(fields.model, caller, suits)
        if not suits(offer):
            advice = self._models.advice(caller, suits)
            raise invalid(f"{offer.name} cannot {_DOES[endpoint]}: {advice}.", "model", "unsupported_model")
        if isinstance(fields, schemas.Embedding) and fields.dimensions not in (None, offer.embedding_size):
            message = (
                f"The vectors of {offer.name} have {offer.embedding_size} numbers: leave dimensions out."
            )
            raise invalid(message, "dimensions")
        if isinstance(fields, schemas.Attribution):
            _check_attribution(fields, offer)
        if uploads is not None and fields.input is not None:
            raise invalid("A form has its pictures as the files image: leave input out.", "input")
        inputs = _inputs(fields.input, offer, limits) if uploads is None else ()
        return CheckedRecognition(endpoint, fields, offer, inputs, caller.owner)

    async def read(
        self, request: CheckedRecognition, held: HeldBytes, uploads: Uploads | None = None
    ) -> tuple[Query, ...]:
        """Return the texts and pictures of a request; raises ApiError.

        uploads: the files of a form. Otherwise pictures are decoded from the JSON body, or fetched.
        """
        if uploads is not None:
            if uploads.mask is not None:
                raise invalid("What recognizes pictures takes no mask: leave it out.", "mask")
            if not uploads.images:
                raise invalid("image is missing: send the picture.", "image", "missing_required_parameter")
            return tuple(Query(content) for content in uploads.images)
        queries = []
        for number, one in enumerate(request.inputs):
            if isinstance(one, str):
                queries.append(Query(one.encode(), is_text=True))
            else:
                param = f"input.{number}"
                queries.append(Query(await input_pictures.read_one(one, param, self._settings, held)))
        return tuple(queries)

    async def plan(self, request: CheckedRecognition, queries: tuple[Query, ...]) -> PlannedRecognition:
        """Check the pictures of a request, and plan what to recognize.

        Raises ApiError.
        """
        fields, offer, limits = request.fields, request.offer, self._settings.limits
        if isinstance(fields, schemas.Attribution) and len(queries) > 1:
            raise invalid("Maps are made of one picture at a time: send one.", "input")
        sizes = await self._pool.run(request.owner, lambda: _sizes(queries, limits))
        await self._moderate(request, queries)
        options = {name: value for name in fields.options if (value := getattr(fields, name)) is not None}
        texts = [query.content for query in queries if query.is_text]
        order = Order(
            model=offer.name,
            rows=_rows(fields, offer, len(queries)),
            verb=ABILITIES[request.endpoint],
            options=options,
            queries=queries,
            owner=request.owner,
            seconds=limits.seconds,
        )
        tokens = sum(math.ceil(len(text) / 4) for text in texts)
        tokens += (len(queries) - len(texts)) * offer.image_tokens()
        return PlannedRecognition(request.endpoint, fields, offer, order, sizes, tokens)

    async def _moderate(self, request: CheckedRecognition, queries: tuple[Query, ...]) -> None:
        """Raise ApiError for texts and pictures that a filter blocks."""
        if self._moderator is None:
            return
        subject, read = Subject(request.offer.name, request.owner), input_pictures.decoded
        limits, bounds = self._settings.limits, request.offer.range
        if isinstance(request.fields, schemas.Attribution) and request.fields.prompt is not None:
            await self._moderator.check_text(request.fields.prompt, subject)
        for query in queries:
            if query.is_text:
                await self._moderator.check_text(query.content.decode(), subject)
        pictures = [
            partial(read, query.content, limits, f"input.{number}", bounds)
            for number, query in enumerate(queries)
            if not query.is_text
        ]
        if pictures:
            await self._moderator.check_pictures(pictures, "upload", subject)

    async def embed(
        self, body: Mapping[str, Any], queries: Sequence[Query], held: HeldBytes
    ) -> dict[str, Any]:
        """Return a JSON body with its pictures in it.

        The content of their addresses may change later.
        """
        packed = await self._pool.to_base64([one.content for one in queries if not one.is_text])
        held.hold(sum(map(len, packed)))
        pictures = iter(packed)
        inputs = [
            {"text": one.content.decode()}
            if one.is_text
            else {"image_url": f"data:application/octet-stream;base64,{next(pictures).decode()}"}
            for one in queries
        ]
        return {**body, "input": inputs}


def files_of(plan: PlannedRecognition, findings: Sequence[Finding]) -> list[bytes]:
    """Return the PNG files of an answer, masks or maps."""
    if plan.endpoint == "segmentations":
        return [one.content for one in findings]
    files = []
    for one in findings if plan.endpoint == "attributions" else ():
        start = 0
        for each in one.values["maps"]:
            files.append(one.content[start : start + each["bytes"]])
            start += each["bytes"]
    return files


def describe(
    plan: PlannedRecognition, findings: Sequence[Finding], files: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return the body of an answer.

    files: the content or the address of each of `files_of`.
    """
    left = iter(files)
    body: dict[str, Any] = {
        "object": "list",
        "data": [],
        "model": plan.offer.name,
        "usage": {"prompt_tokens": plan.tokens, "total_tokens": plan.tokens},
    }
    if plan.endpoint == "classifications":
        body["calibrated"] = plan.offer.calibrated
    if plan.endpoint == "segmentations":
        body["classes"] = list(plan.offer.labels)
    if plan.fields.identifier is not None:
        body["safety_identifier"] = plan.fields.identifier
    for number, (finding, size) in enumerate(zip(findings, plan.sizes, strict=True)):
        one = {"object": _OBJECTS[plan.endpoint], "index": number, **finding.values}
        if isinstance(plan.fields, schemas.Embedding):
            one["embedding"] = _vector(finding.content, plan.fields.encoding_format)
        elif size is not None and plan.endpoint != "search":
            one["size"] = f"{size[0]}x{size[1]}"
        if plan.endpoint == "segmentations":
            one |= next(left)
        if plan.endpoint == "attributions":
            own = [{name: value for name, value in each.items() if name != "bytes"} for each in one["maps"]]
            one["maps"] = [each | dict(next(left)) for each in own]
        body["data"].append(one)
    return body


def _rows(fields: schemas.RecognitionFields, offer: Offer, count: int) -> tuple[ImageRow, ...]:
    if not isinstance(fields, schemas.Attribution):
        return rows_of([0] * count)
    label = None if fields.label is None else prompts.label(offer, fields.label)
    return rows_of([0] * count, prompt=fields.prompt, label=label)


def _check_attribution(fields: schemas.Attribution, offer: Offer) -> None:
    """Raise ApiError unless the fields are those that the model explains a picture by."""
    if not offer.verbs:
        if fields.prompt is not None:
            message = f"{offer.name} shows which places count for a label: leave prompt out."
            raise invalid(message, "prompt", "unsupported_parameter")
        if fields.label is not None:
            prompts.label(offer, fields.label)
        return
    if fields.label is not None:
        message = f"{offer.name} shows where a picture attends to words: leave label out."
        raise invalid(message, "label", "unsupported_parameter")
    if not (fields.prompt or "").strip():
        message = f"{offer.name} shows where a picture attends to words: send its prompt."
        raise invalid(message, "prompt", "missing_required_parameter")


def _vector(content: bytes, format: str | None) -> str | list[float]:
    if format == "base64":
        return base64.b64encode(content).decode()
    found: list[float] = np.frombuffer(content, "<f4").tolist()
    return found


def _inputs(value: Any, offer: Offer, limits: Limits) -> tuple[str | Reference, ...]:
    """Return texts as they are, and pictures as references; raises ApiError."""
    if value is None or value == []:
        raise invalid("input is missing: send a picture.", "input", "missing_required_parameter")
    every = value if isinstance(value, list) else [value]
    if len(every) > limits.inputs:
        raise invalid(f"input may have at most {limits.inputs:,} elements (got {len(every):,}).", "input")
    return tuple(_input(one, f"input.{number}", offer, limits) for number, one in enumerate(every))


def _input(value: Any, param: str, offer: Offer, limits: Limits) -> str | Reference:
    if isinstance(value, dict) and value.keys() == {"image_url"} and isinstance(value["image_url"], str):
        return Reference(image_url=value["image_url"])
    is_text = isinstance(value, dict) and value.keys() == {"text"} and isinstance(value["text"], str)
    text = value["text"] if is_text else value
    if not isinstance(text, str):
        message = f'{param} must be a string, {{"image_url": "..."}} or {{"text": "..."}}.'
        raise invalid(message, param)
    if not is_text:
        if input_pictures.is_data_url(text) or text[:8].lower().startswith(("http://", "https://")):
            return Reference(image_url=text)
        if text.startswith(_BASE64_OF_FILES):
            return Reference(image_url=f"data:;base64,{text}")
    if not offer.reads_text:
        message = (
            f"{offer.name} reads no text: send a data URL, the base64 of a png, jpeg or webp file, or an "
            "address."
        )
        raise invalid(message, param)
    if not text.strip():
        raise invalid(f"{param} is empty: send a text or a picture.", param)
    prompts.check_length(text, param, limits.prompt)
    return text


def _sizes(queries: Sequence[Query], limits: Limits) -> tuple[tuple[int, int] | None, ...]:
    """Return the (width, height) of each picture, None for texts; raises ApiError."""
    sizes = list[tuple[int, int] | None]()
    for number, query in enumerate(queries):
        if query.is_text:
            sizes.append(None)
            continue
        param = f"input.{number}"
        if query.content.startswith(archives.SIGNATURE):
            raise invalid(
                "A zip is not recognized: send its pictures in input.", param, "invalid_image_format"
            )
        sizes.append(input_pictures.check(query.content, limits, param))
    pixels = sum(size[0] * size[1] for size in sizes if size is not None)
    if pixels > limits.pixels:
        message = f"The pictures have {pixels:,} pixels, and may have {limits.pixels:,} together: send fewer."
        raise invalid(message, "input")
    return tuple(sizes)
