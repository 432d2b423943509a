"""Services in processes of their own, which tests kill."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

STARTED: list[subprocess.Popen[str]] = []


class Process:
    """A server in a process of its own, as `danqing serve` starts it.

    http: a client of it. token: the client's key, if there are keys.
    """

    def __init__(self, config: Path, token: str | None = None) -> None:
        command = [sys.executable, "-m", "danqing", "serve", "--config", str(config), "--json"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        STARTED.append(self._process)
        assert self._process.stdout is not None
        self.url = json.loads(self._process.stdout.readline())["url"].rstrip("/")
        self.http = self.client(token)

    @property
    def pid(self) -> int:
        """Of the server."""
        return self._process.pid

    def client(self, token: str | None) -> httpx.Client:
        """A client with a key."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, timeout=60, headers=headers)

    @property
    def _worker(self) -> psutil.Process:
        (worker,) = psutil.Process(self._process.pid).children()
        return worker

    @contextlib.contextmanager
    def standstill(self) -> Iterator[None]:
        """The worker does nothing until the block ends, or for ever if the server is killed in it."""
        worker = self._worker
        worker.suspend()
        yield
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.resume()

    def kill(self) -> None:
        """As the kernel does it when there is no memory left."""
        worker = self._worker
        self._process.kill()
        self._process.wait()
        self.http.close()
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.resume()
            worker.wait(60)  # it ends by itself, because its connection is closed

    def end(self) -> int:
        """Stop it as an operator does."""
        self._process.send_signal(signal.SIGTERM)
        self.http.close()
        return self._process.wait(60)
