"""Train what the invisible watermark learns: its network, amplitudes, weights and evasion.

In each step, 16 images get a mark with new random signs, so nothing is learned about a key. They are then
resized or cropped, disturbed by noise and compressed as JPEG, each with some probability. The loss is low if
the normalized correlation z of the found coefficients with the signs is high, most of all where it is below
the target, because weak images decide how many marks are found. JPEG and rounding pass gradients as if they
changed nothing.

The images are 64 x 64: parts of the pictures of scikit-image, emoji, drawn shapes with noise, and, where
their zips are given, photographs of 32 x 32 (doubled, and four together) and tiles on a background. The
shipped weights were trained with CIFAR-10-JPEG and Crawl tiles, by one thread, in two stages:

    python benchmarks/watermark_training.py --stage first --steps 3600 --out first.safetensors
    python benchmarks/watermark_training.py --stage second --init first.safetensors --steps 8500 --out FILE

    both with: --photos cifar10-jpeg.zip --tiles crawl-tiles.zip
"""

import argparse
import io
import itertools
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from danqing.data import open_dataset
from danqing.trust import carriers

SIDE, BATCH, CHANNELS, MOST = 64, 16, 32, 1.4
TABLE = carriers.TABLE
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
OTHERS = (
    *("camera.png", "moon.png", "coins.png", "grass.png", "gravel.png", "brick.png"),
    *("hubble_deep_field.jpg", "retina.jpg", "ihc.png"),
)
LUMA = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Stage:
    """What differs between the two stages.

    middle: layers of the network besides the first and the last.
    evenness: the power of the local deviation that the mark's strength follows.
    evasion: at the start; it is learned where it is not 0.
    target, width: of the loss.
    rate, tables: the learning rate, and how much faster the tables are learned.
    shares: of no change of geometry, half, twice, another size, and two kinds of crop.
    """

    middle: int
    psnr: float
    evenness: float
    evasion: float
    target: float
    width: float
    rate: float
    tables: float
    shares: tuple[float, ...]


STAGES = {
    "first": Stage(3, 38.25, 0.4, 0.0, 20, 5, 2e-3, 5, (0.25, 0.15, 0.1, 0.1, 0.2, 0.2)),
    "second": Stage(4, 38.12, 0.3, 0.3, 13, 2.5, 2.5e-3, 3, (0.22, 0.22, 0.08, 0.1, 0.19, 0.19)),
}


def opened(archive: zipfile.ZipFile, prefix: str = "") -> list[str]:
    """Return the names of the pictures of a zip."""
    return [name for name in archive.namelist() if name.startswith(prefix) and name.endswith(("jpg", "png"))]


def parts_of_pictures(rng: np.random.Generator) -> list[Pixels]:
    """Return random parts of scikit-image's pictures, at random scales, mirrored half of the time."""
    import skimage

    parts = []
    for name in PHOTOS + OTHERS:
        picture = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
        for _ in range(900 if name in PHOTOS else 250):
            length = int(np.exp(rng.uniform(np.log(SIDE), np.log(min(picture.size)))))
            left, top = (int(rng.integers(0, side - length + 1)) for side in picture.size)
            part = picture.crop((left, top, left + length, top + length)).resize(
                (SIDE, SIDE), Image.Resampling.LANCZOS
            )
            parts.append(np.asarray(part)[:, :: int(rng.choice([-1, 1]))])
    return parts


def small_photos(path: Path, rng: np.random.Generator) -> list[Pixels]:
    """Return photographs of 32 x 32, doubled, and others four together."""
    with zipfile.ZipFile(path) as archive:
        names = rng.choice(opened(archive, "train/"), 8400, replace=False)
        small = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    filters = (Image.Resampling.LANCZOS, Image.Resampling.BICUBIC)
    doubled = [
        np.asarray(picture.resize((SIDE, SIDE), filters[i % 2])) for i, picture in enumerate(small[:2000])
    ]
    rest = [np.asarray(picture) for picture in small[2000:]]
    four = [
        np.vstack([np.hstack(rest[i : i + 2]), np.hstack(rest[i + 2 : i + 4])]) for i in range(0, 6400, 4)
    ]
    return doubled + four


