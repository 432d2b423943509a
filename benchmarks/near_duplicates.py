"""Copies that are planted among images: how many are found, beside the perceptual hash of imagededup.

A third of the copies each are compressed as JPEG of quality 50, cropped to 90% of each side at a random
place, and mirrored. All pairs that are found beside the planted ones count as wrong for both, also where the
data has copies of its own. The hash is PHash of imagededup 0.3.3 at its default distance of 10, and at the
distance that is best here. The package needs torchvision; without it, the same hash is computed here.

    python benchmarks/near_duplicates.py --data flowers128.zip [--copies 500] [--size 128] [--seed 0]
"""

import argparse
import io
import json
import time

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from danqing.data import open_dataset
from danqing.images import conform, to_pil
from danqing.recognition.cleaning.near_duplicates import Described, describe, find_copies

KINDS = ("compressed", "cropped", "mirrored")
DISTANCES = range(0, 21, 2)
USUAL = 10
_BLOCK = 256


def copied(image: Image.Image, kind: str, rng: np.random.Generator) -> Image.Image:
    """Return a copy that differs as copies in collections do."""
    if kind == "compressed":
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=50)
        return Image.open(buffer).convert("RGB")
    if kind == "mirrored":
        return ImageOps.mirror(image)
    width, height = round(0.9 * image.width), round(0.9 * image.height)
    left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
    return image.crop((int(left), int(top), int(left) + width, int(top) + height))


def phash(image: Image.Image) -> NDArray[np.bool_]:
    """Return the 64 bits of PHash: signs of the lowest frequencies, beside their median."""
    small = np.asarray(image.resize((32, 32), Image.Resampling.LANCZOS).convert("L"), np.float64)
    low = scipy.fft.dct(scipy.fft.dct(small, axis=0), axis=1)[:8, :8].ravel()
    bits: NDArray[np.bool_] = low >= np.median(low[1:])
    return bits


def hashes(images: list[Image.Image]) -> tuple[NDArray[np.bool_], str]:
    """Return the bits of each image `[n, 64]`, and whose they are."""
    try:
        from imagededup.methods import PHash
    except ImportError:
        return np.stack([phash(image) for image in images]), "the same hash"
    method = PHash(verbose=False)
    codes = [int(method.encode_image(image_array=np.asarray(image)), 16) for image in images]
    return np.array([[code >> bit & 1 for bit in range(64)] for code in codes], bool), "imagededup"


def pairs_within(bits: NDArray[np.bool_], most: int) -> dict[tuple[int, int], int]:
    """Return the pairs of hashes that differ in at most a given number of bits."""
    signs = torch.from_numpy(2.0 * bits - 1).float()
    found = {}
    for start in range(0, len(signs), _BLOCK):
        distances = (64 - signs[start : start + _BLOCK] @ signs.T) / 2
        for row, other in (distances <= most).nonzero().tolist():
            if start + row < other:
                found[start + row, other] = round(float(distances[row, other]))
    return found


def measures(found: set[tuple[int, int]], truth: dict[tuple[int, int], str]) -> dict[str, float]:
    """Return precision, recall and F1, and the recall of each kind of copy."""
    hits = found & truth.keys()
    counts = {kind: sum(one == kind for one in truth.values()) for kind in KINDS}
    of_kind = {kind: sum(truth[pair] == kind for pair in hits) / count for kind, count in counts.items()}
    precision, recall = len(hits) / max(1, len(found)), len(hits) / len(truth)
    f1 = 2 * len(hits) / (len(found) + len(truth))
    values = {"precision": precision, "recall": recall, "f1": f1, **of_kind}
    return {name: round(value, 4) for name, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="a folder, an archive or a built-in set")
    parser.add_argument("--copies", type=int, default=500)
    parser.add_argument("--images", type=int, help="use only the first of the images")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data, size=(arguments.size, arguments.size), channels=3)
    count = min(len(dataset), arguments.images or len(dataset))
    images = [to_pil(dataset.images([row])[0].numpy()) for row in range(count)]
    rng = np.random.default_rng(arguments.seed)
    truth: dict[tuple[int, int], str] = {}
    for number, row in enumerate(rng.permutation(count)[: arguments.copies].tolist()):
        truth[row, len(images)] = KINDS[number % len(KINDS)]
        images.append(copied(images[row], KINDS[number % len(KINDS)], rng))

    start, parts = time.perf_counter(), []
    for begin in range(0, len(images), _BLOCK):
        pixels = [
            conform(image, size=dataset.size, fit="stretch") for image in images[begin : begin + _BLOCK]
        ]
        parts.append(describe(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255))
    described = Described(torch.cat([one.crops for one in parts]), torch.cat([one.thumbs for one in parts]))
    ours = measures(set(map(tuple, find_copies(described).rows.tolist())), truth)
    seconds = time.perf_counter() - start

    start = time.perf_counter()
    bits, whose = hashes(images)
    near = pairs_within(bits, max(DISTANCES))
    peer_seconds = time.perf_counter() - start
    by_distance = {
        most: measures({pair for pair, distance in near.items() if distance <= most}, truth)
        for most in DISTANCES
    }
    best = max(by_distance, key=lambda most: by_distance[most]["f1"])
    result = {
        "data": dataset.info.name,
        "images": count,
        "copies": len(truth),
        "danqing": ours | {"seconds": round(seconds, 2)},
        "phash": by_distance[USUAL] | {"distance": USUAL, "by": whose, "seconds": round(peer_seconds, 2)},
        "phash_best": by_distance[best] | {"distance": best},
        "error_ratio": round((1 - ours["f1"]) / max(1e-9, 1 - by_distance[USUAL]["f1"]), 4),
        "error_ratio_best": round((1 - ours["f1"]) / max(1e-9, 1 - by_distance[best]["f1"]), 4),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
