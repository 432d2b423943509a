"""The gate that every request passes: who asks, whether that may be, and what is told of it afterwards."""

import asyncio
import functools
import ipaddress
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from danqing.errors import ConfigError
from danqing.service import logs
from danqing.service.accounts import Account
from danqing.service.errors import FINAL, ApiError, answer, internal
from danqing.service.settings import Limits, Settings
from danqing.service.shares import Shares

if TYPE_CHECKING:
    from danqing.service.state import Service

Right = Literal["generate", "edit", "admin", "metrics"]
RIGHTS: tuple[Right, ...] = ("generate", "edit", "admin", "metrics")
"""What a key may allow: its scopes. "admin" allows all of them."""

_log = logging.getLogger("danqing.gate")
_PROBES = frozenset({"/healthz", "/readyz"})
_ANSWERED_IN_A_FLOOD = _PROBES | {"/metrics"}
_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})
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
_PICTURES = "/v1/pictures/"  # what follows is what lets see one, and no matter of the log
_BODY_TYPES = frozenset({"application/json", "multipart/form-data"})
_DISCARDED = 1024**2  # bytes of a refused body that are read for the sake of the connection
_NOBODY_WAITS = 499
ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
"""The headers of every answer that has none of its own of these names."""
_MISSING = "This service asks for a key: send it as the header Authorization: Bearer KEY."


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. key_id: None where the service has no keys, and whoever reaches it may do everything.

    scopes: what the key allows (RIGHTS). models: which it may use by their names, None for all.
    """

    key_id: str | None
    name: str
    scopes: frozenset[str]
    models: frozenset[str] | None = None
    account: Account = field(default_factory=Account, repr=False, compare=False)

    def may(self, scope: Right) -> bool:
        """Whether the key has this scope."""
        return scope in self.scopes or "admin" in self.scopes

    def may_use(self, model: str) -> bool:
        """Whether the key may use this model; `model` is its name, no alias."""
        return self.models is None or model in self.models

    def permit(self, model: str) -> None:
        """Raise ApiError 403 where the key may not use this model."""
        if not self.may_use(model):
            allowed = ", ".join(sorted(self.models or ())) or "none"
            raise ApiError(
                403,
                f"This key may not use {model}: it may use {allowed}.",
                param="model",
                code="model_not_found",
            )


LOCAL = Caller(None, "local", frozenset(RIGHTS))
"""Whoever asks on the loopback of a service that has no keys."""


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


def is_local(host: str) -> bool:
    """Whether an address that a server listens on, or a name in a `Host`, is this machine's loopback."""
    name = host.lower().rstrip(".").removeprefix("[").removesuffix("]")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def new_request_id() -> str:
    """What an answer and the log say of one request."""
    return f"req_{os.urandom(16).hex()}"


def check_address(host: str, has_keys: bool) -> None:
    """Raise ConfigError where a service without keys would listen where others reach it."""
    if not has_keys and not is_local(host):
        raise ConfigError(
            f"Whoever reaches {host or 'this machine'} could use the service, for it has no keys: make one "
            "by `danqing keys create NAME`, or listen on 127.0.0.1."
        )


