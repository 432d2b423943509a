"""What the quality benchmarks share: scores, budgets, and the saved results of each contestant."""

import functools
import io
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import danqing
from danqing import atomic
from danqing.data import Dataset
from danqing.evaluation.contract import FeatureNetwork
from danqing.evaluation.estimate import Estimate
from danqing.evaluation.frechet import frechet_distance
from danqing.evaluation.neighbours import manifold_scores
from danqing.evaluation.networks import open_network
from danqing.images import Images
from danqing.training.outcome import Run

AT_ONCE = 256
NETWORK = "efficientnet-lite0"


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a contestant trains: so many minutes, or as many images as an idle machine sees in them.

    With `images` the result does not depend on what else the machine does.
    """

    minutes: float
    images: int | None = None

    def is_spent(self, seen: int, seconds: float) -> bool:
        """Whether training is over after so many images and seconds."""
        return seconds >= 60 * self.minutes if self.images is None else seen >= self.images

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `danqing.train`."""
        return {"minutes": self.minutes} if self.images is None else {"images": self.images}


def train(data: str | Path, **options: Any) -> Run:
    """Train as `danqing.train` does, but end the benchmark if the training was interrupted.

    Otherwise a run that was killed would be scored as if it had finished.
    """
    run = danqing.train(data, **options)
    if run.status == "interrupted":
        raise SystemExit("The training was interrupted: run the same command again to continue.")
    return run


def folder_for(out: Path | None) -> Path:
    """Create the folder of what a benchmark keeps, or a temporary one."""
    if out is None:
        return Path(tempfile.mkdtemp())
    out.mkdir(parents=True, exist_ok=True)
    return out


def told(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate with its 95% interval, rounded."""
    ends = [round(end, 4) for end in estimate.interval() or ()]
    return {"value": round(estimate.value, 4), "interval": ends}


def kept(
    out: Path, name: str, minutes: float, make: Callable[[], tuple[np.ndarray, dict[str, Any]]]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return one contestant's images and the facts of its training, as `kept_values` does.

    A grid of the first images is written beside them.
    """
    pixels, facts = kept_values(out, name, minutes, make)
    grid = out / f"{name}.png"
    if not grid.exists():
        Images(pixels[:100]).save(grid)
    return pixels, facts


def kept_values(
    out: Path, name: str, minutes: float, make: Callable[[], tuple[np.ndarray, dict[str, Any]]]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return what one contestant made and the facts of its training; train it only if `out` has none.

    A benchmark that was stopped continues with the next contestant. Scores are always computed again.
    """
    facts_file, values_file = out / f"{name}.json", out / f"{name}.npy"
    if facts_file.exists():
        facts = json.loads(facts_file.read_text())
        if facts["minutes"] != minutes:
            raise SystemExit(f"{facts_file} is of {facts['minutes']} minutes: choose another --out.")
        return np.load(values_file), facts
    values, facts = make()
    facts["minutes"] = minutes
    buffer = io.BytesIO()
    np.save(buffer, values)
    atomic.write_bytes(values_file, buffer.getvalue())
    atomic.write_json(facts_file, facts)
    return values, facts


def score(generated: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Return all scores of `generated` against `reference`, both uint8 images `[n, h, w, c]`.

    The distance is FD-efficientnet-lite0, never called FID.
    """
    ours, real = features(generated), features(reference)
    shares = manifold_scores(ours, real)
    return {
        "frechet_distance": round(frechet_distance(ours, real).value, 2),
        "precision": round(shares["precision"].value, 4),
        "recall": round(shares["recall"].value, 4),
        "generated": len(generated),
        "reference": len(reference),
    }


def distance(generated: np.ndarray, reference: np.ndarray, network: str = NETWORK) -> float:
    """Return only the Fréchet distance, in the features of a network."""
    ours, real = features(generated, network), features(reference, network)
    return round(frechet_distance(ours, real).value, 2)


def features(images: np.ndarray, network: str = NETWORK) -> Tensor:
    """Return the features of uint8 images `[n, h, w, c]`, `[n, d]`."""
    parts = torch.from_numpy(np.ascontiguousarray(images)).split(AT_ONCE)
    return torch.cat([_network(network).features(part) for part in parts])


@functools.cache
def _network(name: str) -> FeatureNetwork:
    return open_network(name)


def pixels_of(dataset: Dataset) -> np.ndarray:
    """Return all images, uint8 `[n, h, w, c]`."""
    return dataset.images(np.arange(len(dataset))).numpy()


def pin_threads(count: int) -> None:
    """Let this process, the runs that it trains and the processes that it starts use `count` threads."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch.set_num_threads(count)


def budgets(minutes: float, images: list[str]) -> Callable[[str], Budget]:
    """Return what gives each contestant its budget by its name.

    images: NAME=COUNT for those that see so many images instead of training for the minutes.
    """
    counts = dict(one.split("=", 1) for one in images)
    return lambda name: Budget(minutes, int(counts[name]) if name in counts else None)
