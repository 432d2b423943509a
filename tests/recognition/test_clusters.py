"""Groups of vectors: planted ones are found, and the same seed finds the same."""

import pytest
import torch
from torch.nn import functional as F

from danqing.errors import SearchError
from danqing.randomness import generator
from danqing.recognition.clusters import find_clusters


def test_planted_groups_are_found() -> None:
    rng = generator(0, "planted")
    sizes = [120, 60, 30, 10]
    centres = F.normalize(torch.randn(4, 32, generator=rng), dim=1)
    truth = torch.arange(4).repeat_interleave(torch.tensor(sizes))
    rows = F.normalize(centres[truth] + 0.05 * torch.randn(220, 32, generator=rng), dim=1)
    order = torch.randperm(220, generator=rng)
    found = find_clusters(rows[order], 4)
    assert torch.equal(found.members, truth[order])
    assert torch.equal(found.members, find_clusters(rows[order], 4).members)
    own = (rows[order] * found.centres[found.members]).sum(1)
    torch.testing.assert_close(found.similarities, own)


def test_equal_rows_and_too_many_groups_are_no_trap() -> None:
    rows = F.normalize(torch.ones(6, 3), dim=1)
    assert find_clusters(rows, 3).members.unique().numel() <= 3
    with pytest.raises(SearchError, match="cannot be divided into 7"):
        find_clusters(rows, 7)
