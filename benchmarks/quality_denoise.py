"""Denoising: from the noisy image alone, and by an enhancer that learned simulated low-dose scans.

    python benchmarks/quality_denoise.py [--minutes 5] [--photos 5] [--scans 40] [--training 2000]
        [--side 256] [--only photos|scans] [--out FOLDER]

Prints one JSON object with the mean PSNR in dB of each contestant, and how long one image took it.

photos: photographs of scikit-image with white noise (standard deviation 25 of 255), and with noise of which
neighbours are alike (20, blurred by one pixel). Contestants: zero-shot denoising as `danqing enhance` has it,
told that noise is white or correlated, or measuring it; and non-local means of scikit-image, told the true
standard deviation.

scans: 128×128 slices of random ellipses, at a dose of 10,000 photons per ray. Contestants: an enhancer that
`--task enhance` trained on other slices for `--minutes`, zero-shot denoising, non-local means, and BM3D
(`pip install bm3d`), the last two told the true standard deviation of each slice. "ahead_of_bm3d" is the
enhancer's PSNR minus that of BM3D. With --out, a sheet of slices and results is kept.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import skimage.data
import skimage.restoration
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

import danqing as dq
from danqing.data.degrade import Degradation
from danqing.editing.contract import ImageToEdit
from danqing.editing.denoise import Noise, ZeroShotDenoise
from danqing.images import Images, to_float, to_uint8

PHOTOS = ("astronaut", "coffee", "chelsea", "rocket", "camera")
WHITE, CORRELATED, BLUR = 25, 20, 1.0
SIDE, DOSE = 128, "dose10000"
Pixels = NDArray[np.uint8]
Contestant = Callable[[Pixels, float], Pixels]
"""From a noisy image `[h, w, c]` and the standard deviation of its noise to a clean one."""


def zero_shot(noise: Noise) -> Contestant:
    """Return our denoiser, which does not use the standard deviation."""

    def denoise(noisy: Pixels, deviation: float) -> Pixels:
        result = ZeroShotDenoise(noise=noise).apply(ImageToEdit(noisy, 0))
        return result.astype(np.uint8, copy=False)

    return denoise


def non_local_means(noisy: Pixels, deviation: float) -> Pixels:
    """Denoise with the settings that scikit-image recommends for a known standard deviation."""
    found = skimage.restoration.denoise_nl_means(
        noisy / 255,
        h=0.8 * deviation / 255,
        sigma=deviation / 255,
        patch_size=5,
        patch_distance=6,
        fast_mode=True,
        channel_axis=-1,
    )
    return _levels(found.reshape(noisy.shape) * 255)


def bm3d(noisy: Pixels, deviation: float) -> Pixels:
    """Denoise a grey image by BM3D (Dabov et al. 2007), in the implementation of its authors."""
    import bm3d

    return _levels(np.asarray(bm3d.bm3d(noisy[:, :, 0] / 255, deviation / 255))[:, :, None] * 255)


def photographs(count: int, side: int) -> list[Pixels]:
    """Return parts of photographs, `[side, side, c]`."""
    found = []
    for name in PHOTOS[:count]:
        pixels = getattr(skimage.data, name)()
        top, left = ((length - side) // 2 for length in pixels.shape[:2])
        part = pixels[top : top + side, left : left + side]
        found.append(np.ascontiguousarray(part[:, :, None] if part.ndim == 2 else part))
    return found


def with_noise(clean: Pixels, deviation: float, blur: float, seed: int) -> Pixels:
    """Add Gaussian noise; blurred noise gets the same standard deviation."""
    height, width, channels = clean.shape
    rng = torch.Generator().manual_seed(seed)
    drawn = torch.randn(channels, 1, height, width, generator=rng)
    if blur:
        places = torch.arange(-6, 7, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (places / blur).square())[None, None, None]
        drawn = F.conv2d(F.conv2d(drawn, kernel, padding=(0, 6)), kernel.transpose(2, 3), padding=(6, 0))
    noise = (drawn / drawn.std() * deviation)[:, 0].permute(1, 2, 0).numpy()
    return _levels(clean + noise)


def slices(count: int, seed: int) -> Pixels:
    """Draw slices of random ellipses, `[n, 128, 128, 1]`: bodies with organs of other densities."""
    rng, drawn = np.random.default_rng(seed), np.zeros((count, SIDE, SIDE), np.float32)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    for one in drawn:
        for number in range(int(rng.integers(6, 18))):
            size = rng.uniform(0.6, 0.9, 2) if number == 0 else rng.uniform(0.03, 0.35, 2)
            centre = (0, 0) if number == 0 else rng.uniform(-0.5, 0.5, 2)
            turn, density = rng.uniform(0, np.pi), 0.4 if number == 0 else rng.uniform(-0.3, 0.3)
            across = (x - centre[0]) * np.cos(turn) + (y - centre[1]) * np.sin(turn)
            along = (y - centre[1]) * np.cos(turn) - (x - centre[0]) * np.sin(turn)
            one[(across / size[0]) ** 2 + (along / size[1]) ** 2 < 1] += density
    return _levels(drawn[..., None] * 255)


def train_enhancer(folder: Path, count: int, minutes: float) -> dq.Model:
    """Train an enhancer on other slices than those that are judged."""
    data = folder / "slices"
    data.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(slices(count, seed=1)):
        Image.fromarray(pixels[:, :, 0]).save(data / f"{number:05d}.png")
    run = dq.train(
        data,
        task="enhance",
        settings={"data.degrade": DOSE},
        size=(SIDE, SIDE),
        minutes=minutes,
        out=folder / "run",
        listener=dq.Listener(),
    )
    return dq.load(run)


def judge(contestants: dict[str, Contestant], pairs: list[tuple[Pixels, Pixels]]) -> dict[str, Any]:
    """Return the mean PSNR of each contestant and its seconds for an image.

    pairs: clean and noisy images.
    """
    scores: dict[str, Any] = {"noisy": {"psnr": _mean(psnr(noisy, clean) for clean, noisy in pairs)}}
    for name, denoise in contestants.items():
        began, found = time.perf_counter(), []
        for clean, noisy in pairs:
            deviation = float(np.std(noisy.astype(float) - clean))
            found.append(psnr(denoise(noisy, deviation), clean))
        seconds = (time.perf_counter() - began) / len(pairs)
        scores[name] = {"psnr": _mean(found), "seconds": round(seconds, 2)}
        print(name, scores[name], file=sys.stderr)
    return scores


def psnr(pixels: Pixels, clean: Pixels) -> float:
    """Return the peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(255**2 / np.mean((pixels.astype(float) - clean) ** 2)))


