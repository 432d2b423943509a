"""Batches of files: resumed, mirrored, with what failed listed, and never overwritten by accident."""

import dataclasses
import hashlib
import json
import multiprocessing
import os
import random
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from danqing.editing.batch import Plan, edit_files
from danqing.editing.contract import ImageToEdit, Values
from danqing.errors import ConfigError, DanqingError, DataError
from tests.editing.edits import Invert
from tests.image_files.files import file_of, photo

INVERT = Invert(noise=True)


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A folder of five images in two folders, one of them black, which the edit refuses, and one damaged."""
    folder = tmp_path / "given"
    for name, content in contents().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def contents() -> dict[str, bytes]:
    return {
        "a.jpg": file_of(photo(), "JPEG", quality=90),
        "a.png": file_of(photo()),
        "below/10.png": file_of(photo().rotate(90, expand=True)),
        "below/2.webp": file_of(photo(), "WEBP", lossless=True),
        "dark.png": file_of(Image.new("RGB", (4, 4))),
        "below/damaged.png": file_of(photo())[:100],
        "notes.txt": b"not an image",
    }


GOOD = ["a.jpg", "a.png", "below/2.webp", "below/10.png"]


def tree(folder: Path) -> dict[str, bytes]:
    """The contents of all files below a folder, without those that say how long it took."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if path.name not in ("manifest.jsonl", ".lock")
    }


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_name_that_is_too_long_for_the_result_fails_alone(given: Path, tmp_path: Path) -> None:
    long = "图" * 83 + ".gif"  # 253 bytes: too many with the .png that is added
    (given / long).write_bytes(file_of(Image.new("P", (4, 4), 1), "GIF"))
    fits = "图" * 83 + ".png"
    (given / fits).write_bytes(file_of(photo()))
    found = edit_files(INVERT, given, tmp_path / "out", seed=5)
    assert sorted(found.written) == sorted([*GOOD, fits])
    assert found.failed[long].endswith("cannot be written (File name too long): shorten its name.")


