"""The gate that every request passes: who asks, whether that may be, and what is told of it afterwards."""

import functools
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Protocol

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import ASGIApp, Receive, Scope, Send

from danqing.errors import ConfigError
from danqing.service.access.caller import LOCAL, Caller, Right, missing_key
from danqing.service.access.held_bytes import HeldBytes
from danqing.service.access.keys import Keys
from danqing.service.errors import ApiError, internal, overloaded
from danqing.service.fairness.fair_share import Shares
from danqing.service.http.exchange import HARMLESS, PROBES, Visit, shown
from danqing.service.observability import logs
from danqing.service.observability.metrics import Metrics
from danqing.service.settings import Settings

_log = logging.getLogger("danqing.gate")
_ANSWERED_IN_A_FLOOD = PROBES | {"/metrics"}
_READ = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"forwarded",
        b"host",
        b"origin",
        b"sec-fetch-site",
        b"transfer-encoding",
        b"x-forwarded-for",
        b"x-real-ip",
    }
)
_LISTS = frozenset({b"forwarded", b"x-forwarded-for"})  # of which each proxy may add a line of its own
_bearer = HTTPBearer(auto_error=False, description="A key made by `danqing keys create`.")


@functools.cache
def needs(scope: Right) -> Callable[..., Awaitable[Caller]]:
    """The dependency of a route that only callers with `scope` may use; it raises ApiError 401 and 403."""

    async def caller(
        request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
    ) -> Caller:
        asking = _visit(request.scope).asking()
        if not asking.may(scope):
            has = ", ".join(sorted(asking.scopes)) or "none"
            raise ApiError(
                403, f"This key lacks the scope {scope}: it has {has}.", code="insufficient_permissions"
            )
        return asking

    return caller


