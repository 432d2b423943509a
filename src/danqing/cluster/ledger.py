"""The ledger of a run: what each of its seconds was spent on, over all processes that trained it.

One process at a time writes the ledger, also in a run of many ranks. A line holds the seconds of the process
so far. A process that is killed leaves no last line, so what it lost follows from where the next one begins.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

Activity = Literal["start", "useful", "checkpoint", "data", "ranks", "evaluation", "samples", "end"]
"""What a process does; "useful" are training steps, and everything else is waiting."""

STARTED = "DANQING_STARTED"
"""The environment variable in which a launcher says when it began, in seconds since 1970."""
RESTART = "TORCHELASTIC_RESTART_COUNT"
"""The environment variable in which torchrun, and our launcher, count the restarts of all ranks."""
_SHARE, _FEWEST_SECONDS = 0.01, 1.0

_command_began: float | None = None


def command_begins() -> None:
    """Note that this process is a command, whose time is all that of the run that it trains."""
    global _command_began
    _command_began = time.time() - _age_of_process()


def started() -> float:
    """Return when the training that begins now was started, in seconds since 1970.

    It is when this process began, if it is a command, or the launcher that started it, or now.
    """
    global _command_began
    now, began = time.time(), _command_began
    _command_began = None  # another run of this process is another one
    if began is None:
        return now
    with contextlib.suppress(ValueError):
        of_launcher = float(os.environ.get(STARTED, ""))
        if not _restart() and began - 3600 < of_launcher <= began:
            return of_launcher
    return began


class Ledger:
    """What this process spends its seconds on, beginning with "start".

    path: the ledger of the run; None counts without writing, as ranks do that are not the first.
    since: when the process was started, as `started` returns it.
    """

    def __init__(self, path: Path | None, since: float) -> None:
        self._path, self._since, self._clock = path, since, time.monotonic()
        self._seconds: dict[str, float] = {"start": max(0.0, time.time() - since)}
        self._activity: Activity = "start"
        self._attempt: int | None = None
        self._images, self._stage, self._next_line = 0, "", 0.0

    def begin(self, images: int, stage: str = "") -> None:
        """Begin or resume a stage of the run; no other process may write the ledger from now on.

        images: how many it has seen.
        """
        if self._attempt is None:
            self._attempt = 1 + max((line["attempt"] for line in read(self._path)), default=-1)
        self._images, self._stage = images, stage
        self._write(None)

    @contextlib.contextmanager
    def spending(self, activity: Activity) -> Iterator[None]:
        """Count the time of a block as an activity."""
        before = self._activity
        self.switch(activity)
        try:
            yield
        finally:
            self.switch(before)

    def switch(self, activity: Activity) -> None:
        """Count the time from now on as another activity."""
        now = time.monotonic()
        self._seconds[self._activity] = self._seconds.get(self._activity, 0.0) + now - self._clock
        self._activity, self._clock = activity, now

    def move(self, activity: Activity, seconds: float) -> None:
        """Count seconds that were counted as the present activity as another one."""
        self.switch(self._activity)
        seconds = min(seconds, self._seconds[self._activity])
        self._seconds[self._activity] -= seconds
        self._seconds[activity] = self._seconds.get(activity, 0.0) + seconds

    def reached(self, images: int) -> None:
        """Note how many images the run has seen; fewer than before if it returned to a checkpoint."""
        is_due = images < self._images or time.monotonic() >= self._next_line
        self._images = images
        if is_due:
            self._write(None)

    def close(self, status: str) -> None:
        """Write the last line of this process, if it has begun. status: of the run."""
        if self._attempt is not None:
            self._write(status)

    def summary(self) -> dict[str, Any] | None:
        """Return what the seconds of the run were spent on, as `summary` does; None without a file."""
        return None if self._path is None else summary(read(self._path))

    def _write(self, status: str | None) -> None:
        self.switch(self._activity)
        total = sum(self._seconds.values())
        self._next_line = self._clock + max(_FEWEST_SECONDS, _SHARE * total)
        if self._path is None:
            return
        line = {
            "attempt": self._attempt,
            "restart": _restart(),
            "stage": self._stage,
            "began": round(self._since, 3),
            "images": self._images,
            "seconds": {name: round(spent, 4) for name, spent in self._seconds.items()},
            **({"status": status} if status else {}),
        }
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read(path: Path | None) -> list[dict[str, Any]]:
    """Return the lines of a ledger, without broken ones."""
    lines = []
    text = path.read_text(encoding="utf-8", errors="replace") if path is not None and path.exists() else ""
    for each in text.splitlines():
        with contextlib.suppress(
            ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError
        ):
            line = json.loads(each)
            spent = {str(name): max(0.0, float(value)) for name, value in line["seconds"].items()}
            if not all(map(math.isfinite, (*spent.values(), float(line["began"])))):
                continue
            numbers = {name: int(line[name]) for name in ("attempt", "restart", "images")}
            texts = {name: str(line.get(name, "")) for name in ("stage", "status")}
            lines.append({**numbers, **texts, "began": float(line["began"]), "seconds": spent})
    return lines


def summary(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the seconds of a run were spent on.

    wall: all of them, in which the run was there; the time until someone starts it again by hand is not.
    useful: training steps that are part of its result.
    lost: `repeated`, steps that a failure undid, and `restart`, from a failure to the next step.
    waiting: everything else, by activity.
    goodput: the share of useful seconds, in [0, 1].
    attempts, failures: how many processes, or groups of ranks, have trained it, and how many of them died.

    A process that died is known to have lived until its last line, or until its launcher started another.
    lines: of `read`.
    """
    attempts: dict[int, list[Mapping[str, Any]]] = {}
    for line in lines:
        attempts.setdefault(line["attempt"], []).append(line)
    waiting, restart, gaps = dict[str, float](), 0.0, 0.0
    steps = _Steps()
    previous: list[Mapping[str, Any]] = []
    for number in sorted(attempts):
        mine = attempts[number]
        last, after_failure = mine[-1], bool(previous) and _has_failed(previous[-1])
        if after_failure:
            if last["restart"] > 0:
                gaps += max(0.0, last["began"] - _end(previous[-1]))
            restart += last["seconds"].get("start", 0.0)
        for name, spent in last["seconds"].items():
            if name != "useful" and not (name == "start" and after_failure):
                waiting[name] = waiting.get(name, 0.0) + spent
        steps.add(mine)
        previous = mine
    useful, repeated = sum(each[2] for kept in steps.kept.values() for each in kept), steps.repeated
    wall = useful + repeated + restart + gaps + sum(waiting.values())
    newest = max(attempts, default=0)
    failed = [_has_failed(mine[-1]) for number, mine in attempts.items() if number != newest]
    failed += [mine[-1]["status"] == "failed" for number, mine in attempts.items() if number == newest]
    return {
        "wall": wall,
        "useful": useful,
        "lost": {"repeated": repeated, "restart": restart + gaps},
        "waiting": waiting,
        "goodput": useful / wall if wall else 0.0,
        "attempts": len(attempts),
        "failures": sum(failed),
    }


