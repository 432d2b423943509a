"""What the service adds to a pipeline of diffusers: milliseconds of a request, and pictures per second.

python benchmarks/service_pipeline.py [--rounds N] [--requests N]

A tiny Stable Diffusion with random weights, written by tests/tiny_pipelines.py, is called directly in this
process and served by another, in turns, with one thread each and the same number of steps: few for the
overhead, where the service would be lost in the noise, and ten for the throughput. The overhead is
the difference of the times of one request after another, the PNG included: of the shortest ones, which other
work on the machine disturbs least, and of the processor time of all, which it does not lengthen. The
throughput is that of eight clients against the pipeline alone at the batch size that is best for it, both in
pictures per second and per second of processor time.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from service_client import Client, load_of
from service_process import ServiceProcess

from danqing.pipelines.components import silent
from tests.tiny_pipelines import written

ONE_STEPS, STEPS = 2, 10
BATCHES = (1, 2, 4, 8, 16)
CLIENTS = 8


def bare(folder: Path) -> Callable[..., float]:
    """Return a function that calls the pipeline with a batch size and returns the seconds."""
    import diffusers

    with silent():
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)

    def seconds(batch: int, steps: int = STEPS) -> float:
        generators = [torch.Generator().manual_seed(seed) for seed in range(batch)]
        began = time.perf_counter()
        with torch.no_grad():
            pipe(["a cat"] * batch, num_inference_steps=steps, generator=generators, output_type="np")
        return time.perf_counter() - began

    return seconds


async def ready(client: Client, request: bytes) -> None:
    """Wait until a model has painted."""
    while (await client.send(request)).status != 200:
        await asyncio.sleep(0.2)


class Speed:
    """Pictures, and the seconds and the processor time that they took."""

    def __init__(self) -> None:
        self.each: list[float] = []
        self.pictures = 0
        self.processor = 0.0

    def add(self, pictures: int, seconds: float, processor: float) -> None:
        """Count some pictures that were made together."""
        self.each.append(seconds / pictures)
        self.pictures += pictures
        self.processor += processor

    def told(self) -> dict[str, float]:
        """Return the shortest and the median time of a picture, and the processor time, in milliseconds."""
        found = min(self.each), statistics.median(self.each), self.processor / self.pictures
        return dict(
            zip(
                ("shortest_ms", "median_ms", "processor_ms"), (round(1000 * x, 2) for x in found), strict=True
            )
        )


def timed(work: Callable[[], float]) -> tuple[float, float]:
    """Return the seconds that work reports, and its processor time."""
    before = time.process_time()
    return work(), time.process_time() - before


async def measure(
    service: ServiceProcess, call: Callable[..., float], arguments: argparse.Namespace
) -> dict[str, Any]:
    client = Client(service.url)

    def request(model: str, steps: int) -> bytes:
        body = {"model": model, "prompt": "a cat", "num_steps": steps, "seed": 1}
        return client.request("/v1/images/generations", body)

    one, many = request("one", ONE_STEPS), request("many", STEPS)
    await ready(client, one)
    await ready(client, many)
    alone = {batch: Speed() for batch in BATCHES}
    direct, served, shared = Speed(), Speed(), Speed()

    for batch in BATCHES:
        call(batch)
    for _ in range(arguments.rounds):
        before = service.processor_seconds()
        for _ in range(4 * arguments.requests):
            direct.add(1, *timed(lambda: call(1, ONE_STEPS)))
            served.add(1, (await client.send(one)).seconds, 0.0)
        served.processor += service.processor_seconds() - before
        for batch, speed in alone.items():
            speed.add(batch, *timed(lambda batch=batch: call(batch)))  # type: ignore[misc]
        before = service.processor_seconds()
        answers, seconds = await load_of(client, many, CLIENTS, arguments.requests)
        assert all(answer.status == 200 for answer in answers)
        shared.add(len(answers), seconds, service.processor_seconds() - before)
    client.close()
    without, through, together = direct.told(), served.told(), shared.told()
    of_each = {batch: speed.told() for batch, speed in alone.items()}
    best = {name: min(told[name] for told in of_each.values()) for name in without}
    return {
        "bare, one by one": without,
        "bare, by batch size": of_each,
        "served one by one": through,
        "served to eight clients": together,
        "overhead of a request": {name: round(through[name] - without[name], 2) for name in without},
        "share of the best throughput": {name: round(best[name] / together[name], 3) for name in without},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = written("sd1", Path(name) / "sd")
        models = {"one": str(folder), "many": f"{folder},chunk={CLIENTS}"}
        # An idle worker waits for the clients of the last batch, which do not answer at the same moment.
        engine = {"threads": 1, "device": "cpu", "window": 0.05}
        with ServiceProcess(Path(name), models, marks="none", engine=engine) as service:
            print(json.dumps(asyncio.run(measure(service, bare(folder), arguments)), indent=2))


if __name__ == "__main__":
    main()
