"""A service with two workers: they share its work, compute alike, and one goes on when the other dies."""

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest

from danqing.service.engine.orders import Order, Painted, Preview, StepProgress, rows_of
from danqing.service.engine.pool import WorkerState
from tests.service.routes.test_operations import values
from tests.service.serving import Running, served

T = TypeVar("T")


@pytest.fixture(scope="module")
def running(models: dict[str, str], slow: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two names of one model, held by one worker each, and a slow model that both hold."""
    placed: dict[str, Any] = {
        "slow": slow,
        "left": {"path": models["raster"], "workers": [0]},
        "right": {"path": models["raster"], "workers": [1]},
    }
    engine = {"threads": 1, "workers": 2, "device": "cpu", "queue_seconds": 3600}
    with served(placed, tmp_path_factory.mktemp("data"), engine=engine) as running:
        for supervisor in running.service.scheduler.pool.supervisors:
            supervisor.grace = 3600.0  # a stopped worker must not be killed
        yield running


def do(running: Running, work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine in the service's event loop."""
    return asyncio.run_coroutine_threadsafe(work, running.loop).result(180)


def workers(running: Running) -> tuple[WorkerState, ...]:
    return running.service.scheduler.state().workers


async def painted(running: Running, *orders: Order) -> list[Painted]:
    tickets = [running.service.scheduler.submit(order) for order in orders]
    return list(await asyncio.gather(*[ticket.painted() for ticket in tickets]))


async def both_work(running: Running) -> None:
    while not all(worker.in_flight for worker in workers(running)):
        await asyncio.sleep(0.002)


def slowly(count: int, seed: int = 0, **settings: Any) -> Order:
    return Order("slow", rows_of(range(seed, seed + count)), **settings)


def test_each_worker_is_shown(running: Running) -> None:
    do(running, painted(running, Order("left", rows_of([0])), Order("right", rows_of([0]))))
    assert httpx.get(f"{running.url}/readyz").json()["workers"] == {"ready": 2, "all": 2}
    told = {one["id"]: one["workers"] for one in httpx.get(f"{running.url}/v1/models").json()["data"]}
    assert told["left"] == [{"worker": 0, "ready": True, "loaded": True}]
    assert told["right"] == [{"worker": 1, "ready": True, "loaded": True}]
    assert [one["worker"] for one in told["slow"]] == [0, 1]
    numbers = values(httpx.get(f"{running.url}/metrics").text)
    for worker in ("0", "1"):
        assert numbers["danqing_each_worker_up", "cpu", worker] == 1
        assert numbers["danqing_each_worker_memory_bytes", "cpu", worker] > 10_000_000
    assert numbers["danqing_worker_up",] == 2
    if len(os.sched_getaffinity(0)) > 1:
        one, other = (os.sched_getaffinity(worker.pid or 0) for worker in workers(running))
        assert not one & other


def test_a_seed_gives_the_same_pixels_on_any_worker(running: Running) -> None:
    rows = rows_of(range(20), label="star")
    left, right = do(running, painted(running, Order("left", rows), Order("right", rows)))
    assert np.array_equal(left.pixels, right.pixels)


def test_an_order_is_shared_between_idle_workers_and_its_progress_never_goes_back(running: Running) -> None:
    async def watch() -> list[object]:
        ticket = running.service.scheduler.submit(slowly(48, previews=2))
        shared = asyncio.create_task(both_work(running))
        events: list[object] = [event async for event in ticket]
        await asyncio.wait_for(shared, 1)
        return events

    events = do(running, watch())
    steps = [event.done / event.total for event in events if isinstance(event, StepProgress)]
    assert steps == sorted(steps)
    assert steps[-1] <= 1
    previews = [event for event in events if isinstance(event, Preview)]
    assert [preview.index for preview in previews] == [0, 1]
    assert all(preview.pixels.any(axis=(1, 2, 3)).all() for preview in previews)
    (alone,) = do(running, painted(running, slowly(3, seed=45)))
    assert isinstance(events[-1], Painted)
    assert np.array_equal(events[-1].pixels[45:], alone.pixels)


def test_who_leaves_stops_all_workers_that_paint_for_it(running: Running) -> None:
    async def leave() -> None:
        ticket = running.service.scheduler.submit(slowly(2000))
        await both_work(running)
        ticket.cancel()
        while running.service.scheduler.state().in_flight:
            await asyncio.sleep(0.01)

    do(running, leave())


def test_a_worker_that_stands_still_keeps_nobody_waiting_but_those_of_its_own_models(
    running: Running,
) -> None:
    pid = workers(running)[0].pid
    assert pid is not None

    async def go_on() -> list[Painted]:
        scheduler = running.service.scheduler
        os.kill(pid, signal.SIGSTOP)
        try:
            stuck = [scheduler.submit(Order("left", rows_of([seed]))) for seed in range(40)]
            found = await painted(running, Order("right", rows_of([7])), slowly(3))
            assert not any(ticket.ended for ticket in stuck)
        finally:
            os.kill(pid, signal.SIGCONT)
        return [*found, await stuck[7].painted()]

    right, _, left = do(running, go_on())
    assert np.array_equal(right.pixels, left.pixels)


def test_a_worker_that_is_killed_loses_nothing_and_the_other_goes_on(running: Running) -> None:
    orders = [slowly(3, seed=seed) for seed in range(0, 36, 3)]
    expected = do(running, painted(running, *orders))
    ready, over = set[tuple[int, int]](), threading.Event()

    def look() -> None:
        while not over.is_set():
            answer = httpx.get(f"{running.url}/readyz")
            ready.add((answer.status_code, answer.json()["workers"]["ready"]))
            over.wait(0.02)

    async def kill() -> list[Painted]:
        tickets = [running.service.scheduler.submit(order) for order in orders]
        await both_work(running)
        pid = workers(running)[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        found = list(await asyncio.gather(*[ticket.painted() for ticket in tickets]))
        while not workers(running)[0].alive:
            await asyncio.sleep(0.01)
        return found

    looking = threading.Thread(target=look)
    looking.start()
    found = do(running, kill())
    over.set()
    looking.join()
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(found, expected, strict=True))
    assert [worker.restarts for worker in workers(running)] == [1, 0]
    assert {status for status, _ in ready} == {200}
    assert (200, 1) in ready
    do(running, painted(running, Order("left", rows_of([0]))))
