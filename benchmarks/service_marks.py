"""Throughput of the service with marks on its pictures, as a share of that without.

    python benchmarks/service_marks.py [--marks eu] [--rounds 7] [--clients 32] [--requests 4]

Two services run on this machine with the networks of flow-64, which nobody trained: their speed is that of
trained ones. One marks its pictures and the other does not. Clients send requests for single pictures to one
service at a time, and the services take turns within each round, in changing order, so that other load on
the machine affects both. There are twice as many clients as pictures in a chunk, and each sends the same
number of requests, so that all chunks are full: otherwise the rates would tell how requests happened to meet.
The share of a round is marked / unmarked; its median is reported with all rounds, and the share by the
processor time of all processes of a service, which other programs disturb less.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
from pathlib import Path

from service_client import Client, load_of, summary
from service_process import ServiceProcess

from danqing import presets
from danqing.samplers import steps_for

SIDE = 64


def write_model(folder: Path) -> Path:
    """Save the untrained networks of flow-64 for 64×64 colour pictures; return the folder."""
    import torch

    from danqing import families
    from danqing.model.model import Model

    settings = presets.read("flow-64")
    shape = {"width": SIDE, "height": SIDE, "channels": 3}
    torch.manual_seed(0)
    family = families.build(families.parse_config({"family": "flow", **settings["model"], **shape}))
    family.drop_training_only()
    model = Model(family)
    return model.save(folder, model.sample(1))


async def measure(url: str, clients: int, each: int, evaluations: int) -> float:
    """Return pictures per second."""
    steps = steps_for(presets.read("flow-64")["model"]["sampler"], evaluations)
    client = Client(url)
    request = client.request("/v1/images/generations", {"prompt": "", "num_steps": steps})
    answers, passed = await load_of(client, request, clients, each)
    client.close()
    found = summary(answers, passed)
    if set(found["statuses"]) != {200}:
        raise SystemExit(f"The service answers {found['statuses']}.")
    return len(answers) / passed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--marks", default="eu", help="as in danqing serve --marks")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=4, help="of each client in a run")
    parser.add_argument("--evaluations", type=int, default=24, help="of the network for each picture")
    parser.add_argument("--threads", type=int, default=0, help="of each worker; 0 is one per core")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["DANQING_TRUST"] = str(Path(place) / "trust")
        models = {"flow": str(write_model(Path(place) / "model"))}
        services = {}
        for marks in ("none", chosen.marks):
            folder = Path(place) / ("plain" if marks == "none" else "marked")
            folder.mkdir()
            services[marks] = ServiceProcess(folder, models, marks=marks, engine={"threads": chosen.threads})
        rates: dict[str, list[float]] = {marks: [] for marks in services}
        used = dict.fromkeys(services, 0.0)
        with services["none"], services[chosen.marks]:
            for service in services.values():  # the model is loaded and timed
                asyncio.run(measure(service.url, chosen.clients, 1, chosen.evaluations))
            for number in range(chosen.rounds):
                for marks in list(services)[:: 1 if number % 2 else -1]:
                    before = services[marks].processor_seconds()
                    run = measure(services[marks].url, chosen.clients, chosen.requests, chosen.evaluations)
                    rates[marks].append(asyncio.run(run))
                    used[marks] += services[marks].processor_seconds() - before
    shares = [marked / plain for plain, marked in zip(rates["none"], rates[chosen.marks], strict=True)]
    found = {
        "marks": chosen.marks,
        "evaluations": chosen.evaluations,
        "clients": chosen.clients,
        "images_per_second": {marks: round(statistics.median(each), 2) for marks, each in rates.items()},
        "shares": [round(share, 4) for share in shares],
        "share": round(statistics.median(shares), 4),
        "share_by_processor_time": round(used["none"] / used[chosen.marks], 4),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
