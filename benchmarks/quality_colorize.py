"""Colours for grey images after equal time: the modes of `--task colorize` beside a regression U-Net.

    python benchmarks/quality_colorize.py --data DATA [--minutes 20] [--only NAME ...]
        [--images NAME=COUNT ...] [--set KEY=VALUE ...] [--count 2000] [--out FOLDER]

DATA holds coloured images of at least 64×64 pixels. Its test split, or else a tenth of the images, is held
out of all training. Contestants:

flow: `flow-colorize-64`. regression: `colorize-64`.
unet: the U-Net of pix2pix (Isola et al. 2017; `quality_pairs.py` says how it is written), which learns
colours by L1 alone, in batches of 16 with batch norm.

Prints one JSON object: for each contestant the Fréchet distance on EfficientNet-Lite0 features between its
images and the real held-out ones, the mean distance in CIELAB (`lab_error`, ΔE 1976), and its colourfulness
over that of real images (Hasler and Süsstrunk 2003); and of ours, the ratios to the U-Net. Needs
scikit-image. --images flow=N trains for as many images as an idle machine sees in the minutes. --set changes
settings of ours. What each made is kept in FOLDER: the same command continues after an interruption.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scoring
import torch
from quality_pairs import Generator, start
from quality_upscale import HELD_OUT, NEVER, held_out
from scoring import Budget
from torch import nn
from torch.nn import functional as F

import danqing as dq
from danqing.data import Dataset
from danqing.data.degrade import Degradation, luma, source_images
from danqing.data.splits import has_split, open_held
from danqing.images import Images, to_float, to_uint8

SIZE, BATCH = 64, 16
OURS = ("flow", "regression")
Made = tuple[np.ndarray, dict[str, Any]]


def train(
    data: str, mode: str, budget: Budget, settings: dict[str, Any], grey: np.ndarray, out: Path
) -> Made:
    """Train by the public interface, and colour the grey images."""
    run = scoring.train(
        data,
        task="colorize",
        mode=mode,
        size=(SIZE, SIZE),
        settings={"evaluation.keep": "last", "evaluation.held_out": HELD_OUT, **settings},
        evaluate_every=0 if has_split(data, "test") else NEVER,
        out=out,
        **budget.settings,
    )
    made = dq.translate(run.model, Images(grey), seed=1)
    assert isinstance(made, Images)
    return made.array, {"images": run.images, "images_per_second": round(run.images_per_second, 1)}


def unet(training: Dataset, budget: Budget, grey: np.ndarray) -> Made:
    """Train the U-Net with L1; the colours of the grey images."""
    torch.manual_seed(0)
    network = Generator(nn.BatchNorm2d).apply(start)
    optimizer = torch.optim.Adam(network.parameters(), 2e-4, betas=(0.5, 0.999))
    seen, elapsed, begun = 0, 0.0, time.perf_counter()
    while not budget.is_spent(seen, elapsed := time.perf_counter() - begun):
        rows = torch.randint(len(training), (BATCH,)).numpy()
        images = to_float(training.images(rows))
        images = images.flip(3) if bool(torch.rand(()) < 0.5) else images
        optimizer.zero_grad()
        F.l1_loss(network(luma(images).expand(-1, 3, -1, -1)), images).backward()
        optimizer.step()
        seen += BATCH
    network.eval()
    with torch.no_grad():
        parts = to_float(torch.from_numpy(grey)).expand(-1, 3, -1, -1).split(BATCH)
        made = torch.cat([network(part) for part in parts])
    facts = {"images": seen, "images_per_second": round(seen / elapsed, 1)}
    return to_uint8(made).numpy(), facts


def lab_error(made: np.ndarray, real: np.ndarray) -> float:
    """Return the mean Euclidean distance in CIELAB, ΔE 1976."""
    from skimage.color import rgb2lab

    return float(np.linalg.norm(rgb2lab(made) - rgb2lab(real), axis=-1).mean())


def colourfulness(images: np.ndarray) -> float:
    """Return the mean colourfulness of images (Hasler and Süsstrunk 2003, equation 4)."""
    red, green, blue = np.moveaxis(images.astype(np.float64), -1, 0)
    first, second = red - green, (red + green) / 2 - blue
    spread = np.sqrt(first.var((1, 2)) + second.var((1, 2)))
    middle = np.sqrt(first.mean((1, 2)) ** 2 + second.mean((1, 2)) ** 2)
    return float((spread + 0.3 * middle).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--images", nargs="*", default=[], metavar="NAME=COUNT", help="budgets in images")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of ours")
    parser.add_argument("--only", nargs="+", choices=["unet", *OURS], metavar="NAME")
    parser.add_argument("--count", type=int, default=2000, help="how many held-out images at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the runs and the results here")
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    out = scoring.folder_for(arguments.out)
    judged = held_out(arguments.data, SIZE)
    rows = np.sort(np.random.default_rng(0).permutation(len(judged))[: arguments.count])
    real = judged.images(rows).numpy()
    grey = to_uint8(source_images(judged, rows.tolist(), Degradation("gray"), 0)).numpy()
    is_split = has_split(arguments.data, "test")
    training = (
        dq.open_dataset(arguments.data, size=(SIZE, SIZE), split="train")
        if is_split
        else open_held(arguments.data, HELD_OUT, size=(SIZE, SIZE)).training
    )
    budget = scoring.budgets(arguments.minutes, arguments.images)
    settings = dict(setting.split("=", 1) for setting in arguments.set)
    contestants: dict[str, Callable[[], Made]] = {
        "unet": functools.partial(unet, training, budget("unet"), grey)
    }
    for name in OURS:
        contestants[name] = functools.partial(
            train, arguments.data, name, budget(name), settings, grey, out / f"{name}-run"
        )
    results: dict[str, Any] = {"minutes": arguments.minutes, "threads": arguments.threads, "test": len(real)}
    for name in arguments.only or contestants:
        made, facts = scoring.kept(out, name, arguments.minutes, contestants[name])
        results[name] = {
            "frechet_distance": scoring.distance(made, real),
            "lab_error": round(lab_error(made, real), 3),
            "colourfulness_ratio": round(colourfulness(made) / colourfulness(real), 3),
            **facts,
        }
        shown = np.concatenate([grey[:100].repeat(3, axis=3), made[:100], real[:100]], axis=2)
        Images(shown).save(out / f"{name}-sheet.png")
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    for name in OURS:
        if name in results and "unet" in results:
            for key in ("frechet_distance", "lab_error"):
                results[name][f"{key}_ratio"] = round(results[name][key] / results["unet"][key], 3)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
