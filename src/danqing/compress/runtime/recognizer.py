"""An exported model that recognizes images, without PyTorch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing.compress.runtime import manifest as form
from danqing.compress.runtime.graphs import Array, Graph, open_graphs
from danqing.compress.runtime.manifest import Manifest, Recognize
from danqing.errors import ConfigError, ModelError
from danqing.images import Images, floats_of_pixels
from danqing.model.reading import as_read

_CANDIDATES, _MOST = 400, 100
"""Objects of an image that are compared, and those that are returned."""


class Objects(NamedTuple):
    """The objects in one image, the most confident first.

    boxes: `[m, 4]` float32: left, top, right, bottom in pixels of the model's size. classes: `[m]` int64.
    scores: `[m]` float32 in [0, 1].
    """

    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    scores: NDArray[np.float32]


class RuntimeRecognizer:
    """A recognizer whose graph is ready to run.

    Its methods are those of `danqing.model.recognizer.Recognizer`, with arrays of NumPy in place of tensors.
    manifest: the content of `export.json`. graphs: by their names.
    """

    def __init__(self, manifest: Manifest, graphs: Mapping[str, Graph]) -> None:
        assert isinstance(manifest.loop, Recognize)
        self.manifest, self.loop, self._graph = manifest, manifest.loop, graphs["recognize"]

    def __repr__(self) -> str:
        m = self.manifest
        return f"RuntimeRecognizer({m.family}, {m.target}, {m.precision}, {m.width}x{m.height}x{m.channels})"

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of logits; none for an embedder."""
        return self.loop.classes

    @property
    def size(self) -> tuple[int, int]:
        """Return the (width, height) of the images that it learned from."""
        return self.manifest.width, self.manifest.height

    @property
    def is_multi_label(self) -> bool:
        """Return whether an image may have several labels."""
        return self.loop.is_multi_label

    def reading(self) -> dict[str, Any]:
        """Return the options of `image_files.decode` that it was trained with."""
        return {**self.loop.reading, "size": self.size, "channels": self.manifest.channels}

    @property
    def facts(self) -> dict[str, Any]:
        """Return what is known of its training."""
        return dict(self.manifest.facts)

    def predict(self, images: Images | NDArray[Any]) -> Any:
        """Answer with what the model recognizes.

        images: uint8 or uint16 `[n, h, w, c]` of any size.
        Returns what `probabilities`, `masks`, `detect` or `embed` returns, as its ability is.
        """
        answers = {
            "classify": self.probabilities,
            "segment": self.masks,
            "detect": self.detect,
            "embed": self.embed,
        }
        return answers[self.loop.ability](images)

    def logits(self, images: Images | NDArray[Any]) -> NDArray[np.float32]:
        """Compute the logits of each class, `[n, k]`, which are not divided by the temperature."""
        return self._outputs(images, "classify")[1]

    def probabilities(self, images: Images | NDArray[Any]) -> NDArray[np.float32]:
        """Compute the calibrated probability of each class, `[n, k]`.

        They add up to 1 for each image, unless it may have several labels.
        """
        scaled = self.logits(images) / np.float32(self.loop.temperature)
        if self.loop.is_multi_label:
            return _sigmoid(scaled)
        powers = np.exp(scaled - scaled.max(1, keepdims=True))
        return np.asarray(powers / powers.sum(1, keepdims=True), np.float32)

    def embed(self, images: Images | NDArray[Any]) -> NDArray[np.float32]:
        """Turn images into vectors `[n, embedding size]`, not normalized."""
        return self._outputs(images, self.loop.ability)[0]

    def masks(self, images: Images | NDArray[Any]) -> NDArray[np.uint8]:
        """Return the class of each pixel, `[n, h, w]`, at the size of the model."""
        return np.asarray(self._outputs(images, "segment")[1].argmax(1), np.uint8)

    def mask_logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the logits of each class of each pixel, `[n, k, h, w]`.

        images: float32 `[n, c, h, w]` in [-1, 1]; of the model's size, or with sides that are multiples of
            `manifest.sizes.multiple`.
        Raises ModelError where it does not segment.
        """
        self._check("segment")
        return np.asarray(self._graph({"images": images})[1])

    def detect(self, images: Images | NDArray[Any], *, threshold: float = 0.3) -> list[Objects]:
        """Find the objects in each image.

        threshold: the lowest score that is reported.
        """
        _, logits, boxes = self._outputs(images, "detect")
        return [self._objects(*one, threshold) for one in zip(_sigmoid(logits), boxes, strict=True)]

    def _objects(self, scores: Array, boxes: Array, threshold: float) -> Objects:
        """Choose among what is found at all places of an image, after non-maximum suppression."""
        order = np.argsort(-scores.ravel(), kind="stable")
        order = order[scores.ravel()[order] >= threshold][:_CANDIDATES]
        at, classes = np.divmod(order, scores.shape[1])
        limits = np.array([self.manifest.width, self.manifest.height] * 2, np.float32)
        sides = np.minimum(np.maximum(boxes[at], 0), limits)
        kept = _without_duplicates(sides, classes, self.loop.most_overlap)[:_MOST]
        return Objects(sides[kept], classes[kept], scores.ravel()[order][kept])

    def _outputs(self, images: Images | NDArray[Any], ability: str) -> list[Array]:
        """Run the graph on images, some at a time; raises ModelError if it lacks the ability."""
        self._check(ability)
        m = self.manifest
        pixels = as_read(images, self.reading())
        if not len(pixels):
            raise ConfigError("There are no images to recognize: give at least one.")
        half = 127.5 if pixels.dtype == np.uint8 else 32767.5
        parts = [
            self._graph({"images": floats_of_pixels(pixels[start : start + m.chunk], half)})
            for start in range(0, len(pixels), m.chunk)
        ]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def _check(self, ability: str) -> None:
        if self.loop.ability != ability:
            raise ModelError(
                f"This model can {self.loop.ability} and not {ability}: export a model that learned it."
            )


def load_recognizer(folder: str | Path, *, threads: int = 0) -> RuntimeRecognizer:
    """Load an exported recognizer from a folder.

    threads: of a computation; 0 is what the runtime chooses.
    Raises ModelError where the folder is not an export of one, is damaged, or its runtime is not installed.
    """
    path = Path(folder)
    manifest = form.read(path)
    if not isinstance(manifest.loop, Recognize):
        raise ModelError(f"{path} holds a model that samples images: use load.")
    return RuntimeRecognizer(manifest, open_graphs(path, manifest, threads))


def _sigmoid(x: Array) -> NDArray[np.float32]:
    powers = np.exp(-np.abs(x))  # at most 1: nothing overflows
    return np.asarray(np.where(x >= 0, 1, powers) / (1 + powers), np.float32)


def _without_duplicates(boxes: Array, classes: Array, most_overlap: float) -> list[int]:
    """Return which boxes remain, as `danqing.learners.box_geometry.without_duplicates`."""
    areas = np.prod((boxes[:, 2:] - boxes[:, :2]).clip(0), axis=1)
    kept: list[int] = []
    for number in range(len(boxes)):
        rivals = [one for one in kept if classes[one] == classes[number]]
        low = np.maximum(boxes[rivals, :2], boxes[number, :2])
        high = np.minimum(boxes[rivals, 2:], boxes[number, 2:])
        shared = np.prod((high - low).clip(0), axis=1)
        union = (areas[rivals] + areas[number] - shared).clip(1e-6)
        if not (shared / union > most_overlap).any():
            kept.append(number)
    return kept
