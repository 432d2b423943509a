"""Writes images over every path but the service, and verifies each: which share is recognized as ours?

The model has random weights, because its images do not matter here.
"""

import argparse
import contextlib
import io
import os
import random
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image

import danqing as dq
from danqing import families
from danqing.cli import main as danqing
from danqing.errors import MarkWarning
from danqing.images import Images
from danqing.model.model import Model
from danqing.trust import credentials
from danqing.trust.verify import Verdict, verify

CONFIG = {
    **{"family": "flow", "width": 64, "height": 64, "channels": 3, "num_steps": 2},
    **{"net": "dit", "patch": 4, "widths": [16], "layers": 1, "heads": 2},
}
FORMATS = ("png", "jpg", "webp")


def command(*words: object) -> None:
    """Run a command of danqing; raise RuntimeError if it fails."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            danqing([str(word) for word in words])
        except SystemExit as left:
            if left.code:
                raise RuntimeError(f"{words} ended with {left.code}") from left


def photo(folder: Path, rng: random.Random) -> Path:
    """Write an image without marks, such as a user would edit."""
    noise = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    path = folder / f"photo.{rng.choice(FORMATS)}"
    Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def saved(model: Model, folder: Path, rng: random.Random) -> list[Path]:
    """Save a grid in Python."""
    images = model.sample(rng.randint(1, 4), seed=rng.getrandbits(30))
    return [images.save(folder / f"grid.{rng.choice(FORMATS)}")]


def saved_each(model: Model, folder: Path, rng: random.Random) -> list[Path]:
    """Save images in Python."""
    return model.sample(rng.randint(1, 3), seed=rng.getrandbits(30)).save_each(folder, rng.choice(FORMATS))


def sampled(model: Model, folder: Path, rng: random.Random) -> list[Path]:
    """Sample by a command."""
    command(
        "sample", model.origin, "-n", 2, "--seed", rng.getrandbits(30), "--each", folder, "--format", "png"
    )
    return sorted(folder.glob("*.png"))


def filled_images(model: Model, folder: Path, rng: random.Random) -> list[Path]:
    """Fill images in memory."""
    images = model.sample(1, seed=rng.getrandbits(30))
    mask = np.zeros((64, 64), bool)
    mask[:40] = True
    return model.fill(Images(images.array), mask, seed=rng.getrandbits(30)).save_each(folder)


def filled_file(model: Model, folder: Path, rng: random.Random) -> list[Path]:
    """Fill a part of a file by a command."""
    path = photo(folder, rng)
    out = path.with_stem("filled")
    command("fill", model.origin, path, "--box", "20,10,90,80", "--seed", rng.getrandbits(30), "--out", out)
    return [out]


def filled_folder(model: Model, folder: Path, rng: random.Random) -> list[Path]:
    """Fill a folder in Python."""
    (folder / "in").mkdir()
    photo(folder / "in", rng)
    found = dq.fill(model, folder / "in", out=folder / "out", box=(20, 10, 90, 80), seed=rng.getrandbits(30))
    return list(found.written.values())  # type: ignore[union-attr]


def denoised(model: Model, folder: Path, rng: random.Random) -> list[Path]:
    """Denoise a file without a model."""
    path = photo(folder, rng)
    out = path.with_stem("clean")
    dq.enhance(None, path, out=out, steps=3, seed=rng.getrandbits(30))
    return [out]


def varied(model: Model, folder: Path, rng: random.Random) -> list[Path]:
    """Vary a file by a command, in two versions."""
    path = photo(folder, rng)
    command("vary", model.origin, path, "-n", 2, "--out", folder / "out", "--seed", rng.getrandbits(30))
    return sorted((folder / "out").glob("*/photo.*"))


EDITS = (filled_file, filled_folder, varied, denoised)
PATHS: tuple[Callable[[Model, Path, random.Random], list[Path]], ...] = (
    saved, saved_each, sampled, filled_images, *EDITS
)  # fmt: skip


def main() -> None:
    """Print the share of outputs that are recognized, and of edits that name their input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outputs", type=int, default=100)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", MarkWarning)
    rng, total, ours, edits, parents = random.Random(0), 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as place:
        os.environ |= {"DANQING_TRUST": f"{place}/trust", "DANQING_MARKS": "eu"}
        torch.manual_seed(0)
        untrained = Model(families.build(families.parse_config(CONFIG)))
        model = dq.load(untrained.save(f"{place}/tiny", Images(np.zeros((1, 64, 64, 3), np.uint8))))
        while total < arguments.outputs:
            make = PATHS[total] if total < len(PATHS) else rng.choice(PATHS)
            folder = Path(tempfile.mkdtemp(dir=place))
            for path in make(model, folder, rng)[: arguments.outputs - total]:
                total += 1
                verdict = verify(path)
                ours += verdict.verdict is Verdict.OURS
                if verdict.verdict is not Verdict.OURS:
                    print(f"{make.__name__}: {verdict.summary}")
                if make in EDITS:
                    edits += 1
                    found = credentials.read(path.read_bytes())
                    parents += found is not None and len(found.parents) == 1
    print(f"{ours} of {total} outputs verify as ours; {parents} of {edits} edits of files name their input.")


if __name__ == "__main__":
    main()
