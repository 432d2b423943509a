"""Limits of memory and of processor time, as both versions of Linux's control groups tell them."""

import math
import sys
from pathlib import Path

import pytest

from danqing import control_groups, machine
from danqing.control_groups import Allowance

V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


def group(folder: Path, names: tuple[str, str, str], limit: int | str, used: int, cache: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cache}\n")


@pytest.mark.parametrize(
    ("names", "root", "line"), [(V2, ".", "0::{}"), (V1, "memory", "7:cpu,memory:{}\n0::/")]
)
def test_the_tightest_of_the_groups_around_a_process_counts(
    names: tuple[str, str, str], root: str, line: str, tmp_path: Path
) -> None:
    listed, mount = tmp_path / "cgroup", tmp_path / "mount"
    listed.write_text(f"3:cpuset:/other\n{line.format('/pods/one')}\n")
    assert control_groups.memory(listed, mount) == Allowance(sys.maxsize, sys.maxsize)
    outer = mount / root / "pods"
    group(outer / "one", names, "max" if names is V2 else 2**63 - 4096, 700)
    group(mount / root / "other", names, 1, 1)  # not ours
    assert control_groups.memory(listed, mount).limit >= 2**63 - 4096
    group(outer, names, 1000, 900, 300)
    assert control_groups.memory(listed, mount) == Allowance(1000, 400)
    group(outer / "one", names, 2000, 1900, 100)
    assert control_groups.memory(listed, mount) == Allowance(1000, 200)
    group(outer, names, 1000, 1001)
    assert control_groups.memory(listed, mount) == Allowance(1000, 0)


@pytest.mark.parametrize("path", ["/", "/docker/0123", "/../../elsewhere"])
def test_a_container_that_sees_its_own_group_alone_finds_it(path: str, tmp_path: Path) -> None:
    listed, mount = tmp_path / "cgroup", tmp_path / "mount"
    listed.write_text(f"0::{path}\n")
    group(mount, V2, 5000, 1000)
    assert control_groups.memory(listed, mount) == Allowance(5000, 4000)


def test_nothing_limits_where_there_are_no_groups(tmp_path: Path) -> None:
    assert control_groups.memory(tmp_path / "none", tmp_path) == Allowance()
    (tmp_path / "odd").write_text("no group\n")
    assert control_groups.memory(tmp_path / "odd", tmp_path) == Allowance()


def test_a_smaller_container_is_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert machine.available_memory(torch.device("cpu")) > 5000
    monkeypatch.setattr(control_groups, "memory", lambda: Allowance(7000, 5000))
    assert machine.available_memory(torch.device("cpu")) == 5000
    assert machine.total_memory() == 7000


@pytest.mark.parametrize(("root", "line"), [(".", "0::{}"), ("cpu", "1:cpu,cpuacct:{}\n0::/")])
def test_the_tightest_quota_of_processor_time_counts(root: str, line: str, tmp_path: Path) -> None:
    listed, mount = tmp_path / "cgroup", tmp_path / "mount"
    listed.write_text(f"5:memory:/other\n{line.format('/pods/one')}\n")
    assert control_groups.cpus(listed, mount) == math.inf
    outer = mount / root / "pods"

    def limit(folder: Path, quota: int | None, period: int = 100_000) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if root == ".":
            (folder / "cpu.max").write_text(f"{'max' if quota is None else quota} {period}\n")
        else:
            (folder / "cpu.cfs_quota_us").write_text(f"{-1 if quota is None else quota}\n")
            (folder / "cpu.cfs_period_us").write_text(f"{period}\n")

    limit(outer / "one", None)
    limit(mount / root / "other", 1000)  # not ours
    assert control_groups.cpus(listed, mount) == math.inf
    limit(outer, 150_000)
    assert control_groups.cpus(listed, mount) == 1.5
    limit(outer / "one", 400_000, 200_000)
    assert control_groups.cpus(listed, mount) == 1.5
    limit(outer / "one", 20_000, 200_000)
    assert control_groups.cpus(listed, mount) == 0.1
