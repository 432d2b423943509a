"""The worker process as the engine sees it: started, spoken to, waited for."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Self

from danqing.service.link import Buffer, Connection, Header

_LAST_WORDS = 1.0
_ENVIRONMENT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "GOMP_SPINCOUNT": "20000"}
"""oneDNN compiles a kernel for each shape, of a third of a megabyte, and would keep a thousand: what is
filled or painted in ever other numbers of steps has ever other shapes. And threads of OpenMP that wait for
each other turn round for milliseconds, on cores that those who answer requests need.
"""


class WorkerProcess:
    """A running worker. One thread waits for its end, so that it is noticed whatever happens to its link."""

    def __init__(self, process: "subprocess.Popen[bytes]", connection: Connection) -> None:
        self.pid = process.pid
        self._process, self._connection = process, connection
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(target=self._wait, name=f"worker {self.pid}", daemon=True).start()

    @classmethod
    async def start(cls, told: Header, on_frame: Callable[[Header, memoryview], None]) -> Self:
        """Start a worker that is told what to serve; on_frame: told of all that it says.

        Raises OSError or RuntimeError where the machine has no room for it; nothing of it is left then.
        """
        with contextlib.ExitStack() as undo:
            mine, theirs = socket.socketpair()
            undo.callback(mine.close)
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "danqing.service.worker", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env={**_ENVIRONMENT, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )
            undo.callback(process.wait)
            undo.callback(process.kill)
            mine.setblocking(False)
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_unix_connection(lambda: Connection(on_frame), sock=mine)
            undo.callback(connection.close)
            worker = cls(process, connection)
            connection.send(told)
            undo.pop_all()
        return worker

    @property
    def exit_code(self) -> int | None:
        """How it ended, None while it runs; negative: the number of the signal that ended it."""
        return self._process.returncode

    def send(self, header: Header, blocks: Sequence[Buffer] = ()) -> None:
        """Say something to the worker; nothing happens where it is gone."""
        self._connection.send(header, blocks)

    def kill(self) -> None:
        """End the worker at once: it holds nothing that matters."""
        self._process.kill()

    async def ended(self) -> None:
        """Wait until the worker is gone and all that it said has been read."""
        lost = self._connection.lost
        await asyncio.wait({lost, self._exited}, return_when=asyncio.FIRST_COMPLETED)
        self.kill()
        await self._exited
        await asyncio.wait({lost}, timeout=_LAST_WORDS)
        self._connection.close()

    def _wait(self) -> None:
        self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._exited.set_result, None)
