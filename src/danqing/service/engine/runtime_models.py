"""Exported models, for the worker: ONNX Runtime or OpenVINO computes them, and PyTorch is not imported."""

import gc
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from danqing.compress.runtime import manifest as form
from danqing.compress.runtime.graphs import check_runtime, open_graphs
from danqing.compress.runtime.manifest import Codes, Flow, Manifest, OneShot, Recognize
from danqing.compress.runtime.model import RuntimeModel, check_marks
from danqing.compress.runtime.recognizer import RuntimeRecognizer
from danqing.errors import ConfigError
from danqing.machine import available_memory
from danqing.model.reading import value_range
from danqing.service.engine import runtime_recognition
from danqing.service.engine.offers import Offer
from danqing.service.engine.orders import Ability, Finding, Painting
from danqing.service.engine.received_batch import Batch, Row, conditions
from danqing.service.engine.served import LOAD_ERRORS, MOST_CARD, QUERIES, Found, Served, Watch
from danqing.sizes import SizeRange
from danqing.trust.settings import MarkSettings


class RuntimeLibrary:
    """Finds exported models.

    device: of the worker. threads: of a computation, 0 for the runtime's own choice.
    marks: which marks pictures get, by the server; the models only check that they can have them.
    """

    def __init__(self, device: str, threads: int, marks: str) -> None:
        self._device, self._threads, self._marks = device, threads, marks

    def describe(self, name: str, source: str) -> Offer:
        """Describe an export; the offer has a `fault` if it is unusable."""
        folder = Path(source)
        try:
            if self._device not in ("auto", "cpu"):
                raise ConfigError(
                    f"An export runs on processors, and its worker has the device {self._device}: set "
                    "engine.device to cpu, or assign the model to a worker without a GPU."
                )
            manifest = form.read(folder)
            check_runtime(manifest.target)
            check_marks(manifest, MarkSettings.of(self._marks))
            return _offer(name, folder, manifest)
        except LOAD_ERRORS as error:
            return Offer(name=name, path=source, fault=str(error) or type(error).__name__)

    def find(self, source: str) -> Found:
        """Return an export; its bytes are those of its graphs."""
        folder = Path(source)
        manifest = form.read(folder)

        def load() -> Served:
            graphs = open_graphs(folder, manifest, self._threads)
            if isinstance(manifest.loop, Recognize):
                return RuntimeFinder(RuntimeRecognizer(manifest, graphs))
            return RuntimePainter(RuntimeModel(manifest, graphs, "none"))

        stored = sum((folder / file).stat().st_size for file in manifest.files)
        return Found(stored * (2 if manifest.precision == "fp16" else 1), load)

    def free_memory(self) -> int:
        """Return the bytes that are free in the machine or the container."""
        return available_memory()

    def release_memory(self) -> None:
        """Return the memory of models that were evicted."""
        gc.collect()


class RuntimePainter:
    """An exported model that makes pictures."""

    def __init__(self, model: RuntimeModel) -> None:
        self._model = model

    def chunk_of(self, batch: Batch) -> int:
        """Return how many rows of a batch are computed at once."""
        return self._model.chunk

    def check_prompt(self, text: str, name: str) -> None:
        """Raise ConfigError for a prompt that is too long to read."""
        self._model.check_prompt(text, name)

    def computed(self, batch: Batch, start: int, rows: Sequence[Row], watch: Watch) -> Painting:
        """Return the pictures of some rows."""
        assert batch.verb == "sample"
        arguments = conditions(self._model, rows, draws=True)
        arguments |= {"seeds": [row.seed for row in rows], "on_step": watch.on_step}
        return self._model.sample(len(rows), **arguments, **batch.options).array


class RuntimeFinder:
    """An exported recognizer."""

    def __init__(self, model: RuntimeRecognizer) -> None:
        self._model = model

    def chunk_of(self, batch: Batch) -> int:
        """Return how many queries of a batch are computed at once."""
        return _chunk_of(self._model.loop)

    def check_prompt(self, text: str, name: str) -> None:
        """Accept any text: it reads no prompts."""

    def computed(self, batch: Batch, start: int, rows: Sequence[Row], watch: Watch) -> list[Finding]:
        """Return what is found for some rows."""
        queries = batch.queries[start : start + len(rows)]
        return runtime_recognition.recognize(self._model, batch.verb, queries, batch.options, watch.look)


def _offer(name: str, folder: Path, manifest: Manifest) -> Offer:
    """Describe what an export can do."""
    loop, told = manifest.loop, manifest.provenance
    abilities: Mapping[str, Any] = (
        _recognizing(manifest, loop) if isinstance(loop, Recognize) else _painting(manifest, loop)
    )
    return Offer(
        name=name,
        path=str(folder),
        family=manifest.family,
        width=manifest.width,
        height=manifest.height,
        channels=manifest.channels,
        range=value_range(manifest.facts),
        parameters=manifest.parameters,
        runtime=manifest.target,
        precision=manifest.precision,
        digest=told.model_digest,
        licence=told.licence,
        creator=told.creator,
        created=int((folder / form.FILE).stat().st_mtime),
        card=_card(folder),
        **abilities,
    )


def _painting(manifest: Manifest, loop: OneShot | Codes | Flow) -> dict[str, Any]:
    """Return the fields of a model that makes pictures."""
    reads = "text" if manifest.text else "label" if _reads_labels(manifest) else "none"
    is_coded = isinstance(loop, Codes) or (isinstance(loop, OneShot) and loop.distribution == "codes")
    can_guide = not isinstance(loop, OneShot) and loop.has_condition and loop.has_dropout
    return {
        "sizes": manifest.sizes,
        "reads": reads,
        "labels": manifest.labels if reads == "label" else (),
        "captions": {"text": manifest.captions, "label": manifest.label_captions, "none": ()}[reads],
        "attributes": tuple(
            one.model_dump(mode="json", exclude_defaults=True) for one in manifest.attributes
        ),
        "options": {"sample": dict(manifest.options)},
        "guides": can_guide or (isinstance(loop, Flow) and loop.has_guide),
        "steps": not isinstance(loop, OneShot),
        "tokens": math.prod(loop.shape) if is_coded else 0,
        "prompt_tokens": manifest.text.length if manifest.text else 0,
        "resamples": manifest.facts.get("other_sizes") != "refused",
        "chunk": manifest.chunk,
    }


def _recognizing(manifest: Manifest, loop: Recognize) -> dict[str, Any]:
    """Return the fields of a recognizer."""
    vectors = manifest.graphs["recognize"].outputs[0].shape
    abilities: tuple[Ability, ...] = ("embed",) if loop.ability == "embed" else (loop.ability, "embed")
    return {
        "sizes": SizeRange(((manifest.width, manifest.height),)),
        "labels": loop.classes,
        "options": {},
        "guides": False,
        "resamples": False,
        "recognizes": abilities,
        "calibrated": "temperature" in manifest.facts,
        "embedding_size": int(vectors[1]),
        "chunk": _chunk_of(loop),
    }


def _reads_labels(manifest: Manifest) -> bool:
    """Return whether a graph has an input for labels."""
    return bool(manifest.labels) and any(
        port.name == "label" for graph in manifest.graphs.values() for port in graph.inputs
    )


def _chunk_of(loop: Recognize) -> int:
    return 1 if loop.ability == "segment" else QUERIES


def _card(folder: Path) -> str:
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
            return file.read(MOST_CARD)
    except OSError:
        return ""
