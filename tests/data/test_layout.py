"""Data as people have it: every image, label and caption is used or accounted for."""

import gzip
import io
import json
import os
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from danqing.data import DataReport, Dataset, open_dataset
from danqing.errors import DataError, MissingSplitError

from .pictures import png, write
from .test_sources import tar_of


def add_up(report: DataReport) -> bool:
    """Whether found, used, skipped and left out agree."""
    return (
        report.found == report.images + report.skipped + sum(report.left_out.values())
        and report.records == report.images + report.skipped
        and report.skipped == sum(report.reasons.values())
    )


def counts(dataset: Dataset) -> dict[str, int]:
    """The number of images of each label, "" for none."""
    labels = dataset.labels
    if labels is None:
        return {"": len(dataset)}
    found = [dataset.label_names[label] if label >= 0 else "" for label in labels]
    return {name: found.count(name) for name in sorted(set(found))}


def files_of(folder: Path) -> list[tuple[str, bytes]]:
    return [
        (p.relative_to(folder).as_posix(), p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()
    ]


HOLDERS = ["folder", "zip", "tar", "tar.gz"]


def held(kind: str, files: list[tuple[str, bytes]], place: Path) -> Path:
    """Files in a folder or an archive."""
    if kind == "folder":
        for name, content in files:
            path = place / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return place / "data"
    path = place / f"data.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files:
                archive.writestr(name, content)
        return path
    return tar_of(path, files)


# Splits


@pytest.mark.parametrize("kind", HOLDERS)
def test_a_class_called_train_among_other_classes_is_a_class(kind: str, tmp_path: Path) -> None:
    files = [(f"{c}/{n}.png", png(7 * n)) for c in ("bus", "car", "train", "boat") for n in range(6)]
    dataset = open_dataset(held(kind, files, tmp_path))
    assert counts(dataset) == {"boat": 6, "bus": 6, "car": 6, "train": 6}
    assert add_up(dataset.info.report)


def test_images_of_other_splits_and_beside_them_are_accounted_for(tmp_path: Path) -> None:
    names = ["Train/a/0.png", "Train/b/1.png", "val/a/2.png", "test/b/3.png", "loose.png"]
    report = open_dataset(write(tmp_path, names)).info.report
    assert report.left_out == {
        "in the validation split": 1,
        "in the test split": 1,
        "outside the folders of the splits": 1,
    }
    assert add_up(report)
    assert report.understood["Split"] == "train, by folders (train 2, no split 1, test 1, validation 1)"
    assert open_dataset(tmp_path, split="all").info.report.found == 5


def test_splits_without_training_images_are_not_taken_for_classes(tmp_path: Path) -> None:
    write(tmp_path, ["test/0.png", "val/1.png"])
    with pytest.raises(MissingSplitError, match=r"it has test and validation; put the training images into"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, split="test")) == 1


@pytest.mark.parametrize("kind", ["csv", "parquet", "images.parquet"])
def test_a_column_of_splits_divides_tables_of_every_kind(kind: str, tmp_path: Path) -> None:
    splits = ["train", "Train", None, "test", "dev", "holdout"]
    if kind == "images.parquet":
        table = pa.table({"image": [png(n) for n in range(6)], " Split ": splits})
        pq.write_table(table, tmp_path / "a.parquet")
    else:
        write(tmp_path, [f"{n}.png" for n in range(6)])
        if kind == "csv":
            rows = "".join(f"{n}.png,{split or ''}\n" for n, split in enumerate(splits))
            (tmp_path / "metadata.csv").write_text(f"file_name,split\n{rows}")
        else:
            names = [f"{n}.png" for n in range(6)]
            pq.write_table(pa.table({"file_name": names, "split": splits}), tmp_path / "metadata.parquet")
    report = open_dataset(tmp_path).info.report
    assert report.images == 3
    assert report.left_out == {
        "in the test split": 1,
        "in the validation split": 1,
        "in the holdout split": 1,
    }
    assert add_up(report)
    assert len(open_dataset(tmp_path, split="validation")) == 1


