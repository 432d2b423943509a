"""How much sooner a run that grows is as good as one that learns whole images from its first step.

    python benchmarks/growing.py --data DATA --preset flow-64 --size 64 --grow 16 32 64 [--minutes 45]
        [--shares 0.5 0.62 0.77 1] [--seeds 1] [--set KEY=VALUE ...] [--out FOLDER]
    python benchmarks/growing.py --data DATA --preset flow-64 --size 64 --grow 16 32 64 --speed

DATA is any folder or built-in set; images are compared with its test split, or with all of them if there is
none. The preset is trained without growing for the minutes, and with `grow` for shares of them; each run has
a learning rate schedule of its own length. The flow presets and `net=modern` of the GAN can grow. --set
changes settings of all runs, such as widths=[16,32,64,128,256] or net=modern.

Prints one JSON object: Fréchet distance on EfficientNet-Lite0 features, precision and recall of --count
images for each run, and "speedup": the minutes of the run without growing over the minutes after which a run
with growing has the same distance, interpolated between the shares in the logarithm of the minutes. It is
null if no share reaches that distance, and a lower bound ("at_least") if the smallest share does.

What each run generated is kept in FOLDER: the same command continues after an interruption.

--speed trains nothing and prints the images per second of a training step at each size, the same with the
network that does not grow, and their ratio to it; medians of --turns turns. With one thread, it counts the
time of the processor, so that other work on the machine matters little.
"""

import argparse
import functools
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import scoring
import torch

import danqing as dq
from danqing.data import Batches, Dataset, open_dataset
from danqing.errors import MissingSplitError
from danqing.precision import candidates
from danqing.training.config_reading import resolve
from danqing.training.engine import Engine

CPU = torch.device("cpu")
TOTAL = 1_000_000


def reference(data: str, size: tuple[int, int]) -> np.ndarray:
    """Return the test images, or all images of data without a test split."""
    try:
        return scoring.pixels_of(open_dataset(data, size=size, split="test"))
    except MissingSplitError:
        return scoring.pixels_of(open_dataset(data, size=size))


def generated(
    data: str,
    preset: str,
    size: tuple[int, int],
    minutes: float,
    seed: int,
    settings: dict[str, Any],
    out: Path,
    count: int,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train, or continue to, and sample; the images, and what the training was."""
    run = scoring.train(
        data, preset=preset, seed=seed, settings=settings, out=out, size=size, minutes=minutes
    )
    facts = {"images": run.images, "images_per_second": round(run.images_per_second, 1)}
    return dq.load(run).sample(count, seed=1).array, facts


def speedup(whole: float, growing: dict[float, float]) -> dict[str, float | None]:
    """Return how much sooner growing reaches a distance.

    whole: the distance without growing after all of the minutes. growing: from a share of them to a distance.
    """
    before: tuple[float, float] | None = None
    for share, distance in sorted(growing.items()):
        if distance <= whole:
            if before is None:
                return {"speedup": None, "at_least": round(1 / share, 2)}
            part = (before[1] - whole) / (before[1] - distance)
            reached = math.exp(math.log(before[0]) + part * (math.log(share) - math.log(before[0])))
            return {"speedup": round(1 / reached, 2)}
        before = share, distance
    return {"speedup": None}


def speeds(
    dataset: Dataset, preset: str, settings: dict[str, Any], turns: int, seconds: float
) -> dict[str, Any]:
    """Return the images per second of a step at each size, and without growing."""

    def engine(**more: Any) -> Engine:
        config = resolve(preset=preset, settings={**settings, **more}, size=dataset.size).for_data(dataset)
        batches = Batches(dataset, config.batch_size, 0, augment=dataset.info.augment)
        return Engine(config, batches, CPU, candidates(CPU)[0])

    growing, plain = engine(), engine(grow=[])
    sizes = growing.config.model.grow
    works = {str(side): (growing, (0,) * (number + 1)) for number, side in enumerate(sizes)}
    works["not growing"] = plain, (0,)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    steps, found = dict.fromkeys(works, 0), {name: list[float]() for name in works}
    for turn in range(turns + 1):  # the first does not count
        for name, (of, begins) in works.items():
            done, begun = 0, clock()
            while (elapsed := clock() - begun) < seconds:
                of.step(steps[name] * of.images_per_step, steps[name], TOTAL, begins=begins)
                steps[name], done = steps[name] + 1, done + of.images_per_step
            if turn:
                found[name].append(done / elapsed)
    medians = {name: round(statistics.median(values), 1) for name, values in found.items()}
    ratios = {name: round(value / medians["not growing"], 2) for name, value in medians.items()}
    return {"images_per_second": medians, "ratio": ratios, "precision": growing.precision}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--preset", default="flow-64")
    parser.add_argument("--size", type=int, default=64, help="the side of the images in pixels")
    parser.add_argument("--grow", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.62, 0.77, 1.0])
    parser.add_argument("--seeds", type=int, default=1, help="how often each is trained")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of all runs")
    parser.add_argument("--count", type=int, default=2000, help="how many images are judged")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--speed", action="store_true", help="measure the speed of each size and end")
    parser.add_argument("--turns", type=int, default=5, help="of --speed")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn of --speed")
    parser.add_argument("--out", type=Path, help="keep the runs, the samples and grids here")
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    size = (arguments.size, arguments.size)
    settings: dict[str, Any] = dict(setting.split("=", 1) for setting in arguments.set)
    grown = {**settings, "grow": arguments.grow}
    facts = {name: getattr(arguments, name) for name in ("preset", "size", "grow", "threads")}
    if arguments.speed:
        dataset = open_dataset(arguments.data, size=size)
        found = speeds(dataset, arguments.preset, grown, arguments.turns, arguments.seconds)
        print(json.dumps({**facts, **found}, indent=2))
        return

    out = scoring.folder_for(arguments.out)
    real = reference(arguments.data, size)
    results: dict[str, Any] = {**facts, "minutes": arguments.minutes}

    def distance(name: str, share: float, of: dict[str, Any]) -> float:
        """Return the mean distance of some seeds, each trained for a share of the minutes."""
        minutes, distances = share * arguments.minutes, []
        for seed in range(arguments.seeds):
            key = f"{name}-{share:g}-seed-{seed}"
            make = functools.partial(
                generated,
                arguments.data,
                arguments.preset,
                size,
                minutes,
                seed,
                of,
                out / f"run-{key}",
                arguments.count,
            )
            pixels, run = scoring.kept(out, key, minutes, make)
            results[key] = {**scoring.score(pixels, real), **run}
            distances.append(float(results[key]["frechet_distance"]))
            print(key, json.dumps(results[key]), file=sys.stderr, flush=True)
        return statistics.mean(distances)

    whole = distance("whole", 1.0, settings)
    growing = {share: distance("growing", share, grown) for share in arguments.shares}
    results |= {"whole": whole, "growing": growing, **speedup(whole, growing)}
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
