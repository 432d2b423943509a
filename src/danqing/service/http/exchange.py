"""One request and its answer on their way through the gate."""

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from danqing.service.access.audit import AuditLog
from danqing.service.access.caller import Caller, missing_key
from danqing.service.access.held_bytes import HeldBytes
from danqing.service.errors import FINAL, ApiError, answer, printable
from danqing.service.fairness.fair_share import FairShare
from danqing.service.http.origin import SAFE_METHODS
from danqing.service.observability import logs
from danqing.service.observability.metrics import Metrics
from danqing.service.settings import Limits

PROBES = frozenset({"/healthz", "/readyz"})
_BODY_TYPES = frozenset({"application/json", "multipart/form-data"})
_CLIENT_LEFT = 499  # nginx's status of requests whose client left before the answer
_PICTURES = "/v1/pictures/"  # the rest of such a path is a secret and must not be logged
ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
"""Headers of every answer that does not set them itself."""


def new_request_id() -> str:
    """Return the id of one request, for its answer and the log."""
    return f"req_{os.urandom(16).hex()}"


class Exchange:
    """A request, the facts about it, and its messages as they pass.

    caller: the caller once it is identified; unknown: why it was not.
    held: the bytes that the request keeps in memory.
    facts: for the access log.
    status: of the answer; 0 before it has begun.
    rejection: the error that replaces the application's answer.
    """

    __slots__ = (
        "_body",
        "_complete",
        "_limits",
        "_receive",
        "_send",
        "_share",
        "began",
        "caller",
        "facts",
        "held",
        "id",
        "method",
        "path",
        "rejection",
        "scope",
        "status",
        "unknown",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits, share: FairShare) -> None:
        self.began = time.perf_counter()
        self.id = new_request_id()
        # A HEAD is answered as GET (RFC 9110, section 9.3.2); the server below leaves the body out.
        self.scope = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        self.method, self.path = scope["method"], scope["path"]
        self.caller: Caller | None = None
        self.unknown: ApiError | None = None
        self.rejection: ApiError | None = None
        self.facts: dict[str, Any] = {}
        self.status = 0
        self._share, self.held = share, HeldBytes(share)
        self._receive, self._send, self._limits = receive, send, limits
        self._body, self._complete = 0, False

    def identify(self, caller: Caller) -> None:
        """Set the caller, before the body is read."""
        self.caller, self.held = caller, HeldBytes(self._share, caller.owner)

    def require_caller(self) -> Caller:
        """Return the caller; raises ApiError 401 if it is not known."""
        if self.caller is None:
            raise self.unknown or missing_key()
        return self.caller

    def check_body(self, headers: Mapping[bytes, bytes]) -> None:
        """Raise ApiError if the headers describe an unreadable body."""
        length = headers.get(b"content-length")
        if length is not None and not (length.isdigit() and len(length) < 19):
            raise ApiError(400, "The header Content-Length is not a number of bytes.", code="invalid_header")
        chunked = b"transfer-encoding" in headers
        declared = int(length or 0)
        if declared > self._limits.body_bytes:
            raise self._too_large()
        if self.method in SAFE_METHODS or not (chunked or declared):
            return
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower().decode("latin-1")
        if kind not in _BODY_TYPES:
            given = f"is {printable(kind.encode())}" if kind else "has no Content-Type"
            raise ApiError(
                415,
                f"The body {given}: send application/json or multipart/form-data.",
                code="unsupported_media_type",
            )
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise ApiError(
                415, "The body is compressed: send it uncompressed.", code="unsupported_content_encoding"
            )

    async def receive(self) -> Message:
        """Return the client's next message; the whole body has `limits.seconds` to arrive."""
        if self._complete:
            return await self._receive()
        left = self.began + self._limits.seconds - time.perf_counter()
        try:
            async with asyncio.timeout(max(0.0, left)):
                message = await self._receive()
        except TimeoutError:
            self.rejection = ApiError(408, "The body took too long to arrive.", code="timeout", headers=FINAL)
            raise self.rejection from None
        if message["type"] == "http.request":
            self._count(len(message.get("body", b"")))
            self._complete = not message.get("more_body", False)
        return message

    def _count(self, length: int) -> None:
        """Count bytes of the body; raises ApiError 413 and 429."""
        self._body += length
        try:
            if self._body > self._limits.body_bytes:
                raise self._too_large()
            self.held.hold(length)
        except ApiError as error:
            self.rejection = error
            raise

    async def send(self, message: Message) -> None:
        """Pass a message to the client.

        The first one gets the headers of every answer.
        """
        if message["type"] == "http.response.start":
            if self.rejection is not None:  # the application answered a truncated body
                await self.reject()
                return
            self.status = message["status"]
            message["headers"] = self._with_ours(message.get("headers", ()))
        elif self.rejection is not None:
            return
        await self._send(message)

    async def reject(self) -> None:
        """Answer with the rejection, unless an answer has begun.

        The connection stays open, and the server reads on for a while: closing it while a body is still being
        sent would reset it, and lose the answer.
        """
        assert self.rejection is not None
        if self.status:
            return
        self.status = self.rejection.status

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = self._with_ours(message["headers"])
            await self._send(message)

        await answer(self.rejection)(self.scope, self._receive, send)

    def record(self, metrics: Metrics, audit: AuditLog) -> None:
        """Write the request to metrics, access log and audit log."""
        seconds = time.perf_counter() - self.began
        status = self.status or _CLIENT_LEFT
        route: str = getattr(self.scope.get("route"), "path", "")
        metrics.request(self.method, route, status, seconds)
        if self.path in PROBES and status < 400:
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
        if self.method not in SAFE_METHODS or status in (401, 403):
            # Equal rejections of a flood become one entry with a count, so they carry no id and no path.
            accepted = status < 400
            audit.record(
                "request",
                method=self.method,
                route=route,
                status=status,
                key=key,
                client=None if accepted or not client else client[0],
                request=self.id if accepted else None,
                model=self.facts.get("model") if accepted else None,
                images=self.facts.get("images") if accepted else None,
            )

    def _with_ours(self, headers: Any) -> list[tuple[bytes, bytes]]:
        found = list(headers)
        present = {name for name, _ in found}
        found += [header for header in ALWAYS if header[0] not in present]
        found.append((b"x-request-id", self.id.encode()))
        found.append((b"openai-version", b"2020-10-01"))
        found.append((b"openai-processing-ms", b"%d" % ((time.perf_counter() - self.began) * 1000)))
        if self.caller is not None:
            found += self.caller.account.headers()
        return found

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"The body has over {self._limits.body_bytes:,} bytes, which is the limit here.",
            code="request_too_large",
        )


def _short(value: Any) -> Any:
    return value[:200] if isinstance(value, str) else value
