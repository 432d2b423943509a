"""Resident memory of training on 10,000 and on 1,000,000 cached images: they must agree within 5%.

Each size is measured in its own process, which trains a small network on batches from the cache, with labels,
captions and flips, and samples its resident memory (including mapped pages) meanwhile.

    python benchmarks/data_memory.py [--sizes 10000 1000000] [--steps 3000] [--cache FOLDER]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from danqing.data import Augment, Batches, Dataset, DatasetInfo
from danqing.data import cache as caches
from danqing.data.records import About, ImageSpec, Natural, Record
from danqing.data.survey import Survey

SIDE = 32
LABELS = 100


class Noise:
    """Images of noise, with labels and captions."""

    about = About("noise")
    label_names: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    natural: Natural | None = Natural((SIDE, SIDE), True, False)

    def __init__(self, size: int) -> None:
        self.size = size
        self.pool = np.random.default_rng(0).integers(0, 256, 1 << 20, dtype=np.uint8)

    def key(self) -> str:
        return f"noise {self.size}"

    def count(self) -> int:
        return self.size

    def survey(self) -> Survey:
        return Survey()

    def records(self, spec: ImageSpec, start: int = 0) -> Iterator[Record]:
        length = SIDE * SIDE * 3
        for number in range(start, self.size):
            place = number * 997 % (len(self.pool) - length)
            pixels = self.pool[place : place + length].reshape(SIDE, SIDE, 3)
            yield Record(f"#{number}", pixels.view, str(number % LABELS), f"caption {number}")


def train(folder: Path, steps: int) -> dict[str, float]:
    """Train on a cache; return median and peak resident memory in MiB, and images per second."""
    import torch

    torch.set_num_threads(1)
    dataset = Dataset(folder, DatasetInfo(name="noise", source="noise"))
    batches = Batches(dataset, 64, seed=0, augment=Augment(flip=True), prefetch=False)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 256, LABELS)
    )
    optimizer = torch.optim.Adam(network.parameters())
    memory, start = [], time.perf_counter()
    for step in range(steps):
        batch = batches.at(step * 64)
        assert batch.condition.label is not None
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(batch.images), batch.condition.label).backward()
        optimizer.step()
        dataset.texts(batches.indices(step * 64))
        if step % 10 == 0 and step >= steps // 10:
            memory.append(resident())
    return {
        "median": float(np.median(memory)),
        "peak": max(memory),
        "images_per_second": steps * 64 / (time.perf_counter() - start),
    }


def resident() -> float:
    """Return this process's resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--cache", type=Path, help="where the caches are kept (default: a temporary folder)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(train(arguments.measure, arguments.steps)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        medians = []
        for size in arguments.sizes:
            start = time.perf_counter()
            folder = caches.ensure(
                Noise(size), ImageSpec((SIDE, SIDE), 3), arguments.cache or Path(temporary)
            )
            print(f"{size:,} images packed or found in {time.perf_counter() - start:.1f} s", flush=True)
            command = [sys.executable, __file__, "--measure", str(folder), "--steps", str(arguments.steps)]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            medians.append(result["median"])
            print(
                f"{size:>12,} images: {result['median']:.1f} MiB resident, at most {result['peak']:.1f} MiB, "
                f"{result['images_per_second']:,.0f} images/s"
            )
        print(f"Largest / smallest median: {max(medians) / min(medians):.3f} (at most 1.05)")


if __name__ == "__main__":
    main()
