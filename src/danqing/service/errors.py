"""Errors that clients receive, in the shape of the OpenAI API."""

from collections.abc import Mapping
from typing import Any

from fastapi import Response

from danqing.service.json_output import encode_json

FINAL = {"x-should-retry": "false"}
"""The header that keeps the official client from asking again for what will fail again."""

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


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
    return Response(encode_json(error.body()), error.status, error.headers, "application/json")


def invalid(message: str, param: str | None = None, code: str | None = "invalid_value") -> ApiError:
    """A field that is wrong: 400, which no client sends again as it is."""
    return ApiError(400, message, param=param, code=code)


def internal() -> ApiError:
    """What is said of a mistake in the service itself: nothing that helps an attacker."""
    message = "The service made a mistake, which its log describes: tell whoever runs it the x-request-id."
    return ApiError(500, message, code="server_error", headers=FINAL)


def overloaded(reason: str) -> ApiError:
    """Return the error 429 for a request that may be retried after a second."""
    return ApiError(429, f"{reason}: retry in a second.", code="overloaded", headers={"retry-after": "1"})
