"""A bootstrap interval brackets what the value would be on other images."""

import torch

from danqing.evaluation.estimate import Estimate, mean_of
from danqing.randomness import generator


def test_the_interval_of_a_mean_is_the_usual_one() -> None:
    values = torch.randn(2000, generator=generator(0, "test"), dtype=torch.float64)
    low, high = mean_of(values).interval() or (0.0, 0.0)
    half = 1.96 * float(values.std()) / 2000**0.5
    assert abs((high - low) / 2 / half - 1) < 0.1
    assert abs((high + low) / 2 - float(values.mean())) < 0.1 * half


def test_two_samples_spread_the_interval_together() -> None:
    values = torch.randn(2000, generator=generator(1, "test"), dtype=torch.float64)
    (low, high), (low_one, high_one) = (
        Estimate(0.0, (values,) * count).interval() or (0.0, 0.0) for count in (2, 1)
    )
    assert abs((high - low) / (high_one - low_one) / 2**0.5 - 1) < 0.1


def test_the_interval_is_the_same_each_time_and_absent_without_samples() -> None:
    estimate = mean_of(torch.arange(10.0))
    assert estimate.interval(seed=3) == estimate.interval(seed=3)
    assert estimate.interval(seed=3) != estimate.interval(seed=4)
    assert Estimate(1.0).interval() is None


def test_a_share_keeps_within_0_and_1() -> None:
    rare = torch.zeros(100)
    rare[0] = 1
    low, high = mean_of(rare).interval() or (-1.0, -1.0)
    assert low >= -1e-12
    assert 0.02 <= high <= 0.04


def test_the_interval_of_a_mean_covers_it() -> None:
    """19 times out of 20, for skewed numbers."""
    hits = 0
    for trial in range(300):
        drawn = torch.empty(200, dtype=torch.float64).exponential_(generator=generator(trial, "cover"))
        low, high = mean_of(drawn).interval(seed=trial) or (0.0, 0.0)
        hits += low <= 1 <= high
    assert 0.90 <= hits / 300 <= 0.98
