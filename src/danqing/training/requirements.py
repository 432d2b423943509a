"""What a run will need, before its first step: memory and time, by a few steps of a copy."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from danqing import families, machine
from danqing.data import Batches
from danqing.data.batch import Batch
from danqing.errors import TrainingError
from danqing.families.base import Learner
from danqing.nets.recomputing import recompute_blocks
from danqing.precision import Precision, candidates
from danqing.training import adapting, measured_runs, optimizers, snapshots
from danqing.training.config import RunConfig
from danqing.training.engine import Engine
from danqing.training.grains import Grains, grains_of
from danqing.training.growth import Growth, Pace
from danqing.training.listener import Plan
from danqing.training.measured_runs import NO_ADVICE
from danqing.training.memory import step_bytes
from danqing.training.private_gradients import Noise

_GIB = 2**30
_ROUNDS = 3
_LATE = 10**9
"""Stands for the last image of a run whose budget is in minutes."""
_USABLE = 0.85
"""The share of the free memory that a run may need by counting, which leaves out memory within kernels."""
_MEASURED = 8
"""Batches of streamed images that are measured with."""
_FEW = 8
"""Activations are computed again rather than fewer images at once than this."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a run needs.

    config: of the run.
    parameters: count per module.
    memory_bytes: expected peak of the process, or of the GPU.
    precision: the faster one.
    images_per_second: with that precision.
    pace: the same for each size of a run that grows.
    snapshot_bytes: the most disk space of the snapshots of the moving averages.
    micro_batch, checkpointing: with which the run fits into the memory that is free.
    """

    config: RunConfig
    parameters: dict[str, int]
    memory_bytes: int
    precision: Precision
    images_per_second: float
    pace: Pace
    snapshot_bytes: int
    micro_batch: int
    checkpointing: bool

    def plan(
        self,
        images: int,
        device: torch.device,
        *,
        seen: int = 0,
        grid_seconds: float = 0.0,
        stage: str = "",
        then: Plan | None = None,
    ) -> Plan:
        """Return the plan of a run.

        images: the whole budget, of which `seen` have been seen.
        grid_seconds: what each grid of samples takes.
        then: the plan of the stage that follows; advice on the size is for that stage.
        """
        totals, grids = [(0, images)], self.config.training.sample_grids * grid_seconds
        whole = self.pace.until(images, totals)
        left = self.pace.until(max(images, seen), totals) - self.pace.until(seen, totals)
        advice = measured_runs.advise(self.config, images, whole + grids) if then is None else NO_ADVICE
        return Plan(
            parameters=self.parameters,
            memory_bytes=max(self.memory_bytes, machine.peak_memory(device) or 0),
            images=images,
            seconds=left + grids * max(images - seen, 0) / max(images, 1),
            images_per_second=self.images_per_second,
            precision=self.precision,
            device=str(device),
            resumed_from=seen,
            snapshot_bytes=self.snapshot_bytes,
            grid_seconds=grid_seconds,
            batch_size=self.config.batch_size,
            micro_batch=self.micro_batch,
            checkpointing=self.checkpointing,
            nearest=advice.nearest,
            warning=advice.warning,
            stage=stage,
            then=then,
        )


def estimate_requirements(
    config: RunConfig,
    batches: Batches,
    device: torch.device,
    precision: str,
    tokenizer: Learner | None = None,
    *,
    earlier: Mapping[str, Any] | None = None,
    together: "Together | None" = None,
) -> Requirements:
    """Measure the memory and the speed of a few steps of a copy.

    The memory is that at the end of the run, when everything has started that starts late, such as a
    discriminator. If memory is short, fewer images are computed at once and activations are computed again,
    if the configuration leaves that open.

    precision: "auto" times each precision and chooses the faster; with grains, what the hardware has.
    tokenizer: of a run whose batches are codes.
    earlier: the plan of the run that is resumed, whose micro-batch is kept.
    together: takes steps in all processes of the run, where one alone may not have room. By default, this one
        measures its part of a step alone.

    Raises TrainingError if the machine does not have enough memory.
    """
    free, resident, grains = machine.available_memory(device), machine.resident_memory(), grains_of(config)
    if grains is not None:
        grains.exchanges = together is not None
        free //= grains.world.place.local_size if device.type == "cpu" else 1
    state, summed = _state_bytes(config, grains)
    copied = state if device.type == "cpu" else 0  # a checkpoint is written from it while steps go on
    state += summed + copied
    if state > _USABLE * free:
        raise _too_large(state, free)
    choices: list[Precision] = candidates(device) if precision == "auto" else [cast(Precision, precision)]
    if grains is not None and not grains.fast:
        choices = choices[:1]  # a measurement could choose otherwise with another number of processes
    if together is not None:
        return _estimate_together(config, device, choices[0], together)
    if batches.dataset.stream is not None:
        batches = cast(Batches, _Beginning(batches))
    engine = Engine(config, batches, device, choices[0], tokenizer, grains=grains)
    end = config.images or _LATE
    engine.micro_batch = (earlier or {}).get("micro_batch", engine.micro_batch)
    if engine.private is not None:
        engine.private.noise = Noise(1.0, bytes(32))  # nothing of these steps is kept
    engine.learner.on_progress(end)
    checkpointing, counted = _fit(engine, state, free)
    speeds = _speeds(engine, choices, end)
    best = engine.precision = max(speeds, key=lambda choice: speeds[choice])
    peak = machine.peak_memory(device)
    memory = counted + (resident if device.type == "cpu" else 0) if peak is None else peak + copied
    averaged = engine.averaged()
    values = sum(tensor.numel() for named in averaged.values() for tensor in named.values())
    pace = _pace(engine, end, speeds[best])
    needs = Requirements(
        config=config,
        parameters=_parameters(engine),
        memory_bytes=memory,
        precision=best,
        images_per_second=_LATE / pace.until(_LATE, [(0, _LATE)]),
        pace=pace,
        snapshot_bytes=snapshots.most_bytes(values),
        micro_batch=engine.micro_batch,
        checkpointing=checkpointing,
    )
    del engine, averaged
    gc.collect()  # so that the memory of the copy is free before the run takes its own
    return needs


class Together(NamedTuple):
    """How the first of several processes lets all of them take steps.

    begin: builds an engine in each, given a number format and whether blocks compute their activations again.
    step: lets the others take a step, with the arguments of `Engine.step`.
    """

    begin: Callable[[Precision, bool], Engine]
    step: Callable[[int, int, int, float, Sequence[int] | None], None]


class _Led:
    """An engine whose steps are taken by all processes."""

    def __init__(self, engine: Engine, together: Together) -> None:
        self._engine, self._together = engine, together

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def step(self, images: int, step: int, *, total: int, begins: Sequence[int] | None) -> Tensor:
        self._together.step(images, step, total, 1.0, begins)
        return self._engine.step(images, step, total, 1.0, begins)


def _estimate_together(
    config: RunConfig, device: torch.device, precision: Precision, together: Together
) -> Requirements:
    """Measure steps of all processes; activations are computed again unless the configuration forbids it."""
    checkpointing, end = config.training.checkpointing != "off", config.images or _LATE
    engine = together.begin(precision, checkpointing)
    led = cast(Engine, _Led(engine, together))
    speed = _images_per_second(led, end, config.training.measure_seconds)
    pace = _pace(led, end, speed)
    values = sum(tensor.numel() for named in engine.averaged().values() for tensor in named.values())
    return Requirements(
        config=config,
        parameters=_parameters(engine),
        memory_bytes=machine.peak_memory(device) or machine.resident_memory(),
        precision=precision,
        images_per_second=_LATE / pace.until(_LATE, [(0, _LATE)]),
        pace=pace,
        snapshot_bytes=snapshots.most_bytes(values),
        micro_batch=engine.micro_batch,
        checkpointing=checkpointing and recompute_blocks(engine.learner, checkpointing),
    )


def _parameters(engine: Engine) -> dict[str, int]:
    """Return how many parameters each module has."""
    return {
        name: sum(parameter.numel() for parameter in child.parameters())
        for name, child in engine.learner.named_children()
    }


class _Beginning:
    """The first batches again and again: to measure a late step, no shards are fetched for it."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)

    def at(self, images_seen: int, rows: slice | None = None) -> Batch:
        return self._batches.at(images_seen % (_MEASURED * self._batches.batch_size), rows)


