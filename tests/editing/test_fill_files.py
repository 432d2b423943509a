"""Filled files keep every byte outside of the mask, in each lossless format and depth, from file to file."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

import danqing as dq
from danqing.editing import files
from danqing.editing.batch import BatchResult
from danqing.editing.contract import ImageToEdit
from danqing.editing.fill import Fill
from danqing.editing.masks import Masks
from danqing.editing.window_model import Request, WindowModel
from danqing.families.mask_shapes import draw_masks
from tests.editing.random_family import random_pixels

KINDS: list[tuple[str, type[np.uint8 | np.uint16], tuple[int, ...]]] = [
    ("PNG", np.uint8, (1, 2, 3, 4)),
    ("PNG", np.uint16, (1, 2, 3, 4)),
    ("WEBP", np.uint8, (3, 4)),
    ("TIFF", np.uint8, (1, 2, 3, 4)),
    ("TIFF", np.uint16, (1, 2, 3, 4)),
]


def check_random_edits(count: int) -> None:
    """Fill random masks of random images, written, read, filled, written and read again."""
    models = [
        WindowModel(random_pixels(width, height, channels), "fill", Request(), {})
        for width, height, channels in ((8, 8, 3), (4, 9, 1), (12, 5, 4), (6, 6, 2))
    ]
    changed = 0
    for case in range(count):
        rng = np.random.default_rng(case)
        name, dtype, channels = KINDS[case % len(KINDS)]
        height, width = (int(side) for side in rng.integers(4, 40, 2))
        shape = (height, width, int(rng.choice(channels)))
        values = rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
        where = draw_masks(1, height, width, torch.Generator().manual_seed(case))[0, 0].numpy() > 0
        masks = Masks(where, feather=case % 3, grow=case % 2)
        edit = Fill(models[case % len(models)], masks, tile=case % 7 and int(rng.integers(4, 20)))
        style = files.FileStyle(name, options={"lossless": True} if name == "WEBP" else {})
        before, found = files.read(files.write(values, style))
        assert np.array_equal(before, values)
        image = ImageToEdit(before, case)
        after, _ = files.read(files.write(edit.apply(image), found))
        if after.shape[2] < values.shape[2]:  # WebP leaves out an alpha that is opaque everywhere
            after = np.concatenate([after, np.full_like(after[:, :, :1], 255)], axis=2)
        kept = ~masks.of(image).where
        assert after.dtype == dtype
        assert np.array_equal(after[kept], values[kept]), f"case {case}"
        changed += not np.array_equal(after, values)
    assert changed > 0.8 * count


def test_no_byte_outside_of_the_mask_changes_in_lossless_files() -> None:
    check_random_edits(200)


@pytest.mark.slow
def test_no_byte_outside_of_the_mask_changes_in_a_thousand_files() -> None:
    check_random_edits(1_000)


def test_an_empty_mask_returns_the_file_byte_for_byte(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    content = files.write(values, files.FileStyle("JPEG"))
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "in" / name).write_bytes(content)
    masks = {"a": np.zeros((20, 30), bool), "b": np.ones((20, 30), bool)}
    (tmp_path / "masks").mkdir()
    for name, where in masks.items():
        (tmp_path / "masks" / f"{name}.png").write_bytes(
            files.write(where.astype(np.uint8)[:, :, None] * 255, files.FileStyle("PNG"))
        )
    result = dq.fill(random_pixels(), tmp_path / "in", out=tmp_path / "out", mask=tmp_path / "masks")
    assert isinstance(result, BatchResult)
    assert set(result.written) == {"a.jpg", "b.jpg"}
    assert (tmp_path / "out" / "a.jpg").read_bytes() == content
    assert (tmp_path / "out" / "b.jpg").read_bytes() != content
    varied = dq.vary(random_pixels(), tmp_path / "in", out=tmp_path / "same", strength=0)
    assert isinstance(varied, BatchResult)
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in varied.written.values()} == {
        hashlib.sha256(content).hexdigest()
    }


def test_another_mask_of_a_folder_is_told_when_a_batch_continues(tmp_path: Path) -> None:
    picture = files.write(np.zeros((9, 9, 3), np.uint8), files.FileStyle("PNG"))
    (tmp_path / "in").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(picture)

    def filled(mask: np.ndarray) -> BatchResult:
        values = mask.astype(np.uint8)[:, :, None] * 255
        (tmp_path / "masks" / "a.png").write_bytes(files.write(values, files.FileStyle("PNG")))
        found = dq.fill(random_pixels(), tmp_path / "in", out=tmp_path / "out", mask=tmp_path / "masks")
        assert isinstance(found, BatchResult)
        return found

    one, other = np.eye(9, dtype=bool), ~np.eye(9, dtype=bool)
    assert set(filled(one).written) == {"a.png"}
    assert set(filled(one).skipped) == {"a.png"}
    assert "other options for this image" in filled(other).failed["a.png"]


@pytest.mark.parametrize("value", [0, 1, 100, 127, 128, 255])
def test_a_mask_that_is_white_nowhere_is_noted(tmp_path: Path, value: int) -> None:
    image = np.full((20, 30, 3), 9, np.uint8)
    mask = np.zeros((20, 30, 1), np.uint8)
    mask[:10] = value
    for name, values in (("a.png", image), ("mask.png", mask)):
        (tmp_path / name).write_bytes(files.write(values, files.FileStyle("PNG")))
    (tmp_path / "in").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "in" / "a.png")
    result = dq.fill(random_pixels(), tmp_path / "in", out=tmp_path / "out", mask=tmp_path / "mask.png")
    assert isinstance(result, BatchResult)
    after, _ = files.read((tmp_path / "out" / "a.png").read_bytes())
    is_white = value in (1, 128, 255)  # a mask of zeros and ones is one of libraries for arrays
    assert bool((after[:10] != 9).any()) == is_white
    assert np.array_equal(after[10:], image[10:])
    assert ("the mask is white nowhere" in " ".join(result.notes.get("a.png", ()))) != is_white
