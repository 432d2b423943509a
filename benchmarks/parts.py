"""What a process holds when parameters are in parts, and what gathering them costs.

    python benchmarks/parts.py --presets flow-32 transformer-32 --steps 4 --turns 3

First, for each preset: its parameters, the share of them that lies in blocks, and how many copies of all
weights the fullest of several processes holds between steps, as weights, average and state of AdamW or Muon.
Then two processes take steps with the same grains, in turns with whole parameters and in parts. Processor
time leaves out waiting, but gloo copies what it sends on the processor.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import torch

from danqing import families, weights
from danqing.cluster.launch import launch
from danqing.cluster.place import Place
from danqing.cluster.world import joined, world
from danqing.data import Batches, open_dataset
from danqing.training import optimizers
from danqing.training.config_reading import resolve
from danqing.training.engine import Engine
from danqing.training.grains import Grains
from danqing.training.parts import blocks_of

GRAINS = 4


def print_bytes(preset: str) -> None:
    """Print what the fullest of some processes holds of a preset, in copies of all weights."""
    config = resolve(preset=preset, settings={})
    dataset = open_dataset("digits", size=(32, 32), **config.data.of_source())
    with torch.device("meta"):
        learner = families.build_learner(config.for_data(dataset).model)
    trained = [module for phase in learner.phases() for module in phase.modules]
    named = [
        (f"{module}.{name}", parameter)
        for module in trained
        for name, parameter in learner.get_submodule(module).named_parameters()
    ]
    within = tuple(f"{path}." for path, _ in blocks_of(learner, set(trained)))
    total = sum(parameter.numel() for _, parameter in named)
    blocks = sum(parameter.numel() for name, parameter in named if name.startswith(within))
    print(f"{preset}: {total:,} parameters, {blocks / total:.1%} of them in {len(within)} blocks")
    for size in (1, 2, 4, 8):
        owned = optimizers.owners(named, size)
        shares = [0.0] * size
        in_blocks = [0.0] * size
        for name, parameter in named:
            shares[owned[name]] += parameter.numel() / total
            if name.startswith(within):
                in_blocks[owned[name]] += parameter.numel() / total
        rest = 1 - blocks / total
        parts = max(2 * (rest + part) + 2 * share for share, part in zip(shares, in_blocks, strict=True))
        held = f"4.00 whole, {2 + 2 * max(shares):.2f} optimizer, {parts:.2f} parameters"
        print(f"  {size} process{'es' * (size > 1)}: {held}")


def measure(presets: list[str], turns: int, steps: int) -> dict[str, Any]:
    """Return the seconds of a step by the clock, and by the processor of the busiest process."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for preset in presets:
        config = resolve(preset=preset, size=(32, 32), settings={"grains": GRAINS, "precision": "float32"})
        if world().rank:
            world().barrier()  # the first process fills the cache
        dataset = open_dataset("digits", size=(32, 32), **config.data.of_source())
        if not world().rank:
            world().barrier()
        config = config.for_data(dataset)
        engines = {}
        for how in (False, "parameters"):
            training = config.training.model_copy(update={"shard": how})
            grains = Grains(GRAINS, config.batch_size, world())
            batches = Batches(dataset, config.batch_size, config.seed, rows=grains.rows)
            own = config.model_copy(update={"training": training})
            engines[str(how)] = Engine(own, batches, torch.device("cpu"), "float32", grains=grains)
        spent: dict[str, list[list[float]]] = {name: [] for name in engines}
        for turn in range(turns + 1):  # the first one warms up
            for name, engine in engines.items():
                world().barrier()
                started, used = time.perf_counter(), time.process_time()
                for step in range(turn * steps, (turn + 1) * steps):
                    engine.step(step * engine.images_per_step, step, total=10**9)
                seconds = [time.perf_counter() - started, time.process_time() - used]
                longest = [max(each) for each in zip(*world().gathered(seconds), strict=True)]
                spent[name].append([each / steps for each in longest])
        whole, parts = engines.values()
        assert parts.parts is not None
        parts.parts.gather_averages(keeps=True)
        digests = [weights.digest(engine.ema.learner.state_dict())[:12] for engine in (whole, parts)]
        found[preset] = {"spent": {name: each[1:] for name, each in spent.items()}, "digests": digests}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["flow-32", "transformer-16"])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    if (place := Place.of()) is not None:
        with joined(place):
            found = measure(options.presets, options.turns, options.steps)
        if place.rank == 0:
            print(json.dumps(found))
        return
    for preset in options.presets:
        print_bytes(preset)
    status, written = launch([sys.executable, *sys.argv], 2, output=subprocess.PIPE)
    if status:
        sys.exit(status)
    for preset, each in json.loads(written).items():
        clock, processor = (
            {name: statistics.median(turn[kind] for turn in turns) for name, turns in each["spent"].items()}
            for kind in (0, 1)
        )
        longer, more = (times["parameters"] / times["False"] for times in (clock, processor))
        told = f"{longer:.2f} times as long in parts, with {more:.2f} times the processor time"
        print(f"{preset}, 2 processes: a step takes {told}; averages {each['digests']}")


if __name__ == "__main__":
    main()