def test_what_the_table_of_another_split_names_in_vain_is_not_held_against_this_one(tmp_path: Path) -> None:
    write(tmp_path, ["train/a/0.png", "train/b/1.png", "test/a/2.png"])
    (tmp_path / "test" / "metadata.csv").write_text("file_name,label\na/2.png,a\na/gone.png,b\n")
    report = open_dataset(tmp_path).info.report
    assert (report.images, report.skipped) == (2, 0)
    assert report.left_out == {"in the test split": 2}
    assert add_up(report)


# Names of samples


@pytest.mark.parametrize("kind", HOLDERS)
def test_dots_in_names_do_not_merge_images(kind: str, tmp_path: Path) -> None:
    files = [(f"2023-07-14 12.30.{n:02d}.png", png(n)) for n in range(60)]
    files += [(f"2023-07-14 12.30.{n:02d}.txt", f"caption {n}".encode()) for n in range(60)]
    dataset = open_dataset(held(kind, files, tmp_path))
    assert len(dataset) == 60
    assert dataset.texts(range(60)) == tuple(f"caption {n}" for n in range(60))


@pytest.mark.parametrize("kind", HOLDERS)
def test_all_images_then_all_their_texts_belong_together(kind: str, tmp_path: Path) -> None:
    files = [(f"b/{n}.PNG", png(n)) for n in range(5)] + [(f"a/{n}.jpg.png", png(9 - n)) for n in range(2)]
    files += [(f"b/{n}.txt", f"text {n}".encode()) for n in range(5)] + [("a/0.TXT", b"first")]
    dataset = open_dataset(held(kind, files, tmp_path))
    texts = dataset.texts(range(7))
    assert texts is not None
    assert sorted(texts) == ["", "first", "text 0", "text 1", "text 2", "text 3", "text 4"]
    assert counts(dataset) == {"a": 2, "b": 5}


@pytest.mark.parametrize("kind", HOLDERS)
def test_a_second_image_with_the_same_stem_is_an_image_of_its_own(kind: str, tmp_path: Path) -> None:
    files = [("a.left.png", png(0)), ("a.right.png", png(1)), ("a.txt", b"both"), ("b.png", png(2))]
    files += [("b.bmp.png", png(3)), ("b.cls", b"7"), ("a.cls", b"8")]
    dataset = open_dataset(held(kind, files, tmp_path))
    assert counts(dataset) == {"7": 2, "8": 2}
    assert dataset.texts(range(4)) == ("both", "both", "", "")


def test_shards_share_one_idea_of_classes(tmp_path: Path) -> None:
    tar_of(tmp_path / "a-000.tar", [("cat/1.png", png(0)), ("cat/2.png", png(1))])
    tar_of(tmp_path / "a-001.tar", [("dog/1.png", png(2))])
    dataset = open_dataset(tmp_path)
    assert counts(dataset) == {"cat": 2, "dog": 1}


# What lies beside the images


@pytest.mark.parametrize("other", ["old-backup.tar.gz", "old.tar", "prices.parquet", "prices.csv", "old.zip"])
def test_an_archive_or_table_beside_images_is_not_the_data(other: str, tmp_path: Path) -> None:
    write(tmp_path, [f"{n:03d}.png" for n in range(12)])
    (tmp_path / other).write_bytes(b"anything")
    report = open_dataset(tmp_path).info.report
    assert report.images == report.found == 12
    assert f"1 {Path(other).suffix}" in report.understood["Not read"]
    assert (f"If {other} describes these images" in " ".join(report.notes)) is (
        Path(other).suffix != ".gz" and Path(other).suffix in (".parquet", ".csv")
    )


def test_shards_beside_a_picture_of_the_hub_are_the_data(tmp_path: Path) -> None:
    for number in range(2):
        rows = [{"bytes": png(10 * number + n), "path": None} for n in range(3)]
        pq.write_table(pa.table({"image": rows}), tmp_path / f"train-0000{number}-of-00002.parquet")
    (tmp_path / "banner.png").write_bytes(png(99))
    (tmp_path / "._train-00000-of-00002.parquet").write_bytes(b"shadow")
    assert len(open_dataset(tmp_path)) == 6


