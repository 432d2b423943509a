"""How far averages that are reconstructed from snapshots are from direct ones, on short training runs.

    python benchmarks/ema_lengths.py [--images 131072] [--presets gan-32,vae-32]

A run keeps the EMA lengths 0.05 and 0.1 with snapshots, as `training.ema_lengths` does, and beside them one
direct average of each length below. Printed per length: the distance between the reconstruction and the
direct average, relative to the norm of the weights, and what each of the two kept averages would be off.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from danqing.data import Batches, open_dataset
from danqing.training.config_reading import resolve
from danqing.training.ema import EMA, PowerFunction
from danqing.training.engine import Engine
from danqing.training.post_hoc import reconstruct
from danqing.training.snapshots import Snapshot, SnapshotFolder, open_snapshots

KEPT = (0.05, 0.1)
LENGTHS = (0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=131_072)
    parser.add_argument("--presets", default="gan-32,vae-32")
    parser.add_argument("--data", default="digits")
    arguments = parser.parse_args()
    for preset in arguments.presets.split(","):
        with tempfile.TemporaryDirectory() as folder:
            measure(preset, arguments.data, arguments.images, Path(folder))


def measure(preset: str, data: str, images: int, folder: Path) -> None:
    """Train and print the errors."""
    config = resolve(preset=preset, settings={"training.ema_lengths": KEPT}, images=images)
    dataset = open_dataset(data, size=config.size)
    config = config.for_data(dataset)
    batches = Batches(dataset, config.batch_size, config.seed)
    engine = Engine(config, batches, torch.device("cpu"), "float32")
    direct = {length: EMA(engine.learner, PowerFunction(length)) for length in LENGTHS}
    snapshots, size = SnapshotFolder(folder, engine.images_per_step), engine.images_per_step
    writing, started = 0.0, time.perf_counter()
    for step in range(images // size):
        engine.step(step * size, step, images)
        seen = (step + 1) * size
        for average in direct.values():
            average.update(seen, size)
        if snapshots.is_due(seen):
            before = time.perf_counter()
            snapshots.take(seen, engine.averaged())
            writing += time.perf_counter() - before
    spent = time.perf_counter() - started
    found, _ = open_snapshots(folder, Snapshot(seen, KEPT, engine.averaged))
    disk = sum(file.stat().st_size for file in folder.iterdir())
    values = sum(tensor.numel() for tensor in direct[LENGTHS[0]].averaged().values())
    print(f"{preset}: {seen:,} images, {values:,} weights, {len(found) - 1} snapshots of {disk / 1e6:.1f} MB")
    print(f"  writing them took {writing:.1f} s of {spent:.0f} s")
    print(f"  {'length':>6}  {'error':>7}" + "".join(f"  {f'as {kept:g}':>8}" for kept in KEPT))
    for length, average in direct.items():
        wanted = average.averaged()
        kept = [distance(engine.averaged()[other], wanted) for other in KEPT]
        error = distance(dict(reconstruct(found, length)), wanted)
        print(f"  {length:>6g}  {error:>7.3%}" + "".join(f"  {value:>8.2%}" for value in kept))


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Return the distance of two sets of weights, relative to the norm of the second."""
    apart = sum(float((one[name] - other[name]).square().sum()) for name in other)
    norm = sum(float(tensor.square().sum()) for tensor in other.values())
    return float((apart / norm) ** 0.5)


if __name__ == "__main__":
    main()
