"""The peer of the classification benchmark: a process that trains a ResNet-18 of timm.

    PEERS/bin/python benchmarks/classify_peers.py --images FILE.npz --minutes 5 --out FOLDER [--tuned]

PEERS is a virtual environment of its own, since timm needs other packages than danqing does:

    python -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 numpy pillow huggingface-hub safetensors pyyaml
    PEERS/bin/pip install --no-deps timm==1.0.31

FILE holds `training` and `test`, uint8 `[n, h, w, c]`, and `labels`, int64 `[n]`. The process writes
`probabilities.npy`, float32 `[m, k]` for the test images, and `facts.json` to FOLDER.

The network is `timm.create_model("resnet18")` with random weights. The loop is plain: batches of 128,
cross-entropy, bfloat16 where the processor has it, channels-last, and SGD with the learning rate of timm's
training script (0.05, Nesterov momentum of 0.9, weight decay 2e-5) under a cosine with a short warm-up. Tuned
for minutes: AdamW at 2e-3 with weight decay 0.05, label smoothing of 0.1, and images shifted by up to two
pixels, as our presets shift them. With --flip half of the images are mirrored.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision_stand_in
from torch import Tensor
from torch.nn import functional as F

BATCH, WARM_UP, AT_ONCE, SHIFT = 128, 0.05, 500, 2


class Training:
    """The usual loop over shuffled epochs."""

    def __init__(self, images: Tensor, labels: Tensor, *, tuned: bool, flip: bool) -> None:
        import timm

        torch.manual_seed(0)
        self.images, self.labels, self.tuned, self.flip = images, labels, tuned, flip
        classes, channels = int(labels.max()) + 1, images.shape[3]
        network: Any = timm.create_model("resnet18", num_classes=classes, in_chans=channels)
        self.network = network.to(memory_format=torch.channels_last)
        parameters = self.network.parameters()
        self.rate = 2e-3 if tuned else 0.05
        self.optimizer: torch.optim.Optimizer
        if tuned:
            self.optimizer = torch.optim.AdamW(parameters, self.rate, weight_decay=0.05, fused=True)
        else:
            self.optimizer = torch.optim.SGD(
                parameters, self.rate, momentum=0.9, nesterov=True, weight_decay=2e-5, fused=True
            )
        self.order, self.place, self.seen = torch.randperm(len(images)), 0, 0

    def step(self, share: float) -> None:
        """Train on one batch; share: of the budget that is used up, in [0, 1]."""
        if self.place + BATCH > len(self.order):
            self.order, self.place = torch.randperm(len(self.images)), 0
        rows = self.order[self.place : self.place + BATCH]
        self.place += BATCH
        images = self.images[rows]
        if self.flip:
            mirrored = torch.rand(len(images)) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(2), images)
        batch = prepared(images)
        if self.tuned:
            batch = shifted(batch)
        factor = min(1.0, share / WARM_UP + 1e-3) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor
        with autocast():
            logits = self.network(batch).float()
        smoothing = 0.1 if self.tuned else 0.0
        loss = F.cross_entropy(logits, self.labels[rows], label_smoothing=smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.seen += len(rows)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Return the softmax of the logits of uint8 images, `[n, k]`."""
        self.network.eval()
        return torch.cat([self.network(prepared(part)).float().softmax(1) for part in images.split(AT_ONCE)])


def prepared(images: Tensor) -> Tensor:
    """Turn uint8 images `[n, h, w, c]` into floats `[n, c, h, w]` in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def shifted(images: Tensor) -> Tensor:
    """Move each image by up to `SHIFT` pixels; its edge pixels are repeated."""
    n, _, height, width = images.shape
    padded = F.pad(images, (SHIFT,) * 4, mode="replicate")
    corners = torch.randint(0, 2 * SHIFT + 1, (n, 2)).tolist()
    parts = [one[:, y : y + height, x : x + width] for one, (y, x) in zip(padded, corners, strict=True)]
    return torch.stack(parts).contiguous(memory_format=torch.channels_last)


def autocast() -> torch.autocast:
    """Return a block in bfloat16 where the processor has it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="the .npz file of images and labels")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--budget", type=int, help="train on this number of images instead")
    parser.add_argument("--tuned", action="store_true", help="for a budget of minutes")
    parser.add_argument("--flip", action="store_true", help="mirror half of the training images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(), help="where to write probabilities and facts")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torchvision_stand_in.install()
    with np.load(arguments.images) as data:
        training, test, labels = (torch.from_numpy(data[name]) for name in ("training", "test", "labels"))
    loop = Training(training, labels, tuned=arguments.tuned, flip=arguments.flip)
    begun, share, elapsed = time.perf_counter(), 0.0, 0.0
    while share < 1:
        loop.step(share)
        elapsed = time.perf_counter() - begun
        spent = elapsed / (60 * arguments.minutes)
        share = loop.seen / arguments.budget if arguments.budget else spent
    arguments.out.mkdir(parents=True, exist_ok=True)
    np.save(arguments.out / "probabilities.npy", loop.probabilities(test).numpy())
    facts = {"images": loop.seen, "images_per_second": round(loop.seen / elapsed)}
    facts["parameters"] = sum(parameter.numel() for parameter in loop.network.parameters())
    (arguments.out / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
