"""A request on its way through the gate: its body, its answer, and what is told of it afterwards."""

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from danqing.service.access.audit import Audit
from danqing.service.access.caller import Caller, missing_key
from danqing.service.access.held_bytes import HeldBytes
from danqing.service.errors import FINAL, ApiError, answer
from danqing.service.fairness.fair_share import Shares
from danqing.service.observability import logs
from danqing.service.observability.metrics import Metrics
from danqing.service.settings import Limits

PROBES = frozenset({"/healthz", "/readyz"})
HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})
_BODY_TYPES = frozenset({"application/json", "multipart/form-data"})
_NOBODY_WAITS = 499
_PICTURES = "/v1/pictures/"  # what follows is what lets see one, and no matter of the log
ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
"""The headers of every answer that has none of its own of these names."""


def new_request_id() -> str:
    """What an answer and the log say of one request."""
    return f"req_{os.urandom(16).hex()}"


class Visit:
    """One request on its way: what is known of it, and its messages as they pass."""

    __slots__ = (
        "_body",
        "_complete",
        "_limits",
        "_receive",
        "_send",
        "_share",
        "began",
        "caller",
        "counted",
        "facts",
        "held",
        "id",
        "method",
        "path",
        "refusal",
        "scope",
        "status",
        "unknown",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits, share: Shares) -> None:
        self.began = time.perf_counter()
        self.id = new_request_id()
        self.scope, self.method, self.path = scope, scope["method"], scope["path"]
        self.caller: Caller | None = None
        self.unknown: ApiError | None = None
        self.refusal: ApiError | None = None
        self.facts: dict[str, Any] = {}
        self.status = 0
        self.counted: str | None = None  # the key whose requests this is one of
        self._share, self.held = share, HeldBytes(share)
        self._receive, self._send, self._limits = receive, send, limits
        self._body, self._complete = 0, False

    def identify(self, caller: Caller) -> None:
        """Note whose request this is, before its body is read."""
        self.caller, self.held = caller, HeldBytes(self._share, caller.owner)

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
        declared = int(length or 0)
        if declared > self._limits.body_bytes:
            raise self._too_large()
        if self.method in HARMLESS or not (chunked or declared):
            return
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower().decode("latin-1")
        if kind not in _BODY_TYPES:
            given = f"is {shown(kind.encode())}" if kind else "has no Content-Type"
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
            try:
                self.held.hold(length)
            except ApiError as error:
                self.refusal = error
                raise
            self._complete = not message.get("more_body", False)
        return message

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
        """Answer with the refusal, unless something was answered already.

        The connection stays, and the server reads on for a while what it no longer needs: one that is closed
        over a body still being sent is reset, and the answer lost.
        """
        assert self.refusal is not None
        if self.status:
            return
        self.status = self.refusal.status

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = self._with_ours(message["headers"])
            await self._send(message)

        await answer(self.refusal)(self.scope, self._receive, send)

    def tell(self, metrics: Metrics, audit: Audit) -> None:
        """Write the request to metrics, access log and audit log."""
        seconds = time.perf_counter() - self.began
        status = self.status or _NOBODY_WAITS
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
        if self.method not in HARMLESS or status in (401, 403):
            # Alike refusals of a flood become one entry with a count, so they carry no id and no path.
            taken = status < 400
            audit.enter(
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


def shown(value: bytes) -> str:
    """What a client wrote, short and printable."""
    text = value[:100].decode("latin-1")
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text) or "(none)"


def _short(value: Any) -> Any:
    return value[:200] if isinstance(value, str) else value
