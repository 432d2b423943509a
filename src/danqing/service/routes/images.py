"""POST /v1/images/generations, /edits and /variations, and the pictures that answers point to."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from danqing.service.access.caller import Caller
from danqing.service.errors import ApiError
from danqing.service.http.gate import anyone, held_bytes, needs
from danqing.service.parts import service_of
from danqing.service.pictures.encoding import MEDIA_TYPES, PICTURE_HEADERS
from danqing.service.requests import schemas
from danqing.service.requests.content_type import is_form
from danqing.service.requests.forms import read_form
from danqing.service.requests.json_bodies import json_body
from danqing.service.requests.schemas import Endpoint
from danqing.service.routes.image_responses import respond

router = APIRouter(prefix="/v1", tags=["images"])

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": schemas.ImagesResponse,
        "description": "The pictures; with `stream`, events `image_generation.partial_image` (in edits "
        "`image_edit.partial_image`) and `.completed`.",
        "content": {"text/event-stream": {"schema": schemas.ImageEvent.model_json_schema()}},
    },
    **schemas.REJECTED,
    "5XX": {"model": schemas.ErrorResponse, "description": "The service failed."},
}


def _json_body_of(fields: type[schemas.Fields]) -> dict[str, Any]:
    """Return the OpenAPI of a JSON body; the route reads it itself, so that it is checked once."""
    schema = fields.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _bodies_of(fields: type[schemas.Edit] | type[schemas.Variation], **files: str) -> dict[str, Any]:
    """Return the OpenAPI of a body in JSON or as a form, whose pictures are files."""
    schema = fields.model_json_schema()
    words = {name: one for name, one in schema["properties"].items() if name not in ("images", "mask")}
    pictures = {
        name: {"type": "string", "format": "binary", "description": text} for name, text in files.items()
    }
    required = [*schema.get("required", []), "image"]
    form = {"type": "object", "properties": {**pictures, **words}, "required": required}
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/images/generations",
    summary="Paint pictures",
    responses=_ANSWERS,
    openapi_extra=_json_body_of(schemas.Generation),
)
async def generate(request: Request, caller: Annotated[Caller, Depends(needs("generate"))]) -> Response:
    """Paint pictures.

    The meaning of the prompt depends on the model: a text for a model that reads text, the name of a class or
    its caption for a labelled model, and nothing for a model without a condition.
    """
    return await _answer("generations", request, caller)


@router.post(
    "/images/edits",
    responses=_ANSWERS,
    openapi_extra=_bodies_of(
        schemas.Edit,
        image="The picture: png, jpeg or webp.",
        mask="A picture of the same size, fully transparent where to paint; by default the transparent part "
        "of `image`.",
    ),
)
async def edit(request: Request, caller: Annotated[Caller, Depends(needs("edit"))]) -> Response:
    """Paint a part of a picture again.

    Every pixel outside the mask stays exactly as it was, at the picture's own size. The prompt describes
    the whole picture, as in generations.
    """
    return await _answer("edits", request, caller)


@router.post(
    "/images/variations",
    responses=_ANSWERS,
    openapi_extra=_bodies_of(schemas.Variation, image="The picture: png, jpeg or webp."),
)
async def vary(request: Request, caller: Annotated[Caller, Depends(needs("edit"))]) -> Response:
    """Paint pictures that resemble one.

    `strength` sets how far they differ from it, from 0 (as the model encodes it) to 1 (not related); by
    default 0.5.
    """
    return await _answer("variations", request, caller)


@router.get(
    "/pictures/{name}",
    summary="A picture by its address",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}}, "4XX": _ANSWERS["4XX"]},
    dependencies=[Depends(anyone)],
)
async def picture(request: Request, name: str) -> Response:
    """Return a picture that an answer pointed to, for an hour.

    Anyone who knows the address may see it.
    """
    content = await service_of(request).hosted.read(name)
    if content is None:
        raise ApiError(404, "There is no such picture: addresses are valid for an hour.", code="not_found")
    headers = {**PICTURE_HEADERS, "cross-origin-resource-policy": "cross-origin"}
    return Response(content, 200, headers, MEDIA_TYPES[name.rpartition(".")[2]])


async def _answer(endpoint: Endpoint, request: Request, caller: Caller) -> Response:
    service, held, files = service_of(request), held_bytes(request), None
    limits = service.settings.limits
    body: Mapping[str, Any]
    if endpoint != "generations" and is_form(request):
        body, files = await read_form(request, limits)
    else:
        body = await json_body(request, limits, held, pictures=endpoint != "generations")
    plan = await service.planner.check_and_plan(endpoint, body, caller, held, files)
    del body, files  # so that their pictures are not kept until the answer is sent
    return await respond(request, caller, plan)
