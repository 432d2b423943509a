"""How well the invisible watermark is found after changes, beside the package invisible-watermark.

Each image is a random square part of a picture, resized to the side. It is marked, and then compressed as
JPEG of quality 75, resized by 0.5 and by 2, disturbed by Gaussian noise of 5/255, and cropped to 80% of its
area and to 80% of each side at a random place. A mark counts as found if its p-value is at most 1e-4.
`number` is the share of images whose whole number is read.

`--trials` tests the p-values: unmarked images against random keys, in place and in the best of all crops in
whole steps, without the finer crops around it. It prints how often the p-value is at most a level.

The peer carries 32 bits. It counts as found if as many bits agree as agree by chance in at most 1e-4 of
cases. It rejects small images, so it gets every image resized to its first size. The option `--peer` names a
folder that has the package: `pip install --no-deps --target FOLDER invisible-watermark PyWavelets opencv-
python-headless`.

    python benchmarks/watermark_quality.py --data flowers128.zip --side 64 [--count 500] [--trials 1000000]
"""

import argparse
import importlib
import io
import json
import math
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from danqing.trust import carriers, extractor, golay, watermark, watermark_search
from danqing.trust.watermark_key import WatermarkKey

LEVEL = 1e-4
ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
PEERS = {"dwtDct": 32, "dwtDctSvd": 32, "rivaGan": 32}
Pixels = NDArray[np.uint8]


def pictures(data: Path) -> Iterator[Image.Image]:
    """Yield the pictures of a folder or a zip, in the order of their names; they are not decoded yet."""
    if data.is_dir():
        for path in sorted(path for path in data.rglob("*") if path.suffix.lower() in ENDINGS):
            yield Image.open(path)
        return
    with zipfile.ZipFile(data) as archive:
        for name in sorted(name for name in archive.namelist() if name.lower().endswith(ENDINGS)):
            yield Image.open(io.BytesIO(archive.read(name)))


def views(data: Path, side: int, count: int, rng: np.random.Generator) -> list[Pixels]:
    """Return random square parts of pictures, resized to a side; pictures that are too small are left out."""
    found = [picture for picture in pictures(data) if min(picture.size) >= side]
    chosen = []
    for place in rng.permutation(np.resize(np.arange(len(found)), max(count, len(found))))[:count]:
        picture = found[place]
        length = int(rng.integers(max(side, 3 * min(picture.size) // 4), min(picture.size) + 1))
        left, top = (int(rng.integers(0, size - length + 1)) for size in picture.size)
        part = picture.convert("RGB").crop((left, top, left + length, top + length))
        chosen.append(np.asarray(part.resize((side, side), Image.Resampling.LANCZOS)))
    return chosen


def attacks(rng: np.random.Generator) -> dict[str, Callable[[Pixels], Pixels]]:
    """Return what happens to images, by name."""

    def jpeg(pixels: Pixels) -> Pixels:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=75)
        return np.asarray(Image.open(buffer))

    def resize(pixels: Pixels, factor: float) -> Pixels:
        height, width = (round(side * factor) for side in pixels.shape[:2])
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))

    def noise(pixels: Pixels) -> Pixels:
        return np.clip(pixels + rng.normal(0, 5, pixels.shape), 0, 255).round().astype(np.uint8)

    def crop(pixels: Pixels, share: float) -> Pixels:
        height, width = (round(side * share) for side in pixels.shape[:2])
        top = rng.integers(0, pixels.shape[0] - height + 1)
        left = rng.integers(0, pixels.shape[1] - width + 1)
        return pixels[top : top + height, left : left + width]

    return {
        "none": lambda pixels: pixels,
        "jpeg q75": jpeg,
        "resize 0.5": lambda pixels: resize(pixels, 0.5),
        "resize 2": lambda pixels: resize(pixels, 2),
        "noise 5": noise,
        "crop 80% area": lambda pixels: crop(pixels, math.sqrt(0.8)),
        "crop 80% side": lambda pixels: crop(pixels, 0.8),
    }


def psnr(marked: Pixels, pixels: Pixels) -> float:
    return float(10 * np.log10(255**2 / np.mean((marked.astype(float) - pixels) ** 2)))


