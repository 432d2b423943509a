"""Pictures per second and latency of a service with several workers, and of one with a single worker.

    python benchmarks/service_workers.py [--workers 2] [--threads 1] [--clients 32] [--n 4] [--seconds 10]
        [--rounds 3]

Both services run all the time, and take turns, so that other load on the machine affects both equally. Each
worker has the same number of threads, on processors of its own. The model is an untrained transformer of the
size of the preset transformer-32, which computes 32 pictures at once: let clients times n be at least that
for each worker. The clients and the HTTP processes use the same cores as the workers.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from service_client import Client, load, summary
from service_process import ServiceProcess, write_models


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what one service answers to clients for some seconds."""
    client = Client(url)
    body = {"model": "painter", "prompt": "star", "n": options.n}
    answers, seconds = await load(
        client, client.request("/v1/images/generations", body), options.clients, options.seconds
    )
    client.close()
    told = summary(answers, seconds)
    return {"images_per_second": round(told.pop("requests_per_second") * options.n, 1), **told}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Return medians over the rounds by number of workers, and the ratio of the pictures per second."""
    rounds: dict[int, list[dict[str, Any]]] = {1: [], options.workers: []}
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        models = {"painter": write_models(folder / "models")["painter"]}
        services = {}
        for workers in rounds:
            engine = {"workers": workers, "threads": options.threads, "device": "cpu"}
            (folder / str(workers)).mkdir()
            service = ServiceProcess(folder / str(workers), models, engine=engine, limits={"n": options.n})
            services[workers] = running.enter_context(service)
        for number in range(options.rounds + 1):
            for workers, service in services.items():
                told = asyncio.run(measure(service.url, options))
                if number:  # the first round loads the models
                    rounds[workers].append(told)
    medians = {
        workers: {
            name: statistics.median(told[name] for told in found)
            for name in ("images_per_second", "p50_ms", "p95_ms")
        }
        for workers, found in rounds.items()
    }
    ratios = [
        many["images_per_second"] / one["images_per_second"]
        for one, many in zip(rounds[1], rounds[options.workers], strict=True)
    ]
    return {
        "workers": medians,
        "statuses": [told["statuses"] for found in rounds.values() for told in found],
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--n", type=int, default=4, help="pictures of a request")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.workers < 2:
        parser.error("--workers must be at least 2")
    print(json.dumps(compare(options), indent=2))


if __name__ == "__main__":
    main()
