"""Which worker gets which pictures: the rules of the dispatcher, with workers that only collect batches."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from danqing.service.engine.batching import BatchKind, WorkerBatch
from danqing.service.engine.dispatch import IN_FLIGHT, Dispatcher
from danqing.service.engine.fair_queue import FairQueue, QueueEntry
from danqing.service.engine.offers import Offer
from danqing.service.engine.orders import Order, Priority, rows_of
from danqing.service.engine.pending_order import PendingOrder
from danqing.service.engine.placement import Place
from danqing.service.engine.supervisor import WorkerHandle
from danqing.service.engine.timings import Timings
from danqing.service.settings import EngineSettings

CHUNK = 4


def kind(model: str) -> BatchKind:
    return BatchKind(model, "sample", "{}", False, 0)


class Collecting:
    """Workers that hold some models each, and collect their batches; sent: (worker, model, pictures)."""

    def __init__(self, *models: Sequence[str], seconds: float = 0.03) -> None:
        process: Any = None
        self.workers = [
            WorkerHandle(process, Place(number, "cpu", "cpu", models=tuple(names)), Timings(), ready=True)
            for number, names in enumerate(models)
        ]
        self.sent: list[tuple[int, str, int]] = []
        self.queue: FairQueue[PendingOrder] = FairQueue(1000)
        self.timings = Timings()
        names = sorted({name for one in models for name in one})
        for name in names:
            for timings in (self.timings, *(worker.timings for worker in self.workers)):
                timings.add(kind(name), seconds)
        offers = {name: Offer(name=name, path="", chunk=CHUNK) for name in names}
        pool: Any = self
        self.dispatcher = Dispatcher(
            EngineSettings(window=0), self.queue, self.timings, offers, pool, self.send
        )

    def __len__(self) -> int:
        return len(self.workers)

    @property
    def ready(self) -> list[WorkerHandle]:
        return self.workers

    def holders(self, model: str) -> tuple[int, ...]:
        return tuple(worker.place.number for worker in self.workers if model in worker.place.models)

    def send(self, worker: WorkerHandle, kind: BatchKind, room: int) -> None:
        batch = WorkerBatch.from_entries(len(self.sent), kind, self.queue.take(room, kind.__eq__))
        worker.flight[batch.number] = batch
        self.sent.append((worker.place.number, kind.model, batch.rows))

    def order(self, model: str, pictures: int, owner: str = "") -> None:
        seconds = self.timings.estimate(kind(model))
        pending = PendingOrder(Order(model, rows_of(range(pictures))), 1, 0.0, lambda _: None)
        entry = QueueEntry(
            pending, kind(model), owner, Priority.INTERACTIVE, 0, pictures, seconds / CHUNK, CHUNK
        )
        self.queue.add(entry, seconds)

    def dispatch(self) -> list[tuple[int, str, int]]:
        """What is sent now."""
        before = len(self.sent)

        async def dispatch() -> None:
            self.dispatcher.dispatch()

        asyncio.run(dispatch())
        return self.sent[before:]


def test_idle_workers_come_first_and_a_part_of_a_chunk_waits_at_no_busy_worker() -> None:
    pool = Collecting("a", "a")
    pool.order("a", 3 * CHUNK + 1)
    assert pool.dispatch() == [(0, "a", CHUNK), (1, "a", CHUNK), (0, "a", CHUNK)]
    pool.workers[1].flight.clear()
    assert pool.dispatch() == [(1, "a", 1)]


def test_one_worker_gets_what_it_gets_without_others() -> None:
    pool = Collecting("a", seconds=0.01)
    pool.order("a", 10 * CHUNK)
    assert pool.dispatch() == [(0, "a", 3 * CHUNK)] * IN_FLIGHT  # 30 milliseconds each


def test_a_large_order_is_divided_among_idle_workers_in_whole_chunks() -> None:
    pool = Collecting("a", "a", "a", seconds=0.001)
    pool.order("a", 7 * CHUNK)
    assert pool.dispatch() == [(0, "a", 3 * CHUNK), (1, "a", 2 * CHUNK), (2, "a", 2 * CHUNK)]


def test_the_worker_that_has_loaded_a_model_gets_its_pictures() -> None:
    pool = Collecting("ab", "ab")
    pool.workers[1].loaded = ("a",)
    pool.order("a", CHUNK)
    assert pool.dispatch() == [(1, "a", CHUNK)]


def test_workers_get_only_their_models_and_an_owner_of_another_model_keeps_nobody_waiting() -> None:
    pool = Collecting("a", "b")
    for _ in range(9):
        pool.order("a", CHUNK, owner="greedy")
    pool.order("b", CHUNK, owner="modest")
    assert pool.dispatch() == [(0, "a", CHUNK), (1, "b", CHUNK), (0, "a", CHUNK)]


@pytest.mark.parametrize(("seconds", "sent"), [(0.1, 4), (1.0, 2)])
def test_nothing_waits_behind_a_long_batch_that_another_worker_may_do_sooner(
    seconds: float, sent: int
) -> None:
    pool = Collecting("a", "a", seconds=seconds)
    pool.order("a", 6 * CHUNK)
    assert len(pool.dispatch()) == sent
    alone = Collecting("a", "b", seconds=seconds)
    alone.order("a", 6 * CHUNK)
    assert len(alone.dispatch()) == IN_FLIGHT


def test_only_the_work_of_the_workers_that_hold_a_model_counts_for_it() -> None:
    pool = Collecting("ac", "bc", seconds=1.0)
    pool.order("a", 10 * CHUNK)
    pool.order("c", 4 * CHUNK)
    seconds = {name: pool.dispatcher.seconds_until(kind(name), CHUNK) for name in "abc"}
    assert seconds == {"a": 13.0, "b": 3.0, "c": 2.5}
