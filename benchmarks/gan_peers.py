"""One peer of the GAN benchmark: a process that trains lightweight-gan and writes samples.

    PEERS/bin/python benchmarks/gan_peers.py lightweight-gan [--tuned] --images FILE.npy --minutes 30
        --out FOLDER

PEERS is a virtual environment of its own, since the package needs others than danqing does:

    python -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 numpy pillow einops kornia adabelief-pytorch tqdm retry fire
    PEERS/bin/pip install --no-deps lightweight-gan==1.2.1

The package asserts that there is a CUDA device and imports torchvision, which does not load with the CPU
build of torch. This process gives it an empty module of that name, and a CPU where it requests a GPU. The
steps are those of the package's own `Trainer`; its grids and checkpoints are left out, which saves it time.

FILE holds training images, uint8 `[n, h, w, c]`, square, with sides of a power of two. The process writes
`samples.npy`, uint8 `[count, h, w, c]`, and `facts.json` to FOLDER. Two ways to train, in float32:

Default: the settings of the package's command line: batches of 10, accumulated over 4, Adam at 2e-4,
attention at 32 pixels, up to 512 channels, no augmentation. Its moving average begins after 20,000 steps, so
that the last weights are sampled in shorter runs.
Tuned for minutes on a CPU: half of the channels and at most 256, no attention, batches of 16 without
accumulation, Adam at 5e-4, differentiable augmentation with the probability of 0.25 that its README
recommends for few images, and a moving average of 0.99 from the first step on.
"""

import argparse
import json
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import peer_arguments
import torch
from flow_peers import parameters_of, stand_in_for_torchvision
from torch import Tensor, nn

DEFAULT = {
    "batch_size": 10,
    "gradient_accumulate_every": 4,
    "attn_res_layers": [32],
    "disc_output_size": 1,
}
TUNED = {
    "batch_size": 16,
    "fmap_max": 256,
    "fmap_inverse_coef": 11,
    "disc_output_size": 1,
    "lr": 5e-4,
    "aug_prob": 0.25,
}
TUNED_AVERAGE = 0.99
PEERS = ("lightweight-gan",)
SAMPLED_AT_ONCE = 100


class _TorchOnCPU(types.ModuleType):
    """The module torch with a CPU for every device that is requested."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def device(_: str) -> torch.device:
        return torch.device("cpu")


def open_package() -> Any:
    """Import lightweight-gan on a machine without a GPU."""
    stand_in_for_torchvision()
    with mock.patch.object(torch.cuda, "is_available", return_value=True):
        from lightweight_gan import lightweight_gan
    lightweight_gan.torch = _TorchOnCPU("torch")
    for kind in (Tensor, nn.Module):
        kind.cuda = lambda self, *_: self  # type: ignore[method-assign]
    return lightweight_gan


def batches(images: Tensor, size: int, flip: bool) -> Iterator[Tensor]:
    """Yield random batches `[n, c, h, w]` in [0, 1], as the package's loader does."""
    while True:
        batch = images[torch.randint(len(images), (size,))]
        if flip:
            batch = torch.where((torch.rand(size) < 0.5)[:, None, None, None], batch.flip(2), batch)
        yield batch.permute(0, 3, 1, 2).float() / 255


def build(images: Tensor, tuned: bool, flip: bool, folder: Path) -> Any:
    """Return a trainer of the package, which reads images from memory and writes no grids."""
    package = open_package()
    settings: dict[str, Any] = TUNED if tuned else DEFAULT
    trainer = package.Trainer(
        base_dir=folder,
        image_size=images.shape[1],
        greyscale=images.shape[3] == 1,
        use_aim=False,
        **settings,
    )
    trainer.loader = batches(images, settings["batch_size"], flip)
    trainer.evaluate = trainer.save = lambda *_, **__: None
    trainer.init_GAN()
    trainer.GAN.ema_updater.beta = TUNED_AVERAGE
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peer_arguments.add(parser, PEERS, minutes=30.0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    arguments.out.mkdir(parents=True, exist_ok=True)
    images = torch.from_numpy(np.load(arguments.images))
    trainer = build(images, arguments.tuned, arguments.flip, arguments.out)
    per_step = trainer.batch_size * trainer.gradient_accumulate_every
    seen, elapsed, begun = 0, 0.0, time.perf_counter()
    while seen < arguments.budget if arguments.budget else elapsed < 60 * arguments.minutes:
        trainer.train()
        if arguments.tuned:
            trainer.GAN.EMA()
        seen, elapsed = seen + per_step, time.perf_counter() - begun
    generator = trainer.GAN.GE if arguments.tuned else trainer.GAN.G
    torch.manual_seed(1)
    sizes = [min(SAMPLED_AT_ONCE, arguments.count - at) for at in range(0, arguments.count, SAMPLED_AT_ONCE)]
    with torch.no_grad():
        generator.eval()
        samples = torch.cat([generator(torch.randn(n, trainer.latent_dim)).clamp(0, 1) for n in sizes])
    np.save(arguments.out / "samples.npy", (samples * 255).round().byte().permute(0, 2, 3, 1).numpy())
    facts = {
        "images": seen,
        "images_per_second": round(seen / elapsed, 1),
        "parameters": parameters_of(trainer.GAN.G) + parameters_of(trainer.GAN.D),
    }
    (arguments.out / "facts.json").write_text(json.dumps(facts))
    print(json.dumps(facts), file=sys.stderr)


if __name__ == "__main__":
    main()
