"""A limit on how slowly clients may read their answers.

A server that writes a large answer at once keeps it in memory until it has been read: a client that requests
many answers and reads none would fill the memory.
"""

import asyncio
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

READER_GONE = "danqing.gone"
"""Set in the scope of a request once its client reads too slowly; nothing more is sent."""
HANG_UP = "danqing.hang_up"
"""In the scope of a request: ends its connection at once, and drops unread data."""
PIECE = 1024**2  # bytes
SECONDS = 20.0
"""How long a piece may take."""

_log = logging.getLogger("danqing.service")


class SlowReaderLimit:
    """ASGI middleware that sends bodies in pieces.

    Each is sent after the one before it was read.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_in_pieces(message: Message) -> None:
            if READER_GONE in scope:
                return
            if message["type"] != "http.response.body":
                await send(message)
                return
            body, more = message.get("body", b""), message.get("more_body", False)
            try:
                for at in range(0, len(body) or 1, PIECE):
                    last = at + PIECE >= len(body)
                    piece = body if last and not at else body[at : at + PIECE]
                    async with asyncio.timeout(SECONDS):
                        await send({"type": message["type"], "body": piece, "more_body": more or not last})
            except TimeoutError:
                scope[READER_GONE] = True
                if HANG_UP in scope:  # closing would wait until all that was written has been read
                    scope[HANG_UP]()
                _log.warning("an answer was aborted because its client does not read it")

        await self._app(scope, receive, send_in_pieces)
