"""The peer of the segmentation benchmark: a process that trains segmentation-models-pytorch.

    PEERS/bin/python benchmarks/segment_peers.py --scenes FILE.npz --minutes 15 --out FOLDER
        [--encoder tu-resnet34] [--speed SECONDS]

PEERS is a virtual environment of its own, since these packages need others than danqing does:

    python -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 numpy pillow huggingface-hub safetensors tqdm pyyaml
    PEERS/bin/pip install --no-deps segmentation-models-pytorch==0.6.0 timm==1.0.31

FILE holds `images` uint8 `[n, h, w, 3]`, `masks` uint8 `[n, h, w]`, `test` uint8 `[m, h, w, 3]` and
`classes`, a number. The process writes `masks.npy`, uint8 `[m, h, w]`, and `facts.json` to FOLDER.

The network is `smp.Unet` with random weights. It is trained as the package's examples do, tuned for minutes:
cross-entropy and its multiclass Dice loss, batches of 16, AdamW at 1e-3 under a one-cycle schedule, half of
the images mirrored, bfloat16 where the processor has it.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision_stand_in
from torch import Tensor
from torch.nn import functional as F

BATCH, RATE, WARM_UP = 16, 1e-3, 0.1
AT_ONCE = 50


class Training:
    """The usual loop over random batches."""

    def __init__(self, encoder: str, classes: int, images: Tensor, masks: Tensor) -> None:
        import segmentation_models_pytorch as smp

        self.images, self.masks = images, masks
        torch.manual_seed(0)
        self.network = smp.Unet(encoder, encoder_weights=None, classes=classes)
        self.network.to(memory_format=torch.channels_last)
        self.dice = smp.losses.DiceLoss("multiclass", from_logits=True)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), RATE, weight_decay=1e-2, fused=True)
        self.steps = 0

    def step(self, share: float) -> None:
        """Train on one batch; share: of the budget that is used up, in [0, 1]."""
        rows = torch.randint(len(self.images), (BATCH,))
        images, masks = self.images[rows], self.masks[rows].long()
        mirrored = torch.rand(BATCH) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(2), images)
        masks = torch.where(mirrored[:, None, None], masks.flip(2), masks)
        up, down = share / WARM_UP, (1 - share) / (1 - WARM_UP)
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * max(1e-3, min(up, down, 1.0))
        with autocast():
            logits = self.network(prepared(images)).float()
        loss = F.cross_entropy(logits, masks) + self.dice(logits, masks)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.steps += 1

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return masks of images, uint8."""
        self.network.eval()
        with autocast():
            parts = [self.network(prepared(part)).argmax(1).byte() for part in images.split(AT_ONCE)]
        return torch.cat(parts)


def autocast() -> Any:
    """Use bfloat16 where the processor has it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())


def prepared(images: Tensor) -> Tensor:
    """Turn uint8 `[n, h, w, c]` into floats `[n, c, h, w]` in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--encoder", default="tu-resnet34", help="of timm, after tu-")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--budget", type=int, help="train on this number of images instead")
    parser.add_argument("--speed", type=float, help="only measure images per second, this long")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path())
    arguments = parser.parse_args()
    torchvision_stand_in.install()
    torch.set_num_threads(arguments.threads)
    with np.load(arguments.scenes) as scenes:
        images, masks, test = (torch.from_numpy(scenes[name]) for name in ("images", "masks", "test"))
        classes = int(scenes["classes"])
    training = Training(arguments.encoder, classes, images, masks)
    if arguments.speed:
        training.step(0.5)
        started, before = time.monotonic(), training.steps
        while time.monotonic() - started < arguments.speed:
            training.step(0.5)
        rate = (training.steps - before) * BATCH / (time.monotonic() - started)
        print(json.dumps({"images_per_second": round(rate, 1)}))
        return
    started = time.monotonic()
    while True:
        seconds, seen = time.monotonic() - started, training.steps * BATCH
        share = seen / arguments.budget if arguments.budget else seconds / (60 * arguments.minutes)
        if share >= 1:
            break
        training.step(share)
    parameters = sum(parameter.numel() for parameter in training.network.parameters())
    facts = {"images": seen, "images_per_second": round(seen / seconds, 1), "parameters": parameters}
    arguments.out.mkdir(parents=True, exist_ok=True)
    np.save(arguments.out / "masks.npy", training.predict(test).numpy())
    (arguments.out / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
