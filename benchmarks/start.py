"""How long commands take to start: the package, its help, and small models that draw four images.

For each, the shortest of several tries in a process of its own: seconds of the clock, and of all processors.
`import torch` is what no command with a model can do without. GAN has random weights, for tests; demo is
the model in the package, which writes its images code by code.

    python benchmarks/start.py [--tries 5]
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PYTHON = [sys.executable, "-c"]
DANQING = [sys.executable, "-m", "danqing"]
FOUR = ["-n", "4", "--out", "grid.png"]
GAN = str(Path(__file__).resolve().parents[1] / "tests" / "golden" / "gan")
STARTS = {
    "python": [*PYTHON, "pass"],
    "import danqing": [*PYTHON, "import danqing"],
    "danqing --help": [*DANQING, "--help"],
    "danqing sample --help": [*DANQING, "sample", "--help"],
    "import torch": [*PYTHON, "import torch"],
    "danqing sample GAN": [*DANQING, "sample", GAN, *FOUR],
    "danqing sample demo": [*DANQING, "sample", "demo", *FOUR],
    "the same without marks": [*DANQING, "sample", "demo", *FOUR, "--marks", "none"],
}


def spent(command: list[str], folder: Path) -> tuple[float, float]:
    """Return the seconds of the clock and of the processors that a command takes."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"DANQING_TRUST": str(folder / "trust")}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tries", type=int, default=5)
    tries = parser.parse_args().tries
    print(f"{'':26}{'clock':>8}{'processors':>13}")
    with tempfile.TemporaryDirectory() as folder:
        for name, command in STARTS.items():
            spent(command, Path(folder))  # files that are read, keys that are made
            found = [spent(command, Path(folder)) for _ in range(tries)]
            clock, processors = (min(values) for values in zip(*found, strict=True))
            print(f"{name:26}{1000 * clock:6.0f} ms{1000 * processors:10.0f} ms")


if __name__ == "__main__":
    main()
