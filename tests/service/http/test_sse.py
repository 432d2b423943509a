"""Streams stay open while nothing comes, and end when nobody reads."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from danqing.service.http import sse


def test_an_event_is_one_event_whatever_it_holds() -> None:
    told = {"text": "a\nb\r\ndata: x\n\nevent: y\u2028", "half": "\ud800"}
    chunk = sse.event("name", told, id="7").decode()
    head, _, rest = chunk.partition("data: ")
    assert head == "id: 7\nevent: name\n"
    assert rest.endswith("\n\n")
    assert "\n" not in rest[:-2]
    assert "\r" not in rest
    assert json.loads(rest)["text"] == told["text"]


def test_silence_is_filled_with_comments() -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.sleep(0.25)
        yield b"second"

    async def read() -> list[bytes]:
        return [chunk async for chunk in sse.with_heartbeats(slow(), seconds=0.1)]

    chunks = asyncio.run(read())
    assert (chunks[0], chunks[-1]) == (b"first", b"second")
    assert len(chunks) >= 3
    assert all(chunk.startswith(b":") for chunk in chunks[1:-1])


@pytest.mark.parametrize("leaves", [True, False])
def test_a_stream_ends_once_however_it_ends(leaves: bool) -> None:
    async def walk() -> tuple[list[dict[str, Any]], list[str]]:
        gone, ends, sent = asyncio.Event(), [], []

        async def endless() -> AsyncIterator[bytes]:
            try:
                yield b"one"
                gone.set()
                if leaves:
                    await asyncio.Event().wait()
            finally:
                ends.append("events")

        async def receive() -> dict[str, Any]:
            await (gone if leaves else asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        response = sse.EventStream(endless(), on_end=lambda: ends.append("stream"))
        await asyncio.wait_for(response({"type": "http"}, receive, send), 10)
        return sent, ends

    sent, ends = asyncio.run(walk())
    assert ends == ["events", "stream"]
    assert [message.get("body") for message in sent] == ([None, b"one"] if leaves else [None, b"one", b""])
    headers = dict(sent[0]["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert b"content-length" not in headers
