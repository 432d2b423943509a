"""Masks come from files, folders, boxes and transparency; they grow, and soften inside alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from danqing.editing.contract import ImageToEdit
from danqing.editing.masks import Masks, distances, feathered, grown
from danqing.editing.windows import Window
from danqing.errors import ConfigError, DataError


def image(height: int = 6, width: int = 8, channels: int = 3, name: str = "") -> ImageToEdit:
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return ImageToEdit(values, 0, name)


def saved(path: Path, where: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(where.astype(np.uint8) * 255).save(path)
    return path


@pytest.mark.parametrize("seed", range(5))
def test_distances_are_euclidean(seed: int) -> None:
    rng = np.random.default_rng(seed)
    where = rng.random((17, 23)) < 0.02
    ys, xs = np.nonzero(where)
    rows, columns = np.indices(where.shape)
    exact = np.full(where.shape, np.inf)
    for y, x in zip(ys, xs, strict=True):
        exact = np.minimum(exact, np.hypot(rows - y, columns - x))
    found = distances(where, 6)
    assert np.allclose(found, np.where(exact <= 6, exact, 7), atol=1e-5)
    assert np.array_equal(grown(where, 3), exact <= 3)


def test_a_feather_rises_inside_the_mask_alone() -> None:
    where = np.zeros((9, 20), bool)
    where[:, 5:] = True  # it reaches three edges of the image, which are not edges of the mask
    weight = feathered(where, 4)
    assert not weight[~where].any()
    expected = np.minimum(np.arange(1, 16) / 5, 1)
    assert np.allclose(weight[:, 5:], expected[None])
    assert (feathered(np.ones((3, 3), bool), 2) == 1).all()


def test_boxes_alpha_and_a_mask_add_up_and_are_inverted_together(tmp_path: Path) -> None:
    given = image(channels=4)
    given.values[..., 3] = 255
    given.values[0, 0, 3] = 0
    given.values[0, 1, 3] = 200  # seen more than not
    where = np.zeros((6, 8), bool)
    where[5, 7] = True
    path = saved(tmp_path / "mask.png", where)
    boxes = (Window(2, 1, 2, 2), Window(6, 0, 9, 1))
    masks = Masks(path, boxes, alpha=True)
    expected = where.copy()
    expected[1:3, 2:4] = expected[0, 6:] = expected[0, 0] = True
    assert np.array_equal(masks.of(given).where, expected)
    inverted = Masks(path, boxes, alpha=True, invert=True)
    assert np.array_equal(inverted.of(given).where, ~expected)
    assert np.array_equal(inverted.of(given).canvas, given.values)


def test_white_on_nothing_is_a_mask_as_paint_programs_write_it(tmp_path: Path) -> None:
    sheet = Image.new("RGBA", (8, 6), (255, 255, 255, 0))
    sheet.paste((255, 255, 255, 255), (1, 2, 4, 5))
    sheet.save(tmp_path / "mask.png")
    assert Masks(tmp_path / "mask.png").of(image()).where.sum() == 9


def test_masks_of_a_folder_are_found_by_name_whatever_their_format(tmp_path: Path) -> None:
    where = np.eye(6, 8, dtype=bool)
    saved(tmp_path / "cats" / "tom.png", where)
    saved(tmp_path / "dog.png", ~where)
    masks = Masks(tmp_path)
    assert np.array_equal(masks.of(image(name="cats/tom.jpg")).where, where)
    assert np.array_equal(masks.of(image(name="dog.png")).where, ~where)
    assert masks.own("dog.png") != masks.own("cats/tom.jpg")
    saved(tmp_path / "cats" / "tom.bmp", where)
    for name, sentence in (
        ("cats/tom.jpg", "several masks for cats/tom.jpg"),
        ("bird.png", "no mask for bird.png"),
        ("../dog.png", "leads out"),
        ("", "give one mask"),
    ):
        with pytest.raises(DataError, match=sentence):
            masks.of(image(name=name))


def test_a_mask_of_the_same_shape_is_resized_and_another_rejected(tmp_path: Path) -> None:
    where = np.zeros((3, 4), bool)
    where[1, 1] = True
    masks = Masks(saved(tmp_path / "small.png", where))
    assert masks.of(image()).where.sum() == 4
    assert masks.of(image()).where[2:4, 2:4].all()
    with pytest.raises(DataError, match="The mask has 4x3 pixels, and the image 8x8"):
        masks.of(image(8, 8))


def test_new_borders_are_filled_whole_and_the_mask_grows_into_the_image() -> None:
    given = image()
    canvas, where, weight = Masks(expand=(2, 0, 1, 3), grow=1, feather=1).of(given)
    assert canvas.shape == (9, 11, 3)
    assert np.array_equal(canvas[:6, 2:10], given.values)
    inside = np.zeros((9, 11), bool)
    inside[:5, 3:9] = True
    assert np.array_equal(where, ~inside)
    assert weight is not None
    assert (weight[6:] == 1).all()
    assert weight[0, 2] == pytest.approx(0.5), "the soft edge is where there is something to mix with"


def test_an_image_without_anything_to_fill_is_known_before_work_starts() -> None:
    assert Masks(alpha=True).is_empty(image())
    assert Masks(np.zeros((6, 8), bool)).is_empty(image())
    assert not Masks(alpha=True, expand=(1, 0, 0, 0)).is_empty(image())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "Say what to fill"),
        ({"invert": True, "expand": (1, 0, 0, 0)}, "needs a mask"),
        ({"alpha": True, "grow": -1}, "grow must be from 0"),
        ({"expand": (1, 0, 0, -1)}, "from 0 on"),
        ({"boxes": (Window(0, 0, 0, 3),)}, "is empty"),
        ({"source": Path("/no/mask.png")}, "There is no mask at"),
        ({"source": np.zeros((2, 2))}, "true or false for each pixel"),
    ],
)
def test_mistakes_are_told_before_work_starts(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Masks(**values)


def test_a_box_outside_of_the_image_is_told() -> None:
    with pytest.raises(DataError, match="lies outside the image's 8x6 pixels"):
        Masks(boxes=(Window(8, 0, 2, 2),)).of(image())