def measure_ours(images: list[Pixels], rng: np.random.Generator) -> dict[str, Any]:
    """Measure our mark."""
    key = WatermarkKey.create()
    numbers = rng.integers(0, 1 << 48, len(images)).tolist()
    watermark.embed(images[0], 0, key=key)
    start = time.process_time()
    marked = [
        watermark.embed(pixels, number, key=key) for pixels, number in zip(images, numbers, strict=True)
    ]
    milliseconds = 1e3 * (time.process_time() - start) / len(images)
    start = time.process_time()
    for pixels in images[:5]:
        watermark.detect(pixels, key)
    search = 1e3 * (time.process_time() - start) / len(images[:5])
    pairs = [(mark, number) for mark, number in zip(marked, numbers, strict=True) if mark is not None]
    quality = [psnr(mark, pixels) for mark, pixels in zip(marked, images, strict=True) if mark is not None]
    result: dict[str, Any] = {
        "images": len(images),
        "marked": len(pairs),
        "ms to mark": round(milliseconds, 2),
        "ms to find none": round(search),
        "psnr": {"lowest": round(min(quality), 2), "median": round(float(np.median(quality)), 2)},
    }
    for name, attack in attacks(rng).items():
        found = [(watermark.detect(attack(mark), key), number) for mark, number in pairs]
        read = [one.number is not None and one.number == number % (1 << one.bits) for one, number in found]
        wrong = [one.number is not None for one, _ in found]
        result[name] = {
            "tpr": round(float(np.mean([one.p_value <= LEVEL for one, _ in found])), 4),
            "number": round(float(np.mean(read)), 4),
            "wrong number": round(float(np.mean(wrong) - np.mean(read)), 4),
            "p at 5%": float(f"{np.quantile([one.p_value for one, _ in found], 0.95):.0e}"),
        }
    return result


def bits_at_chance(bits: int, level: float) -> int:
    """Return how many of some random bits agree in at most a share of cases."""
    tails = np.cumsum([math.comb(bits, agreed) / 2**bits for agreed in range(bits, -1, -1)])
    return bits + 1 - int((tails <= level).sum())


def measure_peer(folder: str, method: str, images: list[Pixels], rng: np.random.Generator) -> dict[str, Any]:
    """Measure one method of invisible-watermark."""
    sys.path.append(folder)
    package = importlib.import_module("imwatermark")
    bits = PEERS[method]
    needed, side = bits_at_chance(bits, LEVEL), images[0].shape[0]
    payloads = rng.integers(0, 2, (len(images), bits))
    if method == "rivaGan":
        package.WatermarkEncoder.loadModel()
        package.WatermarkDecoder.loadModel()
    marked = []
    for pixels, payload in zip(images, payloads, strict=True):
        encoder = package.WatermarkEncoder()
        encoder.set_watermark("bits", payload.tolist())
        marked.append(encoder.encode(pixels[:, :, ::-1].copy(), method)[:, :, ::-1])
    quality = [psnr(mark, pixels) for mark, pixels in zip(marked, images, strict=True)]
    result: dict[str, Any] = {
        "images": len(images),
        "psnr": {"lowest": round(min(quality), 2), "median": round(float(np.median(quality)), 2)},
    }
    for name, attack in attacks(rng).items():
        agreed = []
        for mark, payload in zip(marked, payloads, strict=True):
            changed = Image.fromarray(attack(np.ascontiguousarray(mark)))
            changed = changed.resize((side, side), Image.Resampling.BICUBIC)
            read = package.WatermarkDecoder("bits", bits).decode(np.asarray(changed)[:, :, ::-1], method)
            agreed.append(int((np.asarray(read).astype(int) == payload).sum()))
        result[name] = {
            "tpr": round(float(np.mean(np.greater_equal(agreed, needed))), 4),
            "number": round(float(np.mean(np.equal(agreed, bits))), 4),
        }
    return result


