"""Speed of the blocks of `modern` at 64×64: dense 3×3 convolutions, and convolutions in groups.

    python benchmarks/gan_blocks.py [--size 64] [--features 32] [--seconds 4] [--threads 1]
        [--precision bfloat16]

Each variant computes both losses of a step and their gradients on random images, in batches of 32. R3GAN
(Huang et al. 2024) widens a block twofold and convolves in groups of 16 channels, which a GPU computes well.
Prints one JSON object: for each variant, milliseconds of processor time per image (of all threads together),
the GFLOP of generating and judging one image, and parameters. The variants take turns.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from danqing.families import build, parse_config
from danqing.families.base import Batch, Family
from danqing.families.gan import GAN
from danqing.precision import autocast

BATCH, ROUNDS = 32, 4
VARIANTS: dict[str, dict[str, Any]] = {
    "dcgan": {"net": "dcgan", "batch_norm": False, "generator_features": 64, "discriminator_features": 64},
    "dense, half as wide": {"expansion": 0.5},
    "dense, as wide": {"expansion": 1.0},
    "groups of 16, twice as wide": {"expansion": 2.0, "group_width": 16},
    "groups of 32, twice as wide": {"expansion": 2.0, "group_width": 32},
}


def step_of(family: Family, images: torch.Tensor, precision: Any) -> Callable[[], None]:
    """Return a function that computes the gradients of all phases once."""

    def step() -> None:
        for phase in family.phases():
            for name, child in family.named_children():
                child.requires_grad_(name in phase.modules)
            with autocast(precision, images.device):
                losses = family.loss(Batch(images), phase, torch.Generator())
            losses.total.backward()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--features", type=int, default=32, help="channels at the finest resolution")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each variant")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size, features = arguments.size, arguments.features
    shared = {"family": "gan", "width": size, "height": size, "channels": 3, "loss": "relativistic"}
    shared |= {"net": "modern", "generator_features": features, "discriminator_features": features}
    shared |= {"gamma": 0.1, "penalty_fraction": 0.25}
    images = (torch.rand(BATCH, 3, size, size) * 2 - 1).contiguous(memory_format=torch.channels_last)
    results: dict[str, dict[str, Any]] = {}
    steps = {}
    for name, settings in VARIANTS.items():
        family = build(parse_config(shared | settings)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        steps[name] = step_of(family, images, arguments.precision)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            assert isinstance(family, GAN)
            family.discriminator(family.generator(torch.randn(BATCH, family.config.latents), None), None)
        results[name] = {
            "parameters": sum(parameter.numel() for parameter in family.parameters()),
            "gigaflops_of_both_networks": round(counter.get_total_flops() / BATCH / 1e9, 3),
        }
    spent, images_seen = dict.fromkeys(steps, 0.0), dict.fromkeys(steps, 0)
    for _ in range(ROUNDS):
        for name, step in steps.items():
            begun = time.process_time()
            while (elapsed := time.process_time() - begun) < arguments.seconds / ROUNDS:
                step()
                images_seen[name] += BATCH
            spent[name] += elapsed
    for name, found in results.items():
        found["milliseconds_per_image"] = round(1000 * spent[name] / images_seen[name], 2)
    print(json.dumps({"threads": arguments.threads, "precision": arguments.precision, **results}, indent=2))


if __name__ == "__main__":
    main()
