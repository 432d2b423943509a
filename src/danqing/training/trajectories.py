"""Trajectories of a teacher, from noise to image: computed once, cached, and learned beside the images.

Trajectory i has the condition of an image of the data and noise that follows from i alone. So the file
depends on the teacher's weights, the data and a few settings, and other runs find it in the cache.
"""

import dataclasses
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.data import Batches, Dataset, captions
from danqing.data.batch import Batch, Condition
from danqing.data.cache import default_folder
from danqing.data.order import ShuffledOrder
from danqing.data.records import digest
from danqing.data.tensor_file import TensorFile
from danqing.errors import ConfigError, TrainingError
from danqing.families.flow import FlowConfig
from danqing.families.flow_variants import Flow, LatentFlow
from danqing.randomness import normal
from danqing.samplers import time_grid
from danqing.training import codes
from danqing.training.codes import CodedBatches, Codes
from danqing.training.config import RunConfig
from danqing.training.listener import Listener
from danqing.training.transfer import Source

VERSION = 1
KIND = "trajectories"
_AT_ONCE = 64
_SHARED = ("width", "height", "channels", "labels", "attributes", "condition", "conditional", "tokenizer")
"""What teacher and student must have in common."""


class Trajectories:
    """Points of a teacher's trajectories, with their conditions.

    file: holds float16 `[trajectories, points · c, h, w]`. shape: of an image. conditions: of all.
    """

    def __init__(self, file: TensorFile, shape: tuple[int, int, int], conditions: Condition) -> None:
        self._file, self._shape, self._conditions = file, shape, conditions
        self.count = file.shape("codes")[0]

    def at(self, places: NDArray[np.int64]) -> Batch:
        """Return some trajectories; their images are points `[n, points, c, h, w]`."""
        found = self._file.rows("codes", places).view("<f2").astype(np.float32)
        points = torch.from_numpy(found).reshape(len(places), -1, *self._shape)
        return Batch(points, self._conditions[places.tolist()])


class TaughtBatches(Batches):
    """Images, and beside them as many trajectories in another order."""

    def __init__(self, dataset: Dataset, trajectories: Trajectories, **options: Any) -> None:
        super().__init__(dataset, **options)
        self.trajectories = trajectories
        self._taught = ShuffledOrder(trajectories.count, self.batch_size, self.seed)

    def at(self, images_seen: int, rows: slice | None = None) -> Batch:
        """Return the batch after `images_seen` images, with trajectories, on the device.

        rows: as of `Batches.at`.
        """
        batch = super().at(images_seen, rows)
        places = self._taught.at(images_seen).indices[self.rows if rows is None else rows]
        return dataclasses.replace(batch, trajectories=self.trajectories.at(places).to(self.device))


class TaughtCodes(TaughtBatches, CodedBatches):
    """Latents, and beside them as many trajectories, which are of latents too."""


def open_batches(
    config: RunConfig, dataset: Dataset, latents: Codes | None, listener: Listener, **options: Any
) -> TaughtBatches:
    """Return the batches of a run that learns from a teacher's trajectories.

    config: completed for the data. latents: of the images, in a second stage. options: as of `Batches`.
    Raises ModelError where the teacher cannot be read, and ConfigError where it cannot teach this run.
    """
    if dataset.is_streamed:
        raise ConfigError("A teacher's trajectories need images in the cache: raise data.stream_over.")
    if not config.teacher:
        raise ConfigError("solution.trajectories are a teacher's: give one, as danqing distill does.")
    source = Source(config.teacher)
    found = ensure(source, config, dataset, torch.device(options["device"]), listener)
    if latents is not None:
        return TaughtCodes(dataset, found, codes=latents, **options)
    return TaughtBatches(dataset, found, **options)