class _Steps:
    """The training steps of a run, without those that were undone.

    kept: for each stage, the images before and after, and the seconds, of each stretch.
    """

    def __init__(self) -> None:
        self.kept: dict[str, list[tuple[int, int, float]]] = {}
        self.repeated = 0.0

    def add(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add the steps of one process."""
        reached, spent = dict[str, int](), 0.0
        for line in lines:
            stage, now, seconds = line["stage"], line["images"], line["seconds"].get("useful", 0.0)
            before = reached.get(stage, now)
            kept = self.kept.setdefault(stage, [])
            if stage not in reached or now < before:
                self._return_to(now, kept)
            if now < before:
                self.repeated += seconds - spent
            else:
                kept.append((before, now, seconds - spent))
            reached[stage], spent = now, seconds

    def _return_to(self, images: int, kept: list[tuple[int, int, float]]) -> None:
        """Undo the steps after a number of images."""
        while kept and kept[-1][1] > images:
            first, last, seconds = kept.pop()
            if first < images:
                before = seconds * (images - first) / (last - first)
                kept.append((first, images, before))
                seconds -= before
                self.repeated += seconds
                return
            self.repeated += seconds


def _has_failed(line: Mapping[str, Any]) -> bool:
    """Return whether a process with this last line has died or ended with an error."""
    return line["status"] not in ("finished", "interrupted")


def _end(line: Mapping[str, Any]) -> float:
    return float(line["began"] + sum(line["seconds"].values()))


def _age_of_process() -> float:
    """Return for how many seconds this process has existed; 0 where the system does not say so."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # after the machine
        return max(0.0, float(Path("/proc/uptime").read_text(encoding="ascii").split()[0]) - began)
    except (OSError, ValueError, IndexError):
        return 0.0


def _restart() -> int:
    text = os.environ.get(RESTART, "0")
    return int(text) if text.isdigit() else 0
