import math
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danqing.training.report.curves import Series, chart, number_text, smoothed, thin

finite = st.floats(-1e12, 1e12)


@given(st.lists(finite, min_size=1, max_size=900), st.booleans())
def test_a_chart_of_any_numbers_is_well_formed_and_stays_within_its_frame(
    values: list[float], exact: bool
) -> None:
    figure = ElementTree.fromstring(
        chart("a <b> & c", [Series("s", range(len(values)), values)], exact=exact)
    )
    lines = [element for element in figure.iter() if element.tag in ("polyline", "circle")]
    assert lines
    for line in figure.iter("polyline"):
        for spot in line.attrib["points"].split():
            x, y = map(float, spot.split(","))
            assert 45 <= x <= 351
            assert 9 <= y <= 165


@given(st.lists(finite, min_size=1, max_size=500))
def test_smoothing_stays_between_the_extremes_and_keeps_a_constant(values: list[float]) -> None:
    slack = 1e-9 * max(1.0, *map(abs, values))
    assert all(min(values) - slack <= value <= max(values) + slack for value in smoothed(values))
    assert smoothed([3.0] * len(values)) == pytest.approx([3.0] * len(values))


def test_smoothing_does_not_lag_behind_a_straight_line() -> None:
    line = [float(value) for value in range(200)]
    assert all(
        math.isclose(a, b, abs_tol=1e-2) for a, b in zip(smoothed(line)[60:-60], line[60:-60], strict=True)
    )


def test_thinning_keeps_the_mean_and_drops_what_is_not_finite() -> None:
    thinned = thin(Series("s", range(2400), [math.nan if x % 10 == 0 else float(x) for x in range(2400)]))
    assert len(thinned.x) <= 240
    assert thinned.x[-1] == 2399
    assert all(math.isfinite(value) for value in thinned.y)
    assert chart("nothing", [Series("s", [1.0, 2.0], [math.nan, math.inf])]) == ""


def test_a_constant_has_room_above_and_below_it() -> None:
    figure = ElementTree.fromstring(chart("beta", [Series("beta", range(99), [0.1 + 0.2] * 99)]))
    (curve,) = (line for line in figure.iter("polyline") if "raw" not in line.attrib["class"])
    assert {spot.split(",")[1] for spot in curve.attrib["points"].split()} == {"87.0"}


def test_the_axis_is_logarithmic_only_where_positive_values_span_decades() -> None:
    falling = [1000 * math.exp(-step / 20) for step in range(200)]
    assert "<small>log</small>" in chart("loss", [Series("loss", range(200), falling)])
    assert "<small>log</small>" not in chart("loss", [Series("loss", range(200), falling)], exact=True)
    assert "<small>log</small>" not in chart("loss", [Series("loss", range(200), [v - 500 for v in falling])])


def test_numbers_read_as_people_write_them() -> None:
    texts = [number_text(value) for value in (0, 0.0000204, 0.25, 12.54, 999.6, 4200, 64_000, 1.5e6, -3.2e9)]
    assert (
        texts == ["0", "2e-5", "0.25", "12.5", "1e+03", "4200", "64k", "1.5M", "-3.2G"] or texts[4] == "1000"
    )
