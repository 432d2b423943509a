"""The page of a batch: its numbers by their definitions, and what it shows of a large batch."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from danqing.editing import compare_page
from danqing.editing.batch import edit_files
from danqing.editing.compare_page import CompareResults, compare, measure, write_page
from danqing.editing.contract import ImageToEdit, Values
from danqing.image_files import reading
from danqing.trust.declaration import Declaration
from tests.editing.edits import Invert


def noise(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_measures_follow_their_definitions(dtype: type) -> None:
    before, after = noise(300, 40, 3, dtype=dtype), noise(300, 40, 3, dtype=dtype, seed=1)
    kept = np.zeros((300, 40), bool)
    kept[:270] = True
    after[kept] = before[kept]
    found, most = measure(before, after, kept=kept), np.iinfo(dtype).max
    difference = (after.astype(float) - before) / most
    assert found.change == pytest.approx(255 * np.abs(difference).mean(), rel=1e-5)
    assert found.changed == pytest.approx((difference != 0).any(axis=2).mean())
    assert (found.psnr, found.against) == (math.inf, "kept region")
    after[0, 0, 0] ^= 1
    error = (1 / most) ** 2 / (kept.sum() * 3)
    assert measure(before, after, kept=kept).psnr == pytest.approx(-10 * math.log10(error), abs=0.01)
    true = noise(300, 40, 3, dtype=dtype, seed=2)
    error = np.square((after.astype(float) - true) / most).mean()
    found = measure(before, after, kept=kept, reference=true)
    assert found.psnr == pytest.approx(-10 * math.log10(error), abs=1e-4)
    assert found.against == "reference"


def test_an_output_of_another_size_is_measured_where_it_shows_the_input() -> None:
    before = noise(20, 30, 4)
    wide = noise(40, 50, 4, seed=1)
    wide[5:25, 15:45] = before
    assert measure(before, wide, offset=(15, 5)) == (0.0, 0.0, None, "")
    flat = np.full((20, 30, 1), 77, np.uint8)
    assert measure(flat, np.full((80, 120, 3), 77, np.uint8)).change == 0.0
    assert measure(flat, np.full((80, 120, 3), 79, np.uint8)).change == pytest.approx(1.5)  # and equal alpha


def test_a_large_batch_shows_an_even_share_and_says_what_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_page, "MOST_SHOWN", 5)
    results = CompareResults("enhance", {"model": "ab", "strength": 1.0}, 1003)
    image = noise(4, 4, 1)
    for number in range(1000):
        results.add(f"{number}.png", image, image, file_sizes=(9, 9), seconds=0.1)
    for number in range(3):
        results.fail(f"{number} <i>.gif", "It is <b>truncated</b>.")
    assert sum(one.shown is not None for one in results.images) in (4, 5)
    places = [number for number, one in enumerate(results.images) if one.shown is not None]
    assert max(np.diff([0, *places, 1002])) <= 202
    text = write_page(results, tmp_path / "new" / "compare.html").read_text()
    assert "of 1,000 edited images are shown" in text
    assert "3 images were not edited" in text
    assert "<i>" not in text
    assert "<b>truncated" not in text
    assert len(re.findall("<figure", text)) == len(places)
    assert len(text) < 60_000


class Negative:
    """An edit that inverts all but the left upper corner, and adds two columns on the left."""

    verb = "fill"
    settings: Mapping[str, Any] = {"model": "ab", "expand": [2, 0, 0, 0]}

    declaration = Declaration()

    def changes(self, image: ImageToEdit) -> bool:
        return True

    def kept(self, image: ImageToEdit) -> NDArray[np.bool_]:
        kept = np.zeros(image.values.shape[:2], bool)
        kept[:2, :2] = True
        return kept

    def peak_bytes(self, width: int, height: int) -> int:
        return 1

    def apply(self, image: ImageToEdit) -> Values:
        kept = self.kept(image)[..., None]
        return np.pad(np.where(kept, image.values, 255 - image.values), ((0, 0), (2, 0), (0, 0)))


def test_a_batch_is_compared_from_its_files(tmp_path: Path) -> None:
    source, true, out = tmp_path / "in", tmp_path / "true", tmp_path / "out"
    for name in ("a.png", "b/c.png"):
        picture = noise(6, 8, 3, seed=len(name))
        for folder, pixels in ((source, picture), (true, np.pad(255 - picture, ((0, 0), (2, 0), (0, 0))))):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save((folder / name).with_suffix(".png" if folder == source else ".bmp"))
    (source / "d.png").write_bytes((source / "a.png").read_bytes()[:50])
    edit = Negative()
    for _ in range(2):  # the second time all are skipped
        found = compare(edit, edit_files(edit, source, out, seed=0))
    assert [one.name for one in found.images] == ["a.png", "b/c.png"]
    assert list(found.failed) == ["d.png"]
    for one in found.images:
        assert one.sizes == ((8, 6), (10, 6))
        assert one.seconds is not None
        assert (one.measures.psnr, one.measures.against) == (math.inf, "kept region")
        assert one.measures.changed == pytest.approx(1 - 4 / 48)
    with_true = compare(edit, edit_files(edit, source, out, seed=0), true)
    assert {one.measures.against for one in with_true.images} == {"reference"}
    assert all(5 < (one.measures.psnr or 0) < 40 for one in with_true.images)


def test_a_result_that_is_too_large_to_be_read_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for name, side in (("small.png", 4), ("large.png", 9)):
        Image.fromarray(noise(side, side, 3)).save(tmp_path / "in" / name)
    edit = Invert(scale=4)
    result = edit_files(edit, tmp_path / "in", tmp_path / "out", seed=0)
    monkeypatch.setattr(reading, "MAX_PIXELS", 1000)
    found = compare(edit, result)
    assert [one.name for one in found.images] == ["small.png"]
    assert "36x36" in found.unread["large.png"]
    text = write_page(found, tmp_path / "page.html").read_text()
    assert "1 image was edited and cannot be shown" in text
    assert "not edited" not in text
