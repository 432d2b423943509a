"""The packed cache: whole or not there, resumed after a kill, safe between processes, honest about damage."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from danqing.data import cache, cache_build, decoding, open_dataset
from danqing.errors import DataError

from .pictures import picture, png, write


def names(count: int) -> list[str]:
    return [f"{'ab'[number % 2]}/{number:05d}.png" for number in range(count)]


def only(folder: Path) -> Path:
    (found,) = [path for path in folder.iterdir() if path.is_dir()]
    return found


def test_the_cache_is_plain_safetensors_and_json(tmp_path: Path, cache_folder: Path) -> None:
    dataset = open_dataset(write(tmp_path, names(5)))
    place = only(cache_folder)
    assert {path.name for path in place.iterdir()} == {
        *("images.safetensors", "records.safetensors", "manifest.json", "report.json")
    }
    images = load_file(place / "images.safetensors")["images"]
    assert np.array_equal(images, dataset.images(range(5)).numpy())
    assert json.loads((place / "report.json").read_text())["images"] == 5


def test_a_second_call_decodes_nothing_and_a_changed_source_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, names(4))
    first = open_dataset(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "Build", None)
        assert open_dataset(tmp_path).fingerprint == first.fingerprint
    (tmp_path / "a" / "00000.png").write_bytes(png(99))
    changed = open_dataset(tmp_path)
    assert changed.fingerprint != first.fingerprint
    assert np.array_equal(changed.images([0])[0].numpy(), picture(99))
    assert open_dataset(tmp_path, fit="pad").fingerprint != changed.fingerprint


def test_the_fingerprint_is_of_contents_not_of_places_or_times(tmp_path: Path) -> None:
    one = open_dataset(write(tmp_path / "one", names(4)))
    other = write(tmp_path / "two", names(4))
    os.utime(other / "a" / "00000.png", (1, 1))
    assert open_dataset(other).fingerprint == one.fingerprint


def test_damaged_files_below_five_percent_are_skipped_and_named(tmp_path: Path) -> None:
    write(tmp_path, names(40))
    (tmp_path / "a" / "00004.png").write_bytes(png(4)[:50])
    (tmp_path / "b" / "00001.png").write_bytes(picture(2, 8, 8).tobytes())
    report = open_dataset(tmp_path).info.report
    assert (report.records, report.images, report.skipped) == (40, 38, 2)
    assert {file.name for file in report.skipped_files} == {"a/00004.png", "b/00001.png"}
    (tmp_path / "a" / "00006.png").write_bytes(b"")
    with pytest.raises(DataError, match="3 of 40 images cannot be read, more than 5%"):
        open_dataset(tmp_path)


def test_duplicates_are_counted(tmp_path: Path) -> None:
    write(tmp_path, names(6))
    for copy in ("c.png", "d.png"):
        (tmp_path / copy).write_bytes(png(0))
    assert open_dataset(tmp_path).info.report.duplicates == 2


def test_a_cache_cut_short_is_built_anew(tmp_path: Path, cache_folder: Path) -> None:
    write(tmp_path, names(6))
    first = open_dataset(tmp_path)
    last = first.images([5])[0].clone()
    images = only(cache_folder) / "images.safetensors"
    images.write_bytes(images.read_bytes()[:-10])
    again = open_dataset(tmp_path)
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(again.images([5])[0].numpy(), last.numpy())


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path / "data", names(2))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="set DANQING_CACHE to another folder"):
        open_dataset(tmp_path / "data", cache_dir=tmp_path / "file")


@pytest.mark.parametrize("few", [0, 10_000])
def test_threads_and_processes_build_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    write(tmp_path, names(150))
    (tmp_path / "a" / "00004.png").write_bytes(b"damaged")
    monkeypatch.setattr(decoding, "FEW", few)
    dataset = open_dataset(tmp_path, cache_dir=tmp_path.parent / f"cache {few}")
    expected = [number for number in [*range(0, 150, 2), *range(1, 150, 2)] if number != 4]
    assert np.array_equal(dataset.images(range(149)).numpy(), np.stack([picture(n) for n in expected]))


def test_a_decoder_that_dies_takes_only_its_file_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, names(150))
    monkeypatch.setattr(decoding, "FEW", 0)
    decode = decoding._Worker.decode

    def die_of_the_tenth(worker: decoding._Worker, items: list[bytes | Path]) -> object:
        if any(str(item).endswith("00010.png") for item in items):
            worker._process.kill()
        return decode(worker, items)

    monkeypatch.setattr(decoding._Worker, "decode", die_of_the_tenth)
    report = open_dataset(tmp_path).info.report
    assert (report.images, report.skipped) == (149, 1)
    assert report.skipped_files[0].name == "a/00010.png"
    assert "crashed" in report.skipped_files[0].reason


BUILD = """
import sys
from danqing.data import cache_build, open_dataset
cache_build._COMMIT_IMAGES = 64
dataset = open_dataset(sys.argv[1], on_progress=lambda done, total, what: print(done, flush=True))
print("fingerprint", dataset.fingerprint)
"""


def start_build(source: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", BUILD, str(source)], stdout=subprocess.PIPE, text=True)


def test_a_build_killed_again_and_again_goes_on_where_it_was(
    tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, names(1000))
    beginnings = []
    for kills in range(2):
        process = start_build(tmp_path)
        assert process.stdout is not None
        beginnings.append(int(process.stdout.readline()))
        time.sleep(0.005 * kills)
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        process.wait()
    (journal,) = cache_folder.glob("*/building.jsonl")
    with open(journal, "ab") as file:
        file.write(b'{"records": 64, "labels": [')  # cut short within an entry
    dataset = open_dataset(tmp_path)
    assert beginnings == sorted(set(beginnings))
    expected = np.stack([picture(n) for n in [*range(0, 1000, 2), *range(1, 1000, 2)]])
    assert np.array_equal(dataset.images(range(1000)).numpy(), expected)
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path.parent / "untouched"))
    assert open_dataset(tmp_path).fingerprint == dataset.fingerprint


def test_two_processes_that_ask_at_once_build_once(tmp_path: Path, cache_folder: Path) -> None:
    write(tmp_path, names(300))
    processes = [start_build(tmp_path) for _ in range(2)]
    outputs = [process.communicate()[0].splitlines() for process in processes]
    assert outputs[0][-1] == outputs[1][-1]
    assert sorted(len(lines) > 1 for lines in outputs) == [False, True]


@pytest.mark.parametrize("few", [0, 10_000])
def test_progress_reaches_the_end_and_an_interruption_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    write(tmp_path, names(200))
    monkeypatch.setattr(decoding, "FEW", few)
    monkeypatch.setattr(cache_build, "_COMMIT_IMAGES", 64)
    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int, what: str) -> None:
        seen.append((done, total))
        raise KeyboardInterrupt

    threads, processes = threading.active_count(), len(psutil.Process().children())
    with pytest.raises(KeyboardInterrupt):
        open_dataset(tmp_path, on_progress=stop)
    open_dataset(tmp_path, on_progress=lambda done, total, what: seen.append((done, total)))
    assert seen[-1] == (200, 200)
    assert threading.active_count() == threads
    assert len(psutil.Process().children()) == processes
