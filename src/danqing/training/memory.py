"""The memory of a training step, counted on a few images and extrapolated to more."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from danqing import machine
from danqing.errors import TrainingError
from danqing.live_bytes import LiveBytes
from danqing.training.engine import Engine

COUNTED_ON = (4, 8)
"""How many images the memory is counted on."""


def step_bytes(engine: Engine) -> Callable[[int], int]:
    """Count the most bytes that a training step creates; returns them as a function of the micro-batch.

    Gradients are among them, but not their sums over grains; weights, and what optimisers and averages keep,
    are not. The engine's gradients and what it has logged are discarded.
    """
    grains, engine.grains = engine.grains, None  # one grain is counted as a batch
    try:
        return _step_bytes(engine)
    finally:
        engine.grains = grains


def _step_bytes(engine: Engine) -> Callable[[int], int]:
    most = len(engine.batches.at(0))  # a batch of a private run may be small
    fewer, more = (min(count, most) for count in COUNTED_ON)
    first, second = (_traced(engine, count) for count in (fewer, more))
    if len(first) != len(second):  # the operations depend on the images
        first, second = first.max(keepdims=True), second.max(keepdims=True)
    # Each moment by itself: gradients are the most on few images, and activations on many.
    of_each = (second - first) / max(more - fewer, 1)
    return lambda micro_batch: int((second + of_each * (micro_batch - more)).max())


def _traced(engine: Engine, count: int) -> NDArray[np.int64]:
    """The bytes after each operation of all phases, on `count` images."""
    batch = engine.batches.at(0)[:count]
    traces: list[int] = []
    engine.meter.drain()  # the first value of a sum takes one operation less
    for phase in engine.phases:
        with LiveBytes() as counted:
            engine.compute_gradients(phase, [batch], 0, 0)
        engine.optimizers[phase.name].zero_grad(set_to_none=True)
        traces += counted.trace
    return np.array(traces)


@contextlib.contextmanager
def memory_errors_explained() -> Iterator[None]:
    """Raise TrainingError with what to do if memory runs out."""
    try:
        yield
    except RuntimeError as error:
        if not machine.is_out_of_memory(error):
            raise
        raise TrainingError(
            "Memory ran out: set training.checkpointing=on, set training.micro_batch to a smaller number, or "
            "choose a smaller --size or network. A run that has begun resumes from its last checkpoint."
        ) from error