def test_outputs_keep_their_names_and_formats_and_failures_are_listed(given: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = edit_files(INVERT, given, out, seed=5)
    assert list(found.written) == GOOD
    assert found.written["below/2.webp"] == out / "below/2.webp"
    assert found.failed["dark.png"] == "The image is black."
    assert found.failed["below/damaged.png"].startswith("The file is truncated")
    assert dict(found.inputs.ignored) == {"files whose names are not those of images": 1}
    assert sorted(tree(out)) == sorted(GOOD)
    for name in GOOD:
        assert Image.open(out / name).format == Image.open(given / name).format
    records = lines(out / "manifest.jsonl")
    assert [record["name"] for record in records] == GOOD
    first = records[0]
    assert first["input"] == hashlib.sha256((given / "a.jpg").read_bytes()).hexdigest()
    assert first["edit"] == {
        "verb": "invert", "settings": dict(INVERT.settings), "seed": 5, "strip": False, "sequence": False,
        "marks": "none",
    }  # fmt: skip
    assert first["seconds"] >= 0
    assert len({record["seed"] for record in records}) == 4
    assert [(name, before) for name, before, _ in found.pairs()] == [
        (name, (given / name).read_bytes()) for name in GOOD
    ]


def test_what_is_done_is_skipped_and_new_files_change_no_others(given: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (given / "a.jpg").rename(tmp_path / "a.jpg")
    edit_files(INVERT, given, out, seed=5)
    before = tree(out)
    (tmp_path / "a.jpg").rename(given / "a.jpg")
    (out / "a.png").unlink()
    plans: list[Plan] = []
    found = edit_files(INVERT, given, out, seed=5, on_plan=plans.append)
    assert (list(found.written), list(found.skipped)) == (["a.jpg", "a.png"], GOOD[2:])
    assert plans[0].images == 4  # with the two that fail each time
    assert {name: content for name, content in tree(out).items() if name != "a.jpg"} == before
    edit_files(INVERT, given, tmp_path / "whole", seed=5)
    assert tree(out) == tree(tmp_path / "whole")
    assert sorted(record["name"] for record in lines(out / "manifest.jsonl")) == sorted(GOOD)
    alone = edit_files(INVERT, given / "a.png", tmp_path / "alone.png", seed=5)
    assert (tmp_path / "alone.png").read_bytes() == (out / "a.png").read_bytes()
    assert alone.manifest is None


def test_results_of_another_edit_are_neither_skipped_nor_overwritten(given: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    edit_files(INVERT, given, out, seed=5)
    before = tree(out)
    other = dataclasses.replace(INVERT, strength=0.5)
    for edit, options, difference in (
        (other, {"seed": 5}, r"strength was 1.0, and is 0.5 now"),
        (INVERT, {"seed": 6}, "seed was 5, and is 6 now"),
        (INVERT, {"seed": 5, "strip": True}, "strip was False, and is True now"),
    ):
        with pytest.raises(ConfigError, match=f"holds the results of another edit .{difference}"):
            edit_files(edit, given, out, **options)
    (given / "a.png").write_bytes(file_of(photo().rotate(180)))
    (out / "below/new.png").write_bytes(b"mine")
    (given / "below/new.png").write_bytes(file_of(photo()))
    found = edit_files(INVERT, given, out, seed=5)
    assert "a.png was made from another version of the input: delete it" in found.failed["a.png"]
    assert "new.png exists and is not a result of this edit" in found.failed["below/new.png"]
    assert tree(out) == before | {"below/new.png": b"mine"}
    masks = {"a.jpg": "1"}
    found = edit_files(
        INVERT, given, tmp_path / "masked", seed=5, extra=lambda name: {"mask": masks.get(name)}
    )
    masks["a.jpg"] = "2"
    found = edit_files(
        INVERT, given, tmp_path / "masked", seed=5, extra=lambda name: {"mask": masks.get(name)}
    )
    assert "was made from other options for this image" in found.failed["a.jpg"]
    assert len(found.skipped) == 4


def test_a_dry_run_writes_nothing(given: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for target in (out, tmp_path / "out.zip"):
        found = edit_files(INVERT, given, target, seed=5, dry_run=True)
        assert set(GOOD) <= set(found.written)
        assert not target.exists()
    edit_files(INVERT, given, tmp_path / "out.zip", seed=5)
    found = edit_files(INVERT, given, tmp_path / "out.zip", seed=5, dry_run=True)
    assert list(found.skipped) == GOOD
    assert {path.name for path in tmp_path.iterdir()} == {"given", "out.zip", ".out.zip.lock"}


def test_zips_globs_and_several_files_are_inputs(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_files(INVERT, given, tmp_path / "out", seed=5)
    whole = tree(tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "given.zip", "w") as archive:
        for name, content in contents().items():
            archive.writestr(f"../{name}", content)
    found = edit_files(INVERT, tmp_path / "given.zip", tmp_path / "from-zip", seed=5)
    assert list(found.written) == GOOD
    assert tree(tmp_path / "from-zip") == whole
    edit_files(INVERT, f"{given}/**/*.*", tmp_path / "from-glob", seed=5)
    assert tree(tmp_path / "from-glob") == whole
    monkeypatch.chdir(given)
    found = edit_files(INVERT, ["a.jpg", Path("below/2.webp")], tmp_path / "several", seed=5)
    assert tree(tmp_path / "several") == {name: whole[name] for name in ("a.jpg", "below/2.webp")}
    for source, sentence in (
        ("none.png", "There is no file or folder none.png"),
        ("*.bmp", r"No file fits the pattern \*.bmp"),
        (["a.png", "below"], "below is a folder"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            edit_files(INVERT, source, tmp_path / "none", seed=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="There are no images in"):
        edit_files(INVERT, tmp_path / "empty", tmp_path / "none", seed=0)


def test_an_output_never_replaces_an_input(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(given)
    before = tree(given)
    for source, out in (
        (given, given),
        ("a.png", given / "a.png"),
        ("*.png", given),
        ("a.png", given),
        (["a.png", "below/2.webp"], given),
    ):
        with pytest.raises(ConfigError, match="choose another --out"):
            edit_files(INVERT, source, Path(out), seed=0)
    for source, out in ((given, given / "a.png"), (given, tmp_path / "x.png")):
        with pytest.raises(ConfigError, match="several images need a folder or a zip"):
            edit_files(INVERT, source, out, seed=0)
    with pytest.raises(ConfigError, match="its name must end in one of"):
        edit_files(INVERT, "a.png", tmp_path / "x.gif", seed=0)
    assert tree(given) == before
    for _ in range(2):
        found = edit_files(INVERT, given, given / "out", seed=0)
        assert sorted([*found.written, *found.skipped]) == sorted(GOOD)
    assert not (given / "out/out").exists()


def test_outputs_of_other_formats_have_names_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "a.gif").write_bytes(file_of(photo(), "GIF"))
    (folder / "a.png").write_bytes(file_of(photo()))
    found = edit_files(Invert(), folder, tmp_path / "out", seed=0)
    assert {name: path.name for name, path in found.written.items()} == {
        "a.gif": "a.gif.png",
        "a.png": "a.png",
    }
    assert found.notes == {"a.gif": ("GIF files cannot be written: the result is PNG.",)}
    (folder / "a.gif.png").write_bytes(file_of(photo()))
    found = edit_files(Invert(), folder, tmp_path / "again", seed=0)
    assert list(found.written) == ["a.gif", "a.png"]
    assert "rename one of them" in found.failed["a.gif.png"]
    found = edit_files(Invert(), folder, tmp_path / "out", seed=0)
    assert list(found.skipped) == ["a.gif", "a.png"]
    assert "a.gif.png" in found.failed


def test_without_changes_the_input_is_copied_byte_for_byte(given: Path, tmp_path: Path) -> None:
    still = dataclasses.replace(INVERT, strength=0.0)
    (given / "a.gif").write_bytes(file_of(photo(), "GIF"))
    found = edit_files(still, given, tmp_path / "out", seed=5)
    copied = tree(tmp_path / "out")
    assert copied == {name: (given / name).read_bytes() for name in copied}
    assert set(copied) == {*GOOD, "dark.png", "a.gif"}
    assert list(edit_files(still, given, tmp_path / "out", seed=5).skipped) == list(found.written)
    edit_files(still, given / "a.png", tmp_path / "b.png", seed=5)
    assert (tmp_path / "b.png").read_bytes() == (given / "a.png").read_bytes()
    edit_files(still, given / "a.png", tmp_path / "b.jpg", seed=5)
    assert Image.open(tmp_path / "b.jpg").format == "JPEG"
    edit_files(still, given, tmp_path / "bare", seed=5, strip=True)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "bare/a.png")), np.asarray(photo()))


def test_memory_is_told_and_refused_before_work_starts(given: Path, tmp_path: Path) -> None:
    (given / "below/large.png").write_bytes(file_of(photo(400, 300)))
    plans: list[Plan] = []
    edit_files(INVERT, given, tmp_path / "out", seed=5, on_plan=plans.append, dry_run=True)
    assert plans[0][:3] == (7, "below/large.png", (400, 300))
    enlarged, plain = [], plans[0].peak_bytes
    edit_files(
        dataclasses.replace(INVERT, scale=4),
        given,
        tmp_path / "4",
        seed=5,
        on_plan=enlarged.append,
        dry_run=True,
    )
    assert enlarged[0].peak_bytes > plain + 400 * 300 * 8 * 15, "a larger result is held when it is written"
    with pytest.raises(ConfigError, match=r"below/large.png \(400x300\) needs about .* over --memory 1 MB"):
        edit_files(INVERT, given, tmp_path / "out", seed=5, memory=1_000_000)
    assert tree(tmp_path / "out") == {}
    edit_files(INVERT, given, tmp_path / "out", seed=5, memory=plans[0].peak_bytes + 200_000_000)


def test_several_versions_go_to_folders_of_their_own(given: Path, tmp_path: Path) -> None:
    found = edit_files(INVERT, given, tmp_path / "out", seed=5, n=2)
    assert list(found.written) == [f"{number}/{name}" for number in (1, 2) for name in GOOD]
    assert (tmp_path / "out/1/a.png").read_bytes() != (tmp_path / "out/2/a.png").read_bytes()
    edit_files(INVERT, given, tmp_path / "one", seed=5)
    assert (tmp_path / "out/1/a.png").read_bytes() == (tmp_path / "one/a.png").read_bytes()
    assert len(list(found.pairs())) == 8
    edit_files(INVERT, given / "a.png", tmp_path / "b.png", seed=5, n=2)
    assert (tmp_path / "b-2.png").read_bytes() == (tmp_path / "out/2/a.png").read_bytes()


def test_the_frames_of_a_film_share_their_noise_and_flicker_is_measured(tmp_path: Path) -> None:
    film = tmp_path / "film"
    film.mkdir()
    for number in range(12):
        Image.fromarray(np.full((8, 8, 3), 100 + number, np.uint8)).save(film / f"{number}.png")
    calm = edit_files(INVERT, film, tmp_path / "calm", seed=5, sequence=True)
    assert list(calm.written) == [f"{number}.png" for number in range(12)]
    assert [record["frame"] for record in lines(tmp_path / "calm/manifest.jsonl")] == list(range(12))
    assert calm.flicker == pytest.approx(0, abs=1e-6)

    @dataclasses.dataclass(frozen=True)
    class Blinking(Invert):
        def apply(self, image: ImageToEdit) -> Values:
            return image.values + np.uint8(51 * (image.frame % 2))

    blinking = edit_files(Blinking(), film, tmp_path / "blinking.zip", seed=5, sequence=True)
    # Successive frames differ by 51 + 1 and 51 - 1 levels in turn, six and five times; the film by 1.
    assert blinking.flicker == pytest.approx((6 * 52 + 5 * 50) / 11 / 255 - 1 / 255, abs=1e-6)
    noisy = edit_files(INVERT, film, tmp_path / "noisy", seed=5)
    assert noisy.flicker is None


def test_a_zip_is_written_whole_and_continued(given: Path, tmp_path: Path) -> None:
    edit_files(INVERT, given, tmp_path / "out", seed=5)
    out = tmp_path / "out.zip"
    (given / "a.png").rename(tmp_path / "a.png")
    edit_files(INVERT, given, out, seed=5)
    (tmp_path / "a.png").rename(given / "a.png")
    found = edit_files(INVERT, given, out, seed=5)
    assert (list(found.written), len(found.skipped)) == (["a.png"], 3)
    assert members(out) == tree(tmp_path / "out")
    assert [after for _, _, after in found.pairs()] == [
        (tmp_path / "out" / name).read_bytes() for name in GOOD
    ]
    with zipfile.ZipFile(out) as archive:
        assert "manifest.jsonl" in archive.namelist()
    assert not (tmp_path / "out.zip.unfinished").exists()
    (tmp_path / "other.zip").write_bytes(b"PK\5\6" + bytes(18))
    with pytest.raises(ConfigError, match="is not a result of this command"):
        edit_files(INVERT, given, tmp_path / "other.zip", seed=5)
    (tmp_path / "other.zip").write_bytes(b"notes")
    with pytest.raises(ConfigError, match="cannot be unpacked"):
        edit_files(INVERT, given, tmp_path / "other.zip", seed=5)
    assert not list(tmp_path.glob("*.scratch"))


def test_a_zip_of_failures_alone_is_continued(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given/dark\u2028.png").write_bytes(b"damaged")
    for _ in range(2):
        found = edit_files(INVERT, tmp_path / "given", tmp_path / "out.zip", seed=5)
        assert list(found.failed) == ["dark\u2028.png"]
    (tmp_path / "given/dark\u2028.png").write_bytes(file_of(photo()))
    edit_files(INVERT, tmp_path / "given", tmp_path / "out.zip", seed=5)
    assert len(edit_files(INVERT, tmp_path / "given", tmp_path / "out.zip", seed=5).skipped) == 1


def test_a_folder_that_cannot_be_written_is_named(given: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DanqingError, match=r"cannot be written .* choose another --out"):
        edit_files(INVERT, given, tmp_path / "file/out", seed=5)
    (tmp_path / "out/below").parent.mkdir()
    (tmp_path / "out/below").write_bytes(b"")  # where a folder is needed
    with pytest.raises(DanqingError, match="cannot be written"):
        edit_files(INVERT, given, tmp_path / "out", seed=5)


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist() if name != "manifest.jsonl"}


@dataclasses.dataclass(frozen=True)
class Slow(Invert):
    """Needs no torch, so that it runs in a forked process."""

    def apply(self, image: ImageToEdit) -> Values:
        time.sleep(0.005)
        rng = np.random.default_rng(image.seed)
        return image.values ^ rng.integers(0, 256, image.values.shape, dtype=np.uint8)


@pytest.mark.parametrize("out", ["out", "out.zip"])
def test_a_batch_that_is_killed_five_times_gives_the_same_bytes(tmp_path: Path, out: str) -> None:
    folder, rng = tmp_path / "given", random.Random(1)
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.png").write_bytes(file_of(photo(20 + number, 10)))
    edit_files(Slow(), folder, tmp_path / "whole", seed=7)
    target = tmp_path / out
    working = target if out == "out" else tmp_path / "out.zip.unfinished"
    for kill in range(1, 6):
        process = multiprocessing.get_context("fork").Process(
            target=edit_files, args=(Slow(), folder, target), kwargs={"seed": 7}
        )
        process.start()
        wait_for(lambda: len(list(working.glob("*.png"))) >= 6 * kill or not process.is_alive())  # noqa: B023
        time.sleep(rng.random() * 0.01)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    found = edit_files(Slow(), folder, target, seed=7)
    assert len(found.skipped) >= 30
    assert not found.failed
    assert (tree(target) if out == "out" else members(target)) == tree(tmp_path / "whole")


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_two_processes_do_not_write_to_one_place(given: Path, tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Nested(Invert):
        def apply(self, image: ImageToEdit) -> Values:
            edit_files(INVERT, given, tmp_path / "out", seed=5)
            return image.values

    with pytest.raises(ConfigError, match="Another process writes to"):
        edit_files(Nested(), given, tmp_path / "out", seed=5)
