"""How long a checkpoint stops training, and how long it takes to load one at another number of ranks.

    python benchmarks/checkpoint_stall.py [--presets gan-32 vae-32 flow-32] [--rounds 6]

A checkpoint is taken every 50 steps. `stops` is how long the step waits while the state is copied; `slows` is
by how much the steps during the write in the background are longer than others, by their median; `share` is
both, of the time of 50 steps. The bar is 2%.

`load` is the time to read and check what one rank has written, and then what two and four have written
together, as a multiple of the first: a run of any other number of ranks reads the same files. The bar is 2.
`safetensors` is the library's own `load_file` on the file of one rank, without checking a digest.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from danqing.cluster import tensor_folder
from danqing.data import Batches, open_dataset
from danqing.training import checkpoint
from danqing.training.codes import batch_options
from danqing.training.config_reading import resolve
from danqing.training.engine import Engine

EVERY = 50


def engine_of(preset: str) -> Engine:
    """Return the engine of a preset on the emoji."""
    config = resolve(preset=preset)
    dataset = open_dataset("emoji", size=config.size, **config.data.of_source())
    config, device = config.for_data(dataset), torch.device("cpu")
    return Engine(config, Batches(dataset, **batch_options(config, dataset, device)), device, "float32")


def stall(engine: Engine, folder: Path, rounds: int) -> tuple[float, float, float]:
    """Return the seconds of a step, and by how much a checkpoint stops and slows the steps after it."""
    writer = checkpoint.Writer(folder)
    steps, stops, during = list[float](), list[float](), list[list[float]]()
    number, size = 0, engine.images_per_step
    for _ in range(rounds):
        began = time.perf_counter()
        writer.begin(number * size, engine.tensors(), {})
        stops.append(time.perf_counter() - began)
        during.append([])
        for _ in range(EVERY):
            began, is_writing = time.perf_counter(), writer.is_writing
            engine.step(number * size, number, 1_000_000)
            (during[-1] if is_writing else steps).append(time.perf_counter() - began)
            number += 1
        writer.wait()
    step = statistics.median(steps)
    slows = statistics.median(sum(spent - step for spent in each) for each in during)
    return step, statistics.median(stops), max(0.0, slows)


def seconds(work: Callable[[], object], repeats: int = 7) -> float:
    """Return the shortest time of some work."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["gan-32", "vae-32", "flow-32"])
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    head = f"{'preset':10} {'MB':>6} {'step ms':>8} {'stops ms':>9} {'slows ms':>9} {'share':>6}"
    print(f"{head}   {'load ms':>8} {'2 ranks':>8} {'4 ranks':>8} {'safetensors':>12}")
    for preset in args.presets:
        engine = engine_of(preset)
        for step in range(3):
            engine.step(step * engine.images_per_step, step, 1_000_000)
        with tempfile.TemporaryDirectory() as place:
            step_seconds, stops, slows = stall(engine, Path(place), args.rounds)
            tensors, loads = engine.tensors(), []
            for size in (1, 2, 4):
                path = Path(place) / f"of-{size}"
                for rank in reversed(range(size)):
                    pieces = tensor_folder.copied(tensors, rank, size)
                    tensor_folder.write(path, pieces, {}, rank=rank, size=size)
                loads.append(seconds(lambda path=path: tensor_folder.read(path)))  # type: ignore[misc]
            plain = seconds(lambda: load_file(Path(place) / "of-1" / tensor_folder.file_name(0, 1)))
        share = (stops + slows) / (EVERY * step_seconds)
        size_mb = sum(tensor.nbytes for tensor in tensors.values()) / 1e6
        print(
            f"{preset:10} {size_mb:6.1f} {step_seconds * 1e3:8.1f} {stops * 1e3:9.2f} {slows * 1e3:9.2f} "
            f"{share:6.2%}   {loads[0] * 1e3:8.1f} {loads[1] / loads[0]:8.2f} {loads[2] / loads[0]:8.2f} "
            f"{plain * 1e3:12.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
