"""Which library computes a model: exports have their own runtimes, and everything else needs PyTorch."""

import functools
from pathlib import Path

from danqing.folder_formats import is_export
from danqing.frames import Header
from danqing.service.engine.served import Library


class Libraries:
    """The libraries of a worker.

    A worker that holds exports alone never imports PyTorch.

    setup: the first frame that the worker receives.
    """

    def __init__(self, setup: Header) -> None:
        self._setup = setup
        self._exports = {source for source in setup["models"].values() if is_export(source)}
        for source in setup["models"].values():  # before the worker is ready
            self.of(source)

    def of(self, source: str) -> Library:
        """Return the library that describes and loads a model."""
        return self._of_exports if source in self._exports else self._of_others

    @functools.cached_property
    def _of_exports(self) -> Library:
        return _of_exports(self._setup)

    @functools.cached_property
    def _of_others(self) -> Library:
        return _of_others(self._setup)


def _of_exports(setup: Header) -> Library:
    from danqing.service.engine.runtime_models import RuntimeLibrary

    return RuntimeLibrary(setup["device"], setup["threads"], setup["marks"])


def _of_others(setup: Header) -> Library:
    from danqing.model.files import Access
    from danqing.service.engine.torch_models import TorchLibrary

    access = Access(tuple(map(Path, setup["require_signature"])))
    return TorchLibrary(
        setup["device"], setup["threads"], access, setup["marks"], adapters=setup.get("adapters", {})
    )
