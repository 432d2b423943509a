"""The server below the application: binds early, reports when it is ready, and drains when stopped."""

import asyncio
import contextlib
import ctypes
import gc
import logging
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from danqing.errors import ConfigError
from danqing.service.http.http1 import KEEP_ALIVE, protocol_for
from danqing.service.http.slow_readers import HANG_UP
from danqing.service.observability import logs

_log = logging.getLogger("danqing.service")
_TICK = 0.1  # seconds
_FAILED = 3  # uvicorn's exit status of an application that cannot start
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of malloc.h
_LARGE, _ARENAS = 1024**2, 2


def serve(
    app: FastAPI, host: str, port: int, *, drain: float, on_ready: Callable[[str], None] = lambda url: None
) -> None:
    """Serve an application until SIGTERM or SIGINT.

    port: 0 lets the system choose.
    drain: seconds that running requests have after the first signal; the second one stops at once.
    on_ready: called with the address.

    Raises ConfigError if the address is not available, and whatever the application raises as it starts.
    """
    listener = _bound(host, port)
    _allow_many_connections()
    tune_malloc()
    application = _Application(app)
    config = uvicorn.Config(
        application,
        lifespan="on",
        http=protocol_for(app),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # any client could write a false address into the log
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(drain)),
    )
    shown, bound_port = (f"[{host}]" if ":" in host else host), listener.getsockname()[1]
    server = _Server(config, app, lambda: on_ready(f"http://{shown}:{bound_port}"))
    try:
        server.run(sockets=[listener])
    except SystemExit:
        if application.error is None:
            raise
    finally:
        listener.close()
    if application.error is not None:
        raise application.error


def _bound(host: str, port: int) -> socket.socket:
    """Bind a socket that does not listen yet: nobody connects before the models are known."""
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
            f"Cannot listen on {host}, port {port} ({error.strerror or error}): choose another --host or "
            "--port, or stop the program that listens there."
        ) from error
    bound.set_inheritable(False)
    return bound


def _allow_many_connections() -> None:
    """Raise the limit of open files as far as the system allows: each connection is one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def tune_malloc() -> None:
    """Make glibc return the memory of large pictures to the system.

    It would keep it, for each thread.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_ARENA_MAX, _ARENAS)


class _Application:
    """The application; uvicorn logs neither why it cannot start nor tracebacks of what is cut short.

    error: why it cannot start, for `serve` to raise.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.error: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError:  # after a part of the answer
            scope[HANG_UP]()

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start the application, and stop it."""

        async def without_traceback(message: Message) -> None:
            task = asyncio.current_task()
            is_cut_short = task is not None and task.cancelling() > 0
            if is_cut_short or message["type"] == "lifespan.startup.failed":
                message = {"type": message["type"]}
            await send(message)

        try:
            await self.app(scope, receive, without_traceback)
        except asyncio.CancelledError:  # cut short
            return
        except Exception as error:
            self.error = error
            raise


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: FastAPI, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._on_ready = app, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then report it.

        A signal stops the start, however long the models would take.
        """
        starting = asyncio.create_task(self._start(sockets))
        if not await _ended(starting, lambda: self.should_exit):
            return
        if not starting.result():
            raise SystemExit(_FAILED)
        gc.collect()
        gc.freeze()  # long-lived objects need not be scanned at every collection
        if not self.should_exit:
            self._on_ready()

    async def _start(self, sockets: list[socket.socket] | None) -> bool:
        try:
            await super().startup(sockets)
        except SystemExit:  # a task must not end with it
            return False
        return True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain: let running requests finish, and end streams that never end by themselves.

        A second signal ends the draining, and the wait for parts that stop.
        """
        logs.event(_log, "draining", connections=len(self.server_state.connections))
        self._app.state.service.draining.set()
        await _ended(asyncio.create_task(super().shutdown(sockets)), lambda: self.force_exit)
        logs.event(_log, "stopped")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal and stop at the second.

        Neither is raised again.
        """
        self.force_exit = self.should_exit
        self.should_exit = True


async def _ended(task: asyncio.Task[Any], is_cut_short: Callable[[], bool]) -> bool:
    """Wait until a task has ended; cancel it, and return False, once a signal cuts it short."""
    while not task.done():
        await asyncio.wait({task}, timeout=_TICK)
        if is_cut_short() and not task.done():
            task.cancel()
            return False
    return True
