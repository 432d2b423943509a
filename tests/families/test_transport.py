"""Optimal transport: exact assignments, known potentials in one dimension, even shares in many."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from danqing.families.base import Batch
from danqing.families.transport import (
    assign,
    assignment,
    closest,
    fit_potentials,
    noise_for,
    reduced,
    unevenness,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def even(count: int) -> Tensor:
    return torch.full((count,), 1 / count)


def clustered(count: int, dimensions: int = 12) -> Tensor:
    """Points of very different norms and neighbourhoods, some of which all noise would choose."""
    scale = torch.logspace(-0.5, 0.5, dimensions)
    return torch.randn(count, dimensions, generator=rng(1)) ** 3 * scale + 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 24), st.integers(0, 10_000), st.booleans())
def test_an_assignment_costs_no_more_than_that_of_scipy(n: int, seed: int, has_ties: bool) -> None:
    costs = np.random.default_rng(seed).normal(size=(n, n))
    costs = costs.round() if has_ties else costs
    found = assignment(costs)
    assert sorted(found.tolist()) == list(range(n))
    assert costs[np.arange(n), found].sum() == pytest.approx(costs[linear_sum_assignment(costs)].sum())


def test_a_minibatch_is_paired_with_the_noise_at_the_least_distance() -> None:
    images = torch.rand(16, 3, 8, 8, generator=rng()) * 2 - 1
    batch = Batch(images)
    plain, paired = noise_for("none", batch, rng(4)), noise_for("minibatch", batch, rng(4))

    def cost(noise: Tensor) -> float:
        return float((noise - images).square().sum())

    assert sorted(plain.sum((1, 2, 3)).tolist()) == sorted(paired.sum((1, 2, 3)).tolist())
    distances = torch.cdist(images.flatten(1).double(), plain.flatten(1).double()).square().numpy()
    least = distances[linear_sum_assignment(distances)].sum()
    assert cost(paired) == pytest.approx(least, rel=1e-5)
    assert cost(paired) < cost(plain)
    assert torch.equal(closest(images, paired), torch.arange(16))


def test_semidiscrete_noise_comes_with_the_batch() -> None:
    images, noise = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    assert noise_for("semidiscrete", Batch(images, noise=noise), rng()) is noise
    assert torch.equal(Batch(images, noise=noise)[:1].noise, noise[:1])
    with pytest.raises(ValueError, match="not chosen"):
        noise_for("semidiscrete", Batch(images), rng())


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (28, 30), (5, 67)])
def test_reduced_noise_is_standard_normal_and_blocks_keep_their_products(size: tuple[int, int]) -> None:
    noise = reduced(torch.randn(4000, 1, *size, generator=rng()), 16)
    assert noise.shape[1] <= 16 * 16
    assert float(noise.mean(0).abs().max()) < 5 / 4000**0.5
    assert float((noise.std(0) - 1).abs().max()) < 5 / 8000**0.5
    grey = torch.full((1, 3, *size), 0.7)
    assert float(reduced(grey, 16).square().sum()) == pytest.approx(float(grey.square().sum()), rel=1e-5)


def test_potentials_of_one_dimension_cut_the_normal_distribution_at_its_quantiles() -> None:
    points = torch.tensor([[-3.0], [-2.9], [-1.0], [0.5], [0.6], [4.0], [4.5], [9.0]])
    potentials = fit_potentials(points, even(8), rng(), draws=200_000)
    cuts = -(potentials[1:] - potentials[:-1]) / (points[1:] - points[:-1])[:, 0]
    quantiles = torch.special.ndtri(torch.arange(1, 8) / 8)
    torch.testing.assert_close(cuts, quantiles, atol=0.03, rtol=0)


def test_unequal_shares_are_met_as_well() -> None:
    points, shares = torch.tensor([[-1.0], [0.0], [1.0]]), torch.tensor([0.1, 0.7, 0.2])
    potentials = fit_potentials(points, shares, rng(), draws=100_000)
    cuts = -(potentials[1:] - potentials[:-1])
    torch.testing.assert_close(cuts, torch.special.ndtri(torch.tensor([0.1, 0.8])), atol=0.03, rtol=0)


def test_the_assignment_is_that_of_discrete_optimal_transport() -> None:
    points, noise = clustered(10, 4), torch.randn(600, 4, generator=rng(7))
    potentials = fit_potentials(points, even(10), rng())
    found = assign(noise, points, potentials)
    each = points.repeat_interleave(60, 0)  # 600 places, 60 of each point
    distances = torch.cdist(noise.double(), each.double()).square().numpy()
    exact = torch.from_numpy(linear_sum_assignment(distances)[1] // 60)
    assert float((found == exact).float().mean()) > 0.9  # 600 draws are not quite the normal distribution

    def value(chosen: Tensor) -> float:
        """Of the dual: what `assign` makes the largest, and optimal transport too, but for the shares."""
        return float(((noise * points[chosen]).sum(1) + potentials[chosen]).mean())

    independent = value(exact[torch.randperm(600, generator=rng())])
    assert 0 <= value(found) - value(exact) < 0.01 * (value(found) - independent)


def test_every_point_is_chosen_about_equally_often() -> None:
    points = clustered(300)
    unpaired = unevenness(points, even(300), torch.zeros(300), rng(2))
    potentials = fit_potentials(points, even(300), rng())
    assert unpaired > 10
    assert unevenness(points, even(300), potentials, rng(2)) < 0.1
    noise = torch.randn(60_000, 12, generator=rng(3))
    counts = torch.bincount(assign(noise, points, potentials), minlength=300).double()
    measured = float((counts * (counts - 1)).sum() * 300 / (60_000 * 59_999) - 1)
    assert unevenness(points, even(300), potentials, rng(5)) == pytest.approx(measured, abs=0.08)


def test_potentials_follow_from_the_generator() -> None:
    points = clustered(50)
    first, again = (fit_potentials(points, even(50), rng(3), draws=500) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, fit_potentials(points, even(50), rng(4), draws=500))


def test_noise_of_any_number_is_compared_with_all_points_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    points, noise = clustered(100), torch.randn(30, 12, generator=rng())
    potentials = -points.square().sum(1) / 2
    whole = assign(noise, points, potentials)
    assert torch.equal(whole, torch.cdist(noise, points).argmin(1))
    monkeypatch.setattr("danqing.families.transport._SCORES_AT_ONCE", 30 * 7)
    assert torch.equal(assign(noise, points, potentials), whole)


def test_one_point_takes_all_noise() -> None:
    point = torch.ones(1, 5)
    potentials = fit_potentials(point, even(1), rng())
    assert math.isfinite(float(potentials[0]))
    assert assign(torch.randn(3, 5), point, potentials).tolist() == [0, 0, 0]
