"""Copies stand out, fresh images do not: the statistics have closed forms, and real digits agree."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score

from danqing.evaluation.memorisation import Neighbourhood, closer, contained, crowding, repeats
from danqing.evaluation.roc import expected_rate, rate_at, roc_area


def normal(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)).double() + shift


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.integers(1, 6))
def test_the_area_is_that_of_scikit_learn_with_ties(seed: int, n: int, m: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    positives, negatives = rng.integers(0, levels, n), rng.integers(0, levels, m)
    found = roc_area(torch.from_numpy(positives), torch.from_numpy(negatives))
    truth = np.concatenate([np.ones(n), np.zeros(m)])
    assert math.isclose(found.value, roc_auc_score(truth, np.concatenate([positives, negatives])))
    assert all(math.isclose(float(part.mean()), found.value) for part in found.influences)


def test_the_area_of_two_gaussians_is_known_and_its_interval_is_delongs() -> None:
    found = roc_area(normal(20_000, 1, 1.0), normal(20_000, 2))
    expected = 0.5 * (1 + math.erf(1 / 2))  # Φ(1/√2)
    assert abs(found.value - expected) < 0.006
    covered = 0
    for trial in range(60):
        low, high = roc_area(normal(200, 3 * trial, 1.0), normal(150, 3 * trial + 1)).interval() or (1, 0)
        covered += low < expected < high
    assert covered > 52


def test_closer_is_one_half_for_equal_samples_and_one_for_copies() -> None:
    real = normal(500, 0).abs()
    assert closer(real, real).value == 0.5
    assert closer(torch.zeros(100), real).value == 1.0
    assert closer(real + 100, real).value == 0.0
    distances = normal(300, 1, 2.0).abs()
    statistic = mannwhitneyu(-distances.numpy(), -real.numpy()).statistic / (300 * 500)
    assert math.isclose(closer(distances, real).value, statistic)


def test_the_rate_at_few_false_alarms() -> None:
    alike = rate_at(normal(50_000, 1), normal(50_000, 2))
    assert abs(alike.value - 0.01) < 0.003
    assert alike.interval()[0] < 0.01 < alike.interval()[1]  # type: ignore[index]
    shifted = rate_at(normal(50_000, 1, 1.0), normal(50_000, 2))
    assert abs(shifted.value - 0.0924) < 0.01  # 1 - Φ(2.326 - 1)
    assert rate_at(torch.full((10,), 5.0), normal(1000, 1)).value == 1.0
    assert rate_at(torch.zeros(10), torch.zeros(10)).value == 1.0  # all are alike, none is told


def test_the_interval_of_the_rate_covers_it() -> None:
    covered = 0
    for trial in range(60):
        low, high = rate_at(normal(2000, 3 * trial, 1.0), normal(2000, 3 * trial + 1)).interval() or (1, 0)
        covered += low < 0.0924 < high
    assert covered > 48


@pytest.mark.parametrize("few", [20, 50, 100, 150, 400])
def test_what_is_expected_of_few_negatives_is_said(few: int) -> None:
    """Of 20 the highest stands for the highest hundredth, and one in 21 lies above it."""
    rng = torch.Generator().manual_seed(0)
    drawn = torch.randn(2000, 50 + few, generator=rng, dtype=torch.float64)
    found = [rate_at(trial[:50], trial[50:]).value for trial in drawn]
    expected = expected_rate(few)
    assert expected == {20: 1 / 21, 50: 1 / 51}.get(few, expected)
    assert few < 99 or 0.005 <= expected <= 0.01
    assert abs(sum(found) / 2000 - expected) < 0.12 * expected + 0.0005
    misled = sum((rate_at(t[:50], t[50:]).interval() or (1, 0))[0] > expected for t in drawn[:100])
    assert misled <= 6


def test_isolation_is_zero_for_a_copy_and_near_one_for_what_is_close_to_all() -> None:
    training = torch.randn(400, 50, generator=torch.Generator().manual_seed(0))
    points = torch.cat([training[:1], training.mean(0, keepdim=True), training[5:6] + 0.01])
    found = Neighbourhood.of(points, training)
    assert found.indices[0, 0] == 0
    assert found.indices[2, 0] == 5
    copy, blur, near = found.isolation.tolist()
    assert (copy, near < 0.02, blur > 0.9) == (0.0, True, True)
    assert found.closest[1] < crowding(training).min()  # a blur is closer to the data than real images are
    assert Neighbourhood.of(points, training[:1]).isolation.tolist() == [0.0, 1.0, 1.0]


def test_equal_images_are_counted_after_their_first() -> None:
    keys = np.array([5, 3, 5, 5, 9], np.uint64)
    assert repeats(keys).value == 2 / 5
    assert repeats(keys[:2]).value == 0
    assert contained(keys, np.array([9, 5, 1], np.uint64)).value == 4 / 5
