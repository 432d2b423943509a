"""Edits of images in memory, of every shape and number type."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from danqing.editing.arrays import apply, edit_array
from danqing.editing.batch import BatchResult
from danqing.editing.contract import ImageToEdit, Values
from danqing.errors import ConfigError, DataError
from danqing.images import Images
from tests.editing.edits import Invert, Nothing
from tests.image_files.files import file_of, photo

INVERT = Invert()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 3), (8, 9, 1), (5, 8, 9), (2, 8, 9, 4), (1, 8, 9, 1)])
def test_an_array_comes_back_with_its_shape_and_type(shape: tuple[int, ...], dtype: type) -> None:
    top = np.iinfo(dtype).max
    array = np.random.default_rng(0).integers(0, top + 1, shape, dtype=dtype)
    if shape[-1] == 4:
        array[..., 3] = top
    found = edit_array(INVERT, array, seed=1)
    expected = top - array
    if shape[-1] == 4:
        expected[..., 3] = top
    assert (found.shape, found.dtype) == (shape, dtype)
    assert np.array_equal(found, expected)


def test_images_become_images() -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    found = edit_array(INVERT, Images(array), seed=1)
    assert isinstance(found, Images)
    assert np.array_equal(found.array, 255 - array)
    assert edit_array(Invert(scale=2), Images(array), seed=1).array.shape == (3, 8, 10, 3)


def test_an_image_has_a_seed_of_its_own() -> None:
    array = np.full((3, 6, 6, 1), 100, np.uint8)
    noisy = Invert(channels=1, noise=True)
    found = edit_array(noisy, array, seed=1)
    assert not np.array_equal(found[0], found[1])
    assert np.array_equal(edit_array(noisy, array[:2], seed=1), found[:2])
    assert not np.array_equal(edit_array(noisy, array, seed=2), found)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32])
def test_numbers_of_scanners_are_scaled_and_scaled_back(dtype: type) -> None:
    volume = np.linspace(-1024, 3071, 5 * 8 * 9).reshape(5, 8, 9).astype(dtype)
    found = edit_array(Invert(channels=1), volume, seed=0)
    assert (found.shape, found.dtype) == (volume.shape, dtype)
    assert np.abs(found.astype(np.float64) - (3071 - 1024 - volume.astype(np.float64))).max() <= 1
    assert np.array_equal(edit_array(Nothing(1), volume, seed=0), volume)
    window = edit_array(Invert(channels=1), volume, seed=0, value_range=(-1000.0, 400.0))
    assert np.abs(window.astype(np.float64) - (-600 - volume.clip(-1000, 400).astype(np.float64))).max() <= 1


def test_numbers_that_are_not_finite_stay_where_nothing_changes() -> None:
    array = np.array([[np.nan, 1.0, np.inf], [0.0, 0.5, -np.inf]], np.float32)
    assert np.array_equal(edit_array(Nothing(1), array, seed=0), array, equal_nan=True)


def test_shapes_that_are_not_images_are_refused() -> None:
    for array in (np.zeros(5), np.zeros((2, 3, 4, 5)), np.zeros((2, 2), bool), np.zeros((1, 1, 1, 1, 1))):
        with pytest.raises(DataError, match="is not images: give numbers as"):
            edit_array(INVERT, array, seed=0)

    @dataclasses.dataclass(frozen=True)
    class Growing(Invert):
        def apply(self, image: ImageToEdit) -> Values:
            return image.values.repeat(1 + image.seed % 2, axis=0)

    with pytest.raises(DataError, match="differ in size"):
        edit_array(Growing(), np.zeros((20, 4, 4, 1), np.uint8), seed=0)


def test_one_call_edits_images_in_memory_and_in_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(file_of(photo()))
    expected = 255 - np.asarray(photo())
    assert np.array_equal(apply(INVERT, np.asarray(photo())), expected)
    assert np.array_equal(apply(INVERT, tmp_path / "a.png"), expected)
    found = apply(INVERT, tmp_path, tmp_path / "out", seed=3)
    assert isinstance(found, BatchResult)
    assert found.written == {"a.png": tmp_path / "out/a.png"}
    with pytest.raises(ConfigError, match="Say where the edited files go"):
        apply(INVERT, tmp_path)
    with pytest.raises(ConfigError, match="out is an option for files"):
        apply(INVERT, np.asarray(photo()), tmp_path / "out")


def test_files_have_the_options_of_the_commands_and_others_are_named(tmp_path: Path) -> None:
    given, page = tmp_path / "given", tmp_path / "page.html"
    given.mkdir()
    (given / "a.png").write_bytes(file_of(photo()))
    true = {"compare": page, "reference": given}
    apply(INVERT, given, tmp_path / "dry", memory="8G", dry_run=True, **true)
    assert not page.exists()
    apply(INVERT, given, tmp_path / "out", memory="8G", **true)
    text = page.read_text()
    assert text.count("<figure") == 1
    assert "PSNR, reference" in text
    with pytest.raises(ConfigError, match="over --memory 1 MB"):
        apply(INVERT, given, tmp_path / "small", memory="1M")
    with pytest.raises(ConfigError, match="is not an amount of memory"):
        apply(INVERT, given, tmp_path / "small", memory="much")
    with pytest.raises(ConfigError, match="truncation is not an option: choose among n, strip"):
        apply(INVERT, given, tmp_path / "other", truncation=2)
    with pytest.raises(ConfigError, match="name a page too"):
        apply(INVERT, given, tmp_path / "other", reference=given)
    with pytest.raises(ConfigError, match="no file or folder"):
        apply(INVERT, given, tmp_path / "other", compare=page, reference=tmp_path / "missing")
    for options in ({"compare": page}, {"n": 2}):
        with pytest.raises(ConfigError, match="is an option for files"):
            apply(INVERT, np.asarray(photo()), **options)  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()
