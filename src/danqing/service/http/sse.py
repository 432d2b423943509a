"""Server-sent events: streams that proxies keep open, and that end when their client leaves."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any

from fastapi import Response
from starlette.types import Message, Receive, Scope, Send

from danqing.service.http.slow_readers import READER_GONE
from danqing.service.json_output import encode_json

HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx would buffer the events
}
_SECONDS_BETWEEN_HEARTBEATS = 10.0


def event(name: str, data: Mapping[str, Any], id: str | None = None) -> bytes:
    """Encode an event; id: sent as Last-Event-ID by a client that reconnects."""
    head = f"event: {name}\n" if id is None else f"id: {id}\nevent: {name}\n"
    return b"%sdata: %s\n\n" % (head.encode(), encode_json(data))


async def disconnected(receive: Receive) -> None:
    """Wait until the client is gone.

    Call it after the body has been read.
    """
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return


@contextlib.asynccontextmanager
async def watching(receive: Receive, gone: Callable[[], object]) -> AsyncIterator[None]:
    """Call `gone` if the client leaves while the block runs."""

    async def watch() -> None:
        await disconnected(receive)
        gone()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()


class EventStream(Response):
    """Sends events, and a comment after a while without one.

    events: as encoded by `event`.
    on_end: called once, when all are sent or the client has left.
    """

    def __init__(self, events: AsyncIterator[bytes], on_end: Callable[[], object] = lambda: None) -> None:
        super().__init__(status_code=200, headers=HEADERS)
        del self.headers["content-length"]
        self._events, self._on_end = events, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request; return when the stream has ended."""
        sending = asyncio.create_task(self._send(scope, send))
        leaving = asyncio.create_task(disconnected(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
        finally:
            await _cancelled(sending, leaving)
            self._on_end()

    async def _send(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with contextlib.aclosing(with_heartbeats(self._events)) as chunks:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                if READER_GONE in scope:
                    return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def with_heartbeats(
    events: AsyncIterator[bytes], seconds: float = _SECONDS_BETWEEN_HEARTBEATS
) -> AsyncGenerator[bytes, None]:
    """Yield the events, and a comment after each interval without one."""
    following = aiter(events)
    upcoming: asyncio.Task[bytes] | None = None
    try:
        while True:
            if upcoming is None:
                upcoming = asyncio.create_task(_next(following))
            await asyncio.wait((upcoming,), timeout=seconds)
            if not upcoming.done():
                yield b": still painting\n\n"
                continue
            try:
                chunk = upcoming.result()
            except StopAsyncIteration:
                return
            upcoming = None
            yield chunk
    finally:
        if upcoming is not None:
            await _cancelled(upcoming)


async def _next(events: AsyncIterator[bytes]) -> bytes:
    return await anext(events)


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
