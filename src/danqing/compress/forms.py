"""The forms that a model is tried in: each is a folder that `danqing sample` takes."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from danqing.compress import export
from danqing.compress.prune import pruned
from danqing.compress.runtime import load as load_export
from danqing.compress.runtime.manifest import Precision, Target
from danqing.errors import ModelError
from danqing.families.base import bytes_of
from danqing.folder_formats import is_export
from danqing.images import Pixels
from danqing.model import folder as model_folder
from danqing.model.files import WEIGHTS
from danqing.model.loading import load
from danqing.model.model import Model
from danqing.precision import candidates, exact

ORIGINAL = "PyTorch"
_EXPORTS: tuple[tuple[str, Target, Precision], ...] = (
    ("ONNX float32", "onnx", "float32"),
    ("ONNX fp16 weights", "onnx", "fp16"),
    ("ONNX int8", "onnx", "int8"),
    ("OpenVINO float32", "openvino", "float32"),
    ("OpenVINO fp16 weights", "openvino", "fp16"),
    ("OpenVINO bf16", "openvino", "bf16"),
)
_NOT_NEEDED = ("README.md", "samples.png", "neighbours.png", "scores.json", "shrink.json")
"""Files of a folder that sampling does not read."""

Sampler = Callable[[Sequence[int]], Pixels]
"""From one seed for each image to images, uint8 or uint16 `[n, h, w, c]`."""


class Form(NamedTuple):
    """A form of a model.

    write: fills an empty folder; raises ModelError, with the reason, where the form is not possible.
    """

    name: str
    write: Callable[[Path], object]


def forms_of(model: Model, prefix: str = "") -> list[Form]:
    """Return the forms of a model, the one in float32 first.

    prefix: of their names.
    """
    exports = _Exports(model)
    found = [
        Form(ORIGINAL, functools.partial(_save, model, half=_is_half(model))),
        Form("PyTorch fp16 weights", functools.partial(_save_half, model)),
        Form("PyTorch bf16", functools.partial(_save_bf16, model)),
        Form("PyTorch with 3/4 of the channels", functools.partial(_save_pruned, model)),
    ]
    for name, target, precision in _EXPORTS:
        found.append(Form(name, functools.partial(exports.write, target=target, precision=precision)))
    return [Form(f"{prefix}{name}", write) for name, write in found]


def open_form(folder: Path) -> Sampler:
    """Open a form for sampling without marks; raises ModelError."""
    if is_export(str(folder)):
        exported = load_export(folder, marks="none", threads=torch.get_num_threads())
        return lambda seeds: exported.sample(len(seeds), seeds=seeds).array
    model = load(folder, marks="none")

    def sample(seeds: Sequence[int]) -> Pixels:
        with exact():
            return model.sample(len(seeds), seeds=seeds).array

    return sample


def needed_bytes(folder: Path) -> int:
    """Return the bytes of the files in a folder that sampling reads."""
    files = [file for file in folder.iterdir() if file.is_file() and file.name not in _NOT_NEEDED]
    return sum(file.stat().st_size for file in files)


def _save(model: Model, folder: Path, *, half: bool = False, auto: bool = False) -> None:
    """Write a model folder; auto: whether it computes in the format that the machine is fast at."""
    facts = {**model.facts, "sampling_precision": "auto"} if auto else model.facts
    info = {**model.info(), "trained": facts}
    model_folder.write(folder, model.family, facts, info, origin=model.origin, half=half)


def _is_half(model: Model) -> bool:
    """Return whether the weights of a model are stored in half the bytes that they take in memory."""
    stored = None if model.origin is None else model.origin / WEIGHTS
    return stored is not None and stored.is_file() and 4 * stored.stat().st_size < 3 * bytes_of(model.family)


def _save_half(model: Model, folder: Path) -> None:
    if _is_half(model):
        raise ModelError("Its weights are stored in fp16 already.")
    _save(model, folder, half=True)


def _save_bf16(model: Model, folder: Path) -> None:
    if "precision" in model.sample_options:
        raise ModelError("This family always computes in the format that the machine is fast at.")
    if candidates(torch.device("cpu"))[0] != "bfloat16":
        raise ModelError("This processor does not compute in bf16.")
    _save(model, folder, half=True, auto=True)


def _save_pruned(model: Model, folder: Path) -> None:
    _save(pruned(model), folder)


class _Exports:
    """Exports of one model, whose graphs are traced once."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._graphs: dict[str, bytes] | None = None
        self._problem: ModelError | None = None

    def write(self, folder: Path, *, target: Target, precision: Precision) -> None:
        """Write an export into an empty folder; raises ModelError."""
        export.check_runtime(target)
        if self._problem is not None:
            raise self._problem
        try:
            plan = export.plan_of(self._model)
            if self._graphs is None:
                self._graphs = export.traced(plan)
        except ModelError as error:
            self._problem = error
            raise
        sizes = export.checked_sizes(plan.sizes)
        export.write(folder, self._model, plan, self._graphs, target, precision, sizes)
