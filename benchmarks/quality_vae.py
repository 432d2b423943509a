"""Quality after equal time: the preset `vae-32` and pythae's VAE, trained for minutes on this machine.

    python benchmarks/quality_vae.py --data DIR [--minutes 5] [--preset vae-32] [--out FOLDER]

DIR holds Fashion-MNIST IDX files. Prints one JSON object: Fréchet distance on EfficientNet-Lite0 features,
precision and recall of 5,000 images against the test split, the same distance of reconstructed test images,
images per second, our bits per dimension on the test split, and the ratio of the distances. pythae (`pip
install pythae`) has its convolutional MNIST networks at the 28×28 that they are made for, 16 latents as in
its examples, its squared error, and otherwise its trainer's defaults: Adam at 1e-4, batches of 64, float32.
Its images are then resized to 32×32 like the real ones.

--images trains for as many images as an idle machine sees in that time (run --only with few --minutes to
find its images per second), so that the result is the same on a busy one.

The images of each contestant are saved in FOLDER: the same command continues after an interruption, and
--only trains one of the two.
"""

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import scoring
import torch
from PIL import Image
from torch import Tensor

import danqing as dq
from danqing.data import Dataset, open_dataset
from danqing.images import Images

SIZE = (32, 32)
COUNT = 5000


def pythae(images: Tensor, budget: scoring.Budget, learning_rate: float) -> tuple[np.ndarray, dict[str, Any]]:
    """Train on uint8 images `[n, 28, 28, 1]`; return samples at 32×32, and facts about the training."""
    from pythae import models
    from pythae.data.datasets import DatasetOutput
    from pythae.models.nn.benchmarks.mnist import Decoder_Conv_AE_MNIST, Encoder_Conv_VAE_MNIST

    torch.manual_seed(0)
    config = models.VAEConfig(input_dim=(1, 28, 28), latent_dim=16)
    model = models.VAE(config, Encoder_Conv_VAE_MNIST(config), Decoder_Conv_AE_MNIST(config)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    pixels = images.permute(0, 3, 1, 2).float() / 255
    seen, begun = 0, time.perf_counter()
    while not budget.is_spent(seen, elapsed := time.perf_counter() - begun):
        optimizer.zero_grad()
        model(DatasetOutput(data=pixels[torch.randint(len(pixels), (64,))])).loss.backward()
        optimizer.step()
        seen += 64
    model.eval()
    with torch.no_grad():
        rows = [model.decoder(torch.randn(100, 16)).reconstruction for _ in range(COUNT // 100)]
    painted = (torch.cat(rows) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return enlarged(painted), {"images": seen, "images_per_second": round(seen / elapsed)}


def danqing(
    data: str, preset: str, budget: scoring.Budget, settings: dict[str, str], out: Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train with the public API; return samples, and facts about the training."""
    run = scoring.train(data, preset=preset, settings=settings, out=out, size=SIZE, **budget.settings)
    model = dq.load(run)
    facts: dict[str, Any] = {"images": run.images, "images_per_second": round(run.images_per_second)}
    test = open_dataset(data, size=SIZE, split="test")
    rows = np.arange(2000)
    shown, labels = Images(test.images(rows)), [test.label_names[label] for label in test.labels_at(rows)]
    facts["bits_per_dim"] = round(model.bits_per_dim(shown, labels, samples=16).mean().item(), 4)
    rebuilt = model.reconstruct(shown, labels).array
    facts["reconstruction_frechet_distance"] = scoring.distance(rebuilt, pixels_of(test))
    return model.sample(COUNT, seed=1).array, facts


def enlarged(images: np.ndarray) -> np.ndarray:
    """Resize images from 28×28 to 32×32, like the real ones."""
    pictures = (Image.fromarray(image[..., 0]).resize(SIZE, Image.Resampling.BICUBIC) for image in images)
    return np.stack([np.asarray(picture) for picture in pictures])[..., None]


def pixels_of(dataset: Dataset) -> np.ndarray:
    return dataset.images(np.arange(len(dataset))).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--preset", default="vae-32")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the preset")
    parser.add_argument("--pythae-learning-rate", type=float, default=1e-4)
    parser.add_argument("--only", choices=["pythae", "danqing"], help="train one of the two")
    parser.add_argument("--images", type=int, help="train on this number of images instead, with --only")
    parser.add_argument("--out", type=Path, help="keep the run, the pictures and two grids here")
    arguments = parser.parse_args()
    if arguments.images and not arguments.only:
        parser.error("--images is the budget of one contestant: choose it by --only")
    budget = scoring.Budget(arguments.minutes, arguments.images)
    out = scoring.folder_for(arguments.out)
    settings = dict(setting.split("=", 1) for setting in arguments.set)

    reference = pixels_of(open_dataset(arguments.data, size=SIZE, split="test"))
    results: dict[str, Any] = {"threads": torch.get_num_threads()}
    if arguments.only != "danqing":
        small = torch.from_numpy(pixels_of(open_dataset(arguments.data, size=(28, 28))))
        train = functools.partial(pythae, small, budget, arguments.pythae_learning_rate)
        pixels, facts = scoring.kept(out, "pythae", arguments.minutes, train)
        results["pythae"] = {**scoring.score(pixels, reference), **facts}
    if arguments.only != "pythae":
        train = functools.partial(danqing, arguments.data, arguments.preset, budget, settings, out / "run")
        pixels, facts = scoring.kept(out, arguments.preset, arguments.minutes, train)
        results[arguments.preset] = {**scoring.score(pixels, reference), **facts}
    if arguments.only is None:
        distances = (results[name]["frechet_distance"] for name in (arguments.preset, "pythae"))
        results["ratio"] = round(next(distances) / next(distances), 3)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
