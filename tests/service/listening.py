"""An application in a thread of its own, on a real socket."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import uvicorn


class Listening(NamedTuple):
    """Where an application is reached, and the event loop that it runs in."""

    port: int
    loop: asyncio.AbstractEventLoop


@contextlib.contextmanager
def listening(app: Any) -> Iterator[Listening]:
    """Answer for an application from a thread until the block ends."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", ws="none"))
    ready = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
        ready.set()
        await serving

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    ready.wait(120)
    try:
        assert server.started
        yield Listening(listener.getsockname()[1], loops[0])
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()