def test_broken_links_loops_and_odd_names_are_counted(tmp_path: Path) -> None:
    write(tmp_path, ["a/0.png", "a/1.png", "b/2.png"])
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    odd = os.fsencode(tmp_path / "b") + b"/\xff\xfe.png"
    with open(odd, "wb") as file:
        file.write(png(3))
    report = open_dataset(tmp_path).info.report
    assert report.images == 4
    not_read = report.understood["Not read"]
    assert "2 broken links" in not_read
    assert "1 links that lead back to a folder above" in not_read
    assert any("decode" in note for note in report.notes)


LEFT_BEHIND = [
    *("@eaDir/0.png/SYNOPHOTO_THUMB_XL.jpg", "#recycle/old.png", "$RECYCLE.BIN/x.png", ".Trash-1000/y.png"),
    *("__MACOSX/._0.png", "a/._0.png", "a/.hidden.png", "Thumbs.db", "a/.DS_Store", "desktop.ini"),
    *("a/0.png~", "~$notes.png", "System Volume Information/z.png", ".ipynb_checkpoints/0-checkpoint.png"),
    *("lost+found/q.png", "@Recycle/r.png", "a/#0.png#", "._metadata.csv", ".metadata.csv.swp"),
]


@pytest.mark.parametrize("kind", HOLDERS)
def test_what_machines_leave_behind_is_ignored_by_every_reader(kind: str, tmp_path: Path) -> None:
    files = [("a/0.png", png(0)), ("b/1.png", png(1)), *((name, png(2)) for name in LEFT_BEHIND)]
    report = (dataset := open_dataset(held(kind, files, tmp_path))).info.report
    assert counts(dataset) == {"a": 1, "b": 1}
    assert report.found == 2
    assert "systems and programs leave behind" in report.understood["Not read"]


def test_numbers_in_text_files_are_boxes_not_captions(tmp_path: Path) -> None:
    write(tmp_path, [f"{n}.png" for n in range(6)])
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text("0 0.51 0.4 0.2 0.2\n3 0.1 0.2 0.3 0.4\n")
    dataset = open_dataset(tmp_path)
    assert not dataset.has_texts
    assert "hold numbers alone" in dataset.info.report.understood["Captions"]


# Names as people read them

GBK = ["方块/红色.png", "方块/蓝色.png", "圆形/红色.png", "圆形/绿色.png"]


def raw_zip(path: Path, names: list[tuple[bytes, int, bytes]]) -> Path:
    """A zip of pngs with the given raw names, flags and extra fields, as other programs write them."""
    body, directory = b"", b""
    for number, (name, flags, extra) in enumerate(names):
        content = png(number)
        fields = struct.pack(
            "<HHHHHLLLHH",
            20,
            flags,
            0,
            0,
            0x21,
            zlib.crc32(content),
            len(content),
            len(content),
            len(name),
            len(extra),
        )
        directory += (
            b"PK\1\2"
            + struct.pack("<H", 20)
            + fields
            + struct.pack("<HHHLL", 0, 0, 0, 0, len(body))
            + name
            + extra
        )
        body += b"PK\3\4" + fields + name + extra + content
    end = struct.pack("<HHHHLLH", 0, 0, len(names), len(names), len(directory), len(body), 0)
    path.write_bytes(body + directory + b"PK\5\6" + end)
    return path


def test_zip_names_in_gbk_are_read_as_chinese(tmp_path: Path) -> None:
    path = raw_zip(tmp_path / "a.zip", [(name.encode("gbk"), 0, b"") for name in GBK])
    dataset = open_dataset(path)
    assert counts(dataset) == {"圆形": 2, "方块": 2}
    assert "File names were decoded as gb18030, not UTF-8." in dataset.info.report.notes


