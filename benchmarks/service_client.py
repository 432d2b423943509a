"""A client that uses almost no processor time, so that the server is measured."""

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

PIECE = 2**20
"""Bytes of a request that are written at once: the connection keeps a copy of unsent bytes."""


class Answer(NamedTuple):
    """An answer. status: 0 if there was none. seconds: since the request was sent."""

    status: int
    seconds: float
    body: bytes


class Client:
    """Keeps its connections open, and opens another one if all are in use."""

    def __init__(self, url: str, key: str = "") -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        bearer = f"authorization: Bearer {key}\r\n" if key else ""
        self._head = f"host: {self._host}:{self._port}\r\n{bearer}content-type: application/json\r\n"
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    def request(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """Return a request as bytes, which can be sent several times; GET if it has no body."""
        content = b"" if body is None else json.dumps(body).encode()
        verb = "GET" if body is None else "POST"
        return (
            f"{verb} {path} HTTP/1.1\r\n{self._head}content-length: {len(content)}\r\n\r\n".encode() + content
        )

    async def send(self, request: bytes) -> Answer:
        """Send a request and wait for the complete answer."""
        began = time.perf_counter()
        try:
            if self._idle:
                reader, writer = self._idle.pop()
            else:
                reader, writer = await asyncio.open_connection(self._host, self._port, limit=2**20)
            writer.write(request[:PIECE])
            for at in range(PIECE, len(request), PIECE):
                await writer.drain()
                writer.write(request[at : at + PIECE])
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:-2])
            body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
        except (OSError, asyncio.IncompleteReadError):
            return Answer(0, time.perf_counter() - began, b"")
        if fields.get(b"connection", b"").strip() == b"close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return Answer(int(head[9:12]), time.perf_counter() - began, body)

    def close(self) -> None:
        """Close all connections."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


async def load(client: Client, request: bytes, clients: int, seconds: float) -> tuple[list[Answer], float]:
    """Let clients send their next request after each answer; return the answers, and the seconds."""
    began = time.perf_counter()
    answers: list[Answer] = []

    async def one() -> None:
        while time.perf_counter() - began < seconds:
            answers.append((await client.send(request))._replace(body=b""))

    await asyncio.gather(*(one() for _ in range(clients)))
    return answers, time.perf_counter() - began


async def load_of(client: Client, request: bytes, clients: int, each: int) -> tuple[list[Answer], float]:
    """Let each client send `each` requests, one after another; return the answers, and the seconds.

    The same work each time: two services that fill batches differ in no more than their speed.
    """
    began = time.perf_counter()
    answers: list[Answer] = []

    async def one() -> None:
        answers.extend([(await client.send(request))._replace(body=b"") for _ in range(each)])

    await asyncio.gather(*(one() for _ in range(clients)))
    return answers, time.perf_counter() - began


def quantile(values: Sequence[float], q: float) -> float:
    """Return the smallest value that a share `q` does not exceed; nan without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)] if ordered else math.nan


def summary(answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
    """Return answered requests per second, their milliseconds, and the count of each status."""
    good = [answer.seconds * 1000 for answer in answers if answer.status == 200]
    return {
        "requests_per_second": round(len(good) / seconds, 1),
        **{f"p{100 * q:g}_ms": round(quantile(good, q), 3) for q in (0.5, 0.95, 0.99)},
        "statuses": dict(sorted(Counter(answer.status for answer in answers).items())),
    }
