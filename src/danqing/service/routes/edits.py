"""POST /v1/images/edits and /v1/images/variations: a part painted anew, and pictures like one."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from danqing.service.access.caller import Caller
from danqing.service.http.gate import held, needs
from danqing.service.parts import service_of
from danqing.service.requests import json_bodies as uploads
from danqing.service.requests import schemas as wire
from danqing.service.requests.schemas import Endpoint
from danqing.service.routes.image_responses import respond
from danqing.service.routes.images import ANSWERS

router = APIRouter(prefix="/v1", tags=["images"])


def _bodies_of(fields: type[wire.Edit] | type[wire.Variation], **files: str) -> dict[str, Any]:
    """The OpenAPI of a body in JSON or as a form, whose pictures are files."""
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
    "/images/edits",
    responses=ANSWERS,
    openapi_extra=_bodies_of(
        wire.Edit,
        image="The picture: png, jpeg or webp.",
        mask="A picture of the same size, fully transparent where to paint; without one, `image` is.",
    ),
)
async def edit(request: Request, caller: Annotated[Caller, Depends(needs("edit"))]) -> Response:
    """Paint a part of a picture anew.

    Every pixel outside of the mask stays exactly as it was, at the picture's own size. The prompt says what
    the whole picture shows, as in generations.
    """
    return await _painted("edits", request, caller)


@router.post(
    "/images/variations",
    responses=ANSWERS,
    openapi_extra=_bodies_of(wire.Variation, image="The picture: png, jpeg or webp."),
)
async def vary(request: Request, caller: Annotated[Caller, Depends(needs("edit"))]) -> Response:
    """Paint pictures like one.

    `strength` says how far from it, from 0 (as the model encodes it) to 1 (nothing of it is left); 0.5.
    """
    return await _painted("variations", request, caller)


async def _painted(endpoint: Endpoint, request: Request, caller: Caller) -> Response:
    service, counted, files = service_of(request), held(request), None
    limits = service.settings.limits
    body: Mapping[str, Any]
    if uploads.is_form(request):
        body, files = await uploads.form(request, limits)
    else:
        body = await uploads.json_body(request, limits, counted, pictures=True)
    plan = await service.planner.check_and_plan(endpoint, body, caller, counted, files)
    del body, files  # the pictures in them need not be kept until the answer is sent
    return await respond(request, caller, plan)