@pytest.mark.parametrize(
    ("encoding", "folders"),
    [("cp437", ("Übung", "Äpfel")), ("cp932", ("写真です", "犬たち")), ("utf-8", ("café", "naïve"))],
)
def test_zip_names_fit_the_encoding_of_their_bytes(
    encoding: str, folders: tuple[str, str], tmp_path: Path
) -> None:
    names = [(f"{folder}/{n}.png".encode(encoding), 0, b"") for folder in folders for n in range(3)]
    assert counts(open_dataset(raw_zip(tmp_path / "a.zip", names))) == dict.fromkeys(sorted(folders), 3)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_one_foreign_name_does_not_change_the_others(kind: str, tmp_path: Path) -> None:
    names = [f"{label}/{n}.png".encode() for label in ("猫", "狗") for n in range(2)]
    names += [
        "猫/红色".encode("gbk") + b".png",
        "猫/".encode() + "蓝色的方块".encode("gbk") + b".png",
        b"\xff\xfe.png",
    ]
    if kind == "zip":
        raw_zip(tmp_path / "a.zip", [(name, 0, b"") for name in names])
    for number, name in enumerate(names if kind == "folder" else ()):
        path = os.fsencode(tmp_path) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(png(number))
    dataset = open_dataset(tmp_path if kind == "folder" else tmp_path / "a.zip")
    assert {"猫", "狗"} <= set(dataset.label_names)
    assert counts(dataset)["狗"] == 2
    assert len(dataset) == len(names)


def test_the_unicode_field_of_a_zip_comes_before_a_guess(tmp_path: Path) -> None:
    def unicode_path(raw: bytes, text: str) -> bytes:
        content = b"\1" + struct.pack("<L", zlib.crc32(raw)) + text.encode()
        return struct.pack("<HH", 0x7075, len(content)) + content

    names = [
        (b"?%d/%d.png" % (n % 2, n), 0, unicode_path(b"?%d/%d.png" % (n % 2, n), f"类{n % 2}/{n}.png"))
        for n in range(4)
    ]
    names.append(("类0/utf8.png".encode(), 0x800, b""))
    assert counts(open_dataset(raw_zip(tmp_path / "a.zip", names))) == {"类0": 3, "类1": 2}


@pytest.mark.parametrize("kind", HOLDERS)
def test_decomposed_accents_are_the_same_names(kind: str, tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "café/é.png")
    rows = [{"file_name": "café/é.png", "text": "one"}, {"file_name": "b\\1.PNG", "text": "two"}]
    table = "\n".join(map(json.dumps, rows)).encode()
    files = [(decomposed, png(0)), ("b/1.png", png(1)), ("metadata.jsonl", table)]
    dataset = open_dataset(held(kind, files, tmp_path))
    assert sorted(dataset.texts([0, 1]) or ()) == ["one", "two"]
    assert dataset.label_names == ("b", "café")
    assert len(dataset.subset([unicodedata.normalize("NFD", "Café")])) == 1


def test_paths_of_another_computer_are_matched_by_their_file_name(tmp_path: Path) -> None:
    write(tmp_path, ["images/0.png", "images/1.png"])
    (tmp_path / "metadata.csv").write_text(
        "path,label\nC:\\Users\\me\\images\\0.png,a\n/home/me/images/1.png,b\n"
    )
    dataset = open_dataset(tmp_path)
    assert counts(dataset) == {"a": 1, "b": 1}
    assert "2 paths of the tables were matched by the file name alone." in dataset.info.report.notes


def test_numbers_as_folders_keep_their_meaning(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path, [f"{angle}/{n}.png" for angle in (0, 90, 180) for n in range(2)]))
    assert dataset.label_names == ("0", "90", "180")
    assert len(dataset.subset(["90"])) == 2


# Missing values and the meaning of columns


