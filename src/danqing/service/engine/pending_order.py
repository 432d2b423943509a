"""What whoever asked for pictures holds until they are painted."""

import asyncio
import collections
from collections.abc import AsyncIterator, Callable

import numpy as np

from danqing.service.engine.fair_queue import Entry
from danqing.service.engine.orders import Event, Order, Painted, Pixels, Preview, Progress


class Ticket:
    """An order on its way. One task reads it: either the events, or the pictures alone.

    To leave it (to stop reading before the end, or to be cancelled while waiting) cancels the order.
    """

    def __init__(self, order: Order, number: int, now: float, leave: Callable[["Ticket"], None]) -> None:
        self.order, self.number, self.submitted = order, number, now
        self.entries: list[Entry[Ticket]] = []
        """Its pictures in the queue."""
        self.deadline: asyncio.TimerHandle | None = None
        self.deaths = 0
        """How many workers died while they painted it."""
        self.ended = False
        self.on_begin: Callable[[], None] | None = None
        """Called once, when the first of its pictures are given to the worker."""
        self._leave = leave
        self._events: collections.deque[Event] = collections.deque()
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._pixels: Pixels | None = None
        self._previews: dict[int, tuple[Pixels, int]] = {}
        self._missing = len(order.rows)
        self._began: float | None = None

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._read()

    async def painted(self) -> Painted:
        """The pictures; raises what reading the events raises."""
        try:
            while not self.ended:
                await self._news()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._error is not None:
            raise self._error
        last = self._events[-1]
        assert isinstance(last, Painted)
        return last

    def cancel(self) -> None:
        """Nobody waits for the order any more; nothing happens where it has ended."""
        if not self.ended:
            self._leave(self)

    def begin(self) -> None:
        """The worker has some of its pictures now."""
        if self.on_begin is not None:
            self.on_begin()
            self.on_begin = None

    def progress(self, pictures: int, done: int, steps: int) -> None:
        """So many of its pictures have taken `done` of `steps`; those before them have taken them all."""
        rows = len(self.order.rows)
        self._tell(Progress((rows - self._missing) * steps + pictures * done, rows * steps))

    def preview(self, index: int, start: int, pixels: Pixels) -> None:
        """An intermediate picture of some rows, told of when there is one of all."""
        if len(pixels) == len(self.order.rows):
            self._tell(Preview(index, pixels))
            return
        whole, missing = self._previews.get(index) or (self._blank(pixels), len(self.order.rows))
        whole[start : start + len(pixels)] = pixels
        missing -= len(pixels)
        self._previews[index] = whole, missing
        if not missing:
            self._tell(Preview(index, self._previews.pop(index)[0]))

    def paint(self, start: int, pixels: Pixels, began: float, now: float) -> bool:
        """Pictures of some rows, painted since `began`; returns whether these were the last."""
        if self._began is None:
            self._began = began
        if len(pixels) == len(self.order.rows):
            self._pixels = pixels
        else:
            if self._pixels is None:
                self._pixels = self._blank(pixels)
            self._pixels[start : start + len(pixels)] = pixels
        self._missing -= len(pixels)
        if self._missing:
            return False
        waited = max(0.0, self._began - self.submitted)
        self.ended = True
        self._tell(Painted(self._pixels, waited, now - self._began))
        return True

    def fail(self, error: Exception) -> None:
        """There will be no pictures."""
        self.ended, self._error = True, error
        self._wake()

    def _blank(self, pixels: Pixels) -> Pixels:
        return np.zeros((len(self.order.rows), *pixels.shape[1:]), np.uint8)

    def _tell(self, event: Event) -> None:
        if isinstance(event, Progress) and self._events and isinstance(self._events[-1], Progress):
            self._events.pop()  # nobody has read it, and the new one says more
        self._events.append(event)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _news(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    async def _read(self) -> AsyncIterator[Event]:
        try:
            while True:
                while self._events:
                    event = self._events.popleft()
                    yield event
                    if isinstance(event, Painted):
                        return
                if self._error is not None:
                    raise self._error
                await self._news()
        finally:
            self.cancel()
