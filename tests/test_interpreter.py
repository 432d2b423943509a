"""Processes of ours find our modules, whatever lies in the folder in which a user works."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from danqing import interpreter
from danqing.cluster.launch import launch

SOURCE = Path(interpreter.__file__).parent
SHADOWS = ("random.py", "queue.py", "emoji.py", "danqing/__init__.py")


def test_files_of_the_current_folder_replace_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SHADOWS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    command = interpreter.command("danqing", "--version")
    status, written = launch(command, 1, output=subprocess.PIPE)
    assert (status, written.split()[:1]) == (0, [b"danqing"])


def test_every_process_of_ours_is_started_in_this_way() -> None:
    others = [path for path in SOURCE.rglob("*.py") if path.name != "interpreter.py"]
    assert not [
        path for path in others if re.search(r'executable[,"\s]+"-', path.read_text(encoding="utf-8"))
    ]
