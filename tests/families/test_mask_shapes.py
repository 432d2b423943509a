"""Masks to learn filling from: of stated kinds, of all sizes, and the same from the same generator."""

import time
import timeit

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danqing.families import mask_shapes
from danqing.families.mask_shapes import SHARES, draw_masks

COUNT = 2000


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=20, deadline=None)
@given(height=st.integers(4, 150), width=st.integers(4, 150), count=st.integers(0, 9))
def test_masks_are_zeros_and_ones_of_any_shape(height: int, width: int, count: int) -> None:
    masks = draw_masks(count, height, width, rng(7))
    assert masks.shape == (count, 1, height, width)
    assert masks.dtype == torch.float32
    assert ((masks == 0) | (masks == 1)).all()
    assert torch.equal(masks, draw_masks(count, height, width, rng(7)))


def test_everything_and_nothing_are_as_likely_as_stated() -> None:
    coverage = draw_masks(COUNT, 32, 32, rng()).mean((1, 2, 3))
    for share, is_kind in ((SHARES["everything"], coverage == 1), (SHARES["nothing"], coverage == 0)):
        error = (share * (1 - share) / COUNT) ** 0.5
        assert is_kind.float().mean().item() == pytest.approx(share, abs=5 * error)
    assert sum(SHARES.values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["boxes", "strokes", "halves", "scattered"])
def test_each_kind_covers_little_and_much(kind: str) -> None:
    coverage = mask_shapes._DRAWN[kind](500, 48, 64, rng()).float().mean((1, 2))
    low, middle, high = coverage.quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
    assert low < 0.25
    assert 0.15 < middle < 0.7
    assert high > 0.45


def test_large_masks_are_common_and_all_places_are_covered() -> None:
    masks = draw_masks(COUNT, 32, 24, rng())
    coverage = masks.mean((1, 2, 3))
    assert (coverage > 0.5).float().mean() > 0.3
    assert ((coverage > 0.05) & (coverage < 0.5)).float().mean() > 0.3
    assert 0.25 < masks.mean(0).min() <= masks.mean(0).max() < 0.75


def test_a_stroke_is_the_same_shape_at_a_fine_resolution() -> None:
    """Distances are interpolated above 64 pixels: a stroke must not move or change its width."""
    coarse = mask_shapes._DRAWN["strokes"](40, 64, 64, rng(3)).float()
    fine = mask_shapes._DRAWN["strokes"](40, 256, 256, rng(3)).float()
    assert (fine.mean((1, 2)) - coarse.mean((1, 2))).abs().max() < 0.02


def test_masks_cost_no_more_than_the_noise_of_as_many_feature_maps() -> None:
    """Both fill new memory, so that a busy machine slows both; a millisecond a mask is four times as much."""
    noise, masks = (
        min(timeit.repeat(work, timer=time.process_time, number=1, repeat=5))
        for work in (lambda: torch.rand(256, 16, 64, 64), lambda: draw_masks(256, 64, 64, rng()))
    )
    assert masks < 2 * noise
