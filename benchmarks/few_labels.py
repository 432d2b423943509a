"""Few labels: 100 labelled clothes of each kind and 50,000 without labels, after equal time.

    python benchmarks/few_labels.py [--minutes 15] [--each 100] [--unlabelled 50000] [--only NAME ...]
        [--generator vae-32] [--peers PYTHON] [--seed 0] [--threads 2] [--out FOLDER]

Fashion-MNIST, judged on its 10,000 test images. Every contestant has the same minutes in all:

    scratch         the task classify on the labelled images
    embedded        a third of the time for the task embed on all images, then classify with --init
    masked          as embedded, with the objective masked
    codes           as embedded, with a transformer in masked order instead of the task embed
    pseudo          as embedded, and the last third with --unlabelled, which learns from its own sure answers
    generated       a third for a generator of the labelled images, then classify with --generated 0.5

The last one learns from the labelled images alone, as scratch does: the generator has seen no others.
--peers runs timm from scratch, and lightly's SimCLR and VICReg with a linear probe, by a Python that has timm
and lightly (`few_labels_peers.py`).

Prints one JSON object: the accuracy of each contestant with its 95% interval, and its difference from
"scratch" on the same images. What each run left is kept in FOLDER: the same command continues.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import image_zip
import numpy as np
import scoring
import torch
from numpy.typing import NDArray

import danqing as dq
from danqing.data import Dataset, open_dataset
from danqing.evaluation.estimate import mean_of, share_of
from danqing.images import Images
from danqing.randomness import generator

SIZE = (32, 32)
PEERS = ("timm", "lightly-simclr", "lightly-vicreg")


def drawn(
    dataset: Dataset, each: int, unlabelled: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of `each` images of each label, and of `unlabelled` others."""
    order = torch.randperm(len(dataset), generator=generator(seed, "few labels")).numpy()
    labels = dataset.labels_at(order)
    known = np.concatenate([order[labels == label][:each] for label in range(len(dataset.label_names))])
    return known, order[~np.isin(order, known)][:unlabelled]


def make_data(out: Path, each: int, unlabelled: int, seed: int) -> tuple[Path, Path]:
    """Write the labelled images with the test split, and all images without labels, as two zip files."""
    train, test = (open_dataset("fashion-mnist", split=split) for split in ("train", "test"))
    known, others = drawn(train, each, unlabelled, seed)

    def labelled() -> Iterator[tuple[str, NDArray[np.uint8]]]:
        for split, dataset, rows in (("train", train, known), ("test", test, np.arange(len(test)))):
            for row, label in zip(rows, dataset.labels_at(rows), strict=True):
                yield f"{split}/{label}/{row:05d}.png", dataset.images([int(row)])[0, :, :, 0].numpy()

    def without_labels() -> Iterator[tuple[str, NDArray[np.uint8]]]:
        for row in np.concatenate([known, others]):
            yield f"{row:05d}.png", train.images([int(row)])[0, :, :, 0].numpy()

    name = f"{each}-{unlabelled}-{seed}"
    return (
        image_zip.write(out / f"labelled-{name}.zip", labelled()),
        image_zip.write(out / f"all-{name}.zip", without_labels()),
    )


