"""Runs whose processes are killed at random and resumed in other numbers, against one that never was.

    python benchmarks/killed_ranks.py [--kills 20] [--images 20000] [--families gan vae flow]

A run begins with a random number of processes: 1, 2 or 4. Spread over the run, and sometimes while they
start, a random one of them is killed (SIGKILL). The launcher starts all of them again, as it does by itself.
After some kills (--by-hand is their share), it is killed too, and the run is resumed with another number of
processes.

Columns, for each family: the kills; how often 1, 2 and 4 processes were started by hand, and how often the
launcher has restarted them; whether weights, averages, optimiser state and log are equal to those of a run on
one process that was never killed; how many images were missed, and how many were seen twice, in any epoch of
the steps that count. Each process writes down the images of each position for this. The last columns are
from the ledger of the run: its goodput, and its seconds as a share of those on the clock. With --by-hand 0
that share is 99% to 101%: what a process did before it was killed together with its launcher is not known.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOTES = "DANQING_BENCHMARK_NOTES"
SETTINGS = {
    "gan": ["--preset", "gan-32", "--set", "generator_features=4", "--set", "discriminator_features=4"],
    "vae": ["--preset", "vae-32", "--set", "features=4", "--set", "prior_features=16", "--set", "latents=8"],
    "flow": ["--preset", "flow-32", "--set", "widths=[8, 16]", "--set", "layers=1", "--set", "heads=2"],
}
COMMON = ["--size", "8", "--seed", "3", "--evaluate-every", "0", "--quiet"]
for pair in ("training.grains=4", "batch_size=16", "sample_images=4", "sample_grids=2", "precision=float32"):
    COMMON += ["--set", pair]
for pair in ("measure_seconds=0.01", "log_every_steps=7"):
    COMMON += ["--set", pair]
COUNTS = (1, 2, 4)
BATCH = 16


def of_rank(words: list[str]) -> None:
    """Train as one of the processes, and write down its number and the images of each step."""
    from danqing.cli import main as danqing
    from danqing.training.engine import Engine

    notes, rank = Path(os.environ[NOTES]), os.environ["RANK"]
    (notes / f"pid-{rank}.new").write_text(str(os.getpid()))
    os.replace(notes / f"pid-{rank}.new", notes / f"pid-{rank}")
    (notes / f"start-{rank}-{os.getpid()}").touch()
    step = Engine.step

    def noted(self: Engine, images: int, *arguments: Any, **options: Any) -> Any:
        result = step(self, images, *arguments, **options)
        with open(notes / f"ids-{os.getpid()}", "a", encoding="utf-8") as file:
            for position in range(images, images + self.images_per_step, self.config.batch_size):
                first = self.batches.rows.start or 0
                ids = self.batches.indices(position).tolist()
                file.write(json.dumps([position, first, ids]) + "\n")
        return result

    Engine.step = noted  # type: ignore[method-assign]
    danqing(words)


def of_launcher(processes: int, words: list[str]) -> None:
    """Start the processes of a run, as `danqing train --processes` does."""
    from danqing.cluster.launch import launch

    status, _ = launch([sys.executable, __file__, "rank", *words], processes)
    sys.exit(status)


class Killed:
    """A run that is killed again and again.

    place: for its folder, its notes and its cache.
    """

    def __init__(self, place: Path, words: list[str], rng: random.Random) -> None:
        self.place, self.words, self.rng = place, words, rng
        self.folder, self.notes = place / "run", place / "notes"
        self.notes.mkdir(parents=True)
        self.by_hand: Counter[int] = Counter()
        self.seconds = 0.0

    def start(self, processes: int) -> "subprocess.Popen[bytes]":
        self.by_hand[processes] += 1
        words = [sys.executable, __file__, "launcher", str(processes), *self.words, "--out", str(self.folder)]
        return subprocess.Popen(words, env=os.environ | {NOTES: str(self.notes)}, stdout=subprocess.DEVNULL)

    def pids(self) -> list[int]:
        """Return the processes that have started, without those that have ended."""
        found = []
        for path in self.notes.glob("pid-?"):
            with contextlib.suppress(ValueError, ProcessLookupError, OSError):
                os.kill(pid := int(path.read_text()), 0)
                found.append(pid)
        return found

    def seen(self, images: int) -> int:
        """Return how many images of a run the processes that are there have seen."""
        found = [0]
        for pid in self.pids():
            path = self.notes / f"ids-{pid}"
            with contextlib.suppress(OSError), open(path, "rb") as file:
                file.seek(max(0, path.stat().st_size - 4096))
                for line in file.read().splitlines()[1:]:
                    with contextlib.suppress(ValueError):
                        found.append(int(json.loads(line)[0]))
        return max(position for position in found if position < images)  # not those that were only measured

    def kill_one(self, launcher: "subprocess.Popen[bytes]", images: int, due: int) -> bool:
        """Kill one of the processes; returns whether there still was one.

        due: after how many images, or, by chance, while processes start.
        """
        in_steps = self.rng.random() < 0.75
        while launcher.poll() is None and (self.seen(images) < due if in_steps else not self.pids()):
            time.sleep(0.01)
        time.sleep(self.rng.uniform(0, 0.2 if in_steps else 2))
        for pid in self.rng.sample(found := self.pids(), len(found)):
            if launcher.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    return True
        return False

    def restarts(self) -> int:
        """Return how often the launcher has started all processes again."""
        return len(list(self.notes.glob("start-0-*"))) - sum(self.by_hand.values())

    def run(self, images: int, kills: int, by_hand: float) -> int:
        """Train to the end, with that many kills; returns how many there were.

        They are spread over the run of that many images.
        by_hand: the share of kills after which the run is resumed by hand.
        """
        done, began = 0, time.monotonic()
        launcher = self.start(self.rng.choice(COUNTS))
        while True:
            due = images * (done + 1) // (kills + 1)
            was_killed = done < kills and self.kill_one(launcher, images, due)
            done += was_killed
            if was_killed and self.rng.random() < by_hand:
                launcher.kill()
                launcher.wait()
            elif was_killed:
                continue
            elif (status := launcher.wait()) in (0, 1, 2):
                break
            # Otherwise it has given up, after kills in a row without a checkpoint.
            while self.pids():
                time.sleep(0.05)
            launcher = self.start(self.rng.choice(COUNTS))
        assert status == 0, "the run has failed"
        self.seconds = time.monotonic() - began
        return done

    def missed_and_twice(self, images: int, count: int) -> tuple[int, int]:
        """Return how many images are missing in an epoch, and how many are in it more than once.

        images: that the run has seen. count: of the data set.
        """
        seen: dict[int, int] = {}
        for path in self.notes.glob("ids-*"):
            for position, first, ids in _lines(path):
                for row, number in enumerate(ids):
                    known = seen.setdefault(position + first + row, number)
                    assert known == number, "another image at the same position"
        missed = twice = 0
        for epoch in range(-(-images // count)):
            places = range(epoch * count, min((epoch + 1) * count, images))
            ids = [seen[place] for place in places if place in seen]
            missed += len(places) - len(set(ids))
            twice += len(ids) - len(set(ids))
        return missed, twice


def _lines(path: Path) -> Iterator[tuple[int, int, list[int]]]:
    """Return the notes of a process, which may have been killed while it wrote."""
    for text in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            position, first, ids = json.loads(text)
            yield position, first, ids


def content(folder: Path) -> list[bytes]:
    """Return all that two equal runs have in common."""
    from danqing import weights
    from danqing.training import checkpoint

    found = checkpoint.read_latest(folder / "checkpoints")
    assert found is not None
    files = [folder / name for name in ("log.jsonl", "model/model.safetensors")]
    return [weights.digest(found[0]).encode(), *(file.read_bytes() for file in files)]


def main() -> None:
    if sys.argv[1:2] == ["rank"]:
        return of_rank(sys.argv[2:])
    if sys.argv[1:2] == ["launcher"]:
        return of_launcher(int(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--by-hand", type=float, default=0.5)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--families", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from danqing.cluster import ledger
    from danqing.data import open_dataset

    count = len(open_dataset("shapes", size=(8, 8)))
    print(f"{'family':7} {'kills':>5} {'by hand: 1, 2, 4':>16} {'restarts':>8}", end=" ")
    print(f"{'equal':>5} {'missed':>6} {'twice':>5} {'goodput':>7} {'counted':>7}", flush=True)
    for family in args.families:
        with tempfile.TemporaryDirectory() as folder:
            words = ["train", "shapes", *SETTINGS[family], *COMMON, "--images", str(args.images), "--set"]
            rng = random.Random(f"{family} {args.seed}")
            whole = Killed(Path(folder) / "whole", [*words, "checkpoint_seconds=60"], rng)
            whole.run(args.images, 0, 0)
            killed = Killed(Path(folder) / "killed", [*words, "checkpoint_seconds=0.2"], rng)
            kills = killed.run(args.images, args.kills, args.by_hand)
            total = -(-args.images // BATCH) * BATCH
            missed, twice = killed.missed_and_twice(total, count)
            is_equal = content(whole.folder) == content(killed.folder)
            lines = ledger.read(killed.folder / "goodput.jsonl")
            told = ledger.summary(lines)
            by_hand = ", ".join(str(killed.by_hand[number]) for number in COUNTS)
            print(
                f"{family:7} {kills:5} {by_hand:>16} {killed.restarts():8} {'yes' if is_equal else 'NO':>5} "
                f"{missed:6} {twice:5} {told['goodput']:7.1%} {told['wall'] / killed.seconds:7.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
