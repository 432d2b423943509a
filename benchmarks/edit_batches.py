"""A batch of edits that is killed and resumed, compared with one that is not: bytes and settings."""

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from danqing.editing.batch import edit_files
from danqing.editing.contract import ImageToEdit, Values
from danqing.trust.declaration import Declaration

FORMATS: dict[str, dict[str, Any]] = {
    "png": {},
    "jpg": {"quality": 83},
    "webp": {"lossless": True},
    "tif": {},
}
_POLL = 0.002


@dataclasses.dataclass(frozen=True)
class Noise:
    """Adds noise of an image's own seed; needs no torch, so that a forked process can use it."""

    amount: int
    verb: str = "noise"

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return the amount of noise."""
        return {"amount": self.amount}

    @property
    def declaration(self) -> Declaration:
        """Return what the results declare."""
        return Declaration(action=self.verb)

    def changes(self, image: ImageToEdit) -> bool:
        """Return True."""
        return True

    def peak_bytes(self, width: int, height: int) -> int:
        """Return the bytes of the noise."""
        return 24 * width * height

    def apply(self, image: ImageToEdit) -> Values:
        """Exclusive-or the low bits with noise, so that every pixel can be traced to seed and amount."""
        rng = np.random.default_rng(image.seed)
        noise = rng.integers(0, self.amount, image.values.shape, dtype=image.values.dtype)
        values: Values = np.bitwise_xor(image.values, noise)
        return values


def write_images(folder: Path, count: int, side: int) -> None:
    """Write images in four formats, in ten folders."""
    rng = np.random.default_rng(0)
    for number in range(count):
        ending = list(FORMATS)[number % len(FORMATS)]
        path = folder / f"{number % 10}" / f"{number}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (side, side + number % 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, **FORMATS[ending])


def digests(folder: Path) -> dict[str, str]:
    """Return the hash of each output by its name."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.*"))
        if path.is_file() and path.name not in ("manifest.jsonl", ".lock")
    }


def count_in(folder: Path) -> int:
    """Return how many records a batch has written."""
    try:
        return (folder / "manifest.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def run_and_kill(edit: Noise, source: Path, out: Path, seed: int, until: int, delay: float) -> int:
    """Run a batch in a process, kill it at some number of records, and return how many outputs there are."""
    process = multiprocessing.get_context("fork").Process(
        target=edit_files, args=(edit, source, out), kwargs={"seed": seed, "marks": "none"}
    )
    process.start()
    while count_in(out) < until and process.is_alive():
        time.sleep(_POLL)
    time.sleep(delay)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    if process.exitcode != -signal.SIGKILL:
        raise SystemExit(f"The process ended before it was killed, with {process.exitcode}.")
    return len(digests(out))


def main() -> None:
    """Compare a killed batch with a whole one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/danqing-edit-batches"))
    arguments = parser.parse_args()
    folder, edit, rng = arguments.folder, Noise(16), random.Random(arguments.seed)
    shutil.rmtree(folder, ignore_errors=True)
    source, whole, killed = folder / "images", folder / "whole", folder / "killed"
    write_images(source, arguments.files, arguments.side)
    started = time.perf_counter()
    edit_files(edit, source, whole, seed=arguments.seed, marks="none")
    seconds = time.perf_counter() - started
    print(f"whole: {arguments.files} files in {seconds:.1f} s ({arguments.files / seconds:.0f} a second)")
    for kill in range(1, arguments.kills + 1):
        until = kill * arguments.files // (arguments.kills + 1)
        done = run_and_kill(edit, source, killed, arguments.seed, until, rng.random() * 0.02)
        print(f"killed at {done} outputs")
    started = time.perf_counter()
    last = edit_files(edit, source, killed, seed=arguments.seed, marks="none")
    print(
        f"resumed: {len(last.skipped)} skipped, {len(last.written)} written, {len(last.failed)} failed in "
        f"{time.perf_counter() - started:.1f} s"
    )
    before, after = digests(whole), digests(killed)
    same = sum(after.get(name) == digest for name, digest in before.items())
    print(f"the same bytes: {same} of {len(before)}; other files: {len(after.keys() - before.keys())}")
    records = [json.loads(line) for line in (killed / "manifest.jsonl").read_text().splitlines()]
    settings = sum(record["edit"]["settings"] == {"amount": 16} for record in records)
    names = {record["name"] for record in records}
    print(f"records with the settings: {settings} of {len(records)}, for {len(names)} files")
    obeyed = sum(is_obeyed(source, killed, record) for record in records)
    print(f"lossless outputs that are input and noise exactly: {obeyed} of {len(records)} (JPEG has loss)")


def is_obeyed(source: Path, out: Path, record: Mapping[str, Any]) -> bool:
    """Return whether an output is what the settings and the seed of its record make of the input."""
    given = np.asarray(Image.open(source / record["name"]))
    found = np.asarray(Image.open(out / record["output"]))
    expected = Noise(record["edit"]["settings"]["amount"]).apply(ImageToEdit(given, record["seed"]))
    return bool(np.array_equal(found, expected))


if __name__ == "__main__":
    main()