class Contest:
    """The contestants of danqing, which share their first stages."""

    def __init__(
        self, labelled: Path, every: Path, minutes: float, generator_preset: str, seed: int, out: Path
    ) -> None:
        self.labelled, self.every, self.minutes, self.out = labelled, every, minutes, out
        self.generator_preset, self.seed = generator_preset, seed

    def run(self, name: str, data: Path, share: float, **options: Any) -> dq.Run:
        """Train for a share of the minutes in a folder of this name."""
        return scoring.train(
            data, size=SIZE, seed=self.seed, minutes=share * self.minutes, out=self.out / name, **options
        )

    def classify(self, name: str, share: float, **options: Any) -> dq.Run:
        return self.run(name, self.labelled, share, task="classify", **options)

    def scratch(self) -> dq.Run:
        return self.classify("scratch", 1)

    def embedded(self, share: float = 2 / 3) -> dq.Run:
        first = self.run("embed", self.every, 1 / 3, task="embed")
        return self.classify(f"embedded-{share:.2f}", share, init=first)

    def masked(self) -> dq.Run:
        first = self.run("embed-masked", self.every, 1 / 3, task="embed", settings={"objective": "masked"})
        return self.classify("masked", 2 / 3, init=first)

    def codes(self) -> dq.Run:
        options = {"preset": "transformer-32", "evaluate_every": 0}
        first = self.run("transformer", self.every, 1 / 3, **options, settings={"order": "masked"})
        return self.classify("codes", 2 / 3, init=first)

    def pseudo(self) -> dq.Run:
        first = self.embedded(1 / 3)
        return self.classify("pseudo", 1 / 3, init=first, settings={"data.unlabelled": str(self.every)})

    def generated(self) -> dq.Run:
        made = self.run("generator", self.labelled, 1 / 3, preset=self.generator_preset, evaluate_every=0)
        settings = {"data.generated": 0.5, "data.generator": str(made.folder)}
        return self.classify("generated", 2 / 3, settings=settings)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ours = ("scratch", "embedded", "masked", "codes", "pseudo", "generated")
    parser.add_argument("--minutes", type=float, default=15.0, help="of each contestant, in all")
    parser.add_argument("--each", type=int, default=100, help="labelled images of each label")
    parser.add_argument("--unlabelled", type=int, default=50_000)
    parser.add_argument("--only", nargs="+", choices=(*ours, *PEERS), metavar="NAME")
    parser.add_argument("--generator", default="vae-32", help="a preset")
    parser.add_argument("--peers", type=Path, metavar="PYTHON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the data and the runs here")
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    out = scoring.folder_for(arguments.out)
    labelled, every = make_data(out, arguments.each, arguments.unlabelled, arguments.seed)
    test = open_dataset(labelled, size=SIZE, split="test")
    images, true = Images(test.images(np.arange(len(test)))), test.labels_at(np.arange(len(test)))
    contest = Contest(labelled, every, arguments.minutes, arguments.generator, arguments.seed, out)
    trained: dict[str, Callable[[], dq.Run]] = {name: getattr(contest, name) for name in ours}
    results: dict[str, Any] = {"minutes": arguments.minutes, "threads": arguments.threads, "test": len(test)}
    right: dict[str, NDArray[np.bool_]] = {}
    for name in arguments.only or (*ours, *(PEERS if arguments.peers else ())):
        facts: dict[str, Any] = {}
        if name in trained:
            run = trained[name]()
            right[name] = dq.load_recognizer(run).logits(images).argmax(1).numpy() == true
            facts = {"images": run.images, "effect": run.effect}
        else:
            right[name] = peer(name, arguments, labelled, every, out) == true
        results[name] = {"accuracy": scoring.told(share_of(torch.from_numpy(right[name]))), **facts}
        if "scratch" in right and name != "scratch":
            change = torch.from_numpy(right[name].astype(float) - right["scratch"])
            results[name]["over_scratch"] = scoring.told(mean_of(change))
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    print(json.dumps(results, indent=2))


def peer(
    name: str, arguments: argparse.Namespace, labelled: Path, every: Path, out: Path
) -> NDArray[np.int64]:
    """Return the labels that a peer predicts of the test images; it trains in its own environment."""
    data, answers = out / "peers.npz", out / f"{name}.npy"
    if not data.exists():
        train, test = (open_dataset(labelled, size=SIZE, split=split) for split in ("train", "test"))
        unlabelled = open_dataset(every, size=SIZE)
        np.savez(
            data,
            train=scoring.pixels_of(train),
            test=scoring.pixels_of(test),
            labels=train.labels_at(np.arange(len(train))),
            every=scoring.pixels_of(unlabelled),
        )
    if not answers.exists():
        script = Path(__file__).with_name("few_labels_peers.py")
        options = ["--minutes", str(arguments.minutes), "--threads", str(arguments.threads)]
        subprocess.run([arguments.peers, script, name, data, answers, *options], check=True)
    said: NDArray[np.int64] = np.load(answers)
    return said


if __name__ == "__main__":
    main()