def missing_rows() -> list[dict[str, object]]:
    return [
        {"file_name": "0.png", "label": "cat", "text": "a cat"},
        {"file_name": "1.png", "label": float("nan"), "text": float("nan")},
        {"file_name": "2.png", "label": None, "text": None},
        {"file_name": "3.png", "label": "nan", "text": "NaN"},
        {"file_name": "4.png", "label": " ", "text": ""},
        {"file_name": "5.png", "label": "dog", "text": "a dog"},
    ]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "images.parquet", "tar", "json"])
def test_missing_values_stay_missing(kind: str, tmp_path: Path) -> None:
    rows = missing_rows()
    if kind == "tar":
        files = [(str(row["file_name"]), png(n)) for n, row in enumerate(rows)]
        files += [(f"{n}.json", json.dumps(row).encode()) for n, row in enumerate(rows)]
        tar_of(tmp_path / "a.tar", files)
    elif kind == "images.parquet":
        columns = {"image": [png(n) for n in range(6)]}
        for name in ("label", "text"):
            columns[name] = [None if isinstance(row[name], float) else row[name] for row in rows]
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    else:
        write(tmp_path, [f"{n}.png" for n in range(6)])
        if kind == "jsonl":
            (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        elif kind == "json":
            (tmp_path / "metadata.json").write_text(json.dumps(rows))
        elif kind == "csv":
            lines = [f"{r['file_name']},{r['label']},{r['text']}".replace("None", "") for r in rows]
            (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label,text", *lines]))
        else:
            names = [row["file_name"] for row in rows]
            labels = ["cat", None, None, "nan", " ", "dog"]
            texts = ["a cat", None, None, "NaN", "", "a dog"]
            table = pa.table({"file_name": names, "label": labels, "text": texts})
            pq.write_table(table, tmp_path / "metadata.parquet")
    dataset = open_dataset(tmp_path)
    assert counts(dataset) == {"": 4, "cat": 1, "dog": 1}
    assert dataset.texts(range(6)) == ("a cat", "", "", "", "", "a dog")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "images.parquet"])
def test_whole_numbers_that_became_floats_are_whole(kind: str, tmp_path: Path) -> None:
    values = [0.0, 2.0, 10.0, float("nan"), 2.0]
    if kind == "images.parquet":
        pq.write_table(
            pa.table({"image": [png(n) for n in range(5)], "label": values}), tmp_path / "a.parquet"
        )
    else:
        names = [f"{n}.png" for n in range(5)]
        write(tmp_path, names)
        rows = list(zip(names, values, strict=True))
        if kind == "csv":
            (tmp_path / "metadata.csv").write_text(
                "".join(["file_name,label\n", *(f"{n},{v}\n" for n, v in rows)])
            )
        elif kind == "jsonl":
            lines = [json.dumps({"file_name": n, "label": v}) for n, v in rows]
            (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
        else:
            pq.write_table(pa.table({"file_name": names, "label": values}), tmp_path / "metadata.parquet")
    assert counts(open_dataset(tmp_path)) == {"": 1, "0": 1, "2": 2, "10": 1}


def test_numbers_that_are_not_all_whole_are_left_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, ["0.png", "1.png"])
    (tmp_path / "metadata.csv").write_text("file_name,label\n0.png,2.0\n1.png,2.5\n")
    assert open_dataset(tmp_path).label_names == ("2.0", "2.5")


HEADERS = ["text", " Caption ", "captions", "PROMPT", "description", "\ufefftext"]


@pytest.mark.parametrize("header", HEADERS)
def test_headers_are_read_generously(header: str, tmp_path: Path) -> None:
    write(tmp_path, ["0.png", "1.png"])
    (tmp_path / "metadata.csv").write_text(
        f"\ufeff File Name ;{header}; Class \n0.png;one, two;a\n1.png;three;b\n", encoding="utf-8"
    )
    dataset = open_dataset(tmp_path)
    assert dataset.texts([0, 1]) == ("one, two", "three")
    assert counts(dataset) == {"a": 1, "b": 1}
    assert (
        f"'{header.strip(' ' + chr(0xFEFF))}' of metadata.csv" in dataset.info.report.understood["Captions"]
    )


