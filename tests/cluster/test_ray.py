"""The tests of Ray, in a process of their own.

Threads of Ray outlive its shutdown, and may end their process once they miss the cluster.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.service import postgresql

pytestmark = pytest.mark.slow


def test_studies_evaluations_and_replicas_run_on_a_ray_cluster(tmp_path: Path) -> None:
    tests = Path(__file__).parent / "studies_on_ray.py"
    options = ["-v", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "ray")]
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tests)],
        cwd=tests.parents[2],
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    summary = finished.stdout.splitlines()[-1]
    assert " passed" in summary, finished.stdout
    assert " skipped" not in summary or postgresql.programs() is None, finished.stdout
