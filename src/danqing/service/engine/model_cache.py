"""The models of the worker: described without their weights, loaded when they are wanted, and put away when
memory is short.
"""

import gc
import math
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from danqing import model_folder
from danqing.errors import DanqingError
from danqing.families.base import Family, Fills, HasTokenizer, PaintsInSteps, Tokenizes, Varies
from danqing.machine import available_memory
from danqing.model import Model
from danqing.nets import laid_out
from danqing.nets.transformer import Transformer
from danqing.precision import choose_device
from danqing.service.engine.orders import ModelUnavailableError, Offer, Verb

MOST_CARD = 200_000
"""Characters of a model card that are shown."""
HEADROOM = 2.0
"""How many times what it takes must be free to load a model, where no budget says how much it may take."""
RETRY_SECONDS = 5.0
"""How long a model that could not be loaded is not tried again."""

_TROUBLES = (DanqingError, OSError, RuntimeError, MemoryError, ValueError)


def describe(name: str, source: str) -> Offer:
    """What a model is and can do, without its weights; its `fault` where it cannot be used."""
    try:
        folder, within = _locate(source)
        family, facts = model_folder.examine(folder, within=within)
        return _offer(name, source, folder, within, Model(family, facts))
    except _TROUBLES as error:
        return Offer(name=name, path=source, fault=str(error) or type(error).__name__)


@dataclass(frozen=True, slots=True)
class _Failure:
    until: float
    message: str


class Shelf:
    """Models that are loaded, at most `budget` bytes of weights with all layouts that are kept of them, or
    what the machine can spare where that is 0: those least recently used leave first.
    """

    def __init__(self, sources: Mapping[str, str], *, device: str, budget: int) -> None:
        self._sources, self._device, self._budget = sources, choose_device(device), budget
        self._models: OrderedDict[str, tuple[Model, int]] = OrderedDict()
        self._failures: dict[str, _Failure] = {}

    @property
    def loaded(self) -> list[str]:
        """Names of the models that are there, those least recently used first."""
        return list(self._models)

    def has(self, name: str) -> bool:
        """Whether a model is there already."""
        return name in self._models

    def get(self, name: str) -> Model:
        """A model, loaded if need be; raises ModelUnavailableError with the reason where that fails."""
        if name in self._models:
            self._models.move_to_end(name)
            return self._models[name][0]
        failure = self._failures.get(name)
        if failure is not None and time.monotonic() < failure.until:
            raise ModelUnavailableError(failure.message)
        try:
            return self._load(name)
        except _TROUBLES as error:
            message = f"The model {name} cannot be loaded: {str(error) or type(error).__name__}"
            self._failures[name] = _Failure(time.monotonic() + RETRY_SECONDS, message)
            raise ModelUnavailableError(message) from error

    def _load(self, name: str) -> Model:
        folder, within = _locate(self._sources[name])
        size = size_of(model_folder.examine(folder, within=within)[0])
        self._make_room(size)
        model = Model(*model_folder.read(folder, within=within)).to(self._device)
        self._failures.pop(name, None)
        self._models[name] = (model, size)
        return model

    def _make_room(self, size: int) -> None:
        """Put models away until one of `size` bytes may come."""
        while self._models and not self._has_room(size):
            self._models.popitem(last=False)
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        if not self._has_room(size):
            raise ModelUnavailableError(
                f"it takes {size:,} bytes, and the worker has no room for it: raise engine.memory, "
                "or serve it on a larger machine."
            )

    def _has_room(self, size: int) -> bool:
        if self._budget:
            return size + sum(taken for _, taken in self._models.values()) <= self._budget
        return math.ceil(HEADROOM * size) <= available_memory(self._device)


def _locate(source: str) -> tuple[Path, Path]:
    """The model folder of a path or of a repository on the hub, and within which folder its links lead."""
    if model_folder.is_hub_id(source):
        return model_folder.fetch(source)
    folder = model_folder.find(Path(source))
    return folder, folder


def _offer(name: str, source: str, folder: Path, within: Path, model: Model) -> Offer:
    family, config, info = model.family, model.family.config, model.info()
    reads: Literal["text", "label", "none"] = "none"
    captions: Sequence[str] = ()
    if config.reads_text:
        reads, captions = "text", info["text"]["captions"]
    elif config.reads_labels and config.labels:
        reads, captions = "label", config.label_captions
    verbs: dict[Verb, type] = {"sample": Family, "fill": Fills, "vary": Varies}
    return Offer(
        name=name,
        path=source,
        family=config.family,
        width=config.width,
        height=config.height,
        channels=config.channels,
        reads=reads,
        labels=config.labels if reads == "label" else (),
        captions=tuple(captions),
        options={verb: model.options_of(verb) for verb, kind in verbs.items() if isinstance(family, kind)},
        guides=reads != "none" and getattr(config, "condition_dropout", 1) > 0,
        steps=isinstance(family, PaintsInSteps),
        tokens=_tokens(family),
        prompt_tokens=info["text"]["length"] if info["text"] else 0,
        resamples=info["other_sizes"],
        chunk=family.chunk,
        parameters=info["parameters"],
        created=int((folder / "config.json").stat().st_mtime),
        card=_card(folder, within),
    )


def _card(folder: Path, within: Path) -> str:
    path = folder / "README.md"
    if not path.is_file() or not path.resolve().is_relative_to(within.resolve()):
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(MOST_CARD)


def _tokens(family: Family) -> int:
    """Codes that a picture is written in; 0 where it is not."""
    writes = family.tokenizer if isinstance(family, HasTokenizer) else family
    return math.prod(writes.code_shape) if isinstance(writes, Tokenizes) else 0


def size_of(family: Family) -> int:
    """Bytes of a family's weights and buffers, wherever they lie, and of what is kept of them to paint."""
    transformers = [module for module in family.modules() if isinstance(module, Transformer)]
    return _bytes(family) + laid_out.MOST * sum(_bytes(module) for module in transformers)


def _bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
