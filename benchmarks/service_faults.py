"""Breaks the service under load: no accepted job may be lost, and no incomplete picture served.

    python benchmarks/service_faults.py [kills] [pair] [disk] [database] [--times 50] [--interval 2]
        [--clients 8]

kills: kill -9 of the worker and of the server in turns, `times` each. pair: the same of each of two services
that share PostgreSQL (the system's package); clients send each request to the next one. disk: the file system
of the service's data is full again and again (a tmpfs of 24 MB; needs root). database: PostgreSQL crashes and
comes back. Meanwhile clients submit jobs with idempotency keys, and retry until they are accepted; other
clients request pictures directly, as base64 and as addresses. At the end every accepted job must have
succeeded, with one last event, and no server may have finished a job that another server had taken over.
Every served picture must be complete and have the pixels of its seed. Requests may fail only if a connection
broke, or, for addresses (507), while the disk is full. The last line is JSON; the exit status is 1 if
something was lost.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import io
import itertools
import json
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from PIL import Image
from service_process import LABELS, ServiceProcess, free_port, is_root, write_models

SEEDS, N = 16, 3
FINAL = ("succeeded", "failed", "cancelled")
IN_VAIN = "a painted job had been cancelled, or taken over by another server"
Fault = Callable[[ServiceProcess, int], Awaitable[None]]


def asked(seed: int) -> dict[str, Any]:
    return {"model": "masked", "prompt": LABELS[seed % len(LABELS)], "n": N, "seed": seed}


def digest(content: bytes) -> str:
    """Hash the pixels of a file; raise if it is incomplete."""
    with Image.open(io.BytesIO(content)) as picture:
        return hashlib.sha256(np.asarray(picture).tobytes()).hexdigest()


@dataclass
class Load:
    """Clients that continue whatever happens, and the answers that they received.

    urls: of the services, which answer in turns.
    """

    urls: Sequence[str]
    interval: float
    expected: dict[int, list[str]] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    over: bool = False
    requests: int = 0

    @property
    def url(self) -> str:
        """Return the service that receives the next request."""
        self.requests += 1
        return self.urls[self.requests % len(self.urls)]

    async def learn(self, client: httpx.AsyncClient) -> None:
        """Record the pictures of each seed before anything breaks."""
        for seed in range(SEEDS):
            answer = await client.post(f"{self.url}/v1/images/generations", json=asked(seed))
            answer.raise_for_status()
            self.expected[seed] = [digest(one) for one in files(answer.json())]

    async def submit(self, client: httpx.AsyncClient) -> None:
        """Submit job after job; retry each with its key until it is accepted."""
        for seed in itertools.cycle(range(SEEDS)):
            headers = {"idempotency-key": str(uuid.uuid4())}
            body = {"endpoint": "generations", "body": asked(seed)}
            while True:
                answer = await self._post(client, "jobs", body, headers)
                if answer is not None and answer.status_code in (200, 202):
                    self.accepted[answer.json()["id"]] = seed
                    break
                if self.over:
                    return
                await asyncio.sleep(0.1)
            if self.over:
                return
            await asyncio.sleep(self.interval / 10)

    async def paint(self, client: httpx.AsyncClient, response_format: str) -> None:
        """Request picture after picture, and check each."""
        for seed in itertools.cycle(range(SEEDS)):
            if self.over:
                return
            body = {**asked(seed), "response_format": response_format}
            answer = await self._post(client, "images/generations", body)
            if answer is None or answer.status_code != 200:
                await asyncio.sleep(0.1)
                continue
            found: list[bytes | None] = list(files(answer.json()))
            for one in answer.json()["data"] if response_format == "url" else ():
                found.append(None)
                with contextlib.suppress(httpx.HTTPError):
                    shown = await client.get(f"{self.url}{urlsplit(one['url']).path}")
                    if shown.status_code == 200:
                        found[-1] = shown.content
            self.compare(f"{response_format} of seed {seed}", seed, found)

    def compare(self, what: str, seed: int, found: Sequence[bytes | None]) -> None:
        """Record pictures that are missing, incomplete, or not those of the seed in their order.

        None: a picture that could not be fetched because the service was down.
        """
        if len(found) != N:
            self.wrong.append(f"{what}: {len(found)} pictures of {N}")
        for number, (content, expected) in enumerate(zip(found, self.expected[seed], strict=False)):
            try:
                if content is not None and digest(content) != expected:
                    self.wrong.append(f"{what}: other pixels in picture {number}")
            except Exception as error:
                self.wrong.append(f"{what}: {type(error).__name__} {error}")

    async def settle(self, client: httpx.AsyncClient, seconds: float) -> dict[str, Any]:
        """Wait for the accepted jobs, check each, and return their outcomes."""
        ends: Counter[str] = Counter()
        attempts: Counter[int] = Counter()
        deadline = time.monotonic() + seconds
        for job, seed in self.accepted.items():
            told = await self._ended(client, job, deadline)
            ends[told["status"]] += 1
            if told["status"] != "succeeded":
                self.wrong.append(f"job {job}: {told['status']} {told.get('error')}")
                continue
            attempts[told["attempts"]] += 1
            found = [
                (await client.get(f"{self.url}/v1/jobs/{job}/images/{number}")).content for number in range(N)
            ]
            self.compare(f"job {job}", seed, found)
            events = (await client.get(f"{self.url}/v1/jobs/{job}/events")).text
            last = [line for line in events.splitlines() if line in [f"event: job.{end}" for end in FINAL]]
            if last != ["event: job.succeeded"]:
                self.wrong.append(f"job {job}: ended as {last}")
        return {"accepted": len(self.accepted), **ends, "attempts": dict(sorted(attempts.items()))}

    async def _ended(self, client: httpx.AsyncClient, job: str, deadline: float) -> dict[str, Any]:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                answer = await client.get(f"{self.url}/v1/jobs/{job}")
                if answer.status_code == 404:
                    return {"status": "lost"}
                if answer.status_code == 200 and answer.json()["status"] in FINAL:
                    told: dict[str, Any] = answer.json()
                    return told
            if time.monotonic() > deadline:
                return {"status": "unfinished"}
            await asyncio.sleep(0.2)

    async def _post(
        self,
        client: httpx.AsyncClient,
        path: str,
        body: dict[str, Any],
        headers: dict[str, str] | None = None,
    ) -> httpx.Response | None:
        try:
            answer = await client.post(f"{self.url}/v1/{path}", json=body, headers=headers)
        except httpx.HTTPError as error:
            self.statuses[f"{path} {type(error).__name__}"] += 1
            return None
        self.statuses[f"{path} {answer.status_code}"] += 1
        if path == "images/generations" and answer.status_code >= 500 and answer.status_code != 507:
            self.wrong.append(f"{path}: {answer.status_code} {answer.text[:200]}")
        if answer.status_code >= 400 and set(answer.json().get("error", ())) != {
            "message",
            "type",
            "param",
            "code",
        }:
            self.wrong.append(f"{path}: {answer.status_code} in another shape")
        return answer


def files(answer: dict[str, Any]) -> list[bytes]:
    return [base64.b64decode(one["b64_json"]) for one in answer["data"] if one.get("b64_json")]


async def kill(service: ServiceProcess, number: int) -> None:
    """Kill the worker and the server in turns."""
    if number % 2:
        await asyncio.to_thread(service.kill)
        await asyncio.to_thread(service.start)
    else:
        while not service.kill_worker():  # the next one is just being started
            await asyncio.sleep(0.1)


async def under_load(
    services: Sequence[ServiceProcess], fault: Fault, options: argparse.Namespace, times: int
) -> dict[str, Any]:
    """Let clients work while faults happen to services in turns; return what was accepted, lost and wrong."""
    load = Load([service.url for service in services], options.interval)
    limits = httpx.Limits(max_connections=4 * options.clients + 8)
    async with httpx.AsyncClient(timeout=60, limits=limits) as client:
        await load.learn(client)
        clients = [asyncio.create_task(load.submit(client)) for _ in range(options.clients)]
        clients += [
            asyncio.create_task(load.paint(client, kind))
            for kind in ("b64_json", "url")
            for _ in range(options.clients // 2)
        ]
        for number in range(times):
            await asyncio.sleep(options.interval)
            await fault(services[number // 2 % len(services)], number)
            if number % 10 == 9:
                print(f"{number + 1} faults, {len(load.accepted)} jobs, {dict(load.statuses)}", flush=True)
        await asyncio.sleep(options.interval)
        load.over = True
        await asyncio.gather(*clients)
        jobs = await load.settle(client, options.patience)
    load.wrong += [line.strip() for service in services for line in service.lines() if IN_VAIN in line]
    for one in load.wrong[:20]:
        print(one)
    return {
        "faults": times,
        "jobs": jobs,
        "statuses": dict(sorted(load.statuses.items())),
        "wrong": len(load.wrong),
    }


async def kills(folder: Path, models: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """Kill processes in the middle of their work."""
    with ServiceProcess(folder, models, free_port(), engine={"threads": 1}) as service:
        return await under_load([service], kill, options, 2 * options.times)


@contextlib.asynccontextmanager
async def small_disk(folder: Path) -> AsyncIterator[Path]:
    """Mount a file system of 24 MB."""
    if not is_root():
        raise SystemExit("Mounting a small file system takes root: leave out disk.")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def disk(folder: Path, models: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """Fill the disk for a while, and free it again."""

    async with small_disk(folder / "small") as small:

        async def fill(service: ServiceProcess, number: int) -> None:
            filler = small / "filler"
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(bytes(65536)):
                    pass
            await asyncio.sleep(options.interval)
            async with httpx.AsyncClient(timeout=60) as client:
                answer = await client.post(f"{service.url}/v1/images/generations", json=asked(0))
                answer.raise_for_status()  # painting does not need the disk
            filler.unlink()

        settings = {"engine": {"threads": 1}, "data": str(small / "data")}
        with ServiceProcess(folder, models, free_port(), **settings) as service:
            return await under_load([service], fill, options, max(1, options.times // 10))


@contextlib.contextmanager
def postgresql() -> Iterator[Any]:
    """Start a PostgreSQL of the system's package."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.service.postgresql import Server, programs

    found = programs()
    if found is None:
        raise SystemExit("There is no PostgreSQL here: install it, or leave out pair and database.")
    server = Server(found)
    try:
        server.start()
        yield server
    finally:
        server.remove()


