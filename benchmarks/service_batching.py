"""Pictures per second for 64 clients that request one each, and for the bare network at its best batch size.

    python benchmarks/service_batching.py [--model NAME=FOLDER ...] [--seconds 20] [--rounds 3]
        [--threads 0]

Without --model: the untrained networks of gan-32 and transformer-32, which are as fast as trained ones. The
bare network is `family.sample` in its own process, with 16, 32, 64 or 128 rows at once, including the
conversion to bytes of pixels. `Model.sample` always computes the same number of rows, so that a picture does
not depend on its batch. The engine is called by tasks of this process, and the service over HTTP from a third
process. They take turns, so that other load on the machine affects all equally. --threads: of the service's
worker; 0 for all cores, as for the others.

A share is relative to the bare network at its best size. It includes the loss from chunks of fewer rows,
which `model_share` shows by itself. The time of a batch is that of as many pictures as there are clients,
from the bare network at its best.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from service_client import Client, load, quantile

from danqing import presets
from danqing.service.engine.orders import Order, rows_of
from danqing.service.engine.scheduler import Scheduler
from danqing.service.observability.metrics import Metrics
from danqing.service.settings import Limits, Settings

SIZES = (16, 32, 64, 128)
LABELS = ("circle", "square", "star")


def write_model(preset: str, folder: Path) -> Path:
    """Save a preset's untrained networks for 32×32 colour pictures with labels; return the folder."""
    import torch

    from danqing import families
    from danqing.model.model import Model

    shape = {"width": 32, "height": 32, "channels": 3}
    settings = presets.read(preset)
    config = {"family": settings["family"], **settings["model"], **shape, "labels": LABELS}
    if "tokenizer" in settings:
        first = presets.read(settings["tokenizer"]["preset"])
        config["tokenizer"] = {"family": first["family"], **first["model"], **shape}
    torch.manual_seed(0)
    family = families.build(families.parse_config(config))
    family.drop_training_only()
    model = Model(family)
    return model.save(folder, model.sample(1))


def bare(folder: str, seconds: float) -> None:
    """Print the pictures per second of the network by number of rows, and of `Model.sample`, as JSON."""
    import torch

    import danqing
    from danqing.images import to_uint8
    from danqing.model import conditions

    model = danqing.load(folder)
    family = model.family

    def network(seeds: list[int]) -> None:
        to_uint8(family.sample(conditions.drawn_condition(family.config, seeds), seeds=seeds)).cpu()

    def whole(seeds: list[int]) -> None:
        model.sample(seeds=seeds)

    ways = {f"bare_{size}": (network, size) for size in SIZES} | {"model": (whole, SIZES[-1])}
    rates = {}
    with torch.inference_mode():
        for name, (paint, size) in ways.items():
            paint(list(range(size)))  # the first call takes longest
            began, count = time.perf_counter(), 0
            while (passed := time.perf_counter() - began) < seconds / len(ways) or not count:
                count += size
                paint(list(range(count, count + size)))
            rates[name] = count / passed
    print(json.dumps(rates))


