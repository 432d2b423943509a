"""The held-out split: fixed by the pixels, never overlapping; the data's own split where there is one."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from danqing.data import Dataset
from danqing.data.sources import open_dataset
from danqing.data.splits import has_split, hold_out, open_held, open_if_there
from danqing.errors import DataError


def write_pictures(folder: Path, count: int, seed: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{number:04d}.png")


def pixels(dataset: Dataset) -> set[bytes]:
    return {image.numpy().tobytes() for image in dataset.images(np.arange(len(dataset)))}


def test_the_split_follows_from_the_pixels_alone(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a", 60, seed=0)
    for number, file in enumerate(sorted((tmp_path / "a").iterdir())):
        if number % 3 == 0:  # copies under other names must fall on the same side
            (tmp_path / "a" / f"copy of {file.name}").write_bytes(file.read_bytes())
    whole = open_dataset(tmp_path / "a")
    training, held = hold_out(whole, 0.2)
    assert len(training) + len(held) == 80
    assert 16 <= len(held) <= 17
    assert not pixels(training) & pixels(held)
    backwards = whole.subset(np.arange(len(whole))[::-1])
    assert pixels(hold_out(backwards, 0.2)[1]) == pixels(held)


def test_the_data_s_own_validation_split_is_taken(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "validation", "test")):
        write_pictures(tmp_path / "d" / split, 12, seed=number)
    training, judged, name = open_held(tmp_path / "d")
    assert (len(training), len(judged), name) == (12, 12, "validation")
    assert not pixels(training) & pixels(judged)
    write_pictures(tmp_path / "plain", 30, seed=9)
    training, judged, name = open_held(tmp_path / "plain")
    assert (len(training), len(judged), name) == (27, 3, "held-out")
    assert open_if_there(tmp_path / "plain", "test") is None
    there = [has_split(tmp_path / "d", split) for split in ("train", "validation", "test", "all")]
    assert there == [True, True, True, True]
    assert [has_split(tmp_path / "plain", split) for split in ("train", "test")] == [True, False]
    with pytest.raises(DataError, match="no data at"):
        open_if_there(tmp_path / "nothing", "test")


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path / "few", 3, seed=0)
    with pytest.raises(DataError, match="too few"):
        hold_out(open_dataset(tmp_path / "few"), 0.1)
