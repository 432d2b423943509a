"""Classification after equal time: the preset `classify-32` beside a ResNet-18 of timm in a plain loop.

    python benchmarks/quality_classify.py --data fashion-mnist --peers PEERS/bin/python [--minutes 5]
        [--seeds 1] [--size 28] [--presets classify-32] [--only NAME ...] [--images NAME=COUNT ...]
        [--set KEY=VALUE ...] [--flip] [--out FOLDER]

Each contestant trains for the minutes on this machine and then says the probability of each label of the test
images. Our presets hold a tenth of the training images out, by which they choose their best weights and their
temperature; the peer learns from all. Prints one JSON object: accuracy, mean F1, calibration error and
negative log-likelihood on the test images with 95% intervals; images per second; and at the end how much our
mean accuracy lies above that of the better of the peer's two recipes, in points, with an interval of paired
images.

`classify_peers.py` says what timm 1.0.31 is given, once as its training script does and once tuned for
minutes, and how to make PEERS. --flip mirrors half of the training images of all contestants.

--images classify-32=N trains for as many images as an idle machine sees in the minutes, so that the result is
the same on a busy one. The first preset is trained with each of --seeds, the others once. What each
contestant said is kept in FOLDER: the same command continues after an interruption, and --only trains some of
the contestants.
"""

import argparse
import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scoring
import torch
from numpy.typing import NDArray
from scoring import Budget
from torch.nn import functional as F

import danqing as dq
from danqing.data import Dataset, open_dataset
from danqing.evaluation import classification
from danqing.evaluation.classification import Answers
from danqing.evaluation.estimate import Estimate, mean_of

PEER = "timm-resnet18"
PEER_RUNS = (PEER, f"{PEER}-tuned")
Said = tuple[NDArray[Any], dict[str, Any]]


def peer(python: str, name: str, images: Path, budget: Budget, options: list[str], out: Path) -> Said:
    """Train the peer in a process of its own; its probabilities, and what the training was."""
    file = Path(__file__).with_name("classify_peers.py")
    command = [python, str(file), "--images", str(images), "--out", str(out), *options]
    command += ["--minutes", str(budget.minutes)]
    command += ["--budget", str(budget.images)] if budget.images else []
    command += ["--tuned"] if name.endswith("-tuned") else []
    subprocess.run(command, check=True, stdout=sys.stderr)
    return np.load(out / "probabilities.npy"), json.loads((out / "facts.json").read_text())