class Gate:
    """ASGI middleware before the whole application, which finds its `Service` at `app.state.service`.

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
        service: Service = scope["app"].state.service
        visit = _Visit(scope, receive, send, self._limits, self._bytes)
        scope.setdefault("state", {})["visit"] = visit
        current = logs.request_id.set(visit.id)
        self._answering += 1
        try:
            await self._answer(service, visit)
        finally:
            self._answering -= 1
            self._leave(visit)
            visit.tell(service)
            logs.request_id.reset(current)

    async def _answer(self, service: "Service", visit: "_Visit") -> None:
        try:
            if visit.path not in _ANSWERED_IN_A_FLOOD and self._answering > self._limits.requests:
                raise _overloaded(f"The service answers {self._limits.requests:,} requests already")
            headers = _headers(visit.scope)
            visit.check_body(headers)
            await self._identify(service, visit, headers)
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

    async def _identify(self, service: "Service", visit: "_Visit", headers: Mapping[bytes, bytes]) -> None:
        if visit.path in _PROBES:  # whose caller is a machine that knows neither key nor name
            return
        if self._local and not service.keys.exist:
            self._check_origin(visit, headers)
            visit.caller = LOCAL
            return
        try:
            visit.caller = await service.keys.caller(_token(headers))
        except ApiError as error:
            visit.unknown = error
            if visit.method not in _HARMLESS:  # before a byte of the body is read
                raise
        else:
            visit.caller.account.request()

    def _enter(self, visit: "_Visit") -> None:
        """Count the request among those of its key, which must leave places for others."""
        key = visit.caller.key_id if visit.caller else None
        if key is None or visit.path in _ANSWERED_IN_A_FLOOD:
            return
        answering, most = self._answering_for.get(key, 0), max(1, self._limits.requests // 4)
        if answering >= most:
            raise _overloaded(f"{most:,} requests of this key are being answered already")
        self._answering_for[key] = answering + 1
        visit.counted = key

    def _leave(self, visit: "_Visit") -> None:
        visit.release()
        if visit.counted is not None:
            self._answering_for[visit.counted] -= 1
            if not self._answering_for[visit.counted]:
                del self._answering_for[visit.counted]

    def _check_origin(self, visit: "_Visit", headers: Mapping[bytes, bytes]) -> None:
        """While there are no keys, pages of other sites must not use the browser of whoever runs this."""
        host = headers.get(b"host", b"").lower()
        if not self._is_ours(host):
            raise ApiError(
                403,
                f"This service is not the host {_shown(host)}: use localhost, or name the host in `hosts`.",
                code="host_not_allowed",
            )
        origin = headers.get(b"origin")
        if origin is not None and origin.lower() not in (b"http://" + host, b"https://" + host):
            raise ApiError(
                403, f"Pages of {_shown(origin)} may not use this service.", code="origin_not_allowed"
            )
        if not self._proxied and (sender := _forwarded(headers)):
            raise ApiError(
                403,
                f"Something passes on requests of {sender} to this service, which has no keys: make one by "
                "`danqing keys create NAME`, or name the host that it answers for in `hosts`.",
                code="forwarded_without_keys",
            )
        if visit.method not in _HARMLESS and headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
            raise ApiError(403, "Pages of other sites may not use this service.", code="origin_not_allowed")


class _Visit:
    """One request on its way: what is known of it, and its messages as they pass."""

    __slots__ = (
        "_body",
        "_bytes",
        "_complete",
        "_declared",
        "_held",
        "_limits",
        "_receive",
        "_send",
        "began",
        "caller",
        "counted",
        "facts",
        "id",
        "method",
        "path",
        "refusal",
        "scope",
        "status",
        "unknown",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits, bytes: Shares) -> None:
        self.began = time.perf_counter()
        self.id = new_request_id()
        self.scope, self.method, self.path = scope, scope["method"], scope["path"]
        self.caller: Caller | None = None
        self.unknown: ApiError | None = None
        self.refusal: ApiError | None = None
        self.facts: dict[str, Any] = {}
        self.status = 0
        self.counted: str | None = None  # the key whose requests this is one of
        self._bytes, self._held = bytes, 0
        self._receive, self._send, self._limits = receive, send, limits
        self._body, self._declared, self._complete = 0, 0, False

    def asking(self) -> Caller:
        """Who asks; raises ApiError 401."""
        if self.caller is None:
            raise self.unknown or missing_key()
        return self.caller

    def check_body(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse by its headers a body that no route reads."""
        length = headers.get(b"content-length")
        if length is not None and not (length.isdigit() and len(length) < 19):
            raise ApiError(400, "The header Content-Length is no number of bytes.", code="invalid_header")
        chunked = b"transfer-encoding" in headers
        self._declared = _DISCARDED + 1 if chunked else int(length or 0)
        if length is not None and int(length) > self._limits.body_bytes:
            raise self._too_large()
        if self.method in _HARMLESS or not (chunked or self._declared):
            return
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower().decode("latin-1")
        if kind not in _BODY_TYPES:
            given = f"is {_shown(kind.encode())}" if kind else "has no Content-Type"
            raise ApiError(
                415,
                f"The body {given}: send application/json or multipart/form-data.",
                code="unsupported_media_type",
            )
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise ApiError(
                415, "The body is compressed: send it as it is.", code="unsupported_content_encoding"
            )

    async def receive(self) -> Message:
        """The next message of the client; its body has `limits.seconds` to arrive."""
        if self._complete:
            return await self._receive()
        left = self.began + self._limits.seconds - time.perf_counter()
        try:
            async with asyncio.timeout(max(0.0, left)):
                message = await self._receive()
        except TimeoutError:
            self.refusal = ApiError(408, "The body took too long to arrive.", code="timeout", headers=FINAL)
            raise self.refusal from None
        if message["type"] == "http.request":
            length = len(message.get("body", b""))
            self._body += length
            if self._body > self._limits.body_bytes:
                self.refusal = self._too_large()
                raise self.refusal
            if not self._bytes.take(self._owner(), length):
                self.refusal = _overloaded("Too many bytes of other bodies are held now")
                raise self.refusal
            self._held += length
            self._complete = not message.get("more_body", False)
        return message

    def release(self) -> None:
        """Nothing of the body is held any more."""
        if self._held:
            self._bytes.give_back(self._owner(), self._held)
            self._held = 0

    def _owner(self) -> str:
        return (self.caller.key_id if self.caller else None) or ""

    async def send(self, message: Message) -> None:
        """A message of the application to the client, its first with the headers that every answer has."""
        if message["type"] == "http.response.start":
            if self.refusal is not None:  # what the application made of a body that was cut off
                await self.refuse()
                return
            self.status = message["status"]
            message["headers"] = self._with_ours(message.get("headers", ()))
        elif self.refusal is not None:
            return
        await self._send(message)

    async def refuse(self) -> None:
        """Answer with the refusal, unless something was answered already."""
        assert self.refusal is not None
        if self.status:
            return
        self.status = self.refusal.status
        # Who is to ask again must be able to read that: a connection closed over a body that is still sent is
        # reset, and the answer lost.
        again = self.status == 429
        if not again and not self._complete and self._declared - self._body > _DISCARDED:
            self.refusal.headers["connection"] = "close"

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = self._with_ours(message["headers"])
            await self._send(message)

        await answer(self.refusal)(self.scope, self._receive, send)

    def tell(self, service: "Service") -> None:
        """Write the request to metrics, access log and audit log."""
        seconds = time.perf_counter() - self.began
        status = self.status or _NOBODY_WAITS
        route: str = getattr(self.scope.get("route"), "path", "")
        service.metrics.request(self.method, route, status, seconds)
        if self.path in _PROBES and status < 400:
            return
        key = self.caller.key_id if self.caller else None
        client = self.scope.get("client")
        logs.access(
            method=self.method,
            path=f"{_PICTURES}{{name}}" if self.path.startswith(_PICTURES) else self.path[:200],
            status=status,
            seconds=round(seconds, 6),
            key=key,
            client=client[0] if client else None,
            **{name: _short(value) for name, value in self.facts.items()},
        )
        if self.method not in _HARMLESS or status in (401, 403):
            # Alike refusals of a flood become one entry with a count, so they carry no id and no path.
            taken = status < 400
            service.keys.audit.enter(
                "request",
                method=self.method,
                route=route,
                status=status,
                key=key,
                client=None if taken or not client else client[0],
                request=self.id if taken else None,
                model=self.facts.get("model") if taken else None,
                images=self.facts.get("images") if taken else None,
            )

    def _with_ours(self, headers: Any) -> list[tuple[bytes, bytes]]:
        told = list(headers)
        present = {name for name, _ in told}
        told += [header for header in ALWAYS if header[0] not in present]
        told.append((b"x-request-id", self.id.encode()))
        told.append((b"openai-version", b"2020-10-01"))
        told.append((b"openai-processing-ms", b"%d" % ((time.perf_counter() - self.began) * 1000)))
        if self.caller is not None:
            told += self.caller.account.headers()
        return told

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"The body has over {self._limits.body_bytes:,} bytes, which is the most that is read here.",
            code="request_too_large",
        )


def _overloaded(reason: str) -> ApiError:
    message, wait = f"{reason}: ask again in a second.", {"retry-after": "1"}
    return ApiError(429, message, code="overloaded", headers=wait)


def missing_key() -> ApiError:
    """What is answered where a key is needed and none is sent."""
    return ApiError(401, _MISSING, code="missing_api_key", headers={"www-authenticate": "Bearer"})


def _visit(scope: Scope) -> _Visit:
    visit: _Visit = scope["state"]["visit"]
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
            return _shown(sender)
    return ""


def _shown(value: bytes) -> str:
    """What a client wrote, short and printable."""
    text = value[:100].decode("latin-1")
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text) or "(none)"


def _short(value: Any) -> Any:
    return value[:200] if isinstance(value, str) else value
