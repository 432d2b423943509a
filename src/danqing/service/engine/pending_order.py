"""A submitted order, as its caller sees it until it is painted."""

import asyncio
import collections
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from danqing.service.engine.fair_queue import QueueEntry
from danqing.service.engine.orders import (
    Event,
    Finding,
    Order,
    Outcome,
    Painted,
    Painting,
    Pixels,
    Preview,
    Recognized,
    StepProgress,
)

_Painting = TypeVar("_Painting", bound=Painting)


class PendingOrder:
    """An order that is queued or painted.

    One task reads it: either its events, or only the pictures. The order is cancelled when that task stops
    reading before the end, or is itself cancelled.
    """

    def __init__(
        self, order: Order, number: int, now: float, cancel: Callable[["PendingOrder"], None]
    ) -> None:
        self.order, self.number, self.submitted = order, number, now
        self.entries: list[QueueEntry[PendingOrder]] = []
        """Its entries in the queue."""
        self.deadline: asyncio.TimerHandle | None = None
        self.deaths = 0
        """How many workers died while they painted it."""
        self.steps_done = 0
        """Of all its pictures together."""
        self.ended = False
        self.on_begin: Callable[[], None] | None = None
        """Called once, when the first of its pictures are sent to the worker."""
        self._cancel = cancel
        self._events: collections.deque[Event] = collections.deque()
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._pixels: Painting | None = None
        self._findings: dict[int, Finding] = {}
        self._partial: dict[int, int] = {}
        """Steps done of rows that are being painted, by the first of these rows."""
        self._previews: dict[int, tuple[Pixels, NDArray[np.bool_]]] = {}
        """Intermediate pictures by their index, and which rows they have."""
        self._previewed: set[int] = set()
        self._missing = len(order.rows)
        self._began: float | None = None

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._read()

    async def painted(self) -> Painted:
        """Wait for the pictures; raises the error that ended the order."""
        outcome = await self._outcome()
        assert isinstance(outcome, Painted)
        return outcome

    async def recognized(self) -> Recognized:
        """Wait for the findings; raises the error that ended the order."""
        outcome = await self._outcome()
        assert isinstance(outcome, Recognized)
        return outcome

    async def _outcome(self) -> Outcome:
        try:
            while not self.ended:
                await self._changed()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._error is not None:
            raise self._error
        last = self._events[-1]
        assert isinstance(last, Outcome)
        return last

    def cancel(self) -> None:
        """Cancel the order; does nothing if it has ended."""
        if not self.ended:
            self._cancel(self)

    def begin(self) -> None:
        """Record that the worker has some of its pictures."""
        if self.on_begin is not None:
            self.on_begin()
            self.on_begin = None

    def progress(self, start: int, pictures: int, done: int, steps: int) -> None:
        """Record progress: pictures from row `start` on have done `done` of `steps`.

        Other rows may be painted by other workers at the same time.
        """
        rows = len(self.order.rows)
        self._partial[start] = pictures * done
        self.steps_done = (rows - self._missing) * steps + sum(self._partial.values())
        self._add_event(StepProgress(self.steps_done, rows * steps))

    def forget_progress(self, start: int, stop: int) -> None:
        """Drop the progress of rows that are finished or painted again."""
        self._partial = {row: done for row, done in self._partial.items() if not start <= row < stop}

    def preview(self, index: int, start: int, pixels: Pixels) -> None:
        """Add an intermediate picture of some rows.

        The event follows when there is one of all rows.
        """
        if index in self._previewed:  # rows are painted again after their worker has died
            return
        if len(pixels) == len(self.order.rows):
            self._previewed.add(index)
            self._add_event(Preview(index, pixels))
            return
        if index not in self._previews:
            self._previews[index] = self._empty(pixels), np.zeros(len(self.order.rows), bool)
        whole, shown = self._previews[index]
        whole[start : start + len(pixels)] = pixels
        shown[start : start + len(pixels)] = True
        if shown.all():
            del self._previews[index]
            self._previewed.add(index)
            self._add_event(Preview(index, whole))

    def paint(self, start: int, pixels: Painting, began: float, now: float) -> bool:
        """Add painted pictures of some rows; return whether these were the last."""
        if len(pixels) == len(self.order.rows):
            self._pixels = pixels
        else:
            if self._pixels is None:
                self._pixels = self._empty(pixels)
            self._pixels[start : start + len(pixels)] = pixels
        times = self._finish(start, len(pixels), began, now)
        if times is None:
            return False
        self._add_event(Painted(self._pixels, *times))
        return True

    def recognize(self, start: int, findings: Sequence[Finding], began: float, now: float) -> bool:
        """Add the findings for some rows; return whether these were the last."""
        self._findings.update(enumerate(findings, start))
        times = self._finish(start, len(findings), began, now)
        if times is None:
            return False
        self._add_event(Recognized(tuple(self._findings[row] for row in sorted(self._findings)), *times))
        return True

    def _finish(self, start: int, rows: int, began: float, now: float) -> tuple[float, float] | None:
        """Count finished rows; return the seconds of queueing and computing after the last one."""
        self._began = began if self._began is None else min(began, self._began)
        self.forget_progress(start, start + rows)
        self._missing -= rows
        if self._missing:
            return None
        self.ended = True
        return max(0.0, self._began - self.submitted), now - self._began

    def fail(self, error: Exception) -> None:
        """End the order with an error."""
        self.ended, self._error = True, error
        self._wake()

    def _empty(self, pixels: _Painting) -> _Painting:
        empty = np.zeros((len(self.order.rows), *pixels.shape[1:]), pixels.dtype)
        return cast(_Painting, empty)

    def _add_event(self, event: Event) -> None:
        if isinstance(event, StepProgress) and self._events and isinstance(self._events[-1], StepProgress):
            self._events.pop()  # it has not been read, and the new one replaces it
        self._events.append(event)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _changed(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    async def _read(self) -> AsyncIterator[Event]:
        try:
            while True:
                while self._events:
                    event = self._events.popleft()
                    yield event
                    if isinstance(event, Outcome):
                        return
                if self._error is not None:
                    raise self._error
                await self._changed()
        finally:
            self.cancel()
