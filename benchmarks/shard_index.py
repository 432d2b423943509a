"""Speed, memory and uniformity of the order of streamed images, at a billion images.

No image exists: the index is made up, as many shards as 10^9 images of 30 kB fill at 256 MiB each. Printed
are the positions per second that become (shard, place in the shard), for positions in runs as batches are and
for scattered ones, the memory of the process, and two tests of uniformity on 10,000 bins: the images at
positions that are spread over an epoch, and the place of an image in its window against its position there.
Rates are per second of processor time, so that they mean something on a busy machine.

    python benchmarks/shard_index.py [--images 1000000000] [--positions 20000000]
"""

import argparse
import resource
import time

import numpy as np

from danqing.data.shards.order import WindowOrder

SHARD_BYTES, IMAGE_BYTES = 256 * 2**20, 30_000
WINDOW = 16
BINS = 10_000
AT_ONCE = 2**20


def chi_square(counts: np.ndarray) -> float:
    """Return how far a chi-square value is from its mean, in its standard deviations."""
    expected = counts.sum() / len(counts)
    freedom = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=10**9)
    parser.add_argument("--positions", type=int, default=2 * 10**7, help="for each measurement")
    arguments = parser.parse_args()
    each = SHARD_BYTES // IMAGE_BYTES
    shards = -(-arguments.images // each)
    counts = np.full(shards, each)
    counts[-1] = arguments.images - each * (shards - 1)
    order = WindowOrder(counts, 256, seed=0, window=WINDOW)
    begun = time.process_time()
    order.located(np.arange(1), 0)
    print(f"{arguments.images:,} images in {shards:,} shards; a new epoch takes ", end="")
    print(f"{time.process_time() - begun:.2f} s")

    rng = np.random.default_rng(0)
    starts = rng.integers(0, arguments.images - AT_ONCE, -(-arguments.positions // AT_ONCE))
    runs = (np.arange(start, start + AT_ONCE) for start in starts)
    scattered = (rng.integers(0, arguments.images, AT_ONCE) for _ in starts)
    for name, parts in (("in runs", runs), ("scattered", scattered)):
        spent = wall = 0.0
        for positions in parts:
            begun, begun_wall = time.process_time(), time.perf_counter()
            order.located(positions, 0)
            spent, wall = spent + time.process_time() - begun, wall + time.perf_counter() - begun_wall
        number = len(starts) * AT_ONCE
        print(
            f"positions {name}: {number / spent / 1e6:.2f} million/s ({number / wall / 1e6:.2f} by the clock)"
        )

    firsts, images = np.cumsum(counts) - counts, np.zeros(BINS, np.int64)
    step = max(1, arguments.images // arguments.positions)
    for start in range(0, arguments.images, step * AT_ONCE):
        positions = np.arange(start, min(start + step * AT_ONCE, arguments.images), step)
        found, places = order.located(positions, 0)
        images += np.bincount((firsts[found] + places) * BINS // arguments.images, minlength=BINS)
    print(
        f"images at every {step}th position: chi-square {chi_square(images):+.2f} deviations from its mean",
        end="",
    )
    print(" (below 0: more even than chance, since it is a permutation)")

    ranks, side = np.empty(shards, np.int64), int(np.sqrt(BINS))
    epoch = order._epoch(0)
    ranks[epoch.shards] = np.arange(shards)
    size, windows = each * WINDOW, shards // WINDOW - 1
    joint = np.zeros(BINS, np.int64)
    for _ in range(-(-arguments.positions // AT_ONCE)):
        place = rng.integers(0, size, AT_ONCE)
        numbers = rng.integers(0, windows, AT_ONCE)
        starts_of = np.where(numbers > 0, epoch.window_ends[numbers - 1], 0)
        found, places = order.located(starts_of + place, 0)
        inside = ranks[found] % WINDOW * each + places
        joint += np.bincount(
            place * side // size * side + np.minimum(inside * side // size, side - 1), minlength=BINS
        )
    print(f"place in a window against position: chi-square {chi_square(joint):+.2f} deviations from its mean")
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
