"""What a loop is given: seeds, conditions and options of some images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from danqing.compress.runtime.graphs import Array, Graph

Report = Callable[[int, int, Callable[[], Array]], None]
"""A function that is called after each step with steps done, steps in all, and a function that returns the
images so far, float32 `[n, c, h, w]` in [-1, 1]."""


@dataclass(frozen=True, slots=True)
class Request:
    """Some images that are computed together.

    seeds: one for each. condition: inputs of graphs that say what images show, by their names. away: the same
    for what guidance leads away from. negative: the negative prompts.
    options: all that the model has. size: (width, height); None is the model's own.
    """

    seeds: Sequence[int]
    condition: Mapping[str, Array]
    away: Mapping[str, Array]
    options: Mapping[str, Any]
    negative: Sequence[str] = ()
    size: tuple[int, int] | None = None


Sample = Callable[[Mapping[str, Graph], Any, Request, Report], Array]
"""A loop: from graphs, its form and a request to images, float32 `[n, c, h, w]` in [-1, 1]."""
