"""Writing shards: nothing is lost, the bytes are always the same, and passes filter and resume."""

import json
from pathlib import Path

import numpy as np
import pytest

from danqing.data import open_dataset
from danqing.data.clean_list import CleanRow, write_clean_list
from danqing.data.layout import Declared
from danqing.data.originals import Originals
from danqing.data.shards import writer
from danqing.data.shards.passes import Pass
from danqing.errors import ConfigError, DataError, MissingSplitError
from tests.data.pictures import png, write
from tests.data.shards.making import COUNT, contents, folder_of, shards_of
from tests.data.test_consent import RESERVES, photos


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_folder_as_shards_gives_the_same_images_labels_captions_and_attributes(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in")
    found = shards_of(folder, tmp_path / "out", declared=Declared(attributes=("price",)))
    assert found.images == {"train": COUNT}
    assert found.shards > 10
    plain = open_dataset(folder, attributes=["price"])
    packed = open_dataset(tmp_path / "out", attributes=["price"])
    streamed = open_dataset(tmp_path / "out", attributes=["price"], stream_over=0)
    assert streamed.is_streamed
    assert not packed.is_streamed
    for dataset in (packed, streamed):
        assert sorted(contents(dataset)) == sorted(contents(plain))
        assert dataset.label_names == plain.label_names
        assert dataset.label_counts.tolist() == plain.label_counts.tolist()
        assert dataset.info.report.account() == plain.info.report.account()
        assert dataset.attributes[0].kind == "number"
        prices = dataset.attributes_at(np.arange(COUNT))[:, 0]
        expected = plain.attributes_at(np.arange(COUNT))[:, 0]
        assert np.array_equal(np.sort(prices), np.sort(expected), equal_nan=True)
        texts = dataset.texts(np.arange(COUNT)) or ()
        assert {text: price for text, price in zip(texts, prices, strict=True) if text} == {
            f"caption {number}": number for number in range(COUNT) if number % 10
        }


def test_files_are_kept_byte_for_byte_under_their_names(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", 12)
    shards_of(folder, tmp_path / "out")
    names = {one.name: one.pixels for one in Originals(tmp_path / "out")}
    expected = {one.name: one.pixels for one in Originals(folder)}
    assert names.keys() == expected.keys()
    assert all(np.array_equal(names[name], expected[name]) for name in names)  # type: ignore[arg-type]


def test_pairs_and_splits_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "in", [f"{side}/{number}.png" for number in range(30) for side in ("a", "b")])
    shards_of(tmp_path / "in", tmp_path / "out", declared=Declared(pairs="a:b"))
    plain = open_dataset(tmp_path / "in", pairs="a:b")
    expected = {
        target.numpy().tobytes(): source.numpy().tobytes()
        for target, source in zip(plain.images(range(30)), plain.source_images(range(30)), strict=True)
    }
    for limit in (8.0, 0.0):
        dataset = open_dataset(tmp_path / "out", stream_over=limit)
        found = zip(dataset.images(range(30)), dataset.source_images(range(30)), strict=True)
        assert {t.numpy().tobytes(): s.numpy().tobytes() for t, s in found} == expected
    write(tmp_path / "split", [f"{split}/{number}.png" for number in range(9) for split in ("train", "test")])
    found_splits = shards_of(tmp_path / "split", tmp_path / "parts")
    assert found_splits.images == {"train": 9, "test": 9}
    with pytest.raises(MissingSplitError, match="have no validation split: they have train, test"):
        open_dataset(tmp_path / "parts", split="validation")
    test = open_dataset(tmp_path / "parts", split="test")
    assert sorted(contents(test)) == sorted(contents(open_dataset(tmp_path / "split", split="test")))


def test_a_killed_writer_continues_and_writes_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "in", 300)
    monkeypatch.setattr(writer, "GROUP", 2)
    shards_of(folder, tmp_path / "whole")
    loaded = list[int]()

    def stop(done: int, total: int | None, message: str) -> None:
        loaded.append(done)
        if len(loaded) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards_of(folder, tmp_path / "out", on_progress=stop)
    with pytest.raises(DataError, match=r"no data|no image|No image"):
        open_dataset(tmp_path / "out")  # it is not complete
    shards_of(folder, tmp_path / "out", on_progress=lambda done, total, message: loaded.append(done))
    assert loaded[3] > 64  # it did not begin again
    assert files_in(tmp_path / "out") == files_in(tmp_path / "whole")
    again = shards_of(folder, tmp_path / "out")
    assert again.images == {"train": 300}
    with pytest.raises(DataError, match="shards of other images or options"):
        shards_of(folder, tmp_path / "out", size=4096)


def test_a_pass_over_shards_filters_and_captions_and_accounts_for_every_image(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", 30)
    write(folder, ["dog/small.png"], width=4)
    with (folder / "metadata.jsonl").open("a") as table:
        table.write('\n{"file_name": "dog/small.png"}\n{"file_name": "dog/broken.png"}')
        table.write('\n{"file_name": "dog/reserved0.webp"}')
    (folder / "dog/broken.png").write_bytes(png(5)[:40])
    photos(folder / "dog", [RESERVES], prefix="reserved")
    first = shards_of(folder, tmp_path / "all")
    report = first.reports["train"]
    assert (report.found, report.images, report.skipped, report.consent.reserved) == (33, 31, 1, 1)
    write_clean_list(tmp_path / "clean.csv", [CleanRow("drop", "train", "cat/001.png")])
    rows = [{"file_name": "cat/002.png", "text": text} for text in ("new", "another")]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    changes = Pass(str(tmp_path / "clean.csv"), smallest=8, captions=str(tmp_path / "captions.jsonl"))
    second = shards_of(tmp_path / "all", tmp_path / "some", changes=changes)
    told = second.reports["train"]
    assert second.images == {"train": 29}
    assert told.left_out == {"left out by the clean list": 1, "smaller than 8 pixels": 1}
    assert told.found == told.images + told.skipped + sum(told.left_out.values()) == 31
    before, after = (
        {image: text for image, _, text in contents(open_dataset(tmp_path / name, size=(8, 8)))}
        for name in ("all", "some")
    )
    changed = {image for image in after if before[image] != after[image]}
    assert [after[image] for image in changed] == ["new\nanother"]


def test_what_shards_cannot_hold_is_rejected_in_one_sentence(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", 12)
    with pytest.raises(ConfigError, match="no masks, boxes or label sets"):
        shards_of(folder, tmp_path / "out", declared=Declared(boxes="coco"))
    with pytest.raises(ConfigError, match="1 KiB to 16 GiB"):
        shards_of(folder, tmp_path / "out", size=1)
    (tmp_path / "captions.csv").write_text("name;words\n")
    with pytest.raises(DataError, match="need a column file_name and a column text"):
        shards_of(folder, tmp_path / "out", changes=Pass(captions=str(tmp_path / "captions.csv")))
    with pytest.raises(DataError, match="name or password"):
        open_dataset("https://me:secret@example.org/shards")
