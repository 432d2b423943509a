"""The classifier score is 1 for images that all look alike, and the number of classes at its best."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danqing.errors import EvaluationError
from danqing.evaluation.classifier_score import classifier_score
from danqing.evaluation.feature_rows import Mapped
from danqing.randomness import generator


def test_its_two_ends() -> None:
    sure_of_each = torch.eye(10).repeat(5, 1)
    assert classifier_score(sure_of_each).value == pytest.approx(10)
    assert classifier_score(sure_of_each[:1].repeat(50, 1)).value == pytest.approx(1)
    assert classifier_score(torch.full((50, 10), 0.1)).value == pytest.approx(1)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(20, 80), tile=st.sampled_from([3, 4096]))
def test_the_definition_whatever_the_order_and_tiles(seed: int, n: int, tile: int) -> None:
    logits = torch.randn(n, 7, generator=generator(seed, "logits")) * 3
    p = logits.double().softmax(1)
    expected = float((p * (p / p.mean(0)).log()).sum(1).mean().exp())
    order = torch.randperm(n, generator=generator(seed, "order"))
    lazily = Mapped(logits[order], lambda rows: rows.softmax(1), 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("danqing.evaluation.feature_rows.tile_rows", lambda dimensions: tile)
        assert classifier_score(lazily).value == pytest.approx(expected, rel=1e-6)
    parts = [float((q * (q / q.mean(0)).log()).sum(1).mean().exp()) for q in p.split(n // 2)[:2]]
    if n % 2 == 0:
        assert classifier_score(p, splits=2).value == pytest.approx(sum(parts) / 2, rel=1e-9)


def test_the_interval_covers_the_expectation() -> None:
    found = [
        classifier_score((torch.randn(200, 5, generator=generator(trial, "cover")) * 2).softmax(1))
        for trial in range(150)
    ]
    values = torch.tensor([estimate.value for estimate in found])
    intervals = torch.tensor([estimate.interval() for estimate in found])
    hits = (intervals[:, 0] <= values.mean()) & (values.mean() <= intervals[:, 1])
    assert 0.88 <= float(hits.double().mean()) <= 0.995


def test_too_few_images_are_refused() -> None:
    with pytest.raises(EvaluationError, match="at least 20 images"):
        classifier_score(torch.eye(10), splits=10)
