"""Services that compute with PyTorch, ONNX Runtime and OpenVINO: speed, pictures, start and memory.

    python benchmarks/service_runtime.py [--presets gan-32 flow-32] [--rounds 5] [--seconds 4] [--threads 1]
        [--python /opt/danqing/bin/python]

The untrained networks of each preset are served by three services at once, which are asked in turns and in
changing order, so that other load on the machine affects all: by --clients at a time for pictures per second,
and by one client for the time of a picture. PyTorch computes as the service does by default, in bfloat16
where the family chooses so; the exports are ONNX in float32 and OpenVINO in bfloat16. Ratios to PyTorch are
medians over rounds. `pixels` compares 32 pictures of each service with those of PyTorch in float32: the
largest difference in levels of 255, the share of equal values, and the share of pictures that differ by more
than one level.

Then each service is started --starts times: the seconds from the start of its process to the first picture by
HTTP, after a start that created its database, the best of them; the processor seconds of all its processes
until then; and their resident memory then, beyond the files of the model, where pages that processes share
count once (PSS). Services that run without PyTorch are also checked not to hold it; --python: of another
environment for them, such as one with the packages of deploy/Dockerfile.slim.
"""

import argparse
import asyncio
import base64
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import tomli_w
from numpy.typing import NDArray
from PIL import Image
from service_batching import write_model
from service_client import Client, load, quantile
from service_process import ServiceProcess, free_port

import danqing as dq


def folders_of(preset: str, folder: Path) -> dict[str, Path]:
    """Save the networks of a preset and their exports; return the folder for each service."""
    model = write_model(preset, folder / "torch")
    return {
        "torch": model,
        "onnx float32": dq.export(model, folder / "onnx", to="onnx"),
        "openvino bf16": dq.export(model, folder / "openvino", to="openvino", precision="bf16"),
    }


@contextlib.contextmanager
def running(folder: Path, models: dict[str, Path], threads: int) -> Iterator[dict[str, ServiceProcess]]:
    """Start a service for each model."""
    with contextlib.ExitStack() as stack:
        found = {}
        for name, model in models.items():
            place = folder / name
            place.mkdir()
            patient: dict[str, Any] = {
                "engine": {"threads": threads, "queue_seconds": 3600.0},
                "limits": {"seconds": 3600.0},
            }
            service = ServiceProcess(place, {"painter": str(model)}, marks="none", **patient)
            found[name] = stack.enter_context(service)
        yield found


async def speeds(services: dict[str, ServiceProcess], arguments: argparse.Namespace) -> dict[str, Any]:
    """Ask the services in turns; return pictures per second, milliseconds, and ratios."""
    clients = {name: Client(service.url) for name, service in services.items()}
    body = {"model": "painter", "prompt": "star", "seed": 1}
    requests = {name: client.request("/v1/images/generations", body) for name, client in clients.items()}
    rates: dict[str, list[float]] = {name: [] for name in services}
    waits: dict[str, list[float]] = {name: [] for name in services}
    for name, client in clients.items():
        for _ in range(3):
            answer = await client.send(requests[name])
            assert answer.status == 200, answer.body
    for number in range(arguments.rounds):
        order = list(services)[number % len(services) :] + list(services)[: number % len(services)]
        for name in order:
            asked = requests[name]
            answers, seconds = await load(clients[name], asked, arguments.clients, arguments.seconds)
            assert {answer.status for answer in answers} == {200}, answers
            rates[name].append(len(answers) / seconds)
            alone, _ = await load(clients[name], asked, 1, arguments.seconds / 4)
            waits[name].append(quantile([answer.seconds for answer in alone], 0.5) * 1000)
    for client in clients.values():
        client.close()

    def ratio(values: dict[str, list[float]], name: str) -> float:
        pairs = zip(values[name], values["torch"], strict=True)
        return round(statistics.median(own / base for own, base in pairs), 2)

    return {
        name: {
            "pictures_per_second": round(statistics.median(rates[name]), 1),
            "ratio": ratio(rates, name),
            "milliseconds": round(statistics.median(waits[name]), 1),
            "milliseconds_ratio": ratio(waits, name),
        }
        for name in services
    }


