"""What a flood of requests does to the service: its memory, its health, its answers, and its speed after.

python benchmarks/service_flood.py [--times 50] [--seconds 60]

First it is found how many requests per second the service grants; then so many times as many are sent, by
several processes, whether earlier ones are answered or not; then it is asked as at first again.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import tempfile
import threading
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from service_client import Client, load, quantile, summary
from service_process import ServiceProcess, write_models

BODY = {"model": "masked", "prompt": "star", "n": 10}
PATH = "/v1/images/generations"
TICK = 0.02


def flood(url: str, rate: float, seconds: float, most: int, results: Connection) -> None:
    """Send `rate` requests per second, at most `most` of them open at a time; tell what came back."""
    statuses: Counter[int] = Counter()
    slowest_refusal = 0.0

    async def one(client: Client, request: bytes) -> None:
        nonlocal slowest_refusal
        answer = await client.send(request)
        statuses[answer.status] += 1
        if answer.status == 429:
            slowest_refusal = max(slowest_refusal, answer.seconds)

    async def all_of_them() -> int:
        client, sent = Client(url), 0
        request = client.request(PATH, BODY)
        began = time.perf_counter()
        open_ones: set[asyncio.Task[None]] = set()
        while (now := time.perf_counter() - began) < seconds:
            for _ in range(min(int(rate * now) - sent, most - len(open_ones))):
                task = asyncio.create_task(one(client, request))
                open_ones.add(task)
                task.add_done_callback(open_ones.discard)
                sent += 1
            await asyncio.sleep(TICK)
        await asyncio.gather(*open_ones)
        client.close()
        return sent

    sent = asyncio.run(all_of_them())
    results.send({"sent": sent, "statuses": dict(statuses), "slowest_refusal": slowest_refusal})


class Watch:
    """Looks at health and memory ten times a second."""

    def __init__(self, service: ServiceProcess) -> None:
        self._service, self._ended = service, threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.health: list[float] = []
        self.memory: list[dict[str, float]] = []
        self._thread.start()

    async def _run(self) -> None:
        client = Client(self._service.url)
        request = client.request("/healthz")
        while not self._ended.is_set():
            answer = await client.send(request)
            self.health.append(answer.seconds * 1000 if answer.status == 200 else float("inf"))
            with contextlib.suppress(psutil.Error):
                self.memory.append(self._service.memory())
            await asyncio.sleep(0.1)
        client.close()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


async def speed(url: str, clients: int, seconds: float) -> float:
    client = Client(url)
    answers, taken = await load(client, client.request(PATH, BODY), clients, seconds)
    client.close()
    told = summary(answers, taken)
    return float(told["requests_per_second"])


def measure(service: ServiceProcess, arguments: argparse.Namespace) -> dict[str, Any]:
    asyncio.run(speed(service.url, 1, 1))
    capacity = asyncio.run(speed(service.url, arguments.clients, arguments.measure))
    before = service.memory()
    rate, most = arguments.times * capacity / arguments.processes, arguments.open // arguments.processes
    watch = Watch(service)
    pipes, floods = [], []
    for _ in range(arguments.processes):
        receiving, sending = multiprocessing.Pipe(duplex=False)
        words = (service.url, rate, arguments.seconds, most, sending)
        floods.append(multiprocessing.Process(target=flood, args=words))
        floods[-1].start()
        pipes.append(receiving)
    told = [pipe.recv() for pipe in pipes]
    for process in floods:
        process.join()
    watch.end()
    time.sleep(2)
    after = asyncio.run(speed(service.url, arguments.clients, arguments.measure))
    statuses = sum((Counter(one["statuses"]) for one in told), Counter())
    return {
        "capacity_requests_per_second": capacity,
        "sent_per_second": round(sum(one["sent"] for one in told) / arguments.seconds, 1),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "unanswered": sum(one["sent"] for one in told) - sum(statuses.values()) + statuses[0],
        "slowest_refusal_ms": round(1000 * max(one["slowest_refusal"] for one in told), 1),
        "health_ms": {f"p{100 * q:g}": round(quantile(watch.health, q), 2) for q in (0.5, 0.99, 1)},
        "memory_mb": {
            name: {"before": round(value), "most": round(max(one.get(name, 0) for one in watch.memory))}
            for name, value in before.items()
        },
        "speed_after": round(after / capacity, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=float, default=50, help="of what the service grants")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--measure", type=float, default=10, help="seconds of finding the speed")
    parser.add_argument("--clients", type=int, default=64, help="when the speed is found")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--open", type=int, default=6000, help="requests that wait for an answer at a time")
    parser.add_argument("--queue", type=int, default=2048, help="pictures that may wait in the service")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = {"engine": {"queue": arguments.queue, "threads": 1}}
        with ServiceProcess(folder, write_models(folder), **settings) as service:
            print(json.dumps(measure(service, arguments), indent=2))


if __name__ == "__main__":
    main()
