"""Training speed of the preset `vae-32`: our training step and a plain float32 loop over the same networks.

    python benchmarks/vae_speed.py [--data DIR] [--seconds 60] [--net hybrid]

Ours is the trainer's own step: reading the packed data, the loss, the optimiser and the moving average. The
plain loop has its images in memory as float32 tensors, and a plain Adam. Both run in this process, in turns
of a few seconds, so that other load on the machine affects both equally.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from danqing.data import Batches, open_dataset
from danqing.families import build
from danqing.families.base import Batch
from danqing.precision import Precision
from danqing.training.config import RunConfig
from danqing.training.config_reading import resolve
from danqing.training.engine import Engine


def plain_loop(engine: Engine, config: RunConfig) -> Callable[[], None]:
    """Return a step of a typical tutorial, on a fresh copy of the same networks."""
    torch.manual_seed(0)
    family = build(engine.learner.config)
    (phase,) = family.phases()
    optimizer = torch.optim.Adam(family.parameters(), config.optimizer.learning_rate)
    rng = torch.Generator().manual_seed(0)
    batches = [engine.batches.at(config.batch_size * i) for i in range(20)]
    images = torch.cat([batch.images for batch in batches]).contiguous()
    conditions = [batch.condition for batch in batches]

    def step() -> None:
        i = int(torch.randint(len(batches), ()))
        rows = slice(i * config.batch_size, (i + 1) * config.batch_size)
        optimizer.zero_grad()
        family.loss(Batch(images[rows], conditions[i]), phase, rng).total.backward()
        optimizer.step()

    return step


def our_loop(engine: Engine, batch_size: int) -> Callable[[], None]:
    """Return a step of the trainer's engine."""
    steps = 0

    def step() -> None:
        nonlocal steps
        engine.step(steps * batch_size, steps, 1_000_000_000)
        steps += 1

    return step


def images_per_second(step: Callable[[], None], seconds: float, batch_size: int) -> float:
    start, steps = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        step()
        steps += 1
    return steps * batch_size / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="digits", help="images to train on, resized to 32×32")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--net", default="hybrid", choices=["mlp", "conv", "resnet", "hybrid"])
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    arguments = parser.parse_args()
    precision: Precision = arguments.precision

    dataset = open_dataset(arguments.data, size=(32, 32))
    config = resolve(preset="vae-32", settings={"model.net": arguments.net}).for_data(dataset)
    engine = Engine(config, Batches(dataset, config.batch_size, 0), torch.device("cpu"), precision)
    loops = {"plain": plain_loop(engine, config), "danqing": our_loop(engine, config.batch_size)}
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for step in loops.values():
        images_per_second(step, 2.0, config.batch_size)
    turns = max(3, round(arguments.seconds / 6))
    for _ in range(turns):
        for name, step in loops.items():
            speeds[name].append(images_per_second(step, 3.0, config.batch_size))
    ratio = statistics.median(a / b for a, b in zip(speeds["danqing"], speeds["plain"], strict=True))
    medians = {name: round(statistics.median(values)) for name, values in speeds.items()}
    facts = {"turns": turns, "threads": torch.get_num_threads(), "precision": precision, "net": arguments.net}
    print(json.dumps({"images_per_second": medians, "ratio": round(ratio, 2), **facts}))


if __name__ == "__main__":
    main()