def tiles(path: Path, rng: np.random.Generator) -> list[Pixels]:
    """Return tiles on white or on a random colour, doubled."""
    made = []
    with zipfile.ZipFile(path) as archive:
        for name in rng.choice(opened(archive), 1000, replace=False):
            tile = Image.open(io.BytesIO(archive.read(name))).convert("RGBA")
            colour = rng.integers(0, 256, 3).tolist() if rng.random() < 0.5 else [255] * 3
            ground = Image.new("RGBA", tile.size, (*colour, 255))
            ground.alpha_composite(tile)
            kind = (Image.Resampling.NEAREST, Image.Resampling.LANCZOS)[rng.integers(2)]
            made.append(np.asarray(ground.convert("RGB").resize((SIDE, SIDE), kind)))
    return made


def drawn(count: int, rng: np.random.Generator) -> list[Pixels]:
    """Return discs and rectangles over each other, with noise of a random spectrum and slopes."""
    made = []
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)) + 1 / SIDE
    slope = np.linspace(-1, 1, SIDE)
    for _ in range(count):
        canvas = Image.new("RGB", (2 * SIDE, 2 * SIDE), tuple(rng.integers(0, 256, 3).tolist()))
        pen = ImageDraw.Draw(canvas)
        for _ in range(rng.integers(5, 150)):
            radius, (x, y) = min(40, 3 * rng.pareto(1.2) + 2), rng.uniform(0, 2 * SIDE, 2)
            shape = pen.ellipse if rng.random() < 0.6 else pen.rectangle
            box = (x - radius, y - radius, x + radius, y + radius)
            shape(box, fill=tuple(rng.integers(0, 256, 3).tolist()))
        picture = np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.LANCZOS)).astype(float)
        if rng.random() < 0.3:
            picture = np.broadcast_to(rng.integers(0, 256, 3), picture.shape)
        white = np.fft.fft2(rng.normal(size=(SIDE, SIDE)))
        texture = np.fft.ifft2(white / frequency ** rng.uniform(0.3, 1.8)).real
        texture = texture / texture.std() * rng.choice([0, 2, 6, 15])
        down, across = rng.uniform(-60, 60, 2) * rng.integers(2)
        shade = texture + down * slope[:, None] + across * slope
        made.append(np.clip(picture + shade[..., None], 0, 255).astype(np.uint8))
    return made


def training_images(arguments: argparse.Namespace) -> Pixels:
    """Return all images `[n, 64, 64, 3]`."""
    rng = np.random.default_rng(0)
    images = parts_of_pictures(rng) + drawn(1500, rng)
    if arguments.photos:
        images += small_photos(arguments.photos, rng)
    if arguments.tiles:
        images += tiles(arguments.tiles, rng)
    emoji = open_dataset("emoji", size=(SIDE, SIDE))
    chosen = np.random.default_rng(1).permutation(len(emoji))[:2000]
    shown = emoji.images(chosen).numpy()
    return np.concatenate([np.stack(images), shown if shown.shape[-1] == 3 else shown.transpose(0, 2, 3, 1)])