def test_a_table_in_utf_16_is_read(tmp_path: Path) -> None:
    write(tmp_path, ["0.png", "1.png"])
    (tmp_path / "metadata.tsv").write_text("file_name\ttext\n0.png\t红\n1.png\tblue\n", encoding="utf-16")
    assert open_dataset(tmp_path).texts([0, 1]) == ("红", "blue")


def test_rows_without_values_are_no_rows(tmp_path: Path) -> None:
    write(tmp_path, ["0.png", "1.png"])
    (tmp_path / "metadata.csv").write_text("file_name,text\n0.png,one\n,\n,,,\n\n1.png,two\n,,\n")
    assert open_dataset(tmp_path).texts([0, 1]) == ("one", "two")


def test_a_quote_that_nothing_closes_is_named_by_its_line(tmp_path: Path) -> None:
    write(tmp_path, ["0.png", "1.png"])
    (tmp_path / "metadata.csv").write_text('file_name,text\n0.png,"a\nb 5"\n1.png,"two\n2.png,three\n')
    with pytest.raises(DataError, match="line 4, opens a quote that nothing closes"):
        open_dataset(tmp_path)
    (tmp_path / "metadata.csv").write_text('file_name,text\n0.png,5" tall\n1.png,"a\n""b"""\n')
    assert open_dataset(tmp_path).texts([0, 1]) == ('5" tall', 'a\n"b"')


@pytest.mark.parametrize("kind", HOLDERS)
def test_tables_of_ids_name_images_without_their_suffix(kind: str, tmp_path: Path) -> None:
    files = [("photos/1.png", png(0)), ("photos/2.PNG", png(1)), ("photos/2.5.png", png(2))]
    files.append(("photos/metadata.csv", b"image,label\n1,cat\n2,dog\n2.5,owl\n"))
    assert counts(open_dataset(held(kind, files, tmp_path))) == {"cat": 1, "dog": 1, "owl": 1}


@pytest.mark.parametrize("kind", HOLDERS)
def test_texts_may_be_named_after_the_whole_name_of_an_image(kind: str, tmp_path: Path) -> None:
    files = [
        ("a.png", png(0)),
        ("a.png.txt", b"first"),
        ("b.jpg.png", png(1)),
        ("b.jpg.png.json", b'{"text": "x"}'),
    ]
    files += [("c.png", png(2)), ("c.png.txt", b"own"), ("c.txt", b"shared")]
    assert open_dataset(held(kind, files, tmp_path)).texts(range(3)) == ("first", "x", "own")


def test_a_label_that_is_not_unicode_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, ["0.png"])
    (tmp_path / "0.cls").write_bytes("红".encode("gbk"))
    with pytest.raises(DataError, match=r"0.cls is not UTF-8: save it as UTF-8"):
        open_dataset(tmp_path)


def test_a_caption_with_an_unquoted_comma_is_not_cut(tmp_path: Path) -> None:
    write(tmp_path, ["0.png"])
    (tmp_path / "metadata.csv").write_text("file_name,text\n0.png,a cat, asleep\n")
    with pytest.raises(DataError, match="line 2, has more cells than columns: quote text with a ',' in it"):
        open_dataset(tmp_path)


def test_rows_of_one_image_are_its_captions(tmp_path: Path) -> None:
    write(tmp_path, ["0.png", "1.png"])
    rows = [("0.png", "a"), ("1.png", "c"), ("0.png", "b"), ("0.png", "a")]
    (tmp_path / "metadata.csv").write_text("file_name,text\n" + "".join(f"{n},{t}\n" for n, t in rows))
    dataset = open_dataset(tmp_path)
    assert dataset.texts([0, 1]) == ("a\nb", "c")
    assert add_up(dataset.info.report)


