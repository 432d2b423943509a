"""Model folders written by version 0.1.0 load, and paint the same pixels from the same seeds.

The tiny models in `tests/golden/transformer/` have random weights. `expected.json` beside them holds the
sha256 of the pixels that each call below painted when the folders were written.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import danqing as dq
from danqing.images import Images
from danqing.model.model import Model

GOLDEN = Path(__file__).parents[1] / "golden" / "transformer"
MODELS = ("pixels-raster", "labels-raster", "captions-masked")
SEEDS = [3, 1, 4]


def given(model: Model) -> Images:
    """Three images of the model's size: slopes in three directions."""
    config = model.family.config
    row, column = np.mgrid[: config.height, : config.width]
    slopes = np.stack([row, column, row + column])[..., None] * np.array([29, 17, 11])[: config.channels]
    return Images((slopes % 256).astype(np.uint8))


def covered(model: Model) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """A mask for each of them: a corner, the left half, nothing."""
    config = model.family.config
    mask = np.zeros((3, config.height, config.width), np.bool_)
    mask[0, 3:, 3:] = True
    mask[1, :, : config.width // 2] = True
    return mask


def paint(model: Model, **options: Any) -> Images:
    return model.sample(seeds=SEEDS, precision="float32", **options)


CALLS: dict[str, Callable[[Model], Images]] = {
    "sample": lambda model: paint(model, guidance_scale=1.0),
    "chosen": lambda model: paint(model, guidance_scale=1.0, temperature=0.8, top_k=9, top_p=0.9),
    "guided": lambda model: paint(model, guidance_scale=2.5, guidance_schedule="cosine"),
    "filled": lambda model: model.fill(
        given(model), covered(model), seeds=SEEDS, precision="float32", **shown(model)
    ),
    "varied": lambda model: model.vary(
        given(model), strength=0.6, seeds=SEEDS, precision="float32", **shown(model)
    ),
}


def shown(model: Model) -> dict[str, Any]:
    return {"label": ["bar", "square", "bar"]} if model.labels else {"prompt": ["a bar", "", "a square"]}


@pytest.mark.parametrize("name", MODELS)
def test_an_older_model_folder_paints_the_same_pixels(name: str) -> None:
    model = dq.load(GOLDEN / name)
    expected = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))[name]
    found = {call: digest(function(model)) for call, function in CALLS.items()}
    assert found == expected


def digest(images: Images) -> str:
    return hashlib.sha256(images.array.tobytes()).hexdigest()
