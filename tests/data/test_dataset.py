"""Gathers, labels, captions and subsets agree with plain indexing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from danqing.data import Dataset, open_dataset
from danqing.errors import DataError

from .pictures import write


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return open_dataset(write(tmp_path, [f"{'abc'[n % 3]}/{n:02d}.png" for n in range(12)]))


def test_gathers_take_any_indices_in_any_order(dataset: Dataset) -> None:
    whole = dataset.images(range(12))
    assert (whole.dtype, tuple(whole.shape)) == (torch.uint8, (12, 8, 8, 3))
    for indices in ([3, 3, 0], np.array([11]), torch.tensor([5, 4]), []):
        assert torch.equal(dataset.images(indices), whole[torch.as_tensor(indices, dtype=torch.int64)])
    with pytest.raises(IndexError):
        dataset.images([12])
    with pytest.raises(IndexError):
        dataset.images([-1])


def test_a_gather_is_a_copy_that_outlives_the_pages_it_came_from(dataset: Dataset) -> None:
    first = dataset.images([0])
    before = first.clone()
    for _ in range(300):
        dataset.images(range(12))
    assert torch.equal(first, before)
    first.zero_()
    assert torch.equal(dataset.images([0]), before)


def test_a_subset_by_index_keeps_order_and_renames_labels(dataset: Dataset) -> None:
    assert dataset.labels is not None
    part = dataset.subset([9, 2, 4, 8])
    assert torch.equal(part.images([0, 3]), dataset.images([9, 8]))
    names = [dataset.label_names[dataset.labels[index]] for index in (9, 2, 4, 8)]
    assert part.labels is not None
    assert [part.label_names[label] for label in part.labels] == names
    assert sum(part.label_frequencies) == pytest.approx(1)
    assert part.fingerprint != dataset.fingerprint
    again = part.subset([3])
    assert torch.equal(again.images([0]), dataset.images([8]))
    assert again.label_names == ()
    assert again.labels is None


def test_a_mask_of_booleans_chooses_where_it_is_true(dataset: Dataset) -> None:
    mask = np.zeros(len(dataset), bool)
    mask[[2, 5]] = True
    assert torch.equal(dataset.subset(mask).images([0, 1]), dataset.images([2, 5]))
    assert torch.equal(dataset.images(torch.from_numpy(mask)), dataset.images([2, 5]))
    with pytest.raises(IndexError, match="one for each image"):
        dataset.images(mask[:3])


def test_a_subset_by_name(dataset: Dataset) -> None:
    part = dataset.subset(["c", "a"])
    assert part.label_names == ("a", "c")
    assert part.label_frequencies == pytest.approx((0.5, 0.5))
    assert len(part) == 8
    with pytest.raises(DataError, match="no label 'z': its labels are a, b, c"):
        dataset.subset(["z"])
    with pytest.raises(DataError, match="at least one"):
        dataset.subset([])