def test_odd_separators_do_not_split_a_caption(tmp_path: Path) -> None:
    from danqing.data.captions import captions_of

    write(tmp_path, ["0.png", "1.png"])
    odd = "one\u2028half\x0cother\x1c\x85end"
    (tmp_path / "metadata.jsonl").write_text(
        json.dumps({"file_name": "0.png", "text": odd}, ensure_ascii=False)
        + "\n"
        + json.dumps({"file_name": "1.png", "text": "plain"}),
        encoding="utf-8",
        newline="\n",
    )
    texts = open_dataset(tmp_path).texts([0, 1])
    assert texts is not None
    assert captions_of(texts[0]) == [odd]


def stylegan(labels: object) -> bytes:
    return json.dumps({"labels": labels}).encode()


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_stylegans_numbered_folders_are_shards_not_classes(kind: str, tmp_path: Path) -> None:
    names = [f"{n // 3:05d}/img{n:08d}.png" for n in range(6)]
    files = [(name, png(n)) for n, name in enumerate(names)]
    labelled = [[name, n % 2] for n, name in enumerate(names)]
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    dataset = open_dataset(held(kind, [*files, ("dataset.json", stylegan(labelled))], tmp_path / "with"))
    assert counts(dataset) == {"0": 3, "1": 3}
    bare = open_dataset(held(kind, [*files, ("dataset.json", stylegan(None))], tmp_path / "without"))
    assert counts(bare) == {"": 6}
    assert len(bare) == 6


@pytest.mark.parametrize("labels", [5, "ab", [1, 2], [["0.png"]], {"0.png": [1, 2], "1.png": [3]}])
def test_a_dataset_json_with_odd_labels_hides_no_image(labels: object, tmp_path: Path) -> None:
    write(tmp_path, ["0.png", "1.png"])
    (tmp_path / "dataset.json").write_bytes(stylegan(labels))
    assert len(open_dataset(tmp_path)) == 2


@pytest.mark.parametrize(
    "content",
    [
        [{"image": "0.png", "prompt": "a"}, {"image": "1.png", "prompt": "b"}],
        {"0.png": {"caption": "a"}, "1.png": {"caption": "b"}},
        {"0.png": "a", "1.png": "b"},
        {"file": ["0.png", "1.png"], "text": ["a", "b"]},
    ],
)
def test_metadata_json_of_every_shape(content: object, tmp_path: Path) -> None:
    write(tmp_path, ["0.png", "1.png"])
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    assert open_dataset(tmp_path).texts([0, 1]) == ("a", "b")


@pytest.mark.parametrize("kind", HOLDERS)
def test_class_folders_and_texts_mean_the_same_everywhere(kind: str, tmp_path: Path) -> None:
    files = [(f"wrapper/{c}/{n}.png", png(n)) for c in ("cat", "dog") for n in range(2)]
    files += [
        (f"wrapper/{c}/{n}.txt", f"a {c}\n一只{c}\n".encode()) for c in ("cat", "dog") for n in range(2)
    ]
    files += [("wrapper/readme.md", b"hello"), ("notes.txt", b"not a caption")]
    dataset = open_dataset(held(kind, files, tmp_path))
    assert counts(dataset) == {"cat": 2, "dog": 2}
    assert dataset.texts([0, 3]) == ("a cat\n一只cat", "a dog\n一只dog")
    understood = dataset.info.report.understood
    assert understood["Labels"] == "the names of folders"
    assert understood["Captions"] == "files beside the images"


# Accounts


