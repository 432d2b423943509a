"""What the quality benchmarks measure: FD-efficientnet-lite0, precision and recall."""

import functools
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danqing import atomic
from danqing.evaluation.contract import FeatureNetwork
from danqing.evaluation.frechet import frechet_distance
from danqing.evaluation.neighbours import manifold_scores
from danqing.evaluation.networks import open_network
from danqing.images import Images

AT_ONCE = 256


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


def kept(
    out: Path, name: str, minutes: float, make: Callable[[], tuple[np.ndarray, dict[str, Any]]]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return one contestant's images and the facts of its training; train it only if `out` has none.

    A benchmark that was stopped goes on with the next contestant. Scores are always computed again.
    """
    facts_file, pixels_file = out / f"{name}.json", out / f"{name}.npy"
    if facts_file.exists():
        facts = json.loads(facts_file.read_text())
        if facts["minutes"] != minutes:
            raise SystemExit(f"{facts_file} is of {facts['minutes']} minutes: choose another --out.")
        return np.load(pixels_file), facts
    pixels, facts = make()
    facts["minutes"] = minutes
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    atomic.write_bytes(pixels_file, buffer.getvalue())
    Images(pixels[:100]).save(out / f"{name}.png")
    atomic.write_json(facts_file, facts)
    return pixels, facts


def score(generated: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Every score of `generated` against `reference`, both uint8 images `[n, h, w, c]`.

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


def distance(generated: np.ndarray, reference: np.ndarray) -> float:
    """The Fréchet distance alone."""
    return round(frechet_distance(features(generated), features(reference)).value, 2)


def features(images: np.ndarray) -> Tensor:
    """The features of uint8 images `[n, h, w, c]`, `[n, 1280]`."""
    parts = torch.from_numpy(np.ascontiguousarray(images)).split(AT_ONCE)
    return torch.cat([_network().features(part) for part in parts])


@functools.cache
def _network() -> FeatureNetwork:
    return open_network("efficientnet-lite0")