def danqing(
    data: str,
    test: Dataset,
    preset: str,
    budget: Budget,
    seed: int,
    settings: dict[str, Any],
    out: Path,
) -> Said:
    """Train by the public interface; the probabilities, and what the training was."""
    run = scoring.train(
        data, preset=preset, seed=seed, settings=settings, out=out, size=test.size, **budget.settings
    )
    recognizer = dq.load_recognizer(run)
    assert recognizer.classes == test.label_names
    parts = np.array_split(np.arange(len(test)), -(-len(test) // scoring.AT_ONCE))
    chances = torch.cat([recognizer.probabilities(test.images(rows)) for rows in parts])
    return chances.numpy(), {
        "images": run.images,
        "images_per_second": round(run.images_per_second),
        "parameters": recognizer.info()["parameters"],
        "temperature": recognizer.temperature,
        "held_out_accuracy": None if run.best is None else round(run.best["value"], 4),
    }


def scores(chances: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, Any]:
    """Return all scores of probabilities `[n, k]`, each with its interval."""
    answers = answers_of(chances, labels)
    estimates = {
        "accuracy": classification.accuracy(answers),
        "mean_f1": classification.mean_f1(answers),
        "calibration_error": classification.calibration_error(answers),
        "nll": classification.negative_log_likelihood(answers),
    }
    return {name: [round(one.value, 4), *interval(one, 4)] for name, one in estimates.items()}


def answers_of(chances: NDArray[Any], labels: NDArray[np.int64]) -> Answers:
    """Return probabilities as the answers of a classifier whose temperature is 1."""
    logits = torch.from_numpy(chances).double().clamp_min(1e-30).log()
    return Answers(logits, F.one_hot(torch.from_numpy(labels), chances.shape[1]).float())


def lead(ours: list[NDArray[Any]], theirs: NDArray[Any], labels: NDArray[np.int64]) -> list[float]:
    """Return by how many points our mean accuracy is higher, with the interval of paired images."""
    right = np.mean([one.argmax(1) == labels for one in ours], axis=0)
    difference = mean_of(torch.from_numpy(100 * (right - (theirs.argmax(1) == labels))))
    return [round(difference.value, 2), *interval(difference, 2)]


def interval(estimate: Estimate, digits: int) -> list[float]:
    """Return the ends of the 95% interval, rounded."""
    return [round(end, digits) for end in estimate.interval() or ()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="fashion-mnist", help="labelled images with a test split")
    parser.add_argument("--peers", help="the Python of the virtual environment of the peer")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--size", type=int, default=28, help="the sides of the images")
    parser.add_argument("--images", nargs="*", default=[], metavar="NAME=COUNT", help="budgets in images")
    parser.add_argument("--presets", nargs="+", default=["classify-32"], help="the first is judged")
    parser.add_argument("--seeds", type=int, default=1, help="how often the first preset is trained")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of our presets")
    parser.add_argument("--flip", action="store_true", help="mirror half of the training images")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="presets and peers to train")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the runs and what was said here")
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    chosen = arguments.only or [*arguments.presets, *PEER_RUNS]
    if unknown := [name for name in chosen if name not in (*arguments.presets, *PEER_RUNS)]:
        raise SystemExit(f"{', '.join(unknown)}: choose from {', '.join([*arguments.presets, *PEER_RUNS])}.")
    if arguments.peers is None and any(name in PEER_RUNS for name in chosen):
        raise SystemExit("Give --peers, or choose some of our presets by --only.")
    out = scoring.folder_for(arguments.out)

    size = (arguments.size, arguments.size)
    test = open_dataset(arguments.data, size=size, split="test")
    labels = test.labels_at(np.arange(len(test)))
    images = out / "images.npz"
    if not images.exists() and any(name in PEER_RUNS for name in chosen):
        training = open_dataset(arguments.data, size=size, split="train")
        known = training.labels_at(np.arange(len(training)))
        np.savez(images, training=scoring.pixels_of(training), test=scoring.pixels_of(test), labels=known)
    budget = scoring.budgets(arguments.minutes, arguments.images)
    settings: dict[str, Any] = dict(setting.split("=", 1) for setting in arguments.set)
    options = ["--threads", str(arguments.threads)]
    if arguments.flip:
        settings["data.augment.flip"] = "true"
        options.append("--flip")

    contestants: dict[str, Callable[[], Said]] = {}
    for name in chosen:
        if name in PEER_RUNS:
            contestants[name] = functools.partial(
                peer, arguments.peers, name, images, budget(name), options, out / f"peer-{name}"
            )
            continue
        for seed in range(arguments.seeds if name == arguments.presets[0] else 1):
            run = f"{name}-seed-{seed}"
            contestants[run] = functools.partial(
                danqing, arguments.data, test, name, budget(name), seed, settings, out / f"run-{run}"
            )

    results: dict[str, Any] = {"minutes": arguments.minutes, "threads": arguments.threads}
    said: dict[str, NDArray[Any]] = {}
    for name, make in contestants.items():
        said[name], facts = scoring.kept_values(out, name, arguments.minutes, make)
        results[name] = {**scores(said[name], labels), **facts}
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    ours = [one for name, one in said.items() if name.startswith(f"{arguments.presets[0]}-seed-")]
    theirs = [said[name] for name in PEER_RUNS if name in said]
    if ours and theirs:
        best = max(theirs, key=lambda one: float((one.argmax(1) == labels).mean()))
        results["points_above_timm"] = lead(ours, best, labels)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
