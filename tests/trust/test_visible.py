"""The visible label: its height, its place, and what it leaves of the image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danqing.trust.settings import Language
from danqing.trust.visible import label


@given(
    st.integers(8, 700),
    st.integers(8, 700),
    st.integers(1, 4),
    st.sampled_from([np.uint8, np.uint16]),
    st.sampled_from(["zh", "en"]),
)
def test_text_is_at_least_five_percent_of_the_shorter_side_high_and_at_the_edge(
    height: int, width: int, channels: int, kind: type, language: Language
) -> None:
    pixels = np.zeros((height, width, channels), kind)
    labelled = label(pixels, language)
    assert labelled is not None
    assert labelled.dtype == kind
    assert not pixels.any()
    text = labelled[..., 0] > np.iinfo(kind).max // 8  # white text is much lighter than the dark plate
    rows = np.flatnonzero(text.any(1))
    assert np.ptp(rows) + 1 >= 0.05 * min(height, width)
    assert rows[-1] >= height - max(8, 0.1 * min(height, width))
    if channels in (2, 4):
        assert labelled[..., -1][text].min() > 0  # what is transparent does not hide it


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_label_of_an_edit_covers_changed_pixels_only(language: Language) -> None:
    pixels = np.full((200, 300, 3), 128, np.uint8)
    where = np.zeros((200, 300), bool)
    where[20:80, 40:240] = True
    labelled = label(pixels, language, where)
    assert labelled is not None
    assert (labelled != pixels).any()
    assert (labelled == pixels)[~where].all()
    where[:] = np.indices(where.shape).sum(0) % 2 == 0
    assert label(pixels, language, where) is None
    assert label(pixels, language, np.zeros_like(where)) is None


def test_the_label_can_be_read_on_dark_and_on_light_images() -> None:
    for level in (0, 255):
        labelled = label(np.full((128, 128, 1), level, np.uint8), "zh")
        assert labelled is not None
        assert np.ptp(labelled[100:].astype(int)) > 150
