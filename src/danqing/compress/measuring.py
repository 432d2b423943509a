"""Speeds and scores of several forms of a model: in turns, on the same seeds."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from danqing.compress.choice import Measured
from danqing.compress.forms import Sampler
from danqing.evaluation.contract import FeatureNetwork
from danqing.evaluation.features import Features, extract
from danqing.evaluation.generated_images import store_images
from danqing.evaluation.kernel import kernel_distance
from danqing.images import Pixels
from danqing.randomness import derived_seed

ROUNDS = 5
LEAST, MOST = 160, 640
_SECONDS = 4.0
"""How long the original samples in all rounds, where nobody chooses a number of images."""

Tell = Callable[[int, int, str], None]
"""Receives how many parts are done, how many there are, and what is done."""


def images_for(sampler: Sampler, chunk: int, seed: int) -> int:
    """Return how many images each form should sample in all.

    It is as many as the original samples in a few seconds.

    chunk: images that it computes at once.
    """
    seeds = seeds_of(seed + 1, chunk)
    sampler(seeds)
    start = time.perf_counter()
    sampler(seeds)
    wanted = _SECONDS / (time.perf_counter() - start) * chunk
    at_once = chunk * ROUNDS  # so that no round computes images that nobody reads
    return max(1, round(min(max(wanted, LEAST), MOST) / at_once)) * at_once


def seeds_of(seed: int, n: int) -> list[int]:
    """Return the seeds of images that `danqing.evaluate` samples with a seed."""
    return [derived_seed(seed, "image", number) for number in range(n)]


def race(
    samplers: Mapping[str, Sampler], n: int, seed: int, tell: Tell
) -> tuple[dict[str, Pixels], dict[str, list[float]]]:
    """Sample the same images with all forms in turns.

    Returns the images, and the seconds of each round. The order changes from round to round, so that other
    load on the machine affects all forms.
    n: images of each form, over all rounds.
    """
    seeds, names = seeds_of(seed, n), list(samplers)
    rounds = min(ROUNDS, n)
    ends = [n * number // rounds for number in range(rounds + 1)]
    images: dict[str, list[Pixels]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        samplers[name](seeds[:1])
    for number, (first, last) in enumerate(pairwise(ends)):
        order = names[number % len(names) :] + names[: number % len(names)]
        for place, name in enumerate(order[:: -1 if number % 2 else 1]):
            tell(number * len(names) + place, rounds * len(names), f"Sampling with {name}")
            start = time.perf_counter()
            images[name].append(samplers[name](seeds[first:last]))
            seconds[name].append(time.perf_counter() - start)
    return {name: np.concatenate(parts) for name, parts in images.items()}, seconds


def measured(
    name: str,
    size: int,
    seconds: Sequence[float],
    of_original: Sequence[float],
    n: int,
    distance: tuple[float, tuple[float, float] | None],
) -> Measured:
    """Put together what was measured of one form.

    size: in bytes. seconds, of_original: of each round. n: images of all rounds. distance: with its interval.
    """
    ratios = [theirs / own for theirs, own in zip(of_original, seconds, strict=True)]
    return Measured(
        name=name,
        bytes=size,
        images_per_second=n / len(seconds) / statistics.median(seconds),
        speedup=statistics.median(ratios),
        score=distance[0],
        interval=distance[1],
    )


def distance_of(
    images: Pixels, network: FeatureNetwork, reference: Features, seed: int
) -> tuple[float, tuple[float, float] | None]:
    """Return the kernel distance of images from real ones, with its interval.

    images: `[n, h, w, c]`.
    """
    labels: NDArray[np.int64] = np.full(len(images), -1, np.int64)
    n, height, width, channels = images.shape
    stored = store_images([images], (n, height, width, channels), labels, ())
    estimate = kernel_distance(extract(stored, network, keep=False), reference)
    return estimate.value, estimate.interval(seed)
