"""A service in a thread of its own, on a real socket, for tests that speak to it as clients do."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from danqing.service.app import create_app
from danqing.service.parts import Service
from danqing.service.settings import Settings
from tests.service.listening import listening


class Running:
    """A service that runs. url: where; service: its parts, which belong to `loop`."""

    def __init__(self, url: str, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self.url, self.service, self.loop = url, service, loop

    @contextlib.contextmanager
    def standstill(self) -> Iterator[None]:
        """The worker does nothing until the block ends."""
        pid = self._worker()
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def slow_motion(self) -> Iterator[None]:
        """The worker rests most of the time until the block ends, as on a much slower machine."""
        pid, ended = self._worker(), threading.Event()

        def slow_down() -> None:
            while not ended.is_set():
                os.kill(pid, signal.SIGSTOP)
                ended.wait(0.1)
                os.kill(pid, signal.SIGCONT)
                ended.wait(0.01)

        thread = threading.Thread(target=slow_down)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _worker(self) -> int:
        pid = self.service.scheduler.state().workers[0].pid
        assert pid is not None
        return pid


@contextlib.contextmanager
def served(models: Mapping[str, Any], data: Path, **settings: Any) -> Iterator[Running]:
    """Serve models from a thread until the block ends."""
    chosen = Settings(models=dict(models), data=data, **{"engine": {"threads": 1}, **settings})
    app = create_app(chosen)
    with listening(app) as where:
        yield Running(f"http://127.0.0.1:{where.port}", app.state.service, where.loop)
