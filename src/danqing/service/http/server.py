"""The server below the application: it binds before it loads, says when it is ready, and drains when told to
stop."""

import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import socket
import struct
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from danqing.errors import ConfigError
from danqing.service.errors import ApiError
from danqing.service.http import exchange as visit
from danqing.service.http import slow_readers as pace
from danqing.service.observability import logs

if TYPE_CHECKING:
    from fastapi import FastAPI

_log = logging.getLogger("danqing.service")
_MOST_FRAMING = 64 * 1024  # bytes that are not body: request line, headers, sizes of chunks, trailers
_PATIENCE = 20.0  # seconds for headers to be complete, for what follows a refusal, for the end of an answer
_TICK = 0.1
_FAILED = 3
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of malloc.h
_LARGE, _ARENAS = 1024**2, 2
_KEEP_ALIVE = 75  # seconds; longer than the usual proxy keeps its idle connections, so that it closes first


def serve(
    app: "FastAPI", host: str, port: int, *, drain: float, on_ready: Callable[[str], None] = lambda url: None
) -> None:
    """Answer for `app` until SIGTERM or SIGINT; then requests that are being answered have `drain` seconds.

    port 0 lets the system choose; on_ready is told the address. A second signal ends it at once. Raises
    ConfigError where the address cannot be had, and whatever the application raises while it starts.
    """
    listener = _bound(host, port)
    _allow_many_connections()
    _give_memory_back()
    starting = _Starting(app)
    config = uvicorn.Config(
        starting,
        lifespan="on",
        http=_patient_protocol(app),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whoever connects could write into the log that somebody else did
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(drain)),
    )
    shown, bound_port = (f"[{host}]" if ":" in host else host), listener.getsockname()[1]
    server = _Server(config, app, lambda: on_ready(f"http://{shown}:{bound_port}"))
    try:
        server.run(sockets=[listener])
    except SystemExit:
        if starting.error is None:
            raise
    finally:
        listener.close()
    if starting.error is not None:
        raise starting.error


