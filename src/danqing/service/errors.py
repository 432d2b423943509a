"""Errors that clients receive, in the shape of the OpenAI API."""

from collections.abc import Mapping
from typing import Any

from fastapi import Response

from danqing.service.json_output import encode_json

FINAL = {"x-should-retry": "false"}
"""The header that stops the official client from retrying a request that would fail again."""

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """A request that was rejected or failed, as its client sees it.

    type: of the error; by default it follows from the status.
    param: the field that is wrong.
    code: for programs to branch on.
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
        """Return the documented object.

        It is also the data of a stream's `error` event.
        """
        fields = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": fields}


def answer(error: ApiError) -> Response:
    """Return the response for an error."""
    return Response(encode_json(error.body()), error.status, error.headers, "application/json")


def invalid(message: str, param: str | None = None, code: str | None = "invalid_value") -> ApiError:
    """Return the error 400 for a wrong field."""
    return ApiError(400, message, param=param, code=code)


def internal() -> ApiError:
    """Return the error for a bug in the service.

    It says nothing that helps an attacker.
    """
    message = "The service failed, and its log says why: report the x-request-id to its operator."
    return ApiError(500, message, code="server_error", headers=FINAL)


def overloaded(reason: str) -> ApiError:
    """Return the error 429, with a retry after one second."""
    return ApiError(429, f"{reason}: retry in a second.", code="overloaded", headers={"retry-after": "1"})


def stopping() -> ApiError:
    """Return the error 503 for a request that stopping cuts off."""
    return ApiError(503, "The service is stopping: retry.", code="cancelled", headers={"retry-after": "1"})


def printable(value: bytes) -> str:
    """Return a client's text as short printable ASCII."""
    text = value[:100].decode("latin-1")
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text) or "(none)"
