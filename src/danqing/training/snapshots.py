"""Snapshots of a run's averages, from which other averages are computed after training.

They are spread evenly over the images seen so far, whatever the budget is or becomes: each time there are
too many, every other one is deleted. Which ones exist is a function of the images seen alone.
"""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from danqing import atomic, weights

MOST = 32
"""Snapshots of a run; once there have been so many, at least half of them remain."""
FEWEST_STEPS = 32
"""Steps between two snapshots, at least."""
_LARGEST_POWER = 15  # of two, in a float16
_MOST_SCALED = 126  # 2**126 and its inverse are ordinary float32 numbers

Averages = Mapping[float, Mapping[str, Tensor]]
"""What is averaged, by name, for each EMA length."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The averages of a run when `images` had been seen; `read` returns them."""

    images: int
    lengths: tuple[float, ...]
    read: Callable[[], Averages]


class SnapshotFolder:
    """The folder in which a run keeps its snapshots.

    step_images: images of one training step.
    """

    def __init__(self, path: Path, step_images: int) -> None:
        self.path, self._step_images = path, step_images

    def is_due(self, images: int) -> bool:
        """Whether a snapshot belongs at `images`."""
        return images > 0 and images % self._spacing(images) == 0

    def take(self, images: int, averages: Averages) -> None:
        """Write a snapshot, and delete those that are now too many."""
        self.path.mkdir(exist_ok=True)
        _write(self.path / f"images-{images:012d}.safetensors", averages)
        self.keep_until(images)

    def keep_until(self, images: int) -> None:
        """Delete the snapshots that a run which has seen `images` does not keep."""
        atomic.remove_leftovers(self.path)
        spacing = self._spacing(images)
        for path in _files(self.path):
            if _images_of(path) > images or _images_of(path) % spacing:
                path.unlink(missing_ok=True)

    def _spacing(self, images: int) -> int:
        spacing = FEWEST_STEPS * self._step_images
        while images > MOST * spacing:
            spacing *= 2
        return spacing


def open_snapshots(path: Path, latest: Snapshot) -> tuple[list[Snapshot], list[str]]:
    """Return the snapshots that a run took until `latest`, in order, with it as the last.

    The second value is a sentence on each file that is damaged, and left out.
    """
    shapes = {
        _key(length, name): tensor.shape
        for length, named in latest.read().items()
        for name, tensor in named.items()
    }
    found, complaints = [], []
    for file in _files(path):
        images = _images_of(file)
        if images >= latest.images:
            continue
        try:
            _check(file, shapes)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            complaints.append(f"The snapshot {file.name} is damaged ({error}) and is left out.")
            continue
        read = functools.partial(_averages, file, latest.lengths)
        found.append(Snapshot(images, latest.lengths, read))
    return [*found, latest], complaints


def most_bytes(values: int) -> int:
    """Return the most disk space of the snapshots of a run.

    values: how many numbers are in one of them.
    """
    return MOST * values * torch.float16.itemsize


def _write(path: Path, averages: Averages) -> None:
    """Write averages as float16, each tensor times a power of two that suits its range.

    Their error is then 0.02% of a weight, a twentieth of what a reconstruction may be off.
    """
    tensors, powers = {}, {}
    for length, named in averages.items():
        for name, tensor in named.items():
            key, value = _key(length, name), weights.on_its_own(tensor).float()
            largest = int(torch.frexp(value.abs().max()).exponent) if value.numel() else 0
            powers[key] = min(_LARGEST_POWER - largest, _MOST_SCALED)
            tensors[key] = (value * 2.0 ** powers[key]).half()
    header = {"powers": powers, "digest": weights.digest(tensors)}
    # One entry, since several would be in another order in each process.
    atomic.write_bytes(path, save(tensors, {"snapshot": json.dumps(header)}))


def _averages(path: Path, lengths: tuple[float, ...]) -> Averages:
    tensors, header = _read(path)
    found: dict[float, dict[str, Tensor]] = {length: {} for length in lengths}
    for key, value in tensors.items():
        length, _, name = key.partition("/")
        found[float(length)][name] = value.float() * 2.0 ** -header["powers"][key]
    return found


def _check(path: Path, shapes: Mapping[str, torch.Size]) -> None:
    """Raise ValueError if a file does not hold tensors of these names and shapes, as they were written."""
    tensors, header = _read(path)
    if {key: tensor.shape for key, tensor in tensors.items()} != shapes:
        raise ValueError("it holds other weights than this run")
    if weights.digest(tensors) != header["digest"]:
        raise ValueError("its content does not match its digest")


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {})["snapshot"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    return tensors, header


def _key(length: float, name: str) -> str:
    return f"{length}/{name}"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("images-*.safetensors") if path.stem[7:].isdigit())


def _images_of(path: Path) -> int:
    return int(path.stem[7:])
