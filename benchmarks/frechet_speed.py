"""Time of a Fréchet distance from features, and of the usual way: NumPy's covariance and SciPy's sqrtm.

Both run in one process, in turns, on the same features; medians. `ratio` is the time of the distance alone
divided by that of the usual way; `interval_ratio` includes the interval, which the usual way does not
compute.

    python benchmarks/frechet_speed.py [--dimensions 2048] [--images 10000] [--rounds 3]
"""

import argparse
import json
import statistics
import time

import numpy as np
import scipy.linalg
import torch

from danqing.evaluation.frechet import Moments, frechet_distance, frechet_distance_of_moments


def features(images: int, dimensions: int, seed: int) -> torch.Tensor:
    """Return correlated, non-negative rows, like a network's features after its last activation."""
    rng = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(
        torch.randn(dimensions, dimensions, generator=torch.Generator().manual_seed(0))
    )[0]
    spread = torch.logspace(0, -3, dimensions)
    noise = torch.randn(images, dimensions, generator=rng) * spread @ rotation
    rows: torch.Tensor = (noise * (1 + 0.1 * seed) + 0.01).relu()
    return rows


def usual(generated: np.ndarray, reference: np.ndarray) -> float:
    """Compute the distance in the usual way."""
    means = [rows.mean(0) for rows in (generated, reference)]
    first, second = (np.cov(rows, rowvar=False) for rows in (generated, reference))
    root = scipy.linalg.sqrtm(first @ second)
    difference = means[0] - means[1]
    return float(difference @ difference + np.trace(first) + np.trace(second) - 2 * np.trace(root).real)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--images", type=int, default=10_000, help="rows on either side")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    generated, reference = (features(arguments.images, arguments.dimensions, seed) for seed in (1, 2))
    frechet_distance(generated[:100], reference[:100])  # starts the threads
    ours, alone, theirs, values = [], [], [], (0.0, 0.0)
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        estimate = frechet_distance(generated, reference)
        estimate.interval()
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        values = estimate.value, usual(generated.numpy(), reference.numpy())
        theirs.append(time.perf_counter() - start)
        start = time.perf_counter()
        frechet_distance_of_moments(Moments.of(generated), Moments.of(reference))
        alone.append(time.perf_counter() - start)
    seconds, value_seconds, usual_seconds = map(statistics.median, (ours, alone, theirs))
    print(
        json.dumps(
            {
                "images": arguments.images,
                "dimensions": arguments.dimensions,
                "threads": torch.get_num_threads(),
                "scipy": scipy.__version__,
                "value": values[0],
                "usual_value": values[1],
                "seconds": round(value_seconds, 3),
                "interval_seconds": round(seconds, 3),
                "usual_seconds": round(usual_seconds, 3),
                "interval_ratio": round(seconds / usual_seconds, 4),
                "ratio": round(value_seconds / usual_seconds, 4),
            }
        )
    )


if __name__ == "__main__":
    main()
