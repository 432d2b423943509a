"""Memory and time of precision, recall, density and coverage, which never hold a matrix of all distances.

The features are in files on disk, as in an evaluation, and are read in tiles. `growth_mib` is the growth of
the process's resident memory; `resident_mib` is its peak, including libraries. All distances at once would
take 4 n² bytes.

    python benchmarks/neighbours_memory.py [--images 50000] [--dimensions 1280]
"""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from danqing.evaluation.neighbours import manifold_scores


class FileRows:
    """Rows of float32 in a file; each access reads from the file."""

    def __init__(self, path: Path, count: int, dimensions: int, seed: int) -> None:
        self.path = path
        self.shape = (count, dimensions)
        rng = np.random.default_rng(seed)
        with path.open("wb") as file:
            for start in range(0, count, 1000):
                size = (min(1000, count - start), dimensions)
                rng.standard_normal(size, np.float32).tofile(file)

    def __getitem__(self, rows: slice) -> Tensor:
        start, stop, _ = rows.indices(self.shape[0])
        width = self.shape[1]
        values = np.fromfile(self.path, np.float32, (stop - start) * width, offset=4 * start * width)
        return torch.from_numpy(values.reshape(stop - start, width))


class Peak(threading.Thread):
    """The peak resident memory of this process, sampled in a thread."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.process = psutil.Process()
        self.first = self.most = self.process.memory_info().rss
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.01):
            self.most = max(self.most, self.process.memory_info().rss)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=50_000, help="rows on either side")
    parser.add_argument("--dimensions", type=int, default=1280)
    arguments = parser.parse_args()
    torch.randn(512, 512) @ torch.randn(512, 512)  # so that the libraries' own memory is counted before
    with tempfile.TemporaryDirectory() as folder:
        generated, reference = (
            FileRows(Path(folder) / str(seed), arguments.images, arguments.dimensions, seed)
            for seed in (0, 1)
        )
        peak = Peak()
        peak.start()
        start = time.perf_counter()
        scores = manifold_scores(generated, reference)
        seconds = time.perf_counter() - start
        peak.done.set()
        peak.join()
    print(
        json.dumps(
            {
                "images": arguments.images,
                "dimensions": arguments.dimensions,
                "threads": torch.get_num_threads(),
                **{name: round(estimate.value, 4) for name, estimate in scores.items()},
                "seconds": round(seconds, 1),
                "all_distances_mib": round(4 * arguments.images**2 / 2**20),
                "resident_mib": round(peak.most / 2**20),
                "growth_mib": round((peak.most - peak.first) / 2**20),
            }
        )
    )


if __name__ == "__main__":
    main()
