"""Batches are a function of the position alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danqing.data import Augment, Batches, Dataset, open_dataset
from danqing.images import to_uint8

from .pictures import write


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("pictures")
    write(folder, [f"{'ab'[n % 2]}/{n:02d}.png" for n in range(10)], width=6)
    return open_dataset(folder, cache_dir=tmp_path_factory.mktemp("cache"))


@given(st.integers(1, 35), st.integers(0, 200), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_batches_of_any_size_read_one_endless_sequence(
    dataset: Dataset, batch_size: int, position: int, seed: int
) -> None:
    one_by_one = Batches(dataset, 1, seed)
    indices = Batches(dataset, batch_size, seed).indices(position)
    assert indices.tolist() == [one_by_one.indices(position + n)[0] for n in range(batch_size)]
    start = position - position % 10
    assert sorted(Batches(dataset, 10, seed).indices(start).tolist()) == list(range(10))


def test_a_batch_holds_the_pictures_and_labels_of_its_indices(dataset: Dataset) -> None:
    batches = Batches(dataset, 7, seed=3)
    batch = batches.at(14)
    indices = batches.indices(14)
    assert batch.images.shape == (7, 3, 8, 6)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(to_uint8(batch.images), dataset.images(indices))
    assert batch.condition.label is not None
    assert batch.condition.label.tolist() == dataset.labels_at(indices).tolist()
    assert batch.condition.label.dtype == torch.int64
    assert Batches(dataset, 7, seed=3, use_labels=False).at(0).condition.label is None


def test_prefetching_changes_nothing_whatever_is_asked_for(dataset: Dataset) -> None:
    augment = Augment(flip=True, crop=0.2)
    plain = Batches(dataset, 4, 0, augment=augment, prefetch=False)
    ahead = Batches(dataset, 4, 0, augment=augment, prefetch=True)
    for position in (0, 4, 8, 4, 4, 40, 44, 0):
        one, other = plain.at(position), ahead.at(position)
        assert torch.equal(one.images, other.images)
        assert one.condition.label is not None
        assert other.condition.label is not None
        assert torch.equal(one.condition.label, other.condition.label)


def test_augmented_batches_repeat_by_position_and_differ_between_epochs(dataset: Dataset) -> None:
    every = Augment(flip=True, rotation=20, scale=0.2, crop=0.1, colour=0.3)
    first = Batches(dataset, 10, 0, augment=every)
    again = Batches(dataset, 10, 0, augment=every)
    assert torch.equal(first.at(30).images, again.at(30).images)
    assert not torch.equal(first.at(0).images.sum(), first.at(10).images.sum())


def test_images_without_a_label_get_minus_one(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path, ["a/0.png", "b/1.png", "2.png"]))
    labels = Batches(dataset, 3, 0).at(0).condition.label
    assert labels is not None
    assert sorted(labels.tolist()) == [-1, 0, 1]
    assert np.isclose(sum(dataset.label_frequencies), 1)
