"""Fréchet distances of Gaussians are known; what rounding, order and few images do to them is bounded."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danqing.errors import EvaluationError
from danqing.evaluation.feature_rows import Selected
from danqing.evaluation.frechet import (
    Moments,
    extrapolated_frechet_distance,
    frechet_distance,
    frechet_distance_of_moments,
    frechet_distance_per_class,
)
from danqing.randomness import generator


class Doubled:
    """Rows in float64, so that a closed form can hold to 1e-9."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.shape = tuple(values.shape)
        self.read = 0

    def __getitem__(self, rows: slice) -> Tensor:
        part = self.values[rows]
        self.read = max(self.read, len(part))
        return part


def gaussian(n: int, d: int, seed: int, spread: float = 1.0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=generator(seed, "rows")) * spread + shift


def exact(n: int, mean: Tensor, covariance: Tensor, seed: int) -> Doubled:
    """Rows whose mean and covariance are these exactly: whitened, then coloured."""
    rows = gaussian(n, len(mean), seed).double()
    rows -= rows.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(rows.T)), rows.T, upper=False)
    return Doubled((torch.linalg.cholesky(covariance) @ white).T + mean)


def covariance(d: int, seed: int) -> Tensor:
    root = gaussian(d, d, seed).double()
    return root @ root.T / d + 0.1 * torch.eye(d, dtype=torch.float64)


def test_gaussians_of_known_distance() -> None:
    """Covariances that commute: the distance is that of the means and of the standard deviations."""
    d = 12
    rotation = torch.linalg.qr(gaussian(d, d, 0).double())[0]
    spread_a, spread_b = (torch.linspace(low, 2, d, dtype=torch.float64) for low in (0.2, 1))
    mean_a, mean_b = torch.ones(d, dtype=torch.float64), torch.linspace(-1, 1, d, dtype=torch.float64)
    a = exact(200, mean_a, rotation * spread_a**2 @ rotation.T, 1)
    b = exact(300, mean_b, rotation * spread_b**2 @ rotation.T, 2)
    expected = float((mean_a - mean_b).square().sum() + (spread_a - spread_b).square().sum())
    assert frechet_distance(a, b).value == pytest.approx(expected, rel=1e-9)
    assert frechet_distance_of_moments(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-9)


def test_gaussians_whose_covariances_do_not_commute() -> None:
    """In two dimensions tr (Σ₁ Σ₂)^½ is the root of tr Σ₁Σ₂ + 2 √det Σ₁Σ₂."""
    zero = torch.zeros(2, dtype=torch.float64)
    first = torch.tensor([[2.0, 0.9], [0.9, 0.5]], dtype=torch.float64)
    second = torch.tensor([[1.0, -0.7], [-0.7, 3.0]], dtype=torch.float64)
    product = first @ second
    overlap = (product.trace() + 2 * product.det().sqrt()).sqrt()
    expected = float(first.trace() + second.trace() - 2 * overlap)
    found = frechet_distance(exact(50, zero, first, 3), exact(60, zero, second, 4)).value
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(500, 8), (40, 64), (2, 5)])
def test_identical_sets_are_at_0(n: int, d: int) -> None:
    rows = gaussian(n, d, 5)
    estimate = frechet_distance(rows, rows)
    assert 0 <= estimate.value < 1e-9
    low, high = estimate.interval() or (-1.0, 1.0)
    assert max(abs(low), abs(high)) < 1e-4


def test_fewer_images_than_dimensions_agree_with_the_sum_of_singular_values() -> None:
    """tr (XᵀX YᵀY)^½ is the sum of the singular values of X Yᵀ: an independent way for few rows."""
    a, b = gaussian(30, 100, 6, 2.0).double(), gaussian(50, 100, 7, 1.0, 0.3).double()
    x, y = ((rows - rows.mean(0)) / (len(rows) - 1) ** 0.5 for rows in (a, b))
    overlap = torch.linalg.svdvals(x @ y.T).sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + x.square().sum() + y.square().sum() - 2 * overlap
    assert frechet_distance(Doubled(a), Doubled(b)).value == pytest.approx(float(expected), rel=1e-10)


def test_sets_without_variance() -> None:
    same = torch.ones(5, 3)
    assert frechet_distance(same, same + 1).value == pytest.approx(3)
    other = gaussian(9, 3, 8)
    expected = float((other.mean(0) - 1).square().sum() + other.var(0).sum())
    assert frechet_distance(same, other).value == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(other, same).value == pytest.approx(expected, rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(20, 60), d=st.integers(1, 30), scale=st.floats(0.01, 100))
def test_symmetric_and_in_proportion_to_the_square_of_the_scale(
    seed: int, n: int, d: int, scale: float
) -> None:
    a, b = gaussian(n, d, seed).double(), gaussian(n + 3, d, seed + 1, 1.5, 0.5).double()
    value = frechet_distance(Doubled(a), Doubled(b)).value
    assert frechet_distance(Doubled(b), Doubled(a)).value == pytest.approx(value, rel=1e-8)
    scaled = frechet_distance(Doubled(a * scale), Doubled(b * scale)).value
    assert scaled == pytest.approx(value * scale**2, rel=1e-8)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), tile=st.sampled_from([1, 7, 64, 5000]))
