"""Translation that has learned from no pairs, on images of any size: in exact tiles, and in windows."""

import numpy as np
import pytest
import torch

import danqing as dq
from danqing.editing.contract import ImageToEdit
from danqing.editing.translate import Translation
from danqing.errors import ConfigError
from danqing.families import build, parse_config
from danqing.model.model import Model
from tests.editing.test_trained_editors import photo, used

FLOW = {"family": "flow", "net": "dit", "patch": 4, "widths": [8], "layers": 1, "heads": 2, "num_steps": 2}


def model_of(**config: object) -> Model:
    """A tiny model whose weights are random everywhere."""
    torch.manual_seed(0)
    family = build(parse_config({"width": 16, "height": 16, "channels": 3, **config}))
    for parameter in family.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return Model(family)


def test_tiles_of_an_unpaired_translation_fit_together_exactly() -> None:
    model = model_of(family="translation", widths=[16, 40], blocks=1)
    image = ImageToEdit(photo(190, 231, 3, np.uint16), seed=1)
    whole = Translation(used(model), tile=4096).apply(image)
    assert np.abs(whole.astype(int) - image.values).mean() > 500
    for tile in (96, 110, 200):
        assert np.array_equal(Translation(used(model), tile=tile).apply(image), whole), tile
    narrow = Translation(used(model), tile=96, overlap=4).apply(image)
    assert not np.array_equal(narrow, whole), "an overlap below the receptive field must show"


def test_labels_are_exchanged_in_images_of_any_size() -> None:
    model, values = model_of(**FLOW, labels=["cat", "dog"]), photo(40, 24)
    dog = dq.translate(model, values, source_label="cat", label="dog")
    assert isinstance(dog, np.ndarray)
    assert dog.shape == values.shape
    assert not np.array_equal(dog, dq.translate(model, values, source_label="cat", label="cat"))
    assert np.array_equal(dog, dq.translate(model, values, source_label="cat", label="dog"))
    tiled = dq.translate(model, values, source_label="cat", label="dog", tile=16)
    assert not np.array_equal(tiled, dog)
    unchanged = dq.translate(model, values, source_label="cat", label="dog", strength=0.0)
    assert np.array_equal(unchanged, values)


def test_what_cannot_be_exchanged_is_one_sentence() -> None:
    model, values = model_of(**FLOW, labels=["cat", "dog"]), photo(20, 20)
    with pytest.raises(ConfigError, match="say which label the images have"):
        dq.translate(model, values, label="dog")
    with pytest.raises(ConfigError, match="cannot turn images of one label into images of another: use a"):
        dq.translate(model_of(family="translation"), values, source_label="cat", label="dog")
    with pytest.raises(ConfigError, match="cannot go from an image to noise"):
        dq.translate(model, values, source_label="cat", label="dog", sampler="stochastic")
