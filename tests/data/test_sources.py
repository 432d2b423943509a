"""Every kind of source is read in full, with its labels, captions and splits."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from danqing.data import Dataset, cache, open_dataset
from danqing.data.folder import Folder
from danqing.data.idx import IdxSource
from danqing.data.manifest import read_manifest
from danqing.data.records import About, ImageSpec, file_key
from danqing.data.tar_shards import titles
from danqing.errors import ConfigError, DataError

from .pictures import picture, png, write


def labelled(dataset: Dataset) -> dict[bytes, str]:
    """Each picture's bytes with the name of its label."""
    labels = dataset.labels
    assert labels is not None
    images = dataset.images(range(len(dataset))).numpy()
    return {
        image.tobytes(): dataset.label_names[label] if label >= 0 else ""
        for image, label in zip(images, labels, strict=True)
    }


def expected(names: list[str]) -> dict[bytes, str]:
    return {picture(number).tobytes(): name for number, name in enumerate(names)}


CLASSES = ["cat 2/a.png", "cat 10/deep/b.png", "cat 2/c.png", "loose.png"]
LABELS = ["cat 2", "cat 10", "cat 2", ""]


def test_class_folders_become_labels_in_natural_order(tmp_path: Path) -> None:
    write(tmp_path, CLASSES)
    (tmp_path / ".hidden.png").write_bytes(b"not seen")
    (tmp_path / "notes.txt").write_text("no picture")
    dataset = open_dataset(tmp_path)
    assert dataset.label_names == ("cat 2", "cat 10")
    assert labelled(dataset) == expected(LABELS)
    assert dataset.label_frequencies == pytest.approx((2 / 3, 1 / 3))
    assert (dataset.size, dataset.channels, dataset.has_texts) == ((8, 8), 3, False)
    assert dataset.info.report.notes[0] == "1 file is not an image by its ending and was left out."
    assert "There are only 4 images" in dataset.info.report.notes[1]


