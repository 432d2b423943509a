"""Answers go out as fast as they are read, and no slower than a reader who wants them would read.

A server that writes a large answer at once keeps it until it has been read: whoever asks for many and reads
none would fill the memory.
"""

import asyncio
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

GONE = "danqing.gone"
"""Stands in the scope of a request whose reader is no longer waited for."""
HANG_UP = "danqing.hang_up"
"""Stands in the scope of a request whose connection can be ended at once: what ends what was not read."""
PIECE = 1024**2
SECONDS = 20.0
"""That a piece may take."""

_log = logging.getLogger("danqing.service")


class Paced:
    """ASGI middleware that sends bodies in pieces, each when the one before it is on its way."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def paced(message: Message) -> None:
            if GONE in scope:
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
                scope[GONE] = True
                if HANG_UP in scope:  # to close it would wait until all that was written has been read
                    scope[HANG_UP]()
                _log.warning("an answer was given up, for nobody reads it")

        await self._app(scope, receive, paced)
