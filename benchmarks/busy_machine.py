"""Speed of training, sampling and evaluation next to a process that keeps a core busy.

    python benchmarks/busy_machine.py --minutes 4 [--out busy.json] [--data FASHION_MNIST]
    python benchmarks/busy_machine.py --neighbour numpy --settings torch "1 thread" --out other.json

Each kind of work (see `busy_contestant.py`) runs under several settings of PyTorch's threads, each in its own
process. All processes of one kind wait while one of them works: first alone, then next to the busy process,
round by round. A turn is repeated if anything else computed for more than a tenth of it. `torch` is PyTorch's
default. A run of Danqing begins with it on an idle machine, and with `1 thread` if one of two cores is busy.
The family `plain` is a plain PyTorch loop.

Results are saved in `--out` after each kind of work, and `--minutes` stops the benchmark before it would take
longer. The same command continues it, and prints a table of all results. The columns are images per second,
alone and next to the busy process, and the ratio of each to `torch` alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

FAMILIES = ("gan", "vae", "vqvae", "transformer")
WORKS = [
    "plain training",
    *(f"{family} training" for family in FAMILIES),
    *(f"{family} sampling" for family in FAMILIES),
    "features evaluation",
]
SETTINGS: dict[str, dict[str, str]] = {
    "torch": {},
    "spin 20000": {"GOMP_SPINCOUNT": "20000"},
    "spin 2000": {"GOMP_SPINCOUNT": "2000"},
    "spin 500": {"GOMP_SPINCOUNT": "500"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "1 thread": {"OMP_NUM_THREADS": "1"},
}
SPIN = "while True: pass"
NUMPY = "import numpy; a = numpy.random.default_rng(0).random((512, 512))\nwhile True: a @ a"
NEIGHBOURS = {"spin": SPIN, "numpy": NUMPY}
_TRIES = 200
_DISTURBED = 0.1
OURS = ("OMP_", "GOMP_", "KMP_", "MKL_")


class Contestant:
    """A process that does one kind of work with one setting, until it is stopped."""

    def __init__(self, work: str, setting: str, data: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        script = Path(__file__).with_name("busy_contestant.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), *work.split(), "--data", data],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=kept | SETTINGS[setting],
            text=True,
        )
        self._answer()

    def speed(self, seconds: float) -> float:
        """Measure images per second over a number of seconds."""
        assert self._process.stdin is not None
        print(seconds, file=self._process.stdin, flush=True)
        return float(self._answer())

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("A contestant has ended too early: its message is above.")
        return line


@contextmanager
def busy(neighbour: str) -> Iterator[int]:
    """Keep a core busy within a block; yield the id of the process that does so."""
    code = NEIGHBOURS[neighbour]
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | one)
    time.sleep(0.3)  # until it has started
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def seconds_of_others(*known: int) -> float:
    """Return the processor time that all other processes used."""
    ticks = sum(int(count) for count in Path("/proc/stat").read_text().splitlines()[0].split()[1:4])
    for pid in known:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks -= int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def undisturbed(contestant: Contestant, seconds: float, *neighbours: int) -> float:
    """Measure the speed in a turn in which nothing else computed."""
    for _ in range(_TRIES):
        before, started = seconds_of_others(contestant.pid, *neighbours), time.monotonic()
        speed = contestant.speed(seconds)
        others = seconds_of_others(contestant.pid, *neighbours) - before
        if others < _DISTURBED * (time.monotonic() - started):
            return speed
        time.sleep(1.0)
    raise SystemExit("The machine is never idle: stop other programs, then run this again.")


def measure(work: str, options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Measure one kind of work in images per second, by setting, alone and next to the busy process."""
    with ExitStack() as stack:
        contestants = {}
        for setting in options.settings:
            contestants[setting] = Contestant(work, setting, options.data)
            stack.callback(contestants[setting].end)
        speeds: dict[str, dict[str, list[float]]] = {name: {"alone": [], "busy": []} for name in contestants}
        for turn in range(options.rounds):
            order = list(contestants) if turn % 2 == 0 else list(contestants)[::-1]
            for name in order:
                speeds[name]["alone"].append(undisturbed(contestants[name], options.seconds))
            with busy(options.neighbour) as neighbour:
                for name in order:
                    speeds[name]["busy"].append(undisturbed(contestants[name], options.seconds, neighbour))
    return speeds


def table(results: dict[str, Any]) -> str:
    """Return the medians of the measurements as a table."""
    lines = [f"{'work':22} {'setting':16} {'alone':>8} {'of idle':>8} {'busy':>8} {'of idle':>8}"]
    for work, speeds in results.items():
        first = next(iter(speeds.values()))
        idle = statistics.median(first["alone"])
        for setting, found in speeds.items():
            alone, disturbed = (statistics.median(found[name]) for name in ("alone", "busy"))
            lines.append(
                f"{work:22} {setting:16} {alone:8.1f} {alone / idle:8.2f} {disturbed:8.1f} "
                f"{disturbed / idle:8.2f}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="digits", help="images to work on, resized to 32×32")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=WORKS, metavar="WORK")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--neighbour", choices=NEIGHBOURS, default="spin")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.5, help="of work in each turn")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="when to stop; the same command continues"
    )
    parser.add_argument("--out", type=Path, default=Path("busy.json"), help="the file of results")
    options = parser.parse_args()
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    began, longest = time.monotonic(), 0.0
    for work in options.works:
        started = time.monotonic()
        if work in results:
            continue
        if started - began + longest > options.minutes * 60:
            break
        results[work] = measure(work, options)
        options.out.write_text(json.dumps(results))
        longest = max(longest, time.monotonic() - started)
    print(table(results))


if __name__ == "__main__":
    main()