def _state_bytes(config: RunConfig, grains: Grains | None) -> tuple[int, int]:
    """Bytes of weights, the moving averages and what optimisers keep; those of sums over grains.

    Gradients are not among them.
    """
    if config.family == families.PIPELINE:
        return adapting.pipeline_bytes(config), 0
    learner = families.without_weights(config.model)
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in learner.named_children()}
    trained = {module.partition(".")[0] for phase in learner.phases() for module in phase.modules}
    moving = max(1, len(config.training.ema_lengths))
    kept = sum(size for name, size in sizes.items() if name not in learner.training_only)
    optimised = sum(sizes[name] for name in trained)
    if config.adapter is not None:
        optimised = kept = adapting.size(learner, config.adapter)
    summed = 0 if grains is None else grains.sums_bytes(optimised)
    averages = optimizers.averages(config.optimizer) * optimised
    if grains is not None and grains.exchanges:  # in parts
        averages //= grains.world.size
    return 4 * (sum(sizes.values()) + moving * kept + averages), summed


def _fit(engine: Engine, state: int, free: int) -> tuple[bool, int]:
    """Choose the largest micro-batch that fits into memory, and whether activations are computed again.

    Returns that choice and the bytes that the run needs by counting.
    """
    training, whole, fewest = engine.config.training, engine.micro_batch, engine.fewest_at_once
    options = [training.checkpointing == "on"]
    if training.checkpointing == "auto" and not engine.private and recompute_blocks(engine.learner, False):
        options = [False, True]
    for checkpointing in options:
        has_blocks = recompute_blocks(engine.learner, checkpointing)
        counted = step_bytes(engine)
        smallest = fewest if checkpointing == options[-1] else max(fewest, _FEW)
        is_fixed = training.micro_batch != "auto" or engine.grains is not None
        sizes = [whole] if is_fixed else _halvings(whole, smallest)
        for micro_batch in sizes:
            needed = state + counted(micro_batch)
            if needed <= _USABLE * free:
                engine.micro_batch = micro_batch
                return checkpointing and has_blocks, needed
    raise _too_large(needed, free, f" even with {sizes[-1]} images at once")


