"""Images in one evaluation: noise in, images out."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from danqing.compress.runtime.graphs import Array, Graph
from danqing.compress.runtime.manifest import OneShot
from danqing.compress.runtime.normals import Generator, normal
from danqing.compress.runtime.request import Report, Request
from danqing.randomness import derived_seed


def sample(graphs: Mapping[str, Graph], loop: OneShot, request: Request, report: Report) -> Array:
    """Sample images, float32 `[n, c, h, w]` in [-1, 1]."""
    seeds = request.seeds
    noise = _codes(loop, seeds) if loop.distribution == "codes" else normal(seeds, loop.shape, loop.purpose)
    if loop.scale_option:
        noise = noise * np.float32(request.options[loop.scale_option])
    images = graphs["generate"]({**request.condition, loop.noise: noise})[0]
    report(1, 1, lambda: images)
    return images


def _codes(loop: OneShot, seeds: Sequence[int]) -> NDArray[np.int64]:
    """Draw codes `[n, rows, columns, depth]` independently of each other."""
    rows, columns, depth = loop.shape
    drawn = []
    for seed in seeds:
        generator = Generator(derived_seed(seed, loop.purpose))
        levels = [generator.multinomial(shares, rows * columns) for shares in loop.shares]
        drawn.append(np.stack(levels, axis=-1).reshape(rows, columns, depth))
    return np.stack(drawn)