def measure_bare(folder: str, seconds: float) -> dict[str, float]:
    """Return pictures per second of the network by number of rows, and of the model."""
    command = [sys.executable, __file__, "--bare", folder, "--seconds", str(seconds)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    rates: dict[str, float] = json.loads(told)
    return rates


async def measure_engine(
    name: str, folder: str, clients: int, seconds: float, threads: int
) -> tuple[float, list[float], str]:
    """Return pictures per second of the engine, the time of each, and a prompt for the model."""
    engine = Scheduler(Settings(models={name: folder}, engine={"threads": threads}), Metrics())
    await engine.start()
    times: list[float] = []

    async def client(number: int, end: float) -> None:
        seed = number << 32
        while time.perf_counter() < end:
            began, seed = time.perf_counter(), seed + 1
            await engine.submit(Order(name, rows_of([seed]), owner=str(number))).painted()
            times.append(time.perf_counter() - began)

    async def crowd(seconds: float) -> float:
        began = time.perf_counter()
        await asyncio.gather(*(client(number, began + seconds) for number in range(clients)))
        return time.perf_counter() - began

    await crowd(min(2.0, seconds))  # the model is loaded and timed
    times.clear()
    passed = await crowd(seconds)
    await engine.stop(0)
    offer = engine.offers[name]
    prompt = {"text": offer.captions, "label": offer.labels, "none": ("",)}[offer.reads][0]
    return len(times) / passed, times, prompt


def measure_http(
    name: str, folder: str, prompt: str, clients: int, seconds: float, threads: int
) -> tuple[float, list[float]]:
    """Return pictures per second over HTTP, and the time of each; the clients are a separate process."""
    from service_process import ServiceProcess

    with tempfile.TemporaryDirectory() as place:
        limits, engine = Limits().model_dump(), {"threads": threads}
        with ServiceProcess(Path(place), {name: folder}, limits=limits, engine=engine) as service:
            command = [sys.executable, __file__, "--ask", service.url, "--prompt", prompt]
            command += ["--seconds", str(seconds)]
            told = subprocess.run(
                [*command, "--clients", str(clients)], check=True, stdout=subprocess.PIPE, text=True
            )
    passed, times = json.loads(told.stdout)
    return len(times) / passed, times


async def ask(url: str, prompt: str, clients: int, seconds: float) -> None:
    """Request pictures from a service, and print the total time and that of each, as JSON."""
    client = Client(url)
    request = client.request("/v1/images/generations", {"prompt": prompt, "n": 1})
    await load(client, request, clients, min(2.0, seconds))
    answers, passed = await load(client, request, clients, seconds)
    client.close()
    print(json.dumps([passed, [answer.seconds for answer in answers if answer.status == 200]]))


def compare(name: str, folder: str, arguments: argparse.Namespace) -> None:
    """Print the results of each way by round, and their medians."""
    rounds: list[dict[str, Any]] = []
    for number in range(arguments.rounds):
        rates = measure_bare(folder, arguments.seconds)
        size = max(SIZES, key=lambda size: rates[f"bare_{size}"])
        best = rates[f"bare_{size}"]
        batch_seconds = arguments.clients / best
        told: dict[str, Any] = {**rates, "model_share": rates["model"] / best}
        told |= {"bare_best": best, "bare_best_rows": size, "batch_ms": 1000 * batch_seconds}
        crowd = arguments.clients, arguments.seconds, arguments.threads
        rate, times, prompt = uvloop.run(measure_engine(name, folder, *crowd))
        ways = {"engine": (rate, times), "http": measure_http(name, folder, prompt, *crowd)}
        for way, (rate, times) in ways.items():
            told[way] = rate
            told[f"{way}_share"] = rate / best
            told[f"{way}_p99_batches"] = quantile(times, 0.99) / batch_seconds
        rounds.append(told)
        shown = {key: round(value, 3) for key, value in told.items()}
        print(json.dumps({"name": name, "round": number, **shown}), flush=True)
    medians = {key: round(statistics.median(told[key] for told in rounds), 3) for key in rounds[0]}
    print(json.dumps({"name": name, "median of": len(rounds), **medians}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--bare", default="", help=argparse.SUPPRESS)
    parser.add_argument("--ask", default="", help=argparse.SUPPRESS)
    parser.add_argument("--prompt", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        return bare(arguments.bare, arguments.seconds)
    if arguments.ask:
        return uvloop.run(ask(arguments.ask, arguments.prompt, arguments.clients, arguments.seconds))
    with tempfile.TemporaryDirectory() as place:
        models = dict(given.split("=", 1) for given in arguments.model)
        if not models:
            for preset in ("gan-32", "transformer-32"):
                models[preset] = str(write_model(preset, Path(place) / preset))
        for name, folder in models.items():
            compare(name, folder, arguments)


if __name__ == "__main__":
    main()