def _halvings(largest: int, smallest: int) -> list[int]:
    """A micro-batch, half of it, and so on."""
    sizes = [largest]
    while sizes[-1] > smallest:
        sizes.append(max(smallest, -(-sizes[-1] // 2)))
    return sizes


def _too_large(needed: int, free: int, when: str = "") -> TrainingError:
    return TrainingError(
        f"Training would need about {needed / _GIB:.1f} GiB{when}, and {free / _GIB:.1f} GiB are free: "
        "choose a smaller --size or network, leave training.micro_batch and training.checkpointing at auto, "
        "begin a run with more training.grains if it has several, or free memory."
    )


def _speeds(engine: Engine, choices: Sequence[Precision], begin: int) -> dict[Precision, float]:
    """The images per second of each number format, from `begin` images on.

    They are measured in turns, and the best of each counts, so that other work does not decide.
    """
    rounds, seconds = _ROUNDS if len(choices) > 1 else 1, engine.config.training.measure_seconds
    speeds, started = dict.fromkeys(choices, 0.0), time.perf_counter()
    for turn in range(rounds):
        for choice in choices:
            engine.precision = choice
            speed = _images_per_second(engine, begin, seconds / rounds, warm=turn > 0)
            speeds[choice] = max(speeds[choice], speed)
        if time.perf_counter() - started > 2 * rounds * seconds:
            break  # a single step takes long
    return speeds


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
    engine: Engine, begin: int, seconds: float, begins: Sequence[int] | None = None, *, warm: bool = False
) -> float:
    """The speed of a few steps from `begin` images on.

    begins: as of `Engine.step`.
    warm: whether such a step has been taken. Otherwise the first is not counted: it allocates memory and
        chooses kernels.
    """
    images = engine.images_per_step
    if not warm:
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
