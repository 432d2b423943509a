"""Networks that pictures are compared by, behind one small interface: `open_network`."""

from pathlib import Path
from typing import cast, get_args

import torch
from torch import nn

from danqing.errors import EvaluationError
from danqing.evaluation.contract import FeatureNetwork, Teaches
from danqing.evaluation.networks import efficientnet, hed, inception, pixels
from danqing.evaluation.networks.hub import HubNetwork, Kind
from danqing.evaluation.networks.module import UserModule
from danqing.evaluation.networks.onnx_file import OnnxFile
from danqing.evaluation.resize import Resizer
from danqing.precision import Precision
from danqing.pretrained import lite0_trunk

NAMES = (
    *(efficientnet.NAME, inception.NAME, f"{inception.NAME}-antialiased", hed.NAME, pixels.NAME),
    *(hed.OWN_SIZE, "inception:WEIGHTS", "dinov2", "dinov2:MODEL", "clip", "clip:MODEL", "FILE.onnx"),
)
"""What `open_network` takes beside "auto": WEIGHTS is a file, MODEL a folder or a name on the hub."""


def open_network(
    name: str | Path | nn.Module = "auto",
    *,
    weights: Path | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    resizer: str | None = None,
) -> FeatureNetwork:
    """Open a feature network by its name.

    name: one of `NAMES`, a module of the user's, or the path of an ONNX file. "auto" is EfficientNet-Lite0
        where its package is installed, else the pixels themselves.
    weights: a file (`inception`, `efficientnet-lite0`, `hed`) or a folder (`dinov2`, `clip`) to read instead
        of the usual one.
    resizer: "legacy" or "antialiased", a choice that only `inception` has; published FID values use legacy.

    Raises EvaluationError for a network that is not available, with what to install or to fetch.
    """
    if precision not in get_args(Precision):
        known = " or ".join(get_args(Precision))
        raise EvaluationError(f"There is no precision {precision!r} for features: choose {known}.")
    if isinstance(name, nn.Module):
        _refuse(weights, resizer, "A module")
        return UserModule(name, device=device, precision=precision)
    if name == "auto":
        name = efficientnet.NAME if weights or lite0_trunk.WEIGHTS.is_installed() else pixels.NAME
    if isinstance(name, Path) or name.lower().endswith(".onnx"):
        _refuse(weights, resizer, "An ONNX file")
        return OnnxFile(Path(name))
    kind, _, model = name.partition(":")
    if kind in (inception.NAME, f"{inception.NAME}-antialiased"):
        chosen = resizer or ("legacy" if kind == inception.NAME else "antialiased")
        source = _one(model, weights, kind)
        if chosen not in get_args(Resizer):
            raise EvaluationError(f"There is no resizer {chosen!r}: choose legacy or antialiased.")
        file = Path(source) if source else None
        return inception.Inception(file, resizer=cast(Resizer, chosen), device=device, precision=precision)
    if kind in get_args(Kind):
        _refuse(None, resizer, kind)
        source = _one(model, weights, kind)
        return HubNetwork(cast(Kind, kind), str(source or ""), device=device, precision=precision)
    if name == efficientnet.NAME:
        _refuse(None, resizer, name)
        return efficientnet.EfficientNetLite0(weights, device=device, precision=precision)
    if name in (hed.NAME, hed.OWN_SIZE):
        _refuse(None, resizer, name)
        side = hed.SIDE if name == hed.NAME else None
        return hed.HED(weights, side=side, device=device, precision=precision)
    if name == pixels.NAME:
        _refuse(weights, resizer, "pixels")
        return pixels.Pixels()
    raise EvaluationError(f"There is no feature network {name!r}: choose one of {', '.join(NAMES)}.")


def open_teacher(name: str, *, device: torch.device | str = "cpu") -> Teaches:
    """Open a feature network as a part of a loss.

    Raises EvaluationError for a network that passes no gradients to images.
    """
    network = open_network(name, device=device)
    if not isinstance(network, Teaches):
        raise EvaluationError(
            f"{name} passes no gradients to images: choose {efficientnet.NAME}, {hed.NAME} or "
            f"{inception.NAME}."
        )
    return network


def _one(named: str, weights: Path | None, kind: str) -> str | Path | None:
    """The weights after the colon of a network's name, or else those that are given beside it."""
    if named and weights is not None:
        raise EvaluationError(f"{kind}:{named} and {weights} both name weights: leave one of them out.")
    return named or weights


def _refuse(weights: Path | None, resizer: str | None, what: str) -> None:
    if weights is not None:
        raise EvaluationError(f"{what} brings its own weights: name none.")
    if resizer not in (None, "antialiased"):
        raise EvaluationError(f"{what} has one way to resize: the legacy one belongs to inception.")
