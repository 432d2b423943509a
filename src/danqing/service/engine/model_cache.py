"""The models and indexes in the worker's memory: loaded on first use, evicted when memory is short."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from danqing.service.engine.orders import ModelUnavailableError
from danqing.service.engine.served import LOAD_ERRORS, Found, Library, Served

HEADROOM = 2.0
"""The free memory that loading a model needs, in multiples of its size, if no budget is set."""
RETRY_SECONDS = 5.0
"""How long until a model that could not be loaded is retried."""


@dataclass(frozen=True, slots=True)
class _Failure:
    until: float
    message: str


class ModelCache:
    """Loaded models; the least recently used are evicted when memory is short.

    library_of: from a source to the library that loads it.
    budget: bytes of weights, including all cached layouts of them; 0 for what the machine can spare.
    """

    def __init__(
        self, sources: Mapping[str, str], library_of: Callable[[str], Library], *, budget: int
    ) -> None:
        self._sources, self._library_of, self._budget = dict(sources), library_of, budget
        self._models: OrderedDict[str, tuple[Served, int]] = OrderedDict()
        self._failures: dict[str, _Failure] = {}

    @property
    def loaded(self) -> list[str]:
        """Return the names of the loaded models, the least recently used first."""
        return list(self._models)

    def add(self, name: str, source: str) -> None:
        """Add another model.

        One that had its name before is forgotten.
        """
        self._sources[name] = source
        self._failures.pop(name, None)
        if self._models.pop(name, None) is not None:
            self._library_of(source).release_memory()

    def has(self, name: str) -> bool:
        """Return whether a model is loaded."""
        return name in self._models

    def get(self, name: str) -> Served:
        """Return a model, loaded if necessary; raises ModelUnavailableError with the reason."""
        if name in self._models:
            self._models.move_to_end(name)
            return self._models[name][0]
        failure = self._failures.get(name)
        if failure is not None and time.monotonic() < failure.until:
            raise ModelUnavailableError(failure.message)
        try:
            return self._load(name)
        except LOAD_ERRORS as error:
            message = f"The model {name} cannot be loaded: {str(error) or type(error).__name__}"
            self._failures[name] = _Failure(time.monotonic() + RETRY_SECONDS, message)
            raise ModelUnavailableError(message) from error

    def _load(self, name: str) -> Served:
        library = self._library_of(self._sources[name])
        found = library.find(self._sources[name])
        self._make_room(found, library)
        model = found.load()
        self._failures.pop(name, None)
        self._models[name] = (model, found.nbytes)
        return model

    def _make_room(self, found: Found, library: Library) -> None:
        """Evict models until a library has room for another."""
        while self._models and not self._has_room(found, library):
            evicted, _ = self._models.popitem(last=False)
            self._library_of(self._sources[evicted]).release_memory()
        if not self._has_room(found, library):
            raise ModelUnavailableError(
                f"it takes {found.nbytes:,} bytes, and the worker has no room for it: raise engine.memory, "
                "or use a larger machine."
            )

    def _has_room(self, found: Found, library: Library) -> bool:
        if self._budget:
            return found.nbytes + sum(taken for _, taken in self._models.values()) <= self._budget
        return (found.needed or math.ceil(HEADROOM * found.nbytes)) <= library.free_memory()
