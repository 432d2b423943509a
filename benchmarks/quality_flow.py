"""Quality after equal time: the preset `flow-32` beside our other families and three packages for diffusion.

    python benchmarks/quality_flow.py --data DIR --peers PEERS/bin/python [--minutes 5] [--seeds 1]
        [--presets flow-32 gan-32] [--only NAME ...] [--images NAME=COUNT ...] [--set KEY=VALUE ...]
        [--peer-count 1000] [--out FOLDER]

DIR holds 32×32 images with a test split, such as Fashion-MNIST IDX files or a folder of CIFAR-10 as JPEG,
whose figures are not those of CIFAR-10. Each contestant trains for the minutes on this machine and then
samples with at most 25 evaluations of its networks, guidance included. Prints one JSON object: Fréchet
distance on EfficientNet-Lite0 features, precision and recall of 5,000 images against the test split; the
same of training images ("floor"); images per second; evaluations per image; and at the end the ratios of
the mean distance of the first preset to those of the others, and of its recall to the smaller of 1.5 times
that of `gan-32` and 0.9 times that of training images.

`flow_peers.py` says what diffusers 0.42.1, torchcfm 1.0.7 and rectified-flow-pytorch 0.14.0 are given, once
with their defaults and once tuned for minutes, and how to make PEERS. A ratio is to the better of the two.
They sample slowly. --peer-count 1000 lets each sample 1,000 images instead of 5,000, and compares them with
1,000 of ours.
The peers learn without labels; our presets with those that the data has. All mirror images where the data
advises it.

--images flow-32=N trains for as many images as an idle machine sees in the minutes, so that the result is
the same on a busy one. The first preset is trained with each of --seeds, the others once. Besides, its
samples in eight steps are kept as `...-8-steps.png`. What each contestant generated is kept in FOLDER: the
same command continues after an interruption, and --only trains some of the contestants.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flow_evaluations
import numpy as np
import scoring
from flow_peers import PEERS
from scoring import Budget

import danqing as dq
from danqing.data import open_dataset

SIZE = (32, 32)
EVALUATIONS = 25
TUNED = "-tuned"
PEER_RUNS = tuple(name + suffix for name in PEERS for suffix in ("", TUNED))
Contestant = Callable[[], tuple[np.ndarray, dict[str, Any]]]


def peer(
    python: str,
    name: str,
    images: Path,
    budget: Budget,
    options: list[str],
    out: Path,
    *,
    script: str = "flow_peers.py",
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train a peer in a process of its own; its samples, and what the training was."""
    file = Path(__file__).with_name(script)
    command = [python, str(file), name.removesuffix(TUNED), "--images", str(images), "--out", str(out)]
    command += ["--minutes", str(budget.minutes), *options]
    command += ["--budget", str(budget.images)] if budget.images else []
    command += ["--tuned"] if name.endswith(TUNED) else []
    subprocess.run(command, check=True, stdout=sys.stderr)
    return np.load(out / "samples.npy"), json.loads((out / "facts.json").read_text())


