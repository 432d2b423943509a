"""The gate that every request passes: identifies the caller, applies limits, records what was done."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Annotated, Protocol

from fastapi import APIRouter, Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import ASGIApp, Receive, Scope, Send

from danqing.service.access.caller import LOCAL, RIGHTS, Caller, Right, missing_key
from danqing.service.access.held_bytes import HeldBytes
from danqing.service.access.keys import Keys
from danqing.service.access.sessions import session_token
from danqing.service.errors import ApiError, internal, overloaded, stopping
from danqing.service.fairness.fair_share import FairShare
from danqing.service.http.exchange import PROBES, Exchange
from danqing.service.http.origin import SAFE_METHODS, OriginCheck, check_cookie, is_local
from danqing.service.observability import logs
from danqing.service.observability.metrics import Metrics
from danqing.service.settings import Settings

_log = logging.getLogger("danqing.gate")
_ALWAYS_ANSWERED = PROBES | {"/metrics"}
_READ = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"cookie",
        b"forwarded",
        b"host",
        b"origin",
        b"sec-fetch-site",
        b"transfer-encoding",
        b"x-forwarded-for",
        b"x-real-ip",
    }
)
_LISTS = frozenset({b"forwarded", b"x-forwarded-for"})  # each proxy may add a line of its own
_bearer = HTTPBearer(auto_error=False, description="A key made by `danqing keys create`.")


@functools.cache
def needs(scope: Right) -> Callable[..., Awaitable[Caller]]:
    """Return the dependency of a route for callers with `scope`.

    It raises ApiError 401 and 403.
    """

    async def caller(
        request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
    ) -> Caller:
        found = _exchange(request.scope).require_caller()
        found.require(scope)
        return found

    return caller


async def any_key(
    request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Caller:
    """Return the caller, whatever its scopes; the dependency raises ApiError 401."""
    return _exchange(request.scope).require_caller()


async def anyone() -> None:
    """Accept every caller: a route that depends on it is public."""


def check_access(router: APIRouter) -> None:
    """Raise RuntimeError unless every route says who may call it.

    Each depends on `needs(...)`, `any_key` or `anyone`: a route that says nothing would be public.
    """
    declared = {any_key, anyone, *map(needs, RIGHTS)}
    for route in router.routes:
        if not isinstance(route, APIRoute) or declared.isdisjoint(_calls(route.dependant)):
            raise RuntimeError(
                f"The route {getattr(route, 'path', route)} does not say who may call it: let it depend on "
                "needs(...), any_key or anyone."
            )


def _calls(dependant: Dependant) -> Iterator[Callable[..., object] | None]:
    """Yield the functions that a route depends on, and those that they depend on."""
    for one in dependant.dependencies:
        yield one.call
        yield from _calls(one)


def log_facts(request: Request, **facts: str | int | float | None) -> None:
    """Add facts to this request's line of the access log.

    For example its model and number of images.

    The audit log receives model and images too.
    """
    _exchange(request.scope).facts.update(facts)


def held_bytes(request: Request) -> HeldBytes:
    """Return the count of the bytes that a request holds.

    The gate releases them at its end.
    """
    return _exchange(request.scope).held


class _GateParts(Protocol):
    """The parts of the service that the gate needs."""

    @property
    def keys(self) -> Keys: ...

    @property
    def metrics(self) -> Metrics: ...


class Gate:
    """ASGI middleware before the whole application.

    It finds keys and metrics at `app.state.service`.

    It gives each request an id, and adds the headers of every answer. Before the body is read it rejects a
    missing key and, without any keys, a wrong host or origin. It also rejects bodies that are too large or
    too slow, and too many requests at a time. It writes access log, metrics and audit log, and answers
    whatever is raised behind it.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._limits = settings.limits
        self._is_local = is_local(settings.host)
        self._origin = OriginCheck(settings.hosts)
        self._answering = 0
        self._requests = FairShare(settings.limits.requests, each=max(1, settings.limits.requests // 4))
        self._bytes = FairShare(settings.limits.bytes_in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        parts: _GateParts = scope["app"].state.service
        state = scope.setdefault("state", {})
        state["exchange"] = exchange = Exchange(scope, receive, send, self._limits, self._bytes)
        request_id = logs.request_id.set(exchange.id)
        self._answering += 1
        try:
            await self._answer(parts.keys, exchange)
        finally:
            self._answering -= 1
            exchange.held.release()
            exchange.record(parts.metrics, parts.keys.audit)
            logs.request_id.reset(request_id)

    async def _answer(self, keys: Keys, exchange: Exchange) -> None:
        try:
            if exchange.path not in _ALWAYS_ANSWERED and self._answering > self._limits.requests:
                raise overloaded(f"The service answers {self._limits.requests:,} requests already")
            if "\0" in exchange.path:  # which PostgreSQL rejects
                raise ApiError(404, "There is nothing at a path with a NUL character.", code="not_found")
            headers = _headers(exchange.scope)
            exchange.check_body(headers)
            await self._identify(keys, exchange, headers)
            with self._counted(exchange):
                await self._app(exchange.scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:  # the service stops, and waits no longer
            if exchange.status:
                raise
            exchange.rejection = stopping()
            await exchange.reject()
        except Exception as error:
            if exchange.rejection is None:
                if not isinstance(error, ApiError):
                    _log.exception("a request failed")
                exchange.rejection = error if isinstance(error, ApiError) else internal()
            if exchange.status:  # part of an answer was sent: only an aborted connection tells the client
                raise
            await exchange.reject()

    async def _identify(self, keys: Keys, exchange: Exchange, headers: Mapping[bytes, bytes]) -> None:
        if exchange.path in PROBES:  # sent by machines that have neither a key nor the right name
            return
        if self._is_local and not keys.exist:
            self._origin.check(exchange.method, headers)
            exchange.identify(LOCAL)
            return
        try:
            caller = await _caller(keys, exchange.method, headers)
        except ApiError as error:
            exchange.unknown = error
            if exchange.method not in SAFE_METHODS:  # before a byte of the body is read
                raise
        else:
            exchange.identify(caller)
            await caller.account.admit_request()

    @contextlib.contextmanager
    def _counted(self, exchange: Exchange) -> Iterator[None]:
        """Count the request among those of its key while the block lasts; raises ApiError 429."""
        key = exchange.caller.owner if exchange.caller else ""
        if not key or exchange.path in _ALWAYS_ANSWERED:
            yield
            return
        if not self._requests.take(key, 1):
            most = max(1, self._limits.requests // 4)
            raise overloaded(f"{most:,} requests of this key are being answered already")
        try:
            yield
        finally:
            self._requests.give_back(key, 1)


def _exchange(scope: Scope) -> Exchange:
    exchange: Exchange = scope["state"]["exchange"]
    return exchange


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers that the gate reads.

    Except for lists, each may occur once: two readers could differ on which of two is valid.
    """
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _READ:
            if name in found and name in _LISTS:
                value = found[name] + b"," + value
            elif name in found:
                raise ApiError(400, f"The header {name.decode()} occurs twice.", code="invalid_header")
            found[name] = value
    return found


async def _caller(keys: Keys, method: str, headers: Mapping[bytes, bytes]) -> Caller:
    """Return who sent a request, with a key or from a browser that is signed in; raises ApiError."""
    session = session_token(headers.get(b"cookie", b""))
    if session is None or b"authorization" in headers:
        return await keys.caller(_token(headers))
    check_cookie(method, headers)
    return await keys.sessions.caller(session)


def _token(headers: Mapping[bytes, bytes]) -> str:
    """Return the key of a request; raises ApiError 401."""
    kind, _, token = headers.get(b"authorization", b"").partition(b" ")
    if kind.lower() != b"bearer" or not token.strip():
        raise missing_key()
    return token.strip().decode("latin-1")
