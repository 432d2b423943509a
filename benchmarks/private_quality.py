"""What private images are worth: a classifier that learns from them alone, judged on real images.

    python benchmarks/private_quality.py --data DIR [--minutes 30] [--epsilon 10] [--delta 1e-5]
        [--preset private-32] [--set KEY=VALUE ...] [--images N] [--seed 0] [--out FOLDER]

DIR holds Fashion-MNIST IDX files. A model is trained privately on the 60,000 training images and generates
20,000 labelled ones. A small convolutional network learns from these, for a fixed number of steps, and is
judged on the 10,000 real test images. No real image chooses the length of its training or one of several
networks. The settings of the preset were chosen by trials on training images, which epsilon does not count.

Prints one JSON object: the accuracy with its 95% interval; the epsilon that was spent, and by which noise;
images per second. --real adds the accuracy of a network that learned from the real training images. The run
and a grid are kept in FOLDER: the same command continues. --images trains for as many images as an idle
machine sees in that time, so that the result is the same on a busy one.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import scoring
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import danqing as dq
from danqing.data import Dataset, open_dataset
from danqing.evaluation.estimate import share_of

SIDE, COUNT, STEPS, BATCH = 28, 20_000, 2_000, 128


def network(labels: int) -> nn.Module:
    """Build a small classifier of 28×28 grey images, which it halves first.

    It normalises each image by itself: generated images are noisier and have less contrast than real ones, so
    that the statistics of their batches do not suit real images.
    """

    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.GroupNorm(8, outputs), nn.ReLU()]

    return nn.Sequential(
        nn.AvgPool2d(2),
        *stage(1, 32),
        nn.MaxPool2d(2),
        *stage(32, 64),
        *stage(64, 64),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 16, labels),
    )


def trained(images: Tensor, labels: Tensor, steps: int) -> nn.Module:
    """Train a classifier on images `[n, 1, 28, 28]` in [-1, 1].

    They are moved by up to 2 pixels, and some noise is added.
    """
    torch.manual_seed(0)
    model, rng = network(int(labels.max()) + 1), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (BATCH,), generator=rng)
        down, across = torch.randint(-2, 3, (2,), generator=rng).tolist()
        seen = images[rows].roll((down, across), (2, 3))
        seen = seen + 0.1 * torch.randn(seen.shape, generator=rng)
        loss = F.cross_entropy(model(seen), labels[rows], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Any]:
    with torch.no_grad():
        found = torch.cat([model(part).argmax(1) for part in images.split(500)])
    return scoring.told(share_of(found == labels))


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Turn uint8 images `[n, h, w, 1]` into `[n, 1, 28, 28]` in [-1, 1]."""
    values = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
    if values.shape[-1] != SIDE:
        values = F.interpolate(values, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return values


def labels_of(dataset: Dataset) -> Tensor:
    return torch.from_numpy(dataset.labels_at(np.arange(len(dataset))))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--images", type=int, help="train on this number of images instead")
    parser.add_argument("--epsilon", type=float, default=10.0)
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--preset", default="private-32")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the preset")
    parser.add_argument("--seed", type=int, default=0, help="of the training run")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each classifier")
    parser.add_argument("--real", action="store_true", help="learn from the real images too, as a bound")
    parser.add_argument("--out", type=Path, help="keep the run and a grid here")
    arguments = parser.parse_args()
    out = scoring.folder_for(arguments.out)
    budget = scoring.Budget(arguments.minutes, arguments.images)
    settings = dict(setting.split("=", 1) for setting in arguments.set)
    run = scoring.train(
        arguments.data,
        preset=arguments.preset,
        settings=settings,
        private={"epsilon": arguments.epsilon, "delta": arguments.delta},
        seed=arguments.seed,
        out=out / "run",
        **budget.settings,
    )
    model = dq.load(run)
    made_labels = torch.arange(COUNT) % len(model.labels)
    made = model.sample(COUNT, label=made_labels.tolist(), seed=1)
    dq.Images(made.array[:100]).save(out / "made.png")
    test = open_dataset(arguments.data, split="test")
    assert test.label_names == tuple(model.labels)
    judged, truth = as_tensor(scoring.pixels_of(test)), labels_of(test)
    learned = trained(as_tensor(made.array), made_labels, arguments.steps)
    result: dict[str, Any] = {"accuracy": accuracy(learned, judged, truth)}
    if arguments.real:
        real = open_dataset(arguments.data, split="train")
        upper = trained(as_tensor(scoring.pixels_of(real)), labels_of(real), arguments.steps)
        result["accuracy_of_real_images"] = accuracy(upper, judged, truth)
    privacy = run.privacy or {}
    result |= {
        "epsilon": round(privacy["epsilon"], 3),
        "delta": privacy["delta"],
        "noise_multiplier": round(privacy["noise_multiplier"], 4),
        "steps": privacy["steps"],
        "images": run.images,
        "seconds": round(run.seconds, 1),
        "images_per_second": round(run.images_per_second, 1),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
