"""Shortcuts: clothes whose colour agrees with the label in training and not in the test.

    python benchmarks/shortcut.py [--minutes 5] [--images NAME=COUNT ...] [--only NAME ...] [--judged 1000]
        [--training 0] [--set NAME:KEY=VALUE ...] [--seed 0] [--threads 2] [--out FOLDER]

Fashion-MNIST in ten colours. A training image has the colour of its label with a probability of 0.9, and one
of the nine others otherwise; a test image has the colour of its label with a probability of 0.1. Every
contestant learns from the same images for the same time: the classifier of the task `classify`, and each
generator, which predicts by Bayes' rule (`learners/generative.py`) with all labels equally frequent.

Prints one JSON object. A group holds the test images of one label whose colour agrees with it, or does not.
For each contestant: the accuracy, that of the images whose colour does not agree, and that of its worst
group, each with a 95% interval; the accuracy of every group; how many evaluations and milliseconds a
prediction takes. "difference" is the worst group of each generator less that of the classifier.

--judged is the number of test images of each label, half of which agree. --training is the number of training
images (0 is all). --set vae-32:beta=1 changes a setting of a contestant.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import image_zip
import numpy as np
import scoring
import torch
from numpy.typing import NDArray

import danqing as dq
from danqing.data import Dataset, open_dataset
from danqing.evaluation.estimate import share_of
from danqing.images import Images
from danqing.learners.generative import GenerativeClassifier
from danqing.model.recognizer import Recognizer
from danqing.randomness import generator

CLASSIFIER = "classifier"
GENERATORS = ("vae-32", "flow-32")
COLOURS = (
    *((230, 60, 60), (60, 200, 80), (70, 110, 240), (240, 220, 60), (200, 80, 220)),
    *((70, 220, 220), (250, 150, 50), (250, 170, 200), (150, 110, 60), (230, 230, 230)),
)
AGREES = {"train": 0.9, "test": 0.1}
SIZE = (32, 32)


def make_data(path: Path, training: int, seed: int) -> Path:
    """Write the coloured clothes as a zip file with a folder for each label; returns its path.

    training: how many training images; 0 is all.
    """
    return image_zip.write(path, _coloured(training, seed))


def _coloured(training: int, seed: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for split, share in AGREES.items():
        source = open_dataset("fashion-mnist", split=split)
        rows = np.arange(len(source))
        if split == "train" and training:
            rows = torch.randperm(len(source), generator=generator(seed, "rows")).numpy()[:training]
        labels, rng = source.labels_at(rows), generator(seed, f"colours of {split}")
        agrees = torch.rand(len(rows), generator=rng).numpy() < share
        others = (labels + torch.randint(1, 10, (len(rows),), generator=rng).numpy()) % 10
        chosen = np.array(COLOURS, np.uint16)[np.where(agrees, labels, others)]
        for row, label, colour in zip(rows, labels, chosen, strict=True):
            grey = source.images([int(row)])[0].numpy().astype(np.uint16)
            yield f"{split}/{label}/{row:05d}.png", (grey * colour // 255).astype(np.uint8)


def judged_rows(test: Dataset, agrees: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """Return `count` rows of each label, half of which agree with their colour, as far as there are any."""
    labels = test.labels_at(np.arange(len(test)))
    groups = [
        np.flatnonzero((labels == label) & (agrees == group))[: count // 2]
        for label in range(len(test.label_names))
        for group in (True, False)
    ]
    return np.concatenate(groups)


def colours_agree(test: Dataset) -> NDArray[np.bool_]:
    """Return whether the colour of each image is that of its label, by its brightest pixel."""
    labels, found = test.labels_at(np.arange(len(test))), []
    for row, label in enumerate(labels):
        pixels = test.images([row])[0].numpy().reshape(-1, 3).astype(float)
        brightest = pixels[pixels.sum(1).argmax()]
        distances = [
            np.linalg.norm(brightest / np.linalg.norm(brightest) - np.array(c) / np.linalg.norm(c))
            for c in COLOURS
        ]
        found.append(int(np.argmin(distances)) == int(test.label_names[label]))
    return np.array(found)


def scores(said: NDArray[np.int64], labels: NDArray[np.int64], agrees: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the accuracies of predictions, with their intervals."""

    def accuracy(rows: NDArray[np.bool_]) -> dict[str, Any]:
        found = share_of(torch.from_numpy(said[rows] == labels[rows]))
        return {**scoring.told(found), "images": int(rows.sum())}

    groups = {
        f"{label}-{'agrees' if agreeing else 'other'}": accuracy((labels == label) & (agrees == agreeing))
        for label in np.unique(labels)
        for agreeing in (True, False)
        if ((labels == label) & (agrees == agreeing)).any()
    }
    worst = min(groups, key=lambda name: groups[name]["value"])
    return {
        "accuracy": accuracy(np.ones(len(said), bool)),
        "of_other_colour": accuracy(~agrees),
        "worst": {"group": worst, **groups[worst]},
        "groups": {name: group["value"] for name, group in groups.items()},
    }


