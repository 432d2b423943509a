"""The worker process as the supervisor sees it: started, sent frames, waited for."""

import asyncio
import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Self

from danqing import interpreter
from danqing.frames import Buffer, Header
from danqing.service.engine.connections import FrameProtocol

_LAST_FRAMES = 1.0  # seconds to read what a dead worker has sent
_ENVIRONMENT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "GOMP_SPINCOUNT": "20000"}
"""oneDNN compiles a kernel of a third of a megabyte for each shape and keeps a thousand of them by default.
Requests for different numbers of steps or images have different shapes. Waiting OpenMP threads spin for
milliseconds by default, on cores that are needed to answer requests.
"""


class WorkerProcess:
    """A running worker.

    A thread waits for its exit, so that it is noticed whatever its connection does.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", connection: FrameProtocol) -> None:
        self.pid = process.pid
        self._process, self._connection = process, connection
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(target=self._wait, name=f"worker {self.pid}", daemon=True).start()

    @classmethod
    async def start(
        cls,
        setup: Header,
        on_frame: Callable[[Header, memoryview], None],
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> Self:
        """Start a worker.

        setup: its first frame, which says what to serve.
        on_frame: called with each frame that it sends.
        environment: variables that it gets in addition to those of this process.

        Raises OSError or RuntimeError if the machine has no room for it, and leaves nothing behind.
        """
        inherited = {**_ENVIRONMENT, **interpreter.environment(), **environment}
        with contextlib.ExitStack() as undo:
            mine, theirs = socket.socketpair()
            undo.callback(mine.close)
            with theirs:
                process = subprocess.Popen(
                    interpreter.command("danqing.service.engine.worker", str(theirs.fileno())),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env=inherited,
                )
            undo.callback(process.wait)
            undo.callback(process.kill)
            mine.setblocking(False)
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_unix_connection(lambda: FrameProtocol(on_frame), sock=mine)
            undo.callback(connection.close)
            worker = cls(process, connection)
            connection.send(setup)
            undo.pop_all()
        return worker

    @property
    def exit_code(self) -> int | None:
        """Return the exit code, None while it runs.

        A negative one is the number of the signal that ended it.
        """
        return self._process.returncode

    def send(self, header: Header, blocks: Sequence[Buffer] = ()) -> None:
        """Send the worker a frame; does nothing if it is gone."""
        self._connection.send(header, blocks)

    def kill(self) -> None:
        """Kill the worker; the scheduler has all of its state."""
        self._process.kill()

    async def ended(self) -> None:
        """Wait until the worker is gone and its frames are read."""
        lost = self._connection.lost
        await asyncio.wait({lost, self._exited}, return_when=asyncio.FIRST_COMPLETED)
        self.kill()
        await self._exited
        await asyncio.wait({lost}, timeout=_LAST_FRAMES)
        self._connection.close()

    def _wait(self) -> None:
        self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._exited.set_result, None)
