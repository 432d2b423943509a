"""What `few_labels.py` compares with, in an environment of its own: timm from scratch, lightly with a probe.

    python benchmarks/few_labels_peers.py timm|lightly-simclr|lightly-vicreg DATA.npz ANSWERS.npy
        [--minutes 15] [--threads 2]

DATA holds train and test (uint8 `[n, h, w, 1]`), labels, and every: all images, without labels. Writes the
label that is predicted of each test image.

timm: resnet18 with its first convolution of 3×3 and stride 1, AdamW with a cosine, flips left out since every
shoe points left, random crops; all the minutes. lightly: the same network with the projection head, the loss
and the transform of its own examples for images of 32 pixels, 80% of the minutes on all images; then a linear
layer on the frozen features of the labelled images, as its linear evaluation does.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

BATCH = 128


def network() -> nn.Module:
    """Return timm's ResNet-18 for small grey images, without its last layer."""
    import timm

    model: nn.Module = timm.create_model("resnet18", num_classes=0, in_chans=1)
    model.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def pixels(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def cropped(images: torch.Tensor) -> torch.Tensor:
    """Move each image by up to four pixels."""
    padded = F.pad(images, (4, 4, 4, 4), mode="reflect")
    places = torch.randint(0, 9, (len(images), 2))
    side = images.shape[-1]
    return torch.stack(
        [one[:, y : y + side, x : x + side] for one, (y, x) in zip(padded, places.tolist(), strict=True)]
    )


def trained(
    model: nn.Module, loss: Callable[[], torch.Tensor], seconds: float, *, rate: float, decay: float
) -> None:
    """Take steps for a number of seconds; the learning rate falls as a cosine of the time."""
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=decay)
    begun = time.perf_counter()
    while (share := (time.perf_counter() - begun) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = rate * min(1.0, 20 * share) * (1 + np.cos(np.pi * share)) / 2
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def scratch(data: Any, seconds: float) -> np.ndarray:
    images, labels = pixels(data["train"]), torch.from_numpy(data["labels"])
    model = nn.Sequential(network(), nn.Linear(512, int(labels.max()) + 1))

    def loss() -> torch.Tensor:
        rows = torch.randint(len(images), (BATCH,))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(cropped(images[rows]))
        return F.cross_entropy(logits.float(), labels[rows], label_smoothing=0.1)

    trained(model, loss, seconds, rate=1e-3, decay=0.05)
    return answers(model, data)


def lightly(data: Any, seconds: float, kind: str) -> np.ndarray:
    from lightly.loss import NTXentLoss, VICRegLoss
    from lightly.models.modules import SimCLRProjectionHead, VICRegProjectionHead
    from lightly.transforms import SimCLRTransform
    from PIL import Image

    backbone = network()
    head = SimCLRProjectionHead(512, 512, 128)
    criterion: Any = NTXentLoss(temperature=0.5)
    if kind == "vicreg":
        head, criterion = VICRegProjectionHead(512, 2048, 2048, num_layers=2), VICRegLoss()
    transform = SimCLRTransform(
        input_size=32, gaussian_blur=0.0, hf_prob=0.0, normalize={"mean": [0.5], "std": [0.5]}
    )
    every = data["every"]
    model = nn.ModuleList([backbone, head])

    def loss() -> torch.Tensor:
        rows = np.random.randint(len(every), size=256)
        views = [transform(Image.fromarray(every[row, :, :, 0]).convert("RGB")) for row in rows]
        both = [torch.stack([view[side][:1] for view in views]) for side in (0, 1)]
        with torch.autocast("cpu", torch.bfloat16):
            vectors = [head(backbone(each)) for each in both]
        found: torch.Tensor = criterion(*(vector.float() for vector in vectors))
        return found

    trained(model, loss, 0.8 * seconds, rate=1e-3, decay=1e-4)
    images, labels = pixels(data["train"]), torch.from_numpy(data["labels"])
    backbone.eval()
    with torch.no_grad():
        features = torch.cat([backbone(part) for part in images.split(256)])
    probe = nn.Linear(512, int(labels.max()) + 1)

    def probed() -> torch.Tensor:
        rows = torch.randint(len(features), (256,))
        return F.cross_entropy(probe(features[rows]), labels[rows])

    trained(probe, probed, 0.1 * seconds, rate=1e-2, decay=1e-4)
    return answers(nn.Sequential(backbone, probe), data)


def answers(model: nn.Module, data: Any) -> np.ndarray:
    model.eval()
    with torch.no_grad():
        parts = [model(part).argmax(1) for part in pixels(data["test"]).split(256)]
    return torch.cat(parts).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=("timm", "lightly-simclr", "lightly-vicreg"))
    parser.add_argument("data")
    parser.add_argument("answers")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    np.random.seed(0)
    data, seconds = np.load(arguments.data), 60 * arguments.minutes
    if arguments.name == "timm":
        said = scratch(data, seconds)
    else:
        said = lightly(data, seconds, arguments.name.partition("-")[2])
    np.save(arguments.answers, said)


if __name__ == "__main__":
    main()
