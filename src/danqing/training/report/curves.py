"""Curves as inline SVG: no plotting library, no network, colours from the page's style."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 350, 10, 164
_POINTS = 240
COLOURS = 5


@dataclass(frozen=True, slots=True)
class Series:
    """Named values over images seen; only finite values are drawn."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def chart(title: str, series: Sequence[Series], *, exact: bool = False, from_zero: bool = False) -> str:
    """Return a `<figure>` with one curve per series, or "".

    It is "" if no value is finite.

    The raw values are drawn faintly behind a smoothed curve. The axis is logarithmic if all values are
    positive and span one and a half decades or more. Its range is that of the smoothed curves, so that one
    spike does not flatten the rest.

    exact: draw the values as they are, on a linear axis.
    from_zero: begin the axis at zero.
    """
    thinned = [thin(each) for each in series]
    thinned = [each for each in thinned if each.x]
    if not thinned:
        return ""
    curves = [list(each.y) if exact else smoothed(each.y) for each in thinned]
    across = Axis.over([value for each in thinned for value in each.x], LEFT, RIGHT, padding=0.0)
    heights = [value for curve in curves for value in curve] + [0.0] * from_zero
    up = Axis.over(heights, BOTTOM, TOP, may_be_log=not exact)
    body = [grid(across, up)]
    points = []
    for number, (each, curve) in enumerate(zip(thinned, curves, strict=True)):
        colour = f"c{number % COLOURS + 1}"
        if not exact:
            body.append(_line(across, up, each.x, each.y, f"raw {colour}"))
        body.append(_line(across, up, each.x, curve, colour))
        points.append({"name": each.name, "x": [_short(x) for x in each.x], "y": [_short(y) for y in curve]})
    low, high = up.low, up.high
    spoken = "; ".join(
        f"{each.name}: last {number_text(c[-1])}" for each, c in zip(thinned, curves, strict=True)
    )
    data = escape(json.dumps({"left": across.low, "right": across.high, "series": points}), quote=True)
    keys = "".join(
        f'<span class="key"><i class="c{number % COLOURS + 1}"></i>'
        f"{escape(each.name) if len(thinned) > 1 else ''} <b>{number_text(curve[-1])}</b></span>"
        for number, (each, curve) in enumerate(zip(thinned, curves, strict=True))
    )
    scale = " <small>log</small>" if up.log else ""
    return (
        f'<figure class="chart" data-points="{data}"><figcaption><span>{escape(title)}{scale}</span>'
        f'<span class="keys">{keys}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}, '
        f'{escape(spoken)}; axis from {number_text(low)} to {number_text(high)}">'
        f'{"".join(body)}<line class="cursor" y1="{TOP}" y2="{BOTTOM}"/></svg></figure>'
    )


def thin(series: Series) -> Series:
    """Return at most 240 points: means of equally long stretches."""
    pairs = [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    stretch = max(1, math.ceil(len(pairs) / _POINTS))
    groups = [pairs[start : start + stretch] for start in range(0, len(pairs), stretch)]
    x = [group[-1][0] for group in groups]
    y = [math.fsum(value for _, value in group) / len(group) for group in groups]
    return Series(series.name, x, y)


def smoothed(values: Sequence[float]) -> list[float]:
    """Return an exponential average over about a thirtieth of the values.

    It runs in both directions, so that it does not lag.
    """
    forwards = _averaged(values)
    backwards = _averaged(values[::-1])[::-1]
    return [(ahead + behind) / 2 for ahead, behind in zip(forwards, backwards, strict=True)]


def number_text(value: float) -> str:
    """Format a number for an axis: 0.031, 12.5, 4.2k, 1.5M, 2e-05."""
    size = abs(value)
    if size and size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{unit}"
    return f"{value:.3g}" if size < 999.5 else f"{value:.0f}"


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values to positions: `low` to `start` and `high` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    @classmethod
    def over(
        cls,
        values: Sequence[float],
        start: float,
        end: float,
        *,
        padding: float = 0.06,
        may_be_log: bool = False,
    ) -> "Axis":
        low, high = min(values), max(values)
        log = may_be_log and low > 0 and high / low >= 30
        if log:
            return cls(low / 1.2, high * 1.2, start, end, True)
        flat = high - low <= 1e-9 * abs(high)  # rounding, or one value
        margin = (abs(high) * 0.1 or 1.0) if flat else (high - low) * padding
        return cls(low - margin, high + margin, start, end, False)

    def at(self, value: float) -> float:
        if self.log:
            share = math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if len(powers) <= 3 else (1,)
            every = max(1, len(powers) // 5)
            ticks = [step * 10.0**power for power in powers[::every] for step in steps]
            return [tick for tick in ticks if self.low <= tick <= self.high]
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= rough)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step) + 1)]


def grid(across: Axis, up: Axis) -> str:
    parts = []
    for tick in up.ticks(5):
        y = up.at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number_text(tick)}</text>')
    for tick in across.ticks(4):
        x = across.at(tick)
        anchor = "end" if x > RIGHT - 12 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{BOTTOM + 16}" text-anchor="{anchor}">{number_text(tick)}</text>')
    return "".join(parts)


def _line(across: Axis, up: Axis, x: Sequence[float], y: Sequence[float], style: str) -> str:
    low, high = sorted((up.start, up.end))
    spots = [(across.at(a), min(max(up.at(b), low), high)) for a, b in zip(x, y, strict=True)]
    if len(spots) == 1:
        return f'<circle class="dot {style}" cx="{spots[0][0]:.1f}" cy="{spots[0][1]:.1f}" r="3"/>'
    return f'<polyline class="{style}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in spots)}"/>'


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _averaged(values: Sequence[float]) -> list[float]:
    keep = 0.5 ** (60 / len(values))
    total = weight = 0.0
    result = []
    for value in values:
        total = keep * total + (1 - keep) * value
        weight = keep * weight + (1 - keep)  # without it, the first averages would be too close to zero
        result.append(total / weight)
    return result
