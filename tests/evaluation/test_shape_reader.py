"""What the set `shapes` draws is read back exactly, blurred too; what is not alike is not read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy import ndimage

from danqing.data.builtin import shapes
from danqing.data.builtin.shapes import Combination, drawn
from danqing.evaluation.judges.shape_reader import Reading, _connected, read

ANY = st.sampled_from(shapes.combinations())
SIDES = st.integers(24, 64)


def expected(combination: Combination) -> Reading:
    c = combination
    return Reading(c.colour, c.shape, c.size, c.place, c.count)


@given(ANY, st.integers(), SIDES, SIDES)
@settings(max_examples=300, deadline=None)
def test_every_drawn_image_is_read_exactly(
    combination: Combination, number: int, width: int, height: int
) -> None:
    assert read(drawn(combination, f"#{number}", (width, height))) == expected(combination)


@pytest.mark.parametrize("combination", shapes.combinations()[::41])
def test_a_decoders_blur_and_noise_do_not_matter(combination: Combination) -> None:
    sharp = Image.fromarray(drawn(combination, "blurred", (32, 32)))
    soft = np.asarray(sharp.filter(ImageFilter.GaussianBlur(0.7))).astype(int)
    noise = np.random.default_rng(0).normal(0, 4, soft.shape)
    assert read(np.clip(soft + noise, 0, 255).astype(np.uint8)) == expected(combination)


def beside(left: Combination, right: Combination) -> np.ndarray:
    """The left half of one image beside the right half of another on the same ground."""
    first, second = (drawn(one, "same ground", (48, 48)) for one in (left, right))
    return np.concatenate([first[:, :24], second[:, 24:]], 1)


def test_what_differs_within_a_group_is_none() -> None:
    plain = Combination("red", "circle", "large", (0, 0), 2)
    for name, value in (("colour", "blue"), ("shape", "star"), ("size", "small")):
        other = Combination(**{**{f: getattr(plain, f) for f in plain.__slots__}, name: value})
        found = read(beside(plain, other))
        assert getattr(found, name) is None
        assert found.count == 2
        assert found.place == (0, 0)
    assert read(beside(plain, plain)) == expected(plain)


def test_what_is_no_figure_is_not_read() -> None:
    assert read(np.full((32, 32, 3), 240, np.uint8)) == Reading()
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert read(noise).shape is None
    blob = np.full((64, 64, 3), 250, np.uint8)
    blob[10:54, 10:54] = shapes.COLOURS["green"]
    assert read(blob).size is None
    five = np.full((64, 64, 3), 250, np.uint8)
    for x, y in ((12, 12), (12, 50), (50, 12), (50, 50), (31, 31)):
        five[y - 4 : y + 4, x - 4 : x + 4] = shapes.COLOURS["green"]
    assert read(five).count is None
    assert read(five).colour == "green"


@pytest.mark.parametrize("share", [0.2, 0.45, 0.6])
def test_connected_parts_are_those_of_an_independent_implementation(share: float) -> None:
    mask = np.random.default_rng(0).random((37, 53)) < share
    ours, (theirs, count) = _connected(mask), ndimage.label(mask, np.ones((3, 3)))
    pairs = set(zip(ours.ravel().tolist(), theirs.ravel().tolist(), strict=True))
    assert len(pairs) == count + 1 == len(np.unique(ours))
    assert (ours == 0).tolist() == (~mask).tolist()