async def pair(folder: Path, models: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """Kill processes of two services that share a database."""
    with contextlib.ExitStack() as running:
        settings = {"engine": {"threads": 1}, "database": running.enter_context(postgresql()).new_database()}
        services = []
        for name in ("one", "two"):
            (folder / name).mkdir()
            service = ServiceProcess(folder / name, models, free_port(), **settings)
            services.append(running.enter_context(service))
        return await under_load(services, kill, options, 4 * options.times)


async def database(folder: Path, models: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """Crash the database, and start it again after a while."""
    with postgresql() as server:

        async def crash(service: ServiceProcess, number: int) -> None:
            await asyncio.to_thread(server.stop)
            await asyncio.sleep(options.interval)
            await asyncio.to_thread(server.start)

        settings = {"engine": {"threads": 1}, "database": server.new_database()}
        with ServiceProcess(folder, models, free_port(), **settings) as service:
            return await under_load([service], crash, options, max(1, options.times // 5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parts = {"kills": kills, "pair": pair, "disk": disk, "database": database}
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(parts)}; all")
    parser.add_argument(
        "--times",
        type=int,
        default=50,
        help="kills of each process; a fifth of it crashes, a tenth full disks",
    )
    parser.add_argument("--interval", type=float, default=2.0, help="seconds between faults")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--patience", type=float, default=600.0, help="seconds for accepted jobs to end")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"there is no {', '.join(unknown)}")
    results = {}
    for name in options.parts or parts:
        with tempfile.TemporaryDirectory() as folder:
            models = write_models(Path(folder) / "models")
            results[name] = asyncio.run(parts[name](Path(folder), models, options))
        print(json.dumps({name: results[name]}), flush=True)
    print(json.dumps(results))
    sys.exit(1 if any(result["wrong"] for result in results.values()) else 0)


if __name__ == "__main__":
    main()
