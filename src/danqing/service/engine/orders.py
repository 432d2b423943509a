"""What passes between those who ask for pictures and the engine that has them painted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from danqing.errors import DanqingError
from danqing.options import Verb as Verb

Pixels = NDArray[np.uint8]
"""`[n, h, w, c]`, c from 1 to 4."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a served model is and can do, as the worker found it in the model's folder.

    reads: what its prompt is. captions: where that is a text, some that it may be like; where it is a label,
    those of each label, if the data had any. options: of each verb that it can do, with their defaults.
    guides: whether guidance_scale may be another than 1. steps: whether it has intermediate pictures. tokens:
    codes that one picture is written in, 0 for families that write none. prompt_tokens: how many a text may
    have, 0 where none is read. resamples: whether other sizes than its own may be made of its pictures, as
    its card says. chunk: how many pictures are computed in the time of one. fault: why it cannot be used,
    None where it can.
    """

    name: str
    path: str
    family: str = ""
    width: int = 0
    height: int = 0
    channels: int = 0
    reads: Literal["text", "label", "none"] = "none"
    labels: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    options: Mapping[Verb, Mapping[str, Any]] = field(default_factory=lambda: {"sample": {}})
    guides: bool = True
    steps: bool = False
    tokens: int = 0
    prompt_tokens: int = 0
    resamples: bool = True
    chunk: int = 1
    parameters: int = 0
    created: int = 0
    card: str = ""
    fault: str | None = None

    @property
    def verbs(self) -> tuple[Verb, ...]:
        """What it can do."""
        return tuple(self.options)

    @property
    def image_tokens(self) -> int:
        """What one picture counts in `usage`: its codes, or one per 16x16 pixels where it has none."""
        return self.tokens or math.ceil(self.width / 16) * math.ceil(self.height / 16)


@dataclass(frozen=True, slots=True)
class Row:
    """One picture to paint: all that its pixels follow from, beside the options of its order."""

    seed: int
    label: str | int | None = None
    prompt: str | None = None
    negative_prompt: str | None = None


class Priority(IntEnum):
    """Who is served first: somebody who waits, or a job."""

    INTERACTIVE = 0
    JOB = 1


@dataclass(frozen=True, slots=True)
class Order:
    """Pictures that somebody asks for together.

    images, masks: of `fill` and `vary`, one per row, at the model's size; masks bool `[n, h, w]`. previews:
    how many intermediate pictures are wanted. owner: who asks, for fairness. seconds: until nobody waits for
    it any more, from now or, where it is a job, from when its painting begins.
    """

    model: str
    rows: tuple[Row, ...]
    verb: Verb = "sample"
    options: Mapping[str, Any] = field(default_factory=dict)
    images: Pixels | None = None
    masks: NDArray[np.bool_] | None = None
    previews: int = 0
    owner: str = ""
    priority: Priority = Priority.INTERACTIVE
    seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Steps done of all steps, of the whole order."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Preview:
    """Intermediate pictures of all rows, number `index` of those that were wanted."""

    index: int
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class Painted:
    """The pictures of all rows, and the seconds that they waited and were computed."""

    pixels: Pixels
    queue_seconds: float
    compute_seconds: float


Event = Progress | Preview | Painted


class OverloadedError(DanqingError):
    """There is no room in the queue; `retry_after`: seconds until there should be."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelUnavailableError(DanqingError):
    """The model is served here and cannot be loaded at present."""


class DeadlinePassedError(DanqingError):
    """The time of an order was over before it was painted."""


class PaintingFailedError(DanqingError):
    """The worker could not paint the order, or died of it twice; nothing that the order says was at fault."""


class OrderCancelledError(DanqingError):
    """The order was cancelled, or the engine stops."""


def rows_of(seeds: Sequence[int], **of_all: Any) -> tuple[Row, ...]:
    """A row per seed, alike in all else."""
    return tuple(Row(seed=seed, **of_all) for seed in seeds)
