"""The drawn set: captions that say what is shown, splits that share no combination, always the same."""

from dataclasses import astuple
from itertools import combinations as choose

import numpy as np
import pytest

from danqing.data import open_dataset
from danqing.data.builtin import shapes
from danqing.data.builtin.shapes import Combination, ShapesSource
from danqing.data.records import ImageSpec
from danqing.errors import DataError


def test_captions_are_what_people_would_say() -> None:
    small = Combination("red", "circle", "small", (-1, -1), 2)
    assert small.english == "two small red circles at the top left"
    assert small.chinese == "左上角有两个红色的小圆形"
    assert Combination("blue", "cross", "large", (0, 1), 4).english == "four large blue crosses at the bottom"
    heart = Combination("pink", "heart", "large", (0, 0), 1)
    assert heart.english == "a large pink heart in the centre"
    assert heart.chinese == "中央有一颗粉色的大爱心"


def test_every_combination_has_captions_of_its_own() -> None:
    assert len(shapes.combinations()) == 8 * 8 * 2 * 9 * 4
    assert len(shapes.by_caption()) == 2 * len(shapes.combinations())
    for caption, combination in shapes.by_caption().items():
        assert caption in (combination.english, combination.chinese)


def test_no_test_combination_is_learnt_from_and_all_else_is() -> None:
    captions = {
        split: {record.text for record in ShapesSource(split, 20_000).records(ImageSpec((32, 32)))}
        for split in ("train", "test")
    }
    assert not captions["train"] & captions["test"]
    known, held = (
        {astuple(shapes.by_caption()[text.split("\n")[0]]) for text in captions[split] if text}
        for split in ("train", "test")
    )
    assert len(known) + len(held) == len(shapes.combinations())
    for attribute in range(5):
        assert {one[attribute] for one in known} == {one[attribute] for one in known | held}
        assert {one[attribute] for one in held} == {one[attribute] for one in known}
    for pair in choose(range(5), 2):
        seen, all_pairs = (
            {tuple(one[place] for place in pair) for one in some} for some in (known, known | held)
        )
        missing = len(all_pairs) - len(seen)  # one shape of each colour, and no other pair
        assert missing == (8 if pair == (0, 1) else 0)


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (40, 24)])
def test_images_of_any_size_are_drawn_the_same_each_time_and_never_twice(size: tuple[int, int]) -> None:
    first = open_dataset("shapes:300", size=size)
    assert (len(first), first.size, first.channels, first.label_names) == (300, size, 3, shapes.SHAPES)
    assert first.info.report.duplicates == 0
    record = next(iter(ShapesSource("train", 300).records(ImageSpec(size))))
    assert np.array_equal(np.asarray(record.load()), first.images([0])[0].numpy())
    texts = first.texts([0])
    assert texts is not None
    assert texts[0] == record.text
    combination = shapes.by_caption()[texts[0].split("\n")[0]]
    assert first.label_names[first.labels_at([0])[0]] == combination.shape
    again, other = (shapes.drawn(combination, name, size) for name in (record.name, "another"))
    assert np.array_equal(again, np.asarray(record.load()))
    assert not np.array_equal(other, again)


def test_nothing_is_cut_off_and_colours_are_what_they_are_called() -> None:
    for number, combination in enumerate(shapes.combinations()[::37]):
        image = shapes.drawn(combination, f"#{number}", (32, 32)).astype(int)
        edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert abs(edge - np.median(edge, 0)).max() < 120  # what is near the edge may share its pixels
        nearest = abs(image - np.array(shapes.COLOURS[combination.colour])).sum(-1).min()
        assert nearest < 60  # thin shapes cover no pixel wholly


def test_a_smaller_set_begins_like_a_larger_one_and_the_test_is_the_same() -> None:
    few, many = ShapesSource("train", 100), ShapesSource("train", 1000)
    assert [one.text for one in few.records(ImageSpec())] == [
        one.text for one in list(many.records(ImageSpec()))[:100]
    ]
    assert few.key() != many.key()
    assert ShapesSource("test", 100).key() == ShapesSource("test", 1000).key()
    assert ShapesSource("all", 100).count() == 100 + ShapesSource("test", 1).count()
    with pytest.raises(DataError, match="write for example shapes:50000"):
        open_dataset("shapes:many")
    with pytest.raises(DataError, match="has train and test"):
        open_dataset("shapes", split="validation")
