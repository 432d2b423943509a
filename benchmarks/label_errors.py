"""Wrong labels that are planted: how many are found and how fast, beside cleanlab on the same probabilities.

A share of the labels is changed to another label at random. Probabilities are those of `danqing data clean`,
each image left out in turn. `precision` is the share of changed labels among the images that are found, and
`precision_at_k` among the k most certain of them, with k the number of changed labels; both rank by the
probability of the given label. Times are medians, in turns, of finding and ranking alone.

    python benchmarks/label_errors.py [--data fashion-mnist] [--images 60000] [--flipped 0.05] [--rounds 5]
        [--features auto]
"""

import argparse
import json
import statistics
import time

import cleanlab
import numpy as np
import torch
from cleanlab.filter import find_label_issues
from numpy.typing import NDArray

from danqing.data import open_dataset
from danqing.evaluation.features import extract
from danqing.evaluation.networks import open_network
from danqing.recognition.cleaning.label_errors import find_label_errors
from danqing.recognition.cleaning.label_probabilities import leave_one_out


def flipped(labels: NDArray[np.int64], count: int, share: float, seed: int) -> NDArray[np.int64]:
    """Return labels of which a share is another one, drawn at random."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(labels))[: round(share * len(labels))]
    noisy = labels.copy()
    noisy[rows] = (labels[rows] + rng.integers(1, count, len(rows))) % count
    return noisy


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--flipped", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--features", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data)
    dataset = dataset.subset(range(min(arguments.images, len(dataset))))
    true, count = dataset.labels_at(range(len(dataset))), len(dataset.label_names)
    labels = flipped(true, count, arguments.flipped, arguments.seed)
    features = extract(dataset, open_network(arguments.features), keep=True)
    start = time.perf_counter()
    probabilities = leave_one_out(features, labels, count)
    probability_seconds = time.perf_counter() - start
    k = int((labels != true).sum())

    def scored(rows: NDArray[np.int64], seconds: list[float]) -> dict[str, float]:
        hits = labels[rows] != true[rows]
        return {
            "found": len(rows),
            "precision": round(float(hits.mean()), 4),
            "recall": round(float(hits.sum() / k), 4),
            "precision_at_k": round(float(hits[:k].mean()), 4),
            "seconds": round(statistics.median(seconds), 4),
        }

    ours, theirs = [], []
    rows, peer_rows = np.empty(0, np.int64), np.empty(0, np.int64)
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        rows = find_label_errors(probabilities, labels).rows
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        peer_rows = find_label_issues(
            labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
        )
        theirs.append(time.perf_counter() - start)
    result = {
        "data": dataset.info.name,
        "images": len(dataset),
        "flipped": k,
        "features": features.info.name,
        "threads": torch.get_num_threads(),
        "accuracy": round(float((probabilities.argmax(1) == true).mean()), 4),
        "probability_seconds": round(probability_seconds, 2),
        "danqing": scored(rows, ours),
        f"cleanlab {cleanlab.__version__}": scored(peer_rows, theirs),
        "speedup": round(statistics.median(theirs) / statistics.median(ours), 2),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
