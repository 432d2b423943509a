"""The rule that chooses a form: the fastest that is as good and small enough, or none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danqing.compress.choice import EQUAL, WORTH, Measured, choose, most_bytes
from danqing.errors import ConfigError

ORIGINAL = Measured("PyTorch", 1000, 50.0, 1.0, 0.3, (0.2, 0.4))


def form(name: str, size: int, speedup: float, low: float = 0.25) -> Measured:
    return Measured(name, size, 50 * speedup, speedup, low + 0.1, (low, low + 0.2))


FORMS = st.lists(
    st.builds(
        form,
        st.text(min_size=1),
        st.integers(1, 3000),
        st.floats(0.1, 5.0),
        st.floats(-0.3, 1.0),
    ),
    max_size=8,
)
BUDGETS = st.none() | st.integers(1, 3000)


@given(FORMS, BUDGETS)
def test_what_is_chosen_is_as_good_small_enough_and_nearly_the_fastest(
    others: list[Measured], most: int | None
) -> None:
    chosen, verdict = choose([ORIGINAL, *others], most)
    allowed = [
        one
        for one in [ORIGINAL, *others]
        if one.is_as_good_as(ORIGINAL) and (most is None or one.bytes <= most)
    ]
    fastest = max((one.speedup for one in allowed), default=0.0)
    assert verdict.endswith(".")
    if chosen is None:
        assert not allowed or (ORIGINAL in allowed and fastest < WORTH)
        return
    assert chosen in allowed
    assert chosen.speedup * EQUAL >= fastest
    assert fastest >= WORTH or ORIGINAL not in allowed
    assert not any(one.bytes < chosen.bytes and one.speedup * EQUAL >= fastest for one in allowed)
    assert chosen.name in verdict


@given(FORMS, st.integers(1, 3000))
def test_a_larger_budget_never_chooses_a_slower_form(others: list[Measured], most: int) -> None:
    forms = [ORIGINAL, *others]
    small, large = choose(forms, most)[0], choose(forms, 2 * most)[0]
    if small is not None and large is not None:
        assert large.speedup * EQUAL >= small.speedup


def test_a_form_that_cannot_be_told_from_the_original_must_be_much_faster() -> None:
    chosen, verdict = choose([ORIGINAL, form("ONNX", 500, 1.05)])
    assert chosen is None
    assert verdict == "Nothing is worth it: the fastest form with as good a score, ONNX, is 1.05 × as fast."
    assert "no other form has a score as good" in choose([ORIGINAL, form("int8", 200, 3.0, low=0.5)])[1]
    chosen, verdict = choose([ORIGINAL, form("int8", 200, 3.0, low=0.5), form("bf16", 500, 2.0)])
    assert chosen is not None
    assert verdict.startswith("bf16 is 2.00 × as fast as PyTorch and has 0.50 × its bytes")


def test_of_equally_fast_forms_the_smaller_one_is_chosen() -> None:
    chosen, _ = choose([ORIGINAL, form("large", 1000, 2.0), form("small", 500, 1.96), form("slow", 100, 1.5)])
    assert chosen is not None
    assert chosen.name == "small"


def test_a_budget_may_choose_a_slow_form_or_name_the_closest() -> None:
    forms = [ORIGINAL, form("fp16", 500, 1.0), form("int8", 270, 0.8), form("tiny", 90, 2.0, low=0.9)]
    chosen, _ = choose(forms, 300)
    assert chosen is not None
    assert chosen.name == "int8"
    chosen, verdict = choose(forms, 100)
    assert chosen is None
    assert verdict == (
        "No form of at most 100 B has a score as good as the original's: the closest is int8 with 270 B."
    )


def test_a_form_without_a_score_is_never_chosen() -> None:
    broken = Measured("broken", problem="openvino is missing")
    unknown = Measured("unknown", 10, 100.0, 9.0)
    for most in (None, 20):
        chosen, _ = choose([ORIGINAL, broken, unknown], most)
        assert chosen is None


def test_nothing_is_chosen_if_the_original_has_no_score() -> None:
    unknown = Measured("PyTorch", 1000, 50.0, 1.0, float("nan"))
    for most, start in ((None, "Nothing is worth it: no other form"), (20, "No form of at most 20 B")):
        chosen, verdict = choose([unknown, form("int8", 10, 3.0)], most)
        assert chosen is None
        assert verdict.startswith(start)


@pytest.mark.parametrize(
    ("text", "size"),
    [("2MB", 2_000_000), ("500kB", 500_000), ("0.5 mb", 500_000), ("1KiB", 1024), ("2x", 500), ("4 x", 250)],
)
def test_a_budget_is_bytes_or_a_share_of_the_original(text: str, size: int) -> None:
    assert most_bytes(text, 1000) == size


@pytest.mark.parametrize("text", ["", "2", "MB", "-2MB", "0x", "2 MB more", "x2", "1e3kB", "nan MB"])
def test_another_budget_is_rejected(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size: give one such as 2MB"):
        most_bytes(text, 1000)
