"""Fuzzes what reads files of others: no input may crash it, hang it or fill the memory.

    python benchmarks/file_fuzz.py [PARSER ...] [--minutes 1] [--seed 0] [--out fuzz] [--engine auto]

Each parser of `foreign_files.py` runs in a process of its own for `minutes`. With `atheris`, which
`make fuzz` installs, inputs are guided by which code they reach, and the corpus in --out grows from run to
run; without it, valid files are changed at random. Four things are failures: an exception that is not a
`DanqingError`, the death of the process, an input that takes over `--hang` seconds, and more than
`--memory` MiB over those at the start. Each is shown once for each place in the code, and its input is saved
in --out. `--replay FILE` reads one input with one parser and shows what happens. The last line is JSON.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import json
import mmap
import os
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import psutil
from mutation import MOST_BYTES, Mutator

_STATE = struct.Struct("<QQd")
"""In memory that both processes share: inputs so far, bytes of the current input, the longest seconds."""
_POLL, _SETUP = 0.2, 600
"""Seconds between two looks at a child, and those in which it must read its first input."""
_WARM = 200
"""Inputs after which all that is read once is in memory."""


class Shared:
    """What a child says of itself to its parent, however it ends: a file in memory of both."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_STATE.size + 2 * MOST_BYTES))
        self._file = open(path, "r+b")  # noqa: SIM115 (closed with the process)
        self._memory = mmap.mmap(self._file.fileno(), 0)
        self.inputs, self.longest = 0, 0.0

    def begin(self, content: bytes) -> None:
        """Say which input is read now."""
        self.inputs += 1
        self._memory[: _STATE.size] = _STATE.pack(self.inputs, len(content), self.longest)
        self._memory[_STATE.size : _STATE.size + len(content)] = content

    def read(self) -> tuple[int, bytes, float]:
        """Return how many inputs there were, the last of them, and the longest seconds of one."""
        count, length, longest = _STATE.unpack(self._memory[: _STATE.size])
        return count, bytes(self._memory[_STATE.size : _STATE.size + length]), longest


def place_of(trace: TracebackType | None) -> str:
    """Return where in Danqing an exception passed last."""
    frames = [frame for frame in traceback.extract_tb(trace) if f"{os.sep}danqing{os.sep}" in frame.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside of danqing"


def save(out: Path, parser: str, kind: str, place: str, content: bytes, detail: str) -> bool:
    """Save an input that fails, if it is the first one of its place; returns whether it is."""
    name = hashlib.sha256(f"{kind} {place}".encode()).hexdigest()[:10]
    path = out / "failures" / f"{parser}-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return False
    path.write_bytes(content)
    path.with_suffix(".txt").write_text(f"{kind} at {place}\n{detail}\n", encoding="utf-8", errors="replace")
    return True


def child(parser: str, out: Path, seconds: float, seed: int, engine: str) -> None:
    """Read inputs until the time is over."""
    warnings.simplefilter("ignore")
    shared = Shared(out / f"{parser}.state")
    atheris: Any = importlib.import_module("atheris") if engine == "atheris" else None
    with atheris.instrument_imports(include=["danqing"]) if atheris else contextlib.nullcontext():
        from foreign_files import PARSERS

        from danqing.errors import DanqingError

        made = PARSERS[parser](Path(tempfile.mkdtemp(dir=out)))
        for sample in made.samples:  # some modules are imported where they are used
            made.read(sample)
    mutator = Mutator(seed, made.samples)

    def test(content: bytes) -> None:
        content = bytes(content[:MOST_BYTES])
        shared.begin(content)
        start = time.perf_counter()
        try:
            made.read(content)
        except DanqingError:
            pass
        except Exception as error:
            place = place_of(error.__traceback__)
            save(out, parser, type(error).__name__, place, content, traceback.format_exc())
        shared.longest = max(shared.longest, time.perf_counter() - start)

    if atheris is None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            test(mutator.next())
        return
    corpus = out / "corpus" / parser
    corpus.mkdir(parents=True, exist_ok=True)
    for sample in made.samples:
        (corpus / hashlib.sha256(sample).hexdigest()[:16]).write_bytes(sample)

    def mutate(content: bytes, most: int, number: int) -> bytes:
        ours = Mutator(number, made.samples)
        return ours.change(content)[:most] if number % 2 else bytes(atheris.Mutate(content, most))

    options = [
        f"-max_total_time={int(seconds)}",
        f"-seed={seed + 1}",
        f"-max_len={MOST_BYTES}",
        "-len_control=0",
    ]
    quiet = ["-rss_limit_mb=0", "-timeout=100000", "-detect_leaks=0", "-verbosity=0", "-print_final_stats=0"]
    atheris.Setup([sys.argv[0], *options, *quiet, str(corpus)], test, custom_mutator=mutate)
    atheris.Fuzz()


class End(NamedTuple):
    """How a child ended.

    kind: of what went wrong, or "". seconds: since its first input. first, last, most: MiB when it had begun,
    at its end, and at most.
    """

    kind: str
    seconds: float
    first: int
    last: int
    most: int


def fuzz(parser: str, options: argparse.Namespace) -> dict[str, Any]:
    """Let children read inputs until the time is over, and note how they end."""
    out: Path = options.out
    shared = Shared(out / f"{parser}.state")
    before = set((out / "failures").glob(f"{parser}-*.txt"))
    left, seed, total, longest, most, memory = 60 * options.minutes, options.seed, 0, 0.0, 0, (0, 0)
    while left > 1:
        words = [parser, "--child", "--seed", seed, "--minutes", left / 60]
        words += ["--out", out, "--engine", options.engine]
        shared.begin(b"")
        with tempfile.TemporaryFile(dir=out) as log:
            process = psutil.Popen([sys.executable, __file__, *map(str, words)], stdout=log, stderr=log)
            end = watch(process, shared, left, options)
            count, content, slowest = shared.read()
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4000))
            said = log.read().decode("utf-8", "replace")
        if end.kind and count <= 1:
            sys.exit(f"{parser} has read nothing: {end.kind}\n{said}")
        if end.kind:
            save(out, parser, end.kind, hashlib.sha256(content).hexdigest()[:6], content, said)
        left, total, longest, seed = left - end.seconds, total + count, max(longest, slowest), seed + 1
        memory, most = (end.first, end.last), max(most, end.most)
    for folder in out.glob("tmp*"):
        shutil.rmtree(folder, ignore_errors=True)
    failures = sorted(set((out / "failures").glob(f"{parser}-*.txt")) - before)
    for path in failures:
        first_line = path.read_text(encoding="utf-8", errors="replace").splitlines()[0]
        print(f"{parser}: {first_line} ({path.stem})", flush=True)
    found = {"inputs": total, "failures": len(failures), "longest_s": round(longest, 2)}
    return found | {"memory_mib": memory, "most_mib": most}


