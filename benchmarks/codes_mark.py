"""The mark in the codes of a transformer: how much of it is left in images, and what it costs.

Images of a transformer are sampled with and without the mark, saved as a user would, and become codes again.
False alarms are counted over pairs of an image without the mark and a random key. The costs are the time of
sampling, in processor seconds, and the likelihood of the codes under the model that wrote them.

    python benchmarks/codes_mark.py [--model demo] [--images 256] [--keys 4000] [--seed 0]
"""

import argparse
import io
import json
import secrets
import time

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import danqing as dq
from danqing.data.batch import Batch
from danqing.families.abilities import ComparesCodes, WeighsConditions
from danqing.families.transformer_sampling import TransformerFamily
from danqing.images import Pixels, conform, to_float, to_pil, to_uint8
from danqing.model.conditions import drawn_condition
from danqing.requested import image_seeds
from danqing.trust.codes_mark import KINDS, CodesDetection, CodesMark, kinds_of, p_value

LEVEL = 1e-4
ROUNDS = 5


def saved(pixels: Pixels, way: str) -> Pixels:
    """Return an image after it was saved or changed in a way."""
    image = to_pil(pixels)
    if way == "png":
        return pixels
    if way.startswith("jpeg"):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(way.removeprefix("jpeg")))
        return conform(Image.open(buffer), channels=pixels.shape[2])
    factor = float(way.removeprefix("resized"))
    small = image.resize((round(image.width * factor), round(image.height * factor)))
    return conform(small, size=image.size, channels=pixels.shape[2])


class Sampler:
    """Samples images of a transformer in chunks, with or without marks, and records their first codes.

    marks: one for each chunk: how much a key favours differs, where images are alike.
    """

    def __init__(self, family: TransformerFamily, seed: int, count: int) -> None:
        self.family, self.count = family, count
        self.seeds = image_seeds(count, seed, None)
        self.condition = drawn_condition(family.config, self.seeds)
        self.marks = [CodesMark(secrets.token_bytes(32)) for _ in range(0, count, family.chunk)]
        self.written = np.empty((0, 0), np.int64)

    def images(self, *, marked: bool, chunks: int | None = None) -> torch.Tensor:
        """Sample float images."""
        codec, parts, codes = self.family.codec, [], []
        decode = codec.detokenize

        def recorded(grid: torch.Tensor) -> torch.Tensor:
            codes.append(grid[..., 0].flatten(1).numpy())
            return decode(grid)

        codec.detokenize = recorded  # type: ignore[method-assign, assignment]
        for number, mark in enumerate(self.marks[:chunks]):
            rows = slice(number * self.family.chunk, (number + 1) * self.family.chunk)
            given = mark if marked else None
            with torch.inference_mode():
                parts.append(self.family.sample(self.condition[rows], seeds=self.seeds[rows], mark=given))
        codec.detokenize = decode  # type: ignore[method-assign]
        self.written = np.concatenate(codes)
        return torch.cat(parts)

    def found(self, images: torch.Tensor) -> list[CodesDetection]:
        """Look for the mark in float images."""
        with torch.inference_mode():
            parts = zip(images.split(self.family.chunk), self.marks, strict=True)
            return [each for part, mark in parts for each in self.family.detect_mark(part, mark)]

    def nll(self, images: torch.Tensor) -> float:
        """Return the mean of -log p per code of images under the model."""
        assert isinstance(self.family, WeighsConditions)
        with torch.inference_mode():
            evidence = self.family.log_evidence(Batch(images, self.condition), seeds=self.seeds)
        return round(-float(evidence.mean()) / float(np.prod(self.family.codec.code_shape)), 3)


def first_codes(family: TransformerFamily, images: torch.Tensor) -> NDArray[np.int64]:
    """Return the first code of each place of float images, `[n, places]`."""
    with torch.inference_mode():
        codes: NDArray[np.int64] = family.codec.tokenize(images)[..., 0].flatten(1).numpy()
    return codes


def false_alarms(kinds: NDArray[np.int64], keys: int) -> float:
    """Return the share of pairs of an image and a key whose p-value is at most LEVEL."""
    places, alarms = kinds.shape[1], 0
    least = next(number for number in range(places + 1) if p_value(number, places) <= LEVEL)
    for _ in range(keys):
        favoured = CodesMark(secrets.token_bytes(32)).favoured(places, KINDS)
        alarms += int((favoured[np.arange(places), kinds].sum(1) >= least).sum())
    return alarms / (keys * len(kinds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--keys", type=int, default=4000, help="of false alarms")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    family = dq.load(arguments.model).family
    assert isinstance(family, TransformerFamily)
    assert isinstance(family.codec, ComparesCodes)
    sampler = Sampler(family, arguments.seed, arguments.images)
    kinds = kinds_of(family.codec.code_vectors().numpy())
    plain = sampler.images(marked=False)
    marked = sampler.images(marked=True)
    results: dict[str, object] = {"places": sampler.written.shape[1], "codes": family.codec.vocabulary}
    pixels = to_uint8(marked).numpy()
    for way in ("png", "jpeg90", "jpeg75", "resized0.5", "resized2"):
        again = to_float(torch.from_numpy(np.stack([saved(each, way) for each in pixels])))
        found, codes = sampler.found(again), first_codes(family, again)
        results[way] = {
            "codes kept": round(float((codes == sampler.written).mean()), 3),
            "kinds kept": round(float((kinds[codes] == kinds[sampler.written]).mean()), 3),
            "favoured": round(float(np.mean([each.favoured / each.count for each in found])), 3),
            "found at 1e-4": round(float(np.mean([each.p_value <= LEVEL for each in found])), 3),
            "median p": float(f"{np.median([each.p_value for each in found]):.1e}"),
        }
    results["false alarms"] = false_alarms(kinds[first_codes(family, plain)], arguments.keys)
    results["pairs"] = arguments.keys * arguments.images
    results["nll per code"] = {"plain": sampler.nll(plain), "marked": sampler.nll(marked)}
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for is_marked in seconds:
            start = time.process_time()
            sampler.images(marked=is_marked, chunks=1)
            seconds[is_marked].append(time.process_time() - start)
    results["time of marked / plain"] = round(min(seconds[True]) / min(seconds[False]), 3)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
