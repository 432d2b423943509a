"""Models and indexes that PyTorch computes, for the worker."""

import dataclasses
import gc
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.module import register_module_forward_pre_hook

from danqing.editing.batch import edited
from danqing.editing.contract import ImageToEdit
from danqing.editing.stylize import Stylize
from danqing.editing.trained_style import TrainedStyle
from danqing.editing.window_model import Request
from danqing.families.base import Family, Learner
from danqing.families.pipeline import Pipeline
from danqing.families.style import Style
from danqing.images import Images
from danqing.machine import available_memory
from danqing.model import adapted
from danqing.model.files import Access
from danqing.model.loading import open_source
from danqing.model.model import Model
from danqing.model.recognizer import Recognizer
from danqing.precision import choose_device
from danqing.recognition import index_files
from danqing.recognition.explain.model_directions import ModelDirections
from danqing.recognition.image_index import ImageIndex
from danqing.service.engine import attributions, edits, model_description, recognition
from danqing.service.engine.adapters import Adapters
from danqing.service.engine.offers import Offer
from danqing.service.engine.orders import ADAPTERS, Finding, ModelUnavailableError, Painting, WholeImage
from danqing.service.engine.received_batch import Batch, Row, conditions
from danqing.service.engine.served import LOAD_ERRORS, Found, Served, Watch

MOST_ADAPTED = 2
"""So many copies of a model with adapters are kept."""