def ensure(
    source: Source, config: RunConfig, dataset: Dataset, device: torch.device, listener: Listener
) -> Trajectories:
    """Return a teacher's trajectories, from the cache if possible.

    Raises ConfigError where the teacher cannot teach this run, and TrainingError if the cache cannot be
    written.
    """
    teacher, student = source.learner, config.model
    assert isinstance(student, FlowConfig)
    check(source, student)
    assert isinstance(teacher, Flow | LatentFlow)
    settings, shape = student.solution, teacher.codec.latent_shape
    guidance = (
        {} if settings.trajectory_guidance is None else {"guidance_scale": settings.trajectory_guidance}
    )
    times, kept = _times(student)
    conditions = _conditions(dataset, student, settings.trajectories)
    about = f"{KIND} {VERSION} {settings.trajectories} {times} {kept} {guidance}"
    key = digest(about, source.digest, dataset.fingerprint, repr(teacher.sample_defaults()))[:32]
    path = default_folder() / KIND / f"{key}.safetensors"

    @torch.inference_mode()
    def parts() -> Iterator[Tensor]:
        model = teacher.to(device).eval()
        for start in range(0, settings.trajectories, _AT_ONCE):
            rows = np.arange(start, start + _AT_ONCE) % settings.trajectories  # always as many at once
            noise = normal(rows.tolist(), shape, purpose=KIND, device=device)
            points = model.trajectory(conditions[rows.tolist()].to(device), noise, times, **guidance)
            yield points[: settings.trajectories - start, kept].flatten(1, 2).cpu()

    whole = (settings.trajectories, len(kept) * shape[0], *shape[1:])
    encoded = codes.Encoded(dataset.info.name, KIND, "F16", whole, parts())
    try:
        codes.write_once(path, encoded, listener.on_data, lambda: False)
    except OSError as error:
        raise TrainingError(
            f"The trajectories cannot be written to {path.parent} ({error.strerror or error}): free some "
            "space there, or set DANQING_CACHE to another folder."
        ) from error
    return Trajectories(TensorFile(path), shape, conditions)


def check(source: Source, student: FlowConfig) -> None:
    """Raise ConfigError where a model cannot teach this student."""
    check_teacher(source)
    theirs = source.learner.config
    other = [name for name in _SHARED if getattr(theirs, name, None) != getattr(student, name)]
    if other:
        raise ConfigError(
            f"The teacher {source.model} has another {other[0]} than these images: give the data that it "
            "learned from, or data like it."
        )


def check_teacher(source: Source) -> None:
    """Raise ConfigError where a model cannot teach one of few steps."""
    teacher = source.learner
    if not isinstance(teacher, Flow | LatentFlow):
        raise ConfigError(
            f"{source.name} teaches no model of few steps: give a flow model, such as one of the preset "
            "flow-32."
        )
    if teacher.config.mask_share or teacher.config.grow:
        name = "mask_share" if teacher.config.mask_share else "grow"
        raise ConfigError(f"{source.name} was trained with {name}, which a model of few steps cannot learn.")


def _times(student: FlowConfig) -> tuple[list[float], list[int]]:
    """Return the times of a trajectory, and the places of those that the student jumps from, and the end."""
    jumps = time_grid(student.num_steps, student.time_shift)
    parts = -(-student.solution.trajectory_steps // student.num_steps)
    times = [t + (s - t) * part / parts for t, s in pairwise(jumps) for part in range(parts)]
    return [*times, 1.0], list(range(0, parts * student.num_steps + 1, parts))


def _conditions(dataset: Dataset, student: FlowConfig, count: int) -> Condition:
    """Return the conditions of evenly spaced images, with all of their attributes and one caption each."""
    rows = np.linspace(0, len(dataset) - 1, count).round().astype(np.int64)
    label = torch.from_numpy(dataset.labels_at(rows)) if student.labels else None
    texts = dataset.texts(rows) if student.reads_text else None
    text = None if texts is None else captions.chosen(texts, 0, 0)
    if not student.attributes:
        return Condition(label=label, text=text)
    values = torch.from_numpy(dataset.attributes_at(rows))
    known = ~values.isnan()
    return Condition(label=label, text=text, attributes=values.where(known, 0.0), attribute_mask=known)
