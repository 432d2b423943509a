"""Rates, thresholds and areas of verification, against scikit-learn and by hand."""

import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from danqing.errors import EvaluationError
from danqing.evaluation.verification import Roc, draw_pairs


@pytest.fixture
def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    same = torch.rand(500, generator=rng) < 0.3
    similarities = torch.randn(500, generator=rng) + 1.5 * same
    return (similarities * 10).round() / 10, same  # with ties


def test_the_curve_and_its_area_are_those_of_scikit_learn(pairs: tuple[torch.Tensor, torch.Tensor]) -> None:
    similarities, same = pairs
    roc = Roc.of(similarities, same)
    false, found, _ = roc_curve(same.numpy(), similarities.double().numpy(), drop_intermediate=False)
    for ours, theirs in zip(roc.curve(), (false, found), strict=True):
        assert ours.tolist() == pytest.approx(theirs.tolist())
    area = roc.area()
    assert area.value == pytest.approx(roc_auc_score(same.numpy(), similarities.numpy()))
    low, high = area.interval() or (0.0, 1.0)
    assert low < area.value < high < low + 0.1
    rate = roc.equal_error_rate()
    nearest = min(zip(false, found, strict=True), key=lambda rates: abs(rates[0] + rates[1] - 1))
    assert rate == pytest.approx((nearest[0] + 1 - nearest[1]) / 2, abs=0.02)


def test_a_threshold_is_the_lowest_that_keeps_the_rate(pairs: tuple[torch.Tensor, torch.Tensor]) -> None:
    roc = Roc.of(*pairs)
    for rate in (0.01, 0.1, 0.5):
        threshold = roc.threshold(rate)
        assert roc.false_matches(threshold).value <= rate
        lower = roc.different[roc.different < threshold].max()
        assert roc.false_matches(float(lower)).value > rate
    with pytest.raises(EvaluationError, match="give at least 10,000"):
        roc.threshold(1e-4)
    with pytest.raises(EvaluationError, match="give both"):
        Roc.of(torch.rand(4), torch.ones(4))


def test_pairs_are_drawn_evenly_and_never_of_one_image() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2, -1, 2, 2, 2])
    first, second, same = draw_pairs(labels, 4000, seed=0)
    assert bool((first != second).all())
    assert torch.equal(labels[first] == labels[second], same)
    assert int(same.sum()) == 4000
    assert set(first.tolist()) | set(second.tolist()) == set(range(10)) - {6}
    unordered = torch.stack([first, second]).sort(0).values[:, same]
    counts = torch.unique(unordered, dim=1, return_counts=True)[1]
    assert len(counts) == 3 + 1 + 6  # all pairs with the same label
    assert counts.float().std() / counts.float().mean() < 0.2
    with pytest.raises(EvaluationError, match="at least two labels"):
        draw_pairs(torch.tensor([0, 1, 2]), 5, seed=0)
