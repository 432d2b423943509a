"""One peer of the embedding benchmark: a process that trains lightly's models without labels.

    PEERS/bin/python benchmarks/embed_peers.py simclr [--tuned] --images FILE.npy --judged FILE.npy
        --minutes 5 --out FOLDER

PEERS is a virtual environment of its own, since lightly needs torchvision:

    python -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 numpy pillow requests tqdm pydantic urllib3
    PEERS/bin/pip install --no-deps torchvision==0.28.0 lightly==1.6.0 lightly-utils

With the CPU build of torch, the operators of torchvision do not load. Nothing here uses them, so this process
declares their names, and the rest of torchvision can be imported.

FILE holds images, uint8 `[n, h, w, c]`; the process learns from --images, turns all of both files into
vectors, and writes `vectors.npy`, float32 `[n + m, 512]`, and `facts.json` to FOLDER. Vectors are the 512
pooled features of torchvision's ResNet-18, with the whole image at the size of training.

simclr, vicreg: the examples of lightly's documentation: its transform at 32×32 without blur, its heads
(512-512-128, and 512-2048-2048), SGD at 0.06 with momentum 0.9, batches of 256, float32. Tuned: AdamW at
1e-3 with a cosine, bfloat16 where the processor has it, and ResNet-18 with the stem that is usual for small
images, a 3×3 convolution without pooling; the views are the same.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import peer_arguments
import torch
from torch import Tensor, nn

PEERS = ("simclr", "vicreg")
SIDE, BATCH, WORKERS = 32, 256, 2


def declare_operators() -> torch.library.Library:
    """Let torchvision be imported without its operators, as long as the result is kept."""
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return declared


class Views(torch.utils.data.Dataset[Any]):
    """Two random views of each image, by lightly's transforms."""

    def __init__(self, images: np.ndarray, transform: Any) -> None:
        self._images, self._transform = images, transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> list[Tensor]:
        from PIL import Image

        pixels = np.broadcast_to(self._images[index], (*self._images.shape[1:3], 3))
        first, second = self._transform(Image.fromarray(np.ascontiguousarray(pixels)))
        return [first, second]


def backbone(tuned: bool) -> nn.Module:
    from torchvision.models import resnet18

    net: nn.Module = resnet18()
    if tuned:
        net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        net.maxpool = nn.Identity()
    net.fc = nn.Identity()
    return net


def objective(name: str) -> tuple[Any, nn.Module, Any]:
    """Return the transform, the projection head and the loss of a method."""
    from lightly.loss import NTXentLoss, VICRegLoss
    from lightly.models.modules import heads
    from lightly.transforms import SimCLRTransform, VICRegTransform

    if name == "simclr":
        return (
            SimCLRTransform(input_size=SIDE, gaussian_blur=0.0),
            heads.SimCLRProjectionHead(512, 512, 128),
            NTXentLoss(),
        )
    return (
        VICRegTransform(input_size=SIDE, gaussian_blur=0.0),
        heads.VICRegProjectionHead(512, 2048, 2048, num_layers=2),
        VICRegLoss(),
    )


def train(name: str, tuned: bool, images: np.ndarray, minutes: float, budget: int | None) -> tuple[Any, ...]:
    """Train for minutes, or on a number of images; the network, the images seen and the seconds."""
    torch.manual_seed(0)
    net = backbone(tuned).train()
    transform, head, criterion = objective(name)
    parameters = [*net.parameters(), *head.parameters()]
    optimizer: torch.optim.Optimizer = torch.optim.SGD(parameters, 0.06, momentum=0.9)
    if tuned:
        optimizer = torch.optim.AdamW(parameters, 1e-3, weight_decay=0.01)
    half = tuned and torch.cpu._is_avx512_bf16_supported()
    loader = torch.utils.data.DataLoader(
        Views(images, transform), BATCH, shuffle=True, drop_last=True, num_workers=WORKERS
    )
    seen, begun = 0, time.perf_counter()
    while True:
        for first, second in loader:
            seconds = time.perf_counter() - begun
            share = seen / budget if budget else seconds / (60 * minutes)
            if share >= 1:
                return net, seen, seconds
            if tuned:
                optimizer.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * share)) / 2
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                projections = [head(net(views)) for views in (first, second)]
            loss = criterion(*(projection.float() for projection in projections))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(first)


@torch.no_grad()
def vectors_of(net: nn.Module, images: np.ndarray) -> np.ndarray:
    """Return the vectors of images, normalized as the transforms of training do."""
    from torchvision.transforms import functional

    net.eval()
    found = []
    mean, deviation = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    for start in range(0, len(images), BATCH):
        pixels = torch.from_numpy(images[start : start + BATCH]).permute(0, 3, 1, 2).float() / 255
        resized = functional.resize(pixels.expand(-1, 3, -1, -1), [SIDE, SIDE], antialias=True)
        found.append(net(functional.normalize(resized, mean, deviation)).numpy())
    return np.concatenate(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peer_arguments.add(parser, PEERS, minutes=5.0)
    parser.add_argument("--judged", type=Path, required=True, help="a .npy file of further images")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    declared = declare_operators()
    images, judged = np.load(options.images), np.load(options.judged)
    net, seen, seconds = train(options.name, options.tuned, images, options.minutes, options.budget)
    options.out.mkdir(parents=True, exist_ok=True)
    np.save(options.out / "vectors.npy", np.concatenate([vectors_of(net, x) for x in (images, judged)]))
    facts = {"images": seen, "images_per_second": round(seen / seconds)}
    (options.out / "facts.json").write_text(json.dumps(facts))
    del declared


if __name__ == "__main__":
    main()
