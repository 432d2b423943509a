"""The burn-in: settings that have another value at the beginning of a run approach their final one.

What is over of it is a function only of the images seen, as all schedules are.
"""

import math

from danqing.training.config_sections import OptimizerConfig, ScheduleConfig


def progress(config: ScheduleConfig, images: int, total: int) -> float:
    """Return how much of the burn-in is over after `images` of `total`, in [0, 1].

    It rises by half a cosine wave over the share `config.burn_in` of the run (Huang et al. 2024, R3GAN,
    whose weights of penalties, second moments and averages follow such waves).
    """
    end = config.burn_in * total
    share = min(1.0, images / end) if end > 0 else 1.0
    return 0.5 * (1 - math.cos(math.pi * share))


def betas(config: OptimizerConfig, burnt_in: float) -> tuple[float, float]:
    """Return Adam's betas when `burnt_in`, in [0, 1], of the burn-in is over."""
    if config.final_betas is None:
        return config.betas
    first, second = (
        start + burnt_in * (end - start) for start, end in zip(config.betas, config.final_betas, strict=True)
    )
    return first, second