def predict(run: Path, name: str, images: Images) -> tuple[NDArray[np.int64], int]:
    """Return the predicted label of each image, and how many evaluations of the network one takes."""
    if name == CLASSIFIER:
        return dq.load_recognizer(run).logits(images).argmax(1).numpy(), 1
    classifier = GenerativeClassifier(dq.load(run).family, uniform=True)
    print(f"{name}: {classifier.cost}", file=sys.stderr)
    return Recognizer(classifier).logits(images).argmax(1).numpy(), classifier.cost.evaluations


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--images", nargs="*", default=[], metavar="NAME=COUNT", help="budgets in images")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"{CLASSIFIER} or presets of generators")
    parser.add_argument("--judged", type=int, default=1000, help="test images of each label")
    parser.add_argument("--training", type=int, default=0, help="training images; 0 is all")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME:KEY=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the data and the runs here")
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    out = scoring.folder_for(arguments.out)
    seed = arguments.seed
    data = make_data(out / f"clothes-{arguments.training}-{seed}.zip", arguments.training, seed)
    test = open_dataset(data, size=SIZE, split="test")
    agrees = colours_agree(test)
    rows = judged_rows(test, agrees, arguments.judged)
    images, labels = Images(test.images(rows)), test.labels_at(rows)
    budget = scoring.budgets(arguments.minutes, arguments.images)
    results: dict[str, Any] = {
        "minutes": arguments.minutes,
        "threads": arguments.threads,
        "judged": len(rows),
    }
    for name in arguments.only or (CLASSIFIER, *GENERATORS):
        chosen = {"task": "classify"} if name == CLASSIFIER else {"preset": name}
        changes = [each.partition(":")[2] for each in arguments.set if each.startswith(f"{name}:")]
        run = scoring.train(
            data,
            settings=dict(change.split("=", 1) for change in changes),
            size=SIZE,
            seed=seed,
            evaluate_every=0,
            out=out / f"{name}-{seed}",
            **chosen,
            **budget(name).settings,
        )
        started = time.perf_counter()
        said, evaluations = predict(run.folder, name, images)
        milliseconds = 1000 * (time.perf_counter() - started) / len(rows)
        results[name] = scores(said, labels, agrees[rows])
        results[name] |= {"images": run.images, "images_per_second": round(run.images_per_second, 1)}
        results[name] |= {"evaluations": evaluations, "milliseconds": round(milliseconds, 2)}
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    if CLASSIFIER in results:
        base = results[CLASSIFIER]["worst"]["value"]
        others = [name for name in results if name in (arguments.only or GENERATORS) and name != CLASSIFIER]
        results["difference"] = {name: round(results[name]["worst"]["value"] - base, 4) for name in others}
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
