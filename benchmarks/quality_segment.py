"""Segmentation after equal time: `--task segment` beside segmentation-models-pytorch, on drawn scenes.

    python benchmarks/quality_segment.py [--data streets cells] [--peers PEERS/bin/python] [--minutes 15]
        [--size 64] [--only NAME ...] [--images NAME=COUNT ...] [--set KEY=VALUE ...] [--out FOLDER]

The built-in scenes have exact masks. All learn from the same 4,000 and are judged on the same 500.
Contestants:

plain: `segment-64`, from scratch. lite0: `segment-256` at this size, which sees features of Lite0.
smp: the U-Net of segmentation-models-pytorch 0.6.0 with a ResNet-34, from scratch; `segment_peers.py` says
how it is trained, and how to make PEERS.

Prints one JSON object: for each data set and contestant the mIoU, Dice and boundary F1 with 95% intervals,
the IoU of each class, and the images seen; and for ours the ratio of 1 - mIoU to that of smp. --images
plain=N trains for as many images as an idle machine sees in the minutes. --set changes settings of ours. What
each made is kept in FOLDER: the same command continues after an interruption.
"""

import argparse
import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import scoring
import torch
from scoring import Budget

import danqing as dq
from danqing.data import Dataset, open_dataset
from danqing.evaluation import segmentation
from danqing.evaluation.segmenter_scores import predicted_masks
from danqing.learners.abilities import Segments

LEAN: dict[str, Any] = {"model.widths": [16, 24, 40, 64, 112], "model.blocks": 0}
"""The encoder of `segment-256`, which leaves most of the work to the trunk."""
OURS: dict[str, dict[str, Any]] = {"plain": {}, "lite0": {"model.trunk": "efficientnet-lite0", **LEAN}}
NAMES = (*OURS, "smp")
AT_ONCE = 50


def masks_of(images: Dataset) -> np.ndarray:
    """Return all true masks, uint8 `[n, h, w]`."""
    mask = images.targets_at(np.arange(len(images))).mask
    assert mask is not None
    return mask.numpy()


def train(data: str, size: int, name: str, budget: Budget, settings: dict[str, Any], out: Path) -> Any:
    """Train by the public interface; the masks of the test images, and what the training was."""
    run = scoring.train(
        data,
        task="segment",
        size=(size, size),
        settings={"evaluation.every_images": 0, **OURS[name], **settings},
        out=out,
        **budget.settings,
    )
    learner = dq.load_recognizer(run).learner
    assert isinstance(learner, Segments)
    test = open_dataset(data, split="test", size=(size, size), masks="auto")
    rows = np.array_split(np.arange(len(test)), -(-len(test) // AT_ONCE))
    masks = torch.cat([predicted_masks(learner, test, part) for part in rows]).numpy()
    parameters = sum(parameter.numel() for parameter in learner.parameters())
    facts = {"images": run.images, "images_per_second": round(run.images_per_second, 1)}
    return masks, facts | {"parameters": parameters}


def peer(python: str, data: str, size: int, budget: Budget, threads: int, out: Path) -> Any:
    """Train the peer in a process of its own; the masks of the test images, and what the training was."""
    train, test = (open_dataset(data, split=s, size=(size, size), masks="auto") for s in ("train", "test"))
    out.mkdir(parents=True, exist_ok=True)
    np.savez(
        out / "scenes.npz",
        images=scoring.pixels_of(train),
        masks=masks_of(train),
        test=scoring.pixels_of(test),
        classes=len(train.target_classes.mask),
    )
    command = [python, str(Path(__file__).with_name("segment_peers.py")), "--out", str(out)]
    command += ["--scenes", str(out / "scenes.npz"), "--minutes", str(budget.minutes)]
    command += ["--threads", str(threads)] + (["--budget", str(budget.images)] if budget.images else [])
    subprocess.run(command, check=True, stdout=sys.stderr)
    return np.load(out / "masks.npy"), json.loads((out / "facts.json").read_text())


def scores_of(masks: np.ndarray, test: Dataset) -> dict[str, Any]:
    """Return all scores of masks."""
    classes = test.target_classes.mask
    predicted, actual = torch.from_numpy(masks), torch.from_numpy(masks_of(test))
    counts = segmentation.mask_counts(predicted, actual, len(classes))
    boundaries = segmentation.boundary_scores(predicted, actual, len(classes))
    found: dict[str, Any] = {}
    for name, estimate in {
        "miou": segmentation.mean_iou(counts),
        "dice": segmentation.mean_dice(counts),
        "boundary_f1": segmentation.boundary_f1(boundaries),
    }.items():
        low, high = estimate.interval() or (estimate.value, estimate.value)
        found[name] = [round(value, 4) for value in (estimate.value, low, high)]
    shares = zip(classes, segmentation.class_iou(counts), strict=True)
    return found | {"iou": {name: round(each.value, 4) for name, each in shares if each is not None}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=["streets", "cells"])
    parser.add_argument("--peers", help="the Python of the virtual environment of the peer")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME")
    parser.add_argument("--images", nargs="*", default=[], metavar="NAME=COUNT", help="budgets in images")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of ours")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the runs and the masks here")
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    out = scoring.folder_for(arguments.out)
    budget = scoring.budgets(arguments.minutes, arguments.images)
    settings = dict(setting.split("=", 1) for setting in arguments.set)
    size, results = arguments.size, dict[str, Any]()
    for data in arguments.data:
        folder = out / data.replace(":", "-")
        folder.mkdir(parents=True, exist_ok=True)
        test = open_dataset(data, split="test", size=(size, size), masks="auto")
        found = results[data] = dict[str, Any]()
        for name in arguments.only or NAMES:
            if name in OURS:
                run = folder / f"{name}-run"
                make = functools.partial(train, data, size, name, budget(name), settings, run)
            elif arguments.peers:
                place, python = folder / "peer", arguments.peers
                make = functools.partial(peer, python, data, size, budget(name), arguments.threads, place)
            else:
                continue
            masks, facts = scoring.kept_values(folder, name, arguments.minutes, make)
            found[name] = scores_of(masks, test) | facts
            print(data, name, json.dumps(found[name]), file=sys.stderr, flush=True)
        for name in OURS:
            if name in found and "smp" in found:
                ratio = (1 - found[name]["miou"][0]) / (1 - found["smp"]["miou"][0])
                found[name]["error_ratio_to_smp"] = round(ratio, 3)
    print(json.dumps({"minutes": arguments.minutes, "threads": arguments.threads, **results}, indent=2))


if __name__ == "__main__":
    main()
