"""The features of a classifier that has learned the labels of the data: a network without a download."""

from pathlib import Path

import filelock
import torch
from torch import Tensor, nn

from danqing import atomic, weights
from danqing.data.cache import default_folder
from danqing.data.caches import metadata
from danqing.data.dataset import Dataset
from danqing.data.records import digest
from danqing.errors import EvaluationError, ModelError
from danqing.evaluation.judges import classifier
from danqing.evaluation.judges.small_networks import LAYERS, SIDE, prepared
from danqing.evaluation.networks.batched import TorchNetwork
from danqing.pretrained import fingerprint
from danqing.progress import ProgressCallback

NAME = "classifier"
VERSION = 1
"""Part of a cached file's name; it increases when the same images would give another network."""
MOST_IMAGES = 10_000
"""The classifier learns from at most this many images."""
_SEED = 0  # always the same, so that scores of any seed are by one network


class TaughtClassifier(TorchNetwork):
    """128 pooled features of a classifier of the data's labels.

    It takes images of one number of channels, those that it learned from.
    """

    def __init__(self, trunk: nn.Module, *, device: torch.device | str = "cpu") -> None:
        super().__init__(
            trunk.eval().requires_grad_(False),
            name=NAME,
            sha256=fingerprint.of_tensors(trunk.state_dict()),
            resizer=f"area to at most {SIDE} a side",
            normalization="x / 127.5 - 1",
            dimensions=LAYERS[-1][0],
            device=device,
        )

    def _inputs(self, images: Tensor) -> Tensor:
        return prepared(images)


def can_teach(images: Dataset) -> bool:
    """Return whether images have labels to tell apart."""
    return len(images.label_names) > 1


def open_taught(
    images: Dataset,
    *,
    device: torch.device | str = "cpu",
    on_progress: ProgressCallback | None = None,
) -> TaughtClassifier:
    """Open the network of a classifier that is trained on the labels of images.

    It is trained once, and kept in the folder of caches under the fingerprint of the images.
    Raises EvaluationError where there are not at least two labels, or no room on disk.
    """
    folder = default_folder() / "features"
    key = digest(f"{NAME} {VERSION}", images.fingerprint)[:32]
    path = folder / f"{key}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / f"{key}.lock"):
            trunk = classifier.untrained(images).trunk
            if not _read(path, trunk):
                flip = bool(images.info.augment.flip)
                taught = classifier.fit(
                    images, limit=MOST_IMAGES, flip=flip, seed=_SEED, on_progress=on_progress
                )
                trunk = taught.trunk
                told = metadata(images.info.name, network=NAME)["__metadata__"]
                atomic.write_bytes(path, weights.to_bytes(trunk.state_dict(), told))
            atomic.touch(folder / f"{key}.lock")
    except OSError as error:
        raise EvaluationError(
            f"The classifier cannot be written to {folder} ({error.strerror or error}): make room there, or "
            "set DANQING_CACHE to another folder."
        ) from error
    return TaughtClassifier(trunk, device=device)


def _read(path: Path, trunk: nn.Module) -> bool:
    """Read the weights of a trunk; returns False if the file is missing or damaged."""
    expected = trunk.state_dict()
    try:
        weights.check(path, expected)
        trunk.load_state_dict(weights.read(path, expected))
    except ModelError:
        return False
    return True
