"""Speed of building and reading the cache.

Reading: images per second that `Batches` gathers and converts, as multiples of the images that the fastest
training step at 32x32 consumes. Building: images per second of `open_dataset` on a folder, and of plain
Pillow loops over the same files: with one thread, a thread per core, and a process per core. The processor
time per image (of all processes) is printed too: unlike the rates, it is meaningful on a busy machine.

    python benchmarks/data_cache.py [--data FOLDER_OR_ZIP_OF_JPEG] [--count 10000] [--rounds 3]
"""

import argparse
import functools
import os
import shutil
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from danqing.data import Augment, Batches, open_dataset

EATEN = 640
"""Images per second of the fastest training step at 32x32, on the two cores that this was written on."""


def decode_all(paths: list[Path]) -> int:
    for path in paths:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB"))
    return len(paths)


def decode_and_resize_all(paths: list[Path]) -> int:
    for path in paths:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB").resize((64, 48), Image.Resampling.LANCZOS))
    return len(paths)


def make_files(folder: Path, data: Path | None, count: int) -> Path:
    """Write small jpeg files: from `data`, or smooth noise."""
    target = folder / "small"
    target.mkdir()
    if data is not None and data.suffix == ".zip":
        with zipfile.ZipFile(data) as archive:
            names = [name for name in archive.namelist() if name.endswith(".jpg")]
            for number, name in enumerate(names[:: max(1, len(names) // count)][:count]):
                (target / f"{number:06d}.jpg").write_bytes(archive.read(name))
    elif data is not None:
        for number, path in enumerate(sorted(data.rglob("*.jp*g"))[:count]):
            shutil.copy(path, target / f"{number:06d}.jpg")
    else:
        noise(target, count, (32, 32))
    return target


def noise(folder: Path, count: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:06d}.jpg", quality=90)


def rate(work: Callable[[], int]) -> tuple[float, float]:
    """Measure images per second, and microseconds of processor time per image."""
    start, busy = time.perf_counter(), processor_time()
    done = work()
    return done / (time.perf_counter() - start), (processor_time() - busy) / done * 1e6


def processor_time() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def pooled(make: Callable[[], Executor], work: Callable[[list[Path]], int], paths: list[Path]) -> int:
    chunks = [paths[start : start + 32] for start in range(0, len(paths), 32)]
    with make() as pool:
        return sum(pool.map(work, chunks))


def built(folder: Path, cache: Path, size: tuple[int, int] | None) -> int:
    shutil.rmtree(cache, ignore_errors=True)
    return len(open_dataset(folder, size=size, channels=3, cache_dir=cache))


def measure_building(
    title: str,
    folder: Path,
    cache: Path,
    work: Callable[[list[Path]], int],
    size: tuple[int, int] | None,
    rounds: int,
) -> None:
    paths = sorted(folder.iterdir())
    cores = len(os.sched_getaffinity(0))
    ways: dict[str, Callable[[], int]] = {
        "Pillow, 1 thread": lambda: work(paths),
        f"Pillow, {cores} threads": lambda: pooled(lambda: ThreadPoolExecutor(cores), work, paths),
        f"Pillow, {cores} processes": lambda: pooled(lambda: ProcessPoolExecutor(cores), work, paths),
        "danqing": lambda: built(folder, cache, size),
    }
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):  # in turns, so that other load affects all equally
        for name, way in ways.items():
            rates[name].append(rate(way))
    medians = {
        name: tuple(map(statistics.median, zip(*values, strict=True))) for name, values in rates.items()
    }
    ours = medians["danqing"]
    print(f"\n{title}: {len(paths):,} files, median of {rounds}; danqing / this in brackets")
    for name, (speed, busy) in medians.items():
        print(
            f"  {name:22} {speed:9,.0f} images/s ({ours[0] / speed:.2f}), "
            f"{busy:6,.0f} us of processor time each ({ours[1] / busy:.2f})"
        )


def measure_reading(folder: Path, cache: Path) -> None:
    dataset = open_dataset(folder, cache_dir=cache)
    width, height = dataset.size
    print(f"\nReading: batches of 64 from {len(dataset):,} images of {width}x{height}x{dataset.channels}")
    every = Augment(flip=True, rotation=10, scale=0.1, crop=0.1, colour=0.2)
    for name, augment in (
        ("no augmentation", None),
        ("flip", Augment(flip=True)),
        ("flip and crop", Augment(flip=True, crop=0.1)),
        ("everything", every),
    ):
        batches = Batches(dataset, 64, seed=0, augment=augment)
        batches.at(0)
        images, _ = rate(functools.partial(read, batches))
        print(f"  {name:22} {images:9,.0f} images/s = {images / EATEN:.0f} x {EATEN}")


def read(batches: Batches) -> int:
    """Read five hundred batches; return the number of images."""
    return sum(len(batches.at(64 * step)) for step in range(500))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="a folder or zip of small jpeg files (default: smooth noise)"
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, large, cache = (
            make_files(folder, arguments.data, arguments.count),
            folder / "large",
            folder / "cache",
        )
        large.mkdir()
        noise(large, arguments.count // 40, (1024, 768))
        measure_building("Small files", small, cache, decode_all, None, arguments.rounds)
        measure_building("1024x768 to 64x48", large, cache, decode_and_resize_all, (64, 48), arguments.rounds)
        measure_reading(small, cache)


if __name__ == "__main__":
    main()
