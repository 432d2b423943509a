"""Time to compute the features of many images, and that of the usual loop with Pillow and the plain network.

Both run in one process, in turns on the same images. `ratio` is our time divided by that of the usual way:
batches of 50 images, resized and stacked one by one, through the same weights in plain float32 PyTorch.
`--distances` shows the effect of folding and of the number format on a score: the Fréchet distance between
the first half of the images and the blurred second half, from our features and from those of the plain
network on the same resized images.

    python benchmarks/features_speed.py [--data SOURCE] [--images 10000] [--distances]
    python benchmarks/features_speed.py --network hed --images 1000
    python benchmarks/features_speed.py --network inception --images 200

`inception` runs on random weights, since only the time matters. Without `--data`, the images are noise.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image, ImageFilter
from torch import Tensor, nn

from danqing.data import open_dataset
from danqing.evaluation.features import extract
from danqing.evaluation.frechet import Moments, frechet_distance_of_moments
from danqing.evaluation.networks import efficientnet, hed, inception, open_network
from danqing.evaluation.networks.batched import TorchNetwork
from danqing.pretrained import hed_trunk, lite0_trunk
from danqing.pretrained.checkpoint import read_tensors

BATCH = 50
ROUNDS = 10


class Held:
    """A source of images in memory."""

    fingerprint = "benchmark"
    label_names: tuple[str, ...] = ()

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[2], self.pixels.shape[1]

    @property
    def channels(self) -> int:
        return self.pixels.shape[3]

    def images(self, indices: np.ndarray) -> Tensor:
        return self.pixels[torch.from_numpy(indices)]

    def labels_at(self, indices: np.ndarray) -> np.ndarray:
        return np.full(len(indices), -1)


def usual(net: Callable[[Tensor], Tensor], side: int, mean: Tensor, std: Tensor, pixels: Tensor) -> Tensor:
    """Compute features in the usual way."""
    found = []
    with torch.no_grad():
        for part in pixels.split(BATCH):
            pictures = [
                Image.fromarray(image.squeeze()).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
                for image in part.numpy()
            ]
            batch = torch.stack(
                [torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) for picture in pictures]
            )
            found.append(net((batch.float() / 255 - mean) / std))
    return torch.cat(found)


def plain_network(name: str, weights: Path | None) -> tuple[Callable[[Tensor], Tensor], int, Tensor, Tensor]:
    """Return the plain network, the side of its images, and the scaling of their colours."""
    if name == "efficientnet-lite0":
        net = EfficientNet.from_name(name).eval()
        net.load_state_dict(read_tensors(lite0_trunk.WEIGHTS.path()))
        mean, std = torch.tensor(127 / 255), torch.tensor(128 / 255)
        return lambda x: net.extract_features(x).mean((2, 3)), efficientnet.SIDE, mean, std
    if name == "hed":
        trunk = hed_trunk.Trunk().load_published(hed_trunk.WEIGHTS.path())
        mean = torch.tensor(hed_trunk.MEAN)[:, None, None] / 255
        return trunk, hed.SIDE, mean, torch.tensor(1 / 255)
    assert weights is not None
    net = inception.InceptionV3().eval()
    net.load_state_dict(read_tensors(weights))
    return net, inception.SIDE, torch.tensor(0.5), torch.tensor(0.5)


def random_inception(folder: Path) -> Path:
    torch.manual_seed(0)
    net = inception.InceptionV3()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    torch.save(net.state_dict(), folder / "random.pth")
    return folder / "random.pth"


def blurred(pixels: Tensor) -> Tensor:
    """Return the same images, with the second half slightly blurred."""
    found = pixels.clone()
    for place in range(len(pixels) // 2, len(pixels)):
        picture = Image.fromarray(pixels[place].squeeze().numpy()).filter(ImageFilter.GaussianBlur(0.7))
        found[place] = torch.from_numpy(np.array(picture)).reshape(pixels.shape[1:])
    return found


def on_the_same_pictures(net: Callable[[Tensor], Tensor], network: TorchNetwork, pixels: Tensor) -> Tensor:
    """Compute the plain network's features of our resized images."""
    with torch.no_grad():
        return torch.cat([net(network._inputs(part).contiguous()) for part in pixels.split(BATCH)])


def distance(features: Tensor) -> float:
    half = len(features) // 2
    return frechet_distance_of_moments(Moments.of(features[:half]), Moments.of(features[half:]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="folder, archive or built-in set; by default noise")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=32, help="pixels a side of the noise")
    parser.add_argument(
        "--network", choices=["efficientnet-lite0", "hed", "inception"], default="efficientnet-lite0"
    )
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--distances", action="store_true")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.data:
        dataset = open_dataset(options.data)
        pixels = blurred(dataset.images(np.arange(min(options.images, len(dataset)))))
    else:
        pixels = torch.randint(256, (options.images, options.size, options.size, 3), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        weights = random_inception(Path(folder)) if options.network == "inception" else None
        resizer = "antialiased" if weights else None
        network = open_network(options.network, weights=weights, precision=options.precision, resizer=resizer)
        assert isinstance(network, TorchNetwork)
        plain = plain_network(options.network, weights)
    warm = pixels[:BATCH]
    extract(Held(warm), network, keep=False)
    usual(*plain, warm)
    seconds, found = {"usual": 0.0, "ours": 0.0}, []
    for part in pixels.tensor_split(min(ROUNDS, len(pixels) // BATCH)):
        began = time.perf_counter()
        usual(*plain, part)
        between = time.perf_counter()
        found.append(extract(Held(part), network, keep=False)[:])
        seconds["usual"] += between - began
        seconds["ours"] += time.perf_counter() - between
    ours = torch.cat(found)
    result = {
        "network": options.network,
        "precision": options.precision,
        "images": len(pixels),
        "size": list(pixels.shape[1:3]),
        "threads": torch.get_num_threads(),
        "seconds": {way: round(value, 2) for way, value in seconds.items()},
        "milliseconds_an_image": {way: round(v / len(pixels) * 1000, 3) for way, v in seconds.items()},
    }
    if options.distances:
        distances = {
            "plain": distance(on_the_same_pictures(plain[0], network, pixels)),
            "ours": distance(ours),
        }
        result["distances"] = {way: round(value, 4) for way, value in distances.items()}
    result["ratio"] = round(seconds["ours"] / seconds["usual"], 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