def null_p_values(pixels: Pixels, keys: list[WatermarkKey], form: carriers.Format) -> NDArray[np.float64]:
    """Return the p-value of an unmarked image for each key.

    It is that of `watermark_search.search` with the best of the crops in whole steps, without finer ones.
    """
    estimate = watermark.estimate(pixels, form)
    cells, basis = carriers.cells(form), carriers.basis(form.grid, form.frequencies)
    weights = carriers.at_cells(extractor.learned().weight, form)
    signs = np.stack([carriers.signs(key.secret, form) for key in keys])
    whole = (basis @ estimate @ basis.T)[cells.rows, cells.columns] * weights
    p_values = _read(whole, signs, form, 2)
    low = watermark_search.pilot_values(estimate, form)
    flat = low.reshape(len(low), -1)
    scores = signs[:, watermark_search.compared_pilots(form)] @ flat
    scores /= np.sqrt((flat * flat).sum(0) + 1e-20)
    starts, lengths = watermark_search.crops()
    windows = np.stack(
        [
            carriers.window(start, length, form.grid, form.frequencies)
            for start, length in zip(starts, lengths, strict=True)
        ]
    )
    best = scores.argmax(1)
    places, of_keys = np.unique(best, return_inverse=True)
    crops = zip(*np.unravel_index(places, low.shape[1:]), strict=True)
    spectra = np.stack([windows[row] @ estimate @ windows[column].T for row, column in crops])
    values = spectra[:, cells.rows, cells.columns][of_keys] * weights
    p_values = np.minimum(p_values, _read(values, signs, form, 4 * low[0].size))
    return p_values


def _read(
    values: carriers.Floats, signs: carriers.Floats, form: carriers.Format, places: float
) -> NDArray[np.float64]:
    """Return the p-value of coefficients for each row of signs."""
    cells = carriers.cells(form)
    signed = signs * values
    is_pilot = cells.bits < 0
    spread = (cells.bits[:, None] == np.arange(form.blocks * golay.BLOCK)).astype(np.float32)
    blocks = (signed @ spread).reshape(len(signs), form.blocks, golay.BLOCK)
    payload = (blocks @ golay.words().T).max(2).sum(1)
    pilots = signed[:, is_pilot].sum(1)
    squares = np.broadcast_to(values * values, signed.shape)
    z_pilots = pilots / np.sqrt(squares[:, is_pilot].sum(1))
    z_all = (pilots + payload) / np.sqrt(squares.sum(1))
    tails = [
        min(1.0, 2 * places * min(watermark_search.tail(a), watermark_search.tail(b) * 2.0**form.bits))
        for a, b in zip(z_pilots.tolist(), z_all.tolist(), strict=True)
    ]
    return np.array(tails)


def measure_trials(images: list[Pixels], trials: int) -> dict[str, Any]:
    """Count how often unmarked images look marked."""
    form = watermark.format_of(*images[0].shape[:2])
    each = -(-trials // len(images))
    found = np.concatenate(
        [
            np.minimum(1, len(carriers.FORMATS) * null_p_values(pixels, keys, form))
            for pixels in images
            for keys in ([WatermarkKey.create() for _ in range(each)],)
        ]
    )
    levels = (1e-1, 1e-2, 1e-3, 1e-4)
    smallest = np.sort(found)[: max(1, round(LEVEL * len(found)))]
    return {
        "trials": len(found),
        "images": len(images),
        "share at or below": {f"{level:g}": float(np.mean(found <= level)) for level in levels},
        "smallest": float(found.min()),
        "p-value that a share of 1e-4 reaches": float(smallest[-1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder or a zip of pictures")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--count", type=int, default=500, help="images that are marked")
    parser.add_argument("--trials", type=int, default=0, help="pairs of an unmarked image and a key")
    parser.add_argument("--only", choices=["ours", "peer", "trials"], help="measure one part")
    parser.add_argument("--peer", default="", help="a folder with the package invisible-watermark")
    parser.add_argument("--methods", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    images = views(arguments.data, arguments.side, arguments.count, rng)
    if arguments.only in (None, "ours"):
        print(json.dumps({"ours": measure_ours(images, rng)}), flush=True)
    for method in arguments.methods if arguments.peer and arguments.only in (None, "peer") else ():
        print(json.dumps({method: measure_peer(arguments.peer, method, images, rng)}), flush=True)
    if arguments.trials and arguments.only in (None, "trials"):
        print(json.dumps({"null": measure_trials(images, arguments.trials)}), flush=True)


if __name__ == "__main__":
    main()
