"""Quality after minutes: whether the preset `text2image-32` paints combinations that it never saw, as asked.

    python benchmarks/quality_text2image.py [--data shapes] [--minutes 20] [--guidance 1 2 5] [--out FOLDER]

Both stages are trained within the minutes, on this machine. Then the captions of the test split are painted,
whose combinations of colour and shape are held out of training, and a program reads every attribute back.
Prints one JSON object: `composition`, the share of attributes painted as asked, with its interval and each
attribute's own share; `composition_all`, of images with all five right; the same of the tokenizer's
reconstructions of test images, which no prior can exceed by much; images per second of both stages; and the
same for other guidance scales where `--guidance` names some. `ratio`, last, is the composition over 0.9.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import danqing as dq
from danqing.data import Dataset, open_dataset
from danqing.data.builtin import shapes
from danqing.evaluation.shape_reader import read
from danqing.families.base import HasTokenizer, Tokenizes
from danqing.images import Images, to_float, to_uint8
from danqing.model import Model

GOAL = 0.9
ATTRIBUTES = ("colour", "shape", "size", "place", "count")


def attributes(images: np.ndarray, captions: list[str]) -> dict[str, Any]:
    """How many attributes of uint8 images are as their captions say."""
    known = shapes.by_caption()
    readings = [read(image) for image in images]
    right = np.array(
        [
            [getattr(reading, name) == getattr(known[caption], name) for name in ATTRIBUTES]
            for reading, caption in zip(readings, captions, strict=True)
        ]
    )
    shares = {name: round(float(share), 4) for name, share in zip(ATTRIBUTES, right.mean(0), strict=True)}
    return {
        "composition": round(float(right.mean()), 4),
        "all": round(float(right.all(1).mean()), 4),
        **shares,
    }


def captions(test: Dataset, rows: np.ndarray) -> list[str]:
    """English and Chinese in turns."""
    texts = test.texts(rows)
    assert texts is not None
    return [text.split("\n")[number % 2] for number, text in enumerate(texts)]


def rebuilt(model: Model, pixels: torch.Tensor) -> np.ndarray:
    """Images uint8 `[n, h, w, c]` through the tokenizer alone."""
    assert isinstance(model.family, HasTokenizer)
    tokenizer = model.family.tokenizer
    assert isinstance(tokenizer, Tokenizes)
    with torch.inference_mode():
        parts = [
            to_uint8(tokenizer.detokenize(tokenizer.tokenize(to_float(part)))) for part in pixels.split(256)
        ]
    return torch.cat(parts).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="shapes", help="shapes, or shapes:50000 for as many to learn from")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--preset", default="text2image-32")
    parser.add_argument("--images", type=int, default=1000, help="how many are painted and read")
    parser.add_argument("--guidance", type=float, nargs="*", default=[], help="other scales to try")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the preset")
    parser.add_argument("--out", type=Path, help="keep the run and a grid here")
    arguments = parser.parse_args()
    out = arguments.out or Path(tempfile.mkdtemp())
    settings = dict(setting.split("=", 1) for setting in arguments.set)

    begun = time.perf_counter()
    run = dq.train(
        arguments.data,
        preset=arguments.preset,
        minutes=arguments.minutes,
        settings=settings,
        evaluate_every=0,
        out=out / "run",
    )
    results: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "minutes": arguments.minutes,
        "minutes_in_all": round((time.perf_counter() - begun) / 60, 2),
        "images": run.images,
        "images_per_second": round(run.images_per_second),
        "tokenizer": run.tokenizer,
    }
    test = open_dataset(arguments.data, size=(32, 32), split="test")
    rows = np.random.default_rng(0).permutation(len(test))[: arguments.images]
    asked, model = captions(test, rows), dq.load(run)
    pixels = test.images(np.sort(rows))
    results["reconstructions"] = attributes(rebuilt(model, pixels), captions(test, np.sort(rows)))
    default = model.sample_options["guidance_scale"]
    scales: dict[str, Any] = {}
    for scale in [default, *arguments.guidance]:
        started = time.perf_counter()
        painted = model.sample(len(asked), prompt=asked, seed=1, guidance_scale=scale)
        seconds = time.perf_counter() - started
        found = attributes(painted.array, asked)
        scales[f"{scale:g}"] = {**found, "images_per_second": round(len(asked) / seconds, 1)}
        painted[:64].save(out / f"guidance-{scale:g}.png")
    Images(pixels[:64].numpy()).save(out / "real.png")
    results["guidance"] = scales
    measured = scales[f"{default:g}"]
    results["composition"], results["composition_all"] = measured["composition"], measured["all"]
    results["ratio"] = round(measured["composition"] / GOAL, 3)
    print(json.dumps(results, indent=2, default=str))


if __name__ == "__main__":
    main()