def danqing(
    data: str, preset: str, budget: Budget, seed: int, settings: dict[str, str], count: int, out: Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train by the public interface; the samples, and what the training was."""
    run = scoring.train(
        data, preset=preset, seed=seed, settings=settings, out=out, size=SIZE, **budget.settings
    )
    model = dq.load(run)
    options = flow_evaluations.within(model, EVALUATIONS)
    facts: dict[str, Any] = {"images": run.images, "images_per_second": round(run.images_per_second)}
    if "num_steps" in options:
        eight = model.sample(100, seed=1, num_steps=8)
        eight.save(out.with_name(f"{out.name}-8-steps.png"))
    samples, evaluations = flow_evaluations.counted(
        model, functools.partial(model.sample, count, seed=1, **options)
    )
    return samples.array, {
        **facts,
        "evaluations": evaluations,
        "options": {**model.sample_options, **options},
    }


def ratios(results: dict[str, Any], ours: str, others: list[str]) -> dict[str, float]:
    """Return our mean distance over that of each other contestant, and our recall over its goal."""
    runs = [found for name, found in results.items() if name.startswith(f"{ours}-seed-")]
    if not runs:
        return {}
    distance = statistics.mean(run["frechet_distance"] for run in runs)
    distance_of_few = statistics.mean(run["frechet_distance_of_few"] for run in runs)
    recall = statistics.mean(run["recall"] for run in runs)
    found = {"mean_distance": round(distance, 2), "mean_recall": round(recall, 4)}
    for other in others:
        theirs = [
            one["frechet_distance"]
            for name, one in results.items()
            if name in (other, other + TUNED, f"{other}-seed-0")
        ]
        if theirs:
            own = distance_of_few if other in PEERS else distance
            found[f"distance_to_{other}"] = round(own / min(theirs), 3)
    gan = results.get("gan-32-seed-0")
    if gan is not None:
        goal = min(1.5 * gan["recall"], 0.9 * results["floor"]["recall"])
        found["recall_to_goal"] = round(recall / goal, 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--peers", help="the Python of the virtual environment of the peers")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--images", nargs="*", default=[], metavar="NAME=COUNT", help="budgets in images")
    parser.add_argument("--presets", nargs="+", default=["flow-32", "gan-32"], help="the first is judged")
    parser.add_argument("--seeds", type=int, default=1, help="how often the first preset is trained")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the first preset"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="presets and peers to train")
    parser.add_argument("--count", type=int, default=5000, help="how many images are judged")
    parser.add_argument("--peer-count", type=int, help="how many images of a peer are judged")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the runs, the samples and grids here")
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    chosen = arguments.only or [*arguments.presets, *PEER_RUNS]
    if unknown := [name for name in chosen if name not in (*arguments.presets, *PEER_RUNS)]:
        raise SystemExit(f"{', '.join(unknown)}: choose from {', '.join([*arguments.presets, *PEER_RUNS])}.")
    if arguments.peers is None and any(name in PEER_RUNS for name in chosen):
        raise SystemExit("Give --peers, or choose some of our presets by --only.")
    out = scoring.folder_for(arguments.out)

    reference = scoring.pixels_of(open_dataset(arguments.data, size=SIZE, split="test"))
    dataset = open_dataset(arguments.data, size=SIZE)
    training = scoring.pixels_of(dataset)
    images = out / "training.npy"
    if not images.exists():
        np.save(images, training)
    few = arguments.peer_count or arguments.count
    options = ["--count", str(few), "--threads", str(arguments.threads)]
    options += ["--flip"] if dataset.info.augment.flip else []
    budget = scoring.budgets(arguments.minutes, arguments.images)
    settings = dict(setting.split("=", 1) for setting in arguments.set)

    contestants: dict[str, Contestant] = {}
    for name in chosen:
        if name in PEER_RUNS:
            contestants[name] = functools.partial(
                peer, arguments.peers, name, images, budget(name), options, out / f"peer-{name}"
            )
            continue
        first = name == arguments.presets[0]
        for seed in range(arguments.seeds if first else 1):
            run = f"{name}-seed-{seed}"
            contestants[run] = functools.partial(
                danqing,
                arguments.data,
                name,
                budget(name),
                seed,
                settings if first else {},
                arguments.count,
                out / f"run-{run}",
            )

    results: dict[str, Any] = {"minutes": arguments.minutes, "threads": arguments.threads}
    results["floor"] = scoring.score(training[: arguments.count], reference)
    for name, make in contestants.items():
        pixels, facts = scoring.kept(out, name, arguments.minutes, make)
        results[name] = {**scoring.score(pixels, reference), **facts}
        if name not in PEER_RUNS:
            found = results[name] if few == len(pixels) else scoring.score(pixels[:few], reference)
            results[name]["frechet_distance_of_few"] = found["frechet_distance"]
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    results["ratios"] = ratios(results, arguments.presets[0], [*arguments.presets[1:], *PEERS])
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
