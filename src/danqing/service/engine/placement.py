"""Where the workers of a service run, and which models each of them holds."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from danqing import threads
from danqing.errors import ConfigError
from danqing.service.settings import Settings

_DEVICES = Path("/dev")
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Place:
    """The place of one worker.

    number: of the worker, from 0.
    name: the device as in the settings, for people.
    device: what the worker computes on, as `precision.choose_device` takes it.
    threads: 0 for the choice of PyTorch or another runtime.
    processors: the logical processors that the worker is bound to; empty for all.
    environment: variables that the worker's process gets.
    models: the models that it holds, in the order of the settings.
    describes: those of them that it describes to the scheduler when it starts.
    """

    number: int
    name: str
    device: str
    threads: int = 0
    processors: tuple[int, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    describes: tuple[str, ...] = ()


def places(settings: Settings) -> tuple[Place, ...]:
    """Return the places of all workers.

    Raises ConfigError for settings that contradict each other.
    """
    engine = settings.engine
    device = "cpu" if engine.runtime != "torch" else engine.device
    devices = engine.devices or _devices(device, engine.workers)
    if engine.devices and engine.device != "auto":
        raise ConfigError("engine.device and engine.devices are both set: keep one of them.")
    if engine.devices and engine.workers not in (None, "auto", len(devices)):
        raise ConfigError(
            f"engine.workers is {engine.workers}, but there are {len(devices)} engine.devices: leave out one."
        )
    if len(devices) == 1 and not engine.devices:
        found = [Place(0, device, device, engine.threads)]
    else:
        found = _on_devices(devices, engine.threads)
    held = holders(settings, len(found))
    _check_kinds(found, held)
    for place in found:
        if not any(place.number in numbers for numbers in held.values()):
            raise ConfigError(
                f"Worker {place.number} holds no model: assign one to it, or use fewer workers."
            )
    return tuple(
        replace(
            place,
            models=tuple(name for name, numbers in held.items() if place.number in numbers),
            describes=tuple(name for name, numbers in held.items() if place.number == numbers[0]),
        )
        for place in found
    )


def holders(settings: Settings, workers: int) -> dict[str, tuple[int, ...]]:
    """Return the numbers of the workers that hold each model; raises ConfigError.

    A model that asks for some number of workers gets those that hold the fewest models so far.
    """
    held: dict[str, tuple[int, ...]] = {}
    load = Counter[int]()
    for name in settings.all_models:
        wanted = settings.model_workers.get(name, workers)
        if isinstance(wanted, int):
            if wanted > workers:
                raise ConfigError(
                    f"The model {name} needs {wanted} workers, but there are {workers}: raise engine.workers."
                )
            numbers = sorted(range(workers), key=lambda number: (load[number], number))[:wanted]
        else:
            numbers = list(wanted)
            if beyond := [number for number in numbers if number >= workers]:
                raise ConfigError(
                    f"The model {name} is assigned to worker {beyond[0]}, but the last one is {workers - 1}."
                )
        load.update(numbers)
        held[name] = tuple(sorted(set(numbers)))
    return held


def _devices(device: str, workers: int | str | None) -> Sequence[str]:
    """Return the device of each worker where only their number is set."""
    gpus = _gpus() if device in ("auto", "cuda") else ()
    if workers == "auto":
        workers = len(gpus) or (1 if device in ("cuda", "mps") else threads.nodes())
    count = workers if isinstance(workers, int) else 1
    if count > 1 and gpus:
        return [f"cuda:{number % len(gpus)}" for number in range(count)]
    return [device] * count


def _gpus() -> Sequence[str]:
    """Return the NVIDIA GPUs that a process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (visible := os.environ.get(_VISIBLE)) is not None:
        return [name.strip() for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    return [str(number) for number, _ in enumerate(_DEVICES.glob("nvidia[0-9]*"))]


def _on_devices(devices: Sequence[str], wanted_threads: int) -> list[Place]:
    """Return a place for each device, without models.

    Workers without a GPU share the processors, and have as many threads each, so that they compute alike.
    """
    sharing = [number for number, device in enumerate(devices) if device in ("auto", "cpu")]
    groups = dict(zip(sharing, threads.groups(len(sharing)), strict=False)) if sharing else {}
    for number, device in enumerate(devices):
        if device.startswith("cpu:"):
            groups[number] = _listed(device)
    on_cpu = len(sharing) + sum(device.startswith("cpu:") for device in devices)
    share = max(1, threads.cores() // max(1, on_cpu))
    share = min([share, *(threads.physical_cores(group) for group in groups.values())])
    found = []
    for number, device in enumerate(devices):
        kind, _, index = device.partition(":")
        if kind == "cuda" and index:
            found.append(Place(number, device, "cuda", wanted_threads, environment={_VISIBLE: _gpu(index)}))
        elif kind in ("auto", "cpu"):
            bound = groups.get(number, ())
            found.append(Place(number, device, kind, wanted_threads or share, bound))
        else:
            found.append(Place(number, device, device, wanted_threads))
    return found


def _gpu(index: str) -> str:
    """Return how CUDA_VISIBLE_DEVICES names a GPU that this process calls `cuda:index`."""
    if not index.isdecimal():
        raise ConfigError(f"There is no device cuda:{index}: write cuda:0, cuda:1 and so on.")
    if _VISIBLE not in os.environ:
        return index
    gpus = _gpus()
    if int(index) >= len(gpus):
        raise ConfigError(f"There is no device cuda:{index}: {_VISIBLE} shows {len(gpus)} GPUs.")
    return gpus[int(index)]


def _listed(device: str) -> tuple[int, ...]:
    """Return the processors of `cpu:0-3,8`; raises ConfigError for those that are not available."""
    try:
        processors = threads.parse_processors(device.removeprefix("cpu:"))
    except ValueError as error:
        raise ConfigError(f"{device} is not a list of processors: write cpu:0-3 or cpu:0,2.") from error
    available = {number for group in threads.groups(1) for number in group}
    if available and not processors <= available:
        missing = ", ".join(map(str, sorted(processors - available)))
        raise ConfigError(f"{device} names processors that this process may not use: {missing}.")
    return tuple(sorted(processors))


def _check_kinds(found: Sequence[Place], held: Mapping[str, Sequence[int]]) -> None:
    """Reject a model on workers of different kinds: a seed would not give the same pixels on each."""
    for name, numbers in held.items():
        kinds = sorted({found[number].device.partition(":")[0] for number in numbers})
        if len(kinds) > 1:
            raise ConfigError(
                f"The model {name} is on workers with {' and '.join(kinds)}, which give different pixels: "
                "set its workers to those of one kind."
            )
