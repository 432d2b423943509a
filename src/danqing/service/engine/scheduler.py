"""The owner of the queue: combines orders into batches and sends them to the worker process.

The worker has two batches: the one that it paints, and the next one. Everything that it was sent is kept here
until it is painted, so that nothing is lost when it dies.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from danqing.errors import ConfigError, DataError
from danqing.frames import Header
from danqing.service.engine.batching import BatchKind, WorkerBatch, check_images, kind_of
from danqing.service.engine.fair_queue import FairQueue, QueueEntry
from danqing.service.engine.offers import Offer
from danqing.service.engine.orders import (
    DeadlinePassedError,
    ModelUnavailableError,
    Order,
    OrderCancelledError,
    OverloadedError,
    Painting,
    PaintingFailedError,
    Priority,
)
from danqing.service.engine.pending_order import PendingOrder
from danqing.service.engine.supervisor import DEATHS, Supervisor, WorkerHandle
from danqing.service.engine.timings import Timings
from danqing.service.observability.metrics import Metrics
from danqing.service.settings import Settings

_log = logging.getLogger("danqing.engine")

IN_FLIGHT = 2
BATCH_SECONDS = 0.03
"""Seconds of work that one batch should take."""
WINDOW_SHARE = 0.1
"""The maximum wait for more orders, as a share of the time for painting."""
SHORTEST_WINDOW = 0.0005  # seconds


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """The state of the scheduler and its worker.

    queued, in_flight: pictures.
    seconds: of work that is queued.
    orders: that are queued or painted.
    loaded: models in the worker's memory.
    memory_bytes: resident memory of the worker.
    worker_pid: of the worker's process, None while it is restarted.
    """

    queued: int
    seconds: float
    in_flight: int
    orders: int
    alive: bool
    restarts: int
    loaded: tuple[str, ...]
    memory_bytes: int
    worker_pid: int | None
    draining: bool


class Scheduler:
    """Accepts orders and has them painted.

    All of it runs in one event loop, and nothing in it blocks.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._offers: dict[str, Offer] = {}
        self.offers: Mapping[str, Offer] = self._offers
        self._queue: FairQueue[PendingOrder] = FairQueue(settings.engine.queue)
        self._orders: dict[int, PendingOrder] = {}
        self._timings = Timings()
        self.supervisor = Supervisor(settings, self._offers, self._timings, self._on_frame, self._on_death)
        self._idle: asyncio.Future[None] | None = None
        self._soon: asyncio.Handle | None = None
        self._window: asyncio.TimerHandle | None = None
        self._number = 0
        self._closing = False

    async def start(self) -> None:
        """Start the worker, and wait until it has described every model.

        Raises WorkerStartError.
        """
        self._loop = asyncio.get_running_loop()
        await self.supervisor.start()

    async def stop(self, drain: float) -> None:
        """Accept no more orders, and finish the others.

        After `drain` seconds, the rest are cancelled.
        """
        self._closing = True
        if self._orders and drain > 0:
            self._idle = self._loop.create_future()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle, drain)
        for pending in list(self._orders.values()):
            self._end(pending, OrderCancelledError("The service is stopping: retry."), "cancelled")
        await self.supervisor.stop()

    def submit(self, order: Order) -> PendingOrder:
        """Queue an order.

        Raises OverloadedError if the queue is full (not for jobs), ModelUnavailableError for a model that
        is unknown or cannot be used, ConfigError for invalid options and images, OrderCancelledError while
        the scheduler stops.
        """
        if self._closing:
            raise OrderCancelledError("The service is stopping: retry.")
        offer = self._offers.get(order.model)
        if offer is None or offer.fault is not None:
            fault = "is not served here" if offer is None else f"cannot be used: {offer.fault}"
            raise ModelUnavailableError(f"The model {order.model} {fault}")
        kind = kind_of(order)
        check_images(order, offer)
        self._check_room(order, kind)
        self._number += 1
        if order.whole is not None:
            kind = kind._replace(alone=self._number)
        now = self._loop.time()
        pending = PendingOrder(order, self._number, now, self._cancel)
        if order.priority != Priority.JOB:
            self._start_deadline(pending)
        self._orders[pending.number] = pending
        chunk_seconds = self._timings.estimate(kind)
        entry = self._entry(pending, kind, 0, len(order.rows), chunk_seconds, now)
        self._queue.add(entry, chunk_seconds)
        if self._soon is None:  # orders of the same turn of the event loop share a batch
            self._soon = self._loop.call_soon(self._dispatch)
        return pending

    def state(self) -> SchedulerState:
        """Return the current state."""
        worker = self.supervisor.worker
        return SchedulerState(
            queued=self._queue.pictures,
            seconds=self._queue.seconds,
            in_flight=sum(batch.rows - batch.answered for batch in worker.flight.values()) if worker else 0,
            orders=len(self._orders),
            alive=worker is not None and worker.ready,
            restarts=self.supervisor.restarts,
            loaded=worker.loaded if worker else (),
            memory_bytes=worker.memory if worker else 0,
            worker_pid=worker.process.pid if worker else None,
            draining=self._closing,
        )

    def _start_deadline(self, pending: PendingOrder) -> None:
        """Start the deadline of an order; that of a job starts with its painting."""
        if pending.deadline is None and not pending.ended:
            pending.deadline = self._loop.call_later(pending.order.seconds, self._expire, pending)

    def _check_room(self, order: Order, kind: BatchKind) -> None:
        queue, pictures = self._queue, len(order.rows)
        if order.priority == Priority.JOB or not queue.interactive:
            return
        most = self._settings.engine.queue_seconds
        seconds = queue.interactive_seconds + self._timings.estimate(kind) * pictures / self._chunk(kind)
        if seconds > most:
            self._metrics.failure("overloaded")
            raise OverloadedError("Too much work is queued already: retry later.", max(1.0, seconds - most))
        if not queue.has_room(order.owner, pictures):
            self._metrics.failure("overloaded")
            raise OverloadedError(
                "Too many pictures are queued already: retry later.", max(1.0, queue.interactive_seconds / 2)
            )

    def _entry(
        self, pending: PendingOrder, kind: BatchKind, start: int, stop: int, chunk_seconds: float, now: float
    ) -> QueueEntry[PendingOrder]:
        order, chunk = pending.order, self._chunk(kind)
        seconds = chunk_seconds / chunk
        entry = QueueEntry(
            pending, kind, order.owner, order.priority, start, stop, seconds, chunk, arrived=now
        )
        pending.entries.append(entry)
        return entry

    def _dispatch(self) -> None:
        """Send the worker its next batches, if it needs any."""
        for handle in (self._soon, self._window):
            if handle is not None:
                handle.cancel()
        self._soon = self._window = None
        worker, queue = self.supervisor.worker, self._queue
        while worker is not None and worker.ready and len(worker.flight) < IN_FLIGHT and queue.pictures:
            entry, pictures = queue.head()
            kind = entry.kind
            assert isinstance(kind, BatchKind)
            seconds = self._timings.estimate(kind)
            if pictures < self._chunk(kind) and not kind.alone:
                if worker.flight:  # more orders may arrive until the worker has finished
                    return
                window = min(self._settings.engine.window, WINDOW_SHARE * seconds)
                left = entry.arrived + window - self._loop.time()
                if left > 0 and window >= SHORTEST_WINDOW:
                    self._window = self._loop.call_later(left, self._dispatch)
                    return
            self._send(worker, kind, self._room(self._chunk(kind), seconds))

    def _chunk(self, kind: BatchKind) -> int:
        """Return how many pictures are computed in the time of one."""
        if kind.size is not None:
            return 1
        return self._offers[kind.model].chunk

    def _room(self, chunk: int, chunk_seconds: float) -> int:
        """Return how many pictures to send in one batch."""
        most = self._settings.engine.batch
        chunks = min(most // chunk, max(1, int(BATCH_SECONDS / chunk_seconds)))
        return chunks * chunk or most

    def _send(self, worker: WorkerHandle, kind: BatchKind, room: int) -> None:
        self._number += 1
        batch = WorkerBatch.from_entries(self._number, kind, self._queue.take(room))
        if (fault := self._offers[kind.model].fault) is not None:  # found after they were queued
            for piece in batch.pieces:
                self._end(piece.pending, ModelUnavailableError(f"{kind.model}: {fault}"), "model")
            return
        for piece in batch.pieces:
            piece.pending.begin()
        for piece in batch.pieces:
            self._start_deadline(piece.pending)
        worker.flight[batch.number] = batch
        worker.process.send(batch.header(), batch.blocks())
        self.supervisor.watch(worker)

    def _on_frame(self, worker: WorkerHandle, what: str, header: Header, block: memoryview) -> None:
        if what in ("painted", "failed", "stopped"):
            self._on_answer(worker, what, header, block)
        elif what in ("step", "preview"):
            self._on_step(worker.flight[header["batch"]], header, block)
        elif what == "refused":
            self._on_refused(header)
        elif what == "ready":
            self._dispatch()

    def _on_step(self, batch: WorkerBatch, header: Header, block: memoryview) -> None:
        start, count = header["start"], header["count"]
        pixels = np.frombuffer(block, np.uint8).reshape(header["shape"]) if "shape" in header else None
        for pending, row, first, last in batch.within(start, count):
            if pending.ended:
                continue
            if pixels is None:
                pending.progress(last - first, header["done"], header["total"])
                continue
            for wanted, index in header["due"]:
                if wanted == pending.order.previews:
                    pending.preview(index, row, pixels[first:last])

    def _on_refused(self, header: Header) -> None:
        if (pending := self._orders.get(header["order"])) is not None:
            self._end(pending, ConfigError(header["message"], header["option"]), "order")

    def _on_answer(self, worker: WorkerHandle, what: str, header: Header, block: memoryview) -> None:
        batch = worker.flight[header["batch"]]
        start, count = header["start"], header["count"]
        batch.answered = start + count
        if batch.answered == batch.rows:
            del worker.flight[batch.number]
            self.supervisor.watch(worker)
        if what == "painted":
            self._on_painted(batch, header, block)
        elif what == "failed":
            self._on_failed(batch, header)
        self._dispatch()

    def _on_painted(self, batch: WorkerBatch, header: Header, block: memoryview) -> None:
        pixels = cast(Painting, np.frombuffer(block, header["type"]).reshape(header["shape"]))
        now, seconds, waited = self._loop.time(), header["seconds"], 0.0
        began = now - seconds
        for pending, row, first, last in batch.within(header["start"], header["count"]):
            waited = max(waited, began - pending.submitted)
            if not pending.ended and pending.paint(row, pixels[first:last], began, now):
                self._forget(pending)
        self._timings.add(batch.kind, seconds)
        self._queue.set_chunk_seconds(batch.kind, self._timings.estimate(batch.kind))
        self._metrics.batch(batch.kind.model, header["count"], waited, seconds)

    def _on_failed(self, batch: WorkerBatch, header: Header) -> None:
        what, message = header["error"], header["message"]
        if "trace" in header:
            _log.error("the model %s failed: %s\n%s", batch.kind.model, message, header["trace"])
        rows = list(batch.within(header["start"], header["count"]))
        if what != "model" and len({pending.number for pending, *_ in rows}) > 1:
            for (
                pending,
                row,
                first,
                last,
            ) in rows:  # one of them is the cause, and the others must not fail with it
                self._requeue(pending, batch.kind, row, row + last - first, alone=True)
            return
        error: Exception = PaintingFailedError(f"The picture could not be painted: {message}")
        if what == "model":
            error = ModelUnavailableError(message)
        elif what == "order":
            error = ConfigError(message, header["option"])
        elif what == "image":
            error = DataError(message)
        for pending, *_ in rows:
            self._end(pending, error, what)

    def _requeue(self, pending: PendingOrder, kind: BatchKind, start: int, stop: int, *, alone: bool) -> None:
        """Queue some rows of an order again, before all others."""
        if pending.ended:
            return
        kind = kind._replace(alone=pending.number) if alone else kind
        seconds = self._timings.estimate(kind)
        self._queue.put_back(self._entry(pending, kind, start, stop, seconds, pending.submitted), seconds)

    def _cancel(self, pending: PendingOrder) -> None:
        self._end(pending, OrderCancelledError("The order was cancelled."), "cancelled")

    def _expire(self, pending: PendingOrder) -> None:
        seconds = pending.order.seconds
        error = DeadlinePassedError(
            f"The pictures were not painted within {seconds:g} seconds: request fewer."
        )
        self._end(pending, error, "deadline")

    def _end(self, pending: PendingOrder, error: Exception, reason: str) -> None:
        """End an order with an error, and stop all work for it."""
        if pending.ended:
            return
        self._metrics.failure(reason)
        pending.fail(error)
        self._forget(pending)
        for entry in pending.entries:
            self._queue.cancel(entry)
        pending.entries.clear()
        worker = self.supervisor.worker
        if worker is not None and any(batch.paints(pending) for batch in worker.flight.values()):
            worker.process.send({"kind": "cancel", "orders": [pending.number]})

    def _forget(self, pending: PendingOrder) -> None:
        self._orders.pop(pending.number, None)
        if pending.deadline is not None:
            pending.deadline.cancel()
            pending.deadline = None
        if not self._orders and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _on_death(self, worker: WorkerHandle) -> None:
        """Queue the batches of a dead worker again; each order that it was painting is queued alone."""
        for number, batch in enumerate(worker.flight.values()):
            begun = batch.answered + self._chunk(batch.kind) if number == 0 and worker.loading is None else 0
            for pending, row, first, last in batch.within(batch.answered, batch.rows):
                suspect = batch.answered + first < begun
                pending.deaths += suspect
                if pending.deaths >= DEATHS:
                    message = "The worker died while it painted this order: the log of the service says more."
                    self._end(pending, PaintingFailedError(message), "worker_died")
                else:
                    self._requeue(pending, batch.kind, row, row + last - first, alone=suspect)
