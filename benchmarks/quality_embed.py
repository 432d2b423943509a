"""Vectors that are learned without labels: the preset `embed-32` and lightly, trained for equal minutes.

    python benchmarks/quality_embed.py --data DIR [--peers PEERS/bin/python] [--minutes 5] [--seeds 1]
        [--only NAME ...] [--images NAME=COUNT ...] [--set KEY=VALUE ...] [--limit COUNT] [--out FOLDER]

DIR holds labelled images with a test split, such as Fashion-MNIST IDX files. Prints one JSON object: how
many test images have the label that their 20 nearest training images vote for (cosine; exp(s / 0.07) votes),
with an interval, and the accuracy of a linear probe. It says so of "embed-32", of its vectors without
training ("untrained"), of the values of the pixels ("pixels"), and of lightly's SimCLR and VICReg with
ResNet-18, which `embed_peers.py` describes, once as documented and once tuned ("-tuned"); and at the end by
how many points "embed-32" is ahead of the best peer and of the pixels.

--images embed-32=N trains on as many images as an idle machine sees in the minutes, so that the result is the
same on a busy one. --set changes settings of the preset, such as objective=vicreg. --limit judges and votes
with fewer images. Vectors are kept in FOLDER: the same command continues after an interruption.
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scoring
import torch
from embed_peers import PEERS
from scoring import Budget

import danqing as dq
from danqing.data import Dataset, open_dataset
from danqing.model.recognizer import Recognizer
from danqing.randomness import derived_seed
from danqing.recognition.probe import probe_vectors

OURS, UNTRAINED, PIXELS = "embed-32", "untrained", "pixels"
TUNED = "-tuned"
PEER_RUNS = tuple(name + suffix for name in PEERS for suffix in ("", TUNED))
Facts = dict[str, Any]
Contestant = Callable[[Path], tuple[np.ndarray, Facts]]


def danqing(
    data: str, sets: list[Dataset], budget: Budget, seed: int, settings: dict[str, str], out: Path
) -> tuple[np.ndarray, Facts]:
    """Train by the public interface; the vectors of all images, and what the training was."""
    run = scoring.train(
        data,
        task="embed",
        seed=seed,
        settings={**settings, "evaluation.every_images": "0"},
        size=sets[0].size,
        out=out / "run",
        **budget.settings,
    )
    facts = {"images": run.images, "images_per_second": round(run.images_per_second)}
    return vectors_of(dq.load_recognizer(run), sets), facts


def untrained(sets: list[Dataset], settings: dict[str, str]) -> tuple[np.ndarray, Facts]:
    """Return the vectors of a network with fresh weights, which has observed the training images."""
    from danqing.training.config_reading import resolve
    from danqing.training.engine import initialise

    config = resolve(preset=OURS, settings=settings, size=sets[0].size)
    model = config.model.model_copy(update={"channels": sets[0].channels})
    learner = initialise(config.model_copy(update={"model": model}))
    rows = torch.randperm(len(sets[0]), generator=torch.Generator().manual_seed(derived_seed(0, "observed")))
    recognizer = Recognizer(learner)
    for part in rows[:20_000].split(500):
        pixels = recognizer.inputs(sets[0].images(part.numpy()))
        learner.whitening.observe(learner.described(pixels))  # type: ignore[operator, union-attr]
    return vectors_of(recognizer, sets), {"images": 0}


def vectors_of(recognizer: Recognizer, sets: list[Dataset]) -> np.ndarray:
    return np.concatenate([dq.encode(recognizer, images) for images in sets])


def pixels(sets: list[Dataset]) -> tuple[np.ndarray, Facts]:
    values = np.concatenate([scoring.pixels_of(images) for images in sets])
    return values.reshape(len(values), -1).astype(np.float32) / 255, {}


def peer(
    python: str, name: str, sets: list[Dataset], budget: Budget, threads: int, out: Path
) -> tuple[np.ndarray, Facts]:
    """Train a peer in a process of its own."""
    files = [out / "images.npy", out / "judged.npy"]
    for file, images in zip(files, sets, strict=True):
        np.save(file, scoring.pixels_of(images))
    script = Path(__file__).with_name("embed_peers.py")
    command = [python, str(script), name.removesuffix(TUNED), "--threads", str(threads)]
    command += ["--images", str(files[0]), "--judged", str(files[1]), "--out", str(out)]
    command += ["--minutes", str(budget.minutes)]
    command += ["--budget", str(budget.images)] if budget.images else []
    command += ["--tuned"] if name.endswith(TUNED) else []
    subprocess.run(command, check=True, stdout=sys.stderr)
    return np.load(out / "vectors.npy"), json.loads((out / "facts.json").read_text())


def kept(out: Path, name: str, minutes: float, make: Contestant) -> tuple[np.ndarray, Facts]:
    """Return the vectors of a contestant; make them only if `out` has none."""
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    return scoring.kept_values(folder, "kept", minutes, functools.partial(make, folder))


def judge(vectors: np.ndarray, sets: list[Dataset]) -> Facts:
    """Score vectors of training and test images by their labels."""
    known, judged = (torch.from_numpy(part) for part in np.split(vectors, [len(sets[0])]))
    labels = [torch.from_numpy(images.labels_at(np.arange(len(images)))) for images in sets]
    votes, linear = probe_vectors(known, labels[0], judged, labels[1])
    interval = votes.interval()
    assert interval is not None
    return {
        "neighbours": round(100 * votes.value, 2),
        "interval": [round(100 * end, 2) for end in interval],
        "linear": round(100 * linear.value, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--peers", help="the Python of the virtual environment of lightly")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=1, help="how often the preset is trained")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="the contestants to train")
    parser.add_argument("--images", nargs="*", default=[], metavar="NAME=COUNT", help="budgets in images")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the preset")
    parser.add_argument("--limit", type=int, help="the most images of each split that are used")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep runs and vectors here")
    options = parser.parse_args()
    scoring.pin_threads(options.threads)
    budget = scoring.budgets(options.minutes, options.images)
    settings = dict(one.split("=", 1) for one in options.set)
    sets = [open_dataset(options.data, split=split) for split in ("train", "test")]
    if options.limit:
        sets = [images.subset(np.arange(min(options.limit, len(images)))) for images in sets]
    contestants: dict[str, Contestant] = {
        PIXELS: lambda _: pixels(sets),
        UNTRAINED: lambda _: untrained(sets, settings),
    }
    for seed in range(options.seeds):
        name = OURS if seed == 0 else f"{OURS}-seed-{seed}"
        contestants[name] = functools.partial(danqing, options.data, sets, budget(OURS), seed, settings)
    for name in PEER_RUNS if options.peers else ():
        contestants[name] = functools.partial(peer, options.peers, name, sets, budget(name), options.threads)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in contestants.items():
            if options.only and name not in options.only:
                continue
            vectors, facts = kept(options.out or Path(folder), name, options.minutes, make)
            found[name] = judge(vectors, sets) | facts
    if OURS in found:
        rivals = [found[name]["neighbours"] for name in PEER_RUNS if name in found]
        ours = found[OURS]["neighbours"]
        found["points_ahead_of_peers"] = round(ours - max(rivals), 2) if rivals else None
        found["points_ahead_of_pixels"] = (
            round(ours - found[PIXELS]["neighbours"], 2) if PIXELS in found else None
        )
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
