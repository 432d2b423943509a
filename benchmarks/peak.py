"""The fastest matrix product of this machine, which speeds are compared with."""

import math
import time

import torch

from danqing.precision import Precision


def peak_flops(precision: Precision) -> float:
    """Return the best of a few square matrix products on this machine, per second."""
    a = torch.randn(2048, 2048).to(getattr(torch, precision))
    best = math.inf
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best
