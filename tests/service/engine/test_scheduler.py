"""An engine whose worker is overloaded, dies, hangs, or receives orders that it cannot paint."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

import danqing
from danqing.errors import ConfigError
from danqing.service.engine.batching import BatchPiece
from danqing.service.engine.dispatch import IN_FLIGHT
from danqing.service.engine.orders import (
    DeadlinePassedError,
    ModelUnavailableError,
    Order,
    OrderCancelledError,
    OverloadedError,
    Painted,
    PaintingFailedError,
    Preview,
    Priority,
    StepProgress,
    rows_of,
)
from danqing.service.engine.pending_order import PendingOrder
from danqing.service.engine.supervisor import GRACE
from tests.service.engines import Running, running

QUEUE = 100


@pytest.fixture(scope="module")
def served(
    models: dict[str, str], slow: str, broken: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    vanishing = tmp_path_factory.mktemp("vanishing") / "model"
    shutil.copytree(models["gan"], vanishing)
    all_models = {**models, "slow": slow, "broken": broken, "vanishing": str(vanishing)}
    with running(all_models, queue=QUEUE, queue_seconds=3600) as engine:
        (vanishing / "model.safetensors").unlink()
        engine.paint(Order("slow", rows_of([0])))  # it is loaded, and its price is known
        yield engine


def slowly(count: int = 1, seed: int = 0, **settings: object) -> Order:
    return Order("slow", rows_of(range(seed, seed + count)), **settings)  # type: ignore[arg-type]


async def begun(ticket: PendingOrder) -> None:
    """Wait until an order is being painted."""
    while not ticket.steps_done:
        await asyncio.sleep(0.002)


@contextlib.contextmanager
def standing_still(served: Running) -> Iterator[None]:
    """Let the worker do nothing meanwhile."""
    pid = served.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def batches(served: Running, model: str) -> tuple[float, float]:
    """How many batches a model painted, and how many pictures."""
    read = served.metrics.registry.get_sample_value
    counted = (read(f"danqing_batch_images_{what}", {"model": model}) for what in ("count", "sum"))
    count, pictures = (value or 0.0 for value in counted)
    return count, pictures


def test_orders_that_come_together_share_a_batch(served: Running) -> None:
    before, painted = batches(served, "gan")
    results = served.paint(*[Order("gan", rows_of([seed]), owner=str(seed)) for seed in range(16)])
    after, then = batches(served, "gan")
    assert (after - before, then - painted) == (1, 16)
    assert len({result.pixels.tobytes() for result in results}) == 16


def test_one_batch_is_painted_while_the_next_one_waits_at_the_worker(served: Running) -> None:
    async def crowd() -> int:
        tickets = [served.scheduler.submit(slowly(seed=seed)) for seed in range(40)]
        await begun(tickets[0])
        in_flight = served.scheduler.state().in_flight
        for ticket in tickets:
            ticket.cancel()
        return in_flight

    assert served.do(crowd()) == 32


def test_who_asks_for_much_does_not_keep_others_waiting(served: Running) -> None:
    async def compete() -> tuple[float, list[float]]:
        loop, ends = asyncio.get_running_loop(), list[float]()

        async def end(ticket: PendingOrder) -> float:
            await ticket.painted()
            ends.append(loop.time())
            return ends[-1]

        greedy = [loop.create_task(end(served.scheduler.submit(slowly(8, owner="greedy")))) for _ in range(6)]
        modest = await end(served.scheduler.submit(slowly(owner="modest")))
        await asyncio.gather(*greedy)
        return modest, ends

    modest, ends = served.do(compete())
    assert sorted(ends).index(modest) <= 2


def test_steps_are_counted_and_previews_shown_of_all_rows_of_an_order_in_two_batches(served: Running) -> None:
    async def watch() -> list[object]:
        others = [served.scheduler.submit(Order("masked", rows_of([seed]))) for seed in range(10)]
        ticket = served.scheduler.submit(Order("masked", rows_of(range(10)), previews=2))
        events: list[object] = [event async for event in ticket]
        await asyncio.gather(*[other.painted() for other in others])
        return events

    events = served.do(watch())
    previews = [event for event in events if isinstance(event, Preview)]
    assert [preview.index for preview in previews] == [0, 1]
    assert all(preview.pixels.shape == (10, 8, 8, 3) for preview in previews)
    assert isinstance(events[-1], Painted)
    assert not np.array_equal(previews[0].pixels, events[-1].pixels)
    steps = [event.done / event.total for event in events if isinstance(event, StepProgress)]
    assert steps == sorted(steps)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(served: Running) -> None:
    async def flood() -> tuple[list[PendingOrder], float, float]:
        tickets, began, retry_after = [], time.perf_counter(), 0.0
        while not retry_after:
            try:
                tickets.append(served.scheduler.submit(slowly()))
            except OverloadedError as error:
                retry_after = error.retry_after
        seconds = time.perf_counter() - began
        state = served.scheduler.state()
        for ticket in tickets:
            ticket.cancel()
        assert state.queued == len(tickets) <= QUEUE
        assert served.scheduler.state().queued == 0
        return tickets, seconds, retry_after

    tickets, seconds, retry_after = served.do(flood())
    assert len(tickets) >= QUEUE // 2
    assert seconds < 5
    assert retry_after >= 1
    assert served.paint(Order("gan", rows_of([1])))


def test_jobs_and_those_who_wait_leave_each_other_room(served: Running) -> None:
    async def both() -> tuple[int, list[Painted]]:
        scheduler, waiting = served.scheduler, list[PendingOrder]()
        jobs = [scheduler.submit(slowly(priority=Priority.JOB)) for _ in range(2 * QUEUE)]
        with contextlib.suppress(OverloadedError):
            while len(waiting) < 2 * QUEUE:
                waiting.append(scheduler.submit(slowly()))
        last = scheduler.submit(Order("gan", rows_of([1]), priority=Priority.JOB))
        for ticket in (*jobs, *waiting):
            ticket.cancel()
        return len(waiting), [await last.painted()]

    waiting, painted = served.do(both())
    assert QUEUE // 2 <= waiting <= QUEUE
    assert painted


def test_an_order_ends_at_its_deadline_and_the_worker_stops_for_it(served: Running) -> None:
    async def wait() -> float:
        with standing_still(served):
            ticket = served.scheduler.submit(slowly(seconds=0.2))
            with pytest.raises(DeadlinePassedError, match=r"0\.2 seconds"):
                await ticket.painted()
            passed = asyncio.get_running_loop().time()
        await served.scheduler.submit(Order("gan", rows_of([1]))).painted()
        return passed - ticket.submitted

    before = batches(served, "slow")
    assert 0.2 <= round(served.do(wait()), 6) < 30  # sums of floating-point seconds
    assert batches(served, "slow") == before


def test_a_batch_goes_on_as_long_as_somebody_waits_for_it(served: Running) -> None:
    async def leave() -> Painted:
        leaves, stays = served.scheduler.submit(slowly(seed=1)), served.scheduler.submit(slowly(seed=2))
        await begun(stays)
        leaves.cancel()
        with pytest.raises(OrderCancelledError):
            await leaves.painted()
        return await stays.painted()

    (alone,) = served.paint(slowly(seed=2))
    assert np.array_equal(served.do(leave()).pixels, alone.pixels)


def test_who_stops_reading_cancels(served: Running) -> None:
    async def stop_reading() -> int:
        reading = asyncio.create_task(served.scheduler.submit(slowly()).painted())
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait({reading})
        async for _ in (events := aiter(served.scheduler.submit(slowly()))):
            break
        await events.aclose()  # type: ignore[attr-defined]
        return served.scheduler.state().orders

    assert served.do(stop_reading()) == 0


def test_what_an_order_says_wrong_hurts_no_other(served: Running) -> None:
    async def paint() -> list[Painted | BaseException]:
        orders = [Order("raster", rows_of([seed], label="star")) for seed in range(5)]
        orders.insert(2, Order("raster", rows_of([9], label="moon")))
        orders.append(Order("raster", rows_of([9]), options={"temperature": "hot"}))
        tickets = [served.scheduler.submit(order) for order in orders]
        return await asyncio.gather(*[ticket.painted() for ticket in tickets], return_exceptions=True)

    results = served.do(paint())
    assert [type(result) for result in results] == [Painted] * 2 + [ConfigError] + [Painted] * 3 + [
        ConfigError
    ]
    assert "moon" in str(results[2])
    assert "temperature" in str(results[6])


def test_models_that_are_not_there_break_or_vanish_hurt_no_other(served: Running) -> None:
    assert served.scheduler.offers["broken"].fault
    for name in ("broken", "unknown"):
        with pytest.raises(ModelUnavailableError, match=name):
            served.scheduler.submit(Order(name, rows_of([1])))
    with pytest.raises(ModelUnavailableError, match=r"vanishing .*model\.safetensors"):
        served.paint(Order("vanishing", rows_of([1])))
    assert served.paint(Order("gan", rows_of([1])))


def test_what_no_model_can_take_is_refused_before_it_waits(served: Running) -> None:
    with pytest.raises(ConfigError, match="does not support fill: it supports sample"):
        served.scheduler.submit(Order("vqvae", rows_of([1]), verb="fill"))
    images = np.zeros((1, 9, 9, 3), np.uint8)
    with pytest.raises(ConfigError, match="takes images 1x8x8x3, not 1x9x9x3"):
        served.scheduler.submit(Order("raster", rows_of([1]), verb="vary", images=images))
    with pytest.raises(ConfigError, match="plain values"):
        served.scheduler.submit(Order("gan", rows_of([1]), options={"truncation": float("nan")}))


def test_a_worker_that_is_killed_loses_nothing(served: Running) -> None:
    async def kill() -> tuple[list[Painted], int]:
        before = served.scheduler.state().restarts
        orders = [slowly(3, seed=seed) for seed in range(8)]
        tickets = [served.scheduler.submit(order) for order in orders]
        await begun(tickets[0])
        os.kill(served.pid, signal.SIGKILL)
        painted = await asyncio.gather(*[ticket.painted() for ticket in tickets])
        return list(painted), served.scheduler.state().restarts - before

    painted, restarts = served.do(kill())
    expected = served.paint(*[slowly(3, seed=seed) for seed in range(8)])
    assert restarts == 1
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(painted, expected, strict=True))


def test_an_order_of_which_workers_die_is_found_and_fails_alone(served: Running) -> None:
    async def poison() -> list[Painted | BaseException]:
        poisoned = served.scheduler.submit(slowly(seed=99))
        others = [served.scheduler.submit(slowly(seed=seed)) for seed in range(3)]

        async def kill() -> Painted:
            async for event in poisoned:
                if isinstance(event, Painted):
                    return event
                os.kill(served.pid, signal.SIGKILL)
            raise AssertionError

        painting = [kill(), *(other.painted() for other in others)]
        return await asyncio.gather(*painting, return_exceptions=True)

    results = served.do(poison(), 120)
    assert [type(result) for result in results] == [PaintingFailedError] + [Painted] * 3


def test_a_worker_that_dies_counts_once_for_an_order_with_two_pieces_in_its_batch(served: Running) -> None:
    async def kill() -> tuple[Painted, int]:
        ticket = served.scheduler.submit(slowly(2))
        await begun(ticket)
        (worker,) = served.scheduler.pool.running
        (batch,) = worker.flight.values()
        batch.pieces[:] = [BatchPiece(ticket, row, row + 1, row) for row in range(2)]
        os.kill(served.pid, signal.SIGKILL)
        return await ticket.painted(), ticket.deaths

    painted, deaths = served.do(kill())
    assert deaths == 1
    assert np.array_equal(painted.pixels, served.paint(slowly(2))[0].pixels)


def test_a_worker_that_hangs_is_killed_whether_somebody_waits_or_not(served: Running) -> None:
    async def hang() -> Painted:
        waits = served.scheduler.submit(slowly())
        await begun(waits)
        os.kill(served.pid, signal.SIGSTOP)
        return await waits.painted()

    async def hang_at_first() -> Painted:
        os.kill(served.pid, signal.SIGSTOP)
        with pytest.raises(DeadlinePassedError):
            await served.scheduler.submit(Order("vqvae", rows_of([1]), seconds=0.1)).painted()
        return await served.scheduler.submit(Order("gan", rows_of([1]))).painted()

    before, served.scheduler.pool.supervisors[0].grace = served.scheduler.state().restarts, 2.0
    try:
        assert served.do(hang()).pixels.shape == (1, 16, 16, 1)
        assert served.do(hang_at_first()).pixels.shape == (1, 8, 8, 3)
    finally:
        served.scheduler.pool.supervisors[0].grace = GRACE
    assert served.scheduler.state().restarts == before + 2


def test_the_time_of_a_job_begins_with_its_painting(served: Running) -> None:
    async def wait() -> None:
        job = Order("gan", rows_of([1]), priority=Priority.JOB, seconds=0.1)
        with standing_still(served):
            others = [served.scheduler.submit(slowly(16)) for _ in range(IN_FLIGHT)]
            await asyncio.sleep(0)
            waits = served.scheduler.submit(job)
            await asyncio.sleep(0.3)
            assert not waits.ended
            waits.cancel()
            for other in others:
                other.cancel()
        await served.scheduler.submit(Order("gan", rows_of([1]))).painted()
        with standing_still(served), pytest.raises(DeadlinePassedError):
            await served.scheduler.submit(job).painted()

    served.do(wait())


def test_a_model_whose_loading_kills_workers_is_not_tried_for_a_while(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, name = served.scheduler, "vae"

    async def die() -> str | None:
        """Let the worker die of loading; returns what is held against the model then."""
        before = scheduler.state().restarts
        scheduler.pool.supervisors[0].receive({"kind": "loading", "model": name}, memoryview(b""))
        os.kill(served.pid, signal.SIGKILL)
        while scheduler.state().restarts == before:
            await asyncio.sleep(0.01)
        fault = scheduler.offers[name].fault
        while not scheduler.state().alive:
            await asyncio.sleep(0.01)
        return fault

    async def forgiven() -> None:
        while scheduler.offers[name].fault:
            await asyncio.sleep(0.01)

    monkeypatch.setattr("danqing.service.engine.catalogue.SHORTEST_BAN", 0.5)
    assert served.do(die()) is None
    served.paint(Order(name, rows_of([1])))
    assert served.do(die()) is None
    assert "whenever it loaded" in (served.do(die()) or "")
    served.do(forgiven())
    served.paint(Order(name, rows_of([1])))
    assert not scheduler.catalogue.loading_deaths


def test_a_worker_that_cannot_be_started_is_started_when_it_can(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(threading.Thread):
        def start(self) -> None:
            monkeypatch.undo()
            raise RuntimeError("can't start new thread")

    children = len(psutil.Process().children())
    monkeypatch.setattr("danqing.service.engine.worker_process.threading", SimpleNamespace(Thread=Refused))
    os.kill(served.pid, signal.SIGKILL)
    assert served.paint(Order("gan", rows_of([1])))
    assert len(psutil.Process().children()) == children


def test_models_least_recently_used_leave_when_memory_is_short_and_a_stop_lets_orders_end(
    models: dict[str, str],
) -> None:
    gan, vae, raster = (
        danqing.load(models[name]).family.sampling_bytes() for name in ("gan", "vae", "raster")
    )
    weights = os.path.getsize(Path(models["raster"]) / "model.safetensors")
    assert raster > 1.5 * weights  # with all that is laid out of them
    budget = int(gan + raster + 0.9 * vae)
    patient = {"queue_seconds": 3600.0, "queue": 10_000}
    with running(
        {name: models[name] for name in ("gan", "vae", "raster")}, memory=budget, **patient
    ) as engine:
        assert engine.scheduler.state().loaded == ()
        for name in ("gan", "vae", "gan", "raster"):
            engine.paint(Order(name, rows_of([1])))
        assert engine.scheduler.state().loaded == ("gan", "raster")

        async def stop() -> list[Painted | BaseException]:
            soon = engine.scheduler.submit(Order("gan", rows_of([1])))
            late = [
                engine.scheduler.submit(Order("raster", rows_of(range(100)), priority=Priority.JOB))
                for _ in range(64)
            ]
            stopping = asyncio.create_task(engine.scheduler.stop(drain=0.5))
            await asyncio.sleep(0)
            with pytest.raises(OrderCancelledError):
                engine.scheduler.submit(Order("gan", rows_of([1])))
            results = await asyncio.gather(*[t.painted() for t in (soon, *late)], return_exceptions=True)
            await stopping
            return results

        pid, results = engine.pid, engine.do(stop())
        assert isinstance(results[0], Painted)
        assert isinstance(results[-1], OrderCancelledError)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_process_that_holds_the_engine_never_imports_torch() -> None:
    code = "import sys, danqing.service.engine.scheduler; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
