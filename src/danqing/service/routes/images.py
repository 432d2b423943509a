"""POST /v1/images/generations, and the pictures that answers point to."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from danqing.service.access.caller import Caller
from danqing.service.errors import ApiError
from danqing.service.http.gate import held, needs
from danqing.service.parts import service_of
from danqing.service.pictures import encode_pool as pictures
from danqing.service.requests import json_bodies as uploads
from danqing.service.requests import schemas as wire
from danqing.service.routes.image_responses import respond

router = APIRouter(prefix="/v1", tags=["images"])

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": wire.ImagesResponse,
        "description": "The pictures; with `stream`, events `image_generation.partial_image` (in edits "
        "`image_edit.partial_image`) and `.completed`.",
        "content": {"text/event-stream": {"schema": wire.ImageEvent.model_json_schema()}},
    },
    **wire.REFUSED,
    "5XX": {"model": wire.ErrorResponse, "description": "The service failed."},
}
"""How the routes that paint are documented."""


def body_of(fields: type[wire.Fields]) -> dict[str, Any]:
    """The OpenAPI of a body in JSON, which the route reads itself: it is checked once."""
    schema = fields.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@router.post(
    "/images/generations",
    summary="Paint pictures",
    responses=ANSWERS,
    openapi_extra=body_of(wire.Generation),
)
async def generate(request: Request, caller: Annotated[Caller, Depends(needs("generate"))]) -> Response:
    """Paint pictures.

    What a prompt means is the model's affair: a text for a model that reads text, the name of a class (or its
    caption) for a labelled model, and nothing for a model without a condition.
    """
    service, counted = service_of(request), held(request)
    body = await uploads.json_body(request, service.settings.limits, counted)
    plan = await service.planner.check_and_plan("generations", body, caller, counted)
    return await respond(request, caller, plan)


@router.get(
    "/pictures/{name}",
    summary="A picture by its address",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in pictures.MEDIA_TYPES.values()}}, "4XX": ANSWERS["4XX"]},
)
async def picture(request: Request, name: str) -> Response:
    """A picture that an answer pointed to, for an hour. Whoever knows the address may see it."""
    content = await service_of(request).pictures.read(name)
    if content is None:
        raise ApiError(404, "There is no such picture: addresses are valid for an hour.", code="not_found")
    shown_anywhere = {**pictures.PICTURE_HEADERS, "cross-origin-resource-policy": "cross-origin"}
    return Response(content, 200, shown_anywhere, pictures.MEDIA_TYPES[name.rpartition(".")[2]])
