"""What is answered when something is wrong: always the shape of the OpenAI API, whatever raised it."""

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from danqing.errors import ConfigError, DanqingError, DataError
from danqing.service.database import DatabaseError
from danqing.service.orders import (
    DeadlinePassedError,
    ModelUnavailableError,
    OrderCancelledError,
    OverloadedError,
    PaintingFailedError,
)

_log = logging.getLogger("danqing.service")

FINAL = {"x-should-retry": "false"}
"""The header that keeps the official client from asking again for what will fail again."""

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}

_CHOICES = {"str", "int"}
"""Of the places that pydantic names, those that are no fields: the choices of a type."""


class ApiError(Exception):
    """A request that is refused or failed, as its client is told.

    type: the kind of mistake, by default that which belongs to the status. param: the field that is wrong.
    code: what a program may branch on.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type or _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The documented object, which is also what a stream's `error` event carries."""
        told = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": told}


def answer(error: ApiError) -> Response:
    """The response that tells of an error."""
    content = json.dumps(error.body(), ensure_ascii=False).encode("utf-8", "replace")
    return Response(content, error.status, error.headers, "application/json")


def invalid(message: str, param: str | None = None, code: str | None = "invalid_value") -> ApiError:
    """A field that is wrong: 400, which no client sends again as it is."""
    return ApiError(400, message, param=param, code=code)


def from_danqing(error: DanqingError) -> ApiError:
    """What a client is told of an error from within. A message that may name files of this machine stays
    here: such errors are ours to mend, and the log has them.
    """
    match error:
        case OverloadedError():
            wait = {"retry-after": str(max(1, math.ceil(error.retry_after)))}
            return ApiError(429, str(error), code="overloaded", headers=wait)
        case ModelUnavailableError():
            _log.warning("%s", error)
            message = "The model cannot be used now: the log of the service says why."
            return ApiError(503, message, code="model_unavailable")
        case OrderCancelledError():
            return ApiError(503, str(error), code="cancelled", headers={"retry-after": "1"})
        case DeadlinePassedError():
            return ApiError(504, str(error), code="deadline_passed", headers=FINAL)
        case PaintingFailedError():
            _log.error("%s", error)
            message = "The pictures could not be painted: the log of the service says why."
            return ApiError(500, message, code="painting_failed", headers=FINAL)
        case DatabaseError():
            return ApiError(503, str(error), code="database_unavailable", headers={"retry-after": "2"})
        case ConfigError():
            return invalid(str(error), error.option)
        case DataError():
            return ApiError(400, str(error), code="invalid_image")
    _log.error("%s: %s", type(error).__name__, error)
    return internal()


def internal() -> ApiError:
    """What is said of a mistake in the service itself: nothing that helps an attacker."""
    message = "The service made a mistake, which its log describes: tell whoever runs it the x-request-id."
    return ApiError(500, message, code="server_error", headers=FINAL)


def from_validation(error: ValidationError | RequestValidationError) -> ApiError:
    """The first mistake that was found in a body, with the name of its field."""
    mistake = error.errors()[0]
    named = mistake["loc"]
    if isinstance(error, RequestValidationError):  # the first says whether it is in the body, the query, ...
        named = named[1:]
    where = ".".join(str(part) for part in named if part not in _CHOICES)
    reason = str(mistake["msg"]).removeprefix("Value error, ")
    if mistake["type"] == "missing":
        return invalid(f"{where} is missing: the request needs it.", where, "missing_required_parameter")
    if mistake["type"] == "extra_forbidden":
        return invalid(f"There is no field {where}: leave it out.", where, "unknown_parameter")
    return invalid(f"{where}: {reason}." if where else f"{reason}.", where or None)


def install(app: FastAPI) -> None:
    """Let `app` answer in the documented shape whatever is raised within it."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(DanqingError, _danqing_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(ClientDisconnect, _disconnect)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return answer(error)


async def _danqing_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DanqingError)
    return answer(from_danqing(error))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return answer(from_validation(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    message, code = str(error.detail), None
    if error.status_code == 404:
        message, code = (
            f"There is nothing at {request.url.path}: /docs names what there is.",
            "not_found",
        )
    elif error.status_code == 405:
        possible = headers.get("Allow") or headers.get("allow") or "another method"
        message = f"{request.method} is not possible at {request.url.path}: use {possible}."
        code = "method_not_allowed"
    return answer(ApiError(error.status_code, message, code=code, headers=headers))


async def _disconnect(request: Request, error: Exception) -> Response:
    return answer(ApiError(400, "The connection ended before the request did.", code="disconnected"))
