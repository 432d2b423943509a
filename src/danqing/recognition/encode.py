"""Images as vectors, in one call."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.data import Dataset, open_dataset
from danqing.errors import ConfigError
from danqing.evaluation.image_sets import batch_size_for, index_batches
from danqing.images import Images
from danqing.model.model import Model
from danqing.model.recognizer import Recognizer
from danqing.progress import ProgressCallback
from danqing.recognition.encoder import Encoder, open_encoder, own_form

Source = str | Path | Model | Recognizer | Encoder
"""What turns images into vectors: as `open_encoder` takes it, or an encoder that is open."""
Pictures = Images | NDArray[np.uint8] | Tensor | Dataset | str | Path
"""`Images`, uint8 `[n, h, w, c]`, or a data set as `open_dataset` takes it."""


def encode(
    source: Source, images: Pictures, *, device: str = "auto", on_progress: ProgressCallback | None = None
) -> NDArray[np.float32]:
    """Turn images into vectors `[n, d]`, in their order.

    source: a feature network by its name, such as "auto", or a trained model.
    images: `Images`, uint8 `[n, h, w, c]`, a data set, or its path. Of a path all splits are encoded, at the
        size and with the channels that the encoder takes, if it has such.
    on_progress: receives (done, total, what).
    Raises DanqingError where either is not available.
    """
    encoder = encoder_of(source, device=device)
    if isinstance(images, str | Path):
        size, channels = own_form(encoder)
        images = open_dataset(
            images,
            size=size,
            channels=channels,
            split="all",
            ignore_reservations=True,  # which are about training
            on_progress=on_progress,
        )
    if isinstance(images, Dataset):
        return _of_dataset(encoder, images, on_progress)
    array = np.asarray(images.array if isinstance(images, Images) else images)
    if array.dtype != np.uint8 or array.ndim != 4 or not 1 <= array.shape[3] <= 4:
        raise ConfigError(
            f"An array of shape {list(array.shape)} and type {array.dtype} is not images: give uint8 "
            "[n, h, w, c]."
        )
    return encoder.features(torch.from_numpy(np.ascontiguousarray(array))).numpy()


def encoder_of(source: Source, *, device: str = "auto") -> Encoder:
    """Return an encoder that is open already, or open one; errors are those of `open_encoder`."""
    if isinstance(source, str | Path | Model | Recognizer):
        return open_encoder(source, device=device)
    return source


def _of_dataset(
    encoder: Encoder, images: Dataset, on_progress: ProgressCallback | None
) -> NDArray[np.float32]:
    found = np.empty((len(images), encoder.dimensions), np.float32)
    for rows in index_batches(len(images), batch_size_for(images.size)):
        found[rows] = encoder.features(images.images(rows)).numpy()
        if on_progress:
            on_progress(int(rows[-1]) + 1, len(images), "Encoding images")
    return found
