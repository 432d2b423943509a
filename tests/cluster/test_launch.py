"""Launching processes: each finds its place, one that fails ends all, and signals reach everyone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from danqing.cluster.launch import LOST, launch
from danqing.cluster.place import Place, check_power_of_two
from danqing.errors import ConfigError

BEGIN = "import os, signal, sys, time\nfrom danqing.cluster.place import Place\nplace = Place.of()\n"


def python(text: str) -> list[str]:
    return [sys.executable, "-c", BEGIN + text]


def test_each_process_finds_its_place_and_the_first_one_answers(tmp_path: Path) -> None:
    text = f"open(r'{tmp_path}/' + str(place.rank), 'w').write(str(tuple(place)))\nprint(place.size, end='')"
    assert launch(python(text), 2, output=subprocess.PIPE) == (0, b"2")
    found = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert found == ["(0, 2, 0, 2)", "(1, 2, 1, 2)"]


def test_the_status_is_that_of_the_process_that_failed_first(capfd: pytest.CaptureFixture[str]) -> None:
    # The first process ends because the second has ended, and is noticed before.
    text = f"sys.exit({LOST}) if place.rank == 0 else (time.sleep(1), print('why', end=''), sys.exit(3))"
    assert launch(python(text), 2, output=subprocess.PIPE) == (3, b"why")
    text = f"sys.exit({LOST}) if place.rank == 0 else (time.sleep(1), os.kill(os.getpid(), signal.SIGKILL))"
    assert launch(python(text), 2)[0] == 128 + signal.SIGKILL
    assert "Process 2 of 2 was ended by SIGKILL" in " ".join(capfd.readouterr().err.split())


LAUNCHER = """
import sys
from danqing.cluster.launch import launch
sys.exit(launch([sys.executable, "-c", sys.argv[1]], 2)[0])
"""
WORK = """
import os, signal, sys, time
from pathlib import Path
from danqing.cluster.launch import end_with_launcher
folder, rank = Path(os.environ["FOLDER"]), os.environ["RANK"]
def end(number, frame):
    (folder / f"{rank}-ended").touch()
    sys.exit(130)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, end)
end_with_launcher()
(folder / f"{rank}-began").touch()
time.sleep(600)
"""


def wait_for(paths: list[Path]) -> None:
    for _ in range(6000):
        if all(path.exists() for path in paths):
            return
        time.sleep(0.05)
    raise AssertionError(f"{paths} are missing")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_one_that_launched_them(tmp_path: Path, number: int) -> None:
    environment = {**os.environ, "FOLDER": str(tmp_path)}
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, WORK], env=environment)
    wait_for([tmp_path / f"{rank}-began" for rank in (0, 1)])
    launcher.send_signal(number)
    wait_for([tmp_path / f"{rank}-ended" for rank in (0, 1)])
    assert launcher.wait(300) == (130 if number == signal.SIGINT else -number)


def test_a_process_that_cannot_be_started_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    started, start = list[subprocess.Popen[bytes]](), subprocess.Popen

    def limited(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        if started:
            raise BlockingIOError("there are too many processes")
        started.append(start(*arguments, **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", limited)
    with pytest.raises(BlockingIOError):
        launch([sys.executable, "-c", "import time; time.sleep(60)"], 2)
    assert started[0].poll() is not None


def test_a_place_is_read_from_the_environment() -> None:
    assert Place.of({"PATH": "/bin"}) is None
    assert Place.of({"RANK": "1", "WORLD_SIZE": "4"}) == Place(1, 4, 1, 4)
    of_torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert Place.of(of_torchrun) == Place(5, 8, 1, 4)
    with pytest.raises(ConfigError, match=r"RANK=4, WORLD_SIZE=4"):
        Place.of({"RANK": "4", "WORLD_SIZE": "4"})
    with pytest.raises(ConfigError, match=r"RANK=one"):
        Place.of({"RANK": "one", "WORLD_SIZE": "4"})
    with pytest.raises(ConfigError, match="WORLD_SIZE is 3"):
        Place.of({"RANK": "0", "WORLD_SIZE": "3"})
    with pytest.raises(ConfigError, match="--processes is 6, and a run needs 1, 2, 4, 8"):
        check_power_of_two(6, "--processes")
