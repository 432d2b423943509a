"""Decides which worker is sent which pictures, and when."""

import asyncio
from collections.abc import Callable, Mapping

from danqing.service.engine.batching import BatchKind
from danqing.service.engine.fair_queue import FairQueue
from danqing.service.engine.offers import Offer
from danqing.service.engine.pending_order import PendingOrder
from danqing.service.engine.pool import WorkerPool
from danqing.service.engine.supervisor import WorkerHandle
from danqing.service.engine.timings import Timings
from danqing.service.settings import EngineSettings

IN_FLIGHT = 2
BATCH_SECONDS = 0.03
"""Seconds of work that one batch should take."""
LONG_BATCH = 0.25
"""Seconds of a batch behind which none waits at a worker if another worker could take it."""
WINDOW_SHARE = 0.1
"""The maximum wait for more orders, as a share of the time for painting."""
SHORTEST_WINDOW = 0.0005  # seconds


class Dispatcher:
    """Sends the next pictures to a worker that holds their model.

    A worker has at most two batches: the one that it paints, and the next one.

    offers: of all models.
    send: called with a worker, the kind of its next batch, and the pictures that there is room for.
    """

    def __init__(
        self,
        engine: EngineSettings,
        queue: FairQueue[PendingOrder],
        timings: Timings,
        offers: Mapping[str, Offer],
        pool: WorkerPool,
        send: Callable[[WorkerHandle, BatchKind, int], None],
    ) -> None:
        self._engine, self._queue, self._timings = engine, queue, timings
        self._offers, self._pool, self._send = offers, pool, send
        self._soon: asyncio.Handle | None = None
        self._window: asyncio.TimerHandle | None = None

    def dispatch_soon(self) -> None:
        """Call `dispatch` after this turn of the event loop.

        Orders that arrive in it share a batch.
        """
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self.dispatch)

    def dispatch(self) -> None:
        """Send workers their next batches, if they need any."""
        for handle in (self._soon, self._window):
            if handle is not None:
                handle.cancel()
        self._soon = self._window = None
        while self._queue.pictures and self._send_one():
            pass

    def chunk(self, kind: BatchKind) -> int:
        """Return how many pictures are computed in the time of one."""
        if kind.size is not None:
            return 1
        return self._offers[kind.model].chunk

    def seconds_until(self, kind: BatchKind, pictures: int) -> float:
        """Estimate in how many seconds new interactive pictures would be finished.

        The work for each model is spread evenly over its workers.
        """
        holders = self._pool.holders(kind.model)
        own = self._timings.estimate(kind) * pictures / self.chunk(kind) / len(holders)
        if len(self._pool) == 1:
            return self._queue.interactive_seconds + own
        load = dict.fromkeys(range(len(self._pool)), 0.0)
        for queued, seconds in self._queue.interactive_work():
            assert isinstance(queued, BatchKind)
            held = self._pool.holders(queued.model)
            for number in held:
                load[number] += seconds / len(held)
        return min(load[number] for number in holders) + own

    def _send_one(self) -> bool:
        """Send one worker a batch; return whether there was one to send.

        Idle workers come first, and among them those that have loaded the model of their next pictures.
        """
        ready = [worker for worker in self._pool.ready if len(worker.flight) < IN_FLIGHT]
        found: list[tuple[tuple[int, bool, int], WorkerHandle, BatchKind, float, int]] = []
        for worker in ready:
            if (head := self._queue.head(worker.holds)) is not None:
                entry, pictures = head
                kind = entry.kind
                assert isinstance(kind, BatchKind)
                rank = len(worker.flight), kind.model not in worker.loaded, worker.place.number
                found.append((rank, worker, kind, entry.arrived, pictures))
        found.sort(key=lambda one: one[0])
        return any(self._try(worker, kind, arrived, pictures) for _, worker, kind, arrived, pictures in found)

    def _try(self, worker: WorkerHandle, kind: BatchKind, arrived: float, pictures: int) -> bool:
        """Send a worker its next pictures, unless it is better to wait; return whether they were sent.

        arrived: when the first of them were queued. pictures: how many of this kind are queued.
        """
        seconds = self._timings.estimate(kind)
        if worker.flight and self._is_long(worker) and len(self._pool.holders(kind.model)) > 1:
            return False
        if pictures < self.chunk(kind) and not kind.alone:
            if worker.flight:  # more orders may arrive until the worker has finished
                return False
            window = min(self._engine.window, WINDOW_SHARE * seconds)
            loop = asyncio.get_running_loop()
            left = arrived + window - loop.time()
            if left > 0 and window >= SHORTEST_WINDOW:
                if self._window is None:
                    self._window = loop.call_later(left, self.dispatch)
                return False
        self._send(worker, kind, self._room(kind, seconds, pictures))
        return True

    def _is_long(self, worker: WorkerHandle) -> bool:
        """Return whether what a worker computes takes so long that another may finish first."""
        seconds = sum(
            worker.timings.estimate(batch.kind) * -(-(batch.rows - batch.answered) // self.chunk(batch.kind))
            for batch in worker.flight.values()
        )
        return seconds > LONG_BATCH

    def _room(self, kind: BatchKind, chunk_seconds: float, pictures: int) -> int:
        """Return how many pictures to send in one batch.

        pictures: how many of this kind are queued; idle workers share them, in whole chunks.
        """
        most, chunk = self._engine.batch, self.chunk(kind)
        chunks = min(most // chunk, max(1, int(BATCH_SECONDS / chunk_seconds)))
        idle = sum(worker.holds(kind) and not worker.flight for worker in self._pool.ready)
        if idle > 1:
            chunks = min(chunks, max(1, -(-pictures // (idle * chunk))))
        return chunks * chunk or most
