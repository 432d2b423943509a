"""What a run will need, found out before its first step: memory by counting, time by a few steps on a
copy.
"""

import contextlib
import math
import sys
import time
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from danqing.data import Batches
from danqing.errors import TrainingError
from danqing.randomness import generator
from danqing.training.config import RunConfig
from danqing.training.engine import Engine
from danqing.training.precision import Precision, autocast, candidates

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Estimate:
    """Parameters per module, expected peak memory in bytes, the faster precision and its images per
    second.
    """

    parameters: dict[str, int]
    memory_bytes: int
    precision: Precision
    images_per_second: float


def estimate(
    config: RunConfig, batches: Batches, device: torch.device, precision: str, seconds: float = 1.5
) -> Estimate:
    """Count memory, refuse what cannot fit, then time a few steps; "auto" times each precision and takes the
    faster.

    `seconds` is about how long each is timed. Raises TrainingError when the machine has not enough memory.
    """
    choices: list[Precision] = candidates(device) if precision == "auto" else [cast(Precision, precision)]
    engine = Engine(config, batches, device, choices[0])
    parameters = {
        name: sum(parameter.numel() for parameter in child.parameters())
        for name, child in engine.family.named_children()
    }
    memory = _memory(engine)
    _refuse_what_cannot_fit(config, memory, available_memory(device))
    speeds: dict[Precision, float] = {}
    for choice in choices:
        engine.precision = choice
        speeds[choice] = _images_per_second(engine, seconds)
    best = max(speeds, key=lambda choice: speeds[choice])
    return Estimate(parameters, memory, best, speeds[best])


def available_memory(device: torch.device) -> int:
    """Bytes that a run may take on `device`; a very large number where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return sys.maxsize


def _memory(engine: Engine) -> int:
    """Expected peak in bytes: weights, gradients, optimiser state and average, plus what backward keeps.

    What backward keeps is counted on two images and scaled to the batch: it grows in proportion. Twice of it
    is taken, since kernels need working memory of about the size of their inputs.
    """
    weights = sum(parameter.numel() * 4 for parameter in engine.family.parameters())
    state = {"adam": 2, "adamw": 2, "sgd": 1, "rmsprop": 2}[engine.config.optimizer.name]
    few = engine.batches.at(0)
    count = min(2, len(few))
    few = type(few)(few.images[:count], few.condition[slice(0, count)])
    kept = 0

    def count_bytes(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    most = 0
    for phase in engine.phases:
        kept = 0
        rng = generator(0, "estimate", device=engine.device)
        hooks = torch.autograd.graph.saved_tensors_hooks(count_bytes, lambda tensor: tensor)
        with hooks, autocast(engine.precision, engine.device):
            engine.family.loss(few, phase, rng)
        most = max(most, kept)
    micro_batch = engine.config.batch_size // engine.config.training.accumulate
    return weights * (3 + state) + 2 * most * micro_batch // count


def _refuse_what_cannot_fit(config: RunConfig, needed: int, available: int) -> None:
    if needed <= 0.9 * available:
        return
    parts = config.training.accumulate * math.ceil(needed / (0.7 * available))
    while config.batch_size % parts and parts < config.batch_size:
        parts += 1
    raise TrainingError(
        f"Training would need about {needed / _GIB:.1f} GiB and {available / _GIB:.1f} GiB are free: try "
        f"--set training.accumulate={min(parts, config.batch_size)} or a smaller batch_size or --size."
    )


def _images_per_second(engine: Engine, seconds: float) -> float:
    """Speed over a few steps, the first of which (allocations, kernels being chosen) is not counted."""
    images = engine.images_per_step
    total = 1000 * images
    _run(engine, 0, total)
    start, steps = time.perf_counter(), 0
    while steps < 3 or (time.perf_counter() - start < seconds and steps < 200):
        steps += 1
        _run(engine, steps, total)
        if time.perf_counter() - start > 4 * seconds:
            break
    return steps * images / (time.perf_counter() - start)


def _run(engine: Engine, step: int, total: int) -> None:
    float(engine.step(step * engine.images_per_step, step, total))