def matrix(values: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(values.copy())


def local_mean(side: int, reach: int = 3) -> Tensor:
    near = (torch.arange(side)[:, None] - torch.arange(side)).abs() <= reach
    return near / near.sum(1, keepdim=True)


def details(brightness: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """`danqing.trust.extractor.details`, for a batch `[n, s, s]`."""
    difference = brightness - mean @ brightness @ mean.T
    return difference, (mean @ (difference * difference) @ mean.T + 0.25).sqrt()


class Watermark(nn.Module):
    """What is learned, as `danqing.trust.watermark` and `danqing.trust.extractor` use it."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        radius = torch.hypot(*torch.meshgrid(*[torch.arange(TABLE).float()] * 2, indexing="ij"))
        self.used: Tensor
        self.register_buffer("used", ((radius >= 3) & (radius <= TABLE)).float())
        self.amplitude = nn.Parameter(-(((radius - 10) / 12) ** 2))  # logarithms
        self.weight = nn.Parameter(torch.zeros(TABLE, TABLE))
        self.evasion = nn.Parameter(torch.tensor(stage.evasion), requires_grad=stage.evasion > 0)
        sides = [8, *[CHANNELS] * (stage.middle + 1), 4]
        pairs = itertools.pairwise(sides)
        self.convolutions = [nn.Conv2d(one, other, 3, padding=1) for one, other in pairs]
        self.layers = nn.ModuleList(self.convolutions)  # registers their parameters
        nn.init.normal_(self.convolutions[-1].weight, std=0.01)
        self.mean = local_mean(SIDE)
        self.basis = matrix(carriers.basis(SIDE, TABLE))

    def embed(self, images: Tensor, signs: Tensor) -> Tensor:
        """Return images `[n, 3, 64, 64]`, from 0 to 255, with a mark of signs `[n, 32, 32]`."""
        difference, deviation = details((images * LUMA).sum(1), self.mean)
        own = self.basis @ (difference / (deviation + 2)) @ self.basis.T * self.used
        own = own / (own.pow(2).sum((1, 2), keepdim=True) / self.used.sum() + 1e-3).sqrt()
        strength = (deviation + 4) ** self.stage.evenness
        strength = (strength / strength.mean((1, 2), keepdim=True)).clamp(0.4, 2.5)
        spectrum = (signs - self.evasion * own) * self.amplitude.exp() * self.used
        change = strength * (self.basis.T @ spectrum @ self.basis)
        error = 255 * 10 ** (-self.stage.psnr / 20)
        change = (change * error / change.pow(2).mean((1, 2), keepdim=True).sqrt())[:, None]
        with torch.no_grad():
            reached = ((images + change).clamp(0, 255) - images).pow(2).mean((1, 2, 3), keepdim=True).sqrt()
            gain = (error / reached.clamp_min(0.1)).clamp(1, MOST)
        marked = (images + change * gain).clamp(0, 255)
        return straight(marked, marked.round())

    def z(self, brightness: Tensor, signs: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the normalized correlation `[n]`; rows, columns: the cosines of each crop `[n, 32, 64]`."""
        difference, deviation = details(brightness, self.mean)
        features = F.pixel_unshuffle(torch.stack([difference / 16, difference / (deviation + 2)], 1), 2)
        values = F.relu(self.convolutions[0](features))
        for layer in self.convolutions[1:-1]:
            values = values + F.relu(layer(values))
        estimate = F.pixel_shuffle(self.convolutions[-1](values) + 0.1 * features[:, 4:], 2)[:, 0]
        found = rows @ estimate @ columns.transpose(1, 2) * self.weight.exp() * self.used
        return (found * signs).sum((1, 2)) / found.pow(2).sum((1, 2)).sqrt().clamp_min(1e-6)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what `danqing.trust.extractor` reads, as float16."""
        found: dict[str, Tensor] = {"evasion": self.evasion.detach()}
        for name, table in (("amplitude", self.amplitude), ("weight", self.weight)):
            values = table.detach().exp() * self.used
            found[name] = values / values.max()
        for place, layer in enumerate(self.convolutions):
            assert layer.bias is not None
            found[f"{place}.kernel"], found[f"{place}.bias"] = layer.weight.detach(), layer.bias.detach()
        return {name: np.ascontiguousarray(value.numpy().astype(np.float16)) for name, value in found.items()}

    def start_from(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over weights; layers that are missing there come before the last and start near nothing."""
        given = {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}
        last = max(int(name.split(".")[0]) for name in given if name.endswith(".kernel"))
        with torch.no_grad():
            for name in ("amplitude", "weight"):
                getattr(self, name).copy_(given[name].clamp_min(1e-8).log())
            for place, layer in enumerate(self.convolutions):
                source = last if place == len(self.convolutions) - 1 else place if place < last else None
                if source is None:
                    nn.init.normal_(layer.weight, std=0.01)
                else:
                    assert layer.bias is not None
                    layer.weight.copy_(given[f"{source}.kernel"])
                    layer.bias.copy_(given[f"{source}.bias"])


def straight(given: Tensor, changed: Tensor) -> Tensor:
    """Return changed values whose gradients are those of the given ones (Bengio et al. 2013)."""
    return given + (changed - given).detach()


def compressed(images: Tensor, quality: int, subsampling: int) -> Tensor:
    """Return images as JPEG returns them."""
    shown = []
    for pixels in images.detach().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
        shown.append(np.asarray(Image.open(buffer)))
    return torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float()


def cosines(starts: NDArray[np.float64], length: float) -> Tensor:
    return matrix(np.stack([carriers.window(start, length, SIDE, TABLE) for start in starts]))


def attacked(
    images: Tensor, shares: Sequence[float], rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Change images as it happens to images.

    Returns their brightness `[n, 64, 64]`, and the cosines of the part that is left.
    """
    count = len(images)
    kind = rng.choice(["none", "half", "twice", "size", "crop", "small crop"], p=shares)
    starts, lengths = np.zeros((2, count)), np.full(2, SIDE)
    if "crop" in kind:
        lengths = np.full(2, 51)
        if kind == "crop":
            lengths = rng.integers(50, 65, 2) if rng.random() < 0.3 else np.full(2, rng.integers(50, 65))
        starts = np.stack([rng.integers(0, SIDE - length + 1, count) for length in lengths])
        images = torch.stack(
            [
                image[:, top : top + lengths[0], left : left + lengths[1]]
                for image, top, left in zip(images, *starts, strict=True)
            ]
        )
        starts = starts + rng.uniform(-0.4, 0.4, starts.shape)  # the search is not exact either
    elif kind != "none":
        side = {"half": 32, "twice": 128}.get(kind) or int(rng.integers(40, 100))
        resampling = matrix(carriers.resampling(SIDE, side))
        images = resampling @ images @ resampling.T
    images = straight(images, images.clamp(0, 255).round())
    noise = rng.choice(np.array([0, 5, rng.uniform(1, 7)]), p=[0.6, 0.2, 0.2])
    if noise:
        images = straight(images, (images + noise * torch.randn(images.shape)).clamp(0, 255).round())
    quality = int(rng.choice(np.array([0, 75, rng.integers(60, 96)]), p=[0.35, 0.35, 0.3]))
    if quality:
        images = straight(images, compressed(images, quality, int(rng.choice([0, 2]))))
    brightness = (images * LUMA).sum(1)
    height, width = brightness.shape[1:]
    if (height, width) != (SIDE, SIDE):
        brightness = matrix(carriers.resampling(height, SIDE)) @ brightness
        brightness = brightness @ matrix(carriers.resampling(width, SIDE)).T
    rows, columns = (cosines(one / SIDE, length / SIDE) for one, length in zip(starts, lengths, strict=True))
    return brightness, rows, columns


def train(model: Watermark, images: Pixels, steps: int, seed: int) -> None:
    """Train for some steps, with a rate that falls to 0."""
    stage, rng = model.stage, np.random.default_rng(seed)
    tables = [model.amplitude, model.weight, model.evasion]
    groups = [
        {"params": list(model.layers.parameters()), "peak": stage.rate},
        {"params": [table for table in tables if table.requires_grad], "peak": stage.rate * stage.tables},
    ]
    optimiser = torch.optim.Adam(groups, lr=stage.rate, betas=(0.9, 0.99))
    smooth = math.nan
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * min(1, step / 50) * (1 - step / steps)
        batch = torch.from_numpy(images[rng.integers(0, len(images), BATCH)]).permute(0, 3, 1, 2).float()
        if rng.random() < 0.5:
            batch = batch.flip(3)
        signs = torch.randint(0, 2, (BATCH, TABLE, TABLE)).float() * 2 - 1
        brightness, rows, columns = attacked(model.embed(batch, signs), stage.shares, rng)
        z = model.z(brightness, signs, rows, columns)
        loss = (F.softplus((stage.target - z) / stage.width) * stage.width).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.layers.parameters(), 1.0)
        optimiser.step()
        model.evasion.data.clamp_(0, 1)
        smooth = loss.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss.item()
        if step % 200 == 199:
            print(f"step {step + 1}, loss {smooth:.2f}, evasion {model.evasion.item():.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("watermark.safetensors"))
    parser.add_argument("--stage", choices=list(STAGES), default="first")
    parser.add_argument("--init", type=Path, help="the weights of the first stage")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--photos", type=Path, help="CIFAR-10 as a zip of JPEG files")
    parser.add_argument("--tiles", type=Path, help="a zip of tiles with transparency")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    model = Watermark(STAGES[arguments.stage])
    if arguments.init:
        model.start_from(load_file(arguments.init))
    train(model, training_images(arguments), arguments.steps, arguments.seed)
    save_file(model.arrays(), arguments.out)


if __name__ == "__main__":
    main()
