"""POST /v1/content_provenance_checks: where a picture comes from. Nothing of it is stored."""

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import ValidationError

from danqing.errors import DataError
from danqing.service.access.caller import Caller
from danqing.service.errors import ApiError, invalid
from danqing.service.failures import from_validation
from danqing.service.http.gate import any_key, held_bytes
from danqing.service.parts import service_of
from danqing.service.requests import input_pictures
from danqing.service.requests.content_type import is_form
from danqing.service.requests.forms import read_form
from danqing.service.requests.json_bodies import json_body
from danqing.service.requests.provenance import ProvenanceCheck, ProvenanceRequest, describe
from danqing.service.requests.schemas import REJECTED
from danqing.trust.verify import Outcome, Provenance, verify

_log = logging.getLogger("danqing.service")

router = APIRouter(prefix="/v1", tags=["provenance"])

_FORM: dict[str, Any] = {
    "type": "object",
    "properties": {"file": {"type": "string", "format": "binary", "description": "A png, jpeg or webp."}},
    "required": ["file"],
}
_BODY = {
    "multipart/form-data": {"schema": _FORM},
    "application/json": {"schema": ProvenanceRequest.model_json_schema()},
}


@router.post(
    "/content_provenance_checks",
    summary="Check where a picture comes from",
    responses={200: {"model": ProvenanceCheck}, **REJECTED},
    openapi_extra={"requestBody": {"required": True, "content": _BODY}},
)
async def check_provenance(request: Request, caller: Annotated[Caller, Depends(any_key)]) -> ProvenanceCheck:
    """Check the marks of a picture: Content Credentials, watermark, registry and labels.

    Nothing is stored, and nothing that the picture names is fetched.
    """
    service = service_of(request)
    content = await _read(request)

    def work() -> Provenance:
        input_pictures.check(content, service.settings.limits, "file")
        try:
            found = verify(content)
        except DataError as error:
            raise ApiError(400, str(error), param="file", code="image_parse_error") from None
        for check in found.checks:
            if check.outcome is Outcome.SKIPPED:
                _log.warning("The check %s was skipped: %s", check.name, check.detail)
        return found

    return describe(await service.encode_pool.run(caller.owner, work))


async def _read(request: Request) -> bytes:
    """Return the file of a request; raises ApiError."""
    settings, held = service_of(request).settings, held_bytes(request)
    if is_form(request):
        fields, files = await read_form(request, settings.limits, names=("file",))
        for name in fields:
            raise invalid(f"{name} is not a field of this request: send the picture as file.", name)
        if len(files.images) > 1:
            raise invalid("There are several files: send one.", "file")
        if not files.images:
            raise invalid("file is missing: send the picture.", "file", "missing_required_parameter")
        return files.images[0]
    body = await json_body(request, settings.limits, held, pictures=True)
    try:
        wanted = ProvenanceRequest.model_validate(body)
    except ValidationError as error:
        raise from_validation(error) from None
    return await input_pictures.read_one(wanted.file, "file", settings, held)
