"""The registry of images: how many copies without marks are found, how fast, and how often it is wrong.

Images are cut into tiles. Each tile and its reflection upside down is registered, until there are enough.
Then tiles of each set are compressed, cropped to 90% of each side at a random place, resized, or all three,
and searched. Tiles that are turned by 90 degrees were not registered: each match of theirs counts as wrong.

    python benchmarks/registry_search.py --data cifar10-jpeg.zip flowers128.zip [--count 100000]
        [--copies 500] [--others 20000] [--side 64] [--seed 0]
"""

import argparse
import io
import json
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from danqing.images import Pixels, to_pil
from danqing.trust.declaration import Declaration
from danqing.trust.registry import Match, Registry


def compressed(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Return an image after it was saved as a JPEG of quality 50."""
    buffer = io.BytesIO()
    to_pil(pixels).save(buffer, "JPEG", quality=50)
    return np.asarray(Image.open(buffer))


def cropped(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Return 90% of each side, at a random place."""
    height, width = (round(0.9 * side) for side in pixels.shape[:2])
    top = rng.integers(0, pixels.shape[0] - height + 1)
    left = rng.integers(0, pixels.shape[1] - width + 1)
    return pixels[top : top + height, left : left + width]


def halved(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return _resized(pixels, 0.5)


def doubled(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return _resized(pixels, 2)


def all_three(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Return an image that was cropped, resized and compressed."""
    return compressed(_resized(cropped(pixels, rng), 0.8), rng)


WAYS: tuple[Callable[[Pixels, np.random.Generator], Pixels], ...] = (
    compressed,
    cropped,
    halved,
    doubled,
    all_three,
)


def _resized(pixels: Pixels, factor: float) -> Pixels:
    image = to_pil(pixels)
    size = (round(image.width * factor), round(image.height * factor))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def tiles(path: Path, side: int) -> NDArray[np.uint8]:
    """Return the images of a zip in RGB, cut into tiles of at most `side` pixels."""

    def parts() -> Iterator[Pixels]:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if not name.lower().endswith((".jpg", ".png")):
                    continue
                pixels = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
                own = min(side, *pixels.shape[:2])
                for top in range(0, pixels.shape[0] - own + 1, own):
                    for left in range(0, pixels.shape[1] - own + 1, own):
                        yield pixels[top : top + own, left : left + own]

    return np.stack(list(parts()))


def searched(registry: Registry, pixels: Pixels, spent: list[tuple[float, float]]) -> list[Match]:
    """Search an image; append the seconds and the processor seconds that it takes."""
    start = time.perf_counter(), time.process_time()
    found = registry.find(pixels)
    spent.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return found


def milliseconds(spent: list[tuple[float, float]]) -> dict[str, float]:
    wall, processor = 1000 * np.median(spent, axis=0)
    return {"ms": round(float(wall), 3), "processor ms": round(float(processor), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--copies", type=int, default=500)
    parser.add_argument("--others", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    sets = {path.stem: tiles(path, arguments.side) for path in arguments.data}
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder) / "registry.sqlite")
        ids: dict[str, list[str]] = {name: [] for name in sets}
        left, started = arguments.count, (time.perf_counter(), time.process_time())
        for turned in (False, True):
            for name, images in sets.items():
                for pixels in images[: max(left, 0)]:
                    shown = pixels[::-1] if turned else pixels
                    ids[name].append(registry.add(shown, Declaration(model=name)))
                left -= len(images)
        spent = (time.perf_counter() - started[0], time.process_time() - started[1])
        each = milliseconds([(spent[0] / len(registry), spent[1] / len(registry))])
        print(json.dumps({"images": len(registry), "to add one": each}), flush=True)
        bytes_each = registry.path.stat().st_size / len(registry)
        first = time.process_time()
        registry.find(next(iter(sets.values()))[0][:-1])
        first = time.process_time() - first
        print(
            json.dumps({"bytes per image": round(bytes_each), "first search, processor s": round(first, 2)})
        )
        for name, images in sets.items():
            rows = rng.choice(min(len(images), len(ids[name])), arguments.copies, replace=False)
            for way in WAYS:
                times: list[tuple[float, float]] = []
                found = wrong = 0
                for row in rows:
                    matches = searched(registry, way(images[row], rng), times)
                    found += ids[name][row] in [match.entry.id for match in matches]
                    wrong += bool(matches) and ids[name][row] not in [match.entry.id for match in matches]
                result = {"found": found / len(rows), "another found": wrong / len(rows)}
                print(
                    json.dumps({"set": name, "way": way.__name__, **result, **milliseconds(times)}),
                    flush=True,
                )
            others = rng.choice(len(images), min(len(images), arguments.others), replace=False)
            times = []
            wrong = sum(bool(searched(registry, np.rot90(images[row]), times)) for row in others)
            result = {"others": len(others), "wrong": wrong}
            print(json.dumps({"set": name, **result, **milliseconds(times)}), flush=True)


if __name__ == "__main__":
    main()
