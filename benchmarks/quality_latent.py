"""Quality after equal time at 128 pixels: flow on latents, flow on pixels, and a GAN.

    python benchmarks/quality_latent.py --data flowers128.zip [--minutes 45] [--size 128]
        [--only NAME ...] [--images NAME=COUNT ...] [--set KEY=VALUE ...] [--out FOLDER]

Each contestant trains for the minutes on this machine and then generates --count images:

latent          the preset `flow-128`: an autoencoder, then flow matching on its latents
pixels-hybrid   `flow-64` at this size: convolutions at each resolution, a transformer on a grid of 8×8
pixels-patch    the same budget for a transformer alone, whose tokens are patches of 16×16 pixels
gan             the preset `gan-128`

Prints one JSON object. For each: Fréchet distance on EfficientNet-Lite0 features, precision and recall
against the test split, or against the training images where there is none; the distance on the features of
`hed` where it is installed, which is the one to read if a contestant learned with EfficientNet features
(--set tokenizer.settings.perceptual=1); images per second of training and of sampling. For `latent` also the
PSNR of its reconstructions and the distance of reconstructed images, which its samples cannot fall below by
much. At the end, the ratios of the distance of `latent` to those of the others.

--images latent=N trains for as many images as an idle machine sees in the minutes, both stages together, so
that the result is the same on a busy one. --set changes settings of `latent`. What each contestant generated
is kept in FOLDER: the same command continues after an interruption, in the middle of a run too.
"""

import argparse
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import scoring
from scoring import Budget

import danqing as dq
from danqing import presets
from danqing.data import Dataset, open_dataset
from danqing.data.splits import open_if_there
from danqing.evaluation.networks import hed
from danqing.images import Images
from danqing.pretrained import hed_trunk

MOST_RECONSTRUCTED = 1000
CONTESTANTS: dict[str, tuple[str, dict[str, str]]] = {
    "latent": ("flow-128", {}),
    "pixels-hybrid": ("flow-64", {}),
    "pixels-patch": ("flow-64", {"net": "dit", "widths": "[384]", "heads": "6", "patch": "16"}),
    "gan": ("gan-128", {}),
}
"""A preset and its settings for each."""


def contestant(
    data: str,
    name: str,
    budget: Budget,
    settings: dict[str, str],
    side: int,
    count: int,
    reference: np.ndarray,
    out: Path,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train by the public interface; the samples, and what the training was."""
    preset, own = CONTESTANTS[name]
    run = scoring.train(
        data,
        preset=preset,
        out=out,
        size=(side, side),
        settings={**own, **settings},
        evaluate_every=0,
        **budget.settings,
    )
    model = dq.load(run)
    facts: dict[str, Any] = {"images": run.images, "images_per_second": round(run.images_per_second, 1)}
    if run.tokenizer is not None:
        shown, label = Images(reference[:MOST_RECONSTRUCTED]), model.labels[0] if model.labels else None
        facts["first_stage"] = {
            "images": run.tokenizer["images"],
            "images_per_second": round(run.tokenizer["images_per_second"], 1),
            "psnr": run.tokenizer["psnr"],
            "frechet_distance": scoring.distance(model.reconstruct(shown, label).array, reference),
        }
    begun = time.perf_counter()
    samples = model.sample(count, seed=1)
    facts["samples_per_second"] = round(count / (time.perf_counter() - begun), 2)
    return samples.array, {**facts, "options": model.sample_options}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", nargs="*", default=[], metavar="NAME=COUNT", help="budgets in images")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of `latent`")
    parser.add_argument("--only", nargs="+", choices=list(CONTESTANTS), metavar="NAME")
    parser.add_argument("--count", type=int, default=2000, help="how many images are judged")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the runs, the samples and grids here")
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    available = [name for name, (preset, _) in CONTESTANTS.items() if preset in presets.names()]
    chosen = arguments.only or available
    out = scoring.folder_for(arguments.out)

    size = (arguments.size, arguments.size)
    test: Dataset | None = open_if_there(arguments.data, "test", size=size)
    reference = scoring.pixels_of(test or open_dataset(arguments.data, size=size))
    budget = scoring.budgets(arguments.minutes, arguments.images)
    settings = dict(setting.split("=", 1) for setting in arguments.set)
    second = hed.NAME if hed_trunk.WEIGHTS.is_installed() else None

    results: dict[str, Any] = {"minutes": arguments.minutes, "threads": arguments.threads}
    results |= {"size": list(size), "reference": "test" if test is not None else "training"}
    for name in chosen:
        make = functools.partial(
            contestant,
            arguments.data,
            name,
            budget(name),
            settings if name == "latent" else {},
            arguments.size,
            arguments.count,
            reference,
            out / f"run-{name}",
        )
        pixels, facts = scoring.kept(out, name, arguments.minutes, make)
        results[name] = {**scoring.score(pixels, reference), **facts}
        if second is not None:
            results[name][f"frechet_distance_{second}"] = scoring.distance(pixels, reference, second)
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    if "latent" in chosen:
        for key in ("frechet_distance", *([f"frechet_distance_{second}"] if second else [])):
            ours = results["latent"][key]
            results[f"ratios_{key}"] = {
                name: round(ours / results[name][key], 3) for name in chosen if name != "latent"
            }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
