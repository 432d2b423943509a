"""Processes that are launched together start again when one of them dies, and only then."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import danqing as dq
from danqing.cluster import launch, ledger
from danqing.data import Batches, open_dataset
from danqing.training.run_folder import RunFolder
from tests.checkpoints import newest

SCRIPT = """
import os, signal, sys
rank, restart = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
print(rank, restart, file=open(sys.argv[1] + f"/{restart}-{rank}", "w"))
def die(): os.kill(os.getpid(), signal.SIGKILL)
def save(): open(os.environ["DANQING_PROGRESS"], "w").close()
"""


def launched(tmp_path: Path, code: str) -> tuple[int, bytes, int]:
    """Launch two processes of a script; returns their status, the output and how often they began."""
    command = [sys.executable, "-c", SCRIPT + code, str(tmp_path)]
    status, written = launch.launch(command, 2, output=subprocess.PIPE)
    starts = {path.name.partition("-")[0] for path in tmp_path.iterdir()}
    return status, written, len(starts)


def test_all_processes_start_again_when_one_is_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "\nif rank == 1 and restart == 0: die()\nif restart == 0: sys.exit(75)\nprint(f'end {restart}')"
    assert launched(tmp_path, code) == (0, b"end 1\n", 2)
    said = " ".join(capsys.readouterr().err.split())
    assert "Process 2 of 2 was ended by SIGKILL" in said
    assert "start again from the last checkpoint" in said


def test_processes_that_die_without_saving_anything_are_given_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, starts = launched(tmp_path, "\nif rank == 0: die()\nsys.exit(75)")
    assert (status, starts) == (128 + signal.SIGKILL, launch.MOST_FRUITLESS)
    assert "3 times before anything was saved" in " ".join(capsys.readouterr().err.split())


def test_processes_that_save_something_are_started_again_and_again(tmp_path: Path) -> None:
    code = "\nif rank == 0 and restart < 5: save(); die()"
    assert launched(tmp_path, code) == (0, b"", 6)


def test_an_error_ends_the_processes_for_good(tmp_path: Path) -> None:
    assert launched(tmp_path, "\nsys.exit(2 if rank == 1 else 75)") == (2, b"", 1)


def test_no_image_of_an_epoch_is_missed_or_repeated_by_any_number_of_processes(tmp_path: Path) -> None:
    dataset = open_dataset("digits", size=(8, 8), cache_dir=tmp_path)
    count, batch = len(dataset), 16
    seen: list[int] = []
    for step, position in enumerate(range(0, 2 * count, batch)):
        size = (1, 2, 4)[step % 3]  # as if the run was resumed at each step by another number
        rows = [slice(rank * batch // size, (rank + 1) * batch // size) for rank in range(size)]
        for each in rows:
            seen += Batches(dataset, batch, 7, rows=each).indices(position).tolist()
    for epoch in (0, 1):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert seen[:count] != seen[count : 2 * count]


WORDS = ["--preset", "vae-32", "--size", "8", "--seed", "3", "--evaluate-every", "0", "--quiet"]
SETTINGS: dict[str, Any] = {
    **{"net": "mlp", "features": 4, "prior": "normal", "batch_size": 16, "measure_seconds": 0.01},
    **{"precision": "float32", "sample_grids": 2, "sample_images": 4, "training.grains": 2},
}
IMAGES = 6000
OFTEN = {**SETTINGS, "checkpoint_seconds": 0.1}


def train(out: Path) -> dq.Run:
    """Train the run in this process, with one thread, as its grains demand."""
    options = {"preset": "vae-32", "size": (8, 8), "seed": 3, "evaluate_every": 0, "images": IMAGES}
    return dq.train("digits", out=out, settings=SETTINGS, listener=dq.Listener(), **options)  # type: ignore[arg-type]


def command(out: Path, **more: Any) -> list[str]:
    words = ["-m", "danqing", "train", "digits", *WORDS, "--images", str(IMAGES), "--out", str(out)]
    for key, value in {**OFTEN, **more}.items():
        words += ["--set", f"{key}={value}"]
    return words


def reaches(run: Path, images: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a run has a checkpoint after so many images."""
    while newest_name(run) < f"images-{images:012d}":
        assert process.poll() is None, "the run was over before it had been killed"
        time.sleep(0.01)


def newest_name(run: Path) -> str:
    return max((path.name for path in run.glob("checkpoints/images-*")), default="")


def ranks_of(process: "subprocess.Popen[bytes]") -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    return [int(number) for number in found.stdout.split()]


def assert_equal_runs(one: Path, other: Path) -> None:
    first, second = (newest(folder)[0] for folder in (one, other))
    assert first.keys() == second.keys()
    assert all(first[name].equal(value) for name, value in second.items())
    for name in ("log.jsonl", "model/model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("DANQING_CACHE", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


@pytest.fixture(scope="module")
def whole(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("whole") / "run").folder


@pytest.mark.slow
def test_killed_processes_with_shards_of_the_optimiser_start_again_and_one_process_goes_on(
    whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = [sys.executable, *command(run, **{"training.shard": "true"}), "--processes", "2"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    reaches(run, 500, process)
    killed = ranks_of(process)[1]
    os.kill(killed, signal.SIGKILL)
    parts = sorted(path.name for path in max(run.glob("checkpoints/images-*")).iterdir())
    assert parts == ["manifest.json", "rank-0-of-2.safetensors", "rank-1-of-2.safetensors"]
    reached = int(newest_name(run).removeprefix("images-"))
    reaches(run, reached + 500, process)
    process.kill()  # the ranks end by themselves
    process.wait()
    deadline = time.monotonic() + 600
    while RunFolder(run).facts()["status"] == "running" and time.monotonic() < deadline:
        time.sleep(0.1)
    with FileLock(run / ".lock", timeout=600):  # until the last process has left
        pass
    assert train(run).status == "finished"
    assert_equal_runs(whole, run)
    told = RunFolder(run).facts()["goodput"]
    assert told["attempts"] == 3
    assert told["lost"]["restart"] > 0
    parts_of = told["useful"] + sum(told["lost"].values()) + sum(told["waiting"].values())
    assert parts_of == pytest.approx(told["wall"])


@pytest.mark.slow
def test_torchrun_starts_killed_processes_again(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += ["--max-restarts", "2", *command(run)]
    began = time.time()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    reaches(run, 500, process)
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    assert process.wait(timeout=1800) == 0
    spent = time.time() - began
    assert_equal_runs(whole, run)
    told = RunFolder(run).facts()["goodput"]
    assert (told["attempts"], told["failures"]) == (2, 1)
    assert told["lost"]["restart"] > 0
    outside = ledger.read(run / "goodput.jsonl")[0]["began"] - began  # torchrun starts before its processes
    assert told["wall"] == pytest.approx(spent - outside, rel=0.01, abs=5)
