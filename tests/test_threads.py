"""How many threads a process starts: within its quota, and on free cores."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import danqing as dq
from danqing import control_groups, families, machine, threads
from danqing.evaluation.networks import open_network
from danqing.model.model import Model
from danqing.training.config_reading import resolve

NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in NAMES}


def run(code: str, **settings: str) -> None:
    """Run code that asserts, in a process in which torch is not imported yet."""
    subprocess.run([sys.executable, "-c", code], env=clean_environment() | settings, check=True)


def test_torch_starts_as_many_threads_as_the_quota_allows_unless_the_user_says_otherwise() -> None:
    quota = "from danqing import control_groups, threads; control_groups.cpus = lambda: 0.5; "
    check = "threads.configure(); import torch; assert torch.get_num_threads() == "
    of_this_machine = "import os, danqing; os.environ.pop('OMP_NUM_THREADS', None); "
    run(of_this_machine + quota + check + "1")
    run(quota + check + "2", OMP_NUM_THREADS="2")


def test_torch_that_was_imported_first_keeps_its_environment() -> None:
    run("import torch, os; before = dict(os.environ); import danqing; assert os.environ == before")


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
        return threads.free_cores(1.0, looks=1)

    assert free((0.0, 0.1, 0.1)) == 3
    assert free((1.0, 0.0, 0.0)) == 2
    assert free((0.3, 0.3, 0.3)) == 2
    assert free((1.0, 1.0, 1.0)) == 1
    assert free((1.0, 0.0, 0.0), own=1.0) == 3
    monkeypatch.setattr(threads, "_TIMES", tmp_path / "none")
    assert threads.free_cores(0.0) == 3


def test_what_was_seen_before_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_allowed", lambda: frozenset({0, 1}))
    monkeypatch.setattr(control_groups, "cpus", lambda: float("inf"))
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    spent = iter((0.0, 4.0, 0.0, 1.0))
    monkeypatch.setattr(threads, "_seconds_of_others", lambda: next(spent))
    for seconds, expected in ((0.1, 1), (4.0, 2)):
        begun = threads.Look()
        begun.time -= 4.0  # others have kept one core busy for all of it, and then for a quarter
        assert threads.free_cores(seconds, looks=1, begun=begun) == expected
    assert slept == [0.0, 0.0]


def test_a_moment_of_work_elsewhere_takes_no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_allowed", lambda: frozenset({0, 1}))
    monkeypatch.setattr(control_groups, "cpus", lambda: float("inf"))
    monkeypatch.setattr(time, "sleep", lambda _: None)

    def free(*looks: float) -> int:
        spent = iter([reading for look in looks for reading in (0.0, look)])
        monkeypatch.setattr(threads, "_seconds_of_others", lambda: next(spent))
        return threads.free_cores(1.0, looks=len(looks))

    assert free(1.0, 0.0, 1.0) == 2
    assert free(1.0, 1.0, 1.0) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_process_on_one_processor_has_one_core() -> None:
    code = "import os, danqing.threads as t; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
    run(code + "assert t.cores() == 1")


def test_commands_that_paint_take_free_cores_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(threads, "free_cores", lambda seconds, begun: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    machine.use_free_cores()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    machine.use_free_cores()
    assert chosen == [1]


@pytest.mark.parametrize("preset", ["gan-32", "vae-32", "transformer-32"])
def test_what_is_painted_does_not_depend_on_the_number_of_threads(preset: str) -> None:
    """Commands that paint may therefore take as many threads as cores are free."""
    side = 16 if preset == "transformer-32" else 32  # codes that are pixels are slow to write
    config = resolve(preset=preset).model_copy(update={"tokenizer": None})
    config = config.for_data(dq.open_dataset("digits:0,1", size=(side, side)))
    model = Model(families.build(config.model))
    for number, parameter in enumerate(model.family.parameters()):
        parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.05)
    painted = []
    for count in (1, 2):
        with machine.computing_threads(count):
            painted.append(model.sample(4, seed=3).array)
    assert np.array_equal(*painted)


def test_features_do_not_depend_on_the_number_of_threads() -> None:
    images = dq.open_dataset("digits:0,1", size=(32, 32)).images(range(40))
    network, found = open_network("auto"), []
    for count in (1, 2):
        with machine.computing_threads(count):
            found.append(network.features(images))
    assert torch.equal(*found)
