"""Whether a model repeats its training images: distances to them, duplicates, membership."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.evaluation.contract import Rows
from danqing.evaluation.estimate import Estimate, share_of
from danqing.evaluation.neighbours import nearest
from danqing.evaluation.roc import roc_area

NEIGHBOURS = 10
"""How many training images an image's neighbourhood is made of."""


@dataclass(frozen=True)
class Neighbourhood:
    """The nearest training images of each image, closest first.

    distances, indices: `[n, k]`.
    """

    distances: Tensor
    indices: Tensor

    @staticmethod
    def of(points: Rows, training: Rows) -> "Neighbourhood":
        return Neighbourhood(*nearest(points, training, min(NEIGHBOURS, training.shape[0])))

    @property
    def closest(self) -> Tensor:
        """The distance to the nearest training image, `[n]`."""
        return self.distances[:, 0].double()

    @property
    def isolation(self) -> Tensor:
        """How much closer the nearest training image is than the next, `[n]`.

        It is the distance to the nearest over the mean distance to the others, in [0, 1].

        A copy has 0. An image that is close to all of them, as blurred ones are, has nearly 1: the plain
        distance would take it for a copy. (After Carlini et al. 2023, "Extracting training data from
        diffusion models", section 4.)
        """
        others = self.distances[:, 1:].double().mean(1) if self.distances.shape[1] > 1 else self.closest
        return torch.where(self.closest > 0, self.closest / others.clamp_min(1e-30), 0.0)


def closer(generated: Tensor, real: Tensor) -> Estimate:
    """Return how often generated images are closer to training images than real ones.

    The real ones were not learnt from. 0.5 means no closer; 1 means that all are copies.

    generated, real: distances to the nearest training image, `[n]` and `[m]`. The Mann-Whitney statistic of
    the two samples, ties by half: the data-copying test of Meehan, Chaudhuri and Dasgupta 2020, section 3.
    """
    return roc_area(-generated.double(), -real.double())


def repeats(keys: NDArray[np.uint64]) -> Estimate:
    """Return the share of images that are equal to an earlier one.

    keys: one number per image; equal images have equal ones.
    """
    first = np.zeros(len(keys), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return share_of(torch.from_numpy(~first))


def contained(keys: NDArray[np.uint64], known: NDArray[np.uint64]) -> Estimate:
    """Return the share of images that are equal to a known one."""
    return share_of(torch.from_numpy(np.isin(keys, known)))


def crowding(points: Rows) -> Tensor:
    """Return the distance of each image to the nearest other, `[n]`."""
    return nearest(points, points, 1, skip_self=True)[0][:, 0].double()
