"""How long it takes to load a model: plain, sealed for a key, and with a required signature.

    python benchmarks/sealed_load.py [--models demo flow-64 gan-64 vae-64] [--repeats 15]

The models are the one of the package, and presets before training. The ways are measured in turns, with the
files in the page cache. Columns, for each way: the median wall-clock milliseconds and processor milliseconds,
and the processor time as a multiple of a plain load.
"""

import argparse
import functools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import danqing as dq
from danqing import families
from danqing.model.folder import find
from danqing.model.model import Model
from danqing.training.config_reading import resolve
from danqing.trust import keys


def model_in(folder: Path, name: str) -> None:
    """Write the model of the package or an untrained one of a preset to a folder."""
    if name == "demo":
        shutil.copytree(find(Path(name)), folder)
        return
    config = resolve(preset=name)
    width, height = config.size or (64, 64)
    values = config.model.model_dump() | {"width": width, "height": height, "channels": 3}
    family = families.build(families.parse_config(values))
    family.drop_training_only()
    Model(family).save(folder)


def timed(load: Callable[[], object]) -> tuple[float, float]:
    """Return the wall-clock and processor milliseconds of one load."""
    began, processor = time.perf_counter(), time.process_time()
    load()
    return (time.perf_counter() - began) * 1e3, (time.process_time() - processor) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["demo", "flow-64", "gan-64", "vae-64"])
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    print(f"{'model':10} {'MB':>6}  {'way':8} {'wall ms':>8} {'cpu ms':>8} {'multiple':>8}")
    with tempfile.TemporaryDirectory() as place:
        signer, opener = Path(place) / "release.key", Path(place) / "mine.key"
        public, recipient = keys.create_signing_key(signer), keys.create_sealing_key(opener)
        for name in args.models:
            folder, sealed = Path(place) / name, Path(place) / f"{name}.sealed"
            model_in(folder, name)
            dq.sign(folder, signer)
            dq.seal(folder, sealed, to=recipient)
            ways: dict[str, Callable[[], object]] = {
                "plain": functools.partial(dq.load, folder),
                "sealed": functools.partial(dq.load, sealed, key=opener),
                "signed": functools.partial(dq.load, folder, require=public),
            }
            for load in ways.values():
                load()
            times = {way: list[tuple[float, float]]() for way in ways}
            for _ in range(args.repeats):
                for way, load in ways.items():
                    times[way].append(timed(load))
            plain = statistics.median(processor for _, processor in times["plain"])
            for way, measured in times.items():
                wall, processor = (statistics.median(column) for column in zip(*measured, strict=True))
                size = os.path.getsize(sealed) / 1e6
                print(f"{name:10} {size:6.1f}  {way:8} {wall:8.1f} {processor:8.1f} {processor / plain:8.2f}")


if __name__ == "__main__":
    main()