def pixels(services: dict[str, ServiceProcess]) -> dict[str, Any]:
    """Compare the pictures of the services with those of PyTorch in float32."""

    def painted(name: str, **options: Any) -> NDArray[np.int64]:
        told = {"model": "painter", "prompt": "star", "n": 8, **options}
        url = services[name].url
        answers = [
            httpx.post(f"{url}/v1/images/generations", json={**told, "seed": seed}, timeout=300)
            for seed in range(4)
        ]
        files = [base64.b64decode(one["b64_json"]) for answer in answers for one in answer.json()["data"]]
        return np.stack([np.asarray(Image.open(io.BytesIO(file)), np.int64) for file in files])

    described = httpx.get(f"{services['torch'].url}/v1/models/painter").json()
    exact = {"precision": "float32"} if "precision" in described["options"] else {}
    reference = painted("torch", **exact)
    found = {}
    for name in services:
        apart = np.abs(painted(name) - reference)
        found[name] = {
            "largest": int(apart.max()),
            "equal_values": round(float((apart == 0).mean()), 4),
            "pictures_beyond_one_level": round(float((apart.max((1, 2, 3)) > 1).mean()), 3),
        }
    return found


def start_of(folder: Path, model: Path, arguments: argparse.Namespace, *, has_torch: bool) -> dict[str, Any]:
    """Start a service several times; return the seconds to its first picture, and its memory then."""
    python = sys.executable if has_torch else arguments.python
    files = sum(file.stat().st_size for file in model.iterdir()) / 1e6
    found = [first_picture(folder, model, arguments.threads, python) for _ in range(arguments.starts + 1)][1:]
    assert has_torch or not any(one["has_torch"] for one in found)
    memory = found[-1]["memory"]
    return {
        "seconds": round(min(one["seconds"] for one in found), 2),
        "processor_seconds": round(min(one["processor_seconds"] for one in found), 2),
        "megabytes_of_files": round(files, 1),
        "megabytes_beyond_model": round(sum(memory.values()) - files, 1),
        **{f"megabytes_of_{name}": round(value, 1) for name, value in memory.items()},
    }


def first_picture(folder: Path, model: Path, threads: int, python: str) -> dict[str, Any]:
    """Start a service, and ask for a picture until there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "service.toml"
    told = {"models": {"painter": str(model)}, "port": port, "data": "data", "marks": "none"}
    config.write_text(tomli_w.dumps({**told, "engine": {"threads": threads}}))
    asked = Client(f"http://127.0.0.1:{port}")
    request = asked.request("/v1/images/generations", {"model": "painter", "prompt": "star"})

    async def ask() -> None:
        while (await asked.send(request)).status != 200:
            assert process.poll() is None
            await asyncio.sleep(0.005)
        asked.close()

    began = time.perf_counter()
    command = [python, "-m", "danqing", "serve", "--config", str(config)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        asyncio.run(ask())
        seconds = time.perf_counter() - began
        every = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        times = [one.cpu_times() for one in every]
        names = ("server", "worker")
        return {
            "seconds": seconds,
            "processor_seconds": sum(one.user + one.system for one in times),
            "memory": {n: p.memory_full_info().pss / 1e6 for n, p in zip(names, every, strict=True)},
            "has_torch": any("torch" in Path(f"/proc/{one.pid}/maps").read_text() for one in every),
        }
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", default=["gan-32", "flow-32"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--python", default=sys.executable)
    arguments = parser.parse_args()
    for preset in arguments.presets:
        with tempfile.TemporaryDirectory() as folder:
            models = folders_of(preset, Path(folder) / "models")
            with running(Path(folder), models, arguments.threads) as services:
                found = asyncio.run(speeds(services, arguments))
                levels = pixels(services)
            starts = {
                name: start_of(Path(folder) / f"start {name}", model, arguments, has_torch=name == "torch")
                for name, model in models.items()
            }
            print(
                json.dumps({"preset": preset, "speed": found, "pixels": levels, "start": starts}, indent=2),
                flush=True,
            )


if __name__ == "__main__":
    main()
