"""Threads for work with pixels, such as encoding files; owners take turns."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from danqing.service.engine.orders import Painting
from danqing.service.errors import ApiError
from danqing.service.fairness.fair_share import FairShare
from danqing.service.fairness.turns import TurnTaker
from danqing.service.pictures.encoding import BASE64_SLICE, OutputFormat, to_base64
from danqing.threads import cores

T = TypeVar("T")

_INLINE = 4_096  # pixels: passing a picture to a thread and back takes longer than encoding such a small PNG
MOST_WORK = 100_000_000  # pixels per thread, which encodes about four million of them as PNG in a second


class EncodeReservation:
    """Capacity reserved for the encoding work of one request."""

    def __init__(self, share: FairShare, owner: str, work: int) -> None:
        self._share, self._owner, self._work = share, owner, work
        if not share.take(owner, work):
            message = "Too many pixels wait to be encoded: retry later, or request smaller pictures."
            raise ApiError(429, message, code="overloaded", headers={"retry-after": "5"})

    def release(self) -> None:
        """Release the capacity; do nothing the second time."""
        work, self._work = self._work, 0
        self._share.give_back(self._owner, work)


class EncodePool:
    """Encodes small pictures at once and large ones in threads.

    turns: for the threads, one per core; owners take turns.
    share: of the encoding work that requests may queue, in pixels.
    job_turns: for the encoding work of jobs, in pixels; jobs wait for capacity, while requests are rejected.
    """

    def __init__(self, threads: int | None = None) -> None:
        count = max(2, cores()) if threads is None else threads
        self.turns = TurnTaker(count)
        self.share = FairShare(MOST_WORK * count)
        self.job_turns = TurnTaker(MOST_WORK * count)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="pictures")
        self._base64_threads = ThreadPoolExecutor(2, thread_name_prefix="base64")

    def stop(self) -> None:
        """End the threads; work that has not started is dropped."""
        for threads in (self._threads, self._base64_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    def reserve(self, owner: str, work: int) -> EncodeReservation:
        """Reserve room for the encoding work of a request; see `OutputFormat.work`.

        Raises ApiError 429 if too much work waits.
        """
        return EncodeReservation(self.share, owner, work)

    async def encode(
        self,
        pixels: Painting,
        output: OutputFormat,
        compose: Callable[[Painting], Sequence[Painting]] | None = None,
        owner: str = "",
    ) -> list[bytes]:
        """Encode pictures `[n, h, w, c]` as files, when it is the owner's turn.

        compose: makes the pictures to encode from those given. Cancelling it stops the work.
        """
        cancelled = threading.Event()

        def encode() -> list[bytes]:
            files = []
            for index, one in enumerate(pixels if compose is None else compose(pixels)):
                if cancelled.is_set():
                    break
                files.append(output.encode(one, index))
            return files

        work = len(pixels) * max(pixels[0].size // pixels.shape[3], output.work)
        if compose is None and output.marks is None and work <= _INLINE:
            return encode()
        try:
            return await self.run(owner, encode)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def run(self, owner: str, work: Callable[[], T]) -> T:
        """Run work in a thread when it is the owner's turn.

        No more runs at once than there are cores.

        If it is cancelled before its turn, the work is not done.
        """
        await self.turns.acquire(owner)
        done = asyncio.get_running_loop().run_in_executor(self._threads, work)
        done.add_done_callback(lambda _: self.turns.release())
        return await asyncio.shield(done)

    async def to_base64(self, files: Sequence[bytes]) -> list[bytes]:
        """Encode files in base64."""
        if sum(map(len, files)) <= BASE64_SLICE:
            return [to_base64(file) for file in files]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._base64_threads, lambda: list(map(to_base64, files)))
