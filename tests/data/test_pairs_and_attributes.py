"""Pairs and attributes are read as they are declared, and never guessed."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from danqing.data import Batches, Dataset, open_dataset
from danqing.errors import ConfigError, DataError
from danqing.training.config_reading import resolve

from .pictures import picture, png, write
from .test_layout import add_up, counts


def pairs_of(dataset: Dataset) -> set[tuple[bytes, bytes]]:
    """The bytes of each source image with those of its target."""
    rows = range(len(dataset))
    sources, targets = dataset.source_images(rows).numpy(), dataset.images(rows).numpy()
    return {(s.tobytes(), t.tobytes()) for s, t in zip(sources, targets, strict=True)}


def expected(numbers: list[tuple[int, int]]) -> set[tuple[bytes, bytes]]:
    return {(picture(s).tobytes(), picture(t).tobytes()) for s, t in numbers}


def test_folders_called_a_and_b_are_classes_until_they_are_declared(tmp_path: Path) -> None:
    write(tmp_path, ["A/1.png", "A/2.png", "B/1.png", "B/2.png", "B/3.png", "C/1.png"])
    assert counts(open_dataset(tmp_path)) == {"A": 2, "B": 3, "C": 1}
    dataset = open_dataset(tmp_path, pairs="A:B")
    assert pairs_of(dataset) == expected([(0, 2), (1, 3)])
    report = dataset.info.report
    assert report.left_out == {"without a partner in A": 1, "in neither A nor B": 1}
    assert add_up(report)
    assert pairs_of(open_dataset(tmp_path, pairs="B:A")) == expected([(2, 0), (3, 1)])


@pytest.mark.parametrize(
    "names", [["train/A/1.png", "train/B/1.jpg.png", "test/A/1.png", "test/B/1.PNG"],
              ["A/train/1.png", "B/train/1.jpg.png", "A/test/1.png", "B/test/1.PNG"]],
)  # fmt: skip
def test_splits_may_lie_above_or_below_the_folders_of_pairs(names: list[str], tmp_path: Path) -> None:
    names = [name.replace("1.jpg.png", "1.png") for name in names]
    write(tmp_path, names)
    assert pairs_of(open_dataset(tmp_path, pairs="A:B")) == expected([(0, 1)])
    assert pairs_of(open_dataset(tmp_path, pairs="A:B", split="test")) == expected([(2, 3)])


def test_halves_of_one_image_are_a_pair(tmp_path: Path) -> None:
    for number in range(3):
        both = np.concatenate([picture(2 * number), picture(2 * number + 1)], axis=1)
        Image.fromarray(both).save(tmp_path / f"{number}.png")
    halves = [(0, 1), (2, 3), (4, 5)]
    assert pairs_of(open_dataset(tmp_path, pairs="side-by-side")) == expected(halves)
    turned = open_dataset(tmp_path, pairs="side-by-side-reversed")
    assert pairs_of(turned) == expected([(b, a) for a, b in halves])
    assert turned.size == (8, 8)


def test_a_column_may_name_the_source_image(tmp_path: Path) -> None:
    write(tmp_path, ["in/1.png", "in/2.png", "out/a.png", "out/b.png"])
    (tmp_path / "metadata.csv").write_text("file_name,Source File\nout/a.png,in/2.png\nout/b.png,in/1.png\n")
    dataset = open_dataset(tmp_path, pairs="source file")
    assert pairs_of(dataset) == expected([(1, 2), (0, 3)])
    rows = pa.table({"image": [png(5), png(6)], "before": [png(7), png(8)]})
    pq.write_table(rows, tmp_path / "pairs.parquet")
    assert pairs_of(open_dataset(tmp_path / "pairs.parquet", pairs="before")) == expected([(7, 5), (8, 6)])


def test_where_one_image_of_a_pair_is_damaged_the_pair_is_skipped(tmp_path: Path) -> None:
    write(tmp_path, [f"{side}/{n:03d}.png" for side in "AB" for n in range(70)])
    (tmp_path / "A" / "010.png").write_bytes(b"broken")
    (tmp_path / "B" / "066.png").write_bytes(b"broken")
    dataset = open_dataset(tmp_path, pairs="A:B")
    kept = [(n, 70 + n) for n in range(70) if n not in (10, 66)]
    assert pairs_of(dataset) == expected(kept)
    report = dataset.info.report
    assert (report.found, report.skipped) == (70, 2)
    assert report.skipped_files[0].reason.startswith("Its source image cannot be read: ")


def test_pairs_reach_the_batches(tmp_path: Path) -> None:
    write(tmp_path, [f"{side}/{n}.png" for side in "AB" for n in range(4)])
    batches = Batches(open_dataset(tmp_path, pairs="A:B"), 4, seed=0)
    batch = batches.at(0)
    assert batch.condition.image is not None
    for row, index in enumerate(batches.indices(0).tolist()):
        source = torch.from_numpy(picture(index)).float() / 127.5 - 1
        assert torch.allclose(batch.condition.image[row].permute(1, 2, 0), source)


@pytest.mark.parametrize("pairs", ["A:A", "A:", "A:B:C"])
def test_pairs_that_mean_nothing_are_refused(pairs: str, tmp_path: Path) -> None:
    write(tmp_path, ["A/1.png"])
    with pytest.raises(ConfigError, match="write SOURCES:TARGETS"):
        open_dataset(tmp_path, pairs=pairs)


def test_what_is_declared_and_missing_is_named(tmp_path: Path) -> None:
    write(tmp_path, ["A/1.png", "C/1.png"])
    with pytest.raises(DataError, match="A and B of the pairs do not both hold images"):
        open_dataset(tmp_path, pairs="A:B")
    with pytest.raises(DataError, match=r"no column 'age' for data.attributes: the columns are none"):
        open_dataset(tmp_path, attributes=["age"])
    with pytest.raises(ConfigError, match="built-in set without pairs or attributes"):
        open_dataset("digits", attributes=["age"])


def people(kind: str, folder: Path) -> Path:
    """Five images whose table has a number, categories, a vector, and gaps in each."""
    rows: list[dict[str, object]] = [
        {"age": 30, "kind": "b", "pose": [0.5, 1.0]},
        {"age": None, "kind": "a", "pose": None},
        {"age": "40.5", "kind": None, "pose": [1.5, 3.0]},
        {"age": 20.0, "kind": "nan", "pose": [2.5, 5.0]},
        {"age": float("nan"), "kind": "b", "pose": []},
    ]
    names = [f"{n}.png" for n in range(5)]
    if kind == "images.parquet":
        ages = [None if row["age"] in (None, "") else float(str(row["age"])) for row in rows]
        table = pa.table({
            "image": [png(n) for n in range(5)], "age": ages, "kind": [row["kind"] for row in rows],
            "pose": [row["pose"] for row in rows],
        })  # fmt: skip
        pq.write_table(table, folder / "a.parquet")
        return folder
    write(folder, names)
    listed = [{"file_name": name, **row} for name, row in zip(names, rows, strict=True)]
    if kind == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, listed)))
    elif kind == "side files":
        for name, row in zip(names, rows, strict=True):
            (folder / name).with_suffix(".json").write_text(json.dumps(row))
    else:
        lines = [f"{r['file_name']};{r['age']};{r['kind']};{r['pose']}".replace("None", "") for r in listed]
        (folder / "metadata.csv").write_text("\n".join(["file_name;age;kind;pose", *lines]))
    return folder


@pytest.mark.parametrize("kind", ["jsonl", "csv", "images.parquet", "side files"])
def test_attributes_are_numbers_categories_and_vectors(kind: str, tmp_path: Path) -> None:
    dataset = open_dataset(people(kind, tmp_path), attributes=["age", "Kind", "pose"])
    age, category, pose = dataset.attributes
    assert (age.kind, age.width, age.known) == ("number", 1, 0.6)
    assert age.mean[0] == pytest.approx(30.1667, abs=1e-3)
    assert (category.kind, category.categories, category.known) == ("category", ("a", "b"), 0.6)
    assert (pose.kind, pose.width, pose.mean) == ("vector", 2, (1.5, 3.0))
    nan = float("nan")
    wanted = [[30, 1, 0.5, 1], [nan, 0, nan, nan], [40.5, nan, 1.5, 3], [20, nan, 2.5, 5], [nan, 1, nan, nan]]
    assert np.array_equal(dataset.attributes_at(range(5)), np.array(wanted, np.float32), equal_nan=True)
    assert open_dataset(tmp_path).attributes == ()
    assert dataset.fingerprint != open_dataset(tmp_path).fingerprint


def test_batches_carry_attributes_and_mask_what_is_missing(tmp_path: Path) -> None:
    dataset = open_dataset(people("jsonl", tmp_path), attributes=["age", "pose"])
    batches = Batches(dataset, 5, seed=3)
    condition = batches.at(0).condition
    assert condition.attributes is not None
    assert condition.attribute_mask is not None
    rows = batches.indices(0)
    told = torch.from_numpy(dataset.attributes_at(rows))
    assert torch.equal(condition.attribute_mask, ~told.isnan())
    assert torch.equal(condition.attributes, told.nan_to_num(0.0))
    assert torch.equal(condition[[2, 0]].attributes, condition.attributes[[2, 0]])  # type: ignore[arg-type]


def test_a_family_that_reads_neither_says_so(tmp_path: Path) -> None:
    write(tmp_path, [f"{side}/{n}.png" for side in "AB" for n in range(4)])
    config = resolve(preset="gan-32", settings={"pairs": "A:B"})
    with pytest.raises(ConfigError, match=r"A gan does not learn from pairs: leave data\.pairs out"):
        config.for_data(open_dataset(tmp_path, pairs="A:B"))


def test_a_volume_is_read_slice_by_slice(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    values = np.arange(6 * 7 * 5, dtype=np.int16).reshape(6, 7, 5)
    for name in ("sick/one", "well/two"):
        (tmp_path / name).parent.mkdir()
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}.nii.gz")
    dataset = open_dataset(tmp_path, size=(6, 7))
    assert counts(dataset) == {"sick": 5, "well": 5}
    assert dataset.info.report.understood["Slices"] == "10 slices of 2 volumes"
    assert dataset.depth == 16
    first = dataset.full_depth([0]).numpy().astype(int)
    last = dataset.full_depth([4]).numpy().astype(int)
    assert first.min() < last.min()
    assert add_up(dataset.info.report)


def test_dicom_files_need_no_ending(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

    for number, name in enumerate(["IM0001", "1.2.840.113", "IM0003"]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = UID(f"1.2.{number}")
        scan = pydicom.Dataset()
        scan.file_meta, scan.Rows, scan.Columns = meta, 8, 8
        scan.BitsAllocated = scan.BitsStored = 16
        scan.HighBit, scan.PixelRepresentation, scan.SamplesPerPixel = 15, 1, 1
        scan.PhotometricInterpretation = "MONOCHROME2"
        scan.PixelData = (np.arange(64, dtype=np.int16) * 10 - 300 + number).tobytes()
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, scan, enforce_file_format=True)
        (tmp_path / name).write_bytes(buffer.getvalue())
    (tmp_path / "LICENSE").write_text("not an image" * 20)
    dataset = open_dataset(tmp_path)
    assert (len(dataset), dataset.size) == (3, (8, 8))
    assert dataset.info.report.understood["Not read"] == "1 without an ending"
