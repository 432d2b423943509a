"""The order of streamed images: a permutation of each epoch, in windows, at any batch size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danqing.data.order import Permutations, shuffled
from danqing.data.shards.order import WindowOrder

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any)


def index_of(counts: list[int], shards: np.ndarray, places: np.ndarray) -> np.ndarray:
    starts = np.cumsum(counts) - counts
    found: np.ndarray = starts[shards] + places
    return found


@given(COUNTS, st.integers(1, 8), st.integers(0, 2**40), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_an_epoch_is_a_permutation_that_reads_one_window_of_shards_after_the_other(
    counts: list[int], window: int, seed: int, epoch: int
) -> None:
    order = WindowOrder(np.array(counts), 1, seed, window)
    total = sum(counts)
    shards, places = order.located(np.arange(total), epoch)
    assert (places >= 0).all()
    assert (places < np.array(counts)[shards]).all()
    assert np.array_equal(np.sort(index_of(counts, shards, places)), np.arange(total))
    first = {shard: np.flatnonzero(shards == shard)[[0, -1]] for shard in set(shards.tolist())}
    at_once = max(sum(a <= position <= b for a, b in first.values()) for position in range(total))
    assert at_once <= window
    some = np.arange(0, total, 3)
    again = order.located(some, epoch)
    assert np.array_equal(again[0], shards[some])
    assert np.array_equal(again[1], places[some])


@given(COUNTS, st.integers(1, 5), st.integers(0, 2**40), st.integers(1, 40), st.integers(0, 300))
@settings(max_examples=20, deadline=None)
def test_the_order_is_the_same_at_any_batch_size_and_from_any_position(
    counts: list[int], window: int, seed: int, batch: int, start: int
) -> None:
    """So a run resumes anywhere, and each of several processes can read its own part of a batch."""
    one, many = (WindowOrder(np.array(counts), size, seed, window) for size in (1, batch))
    drawn = many.at(start)
    single = [one.at(start + number) for number in range(batch)]
    assert drawn.indices.tolist() == [int(each.indices[0]) for each in single]
    assert drawn.epochs.tolist() == [int(each.epochs[0]) for each in single]
    now, following = many.shards_at(start)
    needed = np.searchsorted(np.cumsum(counts), drawn.indices, side="right")
    assert set(needed.tolist()) <= {*now, *following}
    assert int(needed[0]) in now
    assert not set(now) & set(following)


def test_permutations_of_many_ranges_are_those_of_each() -> None:
    counts, seeds = np.array([7, 1, 100, 12]), [3, 1, 4, 1]
    found = Permutations(counts, seeds, 2)
    ranges = np.repeat(np.arange(4), counts)
    positions = np.concatenate([np.arange(count) for count in counts])
    expected = np.concatenate(
        [shuffled(np.arange(count), int(count), seed, 2) for count, seed in zip(counts, seeds, strict=True)]
    )
    assert np.array_equal(found.at(positions, ranges), expected)


@pytest.mark.parametrize("images", [10**7, 10**9])
def test_which_image_stands_where_is_uniform_in_an_index_of_a_billion(images: int) -> None:
    """Chi-square on 10,000 bins: the place in a window against that of the image in its shards."""
    each, window = images // 1000, 16
    order = WindowOrder(np.full(1000, each), 1, 0, window)
    size, samples = each * window, 2 * 10**5
    number = np.random.default_rng(0).integers(0, 60, samples)
    place = np.random.default_rng(1).integers(0, size, samples)
    shards, places = order.located(number * size + place, epoch=0)
    ranks = np.empty(1000, np.int64)
    ranks[order._epoch(0).shards] = np.arange(1000)
    inside = (ranks[shards] % window) * each + places
    assert np.array_equal(ranks[shards] // window, number)
    bins = np.bincount(place * 100 // size * 100 + inside * 100 // size, minlength=10**4)
    expected = samples / 10**4
    chi_square = float(((bins - expected) ** 2 / expected).sum())
    assert abs(chi_square - 9999) < 5 * np.sqrt(2 * 9999)


def test_golden_order() -> None:
    """A run that is resumed by a later version must see the images that it would have seen."""
    order = WindowOrder(np.array([3, 2, 4]), 9, 0, 2)
    assert [order.at(0).indices.tolist(), order.at(9).indices.tolist()] == GOLDEN


GOLDEN = [[7, 0, 6, 1, 2, 8, 5, 3, 4], [6, 3, 8, 4, 5, 7, 2, 1, 0]]
