"""How fast two processes train compared with one, and what the fixed order of sums costs.

    python benchmarks/processes.py --presets gan-32 flow-32 --turns 3 --steps 4

One process with one thread, two processes with grains, and two processes that each compute half of the batch
at once and add their gradients by all-reduce (as DistributedDataParallel does) take turns, so that other work
on the machine meets all of them. Also prints the digest of the state after the same steps on one process and
on two. Beside other work, trust the processor time of the busiest process, which leaves out waiting.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from danqing import weights
from danqing.cluster.launch import launch
from danqing.cluster.place import Place
from danqing.cluster.world import World, joined, world
from danqing.data import Batches, open_dataset
from danqing.families.base import Batch, Phase
from danqing.training.config import RunConfig
from danqing.training.config_reading import resolve
from danqing.training.engine import Engine
from danqing.training.grains import Grains

CPU = torch.device("cpu")
PROCESSES = 2


class AllReduced(Engine):
    """Computes its rows as one batch, and averages gradients over processes in any order."""

    def compute_gradients(self, phase: Phase, batches: Sequence[Batch], step: int, repeat: int) -> Tensor:
        loss = super().compute_gradients(phase, batches, step, repeat)
        gradients = [p.grad for _, p in self._parameters(phase) if p.grad is not None]
        total = world().plain_sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        total /= world().size
        for gradient, mean in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))
        return loss


def engines_of(preset: str, data: str, grains: int, precision: Any) -> dict[str, Callable[[], Engine]]:
    """Return how to build the contestants."""
    size = (32, 32)
    plain = resolve(preset=preset, size=size, settings={"precision": precision})
    dataset = open_dataset(data, size=size, **plain.data.of_source())
    plain = plain.for_data(dataset)
    grained = plain.model_copy(update={"training": plain.training.model_copy(update={"grains": grains})})

    def build(kind: type[Engine], config: RunConfig, parts: Grains | None, rows: slice) -> Engine:
        batches = Batches(dataset, config.batch_size, config.seed, augment=dataset.info.augment, rows=rows)
        return kind(config, batches, CPU, precision, grains=parts)

    def with_grains(here: World) -> Engine:
        parts = Grains(grains, plain.batch_size, here)
        return build(Engine, grained, parts, parts.rows)

    share = Grains(PROCESSES, plain.batch_size, world())
    return {
        "one": lambda: with_grains(World()),
        "grains": lambda: with_grains(world()),
        "all-reduce": lambda: build(AllReduced, plain, None, share.rows),
    }


def seconds_of(engine: Engine, begin: int, steps: int) -> tuple[float, float]:
    """Return how long some steps take, and the processor time of this process."""
    started, used = time.perf_counter(), time.process_time()
    for step in range(begin, begin + steps):
        engine.step(step * engine.images_per_step, step, total=10**9)
    return time.perf_counter() - started, time.process_time() - used


def measure(presets: Sequence[str], data: str, grains: int, turns: int, steps: int, precision: str) -> Any:
    """Let the contestants take turns.

    Returns the images per second of each turn, by the clock and by the processor time of the busiest process,
    and digests.
    """
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for preset in presets:
        if world().rank:
            world().barrier()  # the first process fills the cache
        builders = engines_of(preset, data, grains, precision)
        if not world().rank:
            world().barrier()
        engines = {name: build() for name, build in builders.items() if name != "one" or not world().rank}
        speeds: dict[str, list[list[float]]] = {name: [] for name in builders}
        for turn in range(turns + 1):  # the first one warms up
            for name in builders:
                world().barrier()
                engine = engines.get(name)
                spent = seconds_of(engine, turn * steps, steps) if engine else (0.0, 0.0)
                longest = [max(values) for values in zip(*world().gathered(spent), strict=True)]
                if engine:
                    speeds[name].append([steps * engine.images_per_step / seconds for seconds in longest])
        digests = {name: weights.digest(engine.tensors())[:12] for name, engine in engines.items()}
        found[preset] = {"speeds": {name: values[1:] for name, values in speeds.items()}, "digests": digests}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", default=["gan-32", "flow-32"])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--grains", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="of each turn")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    given = parser.parse_args()
    place = Place.of()
    if place is None:
        status, written = launch([sys.executable, *sys.argv], PROCESSES, output=subprocess.PIPE)
        if status:
            sys.exit(status)
        for preset, result in json.loads(written).items():
            show(preset, result)
        return
    with joined(place) as here:
        found = measure(given.presets, given.data, given.grains, given.turns, given.steps, given.precision)
        if not here.rank:
            print(json.dumps(found))


def show(preset: str, result: dict[str, Any]) -> None:
    """Print what was measured with one preset."""
    speeds, digests = result["speeds"], result["digests"]
    turns = len(speeds["one"])
    print(f"{preset}: images per second by the clock and by processor time, medians of {turns} turns")
    for name, values in speeds.items():
        clock, processor = (statistics.median(kind) for kind in zip(*values, strict=True))
        print(f"  {name:<11} {clock:8.1f} {processor:8.1f}   {digests[name]}")
    for text, above, below in (
        ("two processes / one", "grains", "one"),
        ("grains / all-reduce", "grains", "all-reduce"),
    ):
        for number, kind in enumerate(("clock", "processor time")):
            ratios = [a[number] / b[number] for a, b in zip(speeds[above], speeds[below], strict=True)]
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"  {text}, {kind}: {statistics.median(ratios):.2f} (turns: {each})")
    equal = digests["one"] == digests["grains"]
    print(f"  one process and two end with {'the same state' if equal else 'DIFFERENT STATES'}")


if __name__ == "__main__":
    main()
