"""/v1/jobs: requests that run in the background, and their progress."""

import json
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from danqing.service.access.caller import Caller, Right
from danqing.service.access.held_bytes import HeldBytes
from danqing.service.errors import invalid
from danqing.service.failures import from_validation
from danqing.service.http import sse
from danqing.service.http.gate import any_key, held_bytes, log_facts, needs
from danqing.service.jobs.manager import JobPosition
from danqing.service.jobs.queries import describe
from danqing.service.jobs.runner import JobPreview
from danqing.service.jobs.tables import Status
from danqing.service.parts import Service, service_of
from danqing.service.pictures.encoding import MEDIA_TYPES, PICTURE_HEADERS
from danqing.service.requests import archives, json_bodies, recognition_schemas, schemas
from danqing.service.requests.content_type import is_form
from danqing.service.requests.forms import read_form
from danqing.service.requests.recognition import ABILITIES

_SCOPES: dict[schemas.JobEndpoint, Right] = {
    "generations": "generate",
    "edits": "edit",
    "variations": "edit",
    **{one: "recognize" for one in ABILITIES if one != "attributions"},
}
_KEY = re.compile(r"[!-~]{1,255}")  # visible ASCII
_FINAL = ("job.succeeded", "job.failed", "job.cancelled")


class Webhook(BaseModel):
    """Where a job reports its end.

    secret: to sign with, `whsec_` and 24 to 64 bytes in base64; by default a random one, which the answer
    contains.
    """

    model_config = ConfigDict(extra="forbid")

    url: str = Field(max_length=2048)
    secret: str | None = Field(None, max_length=128)


class JobRequest(BaseModel):
    """The body of POST /v1/jobs.

    Its `body` is what the endpoint takes in JSON, without `stream`.
    The picture of edits and variations may be a zip of pictures. A form has this object in the field
    `request`, and the files `image` and `mask`.
    """

    model_config = ConfigDict(extra="forbid")

    endpoint: schemas.JobEndpoint
    body: dict[str, Any]
    previews: int = Field(0, ge=0, le=3, description="Unfinished pictures that its events show, if possible.")
    webhook: Annotated[Webhook, WithJsonSchema(Webhook.model_json_schema())] | None = None


class JobProgress(BaseModel):
    """Steps done and all steps.

    Both are 0 before their number is known.
    """

    done: int
    total: int


class JobWebhook(BaseModel):
    """Where a job reports its end.

    Only the answer to its creation has the secret.
    """

    url: str
    secret: str | None = None


class JobAnswer(BaseModel):
    """A job.

    attempts: how often it was started.
    request: the requested fields, without pictures.
    """

    id: str
    object: Literal["job"] = "job"
    status: Status
    endpoint: schemas.JobEndpoint
    model: str
    created_at: int
    started_at: int | None
    finished_at: int | None
    attempts: int
    progress: JobProgress
    request: dict[str, Any]
    response: (
        schemas.ImagesResponse
        | schemas.ArchiveResponse
        | recognition_schemas.ClassificationsResponse
        | recognition_schemas.DetectionsResponse
        | recognition_schemas.SegmentationsResponse
        | recognition_schemas.EmbeddingsResponse
        | recognition_schemas.SearchResponse
        | recognition_schemas.AttributionsResponse
        | None
    )
    error: schemas.Mistake | None
    webhook: JobWebhook | None


