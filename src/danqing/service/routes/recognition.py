"""POST /v1/classifications, /detections, /segmentations, /embeddings, /search and /attributions."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from danqing.service.access.caller import Caller
from danqing.service.engine.orders import Recognized
from danqing.service.http.gate import any_key, held_bytes, log_facts, needs
from danqing.service.json_output import encode_json
from danqing.service.parts import Service, service_of
from danqing.service.pictures.encoding import fill_pictures
from danqing.service.requests import recognition, recognition_schemas
from danqing.service.requests.content_type import is_form
from danqing.service.requests.forms import read_form
from danqing.service.requests.json_bodies import json_body
from danqing.service.requests.recognition import PlannedRecognition
from danqing.service.requests.schemas import REJECTED, ErrorResponse, RecognitionEndpoint
from danqing.service.routes.waiting import finished, refund

router = APIRouter(prefix="/v1", tags=["recognition"])

_NO_DATA = b'"data": []'
_Recognizer = Annotated[Caller, Depends(needs("recognize"))]


def _documented(endpoint: RecognitionEndpoint) -> dict[str, Any]:
    """Return the OpenAPI of a route, which reads its body itself."""
    schema = recognition_schemas.FIELDS[endpoint].model_json_schema()
    words = {name: one for name, one in schema["properties"].items() if name != "input"}
    image = {"type": "string", "format": "binary", "description": "A png, jpeg or webp; may be repeated."}
    form = {"type": "object", "properties": {"image": image, **words}, "required": ["image"]}
    content = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}
    return {
        "responses": {
            200: {"model": recognition_schemas.RESPONSES[endpoint], "description": "What was found."},
            **REJECTED,
            "5XX": {"model": ErrorResponse, "description": "The service failed."},
        },
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
    }


@router.post("/classifications", **_documented("classifications"))
async def classify(request: Request, caller: _Recognizer) -> Response:
    """Return the most probable labels of pictures, with calibrated probabilities."""
    return await _answer("classifications", request, caller)


@router.post("/detections", **_documented("detections"))
async def detect(request: Request, caller: _Recognizer) -> Response:
    """Find objects in pictures, with their boxes in pixels of the picture."""
    return await _answer("detections", request, caller)


@router.post("/segmentations", **_documented("segmentations"))
async def segment(request: Request, caller: _Recognizer) -> Response:
    """Return a mask of the size of each picture."""
    return await _answer("segmentations", request, caller)


@router.post("/embeddings", **_documented("embeddings"))
async def embed(request: Request, caller: _Recognizer) -> Response:
    """Turn pictures or texts into vectors.

    Only an index that reads words takes texts. The vectors of one model can be compared.
    """
    return await _answer("embeddings", request, caller)


@router.post("/search", **_documented("search"))
async def search(request: Request, caller: _Recognizer) -> Response:
    """Find the entries of an index that are most similar to queries."""
    return await _answer("search", request, caller)


@router.post("/attributions", **_documented("attributions"))
async def attribute(request: Request, caller: Annotated[Caller, Depends(any_key)]) -> Response:
    """Show which places of a picture count for a label.

    With a prompt, where it attends to each word; the key then needs the scope generate, otherwise
    recognize.
    """
    return await _answer("attributions", request, caller)


async def _answer(endpoint: RecognitionEndpoint, request: Request, caller: Caller) -> Response:
    service, held, files = service_of(request), held_bytes(request), None
    body: Mapping[str, Any]
    if is_form(request):
        body, files = await read_form(request, service.settings.limits)
    else:
        body = await json_body(request, service.settings.limits, held, pictures=True)
    plan = await service.planner.recognition.check_and_plan(endpoint, body, caller, held, files)
    del body, files  # so that their pictures are not kept until the answer is sent
    log_facts(request, model=plan.offer.name, images=plan.n, user=plan.fields.identifier)
    charged = await caller.account.admit_pictures(plan.n)
    try:
        pending, make = service.scheduler.submit(plan.order), partial(_body, request, service, plan)
        content = await finished(request, plan.order, pending, pending.recognized(), make)
    except Exception as error:
        refund(caller, plan.n, charged, error)
        raise
    return Response(content, media_type="application/json")


async def _body(request: Request, service: Service, plan: PlannedRecognition, found: Recognized) -> bytes:
    """Return the body of the answer, in JSON."""
    if not isinstance(plan.fields, recognition_schemas.Segmentation | recognition_schemas.Attribution):
        return await _encoded(recognition.describe(plan, found.findings))
    files, packed = recognition.files_of(plan, found.findings), list[bytes]()
    masks: Sequence[Mapping[str, Any]]
    if plan.fields.response_format == "url":
        names = await service.hosted.store(files, "png", plan.order.owner)
        address = (service.settings.public_url or str(request.base_url)).rstrip("/")
        masks = [{"url": f"{address}/v1/pictures/{name}"} for name in names]
    else:
        packed = await service.encode_pool.to_base64(files)
        masks = [{"b64_json": ""} for _ in packed]
    return fill_pictures(encode_json(recognition.describe(plan, found.findings, masks)), packed)


async def _encoded(body: dict[str, Any]) -> bytes:
    """Encode an answer; other requests run between its elements, since many vectors are long."""
    elements = []
    for one in body["data"]:
        elements.append(encode_json(one))
        await asyncio.sleep(0)
    before, after = encode_json({**body, "data": []}).split(_NO_DATA)  # quotes in strings are escaped
    return before + b'"data": [' + b", ".join(elements) + b"]" + after
