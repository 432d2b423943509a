"""What exported recognizers answer, for the worker: the same as `recognition` answers, without PyTorch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danqing.compress.runtime.recognizer import RuntimeRecognizer
from danqing.compress.runtime.segments import mask_of
from danqing.errors import ConfigError
from danqing.evaluation.mask_overlays import to_png
from danqing.image_files import decode, inspect
from danqing.names import match
from danqing.recognition.prediction import LEAST_SCORE, Prediction, labels_of, objects_of
from danqing.service.engine.orders import Ability, Finding, Query, unpack_pixels


def recognize(
    model: RuntimeRecognizer,
    ability: Ability,
    queries: Sequence[Query],
    options: Mapping[str, Any],
    look: Callable[[], None],
) -> list[Finding]:
    """Return the finding for each query.

    options: of the ability, with plain values. look: called before each network.
    Raises DataError where a picture cannot be read, and ConfigError for an unknown class.
    """
    contents = [query.content for query in queries]
    if ability == "segment":
        masks = (mask_of(model, content, look=look, **options) for content in contents)
        return [_of_mask(model, mask) for mask in masks]
    look()
    if ability == "judge":
        pictures = [unpack_pixels(one) for one in contents]
        rows = [model.probabilities(one)[0] for one in pictures]
        return [Finding({"score": _unwanted(model, row, options["classes"])}) for row in rows]
    pixels = np.stack([decode(content, **model.reading()) for content in contents])
    if ability == "embed":
        return [Finding({}, row.tobytes()) for row in _unit_rows(model.embed(pixels))]
    if ability == "detect":
        return _detected(model, contents, pixels, **options)
    return [_of_labels(model, row, **options) for row in model.probabilities(pixels)]


def _of_labels(
    model: RuntimeRecognizer, chances: NDArray[Any], top: int = 1, threshold: float | None = None
) -> Finding:
    labels = labels_of(model.classes, chances, top, threshold, is_multi_label=model.is_multi_label)
    return _finding(Prediction("", labels))


def _detected(
    model: RuntimeRecognizer,
    contents: Sequence[bytes],
    pixels: NDArray[Any],
    threshold: float = LEAST_SCORE,
) -> list[Finding]:
    found = model.detect(pixels, threshold=threshold)
    fit = model.reading().get("fit", "crop")
    sizes = [inspect(content).size for content in contents]
    return [
        _finding(
            Prediction(
                "",
                objects=objects_of(
                    model.classes, boxes, places, scores, natural=natural, size=model.size, fit=fit
                ),
            )
        )
        for natural, (boxes, places, scores) in zip(sizes, found, strict=True)
    ]


def _of_mask(model: RuntimeRecognizer, mask: NDArray[np.uint8]) -> Finding:
    found = Prediction.of_mask("", mask, model.classes, keep=False)
    return _finding(found, to_png(mask, len(model.classes)))


def _finding(found: Prediction, content: bytes = b"") -> Finding:
    return Finding({name: value for name, value in found.plain().items() if name != "name"}, content)


def _unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors `[n, d]` divided by their lengths."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), "<f4")


def _unwanted(model: RuntimeRecognizer, chances: NDArray[Any], classes: Sequence[str]) -> float:
    """Return the probability of some classes, as `danqing.model.scorer.ClassScorer` does."""
    found = [match(name, model.classes) for name in classes]
    if None in found:
        name = classes[found.index(None)]
        raise ConfigError(
            f"The classifier has no class {name!r}: its classes are {', '.join(model.classes)}."
        )
    columns = sorted({model.classes.index(name) for name in found if name is not None})
    chosen = chances[columns]
    return float(chosen.max() if model.is_multi_label else chosen.sum().clip(0, 1))
