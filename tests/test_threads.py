"""How many threads a process starts, and how they wait, as the OpenMP runtime itself reports it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from danqing import control_groups, threads

NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in NAMES}


def reported(code: str, **settings: str) -> str:
    """What OpenMP says of its settings when `code` loads it."""
    environment = clean_environment() | {"OMP_DISPLAY_ENV": "verbose"} | settings
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other OpenMP runtimes")
@pytest.mark.parametrize("code", ["import danqing, torch", "import danqing.cli, danqing.model"])
def test_openmp_waits_as_danqing_says_unless_the_user_says_otherwise(code: str) -> None:
    expected = f"GOMP_SPINCOUNT = '{threads._WAITING['GOMP_SPINCOUNT']}'"
    assert expected in reported(code)
    assert expected not in reported(code, GOMP_SPINCOUNT="77")
    assert "GOMP_SPINCOUNT = '77'" in reported(code, GOMP_SPINCOUNT="77")
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in reported(code, OMP_WAIT_POLICY="active")
    assert expected not in reported(code, OMP_WAIT_POLICY="active")


def test_torch_that_was_imported_first_keeps_its_environment() -> None:
    code = "import torch, os; before = dict(os.environ); import danqing; assert os.environ == before"
    reported(code)


def quota(monkeypatch: pytest.MonkeyPatch, cpus: float, processors: int = 64) -> None:
    monkeypatch.setattr(control_groups, "cpus", lambda: cpus)
    monkeypatch.setattr(threads, "_allowed", lambda: frozenset(range(processors)))
    monkeypatch.delitem(sys.modules, "torch", raising=False)


@pytest.mark.parametrize(
    ("cpus", "cores"), [(1.5, 2), (0.2, 1), (3.0, 3), (64.0, 64), (100.0, 64), (float("inf"), 64)]
)
def test_a_quota_limits_the_threads(
    cpus: float, cores: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quota(monkeypatch, cpus)
    monkeypatch.setattr(threads, "_TOPOLOGY", tmp_path)
    environment: dict[str, str] = {}
    threads.configure(environment)
    assert threads.cores() == cores
    # Without a tighter quota, PyTorch counts the physical cores itself.
    assert environment.get("OMP_NUM_THREADS") == (str(cores) if cores < 64 else None)
    chosen = {"OMP_NUM_THREADS": "7"}
    threads.configure(chosen)
    assert chosen["OMP_NUM_THREADS"] == "7"


def test_two_processors_of_one_core_get_one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quota(monkeypatch, 3.0, processors=4)
    monkeypatch.setattr(threads, "_TOPOLOGY", tmp_path)
    for number in range(4):
        (tmp_path / f"cpu{number}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{number}/topology/thread_siblings_list").write_text(
            f"{number % 2},{number % 2 + 2}\n"
        )
    environment: dict[str, str] = {}
    threads.configure(environment)
    assert environment["OMP_NUM_THREADS"] == "2"
    assert threads.cores() == 3


def test_cores_that_others_keep_busy_are_not_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(threads, "_allowed", lambda: frozenset({0, 1, 3}))
    monkeypatch.setattr(control_groups, "cpus", lambda: float("inf"))
    monkeypatch.setattr(threads, "_TIMES", tmp_path / "stat")
    tick = os.sysconf("SC_CLK_TCK")

    def free(seconds: tuple[float, float, float], own: float = 0.0) -> int:
        def write(*spent: float) -> None:
            lines = ["cpu  9 9 9 9 9 9 9"]
            lines += [
                f"cpu{number} {int(tick * each)} 0 0 5 6 0 0 0 0 0" for number, each in enumerate(spent)
            ]
            (tmp_path / "stat").write_text("\n".join([*lines, "intr 5"]))

        write(0, 0, 0, 0)
        clock = iter((0.0, own))
        monkeypatch.setattr(time, "process_time", lambda: next(clock))
        monkeypatch.setattr(time, "sleep", lambda _: write(seconds[0], seconds[1], 1.0, seconds[2]))
        return threads.free_cores(1.0)

    assert free((0.0, 0.1, 0.1)) == 3
    assert free((1.0, 0.0, 0.0)) == 2
    assert free((0.3, 0.3, 0.3)) == 2
    assert free((1.0, 1.0, 1.0)) == 1
    assert free((1.0, 0.0, 0.0), own=1.0) == 3
    monkeypatch.setattr(threads, "_TIMES", tmp_path / "none")
    assert threads.free_cores(0.0) == 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_process_on_one_processor_has_one_core() -> None:
    code = "import os, danqing.threads as t; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
    reported(code + "assert t.cores() == 1")