def _bound(host: str, port: int) -> socket.socket:
    """A socket at the address, which does not listen yet: until the models are known, nobody is let in."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"Nothing can listen at {host}, port {port} ({error.strerror or error}): choose another --host "
            "or --port, or stop what listens there."
        ) from error
    bound.set_inheritable(False)
    return bound


def _allow_many_connections() -> None:
    """As many open files as the system lets us have: each connection is one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _give_memory_back() -> None:
    """Let what a large picture took return to the system with it: glibc would keep it, for each thread."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_ARENA_MAX, _ARENAS)


class _Starting:
    """The application, whose mistake while it starts is kept for whoever started it, not logged as ours."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.error: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await self.app(scope, receive, send)

        async def without_traceback(message: Message) -> None:
            quiet = {"type": message["type"]} if message["type"].endswith("startup.failed") else message
            await send(quiet)

        try:
            await self.app(scope, receive, without_traceback)
        except asyncio.CancelledError:  # told to stop before it had started
            return
        except Exception as error:
            self.error = error
            raise


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: "FastAPI", on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._on_ready = app, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so; a signal meanwhile ends it, however long the models would take."""
        starting = asyncio.create_task(self._start(sockets))
        while not starting.done():
            await asyncio.wait({starting}, timeout=_TICK)
            if self.should_exit and not starting.done():
                starting.cancel()
                return
        if not starting.result():
            raise SystemExit(_FAILED)
        gc.collect()
        gc.freeze()  # what lives as long as the service need not be looked through at every collection
        if not self.should_exit:
            self._on_ready()

    async def _start(self, sockets: list[socket.socket] | None) -> bool:
        try:
            await super().startup(sockets)
        except SystemExit:  # a task must not end by it
            return False
        return True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say that it drains, then drain: streams that would never end by themselves end."""
        logs.event(_log, "draining", connections=len(self.server_state.connections))
        self._app.state.service.draining.set()
        await super().shutdown(sockets)
        logs.event(_log, "stopped")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends it; neither is raised again: draining is no failure."""
        self.force_exit = self.should_exit
        self.should_exit = True


class _Parting:
    """A transport whose end waits where its client is still sending: what is closed over that is reset, and
    the answer lost (RFC 9112, section 9.6). The other direction is closed at once.

    is_sending: asked when it is to close; the second time it does so in any case.
    """

    def __init__(self, transport: asyncio.Transport, is_sending: Callable[[], bool]) -> None:
        self._transport, self._is_sending, self._parted = transport, is_sending, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._parted or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing() or not self._is_sending():
            self._transport.close()
        else:
            self._parted = True
            self._transport.write_eof()
            self._transport.resume_reading()


def _patient_protocol(app: "FastAPI") -> type[asyncio.Protocol]:
    """HTTP/1.1 by httptools, with limits that neither it nor uvicorn has."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class Protocol(HttpToolsProtocol):
        """A connection whose headers must be small and come soon, and that is told of mistakes as all are."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self._connection = transport
            super().connection_made(cast(asyncio.Transport, _Parting(transport, self._lingers)))
            self._framing = 0
            self._between_requests = True
            self._hurry: asyncio.TimerHandle | None = None
            self._begin()

        def connection_lost(self, exc: Exception | None) -> None:
            self._relax()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():  # the rest of what nobody needs
                return
            if self._between_requests and self._hurry is None:
                self._begin()
            self._framing += len(data)
            super().data_received(data)
            if self._is_idle() and self._hurry is None and self.timeout_keep_alive_task is None:
                # The rest of a request that was answered before it was complete: uvicorn waits no more.
                self.timeout_keep_alive_task = self.loop.call_later(_KEEP_ALIVE, self._hang_up)
            if self._framing > _MOST_FRAMING and not self.transport.is_closing():
                self._refuse(431, "Request Header Fields Too Large", "The headers are too large.")

        def on_message_begin(self) -> None:
            if self._hurry is None:  # what came in one piece with the end of the request before
                self._begin()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._framing = 0
            self._between_requests = False
            self._relax()
            self.scope[pace.HANG_UP] = self._abort  # type: ignore[literal-required]
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._framing = max(0, self._framing - 8 * len(body))  # chunks of one byte come in six
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._framing = 0
            self._between_requests = True
            self._relax()
            super().on_message_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.transport.is_closing():
                self._relax()
                self._begin()  # for the rest of the answer
            elif self.cycle.response_complete and not self._between_requests and self._hurry is None:
                self._begin()  # for the rest of the request, which nobody needs

        def timeout_keep_alive_handler(self) -> None:
            self._hang_up()

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, "Bad Request", "This is no HTTP request.")

        def _begin(self) -> None:
            self._hurry = self.loop.call_later(_PATIENCE, self._hang_up)

        def _lingers(self) -> bool:
            """Whether something is still being sent when the connection is to close; then it has a while."""
            if not self._between_requests:
                self._relax()
                self._begin()
            return not self._between_requests

        def _is_idle(self) -> bool:
            """Whether a request has been answered, and none has begun."""
            answered = self.cycle is not None and self.cycle.response_complete
            return answered and self._between_requests and not self.transport.is_closing()

        def _hang_up(self) -> None:
            """Close the connection; what is written and was not read in all this time will not be."""
            if self.transport.get_write_buffer_size():
                self._abort()
            else:
                self._connection.close()

        def _abort(self) -> None:
            connection = self.transport.get_extra_info("socket")
            if connection is not None:  # the kernel, too, forgets what it has not sent
                with contextlib.suppress(OSError):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

        def _relax(self) -> None:
            if self._hurry is not None:
                self._hurry.cancel()
                self._hurry = None

        def _refuse(self, status: int, phrase: str, message: str) -> None:
            """Answer what never became a request as all that is refused, and hang up."""
            body, request = json.dumps(ApiError(status, message).body()).encode(), visit.new_request_id()
            headers = [
                *visit.ALWAYS,
                (b"x-request-id", request.encode()),
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
            ]
            lines = [f"HTTP/1.1 {status} {phrase}".encode(), *(b"%b: %b" % header for header in headers)]
            self.transport.write(b"\r\n".join([*lines, b"", body]))
            self._between_requests = False  # for all we know, more of it is coming
            self.transport.close()
            app.state.service.metrics.request("", "", status, 0.0)
            current = logs.request_id.set(request)
            logs.access(method="", path="", status=status, seconds=0.0, client=(self.client or [None])[0])
            logs.request_id.reset(current)

    return Protocol
