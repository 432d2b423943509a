"""Reconstruction after equal time: the preset `vqvae-32` and pythae's VQ-VAE with equal tokens per image.

    python benchmarks/quality_vqvae.py --data DIR [--minutes 5] [--tokens 7 8] [--out FOLDER]

DIR holds Fashion-MNIST IDX files: 28×28 pixels give 7×7 tokens, 32×32 give 8×8, out of 512 each. Prints one
JSON object: the squared error of the 10,000 reconstructed test images in [0, 1], their Fréchet distance to
the originals on EfficientNet-Lite0 features, the share of the codes that they use and its perplexity, images
seen; and at the end ours divided by pythae's. pythae (`pip install pythae`) has its residual networks for
MNIST without the last halving, since they would give 4×4 tokens; codes of 16 numbers; and its trainer's
defaults: Adam at 1e-4, batches of 64, float32.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scoring
import torch
from torch import Tensor

import danqing as dq
from danqing.data import open_dataset
from danqing.images import Images

AT_ONCE = 100
Recode = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images uint8 `[n, h, w, 1]` to their reconstructions, likewise, and their codes `[n, ...]`."""


def pythae(
    images: Tensor, minutes: float, learning_rate: float, *, ema: bool
) -> tuple[Recode, dict[str, Any]]:
    """Train pythae's VQ-VAE on uint8 images `[n, h, w, 1]`."""
    from pythae import models
    from pythae.data.datasets import DatasetOutput
    from pythae.models.nn.benchmarks.mnist import Decoder_ResNet_VQVAE_MNIST, Encoder_ResNet_VQVAE_MNIST

    torch.manual_seed(0)
    config = models.VQVAEConfig(
        input_dim=(1, *images.shape[1:3]), latent_dim=16, num_embeddings=512, use_ema=ema
    )
    encoder, decoder = Encoder_ResNet_VQVAE_MNIST(config), Decoder_ResNet_VQVAE_MNIST(config)
    del encoder.layers[2], decoder.layers[1]
    encoder.depth, decoder.depth = encoder.depth - 1, decoder.depth - 1
    model = models.VQVAE(config, encoder, decoder).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    pixels = images.permute(0, 3, 1, 2).float() / 255
    seen, begun = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begun) < 60 * minutes:
        optimizer.zero_grad()
        model(DatasetOutput(data=pixels[torch.randint(len(pixels), (64,))])).loss.backward()
        optimizer.step()
        seen += 64
    model.eval()

    def recode(part: Tensor) -> tuple[Tensor, Tensor]:
        made = model(DatasetOutput(data=part.permute(0, 3, 1, 2).float() / 255))
        levels = (made.recon_x * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        return levels, made.quantized_indices

    return recode, {"images": seen, "images_per_second": round(seen / elapsed)}


def danqing(
    data: str, size: int, preset: str, minutes: float, settings: dict[str, str], out: Path
) -> tuple[Recode, dict[str, Any]]:
    """Train with the public API."""
    run = scoring.train(data, preset=preset, minutes=minutes, settings=settings, out=out, size=(size, size))
    model = dq.load(run)

    def recode(part: Tensor) -> tuple[Tensor, Tensor]:
        codes = model.encode(Images(part))
        return torch.from_numpy(model.decode(codes).array), codes

    return recode, {"images": run.images, "images_per_second": round(run.images_per_second)}


def scored(recode: Recode, facts: dict[str, Any], test: Tensor, picture: Path) -> dict[str, Any]:
    """Return the errors of the reconstructions and facts about the training; save a grid as `picture`."""
    with torch.no_grad():
        made, codes = zip(*(recode(part) for part in test.split(AT_ONCE)), strict=True)
    rebuilt = torch.cat(made)
    counts = torch.bincount(torch.cat(codes).flatten(), minlength=512).double()
    rows = [test[:32].reshape(2, 16, *test.shape[1:]), rebuilt[:32].reshape(2, 16, *test.shape[1:])]
    Images(torch.stack(rows, 1).flatten(0, 2)).save(picture, columns=16)
    return {
        "squared_error": round((rebuilt.double() - test).square().mean().item() / 255**2, 6),
        "frechet_distance": scoring.distance(rebuilt.numpy(), test.numpy()),
        "codebook_use": round((counts > 0).double().mean().item(), 4),
        "perplexity": round(torch.special.entr(counts / counts.sum()).sum().exp().item(), 1),
        **facts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--tokens", type=int, nargs="*", default=[7, 8], help="of a side")
    parser.add_argument("--preset", default="vqvae-32")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the preset")
    parser.add_argument("--pythae-learning-rate", type=float, default=1e-4)
    parser.add_argument("--pythae-ema", action="store_true", help="its moving averages for the codebook")
    parser.add_argument("--only", choices=["pythae", "danqing"], help="train one of the two")
    parser.add_argument("--out", type=Path, help="keep the runs and the grids here")
    arguments = parser.parse_args()
    out = scoring.folder_for(arguments.out)
    settings = dict(setting.split("=", 1) for setting in arguments.set)

    results: dict[str, Any] = {"threads": torch.get_num_threads()}
    for side in arguments.tokens:
        size = 4 * side
        test = everything(arguments.data, size, "test")
        found = results[f"{side}x{side}"] = {}
        if arguments.only != "danqing":
            train = everything(arguments.data, size, "train")
            made = pythae(train, arguments.minutes, arguments.pythae_learning_rate, ema=arguments.pythae_ema)
            found["pythae"] = scored(*made, test, out / f"pythae-{side}.png")
        if arguments.only != "pythae":
            run = out / f"run-{side}"
            made = danqing(arguments.data, size, arguments.preset, arguments.minutes, settings, run)
            found[arguments.preset] = scored(*made, test, out / f"{arguments.preset}-{side}.png")
        if arguments.only is None:
            ours, theirs = found[arguments.preset], found["pythae"]
            for score in ("squared_error", "frechet_distance"):
                found[f"{score}_ratio"] = round(ours[score] / theirs[score], 3)
    print(json.dumps(results, indent=2))


def everything(data: str, size: int, split: str) -> Tensor:
    """All images of a split, uint8 `[n, size, size, 1]`."""
    dataset = open_dataset(data, size=(size, size), split=split)
    return dataset.images(np.arange(len(dataset)))


if __name__ == "__main__":
    main()
