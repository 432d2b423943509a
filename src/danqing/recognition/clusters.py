"""Groups of similar vectors: spherical k-means."""

from typing import NamedTuple

import torch
from torch import Tensor

from danqing.errors import SearchError
from danqing.randomness import generator

_ROUNDS = 50
_STARTING_ROWS = 20_000
"""The first centres are chosen among at most this many rows."""
_BLOCK = 8192


class Clusters(NamedTuple):
    """Groups of rows, the largest first.

    members: the cluster of each row, int64 `[n]`. centres: float32 `[k, d]`, of length 1. similarities: the
    cosine of each row's angle to its centre, float32 `[n]`.
    """

    members: Tensor
    centres: Tensor
    similarities: Tensor


def find_clusters(vectors: Tensor, k: int, *, seed: int = 0) -> Clusters:
    """Divide unit vectors `[n, d]` into `k` groups (Dhillon and Modha 2001, spherical k-means).

    The first centres are drawn as in k-means++ (Arthur and Vassilvitskii 2007). Raises SearchError unless
    there are at least `k` vectors.
    """
    if not 1 <= k <= len(vectors):
        raise SearchError(
            f"{len(vectors)} vectors cannot be divided into {k} groups: choose from 1 to {len(vectors)}."
        )
    rng = generator(seed, "clusters")
    centres = _first_centres(vectors, k, rng)
    members, similarities = _nearest(vectors, centres)
    for _ in range(_ROUNDS):
        sums = torch.zeros_like(centres).index_add_(0, members, vectors)
        empty = members.bincount(minlength=k) == 0
        if bool(empty.any()):  # the rows that suit their group least begin new groups
            sums[empty] = vectors[similarities.argsort(stable=True)[: int(empty.sum())]]
        centres = torch.nn.functional.normalize(sums, dim=1)
        before = members
        members, similarities = _nearest(vectors, centres)
        if torch.equal(members, before):
            break
    order = members.bincount(minlength=k).argsort(descending=True, stable=True)
    return Clusters(order.argsort()[members], centres[order], similarities)


def _first_centres(vectors: Tensor, k: int, rng: torch.Generator) -> Tensor:
    count = max(k, min(len(vectors), _STARTING_ROWS))
    rows = vectors[torch.randperm(len(vectors), generator=rng)[:count]]
    chosen = [0]
    distances = (1 - rows @ rows[0]).clamp_min(0)
    for _ in range(k - 1):
        if bool((distances > 0).any()):
            chosen.append(int(torch.multinomial(distances, 1, generator=rng)))
        else:  # all rows equal a centre
            chosen.append(len(chosen))
        distances = torch.minimum(distances, (1 - rows @ rows[chosen[-1]]).clamp_min(0))
    return rows[torch.tensor(chosen)]


def _nearest(vectors: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    found = [(part @ centres.T).max(1) for part in vectors.split(_BLOCK)]
    return torch.cat([part.indices for part in found]), torch.cat([part.values for part in found])
