"""Diversity within classes is the mean squared distance of two images of one class."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danqing.errors import EvaluationError
from danqing.evaluation.diversity import relative_diversity
from danqing.randomness import generator


def gaussian(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=generator(seed, "rows")) + shift


def pairwise(rows: Tensor) -> float:
    """The mean squared distance of two different rows."""
    distances = (rows[:, None] - rows[None]).double().square().sum(2)
    return float(distances.sum()) / (len(rows) * (len(rows) - 1))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(8, 60), d=st.integers(1, 12))
def test_pair_by_pair(seed: int, n: int, d: int) -> None:
    random = np.random.default_rng(seed)
    ours, real = gaussian(n, d, seed, 50.0), gaussian(n + 5, d, seed + 1, 50.0) * 2
    our_labels, real_labels = random.integers(-1, 3, n), random.integers(-1, 3, n + 5)
    our_labels[:2] = real_labels[:2] = 0
    above = below = 0.0
    for label in range(3):
        mine, theirs = (
            ours[torch.from_numpy(our_labels == label)],
            real[torch.from_numpy(real_labels == label)],
        )
        if min(len(mine), len(theirs)) > 1:
            above += len(theirs) * pairwise(mine.double())
            below += len(theirs) * pairwise(theirs.double())
    found = relative_diversity(ours, our_labels, real, real_labels)
    assert found.value == pytest.approx(above / below, rel=1e-9)
    order = random.permutation(n)
    shuffled = relative_diversity(ours[torch.from_numpy(order)], our_labels[order], real, real_labels)
    assert shuffled.value == pytest.approx(above / below, rel=1e-9)


def test_a_class_mixed_otherwise_is_not_diversity() -> None:
    """Two classes far apart, one wide: drawing more of the wide one must not raise the ratio."""
    wide, narrow = gaussian(400, 5, 0) * 3, gaussian(400, 5, 1, 100.0)
    real = torch.cat([wide, narrow])
    labels = np.repeat([0, 1], 400)
    mostly_wide = torch.cat([wide, narrow[:40]])
    found = relative_diversity(mostly_wide, np.repeat([0, 1], [400, 40]), real, labels)
    assert found.value == pytest.approx(1, abs=0.05)
    assert relative_diversity(mostly_wide, None, real, labels).value < 0.8


def test_collapse_and_likeness() -> None:
    real = gaussian(300, 5, 2)
    labels = np.arange(300) % 3
    assert relative_diversity(real, labels, real, labels).value == pytest.approx(1)
    assert relative_diversity(real / 2, labels, real, labels).value == pytest.approx(0.25)
    collapsed = torch.eye(5)[labels % 3]
    assert relative_diversity(collapsed, labels, real, labels).value == pytest.approx(0, abs=1e-12)


def test_the_interval_covers_the_ratio() -> None:
    found = []
    for trial in range(150):
        labels = np.random.default_rng(trial).integers(0, 2, 200)
        spread = torch.from_numpy(labels)[:, None] + 1.0
        a, b = gaussian(200, 4, 2 * trial) * spread * 0.8, gaussian(200, 4, 2 * trial + 1) * spread
        found.append(relative_diversity(a, labels, b, labels).interval() or (0.0, 0.0))
    hits = sum(low <= 0.64 <= high for low, high in found)
    assert 0.88 <= hits / 150 <= 0.995


def test_what_cannot_be_measured_is_refused() -> None:
    rows = gaussian(4, 3, 3)
    with pytest.raises(EvaluationError, match="two images or more"):
        relative_diversity(rows, np.arange(4), rows, np.arange(4))
    with pytest.raises(EvaluationError, match="two images or more"):
        relative_diversity(rows, np.zeros(4, np.int64), rows, np.ones(4, np.int64))
    with pytest.raises(EvaluationError, match="all the same"):
        relative_diversity(rows, None, torch.ones(4, 3), None)
