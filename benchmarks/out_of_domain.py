"""How well images from elsewhere are told from those of the training data, by each measure.

One line per measure, with the area under the ROC curve and its interval, and the share of images from
elsewhere that is found with 5% false alarms. The features are those of a feature network and, with `--run`,
of a trained model; a run also has energy and uncertainty (classifiers), or likelihood and typicality (models
with a likelihood, whose likelihood alone misleads).

Fashion-MNIST against MNIST is the usual test. Where MNIST cannot be fetched, `--outside digits` takes the
handwritten digits of scikit-learn instead, enlarged from 8x8.

    python benchmarks/out_of_domain.py [--data fashion-mnist] [--outside mnist] [--features auto] [--run RUN]
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import danqing
from danqing.data import Dataset, open_dataset
from danqing.data.splits import has_split
from danqing.evaluation.candidate import draw_subset
from danqing.evaluation.image_sets import index_batches
from danqing.evaluation.networks import open_network
from danqing.evaluation.roc import rate_at, roc_area
from danqing.images import to_float
from danqing.model.domain import Domain
from danqing.recognition.outside import ClassDistance, neighbour_distance, root_normalized


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--outside", default="mnist")
    parser.add_argument("--features", default="auto", help="a feature network")
    parser.add_argument("--run", type=Path, help="a run that was trained on the data")
    parser.add_argument("--training", type=int, default=5000, help="training images, at most")
    parser.add_argument("--images", type=int, default=2000, help="other images of each kind, at most")
    arguments = parser.parse_args()
    n = arguments.images
    training = draw_subset(open_dataset(arguments.data), arguments.training, 0, "training")
    inside, outside = (other(source, training, n) for source in (arguments.data, arguments.outside))
    network = open_network(arguments.features)
    features = [
        root_normalized(
            torch.cat([network.features(images.images(part)) for part in index_batches(len(images))])
        )
        for images in (training, inside, outside)
    ]
    labels = torch.from_numpy(training.labels_at(np.arange(len(training))))
    distance = ClassDistance.fit(features[0], labels if (labels >= 0).any() else None)
    told(f"feature distance ({network.name})", *map(distance, features[1:]))
    near = (neighbour_distance(rows, features[0]) for rows in features[1:])
    told(f"nearest features ({network.name})", *near)
    domain = Domain.fit(batches(training))
    if domain is not None:
        found = (
            torch.cat([domain.distances(part) for part in batches(images)]) for images in (inside, outside)
        )
        told("colours and detail", *found)
    if arguments.run is not None:
        result = danqing.attack(
            arguments.run, arguments.data, steps=1, corruptions=False, outside=arguments.outside, n=n
        )
        for score in result.scores:
            if score.metric.startswith("outside/"):
                print(json.dumps({"measure": score.name, "value": score.value, "interval": score.interval}))


def other(source: str, like: Dataset, n: int) -> Dataset:
    """Return images of a source that are not training images, in the form of others."""
    split = "test" if has_split(source, "test") else "train"
    opened = open_dataset(source, split=split, size=like.size, channels=like.channels)
    return draw_subset(opened, n, 0, "others")


def batches(images: Dataset) -> Iterator[Tensor]:
    for part in index_batches(len(images)):
        yield to_float(images.images(part))


def told(measure: str, inside: Tensor, outside: Tensor) -> None:
    """Print how well a measure tells two kinds of images apart."""
    area, found = roc_area(outside, inside), rate_at(outside, inside, 0.05)
    print(
        json.dumps(
            {
                "measure": measure,
                "auroc": round(area.value, 4),
                "interval": area.interval(),
                "found_at_5_percent": round(found.value, 4),
            }
        )
    )


if __name__ == "__main__":
    main()
