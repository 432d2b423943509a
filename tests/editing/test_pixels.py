"""From pixels to the input of a model and back: depth, channels and transparency."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from danqing.editing.contract import ImageToEdit
from danqing.editing.pixels import prepare, restore
from tests.editing.edits import Invert, Nothing

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)


def images(dtype: type) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
    return shapes.flatmap(lambda shape: arrays(dtype, shape))


@given(values=st.one_of(images(np.uint8), images(np.uint16)), channels=st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_what_a_model_returns_as_it_was_keeps_its_values(values: np.ndarray, channels: int) -> None:
    prepared = prepare(values, channels)
    assert prepared.images.shape == (1, channels, *values.shape[:2])
    assert -1 <= prepared.images.min() <= prepared.images.max() <= 1
    found = restore(prepared.images, prepared, keep_channels=True)
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_ramp_of_sixteen_bits_keeps_all_its_values(channels: int) -> None:
    prepared = prepare(RAMP, channels)
    for given_back in (prepared.images, -prepared.images):
        found = restore(given_back, prepared, keep_channels=True)
        assert found.shape == RAMP.shape
        assert len(np.unique(found)) == 65536
    inverted = Invert(channels=channels).apply(ImageToEdit(RAMP, 0))
    assert np.array_equal(inverted, 65535 - RAMP)
    assert np.array_equal(Nothing(channels).apply(ImageToEdit(RAMP, 0)), RAMP)


def test_colours_are_premultiplied_unless_the_model_has_alpha() -> None:
    values = np.zeros((1, 3, 4), np.uint8)
    values[0, :, :3], values[0, :, 3] = 255, (0, 51, 255)
    assert torch.allclose(prepare(values, 3).images[0, 0, 0], torch.tensor([-1.0, -0.6, 1.0]))
    straight = prepare(values, 4).images
    assert torch.equal(straight[0, :3], torch.ones(3, 1, 3))
    assert torch.allclose(straight[0, 3, 0], torch.tensor([-1.0, -0.6, 1.0]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_enlarging_leaves_no_dark_fringe_around_transparency(dtype: type) -> None:
    """A red disc with a soft edge, whose hidden colour is black, stays red up to its edge."""
    top = np.iinfo(dtype).max
    rows, columns = np.mgrid[:24, :24] - 11.5
    soft = np.clip(9 - np.hypot(rows, columns), 0, 1)
    values = np.zeros((24, 24, 4), dtype)
    values[:, :, 3] = np.round(soft * top)
    values[:, :, 0] = np.where(soft > 0, top, 0)
    prepared = prepare(values, 3)
    planes = [
        np.asarray(Image.fromarray(plane).resize((48, 48), Image.Resampling.LANCZOS))
        for plane in prepared.images[0].numpy()
    ]
    found = restore(torch.from_numpy(np.stack(planes))[None], prepared, keep_channels=True)
    assert found.shape == (48, 48, 4)
    seen = found[found[:, :, 3] > top // 50]
    assert seen[:, 0].min() >= 0.97 * top
    assert seen[:, 1:3].max() <= 0.01 * top
    assert (found[:, :, 3] == 0).any()
    assert (found[:, :, 3] == top).any()


def test_hidden_colours_and_alpha_are_those_of_the_input() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    values[:, :4, 3] = 0
    prepared = prepare(values, 3)
    found = restore(torch.zeros_like(prepared.images), prepared, keep_channels=True)
    assert np.array_equal(found[:, :4], values[:, :4])
    assert np.array_equal(found[:, :, 3], values[:, :, 3])


def test_grey_stays_grey_on_request() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8, 1) * 3
    prepared = prepare(grey, 3)
    tinted = prepared.images * torch.tensor([1.0, 0.5, -1.0])[None, :, None, None]
    assert restore(tinted, prepared, keep_channels=True).shape == (8, 8, 1)
    colours = restore(tinted, prepared, keep_channels=False)
    assert colours.shape == (8, 8, 3)
    assert np.array_equal(colours[:, :, 0], grey[:, :, 0])
    with_alpha = np.concatenate([grey, grey], axis=2)
    prepared = prepare(with_alpha, 3)
    assert restore(-prepared.images, prepared, keep_channels=False).shape == (8, 8, 4)
    assert restore(-prepared.images, prepared, keep_channels=True).shape == (8, 8, 2)


def test_a_model_with_alpha_returns_its_own() -> None:
    values = np.full((2, 2, 4), 100, np.uint8)
    prepared = prepare(values, 4)
    opaque = prepared.images.clone()
    opaque[:, 3] = 1
    assert (restore(opaque, prepared, keep_channels=True)[:, :, 3] == 255).all()
    prepared = prepare(values[:, :, :3].copy(), 4)
    assert restore(-prepared.images, prepared, keep_channels=True).shape == (2, 2, 3)
    assert restore(-prepared.images, prepared, keep_channels=False).shape == (2, 2, 4)


def test_a_range_of_values_becomes_black_to_white() -> None:
    values = np.array([[[900], [1000], [1500], [2000], [2100]]], np.uint16)
    prepared = prepare(values, 1, value_range=(1000.0, 2000.0))
    expected = torch.tensor([-1.0, -1.0, 0.0, 1.0, 1.0])
    assert torch.allclose(prepared.images[0, 0, 0], expected, atol=1e-3)
    assert restore(-prepared.images, prepared, keep_channels=True)[0, :, 0] == pytest.approx(
        [2000, 2000, 1500, 1000, 1000], abs=1
    )
    assert np.array_equal(restore(prepared.images, prepared, keep_channels=True), values)
