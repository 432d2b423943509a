"""Upscaling by 4 after equal time: the modes of `--task upscale` beside Lanczos and cubic splines.

    python benchmarks/quality_upscale.py --data emoji [--size 64] [--minutes 20] [--only NAME ...]
        [--images NAME=COUNT ...] [--set KEY=VALUE ...] [--count 2000] [--out FOLDER]

DATA holds images, such as the built-in emoji (16 to 64 pixels), or CIFAR-10 as JPEG with --size 32 (8 to 32
pixels). Its test split, or else a tenth of the images, is held out of all training. The small images are the
averages of squares of 4 by 4 pixels. Contestants:

likeness: `upscale-64` without its adversarial finish, which is what a PSNR should be compared by.
regression: `upscale-64`. flow: `flow-upscale-64`, in the steps of the preset. lanczos, bicubic: of Pillow.

Prints one JSON object: for each contestant the PSNR against the held-out images in dB, the Fréchet distance
on EfficientNet-Lite0 features to them, and the largest difference in levels between the small images and the
averages of the results; and of ours, the gain in PSNR over Lanczos and the ratio of distances. --images
flow=N trains for as many images as an idle machine sees in the minutes. --set changes settings of all three.
What each made is kept in FOLDER: the same command continues after an interruption.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scoring
import torch
from PIL import Image
from scoring import Budget

import danqing as dq
from danqing.data import Dataset
from danqing.data.degrade import Degradation, source_images
from danqing.data.splits import has_split, open_held, open_if_there
from danqing.evaluation.reconstruction import psnr
from danqing.images import Images, to_uint8
from danqing.images import to_pil as picture

SCALE, HELD_OUT = 4, 0.1
NEVER = 10**12
"""Images until a score: the run holds images out, and is scored at its end alone."""
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "likeness": ("regression", {"adversarial": 0}),
    "regression": ("regression", {}),
    "flow": ("flow", {}),
}
Made = tuple[np.ndarray, dict[str, Any]]


def train(
    data: str, size: int, name: str, budget: Budget, settings: dict[str, Any], small: np.ndarray, out: Path
) -> Made:
    """Train by the public interface, and upscale the small images."""
    mode, own = OURS[name]
    run = scoring.train(
        data,
        task="upscale",
        mode=mode,
        size=(size, size),
        settings={"evaluation.keep": "last", "evaluation.held_out": HELD_OUT, **own, **settings},
        evaluate_every=0 if has_split(data, "test") else NEVER,
        out=out,
        **budget.settings,
    )
    made = dq.upscale(run.model, Images(small), seed=1)
    assert isinstance(made, Images)
    return made.array, {"images": run.images, "images_per_second": round(run.images_per_second, 1)}


def resampled(method: Image.Resampling, size: int, small: np.ndarray) -> Made:
    large = [np.asarray(picture(one).resize((size, size), method)) for one in small]
    return np.stack(large).reshape(len(small), size, size, -1), {}


def held_out(data: str, size: int) -> Dataset:
    """Return the images that no training sees."""
    test = open_if_there(data, "test", size=(size, size))
    return open_held(data, HELD_OUT, size=(size, size)).judged if test is None else test


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--images", nargs="*", default=[], metavar="NAME=COUNT", help="budgets in images")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of ours")
    parser.add_argument("--only", nargs="+", choices=[*OURS, "lanczos", "bicubic"], metavar="NAME")
    parser.add_argument("--count", type=int, default=2000, help="how many held-out images at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the runs and the results here")
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    out = scoring.folder_for(arguments.out)
    judged = held_out(arguments.data, arguments.size)
    rows = np.sort(np.random.default_rng(0).permutation(len(judged))[: arguments.count])
    real = judged.images(rows).numpy()
    small = to_uint8(source_images(judged, rows.tolist(), Degradation(f"shrink{SCALE}"), 0)).numpy()
    budget = scoring.budgets(arguments.minutes, arguments.images)
    settings = dict(setting.split("=", 1) for setting in arguments.set)
    contestants: dict[str, Callable[[], Made]] = {
        "lanczos": functools.partial(resampled, Image.Resampling.LANCZOS, arguments.size, small),
        "bicubic": functools.partial(resampled, Image.Resampling.BICUBIC, arguments.size, small),
    }
    for name in OURS:
        contestants[name] = functools.partial(
            train, arguments.data, arguments.size, name, budget(name), settings, small, out / f"{name}-run"
        )
    results: dict[str, Any] = {"minutes": arguments.minutes, "threads": arguments.threads, "test": len(real)}
    for name in arguments.only or contestants:
        made, facts = scoring.kept(out, name, arguments.minutes, contestants[name])
        found = psnr(torch.from_numpy(made), torch.from_numpy(real))
        means = made.reshape(len(made), len(small[0]), SCALE, -1, SCALE, made.shape[3]).mean((2, 4))
        results[name] = {
            "psnr": round(float(found[found.isfinite()].mean()), 2),
            "frechet_distance": scoring.distance(made, real),
            "off_average": round(float(np.abs(means - small).max()), 3),
            **facts,
        }
        enlarged = small[:100].repeat(SCALE, axis=1).repeat(SCALE, axis=2)
        Images(np.concatenate([enlarged, made[:100], real[:100]], axis=2)).save(out / f"{name}-sheet.png")
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    for name in OURS:
        if name in results and "lanczos" in results:
            ours, floor = results[name], results["lanczos"]
            ours["gain"] = round(ours["psnr"] - floor["psnr"], 2)
            ours["distance_ratio"] = round(ours["frechet_distance"] / floor["frechet_distance"], 3)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
