"""What the attack by the nearest sample says where there is nothing to find.

    python benchmarks/membership_control.py --data DIR [--samples 1000] [--noise 64]

DIR holds a data set with a training and a test split, such as Fashion-MNIST. The audited images are those of
`danqing evaluate --metrics membership` with seed 0: up to 1,000 of each split. In place of samples of a model
stand noisy copies of other training images, so the audited training images cannot be nearer to them than test
images are, except by chance.

Prints one JSON object: the area under the ROC curve with its 95% interval, by the features of the default
network. An area that differs from 0.5 shows what the choice of images alone does.
"""

import argparse
import json

import numpy as np
import scoring
import torch
from torch import Tensor

from danqing.data import Dataset, open_dataset
from danqing.evaluation import roc
from danqing.evaluation.image_sets import draw_rows
from danqing.evaluation.networks import open_network
from danqing.evaluation.real_image_results import MOST_AUDITED

AT_ONCE = 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--noise", type=float, default=64.0, help="its standard deviation, in levels of 255")
    arguments = parser.parse_args()
    network = open_network("auto")
    training, test = (open_dataset(arguments.data, split=split) for split in ("train", "test"))

    def features(images: Tensor) -> Tensor:
        return torch.cat([torch.as_tensor(network.features(part)).float() for part in images.split(AT_ONCE)])

    def audited(dataset: Dataset) -> np.ndarray:
        return draw_rows(len(dataset), MOST_AUDITED, 0, "audited")

    others = np.setdiff1d(np.arange(len(training)), audited(training))
    chosen = np.sort(np.random.default_rng(2).choice(others, arguments.samples, replace=False))
    clean = training.images(chosen).float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    samples = features((clean + arguments.noise * noise).clamp(0, 255).round().to(torch.uint8))
    sides = []
    for dataset in (training, test):
        rows = features(dataset.images(audited(dataset)))
        sides.append(-torch.cdist(rows, samples).amin(1).double())
    area = scoring.told(roc.roc_area(*sides))
    print(json.dumps({"network": network.name, "audited": [len(side) for side in sides], "area": area}))


if __name__ == "__main__":
    main()
