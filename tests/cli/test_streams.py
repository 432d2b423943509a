"""What surrounds a command: encodings and streams, full disks, and variables of the shell."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from danqing.cli import main
from danqing.data import open_dataset
from danqing.errors import DataError


def printed(monkeypatch: pytest.MonkeyPatch, encoding: str, *words: str) -> str:
    """Return what a command prints on a stdout of an encoding."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk", "utf-16"])
def test_output_fits_every_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    whole = printed(monkeypatch, "utf-8", "show", "demo")
    assert "橙色" in whole
    shown = printed(monkeypatch, encoding, "show", "demo")
    assert shown.encode("ascii", "backslashreplace") == whole.encode("ascii", "backslashreplace")
    exact = json.loads(printed(monkeypatch, "utf-8", "show", "demo", "--json"))
    assert json.loads(printed(monkeypatch, encoding, "show", "demo", "--json")) == exact


def test_closed_streams_do_not_stop_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    for words, code in (("presets",), 0), (("show", "no-model"), 2):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == code


@pytest.mark.parametrize("words", [("presets",), ("presets", "--json")])
def test_a_result_that_cannot_be_written_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as left:
            main(words)
    assert left.value.code == 2
    assert "cannot be written to stdout (No space left on device)" in capsys.readouterr().err


def test_chinese_folders_are_read_where_the_system_knows_only_ascii(tmp_path: Path) -> None:
    for number, label in enumerate("猫狗"):
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.new("RGB", (8, 8), (99 * number, 0, 0)).save(tmp_path / "data" / label / "图.png")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "DANQING_CACHE": "cache"}
    done = subprocess.run(
        [sys.executable, "-m", "danqing", "data", "check", "data"],
        cwd=tmp_path,
        env={**os.environ, **ascii_only},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert rb"\u72d7 50.0%, \u732b 50.0%" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("data", "check", ""),
        ("train", "", "--preset", "vae-32"),
        ("upscale", "model", "--quiet", ""),
        ("sample", "demo", "--each", ""),
        ("sample", "demo", "--out="),
        ("evaluate", "folder", "--data", ""),
    ],
)
def test_an_unset_variable_of_the_shell_is_not_the_current_folder(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("0.png")
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    assert "is empty: give a name." in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["0.png"]
    with pytest.raises(DataError, match="The name of the data is empty"):
        open_dataset(" ")
