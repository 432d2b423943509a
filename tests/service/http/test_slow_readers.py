"""Whoever asks and does not read is not waited for, and does not fill the memory."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from danqing.service.http import slow_readers, sse

BODY = bytes(range(256)) * 4096 * 24  # more than kernels take up
REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield sse.event("piece", {"b64_json": "a" * 1_000_000})


def serve(walk: Callable[[int, list[str]], Awaitable[None]], answer: Callable[[], Response]) -> None:
    """Run `walk` with the port of a server and a list that records the ends of answers."""
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await answer()(scope, receive, send)
        finally:
            ended.append("reader is gone" if slow_readers.READER_GONE in scope else "read")

    async def run() -> None:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(slow_readers.SlowReaderLimit(app), lifespan="off", log_config=None, ws="none")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        await walk(listener.getsockname()[1], ended)
        server.should_exit = True
        await serving
        listener.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_large_answer_arrives_whole() -> None:
    async def walk(port: int, ended: list[str]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        assert f"content-length: {len(BODY)}".encode() in head
        assert await reader.readexactly(len(BODY)) == BODY
        writer.write(REQUEST)  # on the same connection
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(len(BODY)) == BODY
        writer.close()
        assert ended == ["read", "read"]

    serve(walk, lambda: Response(BODY))


@pytest.mark.parametrize("answer", [lambda: Response(BODY), lambda: sse.EventStream(endless())])
def test_a_reader_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    monkeypatch.setattr(slow_readers, "SECONDS", 0.3)

    async def walk(port: int, ended: list[str]) -> None:
        with socket.create_connection(("127.0.0.1", port)) as silent:
            silent.sendall(REQUEST)
            while not ended:
                await asyncio.sleep(0.02)
        assert ended == ["reader is gone"]

    serve(walk, answer)
