"""Noise that chooses the images of a training step, by optimal transport over the whole data set."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing import atomic, weights
from danqing.data import Augment, Batches, Dataset
from danqing.data.batch import Batch
from danqing.errors import ConfigError, ModelError
from danqing.families import transport
from danqing.images import to_float
from danqing.randomness import generator
from danqing.training.listener import Listener

_IMAGES_AT_ONCE = 1024
_KEPT = 2
"""Choices that are remembered: of this batch, and of the next one, which a thread may read ahead."""


class PairedViews(NamedTuple):
    """All images, and their mirror images where a run learns from those as well.

    points: float32 `[N, d]`, as `transport.reduced` makes them.
    shares: `[N]`, how often each is to be seen.
    side: to which images are reduced.
    """

    points: Tensor
    shares: Tensor
    side: int

    @classmethod
    def of(cls, dataset: Dataset, augment: Augment, device: torch.device) -> "PairedViews":
        """Read all images once; the mirror images follow after the others."""
        mirrored = 0.5 if augment.flip is True else float(augment.flip)
        count, parts, mirrors = len(dataset), [], []
        side = transport.side_for(count * 2 if mirrored else count)
        for first in range(0, count, _IMAGES_AT_ONCE):
            rows = np.arange(first, min(first + _IMAGES_AT_ONCE, count))
            images = to_float(dataset.full_depth(rows))
            parts.append(transport.reduced(images, side))
            if mirrored:
                mirrors.append(transport.reduced(images.flip(3), side))
        shares = [torch.full((count,), (1 - mirrored) / count)]
        if mirrored:
            shares.append(torch.full((count,), mirrored / count))
        return cls(torch.cat(parts + mirrors).to(device), torch.cat(shares).to(device), side)


class PairedBatches(Batches):
    """Batches of noise with the images that belong to it.

    potentials: of all views, as `transport.fit_potentials` returns them.
    options: as of `Batches`. What `augment` does besides mirroring happens after an image has been chosen.
    """

    def __init__(
        self, dataset: Dataset, views: PairedViews, potentials: Tensor, *, augment: Augment, **options: Any
    ) -> None:
        super().__init__(dataset, augment=augment.model_copy(update={"flip": False}), **options)
        self.views, self.potentials = views, potentials
        self._choices: dict[int, tuple[NDArray[np.int64], Tensor]] = {}

    def indices(self, images_seen: int, rows: slice | None = None) -> NDArray[np.int64]:
        """Which images the batch shows, int64 `[n]`; noise has chosen them.

        rows: as of `Batches.at`.
        """
        return self._choice(images_seen)[0][self.rows if rows is None else rows] % len(self.dataset)

    def at(self, images_seen: int, rows: slice | None = None) -> Batch:
        """Return the batch after `images_seen` images, with its noise, on the device.

        rows: as of `Batches.at`.
        """
        rows = self.rows if rows is None else rows
        chosen, noise = self._choice(images_seen)
        batch = super().at(images_seen, rows)
        mirrored = torch.from_numpy(chosen[rows] >= len(self.dataset)).to(self.device)
        images = torch.where(mirrored[:, None, None, None], batch.images.flip(3), batch.images)
        images = images.contiguous(memory_format=torch.channels_last)
        return dataclasses.replace(batch, images=images, noise=noise[rows].to(self.device))

    def _choice(self, images_seen: int) -> tuple[NDArray[np.int64], Tensor]:
        """Return the views `[batch_size]` at a position and the noise that chose them, on the CPU."""
        found = self._choices.get(images_seen)
        if found is None:
            rng = generator(self.seed, "transport", images_seen)
            (width, height), channels = self.dataset.size, self.dataset.channels
            noise = torch.randn(self.batch_size, channels, height, width, generator=rng)
            own = transport.reduced(noise, self.views.side).to(self.device)
            chosen = transport.assign(own, self.views.points, self.potentials)
            found = chosen.cpu().numpy(), noise
            kept = list(self._choices.items())[1 - _KEPT :]
            self._choices = dict([*kept, (images_seen, found)])
        return found


def open_batches(
    dataset: Dataset, file: Path, listener: Listener, *, is_begun: bool, augment: Augment, **options: Any
) -> PairedBatches:
    """Return the batches of a run whose noise chooses its images.

    file: holds the potentials of a run that has begun; they are fitted and written where it does not.
    is_begun: whether the run has begun.
    options: as of `Batches`.
    """
    if dataset.stream is not None:
        raise ConfigError(
            "Noise cannot choose among streamed images: set model.transport=minibatch, or raise "
            "data.stream_over, so that they are decoded into the cache."
        )
    device, seed = torch.device(options["device"]), options["seed"]
    views = PairedViews.of(dataset, augment, device)
    potentials = _read(file, len(views.points)) if is_begun else None
    if potentials is None:
        potentials = transport.fit_potentials(
            views.points,
            views.shares,
            generator(seed, "potentials", device=device),
            on_progress=lambda done, total: listener.on_data(done, total, "Pairing noise with images"),
        ).cpu()
        atomic.write_bytes(file, weights.to_bytes({"potentials": potentials}, {}))
        rng = generator(seed, "unevenness", device=device)
        found = transport.unevenness(views.points, views.shares, potentials.to(device), rng)
        listener.on_message(
            f"Noise is paired with {len(dataset)} images; how often it chooses each of them is uneven by "
            f"{max(found, 0.0) ** 0.5:.0%}."
        )
    return PairedBatches(dataset, views, potentials.to(device), augment=augment, **options)


def _read(file: Path, count: int) -> Tensor | None:
    """Return the potentials in a file, or None where they are missing or damaged and must be fitted again."""
    expected = {"potentials": torch.empty(count, device="meta")}
    try:
        weights.check(file, expected)
        return weights.read(file, expected)["potentials"]
    except ModelError:
        return None