def watch(process: psutil.Popen, shared: Shared, left: float, options: argparse.Namespace) -> End:
    """Wait for a child, and end it if it hangs, takes too much memory or too long."""
    seen, since, began = 1, time.monotonic(), 0.0
    first, memory, most, kind = 0, 0, 0, ""
    while process.poll() is None and not kind:
        time.sleep(_POLL)
        try:
            memory = process.memory_info().rss >> 20 or memory  # 0 of a process that has just ended
        except psutil.Error:
            break
        count, now = shared.read()[0], time.monotonic()
        if count != seen:
            seen, since, began = count, now, began or now
        first, most = first or (memory if count > _WARM else 0), max(most, memory)
        if first and memory > first + options.memory:
            kind = "memory"
        elif now - since > (options.hang if began else _SETUP):
            kind = "hang"
        elif began and now > began + left + 60:  # an engine does not look at the clock within an input
            break
    if process.poll() is None:
        process.kill()
    elif process.returncode:
        kind = f"death {process.returncode}"
    process.wait()
    return End(kind, time.monotonic() - began if began else 0.0, first, memory, most)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parsers", nargs="*", metavar="PARSER", help="of foreign_files.py; all by default")
    parser.add_argument("--minutes", type=float, default=1, help="of each parser")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz"))
    parser.add_argument("--engine", choices=("auto", "atheris", "mutation"), default="auto")
    parser.add_argument("--hang", type=float, default=20, help="seconds")
    parser.add_argument("--memory", type=int, default=1500, help="MiB")
    parser.add_argument("--replay", type=Path, help="an input that failed")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.engine == "auto":
        options.engine = "atheris" if importlib.util.find_spec("atheris") else "mutation"
    if options.child:
        child(options.parsers[0], options.out, 60 * options.minutes, options.seed, options.engine)
        return
    from foreign_files import PARSERS

    if options.replay:
        with tempfile.TemporaryDirectory() as folder:
            PARSERS[options.parsers[0]](Path(folder)).read(options.replay.read_bytes())
        return
    if unknown := set(options.parsers) - PARSERS.keys():
        parser.error(f"{min(unknown)} is not a parser: choose among {', '.join(PARSERS)}")
    results = {name: fuzz(name, options) for name in options.parsers or PARSERS}
    for name, result in results.items():
        print(f"{name:17}", "  ".join(f"{key} {value}" for key, value in result.items()))
    print(json.dumps({"engine": options.engine, "minutes": options.minutes, "parsers": results}))
    sys.exit(any(result["failures"] for result in results.values()))


if __name__ == "__main__":
    main()
