"""Quality after equal time: the preset `gan-32` and a plain DCGAN, trained for minutes on this machine.

    python benchmarks/quality_gan.py --data DIR [--minutes 5] [--preset gan-32] [--seeds 1] [--out FOLDER]

DIR holds Fashion-MNIST IDX files (or any set with a test split). Prints one JSON object: Fréchet distance
on EfficientNet-Lite0 features, precision and recall of 5,000 images against the test split, images per
second, and the ratio of the distances. The plain DCGAN is the usual one: float32, transposed 4×4 convolutions
256-128-64 with batch norm, Adam at 2e-4, weights from N(0, 0.02²), batches of 64.

--images trains for as many images as an idle machine sees in that time (run --only with few --minutes to
find its images per second), so that the result is the same on a busy one.
With --seeds N ours is trained N times, and the ratio is that of the mean distance. The images of each
contestant are saved in FOLDER: the same command continues after an interruption, and --only trains one of the
two.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scoring
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import danqing as dq
from danqing.data import Dataset, open_dataset

SIZE = (32, 32)
LATENTS = 128
COUNT = 5000


class Generator(nn.Sequential):
    """Latents `[n, 128, 1, 1]` to images `[n, channels, 32, 32]`."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(LATENTS, 256, 4, bias=False),
            nn.BatchNorm2d(256),
            nn.ReLU(),
            nn.ConvTranspose2d(256, 128, 4, 2, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.ConvTranspose2d(64, channels, 4, 2, 1),
            nn.Tanh(),
        )


class Discriminator(nn.Sequential):
    """Images `[n, channels, 32, 32]` to logits `[n]`."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, 64, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(64, 128, 4, 2, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.LeakyReLU(0.2),
            nn.Conv2d(128, 256, 4, 2, 1, bias=False),
            nn.BatchNorm2d(256),
            nn.LeakyReLU(0.2),
            nn.Conv2d(256, 1, 4),
            nn.Flatten(0),
        )


def start(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def plain_dcgan(images: Tensor, budget: scoring.Budget) -> tuple[np.ndarray, dict[str, Any]]:
    """Train on uint8 images `[n, h, w, c]`; return samples, and facts about the training."""
    torch.manual_seed(0)
    generator = Generator(images.shape[-1]).apply(start)
    discriminator = Discriminator(images.shape[-1]).apply(start)
    discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), 2e-4, betas=(0.5, 0.999))
    generator_optimizer = torch.optim.Adam(generator.parameters(), 2e-4, betas=(0.5, 0.999))
    seen, begun = 0, time.perf_counter()
    while not budget.is_spent(seen, elapsed := time.perf_counter() - begun):
        batch = images[torch.randint(len(images), (64,))]
        real = batch.permute(0, 3, 1, 2).float() / 127.5 - 1
        fake = generator(torch.randn(64, LATENTS, 1, 1))
        discriminator_optimizer.zero_grad()
        real_loss = F.softplus(-discriminator(real)).mean()
        (real_loss + F.softplus(discriminator(fake.detach())).mean()).backward()
        discriminator_optimizer.step()
        generator_optimizer.zero_grad()
        F.softplus(-discriminator(fake)).mean().backward()
        generator_optimizer.step()
        seen += 64
    generator.eval()
    torch.manual_seed(1)
    with torch.no_grad():
        painted = torch.cat([generator(torch.randn(100, LATENTS, 1, 1)) for _ in range(COUNT // 100)])
    pixels = ((painted + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return pixels, {"images": seen, "images_per_second": round(seen / elapsed)}


def danqing(
    data: str, preset: str, budget: scoring.Budget, seed: int, out: Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train with the public API; return samples, and facts about the training."""
    begun = time.perf_counter()
    run = scoring.train(data, preset=preset, seed=seed, out=out, size=SIZE, **budget.settings)
    seconds = time.perf_counter() - begun
    facts = json.loads((out / "run.json").read_text())
    pixels = dq.load(run).sample(COUNT, seed=1).array
    images = facts["progress"]["images"]
    return pixels, {"images": images, "images_per_second": round(images / seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--preset", default="gan-32")
    parser.add_argument("--seeds", type=int, default=1, help="how often ours is trained")
    parser.add_argument("--only", choices=["plain_dcgan", "danqing"], help="train one of the two")
    parser.add_argument("--images", type=int, help="train on this number of images instead, with --only")
    parser.add_argument("--out", type=Path, help="keep the runs, the pictures and grids here")
    arguments = parser.parse_args()
    if arguments.images and not arguments.only:
        parser.error("--images is the budget of one contestant: choose it by --only")
    budget = scoring.Budget(arguments.minutes, arguments.images)
    out = scoring.folder_for(arguments.out)

    reference = pixels_of(open_dataset(arguments.data, size=SIZE, split="test"))
    training = pixels_of(open_dataset(arguments.data, size=SIZE))
    results: dict[str, Any] = {"threads": torch.get_num_threads()}

    def scored(name: str, make: Callable[[], tuple[np.ndarray, dict[str, Any]]]) -> dict[str, Any]:
        pixels, facts = scoring.kept(out, name, arguments.minutes, make)
        found: dict[str, Any] = {**scoring.score(pixels, reference), **facts}
        results[name] = found
        return found

    distances = []
    if arguments.only != "danqing":
        plain = scored("plain_dcgan", lambda: plain_dcgan(torch.from_numpy(training), budget))
    if arguments.only != "plain_dcgan":
        for seed in range(arguments.seeds):
            name = f"{arguments.preset}-seed-{seed}"
            make = functools.partial(
                danqing, arguments.data, arguments.preset, budget, seed, out / f"run-{seed}"
            )
            distances.append(scored(name, make)["frechet_distance"])
    if arguments.only is None:
        results["floor"] = scoring.score(training[:COUNT], reference)
        results["mean_distance"] = round(statistics.mean(distances), 2)
        results["ratio"] = round(results["mean_distance"] / plain["frechet_distance"], 3)
    print(json.dumps(results, indent=2))


def pixels_of(dataset: Dataset) -> np.ndarray:
    return dataset.images(np.arange(len(dataset))).numpy()


if __name__ == "__main__":
    main()
