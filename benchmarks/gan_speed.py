"""Training speed of `dcgan` at 32×32: our training step and a plain float32 loop over the same networks.

    python benchmarks/gan_speed.py [--data DIR] [--seconds 60]

Ours is the trainer's own step: reading the packed data, both phases, the optimisers and the moving average.
The plain loop has its images in memory as float32 tensors and uses each generated batch for both players.
Both run in this process, in turns of a few seconds, so that other load on the machine affects both equally.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from danqing.data import Batches, open_dataset
from danqing.families import build
from danqing.families.gan import GAN
from danqing.precision import Precision
from danqing.training.config_reading import parse
from danqing.training.engine import Engine

BATCH = 64
CONFIG = {
    "family": "gan",
    "batch_size": BATCH,
    "model": {"net": "dcgan", "conditional": False, "batch_norm": True},
    "optimizer": {"name": "adam", "learning_rate": 2e-4, "betas": (0.5, 0.999)},
}


def plain_loop(engine: Engine) -> Callable[[], None]:
    """Return a step of a typical tutorial's DCGAN, on fresh copies of the same two networks."""
    torch.manual_seed(0)
    family = build(engine.learner.config)
    assert isinstance(family, GAN)
    generator, discriminator, latents = family.generator, family.discriminator, family.config.latents
    generator_optimizer = torch.optim.Adam(generator.parameters(), 2e-4, betas=(0.5, 0.999))
    discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), 2e-4, betas=(0.5, 0.999))
    real_images = torch.cat([engine.batches.at(BATCH * i).images for i in range(50)]).contiguous()

    def step() -> None:
        real = real_images[torch.randint(len(real_images), (BATCH,))]
        fake = generator(torch.randn(BATCH, latents), None)
        discriminator_optimizer.zero_grad()
        real_loss = F.softplus(-discriminator(real, None)).mean()
        fake_loss = F.softplus(discriminator(fake.detach(), None)).mean()
        (real_loss + fake_loss).backward()
        discriminator_optimizer.step()
        generator_optimizer.zero_grad()
        F.softplus(-discriminator(fake, None)).mean().backward()
        generator_optimizer.step()

    return step


def our_loop(engine: Engine) -> Callable[[], None]:
    """Return a step of the trainer's engine."""
    steps = 0

    def step() -> None:
        nonlocal steps
        engine.step(steps * BATCH, steps, 1_000_000)
        steps += 1

    return step


def images_per_second(step: Callable[[], None], seconds: float) -> float:
    start, steps = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        step()
        steps += 1
    return steps * BATCH / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="digits", help="images to train on, resized to 32×32")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    arguments = parser.parse_args()
    precision: Precision = arguments.precision

    dataset = open_dataset(arguments.data, size=(32, 32))
    config = parse(CONFIG).for_data(dataset)
    engine = Engine(config, Batches(dataset, BATCH, 0), torch.device("cpu"), precision)
    loops = {"plain": plain_loop(engine), "danqing": our_loop(engine)}
    for step in loops.values():
        images_per_second(step, 2.0)
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    turns = max(3, round(arguments.seconds / 6))
    for _ in range(turns):
        for name, step in loops.items():
            speeds[name].append(images_per_second(step, 3.0))
    medians = {name: round(statistics.median(values)) for name, values in speeds.items()}
    ratio = statistics.median(a / b for a, b in zip(speeds["danqing"], speeds["plain"], strict=True))
    print(
        json.dumps(
            {
                "images_per_second": medians,
                "ratio": round(ratio, 2),
                "turns": turns,
                "threads": torch.get_num_threads(),
                "precision": precision,
            }
        )
    )


if __name__ == "__main__":
    main()
