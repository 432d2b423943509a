"""HTTP/1.1 by httptools, with limits on headers and with answers to clients that are still sending."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from danqing.service.errors import ApiError
from danqing.service.http import exchange, slow_readers
from danqing.service.observability import logs

KEEP_ALIVE = 75  # seconds; longer than most proxies keep idle connections, so that they close first
_MOST_FRAMING = 64 * 1024  # bytes that are not body: request line, headers, sizes of chunks, trailers
PATIENCE = 20.0  # seconds for headers, for what follows a rejection, and for the end of an answer


class _LingeringTransport:
    """A transport that, when closed, waits for a client that is still sending.

    Closing at once would reset the connection, and the answer would be lost (RFC 9112, section 9.6). Writing
    ends at once.

    is_sending: called when the transport is to close; the second time it closes in any case.
    """

    def __init__(self, transport: asyncio.Transport, is_sending: Callable[[], bool]) -> None:
        self._transport, self._is_sending, self._closed = transport, is_sending, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._closed or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing() or not self._is_sending():
            self._transport.close()
        else:
            self._closed = True
            self._transport.write_eof()
            self._transport.resume_reading()


class Http1Protocol(HttpToolsProtocol):
    """A connection with limits on the size and time of headers.

    Neither httptools nor uvicorn has these limits. Errors below HTTP are answered in the shape of all others.
    """

    application: FastAPI

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._connection = transport
        super().connection_made(cast(asyncio.Transport, _LingeringTransport(transport, self._is_sending)))
        self._framing = 0
        self._between_requests = True
        self._deadline: asyncio.TimerHandle | None = None
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():  # the rest of a body that is not read
            return
        if self._between_requests and self._deadline is None:
            self._start_deadline()
        self._framing += len(data)
        super().data_received(data)
        if self._is_idle() and self._deadline is None and self.timeout_keep_alive_task is None:
            # The end of a request that was answered before it was complete: uvicorn has no timeout for it.
            self.timeout_keep_alive_task = self.loop.call_later(KEEP_ALIVE, self._hang_up)
        if self._framing > _MOST_FRAMING and not self.transport.is_closing():
            self._reject(431, "Request Header Fields Too Large", "The headers are too large.")

    def on_message_begin(self) -> None:
        if self._deadline is None:  # it arrived in one piece with the end of the request before
            self._start_deadline()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._framing = 0
        self._between_requests = False
        self._stop_deadline()
        self.scope[slow_readers.HANG_UP] = self._abort  # type: ignore[literal-required]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._framing = max(0, self._framing - 8 * len(body))  # chunks of one byte come in six
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._framing = 0
        self._between_requests = True
        self._stop_deadline()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._stop_deadline()
            self._start_deadline()  # for the client to read the rest of the answer
        elif self.cycle.response_complete and not self._between_requests and self._deadline is None:
            self._start_deadline()  # for the rest of the request, which is not read

    def timeout_keep_alive_handler(self) -> None:
        self._hang_up()

    def send_400_response(self, msg: str) -> None:
        self._reject(400, "Bad Request", "This is not an HTTP request.")

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(PATIENCE, self._hang_up)

    def _is_sending(self) -> bool:
        """Return whether the client is still sending when the connection is to close; then it has a while."""
        if not self._between_requests:
            self._stop_deadline()
            self._start_deadline()
        return not self._between_requests

    def _is_idle(self) -> bool:
        """Return whether a request has been answered, and none has begun."""
        answered = self.cycle is not None and self.cycle.response_complete
        return answered and self._between_requests and not self.transport.is_closing()

    def _hang_up(self) -> None:
        """Close the connection, and drop data that was written but not read in all this time."""
        if self.transport.get_write_buffer_size():
            self._abort()
        else:
            self._connection.close()

    def _abort(self) -> None:
        connection = self.transport.get_extra_info("socket")
        if connection is not None:  # the kernel also drops data that it has not sent
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _reject(self, status: int, phrase: str, message: str) -> None:
        """Answer data that is not a request with an error, and close the connection."""
        body, request = json.dumps(ApiError(status, message).body()).encode(), exchange.new_request_id()
        headers = [
            *exchange.ALWAYS,
            (b"x-request-id", request.encode()),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        lines = [f"HTTP/1.1 {status} {phrase}".encode(), *(b"%b: %b" % header for header in headers)]
        self.transport.write(b"\r\n".join([*lines, b"", body]))
        self._between_requests = False  # more of it may be coming
        self.transport.close()
        self.application.state.service.metrics.request("", "", status, 0.0)
        current = logs.request_id.set(request)
        logs.access(method="", path="", status=status, seconds=0.0, client=(self.client or [None])[0])
        logs.request_id.reset(current)


def protocol_for(app: FastAPI) -> type[asyncio.Protocol]:
    """Return the protocol class for uvicorn.

    Errors below HTTP are counted in the metrics of `app`.
    """

    class Protocol(Http1Protocol):
        application = app

    return Protocol
