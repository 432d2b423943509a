"""`danqing data`: what it prints for people and for programs."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from danqing.cli import main
from danqing.data import builtin

from .pictures import write


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["data", *words])
    return int(left.value.code or 0)


def test_check_tells_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "pets", [f"{'cat' if n % 3 else 'dog'}/{n:02d}.png" for n in range(30)])
    (tmp_path / "pets" / "cat" / "broken [1].png").write_bytes(b"damaged")
    grid = tmp_path / "grid.png"
    assert run("check", str(tmp_path / "pets"), "--size", "6x4", "--grid", str(grid)) == 0
    text = capsys.readouterr().out
    for part in (
        "30 of 6x4, colour",
        "cat 66.7%, dog 33.3%",
        "cat/broken [1].png",
        "flip True",
        "There are only 30",
    ):
        assert part in text
    assert grid.stat().st_size > 100
    assert run("check", str(tmp_path / "pets"), "--grid", str(tmp_path / "missing" / "grid.png")) == 0
    assert (tmp_path / "missing" / "grid.png").stat().st_size > 100
    capsys.readouterr()
    assert run("check", str(tmp_path / "pets"), "--grid", str(grid / "in a file.png")) == 2
    assert "choose another --grid" in capsys.readouterr().err


def test_check_tells_and_draws_the_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        mask = np.zeros((8, 8), np.uint8)
        mask[2:6, number : number + 3] = 1
        for folder in ("images", "masks"):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask * (100 if folder == "images" else 1)).save(
                tmp_path / "data" / folder / f"{number}.png"
            )
    (tmp_path / "data" / "classes.txt").write_text("ground\ncell\n")
    grid = tmp_path / "grid.png"
    words = ["check", str(tmp_path / "data"), "--masks", "images:masks", "--boxes", "masks"]
    assert run(*words, "--grid", str(grid)) == 0
    text = capsys.readouterr().out
    assert "3 of 1 classes in 3 images, from connected regions of masks: cell" in text
    assert "2 classes, from the folder masks: ground, cell" in text
    with Image.open(grid) as drawn:
        assert drawn.mode == "RGB"
    assert run(*words, "--json") == 0
    targets = json.loads(capsys.readouterr().out)["targets"]
    assert targets["boxes"] == ["cell"]
    assert sum(targets["mask_shares"]) == pytest.approx(1)


def test_check_prints_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, ["a/0.png", "b/1.png"])
    assert run("check", str(tmp_path), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["size"], found["channels"]) == (2, [8, 8], 3)
    assert found["labels"] == {"a": 0.5, "b": 0.5}
    assert len(found["fingerprint"]) == 64


def test_a_mistake_is_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "no/such/folder") == 2
    assert "There is no data at no/such/folder" in capsys.readouterr().err
    assert run("fetch", "imagenet") == 2
    assert "choose one of shapes, emoji" in capsys.readouterr().err


def test_list_names_every_set_with_its_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--json") == 0
    sets = json.loads(capsys.readouterr().out)["sets"]
    assert set(sets) == set(builtin.names())
    assert sets["emoji"]["licence"] == "CC BY-SA 4.0"
    assert run("list") == 0
    assert "CC BY-SA 4.0" in capsys.readouterr().out


def test_fetch_says_that_a_package_brings_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fetch", "digits", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"name": "digits", "folder": None}


@pytest.mark.skipif(os.name != "posix", reason="names of files that are no text exist on POSIX alone")
def test_names_that_are_no_utf8_are_reported_not_fatal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = os.fsencode(tmp_path)
    write(tmp_path, [f"a/{n}.png" for n in range(30)])
    os.rename(os.path.join(folder, b"a", b"3.png"), os.path.join(folder, b"a", b"\xff.png"))
    os.mkdir(os.path.join(folder, b"b\xfe"))
    os.rename(os.path.join(folder, b"a", b"4.png"), os.path.join(folder, b"b\xfe", b"4.png"))
    Path(os.fsdecode(os.path.join(folder, b"a", b"\xfd.png"))).write_bytes(b"damaged")
    assert run("check", str(tmp_path), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], len(found["labels"]), found["report"]["skipped"]) == (30, 2, 1)


def test_check_explains_how_it_understood_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        tmp_path, [f"{split}/{kind}/{n}.png" for split in ("train", "val") for kind in "ab" for n in range(4)]
    )
    (tmp_path / "train" / "a" / "0.txt").write_text("a caption")
    (tmp_path / "notes.doc").write_bytes(b"other")
    assert run("check", str(tmp_path), "--json") == 0
    found = json.loads(capsys.readouterr().out)["report"]
    assert found["found"] == found["images"] + sum(found["left_out"].values()) == 16
    assert found["understood"] == {
        "Layout": "16 images in 2 folders",
        "Split": "train, by folders (train 8, validation 8)",
        "Labels": "the names of folders",
        "Captions": "files beside the images (1 images); none for 7 images",
        "Not read": "1 .doc",
    }
    assert run("check", str(tmp_path)) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Found 16 found: 8 used, 8 in the validation split" in text
    assert "from the names of folders" in text


def test_check_reads_declared_pairs_and_attributes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, [f"{side}/{n}.png" for side in ("in", "out") for n in range(4)])
    (tmp_path / "metadata.csv").write_text(
        "file_name,age\n" + "".join(f"{side}/{n}.png,{n}\n" for side in ("in", "out") for n in range(4))
    )
    assert run("check", str(tmp_path), "--pairs", "in:out", "--attributes", "age") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Pairs 4 images of out, from those of in" in text
    assert "Attributes age (number, 1.5 ± 1.118)" in text


def test_shard_writes_what_check_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "pets", [f"{'cat' if n % 3 else 'dog'}/{n:02d}.png" for n in range(30)])
    words = ["shard", str(tmp_path / "pets"), str(tmp_path / "out"), "--size", "2KiB"]
    assert run(*words, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["reports"]["train"]["images"]) == ({"train": 30}, 30)
    assert run(*words) == 0  # it is complete
    assert "30 found: 30 used" in capsys.readouterr().out
    assert run("check", str(tmp_path / "out")) == 0
    assert "cat 66.7%, dog 33.3%" in capsys.readouterr().out
    assert run("shard", str(tmp_path / "pets"), str(tmp_path / "other"), "--what", "codes") == 2
    assert "Codes need a tokenizer" in capsys.readouterr().err
