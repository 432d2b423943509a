"""The order of an epoch: a permutation, a fair one, and another for each epoch and seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danqing.data.order import shuffled


@given(st.integers(1, 3000), st.integers(0, 2**40), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_every_image_is_seen_once_in_an_epoch(count: int, seed: int, epoch: int) -> None:
    order = shuffled(np.arange(count), count, seed, epoch)
    assert np.array_equal(np.sort(order), np.arange(count))
    some = np.arange(0, count, 7)
    assert np.array_equal(shuffled(some, count, seed, epoch), order[some])


@pytest.mark.parametrize("count", [3, 7, 12, 40])
def test_every_place_is_equally_likely(count: int) -> None:
    epochs = 3000
    seen = np.zeros((count, count))
    for epoch in range(epochs):
        seen[np.arange(count), shuffled(np.arange(count), count, 0, epoch)] += 1
    expected = epochs / count
    chi_square = ((seen - expected) ** 2 / expected).sum()
    freedom = (count - 1) ** 2
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)


def test_neighbours_are_torn_apart_and_epochs_differ() -> None:
    count = 10_007
    orders = [shuffled(np.arange(count), count, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        steps = np.abs(np.diff(order))
        assert abs(steps.mean() - count / 3) < count / 50  # the mean distance of two random places
        assert abs(np.corrcoef(np.arange(count), order)[0, 1]) < 0.05
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (orders[one] == orders[other]).sum() < 10


def test_golden_order() -> None:
    """A run that goes on with a later version must see the images that it would have seen."""
    assert shuffled(np.arange(10), 10, 0, 0).tolist() == GOLDEN
    with pytest.raises(ValueError, match=r"\[0, 10\)"):
        shuffled(np.array([10]), 10, 0, 0)


GOLDEN = [8, 6, 0, 1, 2, 7, 3, 4, 5, 9]
