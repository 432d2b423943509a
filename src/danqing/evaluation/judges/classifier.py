"""A small classifier of labels: its accuracy shows what generated images taught it."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from danqing.errors import EvaluationError
from danqing.evaluation.contract import ImageSet
from danqing.evaluation.image_sets import batch_size_for, index_batches, map_labels
from danqing.evaluation.judges.small_networks import image_tower, prepared, set_rate
from danqing.progress import ProgressCallback
from danqing.randomness import generator

_BATCH = 128
_SHOWN = 40_000
"""Images shown in training in all, in epochs from `_EPOCHS[0]` to `_EPOCHS[1]`."""
_EPOCHS = (4, 40)
_PEAK = 4e-3


class Classifier:
    """A trained classifier; `label_names` is what its answers index into."""

    def __init__(self, network: nn.Sequential, label_names: Sequence[str]) -> None:
        self._network = network.eval()
        self.label_names = tuple(label_names)

    @property
    def trunk(self) -> nn.Sequential:
        """Return the layers before the last matrix, from `prepared` images to features `[n, d]`."""
        return nn.Sequential(*list(self._network.children())[:-1])

    def predict(self, images: ImageSet, indices: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Predict the label of each image, int64 `[n]`.

        indices: the images to look at; all by default.
        """
        chosen = np.arange(len(images)) if indices is None else indices
        found = []
        with torch.inference_mode():
            for rows in index_batches(len(chosen), batch_size_for(images.size)):
                logits = self._network(prepared(images.images(chosen[rows])))
                found.append(logits.argmax(1).numpy())
        return np.concatenate(found)


def untrained(images: ImageSet, label_names: Sequence[str] | None = None, seed: int = 0) -> Classifier:
    """Build the classifier of images with fresh weights.

    label_names: the labels to tell apart, by default the images' own.
    """
    names = tuple(images.label_names if label_names is None else label_names)
    return Classifier(image_tower(images.channels, len(names), generator(seed, "weights"), places=1), names)


def fit(
    images: ImageSet,
    *,
    label_names: Sequence[str] | None = None,
    limit: int | None = None,
    flip: bool = False,
    seed: int = 0,
    on_progress: ProgressCallback | None = None,
) -> Classifier:
    """Train a convolutional classifier of 280,000 weights on labelled images.

    label_names: the labels to tell apart, by default the images' own; images with others are left out.
    limit: learn from at most this many images, drawn by the seed.
    flip: whether mirror images keep their label.
    Nothing but the seed decides what is learnt; torch's global randomness is not touched. It computes in
    float32 whatever the processor has, so that scores of two machines compare. Raises EvaluationError where
    there are not at least two labels.
    """
    names = tuple(images.label_names if label_names is None else label_names)
    labels = map_labels(images, names)
    rows = np.flatnonzero(labels >= 0)
    rng = generator(seed, "classifier")
    if limit is not None and limit < len(rows):
        rows = np.sort(rows[torch.randperm(len(rows), generator=rng)[:limit].numpy()])
    if len(np.unique(labels[rows])) < 2:
        raise EvaluationError("A classifier needs images of at least two labels: leave its metrics out.")
    network = image_tower(images.channels, len(names), rng, places=1)
    epochs = max(_EPOCHS[0], min(_EPOCHS[1], round(_SHOWN / len(rows))))
    steps = epochs * math.ceil(len(rows) / _BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_PEAK, weight_decay=0.05)
    step = 0
    for _ in range(epochs):
        order = rows[torch.randperm(len(rows), generator=rng).numpy()]
        for part in index_batches(len(order), _BATCH):
            if len(part) < 2:  # batch statistics of one image are none
                continue
            set_rate(optimizer, _PEAK, step, steps, rise=5)
            shown = order[part]
            pictures = images.images(shown)
            if flip:
                mirrored = torch.rand(len(part), generator=rng) < 0.5
                pictures = torch.where(mirrored[:, None, None, None], pictures.flip(2), pictures)
            logits = network(prepared(pictures))
            loss = F.cross_entropy(logits, torch.from_numpy(labels[shown]), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if on_progress:
                on_progress(min(step, steps), steps, "Training a classifier")
    return Classifier(network, names)
