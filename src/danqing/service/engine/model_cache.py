"""The models and indexes in the worker's memory: loaded on first use, evicted when memory is short."""

import gc
import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from danqing.families.base import Family, Learner
from danqing.machine import available_memory
from danqing.model import folder as model_folder
from danqing.model.files import Access
from danqing.model.loading import open_source
from danqing.model.model import Model
from danqing.model.recognizer import Recognizer
from danqing.precision import choose_device
from danqing.recognition import index_files
from danqing.recognition.image_index import ImageIndex
from danqing.service.engine.model_description import LOAD_ERRORS, check_index, is_index
from danqing.service.engine.orders import ModelUnavailableError

Served = Model | Recognizer | ImageIndex

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

    budget: bytes of weights, including all cached layouts of them; 0 for what the machine can spare.
    access: what a model must satisfy before it is loaded. marks: which marks its images get.
    """

    def __init__(
        self, sources: Mapping[str, str], *, device: str, budget: int, access: Access, marks: str = "none"
    ) -> None:
        self._access, self._marks = access, marks
        self._sources, self._device, self._budget = sources, choose_device(device), budget
        self._models: OrderedDict[str, tuple[Served, int]] = OrderedDict()
        self._failures: dict[str, _Failure] = {}

    @property
    def loaded(self) -> list[str]:
        """Return the names of the loaded models, the least recently used first."""
        return list(self._models)

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
        source, size = self._sources[name], 0
        model: Served
        if is_index(source):
            check_index(self._access)
            size = _index_bytes(Path(source))
            self._make_room(size)
            model = ImageIndex.load(source)
            model.open_encoder(self._device)
        else:
            files = open_source(source, access=self._access)
            learner = model_folder.examine_learner(files)[0]
            size = learner.sampling_bytes() if isinstance(learner, Family) else _bytes_of(learner)
            self._make_room(size)
            learner, facts = model_folder.read_learner(files)
            if isinstance(learner, Family):
                model = Model(learner, facts).to(self._device)
                model.marks, model.marks_codes = self._marks, True
            else:
                model = Recognizer(learner, facts).to(self._device)
        self._failures.pop(name, None)
        self._models[name] = (model, size)
        return model

    def _make_room(self, size: int) -> None:
        """Evict models until there is room for `size` bytes."""
        while self._models and not self._has_room(size):
            self._models.popitem(last=False)
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        if not self._has_room(size):
            raise ModelUnavailableError(
                f"it takes {size:,} bytes, and the worker has no room for it: raise engine.memory, "
                "or use a larger machine."
            )

    def _has_room(self, size: int) -> bool:
        if self._budget:
            return size + sum(taken for _, taken in self._models.values()) <= self._budget
        return math.ceil(HEADROOM * size) <= available_memory(self._device)


def _bytes_of(learner: Learner) -> int:
    """Return the bytes of a learner's weights."""
    return sum(one.nbytes for one in (*learner.parameters(), *learner.buffers()))


def _index_bytes(folder: Path) -> int:
    """Return the bytes that the vectors of an index take, with a copy of 8 bits that its search reads."""
    head = index_files.read_head(folder)
    return sum(file.rows for file in head.files) * head.dimensions * 5
