"""Windows contain what they fill, in the aspect ratio of a model; every masked pixel is filled once."""

import numpy as np
import pytest

from danqing.editing.windows import Step, Window, grid, largest_window, plan, starts
from danqing.families.mask_shapes import draw_masks


def steps_of(where: np.ndarray, shape: tuple[int, int], **options: int) -> list[Step]:
    return list(plan(where, shape, **options))


@pytest.mark.parametrize("seed", range(20))
def test_each_masked_pixel_is_filled_by_one_step_and_known_afterwards(seed: int) -> None:
    import torch

    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(5, 90, 2))
    shape = (int(rng.integers(4, 17)), int(rng.integers(4, 17)))
    where = draw_masks(1, height, width, torch.Generator().manual_seed(seed))[0, 0].numpy() > 0
    options = {"tile": int(rng.integers(4, 30))} if seed % 2 else {}
    times, left = np.zeros(where.shape, int), where.copy()
    for step in steps_of(where, shape, **options):
        assert step.hidden.shape == (step.window.height, step.window.width)
        assert np.array_equal(step.hidden, left[step.window.slices])
        assert not (step.filled & ~step.hidden).any()
        times[step.window.slices] += step.filled
        left[step.window.slices] &= ~step.filled
    assert np.array_equal(times, where.astype(int))


def test_a_small_mask_has_a_window_of_the_model_size_around_it() -> None:
    where = np.zeros((100, 200), bool)
    where[50:53, 120:124] = True
    (step,) = steps_of(where, (32, 16))
    assert step.window == Window(106, 43, 32, 16)  # the mask is in its middle
    where[:] = False
    where[0, 0] = True
    assert steps_of(where, (32, 16))[0].window == Window(0, 0, 32, 16)


def test_a_larger_mask_has_a_margin_of_half_its_size_on_each_side() -> None:
    where = np.zeros((300, 300), bool)
    where[100:140, 110:150] = True
    (step,) = steps_of(where, (16, 16))
    assert step.window == Window(90, 80, 80, 80)


def test_distant_parts_are_filled_on_their_own_and_the_smallest_first() -> None:
    where = np.zeros((60, 64), bool)
    where[30:50, 30:50] = True
    where[10:12, 10:12] = where[10:12, 16:18] = True
    small, large = steps_of(where, (16, 16))
    assert small.window == Window(3, 3, 16, 16)
    assert small.filled.sum() == 8, "a part within the window is filled with it"
    assert large.window == Window(20, 20, 40, 40)
    assert large.filled.sum() == 400


def test_a_mask_that_no_window_contains_gets_overlapping_windows_in_order() -> None:
    where = np.zeros((40, 160), bool)
    where[5:35, :] = True
    steps = steps_of(where, (8, 8))
    assert [step.window.left for step in steps] == [0, 30, 60, 90, 120]
    assert {step.window[2:] for step in steps} == {(40, 40)}
    assert steps[1].hidden[:, :10].sum() == 0, "the overlap is known already"
    tiled = steps_of(where, (8, 8), tile=8, overlap=2)
    assert {step.window[2:] for step in tiled} == {(8, 8)}
    assert [step.window.left for step in tiled[:3]] == [0, 6, 12]


def test_no_mask_needs_no_window() -> None:
    assert steps_of(np.zeros((9, 9), bool), (4, 4)) == []


@pytest.mark.parametrize(
    ("size", "shape", "largest"),
    [
        ((100, 50), (8, 8), (50, 50)),
        ((100, 99), (8, 8), (100, 99)),  # nearly the same aspect ratio
        ((50, 100), (32, 16), (50, 25)),
        ((1, 7), (8, 8), (1, 1)),
    ],
)
def test_the_largest_window_has_the_aspect_ratio_of_the_model(
    size: tuple[int, int], shape: tuple[int, int], largest: tuple[int, int]
) -> None:
    assert largest_window(size, shape) == largest


def test_a_grid_covers_the_image_with_windows_of_one_size() -> None:
    rows = grid((37, 23), (8, 8), tile=8, overlap=3)
    covered = np.zeros((23, 37), int)
    for window in (window for row in rows for window in row):
        assert window[2:] == (8, 8)
        covered[window.slices] += 1
    assert covered.min() == 1
    assert covered.sum() == 64 * len(rows) * len(rows[0])
    assert grid((37, 23), (37, 23)) == [[Window(0, 0, 37, 23)]]
    assert [window.left for window in grid((40, 10), (8, 8))[0]] == [0, 8, 16, 24, 30]


def test_tiles_start_at_multiples_and_the_last_ends_with_the_length() -> None:
    assert starts(10, 10, 3) == [0]
    assert starts(20, 8, 2) == [0, 6, 12]
    assert starts(24, 8, 1, 4) == [0, 4, 8, 12, 16]