class JobList(BaseModel):
    """Jobs, the latest first.

    The next page begins `after` the last_id of this one.
    """

    object: Literal["list"] = "list"
    data: list[JobAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


async def _owner(request: Request, caller: Annotated[Caller, Depends(any_key)]) -> Caller:
    """Return a caller that may create some jobs; jobs of others do not exist for it."""
    if any(caller.may(scope) for scope in _SCOPES.values()):
        return caller
    return await needs("generate")(request, None)


_Owner = Annotated[Caller, Depends(_owner)]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": JobRequest.model_json_schema()},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "request": {"type": "string", "description": "The JSON object of the job."},
                        "image": {
                            "type": "string",
                            "format": "binary",
                            "description": "A picture, or a zip of pictures.",
                        },
                        "mask": {
                            "type": "string",
                            "format": "binary",
                            "description": "A mask for all, or a zip of masks by the names of the pictures.",
                        },
                    },
                    "required": ["request"],
                }
            },
        },
    }
}

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.post(
    "",
    status_code=202,
    responses={
        200: {"model": JobAnswer, "description": "The job that was accepted for this key before."},
        202: {"model": JobAnswer, "description": "The job."},
        **schemas.REJECTED,
    },
    openapi_extra=_BODY,
)
async def accept(
    request: Request,
    caller: _Owner,
    idempotency_key: Annotated[
        str | None, Header(description="Chosen by the client: the same key creates only one job.")
    ] = None,
) -> JSONResponse:
    """Check a request, and accept it as a job."""
    service = service_of(request)
    try:
        body = await _body(request, service)
        asked = JobRequest.model_validate(body)
    except ValidationError as error:
        raise from_validation(error) from None
    if asked.endpoint in _SCOPES:  # for others it depends on their fields
        caller.require(_SCOPES[asked.endpoint])
    if idempotency_key is not None and not _KEY.fullmatch(idempotency_key):
        message = "An Idempotency-Key is 1 to 255 visible characters of ASCII, such as a UUID."
        raise invalid(message, "Idempotency-Key")
    job, is_new = await service.jobs.accept(
        asked.endpoint,
        asked.body,
        caller,
        held_bytes(request),
        idempotency_key=idempotency_key,
        webhook=asked.webhook.url if asked.webhook else None,
        webhook_secret=asked.webhook.secret if asked.webhook else None,
        previews=asked.previews,
    )
    log_facts(request, model=job.model, images=job.pictures if is_new else 0, user=asked.body.get("user"))
    answer = describe(job, _address(request, service))
    if job.webhook is not None:
        answer["webhook"] = {"url": job.webhook, "secret": job.webhook_secret}
    return JSONResponse(answer, 202 if is_new else 200, {"location": f"/v1/jobs/{job.id}"})


@router.get("", responses={200: {"model": JobList}, **schemas.REJECTED})
async def jobs(
    request: Request,
    caller: _Owner,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=64, description="The id of a job.")] = None,
    status: Status | None = None,
) -> JSONResponse:
    """Return the caller's jobs, the latest first."""
    service = service_of(request)
    found, has_more = await service.jobs.page(caller.owner, limit=limit, after=after, status=status)
    address = _address(request, service)
    return JSONResponse(
        {
            "object": "list",
            "data": [describe(job, address) for job in found],
            "first_id": found[0].id if found else None,
            "last_id": found[-1].id if found else None,
            "has_more": has_more,
        }
    )


@router.get("/{job_id}", responses={200: {"model": JobAnswer}, **schemas.REJECTED})
async def job(request: Request, caller: _Owner, job_id: str) -> JSONResponse:
    """Return a job of the caller."""
    service = service_of(request)
    found = await service.jobs.find(caller.owner, job_id)
    return JSONResponse(describe(found, _address(request, service)))


@router.post("/{job_id}/cancel", responses={200: {"model": JobAnswer}, **schemas.REJECTED})
async def cancel(request: Request, caller: _Owner, job_id: str) -> JSONResponse:
    """Cancel a job, unless it has ended."""
    service = service_of(request)
    ended = await service.jobs.cancel(caller, job_id)
    return JSONResponse(describe(ended, _address(request, service)))


