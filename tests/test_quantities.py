import pytest

from danqing.quantities import count, duration, memory


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.84, "0.8 s"),
        (42, "42 s"),
        (59.6, "1 min 00 s"),
        (245, "4 min 05 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_unknown_duration_says_so() -> None:
    assert duration(float("inf")) == duration(float("nan")) == "unknown"


def test_sizes_have_three_digits_and_a_unit() -> None:
    assert [memory(size) for size in (0, 999, 1000, 812_345_678, 1.3e9)] == [
        "0 B",
        "999 B",
        "1 kB",
        "812 MB",
        "1.3 GB",
    ]
    assert [count(number) for number in (950, 12_400, 3_573_000)] == ["950", "12.4 k", "3.57 M"]
