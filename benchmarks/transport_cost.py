"""What it costs to pair noise with images, and how much closer the pairs are.

    python benchmarks/transport_cost.py [--data fashion-mnist] [--size 32] [--images 1000 4000 16000 60000]

Columns, for each number of images:
fitting: processor seconds for the potentials.
uneven: by how much images are chosen more or less often than on average (the root of the χ² divergence).
a batch: processor milliseconds to choose the images of a batch.
closeness: the mean of ⟨ε, x − μ⟩ / |x − μ|, in standard deviations; that of independent pairs is 0.
The last line is of pairs within a batch.
"""

import argparse
import time

import numpy as np
import torch
from torch import Tensor

from danqing.data import open_dataset
from danqing.families import transport
from danqing.images import to_float

DRAWS = 2048


def closeness(images: Tensor, noise: Tensor, centre: Tensor) -> float:
    """Return the mean of ⟨ε, x − μ⟩ / |x − μ|."""
    centred = (images - centre).flatten(1)
    return float(((centred * noise.flatten(1)).sum(1) / centred.norm(dim=1)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 4000, 16000, 60000])
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    dataset = open_dataset(args.data, size=(args.size, args.size))
    print(f"{'images':>8} {'fitting':>9} {'uneven':>7} {'a batch':>9} {'closeness':>9}")
    for count in args.images:
        rows = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(np.int64)
        images = to_float(dataset.images(rows))
        measure(images, args.batch)
    rng = torch.Generator().manual_seed(0)
    centre, paired, spent = images.mean(0), 0.0, 0.0
    for _ in range(0, DRAWS, args.batch):
        some = images[torch.randint(len(images), (args.batch,), generator=rng)]
        noise = torch.randn(some.shape, generator=rng)
        started = time.process_time()
        order = transport.closest(some, noise)
        spent += time.process_time() - started
        paired += closeness(some, noise[order], centre) * args.batch / DRAWS
    batches = DRAWS // args.batch
    print(f"within a batch of {args.batch}: {1000 * spent / batches:.1f} ms a batch, closeness {paired:.2f}")


def measure(images: Tensor, batch: int) -> None:
    """Print the line of some images."""
    count, rng = len(images), torch.Generator().manual_seed(0)
    side = transport.side_for(count)
    points, shares = transport.reduced(images, side), torch.full((count,), 1 / count)
    started = time.process_time()
    potentials = transport.fit_potentials(points, shares, rng)
    fitting = time.process_time() - started
    uneven = max(transport.unevenness(points, shares, potentials, rng), 0.0) ** 0.5
    noise = torch.randn((DRAWS, *images.shape[1:]), generator=rng)
    own = transport.reduced(noise, side)
    started = time.process_time()
    chosen = torch.cat([transport.assign(part, points, potentials) for part in own.split(batch)])
    each = 1000 * (time.process_time() - started) * batch / DRAWS
    close = closeness(images[chosen], noise, images.mean(0))
    print(f"{count:>8} {fitting:>7.1f} s {uneven:>7.0%} {each:>6.1f} ms {close:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
