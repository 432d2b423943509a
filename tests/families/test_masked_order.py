"""Masked order: what is written in one step lies far apart, and training leaves something to write."""

import pytest
import torch

from danqing.families.masked_order import given_in_training, left_unknown, spread


@pytest.mark.parametrize(("rows", "columns", "depth"), [(16, 16, 1), (8, 8, 3), (7, 5, 1), (1, 9, 2)])
def test_what_is_written_at_once_lies_evenly_over_the_grid(rows: int, columns: int, depth: int) -> None:
    moments = spread(rows, columns, depth).view(rows, columns, depth)
    count = moments.numel()
    ranks = moments.flatten().argsort().argsort().view(moments.shape)
    assert torch.equal(moments, ranks / count)  # in [0, 1), and no two at once
    for steps, most in ((8, 0.07), (12, 0.011), *((steps, 0) for steps in range(16, 33))):
        stops = count - torch.stack([*left_unknown(torch.tensor(count), steps)])
        step_of = torch.searchsorted(stops, ranks, right=True)
        beside = (step_of[1:] == step_of[:-1]).sum() + (step_of[:, 1:] == step_of[:, :-1]).sum()
        assert beside <= most * count  # hardly a code is drawn beside one that does not know of it
        ordered = step_of.sort(2).values
        assert not (ordered[..., 1:] == ordered[..., :-1]).any()
    if depth == 1:  # the second half is written with all its neighbours known
        black = (torch.arange(rows)[:, None] + torch.arange(columns)) % 2 == 0
        halves = sorted((int(ranks[colour].min()), int(ranks[colour].max())) for colour in (black, ~black))
        assert halves[0][1] < halves[1][0]


def test_what_is_given_in_training_leaves_something_to_write() -> None:
    rng = torch.Generator().manual_seed(0)
    given = given_in_training(5, 4, 2, 3000, 0.6, rng).view(3000, 5, 4, 2)
    assert torch.equal(given[..., 0], given[..., 1])
    assert not given.flatten(1).all(1).any()
    given = given[..., 0]
    some = given.flatten(1).any(1)
    assert 0.4 < some.float().mean() < 0.6
    # A rectangle is what its rows and columns have in common, and so is what is left where it is hidden.
    kinds = [each == each.any(2, keepdim=True) & each.any(1, keepdim=True) for each in (given, ~given)]
    assert all(0.25 < kind.flatten(1).all(1)[some].float().mean() < 0.6 for kind in kinds)