def test_when_nothing_can_be_read_the_reasons_are_counted(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(b"" if number < 3 else b"not an image")
    with pytest.raises(DataError, match=r"(?s)5 × .*3 × The file is empty"):
        open_dataset(tmp_path)


def test_zips_whose_compression_is_unknown_say_so(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}.png", png(number))
    content = path.read_bytes()
    path.write_bytes(
        content.replace(b"PK\3\4\x14\0\0\0\0\0", b"PK\3\4\x14\0\0\0\x09\0").replace(
            b"PK\1\2\x14\3\x14\0\0\0\0\0", b"PK\1\2\x14\3\x14\0\0\0\x09\0"
        )
    )
    with pytest.raises(DataError, match=r"3 × The zip compression Deflate64 is not supported"):
        open_dataset(path)


@pytest.mark.parametrize("count", [1, 2])
def test_a_table_beside_zips_describes_their_images(count: int, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for number in range(2):
        place = folder / f"images-{number % count}.zip"
        place.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(place, "a") as archive:
            archive.writestr(f"deep/{number}.png", png(number))
    rows = [{"file_name": f"{number}.png", "text": f"caption {number}"} for number in range(2)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert set(open_dataset(folder).texts([0, 1])) == {"caption 0", "caption 1"}
    alone = open_dataset(folder / "images-0.zip")
    assert not alone.has_texts
    assert any("metadata.jsonl beside images-0.zip is not read" in note for note in alone.info.report.notes)
    with zipfile.ZipFile(folder / "images-0.zip", "a") as archive:
        archive.writestr("metadata.jsonl", json.dumps({"file_name": "deep/0.png", "text": "inside"}))
    assert "inside" in open_dataset(folder).texts([0])  # of two descriptions, that in the archive counts


def test_a_table_or_an_image_is_not_data_by_itself(tmp_path: Path) -> None:
    write(tmp_path, ["0.png"])
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png"}')
    with pytest.raises(DataError, match="is a table: name the folder of the images"):
        open_dataset(tmp_path / "metadata.jsonl")
    with pytest.raises(DataError, match="is a single image: name the folder"):
        open_dataset(tmp_path / "0.png")


def test_captions_in_a_folder_of_their_own_are_pointed_out(tmp_path: Path) -> None:
    write(tmp_path, ["images/0.png", "images/1.png"])
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions" / "0.txt").write_text("a cat")
    (tmp_path / "captions" / "notes.txt").write_text("about the cats")
    notes = open_dataset(tmp_path).info.report.notes
    assert [note for note in notes if "1 text files in captions have the names of images" in note]


NAMES = st.lists(
    st.tuples(
        st.sampled_from(["", "train/", "test/", "val/", "cat/", "dog/", "@eaDir/", "train/cat/", "deep/er/"]),
        st.sampled_from(["a", "b", "a.b", "é", "._a", "2023.01.02 3", "metadata", "x y"]),
        st.sampled_from([".png", ".PNG", ".txt", ".cls", ".json", "", ".csv", ".svg"]),
    ),
    min_size=1,
    max_size=14,
    unique=True,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=NAMES, kind=st.sampled_from(HOLDERS))
def test_found_used_and_left_out_always_add_up(
    names: list[tuple[str, str, str]], kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    contents = {".txt": b"words", ".cls": b"label", ".json": b'{"label": "j"}'}
    files = [
        (a + b + c, contents.get(c.lower(), png(n) if c.lower() == ".png" else b"other"))
        for n, (a, b, c) in enumerate(names)
        if (a + b + c) not in ("metadata.csv", "metadata.json")
        and not (b == "metadata" and c in (".csv", ".json"))
    ]
    images = [
        name
        for name, _ in files
        if name.lower().endswith(".png") and "@eaDir" not in name and "._a" not in name
    ]
    place = tmp_path_factory.mktemp("data")
    if not files:
        return
    path = held(kind, files, place)
    for split in ("train", "test", "all"):
        try:
            report = open_dataset(path, split=split, cache_dir=place / "cache").info.report
        except DataError:
            continue
        assert add_up(report)
        assert report.found == len(images)


def _gzipped(content: bytes) -> bytes:
    return gzip.compress(content)


def test_a_compressed_tar_whatever_its_name_is_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(3):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(png(number))
            archive.addfile(member, io.BytesIO(png(number)))
    write_as: dict[str, Callable[[bytes], bytes]] = {
        "plain.tar": bytes,
        "odd.tar": _gzipped,
        "a.tgz": _gzipped,
    }
    for name, change in write_as.items():
        path = tmp_path / name
        path.write_bytes(change(buffer.getvalue()))
        assert len(open_dataset(path)) == 3