@router.get(
    "/{job_id}/events",
    response_class=Response,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        204: {"description": "The job has ended, and the client knows its last event."},
        **schemas.REJECTED,
    },
)
async def events(
    request: Request,
    caller: _Owner,
    job_id: str,
    last_event_id: Annotated[
        str | None, Header(description="The id of the last event that the client knows.")
    ] = None,
) -> Response:
    """Stream the events of a job until it ends.

    They start after the event that the client knows. Their names are `job.queued`, `job.running`,
    `job.progress`, `job.succeeded`, `job.failed` and `job.cancelled`; each has an id. Without an id come
    `job.position`, with the `jobs` and `pictures` before a queued job, and `job.preview`, with unfinished
    pictures in base64 as `images`.
    """
    service, owner = service_of(request), caller.owner
    known = last_event_id or "0"
    if not re.fullmatch(r"[0-9]{1,9}", known, re.ASCII):
        raise invalid("Last-Event-ID must be the id of an event, a number.", "Last-Event-ID")
    found = await service.jobs.find(owner, job_id)
    if found.finished is not None and int(known) >= found.events:
        return Response(status_code=204)  # a browser's EventSource reconnects until it receives this
    address = _address(request, service)
    return sse.EventStream(_event_stream(service, owner, job_id, int(known), address))


@router.get(
    "/{job_id}/images/{number}",
    response_class=Response,
    responses={
        200: {"content": {kind: {} for kind in (*MEDIA_TYPES.values(), archives.MEDIA_TYPE)}},
        **schemas.REJECTED,
    },
)
async def image(request: Request, caller: _Owner, job_id: str, number: int) -> Response:
    """Return a picture of a job that succeeded, counted from 0.

    If it edited a zip, picture 0 is the zip of the results.
    """
    found = await service_of(request).jobs.picture(caller.owner, job_id, number)
    return Response(found.content, 200, PICTURE_HEADERS, found.media_type)


async def _event_stream(
    service: Service, owner: str, job_id: str, after: int, address: str
) -> AsyncIterator[bytes]:
    async for event in service.jobs.events(owner, job_id, after):
        if isinstance(event, JobPosition):
            yield sse.event("job.position", {"jobs": event.jobs, "pictures": event.pictures})
            continue
        if isinstance(event, JobPreview):
            packed = await service.encode_pool.to_base64(event.files)
            images = [one.decode() for one in packed]
            yield sse.event("job.preview", {"index": event.index, "images": images})
            continue
        data = json.loads(event.data)
        if event.type in _FINAL:
            data["job"] = describe(await service.jobs.find(owner, job_id), address)
        yield sse.event(event.type, data, str(event.number))


async def _body(request: Request, service: Service) -> dict[str, Any]:
    """Return the body of a new job, in JSON or as a form."""
    limits, held = service.settings.limits, held_bytes(request)
    if not is_form(request):
        return await json_bodies.json_body(request, limits, held, pictures=True)
    fields, uploads = await read_form(request, limits)
    if fields.keys() != {"request"}:
        message = "A form has one field, request, with the JSON of the job, and the files image and mask."
        raise invalid(message, "request", "missing_required_parameter")
    body = json_bodies.parse_json(fields["request"].encode(), limits)
    inner = body.setdefault("body", {})
    if not isinstance(inner, dict) or {"images", "input", "mask"} & inner.keys():
        raise invalid("body must be an object, without the files of the form.", "body")
    if uploads.images:
        name = "input" if str(body.get("endpoint")) in ABILITIES else "images"
        inner[name] = [await _reference(service, one, held) for one in uploads.images]
    if uploads.mask is not None:
        inner["mask"] = await _reference(service, uploads.mask, held)
    return body


async def _reference(service: Service, file: bytes, held: HeldBytes) -> dict[str, str]:
    """Return a file as a JSON body refers to it."""
    packed = (await service.encode_pool.to_base64([file]))[0].decode()
    held.hold(len(packed))
    return {"image_url": f"data:application/octet-stream;base64,{packed}"}


def _address(request: Request, service: Service) -> str:
    return (service.settings.public_url or str(request.base_url)).rstrip("/")
