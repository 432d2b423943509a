"""Bodies and answers of routes: JSON is read under limits, and OpenAPI describes them."""

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from danqing.service.failures import from_validation
from danqing.service.http.gate import held_bytes
from danqing.service.parts import service_of
from danqing.service.requests import schemas
from danqing.service.requests.json_bodies import json_body

_Body = TypeVar("_Body", bound=BaseModel)


async def read_body(request: Request, kind: type[_Body]) -> _Body:
    """Read a JSON body under limits; raises ApiError."""
    body = await json_body(request, service_of(request).settings.limits, held_bytes(request))
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise from_validation(error) from None


def body_of(kind: type[BaseModel]) -> dict[str, Any]:
    """Return how the OpenAPI document describes a JSON body."""
    schema = kind.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def form_of(fields: dict[str, Any]) -> dict[str, Any]:
    """Return how the OpenAPI document describes a form.

    fields: by name, as JSON schemas; `image` is required.
    """
    schema = {"type": "object", "properties": fields, "required": ["image"]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def answers(kind: type[BaseModel], status: int = 200) -> dict[int | str, dict[str, Any]]:
    """Return how the OpenAPI document describes the answers of a route."""
    return {status: {"model": kind}, **schemas.REJECTED}