def test_order_and_chunks_change_nothing(seed: int, tile: int) -> None:
    a, b = gaussian(200, 20, seed, 1.0, 100.0), gaussian(150, 20, seed + 1, 1.1, 100.1)
    value = frechet_distance(a, b).value
    order = torch.randperm(200, generator=generator(seed, "order"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("danqing.evaluation.feature_rows.tile_rows", lambda dimensions: tile)
        assert frechet_distance(a[order], b).value == pytest.approx(value, rel=1e-6)


def test_moments_are_streamed_and_exact_far_from_0() -> None:
    rows = Doubled(gaussian(10_000, 6, 9).double() + 1e6)
    moments = Moments.of(rows)
    assert rows.read <= 4096
    near = torch.cov((rows.values - 1e6).T)
    torch.testing.assert_close(moments.covariance, near, rtol=1e-8, atol=1e-9)


def test_the_interval_covers_the_expectation() -> None:
    """Against the mean over many draws; in the last, there are fewer images than dimensions."""
    for d, n, m in ((4, 200, 150), (40, 30, 60)):
        mix = gaussian(d, d, 10) / d**0.5
        found = [
            frechet_distance(gaussian(n, d, 2 * t, 1.0, 0.4) @ mix, gaussian(m, d, 2 * t + 1))
            for t in range(150)
        ]
        values = torch.tensor([estimate.value for estimate in found])
        intervals = torch.tensor([estimate.interval() for estimate in found])
        hits = (intervals[:, 0] <= values.mean()) & (values.mean() <= intervals[:, 1])
        assert 0.88 <= float(hits.double().mean()) <= 0.995
        assert 0.85 < float((intervals[:, 1] - intervals[:, 0]).mean() / 3.92 / values.std()) < 1.2


def test_influences_are_the_derivative_by_the_weights() -> None:
    """Doubling one row moves the distance by its influence over n, to first order."""
    a, b = gaussian(4000, 5, 11, 1.3, 0.2), gaussian(3000, 5, 12)
    estimate = frechet_distance(a, b)
    for side, rows in enumerate((a, b)):
        influence = estimate.influences[side] - estimate.influences[side].mean()
        row = int(influence.argmax())
        doubled = torch.cat([rows, rows[row : row + 1]])
        moved = frechet_distance(doubled, b) if side == 0 else frechet_distance(a, doubled)
        expected = float(influence[row]) / len(doubled)
        assert moved.value - estimate.value == pytest.approx(expected, rel=0.1, abs=2e-6)


def test_extrapolation_takes_the_bias_away() -> None:
    """Of samples of the reference itself: the distance is 0, and 400 images measure far more."""
    d = 16
    reference = exact(2000, torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64), 13)
    plain, without = [], []
    for trial in range(12):
        rows = gaussian(400, d, 100 + trial)
        plain.append(frechet_distance(rows, reference).value)
        without.append(extrapolated_frechet_distance(rows, reference, seed=trial).value)
    assert np.mean(plain) > 0.1
    assert abs(np.mean(without)) < 0.15 * np.mean(plain)


def test_extrapolation_follows_from_its_seed() -> None:
    a, b = gaussian(100, 4, 14), gaussian(100, 4, 15)
    first, again, other = (extrapolated_frechet_distance(a, b, seed=seed) for seed in (0, 0, 1))
    assert first.value == again.value != other.value
    low, high = first.interval() or (math.nan, math.nan)
    assert low < first.value < high


def test_per_class_is_the_distance_of_each_class() -> None:
    a, b = gaussian(60, 4, 16), gaussian(90, 4, 17)
    of_a = np.arange(60) % 3
    of_b = np.repeat(np.arange(3), 30)
    of_a[of_a == 2] = -1
    found = frechet_distance_per_class(a, of_a, b, of_b)
    assert set(found) == {0, 1}
    expected = frechet_distance(a[torch.from_numpy(of_a == 1)], b[torch.from_numpy(of_b == 1)])
    assert found[1].value == pytest.approx(expected.value, rel=1e-12)
    assert found[1].influences[0].shape == (20,)


def test_selected_rows_are_those_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danqing.evaluation.feature_rows.tile_rows", lambda dimensions: 8)
    rows = gaussian(100, 3, 18)
    chosen = np.array([99, 3, 4, 50, 17, 16])
    selected = Selected(rows, chosen)
    torch.testing.assert_close(selected[0:6], rows[[3, 4, 16, 17, 50, 99]])
    torch.testing.assert_close(selected[2:4], rows[[16, 17]])
    assert selected[3:3].shape == (0, 3)


def test_what_is_no_number_is_not_taken_for_0() -> None:
    usual = Moments(9, torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    for value in (torch.nan, torch.inf):
        broken = Moments(9, torch.full((3,), value, dtype=torch.float64), usual.covariance)
        with pytest.raises(EvaluationError, match="not finite"):
            frechet_distance_of_moments(broken, usual)


def test_no_interval_goes_below_0() -> None:
    rows = gaussian(60, 2, 20)
    low, high = frechet_distance(rows, rows + 1e-4).interval() or (-1.0, -1.0)
    assert low == 0 < high


def test_what_cannot_be_compared_is_refused() -> None:
    rows = gaussian(10, 4, 19)
    with pytest.raises(EvaluationError, match="dimensions"):
        frechet_distance(rows, rows[:, :3])
    with pytest.raises(EvaluationError, match="at least 2 images"):
        frechet_distance(rows[:1], rows)
    with pytest.raises(EvaluationError, match="at least 8 images"):
        extrapolated_frechet_distance(rows[:7], rows, seed=0)
    with pytest.raises(EvaluationError, match="not finite"):
        frechet_distance(rows, torch.full((3, 4), torch.nan))