class TorchLibrary:
    """Finds models that are computed on a device.

    device: as of `choose_device`. threads: 0 for PyTorch's own choice.
    access: what a model must satisfy before it is loaded. marks: which marks its images get.
    adapters: sources of adapters, by name.
    """

    def __init__(
        self, device: str, threads: int, access: Access, marks: str, *, adapters: Mapping[str, str]
    ) -> None:
        self._device, self._access, self._marks = choose_device(device), access, marks
        self._adapters = Adapters(adapters, access)
        if threads:
            torch.set_num_threads(threads)

    def describe(self, name: str, source: str) -> Offer:
        """Describe a model or an index, without loading its weights."""
        offer = model_description.describe(name, source, self._access)
        return dataclasses.replace(offer, adapters=self._adapters.of(offer.digest))

    def find(self, source: str) -> Found:
        """Return a model or an index."""
        if model_description.is_index(source):
            model_description.check_index(self._access)
            return Found(_index_bytes(Path(source)), lambda: self._index(source))
        files = open_source(source, access=self._access)
        learner = adapted.examine_learner(files, self._access)[0]
        size, needed = _bytes_of(learner), 0
        if isinstance(learner, Family):
            size = learner.sampling_bytes()
        if isinstance(learner, Pipeline):
            size, needed = learner.bytes_on(self._device)
        if isinstance(learner, Family) and self._adapters:
            size *= 1 + MOST_ADAPTED

        def load() -> Served:
            learner, facts = adapted.read_learner(files, self._access)
            if isinstance(learner, Style):
                return TorchStyler(TrainedStyle(learner.to(self._device), "", 0))
            if not isinstance(learner, Family):
                return TorchFinder(Recognizer(learner, facts).to(self._device))
            model = Model(learner, facts).to(self._device)
            model.marks, model.marks_codes = self._marks, True
            return TorchPainter(model, self._adapters)

        return Found(size, load, needed)

    def free_memory(self) -> int:
        """Return the bytes that are free on the device."""
        return available_memory(self._device)

    def release_memory(self) -> None:
        """Return the memory of models that were evicted."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _index(self, source: str) -> Served:
        index = ImageIndex.load(source)
        index.open_encoder(self._device)
        return TorchFinder(index)


class TorchPainter:
    """A model that makes pictures, with and without adapters."""

    def __init__(self, model: Model, adapters: Adapters) -> None:
        self._model, self._adapters = model, adapters
        self._adapted: OrderedDict[str, Model] = OrderedDict()
        """The model with adapters, by these and their weights; the least recently used first."""
        self._directions: ModelDirections | None = None

    def chunk_of(self, batch: Batch) -> int:
        """Return how many rows of a batch are computed at once."""
        return self._model.family.chunk if batch.whole is None and not batch.queries else 1

    def check_prompt(self, text: str, name: str) -> None:
        """Raise ConfigError for a prompt that is too long to read."""
        self._model.check_prompt(text, name)

    def computed(
        self, batch: Batch, start: int, rows: Sequence[Row], watch: Watch
    ) -> Painting | list[Finding]:
        """Return the pictures of some rows, or where pictures attend to words."""
        model = self._model
        if batch.queries:
            with _looking(watch):
                return [attributions.of_words(model, batch.queries[start], rows[0].prompt or "")]
        if wanted := batch.options.get(ADAPTERS):
            model = self._with(str(wanted))
            others = {name: value for name, value in batch.options.items() if name != ADAPTERS}
            batch = dataclasses.replace(batch, options=others)
        if batch.whole is not None:
            return self._edited(model, batch, batch.whole, rows[0], watch)
        arguments: dict[str, Any] = conditions(model, rows, draws=batch.verb == "sample")
        arguments |= {"seeds": self._seeds(rows, watch), "on_step": watch.on_step}
        if batch.verb == "sample":
            return model.sample(len(rows), **arguments, **batch.options).array
        images, masks = _given(model, batch, start, len(rows))
        if batch.verb == "fill":
            return model.fill(images, masks, **arguments, **batch.options).array
        return model.vary(images, **arguments, **batch.options).array

    def _seeds(self, rows: Sequence[Row], watch: Watch) -> list[int]:
        """Return what the noise of some rows is drawn from.

        Directions are those of the model without adapters, whose noise is the same.
        """
        if any(row.moves for row in rows):
            self._directions = self._directions or ModelDirections(self._model)
            with _looking(watch):  # it takes a while, once
                self._directions.find()
        return [
            self._directions.moved(row.drawn_from, dict(row.moves))
            if self._directions is not None and row.moves
            else row.drawn_from
            for row in rows
        ]

    def _with(self, wanted: str) -> Model:
        """Return the model with adapters, such as "cats:0.8,gold:0.4"."""
        model = self._adapted.pop(wanted, None)
        if model is None:
            while len(self._adapted) >= MOST_ADAPTED:
                self._adapted.popitem(last=False)
            try:
                model = self._adapters.added_to(self._model, wanted)
            except LOAD_ERRORS as error:
                raise ModelUnavailableError(f"The adapters {wanted} cannot be loaded: {error}") from error
        self._adapted[wanted] = model
        return model

    def _edited(self, model: Model, batch: Batch, whole: WholeImage, row: Row, watch: Watch) -> Painting:
        """Edit a whole picture; returns `[1, h, w, c]`."""
        request = Request(row.label, row.prompt, row.negative_prompt, row.attributes)
        edit = edits.build(model, batch.verb, request, batch.options, whole)
        image = ImageToEdit(edits.values_of(whole, model.value_range), row.seed)
        with _looking(watch):
            return edited(edit, image)[None]


class TorchStyler:
    """A network that was trained for one style."""

    def __init__(self, style: TrainedStyle) -> None:
        self._style = style

    def chunk_of(self, batch: Batch) -> int:
        """Return 1: each picture has a size of its own."""
        return 1

    def check_prompt(self, text: str, name: str) -> None:
        """Accept any text: it reads no prompts."""

    def computed(self, batch: Batch, start: int, rows: Sequence[Row], watch: Watch) -> Painting:
        """Return a picture in the style, `[1, h, w, c]`."""
        assert batch.whole is not None
        edit = Stylize(self._style, **batch.options)
        image = ImageToEdit(edits.values_of(batch.whole, None), rows[0].seed)
        with _looking(watch):
            return edited(edit, image)[None]


class TorchFinder:
    """A recognizer or an index."""

    def __init__(self, model: Recognizer | ImageIndex) -> None:
        self._model = model

    def chunk_of(self, batch: Batch) -> int:
        """Return how many queries of a batch are computed at once."""
        return recognition.chunk_of(self._model)

    def check_prompt(self, text: str, name: str) -> None:
        """Accept any text: it reads no prompts."""

    def computed(self, batch: Batch, start: int, rows: Sequence[Row], watch: Watch) -> list[Finding]:
        """Return what is found for some rows."""
        queries = batch.queries[start : start + len(rows)]
        with _looking(watch):
            if batch.verb == "attribute":
                assert isinstance(self._model, Recognizer)
                pairs = zip(queries, rows, strict=True)
                return [attributions.of_label(self._model, query, _label_of(row)) for query, row in pairs]
            return recognition.recognize(self._model, batch.verb, queries, batch.options)


def _label_of(row: Row) -> str | None:
    return None if row.label is None else str(row.label)


@contextmanager
def _looking(watch: Watch) -> Iterator[None]:
    """Call `look` before each network, within a block."""

    def look(*_: Any) -> None:
        watch.look()

    hook = register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        hook.remove()


def _given(model: Model, batch: Batch, start: int, count: int) -> tuple[Images, NDArray[np.bool_]]:
    """Return the images of some rows, and their masks (empty for `vary`)."""
    config, rows = model.family.config, len(batch.rows)
    shape = (rows, config.height, config.width)
    end = rows * config.dimensions
    images = np.frombuffer(batch.images[:end], np.uint8).reshape(*shape, config.channels)
    masks = np.zeros(shape, bool)
    if batch.images[end:].nbytes:
        masks = np.frombuffer(batch.images[end:], np.bool_).reshape(shape)
    return Images(images[start : start + count]), masks[start : start + count]


def _bytes_of(learner: Learner) -> int:
    """Return the bytes of a learner's weights."""
    return sum(one.nbytes for one in (*learner.parameters(), *learner.buffers()))


def _index_bytes(folder: Path) -> int:
    """Return the bytes that the vectors of an index take, with a copy of 8 bits that its search reads."""
    head = index_files.read_head(folder)
    return sum(file.rows for file in head.files) * head.dimensions * 5