async def known(
    request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Caller:
    """The dependency of a route that every key may use; it raises ApiError 401."""
    return _visit(request.scope).asking()


def note(request: Request, **facts: str | int | float | None) -> None:
    """Add facts to the line that the access log gets for this request, such as model, images and user;
    model and images stand in the audit log too.
    """
    _visit(request.scope).facts.update(facts)


def held(request: Request) -> HeldBytes:
    """Return the count of the bytes that a request holds; its middleware releases them at the end."""
    return _visit(request.scope).held


def is_local(host: str) -> bool:
    """Whether an address that a server listens on, or a name in a `Host`, is this machine's loopback."""
    name = host.lower().rstrip(".").removeprefix("[").removesuffix("]")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_address(host: str, has_keys: bool) -> None:
    """Raise ConfigError where a service without keys would listen where others reach it."""
    if not has_keys and not is_local(host):
        raise ConfigError(
            f"Whoever reaches {host or 'this machine'} could use the service, for it has no keys: make one "
            "by `danqing keys create NAME`, or listen on 127.0.0.1."
        )


class _Guarded(Protocol):
    """What the gate needs of the service behind it."""

    @property
    def keys(self) -> Keys: ...

    @property
    def metrics(self) -> Metrics: ...


class Gate:
    """ASGI middleware before the whole application, which finds keys and metrics at `app.state.service`.

    Gives each request its id, refuses what may not be (the host or origin while there are no keys, a missing
    key before the body is read, a body too large or too slow, too many at a time), adds the headers of every
    answer, and writes access log, metrics and audit log. Nothing raised within leaves without an answer.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._limits = settings.limits
        self._local = is_local(settings.host)
        self._proxied = bool(settings.hosts)
        self._is_ours = functools.lru_cache(maxsize=256)(functools.partial(_is_ours, hosts=settings.hosts))
        self._answering = 0
        self._answering_for: dict[str, int] = {}
        self._bytes = Shares(settings.limits.bytes_in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        service: _Guarded = scope["app"].state.service
        visit = Visit(scope, receive, send, self._limits, self._bytes)
        scope.setdefault("state", {})["visit"] = visit
        request_id = logs.request_id.set(visit.id)
        self._answering += 1
        try:
            await self._answer(service, visit)
        finally:
            self._answering -= 1
            self._leave(visit)
            visit.tell(service.metrics, service.keys.audit)
            logs.request_id.reset(request_id)

    async def _answer(self, service: _Guarded, visit: Visit) -> None:
        try:
            if visit.path not in _ANSWERED_IN_A_FLOOD and self._answering > self._limits.requests:
                raise overloaded(f"The service answers {self._limits.requests:,} requests already")
            headers = _headers(visit.scope)
            visit.check_body(headers)
            await self._identify(service.keys, visit, headers)
            self._enter(visit)
            await self._app(visit.scope, visit.receive, visit.send)
        except Exception as error:
            if visit.refusal is None:
                if not isinstance(error, ApiError):
                    _log.exception("a request failed")
                visit.refusal = error if isinstance(error, ApiError) else internal()
            if visit.status:  # half an answer is out: only an end without its end tells the client
                raise
            await visit.refuse()

    async def _identify(self, keys: Keys, visit: Visit, headers: Mapping[bytes, bytes]) -> None:
        if visit.path in PROBES:  # whose caller is a machine that knows neither key nor name
            return
        if self._local and not keys.exist:
            self._check_origin(visit, headers)
            visit.identify(LOCAL)
            return
        try:
            caller = await keys.caller(_token(headers))
        except ApiError as error:
            visit.unknown = error
            if visit.method not in HARMLESS:  # before a byte of the body is read
                raise
        else:
            visit.identify(caller)
            caller.account.request()

    def _enter(self, visit: Visit) -> None:
        """Count the request among those of its key, which must leave places for others."""
        key = visit.caller.key_id if visit.caller else None
        if key is None or visit.path in _ANSWERED_IN_A_FLOOD:
            return
        answering, most = self._answering_for.get(key, 0), max(1, self._limits.requests // 4)
        if answering >= most:
            raise overloaded(f"{most:,} requests of this key are being answered already")
        self._answering_for[key] = answering + 1
        visit.counted = key

    def _leave(self, visit: Visit) -> None:
        visit.held.release()
        if visit.counted is not None:
            self._answering_for[visit.counted] -= 1
            if not self._answering_for[visit.counted]:
                del self._answering_for[visit.counted]

    def _check_origin(self, visit: Visit, headers: Mapping[bytes, bytes]) -> None:
        """While there are no keys, pages of other sites must not use the browser of whoever runs this."""
        host = headers.get(b"host", b"").lower()
        if not self._is_ours(host):
            raise ApiError(
                403,
                f"This service is not the host {shown(host)}: use localhost, or name the host in `hosts`.",
                code="host_not_allowed",
            )
        origin = headers.get(b"origin")
        if origin is not None and origin.lower() not in (b"http://" + host, b"https://" + host):
            raise ApiError(
                403, f"Pages of {shown(origin)} may not use this service.", code="origin_not_allowed"
            )
        if not self._proxied and (sender := _forwarded(headers)):
            raise ApiError(
                403,
                f"Something passes on requests of {sender} to this service, which has no keys: make one by "
                "`danqing keys create NAME`, or name the host that it answers for in `hosts`.",
                code="forwarded_without_keys",
            )
        if visit.method not in HARMLESS and headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
            raise ApiError(403, "Pages of other sites may not use this service.", code="origin_not_allowed")


def _visit(scope: Scope) -> Visit:
    visit: Visit = scope["state"]["visit"]
    return visit


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """The headers that the gate reads; one of each, for two readers could differ on which of two holds, but
    for those that are lists.
    """
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _READ:
            if name in found and name in _LISTS:
                value = found[name] + b"," + value
            elif name in found:
                raise ApiError(400, f"The header {name.decode()} stands there twice.", code="invalid_header")
            found[name] = value
    return found


def _token(headers: Mapping[bytes, bytes]) -> str:
    """The key that a request bears; raises ApiError 401."""
    kind, _, token = headers.get(b"authorization", b"").partition(b" ")
    if kind.lower() != b"bearer" or not token.strip():
        raise missing_key()
    return token.strip().decode("latin-1")


_FOR = re.compile(rb"(?:^|;)\s*for\s*=\s*\"?(\[[^\]]*\]|[^\s;:\"]+)", re.IGNORECASE)
_HOST = re.compile(rb"(\[[0-9a-f:.]+\]|[^\s:/@\[\]]+)(?::\d{1,5})?")


def _is_ours(host: bytes, hosts: tuple[str, ...]) -> bool:
    """Whether a `Host` names this machine: nobody's page can be there (DNS rebinding)."""
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match[1].decode("latin-1")
    return is_local(name) or name in {one.lower() for one in hosts}


def _forwarded(headers: Mapping[bytes, bytes]) -> str:
    """For whom a proxy on this machine asks, where that is somebody elsewhere; else ""."""
    senders = [headers.get(b"x-real-ip", b""), *headers.get(b"x-forwarded-for", b"").split(b",")]
    for element in filter(None, headers.get(b"forwarded", b"").split(b",")):  # RFC 7239
        match = _FOR.search(element)
        senders.append(match[1] if match else b"somebody")
    for sender in map(bytes.strip, senders):
        if sender and not is_local(sender.decode("latin-1")):
            return shown(sender)
    return ""
