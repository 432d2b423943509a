"""The owner of all orders: queues them, sends their batches to workers, and returns what the workers answer.

Everything that a worker was sent is kept here until it is answered, so that nothing is lost when it dies.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from danqing.errors import ConfigError, DataError
from danqing.frames import Header
from danqing.service.engine import model_sources
from danqing.service.engine.batching import BatchKind, WorkerBatch, check_images, kind_of
from danqing.service.engine.catalogue import DEATHS, Catalogue
from danqing.service.engine.dispatch import Dispatcher
from danqing.service.engine.fair_queue import FairQueue, QueueEntry
from danqing.service.engine.offers import Offer, OffersOf
from danqing.service.engine.orders import (
    DeadlinePassedError,
    Finding,
    ModelUnavailableError,
    Order,
    OrderCancelledError,
    OverloadedError,
    Painting,
    PaintingFailedError,
    Priority,
)
from danqing.service.engine.pending_order import PendingOrder
from danqing.service.engine.pool import WorkerPool, WorkerState
from danqing.service.engine.supervisor import WorkerHandle
from danqing.service.engine.timings import Timings
from danqing.service.observability.metrics import Metrics
from danqing.service.settings import Settings

_log = logging.getLogger("danqing.engine")

_DESCRIBED = 120.0
"""Seconds in which a busy worker should read the folder of a model that is added."""


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """The state of the scheduler and its workers.

    queued, in_flight: pictures.
    seconds: of work that is queued.
    orders: that are queued or painted.
    alive: how many workers can be sent batches.
    restarts: how many workers died.
    loaded: models in memory of any worker.
    memory_bytes: resident memory of all workers.
    workers: the state of each.
    """

    queued: int
    seconds: float
    in_flight: int
    orders: int
    alive: int
    restarts: int
    loaded: tuple[str, ...]
    memory_bytes: int
    workers: tuple[WorkerState, ...]
    draining: bool


class Scheduler:
    """Accepts orders and has them painted.

    All of it runs in one event loop, and nothing in it blocks.

    offers: the models that clients may request. classifiers: those of filters.
    catalogue: of both. pool: the workers.

    Raises ConfigError for workers that cannot be placed as the settings say.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self.catalogue = Catalogue(settings.all_models)
        self._offers: Mapping[str, Offer] = self.catalogue.offers
        self.offers = OffersOf(self._offers, settings.models)
        self.classifiers: Mapping[str, Offer] = OffersOf(self._offers, settings.classifiers)
        self._queue: FairQueue[PendingOrder] = FairQueue(settings.engine.queue)
        self._orders: dict[int, PendingOrder] = {}
        self._timings = Timings()
        self.pool = WorkerPool(settings, self.catalogue, self._on_frame, self._on_death)
        self._dispatcher = Dispatcher(
            settings.engine, self._queue, self._timings, self._offers, self.pool, self._send
        )
        self._idle: asyncio.Future[None] | None = None
        self._number = 0
        self._closing = False

    async def start(self) -> None:
        """Start the workers, and wait until they have described every model.

        Raises WorkerStartError.
        """
        self._loop = asyncio.get_running_loop()
        await model_sources.prepare(self._settings, self.catalogue)
        await self.pool.start()

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
        await self.pool.stop()

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
        self._dispatcher.dispatch_soon()
        return pending

    async def add_model(self, name: str, source: str) -> None:
        """Serve another model from now on.

        name: one that no model of the settings has. A model that had this name before is replaced.

        Raises ModelUnavailableError if it cannot be used.
        """
        awaited = self.catalogue.add(name, source)
        self.pool.add(name, source)
        try:
            offer = await asyncio.wait_for(awaited, _DESCRIBED)
        except TimeoutError:
            raise ModelUnavailableError(
                f"The model {name} was not read within {_DESCRIBED:g} seconds."
            ) from None
        if offer.fault is not None:
            raise ModelUnavailableError(f"The model {name} cannot be used: {offer.fault}")
        self.offers.include(name)

    def withdraw(self, name: str) -> None:
        """Stop serving a model that was added.

        What waits for it fails.
        """
        self.offers.exclude(name)
        self.catalogue.withdraw(name)

    def state(self) -> SchedulerState:
        """Return the current state."""
        workers = self.pool.states()
        return SchedulerState(
            queued=self._queue.pictures,
            seconds=self._queue.seconds,
            in_flight=sum(worker.in_flight for worker in workers),
            orders=len(self._orders),
            alive=sum(worker.alive for worker in workers),
            restarts=sum(worker.restarts for worker in workers),
            loaded=tuple(dict.fromkeys(name for worker in workers for name in worker.loaded)),
            memory_bytes=sum(worker.memory_bytes for worker in workers),
            workers=workers,
            draining=self._closing,
        )

    def _start_deadline(self, pending: PendingOrder) -> None:
        """Start the deadline of an order; that of a job starts with its painting."""
        if pending.deadline is None and not pending.ended:
            pending.deadline = self._loop.call_later(pending.order.seconds, self._expire, pending)

    def _check_room(self, order: Order, kind: BatchKind) -> None:
        queue, pictures = self._queue, len(order.rows)
        if order.priority == Priority.JOB or order.verb == "judge" or not queue.interactive:
            return  # what is judged belongs to a request that was accepted
        most = self._settings.engine.queue_seconds
        seconds = self._dispatcher.seconds_until(kind, pictures)
        if seconds > most:
            self._metrics.failure("overloaded")
            raise OverloadedError("Too much work is queued already: retry later.", max(1.0, seconds - most))
        if not queue.has_room(order.owner, pictures):
            self._metrics.failure("overloaded")
            raise OverloadedError(
                "Too many pictures are queued already: retry later.",
                max(1.0, queue.interactive_seconds / len(self.pool) / 2),
            )

    def _entry(
        self, pending: PendingOrder, kind: BatchKind, start: int, stop: int, chunk_seconds: float, now: float
    ) -> QueueEntry[PendingOrder]:
        order, chunk = pending.order, self._dispatcher.chunk(kind)
        seconds = chunk_seconds / chunk
        entry = QueueEntry(
            pending, kind, order.owner, order.priority, start, stop, seconds, chunk, arrived=now
        )
        pending.entries.append(entry)
        return entry

    def _send(self, worker: WorkerHandle, kind: BatchKind, room: int) -> None:
        self._number += 1
        taken = self._queue.take(room, kind.__eq__)  # a look for another worker may have moved a job
        batch = WorkerBatch.from_entries(self._number, kind, taken)
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
        self.pool.watch(worker)

    def _on_frame(self, worker: WorkerHandle, what: str, header: Header, block: memoryview) -> None:
        if what in ("painted", "recognized", "failed", "stopped"):
            self._on_answer(worker, what, header, block)
        elif what in ("step", "preview"):
            self._on_step(worker.flight[header["batch"]], header, block)
        elif what == "refused":
            self._on_refused(header)
        elif what == "ready":
            self._dispatcher.dispatch()

    def _on_step(self, batch: WorkerBatch, header: Header, block: memoryview) -> None:
        start, count = header["start"], header["count"]
        pixels = np.frombuffer(block, np.uint8).reshape(header["shape"]) if "shape" in header else None
        for pending, row, first, last in batch.within(start, count):
            if pending.ended:
                continue
            if pixels is None:
                pending.progress(row, last - first, header["done"], header["total"])
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
            self.pool.watch(worker)
        if what == "painted":
            self._on_painted(worker, batch, header, block)
        elif what == "recognized":
            self._on_recognized(worker, batch, header, block)
        elif what == "failed":
            self._on_failed(batch, header)
        self._dispatcher.dispatch()

    def _on_painted(
        self, worker: WorkerHandle, batch: WorkerBatch, header: Header, block: memoryview
    ) -> None:
        pixels = cast(Painting, np.frombuffer(block, header["type"]).reshape(header["shape"]))
        self._on_finished(
            worker,
            batch,
            header,
            lambda pending, row, first, last, *times: pending.paint(row, pixels[first:last], *times),
        )

    def _on_recognized(
        self, worker: WorkerHandle, batch: WorkerBatch, header: Header, block: memoryview
    ) -> None:
        ends = list(itertools.accumulate(header["lengths"], initial=0))
        found = [
            Finding(values, bytes(block[start:end]))
            for values, (start, end) in zip(header["values"], itertools.pairwise(ends), strict=True)
        ]
        self._on_finished(
            worker,
            batch,
            header,
            lambda pending, row, first, last, *times: pending.recognize(row, found[first:last], *times),
        )

    def _on_finished(
        self,
        worker: WorkerHandle,
        batch: WorkerBatch,
        header: Header,
        add: Callable[[PendingOrder, int, int, int, float, float], bool],
    ) -> None:
        """Give the orders of some rows their results.

        add: gives one of them its rows, and returns whether these were its last; see `WorkerBatch.within`.
        """
        now, seconds, waited = self._loop.time(), header["seconds"], 0.0
        began = now - seconds
        for pending, row, first, last in batch.within(header["start"], header["count"]):
            waited = max(waited, began - pending.submitted)
            if not pending.ended and add(pending, row, first, last, began, now):
                self._forget(pending)
        worker.timings.add(batch.kind, seconds)
        self._timings.add(batch.kind, seconds)
        self._queue.set_chunk_seconds(batch.kind, self._timings.estimate(batch.kind))
        self._metrics.batch(batch.kind.model, header["count"], waited, seconds)

    def _on_failed(self, batch: WorkerBatch, header: Header) -> None:
        what, message = header["error"], header["message"]
        if "trace" in header:
            _log.error("the model %s failed: %s\n%s", batch.kind.model, message, header["trace"])
        rows = list(batch.within(header["start"], header["count"]))
        if what != "model" and len({pending.number for pending, *_ in rows}) > 1:
            # One of them is the cause, and the others must not fail with it.
            for pending, row, first, last in rows:
                self._requeue(pending, batch.kind, row, row + last - first, alone=True)
            return
        does = "recognized" if rows[0][0].order.queries else "painted"
        error: Exception = PaintingFailedError(f"The picture could not be {does}: {message}")
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
        pending.forget_progress(start, stop)
        kind = kind._replace(alone=pending.number) if alone else kind
        seconds = self._timings.estimate(kind)
        self._queue.put_back(self._entry(pending, kind, start, stop, seconds, pending.submitted), seconds)

    def _cancel(self, pending: PendingOrder) -> None:
        self._end(pending, OrderCancelledError("The order was cancelled."), "cancelled")

    def _expire(self, pending: PendingOrder) -> None:
        seconds = pending.order.seconds
        does = "recognized" if pending.order.queries else "painted"
        error = DeadlinePassedError(
            f"The pictures were not {does} within {seconds:g} seconds: request fewer."
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
        for worker in self.pool.running:
            if any(batch.paints(pending) for batch in worker.flight.values()):
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
        counted = set[int]()  # an order may have several pieces in a batch, and the worker has died once
        for number, batch in enumerate(worker.flight.values()):
            is_suspect = number == 0 and worker.loading is None
            begun = batch.answered + self._dispatcher.chunk(batch.kind) if is_suspect else 0
            for pending, row, first, last in batch.within(batch.answered, batch.rows):
                suspect = batch.answered + first < begun
                if suspect and pending.number not in counted:
                    counted.add(pending.number)
                    pending.deaths += 1
                if pending.deaths >= DEATHS:
                    message = "The worker died while it painted this order: the log of the service says more."
                    self._end(pending, PaintingFailedError(message), "worker_died")
                else:
                    self._requeue(pending, batch.kind, row, row + last - first, alone=suspect)
        self._dispatcher.dispatch()