def zipped(folder: Path, path: Path, prefix: str = "", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


@pytest.mark.parametrize("prefix", ["", "wrapper/inner/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_is_read_like_its_folder(tmp_path: Path, prefix: str, method: int) -> None:
    folder = write(tmp_path / "pictures", CLASSES)
    dataset = open_dataset(zipped(folder, tmp_path / "pictures.zip", prefix, method))
    assert labelled(dataset) == expected(LABELS)
    assert dataset.info.name == "pictures"


def test_paths_that_lead_out_of_a_zip_lead_nowhere(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../outside/a.png", png(0))
        archive.writestr("/root/b.png", png(1))
        archive.writestr("c.png", png(2))
    assert len(open_dataset(tmp_path / "a.zip")) >= 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip"]


def test_a_member_of_a_zip_without_a_name_is_counted_and_ignored(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", png(0))
        archive.writestr("x", b"")
        archive.filelist[1].filename = archive.filelist[1].orig_filename = ""
    dataset = open_dataset(tmp_path / "a.zip")
    assert len(dataset) == 1


@pytest.mark.parametrize("damage", [b"PK\5\6" + b"\xff" * 18, b"PK\1\2" * 12 + b"PK\5\6" + bytes(18), b""])
def test_a_zip_with_a_damaged_directory_is_a_data_error(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(damage)
    with pytest.raises(
        DataError, match=r"not a zip archive .*: get a complete copy|cannot be read as a zip|holds no files"
    ):
        open_dataset(tmp_path / "a.zip")


def test_a_damaged_member_of_a_zip_is_skipped_and_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "pictures", [f"{number:02d}.png" for number in range(30)])
    path = zipped(folder, tmp_path / "a.zip", method=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(png(3)) + 60] ^= 255
    path.write_bytes(content)
    report = open_dataset(path).info.report
    assert (report.images, report.skipped, report.skipped_files[0].name) == (29, 1, "03.png")
    assert "damaged" in report.skipped_files[0].reason


def test_a_member_that_the_metadata_of_a_zip_names_in_vain_is_skipped(tmp_path: Path) -> None:
    files = [f"{number:02d}.png" for number in range(40)]
    folder = write(tmp_path / "pictures", [*files, ".hidden.png"])
    rows = [
        {"file_name": name, "label": "ab"[n % 2]} for n, name in enumerate([*files, ".hidden.png", "41.png"])
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = open_dataset(zipped(folder, tmp_path / "a.zip")).info.report
    assert (report.images, report.skipped) == (40, 2)
    assert {file.reason for file in report.skipped_files} == {
        "It is listed in metadata.jsonl, but there is no such file."
    }


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_metadata_gives_labels_and_captions(tmp_path: Path, kind: str) -> None:
    write(tmp_path, ["images/0.png", "images/1.png", "images/2.png", "images/unlisted.png"])
    rows = [
        {"file_name": "images/0.png", "text": "a “red” cat, 红猫", "label": "cat"},
        {"file_name": "images/1.png", "text": "", "label": "dog"},
        {"file_name": "images/2.png", "text": "third", "label": ""},
        {"file_name": "../outside.png", "text": "", "label": "cat"},
    ]
    if kind == "jsonl":
        lines = [json.dumps(row) for row in rows]
    else:
        lines = ["file_name,text,label", *('{file_name},"{text}",{label}'.format(**row) for row in rows)]
    (tmp_path / f"metadata.{kind}").write_text("\n".join(lines), encoding="utf-8")
    dataset = open_dataset(tmp_path)
    assert labelled(dataset) == expected(["cat", "dog", ""])
    assert dataset.texts([2, 0, 1]) == ("third", "a “red” cat, 红猫", "")
    assert dataset.has_texts
    report = dataset.info.report
    assert report.left_out == {
        f"not listed in metadata.{kind}": 1,
        f"listed in metadata.{kind} by a path that leads out of the data": 1,
    }
    assert report.found == 5


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("{", "not JSON"), ("[]", "not a JSON object"), ('{"text": "a"}', "call it 'file_name'")],
)
def test_broken_metadata_is_named_by_its_line(tmp_path: Path, content: str, sentence: str) -> None:
    write(tmp_path, ["0.png"])
    (tmp_path / "metadata.jsonl").write_text(content)
    with pytest.raises(DataError, match=sentence):
        open_dataset(tmp_path)


def test_a_caption_too_long_for_csv_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path, ["0.png"])
    (tmp_path / "metadata.csv").write_text(f"file_name,text\n0.png,{'a' * 140_000}\n")
    with pytest.raises(DataError, match=r"metadata.csv, line 2, cannot be read as CSV"):
        open_dataset(tmp_path)


def test_a_source_that_cannot_be_read_is_named_and_not_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "folder", ["a.png", "metadata.jsonl"])
    tar_of(tmp_path / "a.tar", [("a.png", png(0))])
    refuse = Mock(side_effect=PermissionError(13, "Permission denied"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refuse)
        with pytest.raises(DataError, match=r"a\.tar cannot be read \(Permission denied\)"):
            file_key(tmp_path / "a.tar")
        with pytest.raises(DataError, match=r"a\.tar cannot be read \(Permission denied\)"):
            open_dataset(tmp_path / "a.tar")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(DataError, match=r"metadata\.jsonl cannot be read"):
            open_dataset(tmp_path / "folder")
    entry = Mock(path="gone.png", stat=refuse)
    monkeypatch.setattr(Folder, "_walk", lambda *_: iter([("gone.png", entry)]))
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        open_dataset(tmp_path / "folder")


def test_split_folders_are_splits_and_not_labels(tmp_path: Path) -> None:
    write(tmp_path, ["train/a/0.png", "train/b/1.png", "test/a/2.png"])
    assert labelled(open_dataset(tmp_path)) == expected(["a", "b"])
    assert len(open_dataset(tmp_path, split="test")) == 1
    assert len(open_dataset(tmp_path, split="all")) == 3
    with pytest.raises(DataError, match="it has test and train"):
        open_dataset(tmp_path, split="validation")
    with pytest.raises(DataError, match="choose train, test, validation or all"):
        open_dataset(tmp_path, split="tset")


def test_data_without_splits_is_all_for_training(tmp_path: Path) -> None:
    write(tmp_path, ["0.png", "1.png"])
    assert len(open_dataset(tmp_path)) == len(open_dataset(tmp_path, split="all")) == 2
    with pytest.raises(DataError, match="no test split"):
        open_dataset(tmp_path, split="test")


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("compressed", [False, True])
def test_idx_files_with_labels_beside_them(tmp_path: Path, compressed: bool) -> None:
    images = np.stack([picture(number, channels=1)[:, :, 0] for number in range(12)])
    labels = np.arange(12, dtype=np.uint8)
    write_idx = gzip.compress if compressed else bytes
    ending = ".gz" if compressed else ""
    for prefix, count in (("train", 12), ("t10k", 5)):
        (tmp_path / f"{prefix}-images-idx3-ubyte{ending}").write_bytes(write_idx(idx(images[:count])))
        (tmp_path / f"{prefix}-labels-idx1-ubyte{ending}").write_bytes(write_idx(idx(labels[:count])))
    for source in (tmp_path, tmp_path / f"train-images-idx3-ubyte{ending}"):
        dataset = open_dataset(source)
        assert dataset.label_names == tuple(map(str, range(12)))
        assert dataset.channels == 1
        assert np.array_equal(dataset.images(range(12)).numpy()[:, :, :, 0], images)
        assert dataset.labels is not None
        assert dataset.labels.tolist() == list(range(12))
    assert len(open_dataset(tmp_path, split="test")) == 5


def test_labels_without_a_name_follow_those_that_have_one(tmp_path: Path) -> None:
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    images.write_bytes(idx(np.stack([picture(number, channels=1)[:, :, 0] for number in range(4)])))
    labels.write_bytes(idx(np.array([12, 1, 0, 9], np.uint8)))
    folder = cache.ensure(IdxSource(images, labels, About("a"), ("z", "a")), ImageSpec())
    assert read_manifest(folder).label_names == ("z", "a", "9", "12")


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 8, 8, 5), (2, 0, 8)])
def test_idx_files_of_another_layout_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros(shape, np.uint8)))
    with pytest.raises(DataError, match="store images as"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("cut", [2, 10, -1])
def test_idx_files_cut_short_are_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(idx(np.zeros((3, 4, 4), np.uint8))[:cut])
    with pytest.raises(DataError, match="download it again"):
        open_dataset(tmp_path)


def tar_of(path: Path, files: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_webdataset_shards(tmp_path: Path, ending: str) -> None:
    tar_of(
        tmp_path / f"train-000{ending}",
        [
            ("a/0.png", png(0)),
            ("a/0.cls", b"7"),
            ("a/0.txt", "你好\nhello\n".encode()),
            ("a/1.json", json.dumps({"label": "9", "caption": ["second", "第二"]}).encode()),
            ("a/1.png", png(1)),
            ("a/only.txt", b"no picture"),
        ],
    )
    tar_of(tmp_path / f"train-001{ending}", [("2.png", png(2)), ("2.cls", b"7")])
    dataset = open_dataset(tmp_path)
    assert labelled(dataset) == expected(["7", "9", "7"])
    assert dataset.texts([0, 1, 2]) == ("你好\nhello", "second\n第二", "")


def test_a_tar_cut_short_is_refused_or_noted(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", [(f"{number}.png", png(number)) for number in range(3)])
    assert not any("end mark" in note for note in open_dataset(path).info.report.notes)
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    content = path.read_bytes()
    path.write_bytes(content[: last.offset_data + 20])
    with pytest.raises(DataError, match="is damaged"):
        open_dataset(path)
    path.write_bytes(content[: last.offset])
    report = open_dataset(path).info.report
    assert report.images == 2
    assert "a.tar has no end mark: it may be truncated." in report.notes


@pytest.mark.parametrize("structured", [True, False])
def test_parquet_with_the_hubs_class_names(tmp_path: Path, structured: bool) -> None:
    contents = [png(number) for number in range(3)]
    images = [{"bytes": content, "path": None} for content in contents] if structured else contents
    table = pa.table({"image": images, "label": [0, 1, 0], "text": [["a", "b"], None, ["c"]]})
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        described = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        pq.write_table(described, tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    dataset = open_dataset(tmp_path)
    assert labelled(dataset) == expected(["cat", "dog", "cat"])
    assert dataset.texts(range(3)) == ("a\nb", "", "c")
    assert len(open_dataset(tmp_path / "data" / "test-00000-of-00001.parquet")) == 3


def test_shards_with_equal_names_are_told_apart_by_as_many_folders_as_it_takes() -> None:
    def named(*shards: str) -> list[str]:
        return titles([Path(shard) for shard in shards])

    assert named("/d/a.tar", "/d/b.tar") == ["a.tar", "b.tar"]
    assert named("/d/x/a.tar", "/d/y/a.tar", "/d/b.tar") == ["x_a.tar", "y_a.tar", "b.tar"]
    assert named("/d/data/a.tar", "/d/data/data/a.tar") == ["d_data_a.tar", "data_data_a.tar"]
    assert len(set(named("/d/x/a.tar", "/d/y/a.tar", "/d/x_a.tar", "/e/x_a.tar"))) == 4


def test_shards_without_a_training_name_never_teach_the_test(tmp_path: Path) -> None:
    for number, name in enumerate(("a-0", "b-0", "test-0")):
        rows = [{"bytes": png(number), "path": None}]
        pq.write_table(pa.table({"image": rows}), tmp_path / f"{name}.parquet")
    learnt, judged = open_dataset(tmp_path), open_dataset(tmp_path, split="test")
    assert (len(learnt), len(judged)) == (2, 1)
    assert not (learnt.images([0, 1]) == judged.images([0])).flatten(1).all(1).any()


def test_a_damaged_column_of_splits_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = pa.table({"image": [{"bytes": png(0)}] * 4, "split": ["elsewhere"] * 4})
    pq.write_table(rows, path, compression="none", write_statistics=False)
    content = path.read_bytes()
    place = content.index(b"elsewhere")
    path.write_bytes(content[: place - 20] + b"\xff" * 20 + content[place:])
    with pytest.raises(DataError, match="cannot be read as a Parquet file"):
        open_dataset(path)


def test_a_damaged_row_group_of_a_parquet_shard_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"image": [png(n) for n in range(100)], "label": [f"{n % 2}" for n in range(100)]})
    pq.write_table(table, path, row_group_size=5, use_dictionary=False)

    def damage(group: int) -> None:
        content = bytearray(path.read_bytes())
        start = pq.ParquetFile(path).metadata.row_group(group).column(0).data_page_offset
        content[start : start + 64] = b"\xff" * 64
        path.write_bytes(content)

    damage(3)
    dataset = open_dataset(path)
    report = dataset.info.report
    assert (report.records, report.images, report.skipped) == (100, 95, 5)
    assert [file.name for file in report.skipped_files] == [f"a.parquet#{n}" for n in range(15, 20)]
    assert "damaged here" in report.skipped_files[0].reason
    assert labelled(dataset).items() <= expected([f"{n % 2}" for n in range(100)]).items()
    damage(7)
    with pytest.raises(DataError, match="10 of 100 images cannot be read"):
        open_dataset(path)


def test_without_pyarrow_the_sentence_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"pip install 'danqing\[parquet\]'"):
        open_dataset(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.parquet", "a.bin", "train-images-idx3-ubyte"])
def test_files_that_are_something_else_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"something else entirely" * 40)
    with pytest.raises(DataError):
        open_dataset(tmp_path / name)


def test_nothing_to_read_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no data at nowhere"):
        open_dataset("nowhere")
    with pytest.raises(DataError, match="holds no files"):
        open_dataset(tmp_path)
    (tmp_path / "a.svg").write_text("<svg/>")
    with pytest.raises(DataError, match="convert them to PNG"):
        open_dataset(tmp_path)
    with pytest.raises(ConfigError, match="size"):
        open_dataset(tmp_path, size=(0, 4))
    with pytest.raises(ConfigError, match="fit"):
        open_dataset(tmp_path, fit="squeeze")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shapes", "size", "channels"),
    [
        ([(20, 12, 3)] * 3, (20, 12), 3),
        ([(512, 256, 3)] * 2, (128, 64), 3),
        ([(30, 20, 1), (34, 20, 1), (50, 20, 1)], (32, 24), 1),
        ([(9, 9, 1), (9, 9, 3)], (9, 9), 3),
        ([(9, 9, 1), (9, 9, 4)], (9, 9), 3),
    ],
)
def test_size_and_channels_are_chosen_from_the_pictures(
    tmp_path: Path, shapes: list[tuple[int, int, int]], size: tuple[int, int], channels: int
) -> None:
    for number, (width, height, depth) in enumerate(shapes):
        content = png(number, width=width, height=height, channels=depth)
        (tmp_path / f"{number}.png").write_bytes(content)
    dataset = open_dataset(tmp_path)
    assert (dataset.size, dataset.channels) == (size, channels)


def test_alpha_is_kept_by_choice_and_dropped_where_all_is_opaque(tmp_path: Path) -> None:
    write(tmp_path / "clear", ["0.png"], channels=4)
    opaque = np.dstack([picture(0), np.full((8, 8), 255, np.uint8)])
    (tmp_path / "opaque").mkdir()
    from danqing.images import encode

    (tmp_path / "opaque" / "0.png").write_bytes(encode(opaque))
    assert open_dataset(tmp_path / "clear", alpha="keep").channels == 4
    assert open_dataset(tmp_path / "clear").channels == 3
    assert open_dataset(tmp_path / "opaque", alpha="keep").channels == 3


@pytest.mark.parametrize("size", [32, "32x32", (8.0, 8), (8,), (8, 8, 3)])
def test_a_size_that_is_no_pair_is_an_error(tmp_path: Path, size: object) -> None:
    with pytest.raises(ConfigError, match=r"A size is \(width, height\) in pixels, such as \(32, 32\), not"):
        open_dataset(tmp_path, size=size)  # type: ignore[arg-type]
