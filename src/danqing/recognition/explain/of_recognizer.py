"""Why a model gives an image a label or finds an object in it: three ways of looking at its pixels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from danqing.errors import ConfigError
from danqing.images import to_uint8
from danqing.learners.abilities import Classifies, Segments
from danqing.learners.detector import Detector
from danqing.model.recognizer import Recognizer
from danqing.names import match
from danqing.recognition.explain.attribution import (
    Outputs,
    grad_cam,
    integrated_gradients,
    occlusion,
    passes_gradients,
)
from danqing.recognition.explain.findings import Figure, Section
from danqing.recognition.explain.heat import Heat, overlay

_WINDOWS = 8
"""About how many windows of occlusion a side has room for; each moves by half of its side."""
HOW_TO_READ = (
    "Red speaks for the label, blue against it. Grad-CAM shows where the last layer found it. Integrated "
    "gradients divide the logit among the pixels. Hiding shows how far the logit falls when a place is grey."
)


def explain_images(
    recognizer: Recognizer, images: Tensor, names: Sequence[str], label: str | None
) -> tuple[list[Section], list[str]]:
    """Explain the label of each image.

    images: as `Recognizer.inputs` returns them. label: a label to explain besides the most probable one.
    Returns sections, and notes on what could not be done. Raises ConfigError.
    """
    outputs, classes = _outputs(recognizer)
    wanted = None if label is None else _column(label, classes)
    layer, has_gradients = _last_map(recognizer.learner), passes_gradients(outputs, images[:1])
    notes = [] if layer is not None else ["Grad-CAM needs a classifier with a trunk: it is left out."]
    if not has_gradients:
        notes.append(
            "Integrated gradients need a model that passes gradients to its images: they are left out."
        )
    with torch.no_grad():
        logits = torch.cat([outputs(part) for part in images.split(16)]).float().cpu()
    shares = _shares(recognizer, logits)
    sections = []
    for row, name in enumerate(names):
        order = logits[row].argsort(descending=True).tolist()
        columns = list(dict.fromkeys([order[0], *([] if wanted is None else [wanted])]))
        said = ", ".join(f"{classes[each]} {shares[row, each]:.1%}" for each in order[:3])
        image = images[row : row + 1]
        pixels = to_uint8(image).numpy()[0]
        heats = [_heats(outputs, image, each, layer, has_gradients) for each in columns]
        rows = [_row(pixels, classes[each], one) for each, one in zip(columns, heats, strict=True)]
        values = {
            "labels": {classes[each]: round(float(shares[row, each]), 6) for each in order[:5]},
            "explained": [classes[each] for each in columns],
        }
        sections.append(Section(name, f"{said}.", rows, values))
    return sections, notes


def label_heats(recognizer: Recognizer, image: Tensor, label: str | None = None) -> list[Heat]:
    """Return which places of an image speak for its most probable label.

    It is Grad-CAM where the classifier has a trunk, and otherwise how far the logit falls when a place is
    grey.

    image: `[1, c, h, w]`, as `Recognizer.inputs` returns it. label: another one, which is returned too.
    Raises ConfigError.
    """
    outputs, classes = _outputs(recognizer)
    layer = _last_map(recognizer.learner)
    with torch.no_grad():
        logits = outputs(image).float().cpu()
    wanted = [] if label is None else [_column(label, classes)]
    shares = _shares(recognizer, logits)[0]
    found = []
    for column in dict.fromkeys([int(logits[0].argmax()), *wanted]):
        heat = _hiding(outputs, image, column) if layer is None else _grad_cam(outputs, image, column, layer)
        found.append(Heat(classes[column], float(shares[column]), heat))
    return found


def _heats(
    outputs: Outputs, image: Tensor, column: int, layer: nn.Module | None, has_gradients: bool
) -> dict[str, Tensor]:
    """The heat of one of an image's outputs, by the name of the method."""
    columns, heats = torch.tensor([column], device=image.device), dict[str, Tensor]()
    if layer is not None:
        heats["Grad-CAM"] = _grad_cam(outputs, image, column, layer)
    if has_gradients:
        heats["integrated gradients"] = integrated_gradients(outputs, image, columns)[0]
    heats["hiding"] = _hiding(outputs, image, column)
    return heats


def _row(pixels: NDArray[np.uint8], name: str, heats: Mapping[str, Tensor]) -> list[Figure]:
    """The image, and the heat of one of its outputs over it."""
    shown = [Figure(overlay(pixels, heat), f"{name}: {title}") for title, heat in heats.items()]
    return [Figure(pixels, "the image as the model sees it"), *shown]


def _grad_cam(outputs: Outputs, image: Tensor, column: int, layer: nn.Module) -> Tensor:
    return grad_cam(outputs, image, torch.tensor([column], device=image.device), layer=layer)[0]


def _hiding(outputs: Outputs, image: Tensor, column: int) -> Tensor:
    height, width = image.shape[2:]
    window = (max(1, round(2 * height / _WINDOWS)), max(1, round(2 * width / _WINDOWS)))
    stride = (max(1, window[0] // 2), max(1, window[1] // 2))
    columns = torch.tensor([column], device=image.device)
    return occlusion(outputs, image, columns, window=window, stride=stride)[0]


def _outputs(recognizer: Recognizer) -> tuple[Outputs, tuple[str, ...]]:
    """Return the numbers that are explained, and their names; raises ConfigError where there are none."""
    learner: Any = recognizer.learner
    if isinstance(learner, Classifies):
        return learner.logits, learner.classes
    if isinstance(learner, Segments):
        segmenter = learner
        return lambda images: segmenter.mask_logits(images).mean((2, 3)), learner.classes
    if isinstance(learner, Detector):
        detector = learner
        return lambda images: detector.found(images)[0].amax(1), learner.classes  # the surest place
    raise ConfigError(
        "This model gives images no labels, so there is nothing to explain: train one with --task classify."
    )


def _shares(recognizer: Recognizer, logits: Tensor) -> Tensor:
    """Return the probability of each label, or the score of the surest object of each class."""
    if isinstance(recognizer.learner, Detector):
        return logits.sigmoid()
    return recognizer.probabilities_of(logits)


def _column(label: str, classes: Sequence[str]) -> int:
    found = match(label, classes)
    if found is None:
        raise ConfigError(f"There is no label {label!r}: choose one of {', '.join(classes[:20])}.")
    return classes.index(found)


def _last_map(learner: nn.Module) -> nn.Module | None:
    """Return the layer whose output is the last map of features, if a trunk has one."""
    trunk = getattr(learner, "trunk", None)
    return trunk if isinstance(learner, Classifies) and isinstance(trunk, nn.Module) else None
