"""Neighbours are exact, near-duplicates and ties included, and never need all distances at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danqing.errors import EvaluationError
from danqing.evaluation.neighbours import manifold_scores, nearest
from danqing.randomness import generator


def gaussian(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=generator(seed, "rows")) + shift


def all_distances(points: Tensor, support: Tensor) -> Tensor:
    return (points.double()[:, None] - support.double()[None]).square().sum(2).sqrt()


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 40),
    m=st.integers(6, 300),
    d=st.integers(1, 20),
    k=st.integers(1, 5),
    tile=st.sampled_from([5, 64, 4096]),
    skip_self=st.booleans(),
)
def test_the_same_as_by_all_distances(
    seed: int, n: int, m: int, d: int, k: int, tile: int, skip_self: bool
) -> None:
    support = gaussian(m, d, seed, 30.0)
    points = support[:n] if skip_self else gaussian(n, d, seed + 1, 30.0)
    expected = all_distances(points, support)
    if skip_self:
        expected.fill_diagonal_(torch.inf)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("danqing.evaluation.feature_rows.tile_rows", lambda dimensions: tile)
        distances, numbers = nearest(points, support, k, skip_self=skip_self)
    assert distances.dtype == torch.float32
    assert numbers.dtype == torch.int64
    torch.testing.assert_close(distances.double(), expected.sort(1).values[:, :k], rtol=1e-6, atol=0)
    torch.testing.assert_close(distances.double(), expected.gather(1, numbers), rtol=1e-6, atol=0)


def test_near_duplicates_far_from_0_are_told_apart() -> None:
    """Distances of 1e-3 at a norm of 1e4 are lost in |a|² + |b|² - 2 a·b; equal rows must be at 0."""
    support = gaussian(500, 64, 0).double() * 1e-3 + gaussian(1, 64, 1).double() * 1e3
    support = support.float()
    points = support[:50].clone()
    points[25:, 0] += 0.01
    distances, numbers = nearest(points, support, 3)
    expected = all_distances(points, support).sort(1)
    torch.testing.assert_close(distances.double(), expected.values[:, :3], rtol=1e-6, atol=0)
    assert (distances[:25, 0] == 0).all()
    assert (numbers[:25, 0] == torch.arange(25)).all()
    assert (distances[25:, 0] > 0).all()


def test_one_image_far_from_all_changes_nothing_for_the_others() -> None:
    support = gaussian(300, 16, 20)
    support[17] *= 1e5
    distances, _ = nearest(support, support, 4, skip_self=True)
    expected = all_distances(support, support).fill_diagonal_(torch.inf).sort(1).values[:, :4]
    torch.testing.assert_close(distances.double(), expected, rtol=1e-6, atol=0)
    generated = gaussian(200, 16, 21)
    plain, odd = (manifold_scores(generated, rows) for rows in (gaussian(300, 16, 20), support))
    assert abs(plain["density"].value - odd["density"].value) < 0.1


def test_many_duplicates_are_all_at_0() -> None:
    support = torch.cat([gaussian(1, 8, 2, 5.0).expand(200, -1), gaussian(100, 8, 3, 5.0)])
    distances, numbers = nearest(support[:3], support, 20, skip_self=True)
    assert (distances == 0).all()
    assert (numbers < 200).all()
    assert all(len(row.unique()) == 20 for row in numbers)
    assert all(number not in row for number, row in enumerate(numbers))


def test_pixels_are_compared_as_they_are() -> None:
    pixels = torch.randint(0, 256, (300, 48), dtype=torch.uint8, generator=generator(4, "pixels"))
    pixels[7] = pixels[200]
    distances, numbers = nearest(pixels[:20], pixels, 2, skip_self=True)
    expected = all_distances(pixels[:20], pixels)
    expected[torch.arange(20), torch.arange(20)] = torch.inf
    torch.testing.assert_close(distances.double(), expected.sort(1).values[:, :2], rtol=1e-6, atol=0)
    assert distances[7, 0] == 0
    assert numbers[7, 0] == 200


def test_identical_sets_have_all() -> None:
    rows = gaussian(100, 6, 5)
    found = manifold_scores(rows, rows)
    assert found["precision"].value == found["recall"].value == found["coverage"].value == 1
    # each ball holds its centre besides the k neighbours that made it
    assert found["density"].value == pytest.approx(6 / 5)


def test_disjoint_sets_have_none() -> None:
    found = manifold_scores(gaussian(60, 6, 6), gaussian(80, 6, 7, 100.0))
    assert {name: estimate.value for name, estimate in found.items()} == dict.fromkeys(
        ("precision", "recall", "density", "coverage"), 0.0
    )


def test_one_repeated_image_is_precise_and_covers_little() -> None:
    real = gaussian(200, 6, 8)
    found = manifold_scores(real[:1].repeat(50, 1), real)
    assert found["precision"].value == 1
    assert found["recall"].value == 1 / 200
    assert found["coverage"].value < 0.2
    assert found["density"].value > 1


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), tile=st.sampled_from([7, 100, 4096]))
def test_order_and_tiles_change_nothing(seed: int, tile: int) -> None:
    generated, real = gaussian(120, 4, seed, 0.3), gaussian(150, 4, seed + 1)
    expected = {name: estimate.value for name, estimate in manifold_scores(generated, real).items()}
    order = torch.randperm(120, generator=generator(seed, "order"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("danqing.evaluation.feature_rows.tile_rows", lambda dimensions: tile)
        found = manifold_scores(generated[order], real)
    assert {name: estimate.value for name, estimate in found.items()} == pytest.approx(expected, rel=1e-12)


def test_too_few_are_refused() -> None:
    rows = gaussian(5, 3, 9)
    with pytest.raises(EvaluationError, match="at least 6 images"):
        manifold_scores(rows, rows)
    with pytest.raises(EvaluationError, match="at least 6 images"):
        nearest(rows, rows, 5, skip_self=True)
    assert nearest(rows, rows, 5)[0].shape == (5, 5)
