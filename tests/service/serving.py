"""A service in a thread of its own, on a real socket, for tests that speak to it as clients do."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from danqing.service.app import create_app
from danqing.service.settings import Settings
from danqing.service.state import Service


class Running:
    """A service that runs. url: where; service: its parts, which belong to `loop`."""

    def __init__(self, url: str, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self.url, self.service, self.loop = url, service, loop

    @contextlib.contextmanager
    def standstill(self) -> Iterator[None]:
        """The worker does nothing until the block ends."""
        worker = self.service.engine._keeper.worker
        assert worker is not None
        os.kill(worker.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(worker.process.pid, signal.SIGCONT)


@contextlib.contextmanager
def served(models: dict[str, str], data: Path, **settings: Any) -> Iterator[Running]:
    """Serve models from a thread until the block ends."""
    chosen = Settings(models=models, data=data, **{"engine": {"threads": 1}, **settings})
    app = create_app(chosen)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, lifespan="on", ws="none")
    server = uvicorn.Server(config)
    ready = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        ready.set()
        await serving

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    ready.wait(120)
    try:
        assert server.started
        yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.service, loops[0])
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()
