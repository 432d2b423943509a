"""What the worker needs of a model, whichever runtime computes it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from danqing.errors import DanqingError
from danqing.images import Images
from danqing.service.engine.offers import Offer
from danqing.service.engine.orders import Finding, Painting
from danqing.service.engine.received_batch import Batch, Row

LOAD_ERRORS = (DanqingError, OSError, RuntimeError, MemoryError, ValueError)
"""The errors that reading a model may raise."""
QUERIES = 8
"""How many are recognized at once; a model that segments sees large pictures, and takes one at a time."""
MOST_CARD = 200_000
"""Characters of a model card that are shown."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What the worker does while a model computes.

    Both functions raise an exception to stop it.

    look: called before each network of work that has no steps.
    on_step: called after each step of a painting, with the steps done, the steps in all, and a function that
        returns the pictures so far.
    """

    look: Callable[[], None]
    on_step: Callable[[int, int, Callable[[], Images]], None]


class Served(Protocol):
    """A model or an index in memory."""

    def chunk_of(self, batch: Batch) -> int:
        """Return how many rows of a batch are computed at once."""
        ...

    def check_prompt(self, text: str, name: str) -> None:
        """Raise ConfigError for a prompt that is too long to read."""
        ...

    def computed(
        self, batch: Batch, start: int, rows: Sequence[Row], watch: Watch
    ) -> Painting | list[Finding]:
        """Return the pictures of some rows, or what is found for them.

        start: the place of the first row in the batch.
        """
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """A model that is not in memory yet.

    nbytes: that it will take. load: reads it, and raises what `LOAD_ERRORS` has.
    needed: the free memory that loading and computing need, 0 for twice as much as it will take.
    """

    nbytes: int
    load: Callable[[], Served]
    needed: int = 0


class Library(Protocol):
    """Describes, finds and loads the models that one runtime computes."""

    def describe(self, name: str, source: str) -> Offer:
        """Describe a model; the offer has a `fault` if it is unusable."""
        ...

    def find(self, source: str) -> Found:
        """Return a model; raises what `LOAD_ERRORS` has."""
        ...

    def free_memory(self) -> int:
        """Return the bytes that models may still take."""
        ...

    def release_memory(self) -> None:
        """Return the memory of models that were evicted."""
        ...
