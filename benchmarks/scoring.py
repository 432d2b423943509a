"""What the quality benchmarks measure: FD-efficientnet-lite0, precision and recall."""

import functools

import numpy as np
import torch
from torch import Tensor

from danqing.evaluation.contract import FeatureNetwork
from danqing.evaluation.frechet import frechet_distance
from danqing.evaluation.neighbours import manifold_scores
from danqing.evaluation.networks import open_network

AT_ONCE = 256


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
