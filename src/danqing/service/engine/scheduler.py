"""The one owner of the queue: it puts orders together into batches and has a worker process paint them.

Two batches are at the worker: one that it paints, and one to go on with. Whatever the worker was given stays
here until it is painted, so that nothing is lost with a worker that dies.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from danqing.errors import ConfigError
from danqing.service.engine.batching import Batch, Kind, check_images, kind_of
from danqing.service.engine.connections import Header
from danqing.service.engine.fair_queue import Entry, Queue
from danqing.service.engine.orders import (
    DeadlinePassedError,
    ModelUnavailableError,
    Offer,
    Order,
    OrderCancelledError,
    OverloadedError,
    PaintingFailedError,
    Priority,
)
from danqing.service.engine.pending_order import Ticket
from danqing.service.engine.supervisor import DEATHS, Keeper, Worker
from danqing.service.engine.timings import Prices
from danqing.service.observability.metrics import Metrics
from danqing.service.settings import Settings

_log = logging.getLogger("danqing.engine")

IN_FLIGHT = 2
BATCH_SECONDS = 0.03
"""Of work that is worth a message of its own."""
WINDOW_SHARE = 0.1
"""To wait for company may take so much of the time that painting takes."""
SHORTEST_WINDOW = 0.0005


@dataclass(frozen=True, slots=True)
class EngineState:
    """How the engine does. queued, in_flight: pictures; seconds: of work that is queued; memory_bytes:
    that the worker takes; loaded: models that it holds.
    """

    queued: int
    seconds: float
    in_flight: int
    alive: bool
    restarts: int
    loaded: tuple[str, ...]
    memory_bytes: int
    draining: bool


class Engine:
    """Takes orders and has them painted. All of it runs in one event loop, and nothing in it waits."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._offers: dict[str, Offer] = {}
        self.offers: Mapping[str, Offer] = self._offers
        self._queue: Queue[Ticket] = Queue(settings.engine.queue)
        self._tickets: dict[int, Ticket] = {}
        self._prices = Prices()
        self._keeper = Keeper(settings, self._offers, self._prices, self._on_frame, self._on_death)
        self._idle: asyncio.Future[None] | None = None
        self._soon: asyncio.Handle | None = None
        self._window: asyncio.TimerHandle | None = None
        self._number = 0
        self._closing = False

    async def start(self) -> None:
        """Start the worker; returns when it has described every model. Raises EngineError if it cannot."""
        self._loop = asyncio.get_running_loop()
        await self._keeper.start()

    async def stop(self, drain: float) -> None:
        """Take no more orders, finish those there are within `drain` seconds, then cancel the others."""
        self._closing = True
        if self._tickets and drain > 0:
            self._idle = self._loop.create_future()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle, drain)
        for ticket in list(self._tickets.values()):
            self._end(ticket, OrderCancelledError("The service stops: ask again."), "cancelled")
        await self._keeper.stop()

    @property
    def grace(self) -> float:
        """Seconds that a worker may say nothing of what it paints until it is held to hang."""
        return self._keeper.grace

    @grace.setter
    def grace(self, seconds: float) -> None:
        self._keeper.grace = seconds

    def submit(self, order: Order) -> Ticket:
        """Queue an order, whose ticket tells what becomes of it.

        Raises OverloadedError where the queue is full, but for no job, ModelUnavailableError for a model that
        is not there or cannot be used, ConfigError for options and images that no model can take,
        OrderCancelledError while the engine stops.
        """
        if self._closing:
            raise OrderCancelledError("The service stops: ask again.")
        offer = self._offers.get(order.model)
        if offer is None or offer.fault is not None:
            fault = "is not served here" if offer is None else f"cannot be used: {offer.fault}"
            raise ModelUnavailableError(f"The model {order.model} {fault}")
        kind = kind_of(order)
        check_images(order, offer)
        self._check_room(order, kind)
        self._number += 1
        now = self._loop.time()
        ticket = Ticket(order, self._number, now, self._leave)
        if order.priority != Priority.JOB:
            self._limit(ticket)
        self._tickets[ticket.number] = ticket
        chunk_seconds = self._prices.of(kind)
        entry = self._entry(ticket, kind, 0, len(order.rows), chunk_seconds, now)
        self._queue.add(entry, chunk_seconds)
        if self._soon is None:  # whoever asks in the same turn of the loop shares the batch
            self._soon = self._loop.call_soon(self._dispatch)
        return ticket

    def state(self) -> EngineState:
        """How the engine does now."""
        worker = self._keeper.worker
        return EngineState(
            queued=self._queue.pictures,
            seconds=self._queue.seconds,
            in_flight=sum(batch.rows - batch.answered for batch in worker.flight.values()) if worker else 0,
            alive=worker is not None and worker.ready,
            restarts=self._keeper.restarts,
            loaded=worker.loaded if worker else (),
            memory_bytes=worker.memory if worker else 0,
            draining=self._closing,
        )

    def _limit(self, ticket: Ticket) -> None:
        """Let the time of an order begin: that of a job begins with its painting."""
        if ticket.deadline is None and not ticket.ended:
            ticket.deadline = self._loop.call_later(ticket.order.seconds, self._expire, ticket)

    def _check_room(self, order: Order, kind: Kind) -> None:
        queue, pictures = self._queue, len(order.rows)
        if order.priority == Priority.JOB or not queue.wanted:
            return
        most = self._settings.engine.queue_seconds
        seconds = queue.wanted_seconds + self._prices.of(kind) * pictures / self._chunk(kind)
        if seconds > most:
            self._metrics.failure("overloaded")
            raise OverloadedError("Too much work waits already: ask again later.", max(1.0, seconds - most))
        if not queue.has_room(order.owner, pictures):
            self._metrics.failure("overloaded")
            raise OverloadedError(
                "Too many pictures wait already: ask again later.", max(1.0, queue.wanted_seconds / 2)
            )

    def _entry(
        self, ticket: Ticket, kind: Kind, start: int, stop: int, chunk_seconds: float, now: float
    ) -> Entry[Ticket]:
        order, chunk = ticket.order, self._chunk(kind)
        seconds = chunk_seconds / chunk
        entry = Entry(ticket, kind, order.owner, order.priority, start, stop, seconds, chunk, arrived=now)
        ticket.entries.append(entry)
        return entry

    def _dispatch(self) -> None:
        """Give the worker what it is to do next, if it needs anything."""
        for handle in (self._soon, self._window):
            if handle is not None:
                handle.cancel()
        self._soon = self._window = None
        worker, queue = self._keeper.worker, self._queue
        while worker is not None and worker.ready and len(worker.flight) < IN_FLIGHT and queue.pictures:
            entry, pictures = queue.head()
            kind = entry.kind
            assert isinstance(kind, Kind)
            price = self._prices.of(kind)
            if pictures < self._chunk(kind) and not kind.alone:
                if worker.flight:  # company may come until the worker is through with what it has
                    return
                window = min(self._settings.engine.window, WINDOW_SHARE * price)
                left = entry.arrived + window - self._loop.time()
                if left > 0 and window >= SHORTEST_WINDOW:
                    self._window = self._loop.call_later(left, self._dispatch)
                    return
            self._send(worker, kind, self._room(self._chunk(kind), price))

    def _chunk(self, kind: Kind) -> int:
        """How many pictures are computed in the time of one."""
        return self._offers[kind.model].chunk

    def _room(self, chunk: int, price: float) -> int:
        """How many pictures to send in one message."""
        most = self._settings.engine.batch
        chunks = min(most // chunk, max(1, int(BATCH_SECONDS / price)))
        return chunks * chunk or most

    def _send(self, worker: Worker, kind: Kind, room: int) -> None:
        self._number += 1
        batch = Batch.of(self._number, kind, self._queue.take(room))
        if (fault := self._offers[kind.model].fault) is not None:  # found since they were queued
            for piece in batch.pieces:
                self._end(piece.ticket, ModelUnavailableError(f"{kind.model}: {fault}"), "model")
            return
        for piece in batch.pieces:
            piece.ticket.begin()
        for piece in batch.pieces:
            self._limit(piece.ticket)
        worker.flight[batch.number] = batch
        worker.process.send(batch.header(), batch.blocks())
        self._keeper.watch(worker)

    def _on_frame(self, worker: Worker, what: str, header: Header, block: memoryview) -> None:
        if what in ("painted", "failed", "stopped"):
            self._on_answer(worker, what, header, block)
        elif what in ("step", "preview"):
            self._on_step(worker.flight[header["batch"]], header, block)
        elif what == "refused":
            self._on_refused(header)
        elif what == "ready":
            self._dispatch()

    def _on_step(self, batch: Batch, header: Header, block: memoryview) -> None:
        start, count = header["start"], header["count"]
        pixels = np.frombuffer(block, np.uint8).reshape(header["shape"]) if "shape" in header else None
        for ticket, row, first, last in batch.within(start, count):
            if ticket.ended:
                continue
            if pixels is None:
                ticket.progress(last - first, header["done"], header["total"])
                continue
            for wanted, index in header["due"]:
                if wanted == ticket.order.previews:
                    ticket.preview(index, row, pixels[first:last])

    def _on_refused(self, header: Header) -> None:
        if (ticket := self._tickets.get(header["order"])) is not None:
            self._end(ticket, ConfigError(header["message"], header["option"]), "order")

    def _on_answer(self, worker: Worker, what: str, header: Header, block: memoryview) -> None:
        batch = worker.flight[header["batch"]]
        start, count = header["start"], header["count"]
        batch.answered = start + count
        if batch.answered == batch.rows:
            del worker.flight[batch.number]
            self._keeper.watch(worker)
        if what == "painted":
            self._on_painted(batch, header, block)
        elif what == "failed":
            self._on_failed(batch, header)
        self._dispatch()

    def _on_painted(self, batch: Batch, header: Header, block: memoryview) -> None:
        pixels = np.frombuffer(block, np.uint8).reshape(header["shape"])
        now, seconds, waited = self._loop.time(), header["seconds"], 0.0
        began = now - seconds
        for ticket, row, first, last in batch.within(header["start"], header["count"]):
            waited = max(waited, began - ticket.submitted)
            if not ticket.ended and ticket.paint(row, pixels[first:last], began, now):
                self._forget(ticket)
        self._prices.learn(batch.kind, seconds)
        self._queue.price(batch.kind, self._prices.of(batch.kind))
        self._metrics.batch(batch.kind.model, header["count"], waited, seconds)

    def _on_failed(self, batch: Batch, header: Header) -> None:
        what, message = header["error"], header["message"]
        if "trace" in header:
            _log.error("the model %s failed: %s\n%s", batch.kind.model, message, header["trace"])
        rows = list(batch.within(header["start"], header["count"]))
        if what != "model" and len({ticket.number for ticket, *_ in rows}) > 1:
            for ticket, row, first, last in rows:  # one of them is at fault, and the others shall not suffer
                self._again(ticket, batch.kind, row, row + last - first, alone=True)
            return
        error: Exception = PaintingFailedError(f"The picture could not be painted: {message}")
        if what == "model":
            error = ModelUnavailableError(message)
        elif what == "order":
            error = ConfigError(message, header["option"])
        for ticket, *_ in rows:
            self._end(ticket, error, what)

    def _again(self, ticket: Ticket, kind: Kind, start: int, stop: int, *, alone: bool) -> None:
        """Queue some rows of an order anew, before all others."""
        if ticket.ended:
            return
        kind = kind._replace(alone=ticket.number) if alone else kind
        price = self._prices.of(kind)
        self._queue.put_back(self._entry(ticket, kind, start, stop, price, ticket.submitted), price)

    def _leave(self, ticket: Ticket) -> None:
        self._end(ticket, OrderCancelledError("The order was cancelled."), "cancelled")

    def _expire(self, ticket: Ticket) -> None:
        seconds = ticket.order.seconds
        error = DeadlinePassedError(
            f"The pictures were not painted within {seconds:g} seconds: ask for fewer."
        )
        self._end(ticket, error, "deadline")

    def _end(self, ticket: Ticket, error: Exception, reason: str) -> None:
        """Let an order fail, and nobody work for it any more."""
        if ticket.ended:
            return
        self._metrics.failure(reason)
        ticket.fail(error)
        self._forget(ticket)
        for entry in ticket.entries:
            self._queue.cancel(entry)
        ticket.entries.clear()
        worker = self._keeper.worker
        if worker is not None and any(batch.paints(ticket) for batch in worker.flight.values()):
            worker.process.send({"kind": "cancel", "orders": [ticket.number]})

    def _forget(self, ticket: Ticket) -> None:
        self._tickets.pop(ticket.number, None)
        if ticket.deadline is not None:
            ticket.deadline.cancel()
            ticket.deadline = None
        if not self._tickets and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _on_death(self, worker: Worker) -> None:
        """Queue anew what a dead worker was given: of what it was painting, each order alone."""
        for number, batch in enumerate(worker.flight.values()):
            begun = batch.answered + self._chunk(batch.kind) if number == 0 and worker.loading is None else 0
            for ticket, row, first, last in batch.within(batch.answered, batch.rows):
                suspect = batch.answered + first < begun
                ticket.deaths += suspect
                if ticket.deaths >= DEATHS:
                    message = "The worker died of painting this order: the service's log says more."
                    self._end(ticket, PaintingFailedError(message), "worker_died")
                else:
                    self._again(ticket, batch.kind, row, row + last - first, alone=suspect)
