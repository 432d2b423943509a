"""Effects of a flood of requests on the service: memory, health, answers, and the speed afterwards.

python benchmarks/service_flood.py [--times 50] [--seconds 60] [--edit-megabytes 8]

First the benchmark measures how many requests per second the service answers. Then several processes send
`times` as many, whether earlier ones are answered or not. Two to four seconds after the last one, the speed
is measured again. With --edit-megabytes the requests are edits of pictures of that size, in JSON. The exit
status is 1 if a limit is exceeded.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import math
import multiprocessing
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from service_client import Client, load, quantile, summary
from service_process import ServiceProcess, write_models

from danqing import images

BODY = {"model": "painter", "prompt": "star", "n": 10}
TICK = 0.02
HEALTH_MS = 100.0
RECOVERY = (2.0, 4.0)  # seconds after the flood
FULL_SPEED = 0.9  # of the speed before: two seconds are not more precise
AS_ASKED = 0.95
MEGABYTES = 512.0  # that the server may grow by


def what_is_asked(megabytes: float) -> tuple[str, dict[str, Any]]:
    """Path and body of the requests."""
    if not megabytes:
        return "/v1/images/generations", BODY
    side = math.isqrt(round(megabytes * 1e6 / 3))
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 4), dtype=np.uint8)
    pixels[:, :, 3] = 255
    pixels[: side // 2, :, 3] = 0
    packed = base64.b64encode(images.encode(pixels, "png")).decode()
    reference = {"image_url": f"data:image/png;base64,{packed}"}
    return "/v1/images/edits", {"model": "masked", "prompt": "star", "images": [reference], "size": "16x16"}


def flood(
    url: str, rate: float, seconds: float, most: int, asked: tuple[str, dict[str, Any]], results: Connection
) -> None:
    """Send `rate` requests per second, at most `most` at a time; print their number, then the answers."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
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
        request = client.request(*asked)
        began = time.perf_counter()
        open_ones: set[asyncio.Task[None]] = set()
        while (now := time.perf_counter() - began) < seconds:
            for _ in range(min(int(rate * now) - sent, most - len(open_ones))):
                task = asyncio.create_task(one(client, request))
                open_ones.add(task)
                task.add_done_callback(open_ones.discard)
                sent += 1
            await asyncio.sleep(TICK)
        results.send(sent)
        await asyncio.gather(*open_ones)
        client.close()
        return sent

    sent = asyncio.run(all_of_them())
    results.send({"sent": sent, "statuses": dict(statuses), "slowest_refusal": slowest_refusal})


class Watch:
    """Checks health and memory ten times a second."""

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


async def speed(url: str, clients: int, seconds: float, asked: tuple[str, dict[str, Any]]) -> float:
    client = Client(url)
    answers, taken = await load(client, client.request(*asked), clients, seconds)
    client.close()
    told = summary(answers, taken)
    return float(told["requests_per_second"])


async def granted(url: str) -> float:
    """Return how many requests for pictures were answered until now."""
    client = Client(url)
    answer = await client.send(client.request("/metrics"))
    client.close()
    lines = [line for line in answer.body.decode().splitlines() if line.startswith("danqing_requests_total{")]
    chosen = [line for line in lines if 'route="/v1/images/' in line and 'status="200"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in chosen)


async def recovery(url: str, clients: int, asked: tuple[str, dict[str, Any]]) -> float:
    """Measure answered requests per second soon after a flood, including those of the flood still queued."""
    await asyncio.sleep(RECOVERY[0])
    began, first = time.perf_counter(), await granted(url)
    client = Client(url)
    asking = asyncio.create_task(load(client, client.request(*asked), clients, RECOVERY[1] - RECOVERY[0]))
    await asyncio.sleep(RECOVERY[1] - RECOVERY[0])
    last, ended = await granted(url), time.perf_counter()
    await asking
    client.close()
    return (last - first) / (ended - began)


def measure(service: ServiceProcess, arguments: argparse.Namespace) -> dict[str, Any]:
    asked = what_is_asked(arguments.edit_megabytes)
    asyncio.run(speed(service.url, 1, 1, asked))
    capacity = asyncio.run(speed(service.url, arguments.clients, arguments.measure, asked))
    before = service.memory()
    rate, most = arguments.times * capacity / arguments.processes, arguments.open // arguments.processes
    watch = Watch(service)
    pipes, floods = [], []
    for _ in range(arguments.processes):
        receiving, sending = multiprocessing.Pipe(duplex=False)
        words = (service.url, rate, arguments.seconds, most, asked, sending)
        floods.append(multiprocessing.Process(target=flood, args=words))
        floods[-1].start()
        pipes.append(receiving)
    sent = sum(pipe.recv() for pipe in pipes)
    after = asyncio.run(recovery(service.url, arguments.clients, asked))
    told = [pipe.recv() for pipe in pipes]
    for process in floods:
        process.join()
    watch.end()
    statuses = sum((Counter(one["statuses"]) for one in told), Counter())
    return {
        "capacity_requests_per_second": capacity,
        "asked_per_second": round(arguments.times * capacity, 1),
        "sent_per_second": round(sent / arguments.seconds, 1),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "unanswered": sent - sum(statuses.values()) + statuses[0],
        "slowest_refusal_ms": round(1000 * max(one["slowest_refusal"] for one in told), 1),
        "health_ms": {f"p{100 * q:g}": round(quantile(watch.health, q), 2) for q in (0.5, 0.99, 1)},
        "memory_mb": {
            name: {"before": round(value), "most": round(max(one.get(name, 0) for one in watch.memory))}
            for name, value in before.items()
        },
        "speed_after": round(after / capacity, 3),
    }


def bounds(found: dict[str, Any]) -> dict[str, bool]:
    """Check each limit."""
    server = found["memory_mb"]["server"]
    return {
        f"sent at least {AS_ASKED:.0%} of the planned requests": (
            found["sent_per_second"] >= AS_ASKED * found["asked_per_second"]
        ),
        f"health within {HEALTH_MS:g} ms": found["health_ms"]["p100"] <= HEALTH_MS,
        f"memory within {MEGABYTES:g} MB more": server["most"] - server["before"] <= MEGABYTES,
        "all answered 200 or 429": set(found["statuses"]) <= {"200", "429"} and not found["unanswered"],
        f"full speed within {RECOVERY[0]:g} s": found["speed_after"] >= FULL_SPEED,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=float, default=50, help="multiple of the service's own speed")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--measure", type=float, default=10, help="seconds to measure the speed")
    parser.add_argument("--clients", type=int, default=64, help="while the speed is measured")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--edit-megabytes", type=float, default=0, help="0: request generations")
    parser.add_argument("--open", type=int, default=20_000, help="requests that wait for an answer at a time")
    parser.add_argument("--queue", type=int, default=2048, help="pictures that may wait in the service")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings: dict[str, Any] = {"engine": {"queue": arguments.queue, "threads": 1}}
        if arguments.edit_megabytes:
            settings["limits"] = {"body_bytes": 32 * 1024**2, "bytes_in_flight": 128 * 1024**2}
        with ServiceProcess(folder, write_models(folder), **settings) as service:
            found = measure(service, arguments)
    kept = bounds(found)
    print(json.dumps(found | {"bounds": kept}, indent=2))
    if not all(kept.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
