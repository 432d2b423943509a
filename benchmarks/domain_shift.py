"""Another domain without labels: a classifier of clothes meets clothes that are drawn in another way.

    python benchmarks/domain_shift.py [--minutes 5] [--domains faint inverted noisy] [--seed 0] [--threads 2]
        [--out FOLDER]

A classifier learns Fashion-MNIST for the minutes. The images of a domain have a third of the contrast
("faint"), are negatives ("inverted") or covered by noise ("noisy"). Of each, 20,000 training images are known
without labels.

Prints one JSON object: for each domain the accuracy on its test images, with 95% intervals, of the classifier
as it is ("plain"), with adapted statistics ("statistics", 2,048 images), and after as many minutes more with
pseudo-labels ("pseudo").
"""

import argparse
import functools
import json
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
from danqing.data import open_dataset
from danqing.evaluation.estimate import share_of
from danqing.images import Images

UNLABELLED, ADAPTED_TO, SIZE = 20_000, 2048, (32, 32)


def faint(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    return (85 + pixels // 3).astype(np.uint8)


def inverted(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    return 255 - pixels


def noisy(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    return np.clip(pixels + rng.normal(0, 64, pixels.shape), 0, 255).astype(np.uint8)


DOMAINS: dict[str, Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]] = {
    "faint": faint,
    "inverted": inverted,
    "noisy": noisy,
}


def images_of(domain: str, split: str, count: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield the first images of a split as a domain has them, without labels."""
    source, rng = open_dataset("fashion-mnist", split=split), np.random.default_rng(0)
    for row in range(min(count, len(source))):
        yield f"{row:05d}.png", DOMAINS[domain](source.images([row])[0, :, :, 0].numpy(), rng)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the data and the runs here")
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    out = scoring.folder_for(arguments.out)
    train = functools.partial(
        scoring.train,
        "fashion-mnist",
        task="classify",
        size=SIZE,
        seed=arguments.seed,
        minutes=arguments.minutes,
    )
    test = open_dataset("fashion-mnist", split="test")
    names, labels = test.label_names, test.labels_at(np.arange(len(test)))
    first = train(out=out / "source")
    known = dq.load_recognizer(first)
    results: dict[str, Any] = {"minutes": arguments.minutes, "threads": arguments.threads}
    for domain in arguments.domains:
        paths = {
            split: image_zip.write(out / f"{domain}-{split}.zip", images_of(domain, split, count))
            for split, count in (("train", UNLABELLED), ("test", len(test)))
        }
        unlabelled, judged = (open_dataset(paths[split], size=SIZE) for split in ("train", "test"))
        adapted = dq.adapt(known, Images(unlabelled.images(np.arange(ADAPTED_TO))))
        settings = {"data.unlabelled": str(paths["train"])}
        second = train(init=first, settings=settings, out=out / f"pseudo-{domain}")
        contestants = {"plain": known, "statistics": adapted, "pseudo": dq.load_recognizer(second)}
        images = Images(judged.images(np.arange(len(judged))))
        results[domain] = {}
        for name, recognizer in contestants.items():
            said = np.array(recognizer.classes)[recognizer.logits(images).argmax(1).numpy()]
            right = torch.from_numpy(said == np.array(names)[labels])
            results[domain][name] = scoring.told(share_of(right))
        print(domain, json.dumps(results[domain]), file=sys.stderr, flush=True)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
