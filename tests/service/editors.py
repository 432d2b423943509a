"""Tiny untrained models of pairs, and pictures to send them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from danqing import families
from danqing.images import Images
from danqing.model.model import Model
from danqing.model.recognizer import Recognizer

REGRESSION: dict[str, Any] = {
    "family": "regression",
    "width": 8,
    "height": 8,
    "channels": 3,
    "source_channels": 3,
    "features": 4,
    "blocks": 1,
    "adversarial": 0,
}
EDITORS: dict[str, dict[str, Any]] = {
    "upscale": {**REGRESSION, "source_scale": 2},
    "enhance": REGRESSION,
    "translate": REGRESSION,
}


def save_editor(task: str, folder: Path) -> str:
    """A folder with a model of a task, as it was before any training."""
    torch.manual_seed(0)
    family = families.build(families.parse_config(EDITORS[task]))
    family.drop_training_only()
    return str(Model(family, {"task": task}).save(folder, Images(np.zeros((1, 4, 4, 3), np.uint8))))


def save_style(folder: Path) -> str:
    """A folder with a network for a style, as it was before any training."""
    torch.manual_seed(0)
    shape = {"width": 32, "height": 32, "channels": 3, "features": 4, "blocks": 1}
    learner = families.build_learner(families.parse_config({"family": "style", **shape}))
    return str(Recognizer(learner, {"task": "style"}).save(folder))


def save_labelled_flow(folder: Path) -> str:
    """A folder with a flow model of cats and dogs, as it was before any training."""
    shape = {"width": 8, "height": 8, "channels": 3, "labels": ("cat", "dog")}
    net = {"net": "dit", "patch": 4, "widths": [8], "layers": 1, "heads": 2, "num_steps": 2}
    torch.manual_seed(0)
    family = families.build(families.parse_config({"family": "flow", **net, **shape}))
    for parameter in family.parameters():  # a new network changes nothing
        parameter.data += 0.05 * torch.randn_like(parameter)
    family.drop_training_only()
    return str(Model(family).save(folder, Images(np.zeros((1, 4, 4, 3), np.uint8))))


def noise(*shape: int, deep: bool = False, seed: int = 0) -> NDArray[Any]:
    kind: type = np.uint16 if deep else np.uint8
    return np.random.default_rng(seed).integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)


def encoded(pixels: NDArray[Any], format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, format, **options)
    return file.getvalue()
