import shutil
from pathlib import Path

import numpy as np
import pytest

from danqing.data import open_dataset
from danqing.data.clean_list import CleanRow, read_clean_list, write_clean_list
from danqing.data.cleaned import cleaned, digest_of
from danqing.data.records import ImageSpec
from danqing.data.sources import find_source
from danqing.errors import DataError
from tests.data.pictures import picture, write

NAMES = ["cats/a.png", "cats/b.png", "dogs/a.png", "dogs/b.png", "dogs/c.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "photos", NAMES)


def listed(tmp_path: Path, *rows: CleanRow) -> Path:
    write_clean_list(tmp_path / "clean.csv", rows)
    return tmp_path / "clean.csv"


def digests(folder: Path) -> dict[str, str]:
    source, _ = find_source(folder, "train")
    return {record.name: digest_of(record) or "" for record in source.records(ImageSpec())}


def test_a_cleaned_data_set_equals_one_without_the_dropped_files(tmp_path: Path, folder: Path) -> None:
    known = digests(folder)
    rows = [CleanRow("drop", "train", name, digest=known[name]) for name in ("cats/b.png", "dogs/a.png")]
    rows += [CleanRow("keep", "train", "dogs/b.png"), CleanRow("drop", "test", "dogs/c.png")]
    dataset = open_dataset(folder, clean=listed(tmp_path, *rows))
    without = shutil.copytree(folder, tmp_path / "without" / "photos")
    (without / "cats/b.png").unlink()
    (without / "dogs/a.png").unlink()
    assert dataset.fingerprint == open_dataset(without).fingerprint
    assert dataset.fingerprint != open_dataset(folder).fingerprint
    assert dataset.info.report.account() == "5 found: 3 used, 2 left out by the clean list"
    assert [file.name for file in dataset.info.report.left_out_files] == ["cats/b.png", "dogs/a.png"]


def test_a_relabelled_image_gets_the_suggested_label(tmp_path: Path, folder: Path) -> None:
    rows = [CleanRow("relabel", "train", "dogs/a.png", label="dogs", suggested="cats")]
    dataset = open_dataset(folder, clean=listed(tmp_path, *rows))
    assert [dataset.label_names[label] for label in dataset.labels] == ["cats"] * 3 + ["dogs"] * 2
    assert "The clean list changes the labels of images: 1." in dataset.info.report.notes


def test_records_start_anywhere_so_that_a_killed_build_continues(tmp_path: Path, folder: Path) -> None:
    path = listed(tmp_path, CleanRow("drop", "train", "cats/b.png"))
    source = cleaned(find_source(folder, "train")[0], "train", path)
    names = [record.name for record in source.records(ImageSpec())]
    assert names == [name for name in NAMES if name != "cats/b.png"]
    for start in range(source.count() + 1):
        assert [record.name for record in source.records(ImageSpec(), start)] == names[start:]


def test_a_list_that_keeps_everything_changes_nothing(tmp_path: Path, folder: Path) -> None:
    whole = open_dataset(folder)
    kept = open_dataset(folder, clean=listed(tmp_path, CleanRow("keep", "train", "cats/a.png")))
    assert (kept.cache, kept.fingerprint) == (whole.cache, whole.fingerprint)


def test_an_image_that_changed_since_is_not_dropped_silently(tmp_path: Path, folder: Path) -> None:
    rows = [CleanRow("drop", "train", "cats/b.png", digest=digests(folder)["cats/b.png"])]
    path = listed(tmp_path, *rows)
    shutil.copy(folder / "dogs/c.png", folder / "cats/b.png")
    with pytest.raises(DataError, match=r"cats/b.png changed since clean.csv was written \(1 in all\)"):
        open_dataset(folder, clean=path)


def test_a_list_of_other_data_is_rejected_and_a_deleted_image_is_noted(tmp_path: Path, folder: Path) -> None:
    other = listed(tmp_path, CleanRow("drop", "train", "birds/a.png"))
    with pytest.raises(DataError, match="is about other data"):
        open_dataset(folder, clean=other)
    some = listed(tmp_path, *[CleanRow("drop", "train", name) for name in ("birds/a.png", "cats/a.png")])
    notes = open_dataset(folder, clean=some).info.report.notes
    assert "1 of the images that the clean list changes are not in photos." in notes


def test_rows_of_arrays_are_identified_by_their_pixels(tmp_path: Path) -> None:
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (3, 8, 8))
    pixels = np.stack([picture(n, channels=1)[:, :, 0] for n in range(3)])
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(header + pixels.tobytes())
    name = "train-images-idx3-ubyte#1"
    path = listed(tmp_path, CleanRow("drop", "train", name, digest=digests(tmp_path)[name]))
    assert len(open_dataset(tmp_path, clean=path)) == 2
    file.write_bytes(header + pixels[::-1].tobytes())
    assert len(open_dataset(tmp_path, clean=path)) == 2  # the same image in the same row
    file.write_bytes(header + pixels[[1, 0, 2]].tobytes())
    with pytest.raises(DataError, match="changed since"):
        open_dataset(tmp_path, clean=path)


def test_a_list_survives_a_spreadsheet(tmp_path: Path) -> None:
    rows = (
        CleanRow("drop", "train", 'a "b", c.png', "blank; too dark", "x", "", "y"),
        CleanRow("keep", "test", "ö"),
    )
    assert read_clean_list(listed(tmp_path, *rows)) == rows
    text = "name;decision;notes;split\nö.png;Drop;mine;train\n"
    (tmp_path / "edited.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_clean_list(tmp_path / "edited.csv") == (CleanRow("drop", "train", "ö.png"),)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("decision,split,name\ndrop,train,a\nremove,train,b\n", "Line 3 .* has the decision 'remove'"),
        ("decision,split,name\nrelabel,train,a\n", "Line 2 .* has no label in the column 'suggested'"),
        ("decision,split,name\ndrop,train,a\nkeep,train,a\n", "has a more than once"),
        ("decision,split\ndrop,train\n", "has no column 'name'"),
    ],
)
def test_a_mistake_in_a_list_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "clean.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=sentence):
        read_clean_list(tmp_path / "clean.csv")


def test_a_missing_list_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read .* write one with danqing data clean"):
        read_clean_list(tmp_path / "clean.csv")
