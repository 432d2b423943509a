"""Files that appear whole or not at all, and only once where they must be new."""

import contextlib
import os
import stat
import threading
from pathlib import Path

import pytest

from danqing import atomic


@pytest.mark.parametrize("has_links", [True, False])
def test_one_of_many_writers_creates_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    if not has_links:  # as on the file system of a USB stick
        monkeypatch.setattr(os, "link", lambda *_: os.stat("/does/not/exist"))
    path, winners, barrier = tmp_path / "key", list[int](), threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait()
        try:
            atomic.write_bytes(path, bytes([number]) * 99, private=True, is_new=True)
        except FileExistsError:
            return
        winners.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes()] == [bytes([number]) * 99 for number in winners]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["key"]


@pytest.mark.parametrize("name", ["a" * 255, "图" * 85])
def test_names_may_be_as_long_as_the_system_allows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    atomic.write_text(path, "whole")
    assert os.listdir(tmp_path) == [name]
    with contextlib.suppress(FileNotFoundError), atomic.replacing(path):
        (leftover,) = atomic.present(tmp_path) ^ set(os.listdir(tmp_path))
        assert leftover.endswith(".tmp")
        atomic.remove_leftovers_of(tmp_path / ("b" + name[1:]))
        assert len(os.listdir(tmp_path)) == 2
        atomic.remove_leftovers_of(path)
        assert os.listdir(tmp_path) == [name]
    assert path.read_text() == "whole"
