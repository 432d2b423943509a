"""A client that costs next to nothing: what is measured is the server."""

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

PIECE = 2**20
"""Bytes of a request that are given to a connection at once: it keeps a copy of what it cannot send yet."""


class Answer(NamedTuple):
    """What came back. status: 0 where nothing did. seconds: since the request was sent."""

    status: int
    seconds: float
    body: bytes


class Client:
    """Keeps its connections, and opens another where all are taken."""

    def __init__(self, url: str, key: str = "") -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        bearer = f"authorization: Bearer {key}\r\n" if key else ""
        self._head = f"host: {self._host}:{self._port}\r\n{bearer}content-type: application/json\r\n"
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    def request(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """A request as its bytes, to be sent as often as wanted; GET where it has no body."""
        content = b"" if body is None else json.dumps(body).encode()
        verb = "GET" if body is None else "POST"
        return (
            f"{verb} {path} HTTP/1.1\r\n{self._head}content-length: {len(content)}\r\n\r\n".encode() + content
        )

    async def send(self, request: bytes) -> Answer:
        """Send it and wait for the whole answer."""
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
        """Hang up."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


async def load(client: Client, request: bytes, clients: int, seconds: float) -> tuple[list[Answer], float]:
    """What so many clients get who ask again as soon as they are answered, and the seconds that it took."""
    began = time.perf_counter()
    answers: list[Answer] = []

    async def one() -> None:
        while time.perf_counter() - began < seconds:
            answers.append((await client.send(request))._replace(body=b""))

    await asyncio.gather(*(one() for _ in range(clients)))
    return answers, time.perf_counter() - began


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that a share `q` does not exceed; nan of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)] if ordered else math.nan


def summary(answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
    """Requests per second that were granted, milliseconds of those, and how often each status came."""
    good = [answer.seconds * 1000 for answer in answers if answer.status == 200]
    return {
        "requests_per_second": round(len(good) / seconds, 1),
        **{f"p{100 * q:g}_ms": round(quantile(good, q), 3) for q in (0.5, 0.95, 0.99)},
        "statuses": dict(sorted(Counter(answer.status for answer in answers).items())),
    }
