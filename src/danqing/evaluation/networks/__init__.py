"""Networks that pictures are compared by, behind one small interface: `open_network`."""

from pathlib import Path

import torch
from torch import nn

from danqing.errors import EvaluationError
from danqing.evaluation.contract import FeatureNetwork
from danqing.evaluation.networks import efficientnet, pixels
from danqing.evaluation.networks.module import UserModule
from danqing.precision import Precision

NAMES = ("efficientnet-lite0", "pixels")


def open_network(
    name: str | Path | nn.Module = "auto",
    *,
    weights: Path | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    resizer: str | None = None,
) -> FeatureNetwork:
    """A feature network by name."""
    if isinstance(name, nn.Module):
        return UserModule(name, device=device, precision=precision)
    if name == "auto":
        name = efficientnet.NAME if efficientnet.is_installed() else pixels.NAME
    if name == efficientnet.NAME:
        return efficientnet.EfficientNetLite0(weights, device=device, precision=precision)
    if name == pixels.NAME:
        return pixels.Pixels()
    raise EvaluationError(f"There is no feature network {name!r}: choose one of {', '.join(NAMES)}.")
