"""Which weights a network has, as a sha256 that scores and cached features carry."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from danqing.errors import EvaluationError


def of_file(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal.

    Raises EvaluationError if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EvaluationError(
            f"{path} cannot be read ({error.strerror or error}): name a file of weights."
        ) from error


def of_tensors(tensors: Mapping[str, Tensor], description: str = "") -> str:
    """Return the sha256 of tensors with their names, shapes and formats.

    description: what else tells them apart.
    """
    hasher = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hasher.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
