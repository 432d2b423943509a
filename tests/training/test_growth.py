"""Which size a run has reached follows from the images seen and the budget, whatever the budget becomes."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danqing.errors import ConfigError
from danqing.families import parse_config
from danqing.training.config_reading import resolve
from danqing.training.growth import Growth, Pace, Totals
from danqing.training.schedule import Budget

THREE = Growth((0.2, 0.5, 1.0))


@st.composite
def growths(draw: st.DrawFn) -> Growth:
    ends = draw(st.lists(st.floats(0.01, 0.99), max_size=4, unique=True))
    return Growth((*sorted(ends), 1.0))


@st.composite
def budgets(draw: st.DrawFn) -> Totals:
    starts = draw(st.lists(st.integers(1, 5000), max_size=5, unique=True))
    return [(start, draw(st.integers(start + 1, 20_000))) for start in [0, *sorted(starts)]]


@given(growths(), budgets(), st.integers(0, 20_000), st.integers(1, 500))
def test_sizes_follow_each_other_and_never_return(
    growth: Growth, totals: Totals, images: int, more: int
) -> None:
    assert sum(growth.seen(images, totals)) == images
    before, after = growth.begins(images, totals), growth.begins(images + more, totals)
    assert after[: len(before)] == before, "what has begun has begun"
    assert list(after) == sorted(after)
    assert before[-1] <= images
    later = [*totals, (images + more, 10 * images + more + 1)]
    assert growth.begins(images, later) == before, "a later budget changes nothing that was"


@given(growths(), st.integers(100, 100_000))
def test_each_size_gets_its_share_of_the_images(growth: Growth, total: int) -> None:
    starts = (0.0, *growth.ends[:-1])
    counts = growth.seen(total, [(0, total)])
    for count, start, end in zip(counts, starts, growth.ends, strict=True):
        assert count == pytest.approx((end - start) * total, abs=1.01)
    assert (
        len(growth.begins(total - 1, [(0, total)])) == len(growth.ends) or growth.ends[-2] * total > total - 1
    )


def test_a_larger_budget_continues_at_the_size_that_is_reached(tmp_path: Path) -> None:
    budget = Budget(tmp_path / "budget.json", [(0, 1000)])
    assert THREE.begins(999, budget.totals) == (0, 200, 500)
    budget.begin(1000, 10_000, 10)
    assert THREE.begins(1000, budget.totals) == (0, 200, 500), "0.1 of the new budget is not the first size"
    early = Budget(tmp_path / "early.json", [(0, 1000)])
    early.begin(300, 10_000, 10)
    assert [len(THREE.begins(images, early.totals)) for images in (300, 4999, 5000)] == [2, 2, 3]
    assert Budget.read(early.path).totals == early.totals == [(0, 1000), (300, 10_000)]
    early.begin(300, 20_000, 10)  # the process was killed before it took a step
    assert early.totals == [(0, 1000), (300, 20_000)]


@given(growths(), st.data(), st.integers(0, 5000), st.floats(0, 5000))
def test_the_budget_of_some_seconds_is_the_most_images_that_they_allow(
    growth: Growth, data: st.DataObject, images: int, left: float
) -> None:
    seconds = tuple(data.draw(st.floats(0.01, 10)) for _ in growth.ends)
    pace, before = Pace(growth, seconds), [(0, images + 1)]
    found = pace.total_after(left, images, before)

    def takes(total: int) -> float:
        return pace.until(total, [*before, (images, total)]) - pace.until(images, before)

    assert takes(found) <= left < takes(found + 1)


def test_a_budget_in_minutes_is_kept_although_small_images_are_faster(tmp_path: Path) -> None:
    """The machine is three times as slow as measured, and each size four times as slow as the one before."""
    measured, actual = Pace(THREE, (0.01, 0.04, 0.16)), (0.03, 0.12, 0.48)
    budget, seconds, images, spent = Budget(tmp_path / "budget.json", []), 600.0, 0, 0.0
    budget.begin(0, measured.total_after(seconds, 0, []), 10)
    while images < budget.total(images):
        size = len(THREE.begins(images, budget.totals)) - 1
        spent += 10 * actual[size]
        images += 10
        budget.replan(seconds, spent, images, 10, measured)
        if images == 500:
            total, rest = budget.total(images), 0.0
            for later in range(images, total, 10):
                rest += 10 * actual[len(THREE.begins(later, budget.totals)) - 1]
            assert measured.seconds_left(spent, images, budget.totals) == pytest.approx(rest, rel=0.02)
    assert spent == pytest.approx(seconds, rel=0.02)
    sizes = THREE.seen(images, budget.totals)
    assert sizes[0] / images == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"grow": [16]}, "two or more ascending sizes"),
        ({"grow": [32, 16]}, "two or more ascending sizes"),
        ({"grow": [16, 32], "net": "dit"}, "one resolution and does not grow"),
        ({"grow": [16, 32], "guide": True}, "leave guide or grow out"),
        ({"grow": [16, 32], "grow_fractions": [1.0]}, "grow_fractions"),
        ({"grow": [16, 32], "grow_fractions": [0.5, 0.4]}, "add up to 0.9"),
        ({"grow_fractions": [0.5, 0.5]}, "there are 2 for 0"),
        ({"grow": [16, 32], "ema_lengths": [0.05, 0.1]}, "leave training.ema_lengths or grow out"),
    ],
)
def test_settings_that_do_not_suit_growing_are_rejected(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        resolve(preset="flow-32", settings=settings)


@pytest.mark.parametrize(
    ("preset", "sentence"),
    [("vae-32", "a VAE does not grow"), ("text2image-32", "a transformer does not grow")],
)
def test_a_family_that_cannot_grow_says_so(preset: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        resolve(preset=preset, settings={"grow": [16, 32]})


def test_sizes_that_do_not_suit_the_images_are_rejected() -> None:
    def levels(*grow: int, height: int = 75, widths: tuple[int, ...] = (8, 8, 8, 8)) -> tuple[int, ...]:
        shape = {"family": "flow", "width": 100, "height": height, "heads": 1, "widths": widths, "grow": grow}
        return parse_config(shape).grow_levels

    assert levels(19, 38, 75) == (2, 1, 0)
    assert levels(19, 75) == (2, 0)
    for wrong in ((20, 75), (19, 38), (64, 128)):
        with pytest.raises(ConfigError, match="among the shorter sides 5, 10, 19, 38, 75, and end with 75"):
            levels(*wrong)
    with pytest.raises(ConfigError, match="halved 2 times, and a network with 2 widths halves them 1 times"):
        levels(19, 75, widths=(8, 8))
