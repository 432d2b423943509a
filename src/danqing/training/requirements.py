"""What a run will need, before its first step: memory by counting, time by a few steps of a copy."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from danqing import families, machine
from danqing.data import Batches
from danqing.errors import TrainingError
from danqing.families.base import Learner
from danqing.precision import Precision, autocast, candidates
from danqing.randomness import generator
from danqing.training import optimizers, snapshots
from danqing.training.config import RunConfig
from danqing.training.engine import Engine
from danqing.training.growth import Growth, Pace
from danqing.training.listener import Plan

_GIB = 2**30
_ROUNDS = 3
_LATE = 10**9
"""Stands for the last image of a run whose budget is in minutes."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a run needs.

    parameters: count per module.
    memory_bytes: expected peak of the process.
    precision: the faster one.
    images_per_second: with that precision.
    pace: the same for each size of a run that grows.
    snapshot_bytes: the most disk space of the snapshots of the moving averages.
    """

    parameters: dict[str, int]
    memory_bytes: int
    precision: Precision
    images_per_second: float
    pace: Pace
    snapshot_bytes: int

    def plan(
        self, images: int, device: torch.device, *, seen: int = 0, stage: str = "", then: Plan | None = None
    ) -> Plan:
        """Return the plan of a run.

        images: the whole budget, of which `seen` have been seen.
        """
        totals = [(0, images)]
        left = self.pace.until(max(images, seen), totals) - self.pace.until(seen, totals)
        return Plan(
            parameters=self.parameters,
            memory_bytes=self.memory_bytes,
            images=images,
            seconds=left,
            images_per_second=self.images_per_second,
            precision=self.precision,
            device=str(device),
            resumed_from=seen,
            snapshot_bytes=self.snapshot_bytes,
            stage=stage,
            then=then,
        )


def estimate_requirements(
    config: RunConfig,
    batches: Batches,
    device: torch.device,
    precision: str,
    tokenizer: Learner | None = None,
) -> Requirements:
    """Count the memory that a run needs, and time a few steps.

    Both as at the end of the run, when everything has started that starts late, such as a discriminator.

    precision: "auto" times each precision and chooses the faster.
    tokenizer: of a run whose batches are codes.

    Raises TrainingError if the machine does not have enough memory.
    """
    _check_memory(config, _state_bytes(config), machine.available_memory(device))
    choices: list[Precision] = candidates(device) if precision == "auto" else [cast(Precision, precision)]
    engine, end = Engine(config, batches, device, choices[0], tokenizer), config.images or _LATE
    engine.learner.on_progress(end)
    parameters = {
        name: sum(parameter.numel() for parameter in child.parameters())
        for name, child in engine.learner.named_children()
    }
    needed = _state_bytes(config) + 2 * _kept_by_batch(engine)
    _check_memory(config, needed, machine.available_memory(device))
    memory = needed + (machine.resident_memory() if device.type == "cpu" else 0)
    # In turns, and the best of each, so that other work on the machine does not decide.
    rounds = _ROUNDS if len(choices) > 1 else 1
    speeds = dict.fromkeys(choices, 0.0)
    for choice in choices * rounds:
        engine.precision = choice
        speed = _images_per_second(engine, end, config.training.measure_seconds / rounds)
        speeds[choice] = max(speeds[choice], speed)
    best = max(speeds, key=lambda choice: speeds[choice])
    engine.precision = best
    pace = _pace(engine, end, speeds[best])
    averaged = engine.averaged()
    values = sum(tensor.numel() for named in averaged.values() for tensor in named.values())
    overall = _LATE / pace.until(_LATE, [(0, _LATE)])
    return Requirements(parameters, memory, best, overall, pace, snapshots.most_bytes(values))


def _state_bytes(config: RunConfig) -> int:
    """Bytes of weights, gradients, the optimiser's averages and the moving averages."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in families.build_learner(config.model).parameters())
    moving = max(1, len(config.training.ema_lengths))
    return 4 * parameters * (2 + moving + optimizers.averages(config.optimizer))


def _kept_by_batch(engine: Engine) -> int:
    """Bytes that the backward pass keeps of a batch; kernels need about as much again to work in.

    Counted for two and four images, and scaled to the batch by what each further image adds.
    """
    count = engine.config.batch_size // engine.config.training.accumulate
    if count <= 4:
        return _kept_for_backward(engine, count)
    two, four = _kept_for_backward(engine, 2), _kept_for_backward(engine, 4)
    return four + (four - two) // 2 * (count - 4)


def _kept_for_backward(engine: Engine, count: int) -> int:
    """Bytes that the phase that needs most keeps for its backward pass on `count` images."""
    batch = engine.batches.at(0)[:count]
    kept: dict[int, int] = {}  # by address, since several operations may keep the same tensor

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = max(kept.get(tensor.data_ptr(), 0), tensor.numel() * tensor.element_size())
        return tensor

    most = 0
    for phase in engine.phases:
        kept.clear()
        rng = generator(0, "estimate", device=engine.device)
        hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
        with hooks, autocast(engine.precision, engine.device):
            losses = engine.learner.loss(batch, phase, rng)  # kept alive, so that no address is reused
        most = max(most, sum(kept.values()))
        del losses
    return most


def _check_memory(config: RunConfig, needed: int, available: int) -> None:
    if needed <= 0.9 * available:
        return
    parts = config.training.accumulate * math.ceil(needed / (0.7 * available))
    while config.batch_size % parts and parts < config.batch_size:
        parts += 1
    raise TrainingError(
        f"Training would need about {needed / _GIB:.1f} GiB and {available / _GIB:.1f} GiB are free: try "
        f"--set training.accumulate={min(parts, config.batch_size)} or a smaller batch_size or --size."
    )


def _pace(engine: Engine, begin: int, speed: float) -> Pace:
    """Return the time of an image of each size.

    speed: in images per second, of the whole size.
    """
    growth = Growth.of(engine.config)
    small = len(growth.ends) - 1
    seconds = engine.config.training.measure_seconds / 3
    speeds = [_images_per_second(engine, begin, seconds, (0,) * (size + 1)) for size in range(small)]
    return Pace(growth, tuple(1 / each for each in (*speeds, speed)))


def _images_per_second(
    engine: Engine, begin: int, seconds: float, begins: Sequence[int] | None = None
) -> float:
    """The speed of a few steps from `begin` images on.

    begins: as of `Engine.step`.
    The first step is not counted: it allocates memory and chooses kernels.
    """
    images = engine.images_per_step
    _run(engine, begin, 0, begins)
    start, steps, spent = time.perf_counter(), 0, 0.0
    while (spent < seconds and steps < 200) or (steps < 3 and spent < 4 * seconds):
        steps += 1
        _run(engine, begin, steps, begins)
        spent = time.perf_counter() - start
    return float(steps * images / spent)


def _run(engine: Engine, begin: int, step: int, begins: Sequence[int] | None) -> None:
    images = engine.images_per_step
    float(engine.step(begin + step * images, step, total=begin + 1000 * images, begins=begins))
