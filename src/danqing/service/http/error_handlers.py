"""Exception handlers: whatever is raised in a route is answered in the documented shape."""

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from danqing.errors import DanqingError
from danqing.service.errors import ApiError, answer
from danqing.service.failures import from_danqing, from_validation


def install(app: FastAPI) -> None:
    """Make an application answer all exceptions in the documented shape."""
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
        meant = _meant(request)
        advice = f"did you mean {meant}?" if meant else "/docs lists all routes."
        message, code = f"There is nothing at {request.url.path}: {advice}", "not_found"
    elif error.status_code == 405:
        possible = headers.get("Allow") or headers.get("allow") or "another method"
        message = f"{request.method} is not allowed at {request.url.path}: use {possible}."
        code = "method_not_allowed"
    return answer(ApiError(error.status_code, message, code=code, headers=headers))


def _meant(request: Request) -> str:
    """Return the route that a client with another base URL means, "" for none.

    Base URLs often lack `/v1`, have it twice, or end in a slash.
    """
    parts = [part for part in request.url.path.split("/") if part]
    parts = parts[1:] if parts[:2] == ["v1", "v1"] else parts
    near = ("/" + "/".join(parts), "/v1/" + "/".join(parts))
    return next((path for path in near if path != request.url.path and _exists(request, path)), "")


def _exists(request: Request, path: str) -> bool:
    """Return whether a route answers at a path; routers within routers do not list theirs."""
    scope = {**request.scope, "path": path}
    return any(route.matches(scope)[0] is not Match.NONE for route in request.app.routes)


async def _disconnect(request: Request, error: Exception) -> Response:
    return answer(ApiError(400, "The connection ended before the request did.", code="disconnected"))