def of_photos(count: int, side: int) -> dict[str, Any]:
    """Compare on photographs with both kinds of noise."""
    clean, found = photographs(count, side), {}
    kinds: tuple[Noise, ...] = ("auto", "white", "correlated")
    contestants: dict[str, Contestant] = {f"zero-shot {kind}": zero_shot(kind) for kind in kinds}
    contestants["non-local means"] = non_local_means
    for name, deviation, blur in (("white", WHITE, 0.0), ("correlated", CORRELATED, BLUR)):
        noisy = [with_noise(one, deviation, blur, seed) for seed, one in enumerate(clean)]
        found[name] = judge(contestants, list(zip(clean, noisy, strict=True)))
    return found


def of_scans(count: int, training: int, minutes: float, folder: Path, out: Path | None) -> dict[str, Any]:
    """Compare on slices at a low dose."""
    clean = slices(count, seed=0)
    degraded = Degradation(DOSE).apply(to_float(torch.from_numpy(clean)), range(count))
    noisy = to_uint8(degraded).numpy()
    model = train_enhancer(folder, training, minutes)

    def enhance(noisy: Pixels, deviation: float) -> Pixels:
        restored: Pixels = model.translate(Images(noisy[None])).array[0]
        return restored

    contestants = {
        "enhancer": enhance,
        "zero-shot auto": zero_shot("auto"),
        "non-local means": non_local_means,
        "bm3d": bm3d,
    }
    scores = judge(contestants, list(zip(clean, noisy, strict=True)))
    scores["ahead_of_bm3d"] = round(scores["enhancer"]["psnr"] - scores["bm3d"]["psnr"], 2)
    if out is not None:
        rows = []
        for before, after in list(zip(clean, noisy, strict=True))[:4]:
            deviation = float(np.std(after.astype(float) - before))
            results = [denoise(after, deviation) for denoise in contestants.values()]
            rows.append(np.concatenate([before, after, *results], 1))
        Image.fromarray(np.concatenate(rows)[:, :, 0]).save(out / "scans.png")
    return scores


def _levels(values: NDArray[Any]) -> Pixels:
    return np.asarray(values).round().clip(0, 255).astype(np.uint8)


def _mean(values: Any) -> float:
    return round(float(np.mean(list(values))), 2)


def main() -> None:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="of training the enhancer")
    parser.add_argument("--photos", type=int, default=len(PHOTOS), help="how many photographs")
    parser.add_argument("--scans", type=int, default=40, help="how many slices are judged")
    parser.add_argument("--training", type=int, default=2_000, help="how many slices are learned from")
    parser.add_argument("--side", type=int, default=256, help="of the photographs, in pixels")
    parser.add_argument("--only", choices=["photos", "scans"], help="leave the other comparison out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a folder to keep the run and a sheet in")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found: dict[str, Any] = {}
    if arguments.only != "scans":
        found["photos"] = of_photos(arguments.photos, arguments.side)
    if arguments.only != "photos":
        with TemporaryDirectory() as temporary:
            folder = arguments.out or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            found["scans"] = of_scans(
                arguments.scans, arguments.training, arguments.minutes, folder, arguments.out
            )
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
