"""/v1/session and /v1/usage: who is signed in, and what their key has used."""

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from danqing.service.access import usage
from danqing.service.access.accounts import DAY
from danqing.service.access.caller import RIGHTS, Caller, Right
from danqing.service.access.sessions import COOKIE, SECONDS, session_token
from danqing.service.errors import ApiError
from danqing.service.http.gate import any_key
from danqing.service.parts import Service, service_of
from danqing.service.requests import schemas

router = APIRouter(prefix="/v1", tags=["account"])

_AnyKey = Annotated[Caller, Depends(any_key)]


class SessionAnswer(BaseModel):
    """Who is signed in.

    local: the service has no keys, and everybody on this machine may do everything.
    models: names of those that the key may use; null for all.
    rate: requests per minute; quota: pictures per day; null for no limit.
    features: what the service offers besides pictures.
    """

    object: Literal["session"] = "session"
    name: str
    local: bool
    scopes: list[Right]
    models: list[str] | None
    rate: int | None
    quota: int | None
    features: dict[str, bool]


class DayOfUse(BaseModel):
    """What a key used on one day (UTC)."""

    day: str
    requests: int
    images: int


class UsageAnswer(BaseModel):
    """What a key has used, the latest day first."""

    object: Literal["list"] = "list"
    quota: int | None
    data: list[DayOfUse]


@router.get(
    "/session", summary="Who is signed in", responses={200: {"model": SessionAnswer}, **schemas.REJECTED}
)
async def session(request: Request, caller: _AnyKey) -> JSONResponse:
    """Return the name, scopes and limits of the caller's key."""
    return JSONResponse(_describe(caller, service_of(request)))


@router.post(
    "/session", summary="Sign a browser in", responses={200: {"model": SessionAnswer}, **schemas.REJECTED}
)
async def sign_in(request: Request, caller: _AnyKey) -> JSONResponse:
    """Set a cookie that stands for the key for a week.

    The key is sent as always. Only pages of this service can use the cookie, and no script can read it.
    """
    service = service_of(request)
    answer = JSONResponse(_describe(caller, service))
    if caller.key_id is None:
        return answer
    if "authorization" not in request.headers:
        raise ApiError(401, "Sign in with a key: a session cannot renew itself.", code="missing_api_key")
    token = await service.keys.sessions.open(caller)
    _set_cookie(request, answer, token, SECONDS)
    return answer


@router.delete("/session", summary="Sign a browser out", status_code=204, response_class=Response)
async def sign_out(request: Request, caller: _AnyKey) -> Response:
    """End the session of the cookie, everywhere."""
    token = session_token(request.headers.get("cookie", "").encode("latin-1"))
    if token is not None:
        await service_of(request).keys.sessions.close(token)
    answer = Response(status_code=204)
    _set_cookie(request, answer, "", 0)
    return answer


@router.get(
    "/usage", summary="What a key has used", responses={200: {"model": UsageAnswer}, **schemas.REJECTED}
)
async def used(
    request: Request, caller: _AnyKey, days: Annotated[int, Query(ge=1, le=366)] = 30
) -> JSONResponse:
    """Return the requests and pictures of the caller's key by day."""
    service, first = service_of(request), int(time.time() // DAY) - days + 1
    rows = await service.database.run(usage.days_of, caller.owner, first)
    data = [{"day": _date(day), "requests": requests, "images": images} for day, requests, images in rows]
    return JSONResponse({"object": "list", "quota": caller.account.quota, "data": data})


def _date(day: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(day * DAY))


def _set_cookie(request: Request, answer: Response, value: str, seconds: int) -> None:
    is_secure = f"{service_of(request).settings.public_url or request.base_url}".startswith("https:")
    answer.set_cookie(
        COOKIE, value, max_age=seconds, path="/", httponly=True, samesite="strict", secure=is_secure
    )


def _describe(caller: Caller, service: Service) -> dict[str, Any]:
    return {
        "object": "session",
        "name": caller.name,
        "local": caller.key_id is None,
        "scopes": [scope for scope in RIGHTS if caller.may(scope)],
        "models": None if caller.models is None else sorted(caller.models),
        "rate": caller.account.rate,
        "quota": caller.account.quota,
        "features": {"gallery": service.gallery.is_on, "train": service.training.is_on},
    }
