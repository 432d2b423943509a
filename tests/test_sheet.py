"""A sheet shows every image whole, and words below each."""

import numpy as np
import pytest

from danqing.cli.demo import NEW_PROMPTS, PROMPTS
from danqing.data.builtin.shapes import by_caption
from danqing.errors import DataError
from danqing.images import Images
from danqing.sheet import Sheet


def test_images_stand_enlarged_in_their_places_above_their_words():
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    images = Images(np.broadcast_to(colours[:, None, None], (3, 8, 16, 3)).copy())
    words = ["red", "a caption that is far too long for one line below its image", ""]
    sheet = np.asarray(Sheet(images, words, columns=2, note="a note").draw())
    for colour in colours:
        rows, columns = np.nonzero((sheet == colour).all(2))
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (64, 128)
    tops = [np.nonzero((sheet == colour).all(2))[0].min() for colour in colours]
    assert tops[0] == tops[1] < tops[2]
    below = sheet[tops[0] + 66 : tops[2] - 4]
    half = sheet.shape[1] // 2
    assert 0 < (below[:, :half].min(2) < 128).sum() < (below[:, half:].min(2) < 128).sum()
    plain = np.asarray(Sheet(images, ["", "", ""], columns=2).draw())
    assert len(sheet) > len(plain)


def test_a_caption_is_asked_for_each_image():
    with pytest.raises(DataError, match="a caption per image"):
        Sheet(Images(np.zeros((2, 4, 4, 3), np.uint8)), ["one"])


def test_the_demo_says_truly_which_prompts_are_new():
    known = by_caption()
    assert not any(known[prompt].is_held_out for prompt in PROMPTS)
    assert all(known[prompt].is_held_out for prompt in NEW_PROMPTS)


def test_a_no_break_space_is_drawn_as_any_space():
    images = Images(np.zeros((1, 8, 8, 3), np.uint8))
    drawn = [np.asarray(Sheet(images, [f"new{space}*"]).draw()) for space in "\u00a0 "]
    assert np.array_equal(*drawn)
