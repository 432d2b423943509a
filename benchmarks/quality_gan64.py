"""Quality at 64×64 after equal time: `gan-64`, the same with the network `dcgan`, and lightweight-gan.

    python benchmarks/quality_gan64.py --data PHOTOS --peers PEERS/bin/python [--minutes 30] [--seeds 1]
        [--only NAME ...] [--images NAME=COUNT ...] [--set KEY=VALUE ...] [--size 64] [--preset gan-64]
        [--out FOLDER]

PHOTOS holds images of at least the size, such as flower photographs. A tenth of them is held out of all
training. Each contestant trains for the minutes on this machine and generates 5,000 images. Prints one JSON
object: the Fréchet distance on EfficientNet-Lite0 features to all images of PHOTOS, with precision and
recall; the kernel distance to the held-out images alone, which does not reward copies; images seen, and per
second; the same scores of training images ("floor"); and the ratios of the mean distance of `gan-64` to those
of the others.

dcgan: the settings that `gan-64` had before the network `modern`, listed in `DCGAN` below.
`gan_peers.py` says what lightweight-gan 1.2.1 is given, once with its defaults and once tuned for minutes,
and how to make PEERS. It learns without labels; ours with those that the data has. All mirror images if the
data advises it.

--images gan-64=N trains for as many images as an idle machine sees in the minutes. --set changes settings of
`gan-64`, which is trained with each of --seeds; the others once. What each contestant generated is kept in
FOLDER: the same command continues after an interruption, also within a run of ours, and --only trains some of
the contestants.
"""

import argparse
import functools
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scoring
from quality_flow import peer

import danqing as dq
from danqing.data import open_dataset
from danqing.data.splits import HELD_OUT, open_held
from danqing.evaluation.kernel import kernel_distance

DCGAN = {
    "net": "dcgan",
    "latents": 128,
    "generator_features": 64,
    "discriminator_features": 64,
    "batch_norm": False,
    "diffaugment": [],
    "reconstruction": 0,
    "gamma": 0.0,
    "r1": 0.2,
    "r2": 0.2,
    "penalty_fraction": 0.25,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "betas": [0.0, 0.99],
    "final_betas": [0.0, 0.99],
    "final_fraction": 0.03,
    "ema_half_life_images": 4000,
}
NEVER = 10**9
"""More images than a run sees: held-out images are scored only at its end."""
TUNED = "lightweight-gan-tuned"
NAMES = ("gan-64", "dcgan", "lightweight-gan", TUNED)
Contestant = Callable[[], tuple[np.ndarray, dict[str, Any]]]


def danqing(
    arguments: argparse.Namespace, settings: dict[str, Any], budget: scoring.Budget, seed: int, out: Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train by the public interface; the samples, and what the training was."""
    run = scoring.train(
        arguments.data,
        preset=arguments.preset,
        seed=seed,
        settings={"evaluation.keep": "last", **settings},
        evaluate_every=NEVER,
        size=(arguments.size, arguments.size),
        out=out,
        **budget.settings,
    )
    samples = dq.load(run).sample(arguments.count, seed=1)
    return samples.array, {"images": run.images, "images_per_second": round(run.images_per_second, 1)}


def ratios(results: dict[str, Any]) -> dict[str, float]:
    """Return the mean Fréchet distance of ours over that of each other contestant."""
    runs = [found for name, found in results.items() if name.startswith("gan-64-seed-")]
    if not runs:
        return {}
    distance = statistics.mean(run["frechet_distance"] for run in runs)
    found = {"mean_distance": round(distance, 2)}
    groups = {"dcgan": ("dcgan",), "lightweight-gan": ("lightweight-gan", TUNED)}
    for name, members in groups.items():
        theirs = [results[member]["frechet_distance"] for member in members if member in results]
        if theirs:
            found[f"distance_to_{name}"] = round(distance / min(theirs), 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--peers", help="the Python of the virtual environment of lightweight-gan")
    parser.add_argument("--preset", default="gan-64")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--images", nargs="*", default=[], metavar="NAME=COUNT", help="budgets in images")
    parser.add_argument("--seeds", type=int, default=1, help="how often gan-64 is trained")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of gan-64")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--count", type=int, default=5000, help="how many images are judged")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the runs, the samples and grids here")
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    chosen = arguments.only or list(NAMES)
    if arguments.peers is None and any(name.startswith("lightweight") for name in chosen):
        raise SystemExit("Give --peers, or choose gan-64 and dcgan by --only.")
    out = scoring.folder_for(arguments.out)

    size = (arguments.size, arguments.size)
    everything = scoring.pixels_of(open_dataset(arguments.data, size=size))
    held = open_held(arguments.data, HELD_OUT, size=size)
    judged = scoring.features(scoring.pixels_of(held.judged))
    training = scoring.pixels_of(held.training)
    file = out / "training.npy"
    if not file.exists():
        np.save(file, training)
    options = ["--count", str(arguments.count), "--threads", str(arguments.threads)]
    options += ["--flip"] if held.training.info.augment.flip else []
    budget = scoring.budgets(arguments.minutes, arguments.images)
    settings = dict(setting.split("=", 1) for setting in arguments.set)

    contestants: dict[str, Contestant] = {}
    for name in chosen:
        if name.startswith("lightweight"):
            contestants[name] = functools.partial(
                peer,
                arguments.peers,
                name,
                file,
                budget(name),
                options,
                out / f"peer-{name}",
                script="gan_peers.py",
            )
            continue
        for seed in range(arguments.seeds if name == "gan-64" else 1):
            run = f"{name}-seed-{seed}" if name == "gan-64" else name
            contestants[run] = functools.partial(
                danqing,
                arguments,
                settings if name == "gan-64" else DCGAN,
                budget(name),
                seed,
                out / f"run-{run}",
            )

    def scored(pixels: np.ndarray) -> dict[str, Any]:
        kernel = kernel_distance(scoring.features(pixels), judged).value
        return {**scoring.score(pixels, everything), "held_out_kernel_distance": round(kernel, 4)}

    results: dict[str, Any] = {"minutes": arguments.minutes, "threads": arguments.threads}
    results["floor"] = scored(training)
    for name, make in contestants.items():
        pixels, facts = scoring.kept(out, name, arguments.minutes, make)
        results[name] = {**scored(pixels), **facts}
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    results["ratios"] = ratios(results)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
