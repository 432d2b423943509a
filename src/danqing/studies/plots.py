"""The two plots of a comparison as inline SVG, on the same axes and in the same colours as a run's curves."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from danqing.evaluation.scores import number
from danqing.training.report.curves import BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, grid

_SIZE = 4.5  # of a mark, to all sides
_MARKS = ("circle", "square", "triangle", "diamond", "bar")


@dataclass(frozen=True, slots=True)
class Measured:
    """A value and its interval."""

    value: float
    interval: tuple[float, float] | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval, or the value twice."""
        return self.interval or (self.value, self.value)


@dataclass(frozen=True, slots=True)
class Line:
    """The scores of one contestant over seconds of training.

    place: which colour and mark are its own.
    """

    name: str
    place: int
    seconds: Sequence[float]
    scores: Sequence[Measured]


@dataclass(frozen=True, slots=True)
class Spot:
    """One contestant by two scores."""

    name: str
    place: int
    across: Measured
    up: Measured


def style(place: int) -> str:
    """Return the CSS class that gives a contestant its colour."""
    return f"c{place % COLOURS + 1}"


def key(name: str, place: int) -> str:
    """Return a contestant's mark and name, for plots and tables."""
    middle = _SIZE + 1
    mark = _mark(place, middle, middle)
    size = 2 * middle
    return (
        f'<span class="key"><svg class="mark {style(place)}" width="{size}" height="{size}" '
        f'viewBox="0 0 {size} {size}" aria-hidden="true">{mark}</svg>{escape(name)}</span>'
    )


def over_time(title: str, lines: Sequence[Line]) -> str:
    """Return a `<figure>` of scores over minutes of training.

    Each has its interval; lower is better. Returns "" without scores.
    """
    lines = [line for line in lines if line.scores]
    if not lines:
        return ""
    across = Axis.over([0.0, *(t / 60 for line in lines for t in line.seconds)], LEFT, RIGHT, padding=0.0)
    heights = [bound for line in lines for score in line.scores for bound in score.bounds]
    up = Axis.over(heights, BOTTOM, TOP, may_be_log=True)
    body, points = [grid(across, up)], []
    for line in lines:
        spots = [
            (across.at(t / 60), up.at(score.value))
            for t, score in zip(line.seconds, line.scores, strict=True)
        ]
        whiskers = "".join(
            _whisker(x, up.at(s.bounds[0]), x, up.at(s.bounds[1]))
            for (x, _), s in zip(spots, line.scores, strict=True)
        )
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        marks = "".join(_mark(line.place, x, y, _SIZE * 0.6) for x, y in spots[:-1])
        marks += _mark(line.place, *spots[-1])
        body.append(f'<g class="{style(line.place)}">{whiskers}<polyline points="{path}"/>{marks}</g>')
        minutes = [float(f"{t / 60:.4g}") for t in line.seconds]
        points.append({"name": line.name, "x": minutes, "y": [float(f"{s.value:.4g}") for s in line.scores]})
    told = [(line, number(line.scores[-1].value)) for line in lines]
    spoken = "; ".join(f"{line.name} ends at {value}" for line, value in told)
    keys = "".join(f"{key(line.name, line.place)}<b>{value}</b>" for line, value in told)
    data = escape(json.dumps({"left": across.low, "right": across.high, "series": points}), quote=True)
    note = "log, " if up.log else ""
    return _figure(
        f"{escape(title)} <small>{note}over minutes of training</small>",
        keys,
        f"{title} over minutes of training: {spoken}",
        "".join(body),
        f' data-points="{data}"',
        cursor=True,
    )


def against(up_title: str, across_title: str, spots: Sequence[Spot]) -> str:
    """Return a `<figure>` of two scores, with intervals as whiskers.

    Returns "" without scores.
    """
    if not spots:
        return ""
    across = _share_axis([bound for spot in spots for bound in spot.across.bounds], LEFT, RIGHT)
    up = _share_axis([bound for spot in spots for bound in spot.up.bounds], BOTTOM, TOP)
    body = [grid(across, up)]
    for spot in spots:
        x, y = across.at(spot.across.value), up.at(spot.up.value)
        (left, right), (low, high) = spot.across.bounds, spot.up.bounds
        body.append(
            f'<g class="{style(spot.place)}">{_whisker(across.at(left), y, across.at(right), y)}'
            f"{_whisker(x, up.at(low), x, up.at(high))}{_mark(spot.place, x, y)}</g>"
        )
    body.append(
        f'<text class="axis" x="{RIGHT}" y="{BOTTOM - 6}" text-anchor="end">{escape(across_title)} →</text>'
        f'<text class="axis" x="{LEFT + 6}" y="{TOP + 10}">↑ {escape(up_title)}</text>'
    )
    spoken = "; ".join(
        f"{spot.name}: {up_title} {number(spot.up.value)}, {across_title} {number(spot.across.value)}"
        for spot in spots
    )
    title = f"{up_title} against {across_title}"
    shown = f"{escape(title.capitalize())} <small>up and to the right is better</small>"
    return _figure(shown, "".join(key(s.name, s.place) for s in spots), f"{title}: {spoken}", "".join(body))


def _share_axis(values: Sequence[float], start: float, end: float) -> Axis:
    """An axis for shares: at least a tenth wide, so that noise does not look like a difference."""
    low, high = min(values), max(values)
    short = max(0.0, 0.1 - (high - low)) / 2
    return Axis.over([low - short if low - short > 0 else 0.0, high + short], start, end, padding=0.12)


def _figure(
    title: str, keys: str, spoken: str, body: str, attributes: str = "", *, cursor: bool = False
) -> str:
    line = f'<line class="cursor" y1="{TOP}" y2="{BOTTOM}"/>' if cursor else ""
    return (
        f'<figure class="chart"{attributes}><figcaption><span>{title}</span><span class="keys">{keys}</span>'
        f'</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(spoken)}">{body}'
        f"{line}</svg></figure>"
    )


def _whisker(x1: float, y1: float, x2: float, y2: float) -> str:
    if (x1, y1) == (x2, y2):
        return ""
    return f'<line class="whisker" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _mark(place: int, x: float, y: float, size: float = _SIZE) -> str:
    """A mark whose form tells contestants apart where colours do not."""
    form = _MARKS[place % len(_MARKS)]
    if form == "circle":
        return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"/>'
    corners = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "triangle": ((0, -1.1), (1.05, 0.85), (-1.05, 0.85)),
        "diamond": ((0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)),
        "bar": ((-1.2, -0.5), (1.2, -0.5), (1.2, 0.5), (-1.2, 0.5)),
    }[form]
    points = " ".join(f"{x + a * size:.1f},{y + b * size:.1f}" for a, b in corners)
    return f'<polygon class="dot" points="{points}"/>'
