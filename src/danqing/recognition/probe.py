"""How much vectors know about labels that they were not trained on."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from danqing.data import Dataset
from danqing.errors import EvaluationError
from danqing.evaluation.estimate import Estimate, share_of
from danqing.evaluation.image_sets import map_labels
from danqing.evaluation.probes import NEIGHBOURS, fit_linear, neighbour_votes
from danqing.recognition.encode import Source, encode, encoder_of


class Probes(NamedTuple):
    """The share of judged images whose label is found.

    neighbours: by the votes of their nearest neighbours. linear: by a linear classifier.
    """

    neighbours: Estimate
    linear: Estimate


def probe(
    source: Source, known: Dataset, judged: Dataset, *, k: int = NEIGHBOURS, device: str = "auto"
) -> Probes:
    """Find the labels of images by the vectors of others.

    source: what turns images into vectors, as of `encode`.
    known: images with the labels to find. judged: images with the same labels; others are left out.
    Raises EvaluationError where either has none of the labels, and DanqingError as `encode`.
    """
    encoder = encoder_of(source, device=device)
    vectors, labels = list[Tensor](), list[Tensor]()
    for images in (known, judged):
        mapped = map_labels(images, known.label_names)
        rows = np.flatnonzero(mapped >= 0)
        if not len(rows):
            raise EvaluationError(
                f"None of the images of {images.info.name} has a label of {known.info.name}: give images "
                "with the same labels."
            )
        vectors.append(torch.from_numpy(encode(encoder, images.subset(rows))))
        labels.append(torch.from_numpy(mapped[rows]))
    return probe_vectors(vectors[0], labels[0], vectors[1], labels[1], k=k)


def probe_vectors(
    known: Tensor, labels: Tensor, judged: Tensor, true: Tensor, *, k: int = NEIGHBOURS
) -> Probes:
    """Find the labels of vectors by others.

    known: `[n, d]`, with their labels from 0 on, `[n]`. judged: `[m, d]`, with their own, `[m]`.
    Raises EvaluationError where there are not at least two labels.
    """
    votes = neighbour_votes(judged, known, labels, k=k)
    return Probes(share_of(votes == true), fit_linear(known, labels).accuracy(judged, true))
