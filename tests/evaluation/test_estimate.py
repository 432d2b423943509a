"""A bootstrap interval brackets what the value would be on other images."""

import pytest
import torch
from scipy.stats import binom, binomtest

from danqing.evaluation.estimate import Estimate, mean_of, share_of
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


@pytest.mark.parametrize("hits", [0, 1, 37, 99, 100])
def test_a_share_has_wilsons_interval_which_has_a_width_at_0_and_1(hits: int) -> None:
    found = mean_of(torch.arange(100) < hits).interval()
    assert found == pytest.approx(tuple(binomtest(hits, 100).proportion_ci(method="wilson")), abs=1e-12)
    assert found[1] - found[0] > 0.03  # type: ignore[index]


def test_a_mean_of_shares_has_a_width_at_0_and_1_too() -> None:
    for value in (0.0, 1.0):
        shares = torch.full((100,), value, dtype=torch.float64)
        found = Estimate(value, (shares,), least=0.0, most=1.0).interval()
        assert found == mean_of(shares > 0.5).interval()
    spread = Estimate(0.5, (torch.linspace(0, 1, 100),), least=0.0, most=1.0).interval() or (0.0, 0.0)
    assert spread[1] - spread[0] < 0.13  # Wilson's would be 0.19


@pytest.mark.parametrize("share", [0.005, 0.05, 0.5, 0.99])
def test_the_interval_of_a_share_covers_it(share: float) -> None:
    """By the chance of each count of 300, exactly; resampling covers 0.005 in 8 tries out of 10."""
    covered = 0.0
    for hits in range(301):
        low, high = mean_of(torch.arange(300) < hits).interval() or (1.0, 0.0)
        covered += binom.pmf(hits, 300, share) * (low <= share <= high)
    assert 0.93 < covered < 0.99


def test_what_else_a_share_depends_on_widens_its_interval() -> None:
    hits, other = torch.arange(100) < 20, torch.randn(400, generator=generator(0, "t"), dtype=torch.float64)
    alone, both = share_of(hits).interval() or (0, 0), share_of(hits, other).interval() or (0, 0)
    assert both[1] - 0.2 == pytest.approx(((alone[1] - 0.2) ** 2 + (1.96 / 20) ** 2) ** 0.5, rel=0.1)
    assert share_of(hits, 100 * other).interval() == (0, 1)


def test_an_interval_ends_where_no_value_can_be_and_is_none_of_infinity() -> None:
    assert Estimate(0.1, (torch.arange(9.0),), least=0.0).interval()[0] == 0.0  # type: ignore[index]
    assert mean_of(torch.tensor([1.0, torch.inf])).interval() is None
    assert mean_of(torch.tensor([1.0, torch.nan])).interval() is None


def test_the_interval_of_a_mean_covers_it() -> None:
    """19 times out of 20, for skewed numbers."""
    hits = 0
    for trial in range(300):
        drawn = torch.empty(200, dtype=torch.float64).exponential_(generator=generator(trial, "cover"))
        low, high = mean_of(drawn).interval(seed=trial) or (0.0, 0.0)
        hits += low <= 1 <= high
    assert 0.90 <= hits / 300 <= 0.98
