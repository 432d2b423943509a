"""The results of a comparison, from which its page, table and sentences are made."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from danqing import atomic
from danqing.errors import DataError
from danqing.evaluation.roc import RARE
from danqing.evaluation.scores import ReferenceInfo, Score, number
from danqing.quantities import count, memory
from danqing.version import __version__

_NOISE = 0.05
"""Speeds that are closer than this are called equal: another measurement may reverse them."""


SECOND = "second/"
"""What the key of a score by the second feature network begins with."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Point(_Record):
    """A score on held-out images during training; seconds: of training alone."""

    images: int
    seconds: float
    value: float
    interval: tuple[float, float] | None = None


class Contestant(_Record):
    """One of those compared, and all that was measured of it.

    run: its run folder, below the comparison's. status: "finished", "failed" (`error` says why) or "waiting".
    measured: `training_speed`, `sampling_speed` or `recognition_speed` (images per second),
    `peak_memory_bytes` (of the process that trained and scored), `parameters` (of the model that samples),
    `trained_parameters` (with what only training needs), `model_bytes`, `energy_wh` and `core_hours` (scoring
    included), `images`, `seconds` (of training alone); a figure is missing where the machine does not report
    it. curve: its held-out scores during training. trained_on: the processor and threads of its training.
    pictures: files below the comparison's folder, `grid` and, where there is one, `neighbours`.
    """

    name: str
    family: str
    preset: str
    run: str
    status: Literal["finished", "failed", "waiting"] = "waiting"
    error: str = ""
    scores: tuple[Score, ...] = ()
    curve: tuple[Point, ...] = ()
    curve_name: str = ""
    measured: dict[str, float] = Field(default_factory=dict)
    precision: str = ""
    trained_on: str = ""
    config: str = ""
    pictures: dict[str, str] = Field(default_factory=dict)

    def score(self, key: str) -> Score | None:
        """Return its score by a metric; None where it has none.

        key: the metric, or `SECOND` and the metric for the score by the second feature network.
        """
        metric = key.removeprefix(SECOND)
        found = [score for score in self.scores if score.metric == metric]
        place = 1 if key.startswith(SECOND) else 0
        return found[place] if place < len(found) else None

    @property
    def headline(self) -> Score | None:
        """The one number to quote."""
        return next((score for score in self.scores if score.headline), None)


class Comparison(_Record):
    """Families compared under one budget.

    data: facts about the images. machine: what it ran on.
    verdict: sentences that say which family to choose for what.
    cautions: what to keep in mind when reading them.
    """

    format: Literal[1] = 1
    danqing: str = __version__
    command: str
    written: str
    name: str
    data: dict[str, Any]
    reference: ReferenceInfo | None = None
    budget: dict[str, float]
    seed: int
    samples: int
    machine: dict[str, Any] = Field(default_factory=dict)
    verdict: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    contestants: tuple[Contestant, ...]

    @property
    def finished(self) -> tuple[Contestant, ...]:
        """Those that can be compared."""
        return tuple(one for one in self.contestants if one.status == "finished")

    @property
    def interrupted(self) -> bool:
        """Whether some are yet to be trained or measured."""
        return any(one.status == "waiting" for one in self.contestants)

    @property
    def budget_text(self) -> str:
        """What each was given, in words."""
        if "minutes" in self.budget:
            minutes = self.budget["minutes"]
            return "1 minute" if minutes == 1 else f"{minutes:g} minutes"
        return f"{self.budget.get('images', 0):,.0f} images"

    def write(self, path: Path) -> None:
        """Write `compare.json`, atomically."""
        atomic.write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values; scores carry their line as `text`."""
        values: dict[str, Any] = json.loads(self.model_dump_json())
        for one, shown in zip(self.contestants, values["contestants"], strict=True):
            shown["scores"] = [score.to_json() for score in one.scores]
        return values


def read(path: Path) -> Comparison:
    """Read a `compare.json`; raises DataError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        for one in values["contestants"]:
            for score in one["scores"]:
                score.pop("text", None)
        return Comparison.model_validate(values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise DataError(
            f"{path} does not hold a comparison that this version can read: compare again."
        ) from error


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of one contestant.

    interval: None where it is not a sample's.
    flattered: whether it is a score by a network that the contestant was trained with.
    """

    value: float
    interval: tuple[float, float] | None
    text: str
    interval_text: str = ""
    flattered: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One thing measured of all.

    better: "higher", "lower", or "" where neither is.
    marks: for each contestant "best", "tie" (with the best: the intervals overlap) or "". A flattered score
        has a mark only where all scores of the row are flattered.
    """

    key: str
    group: str
    title: str
    detail: str
    better: Literal["higher", "lower", ""]
    cells: tuple[Cell | None, ...]
    marks: tuple[str, ...]


_COPIES = "memorised/copies"
_SCORES = (
    ("accuracy", "Quality", "Accuracy", "how many images get the right label"),
    ("balanced_accuracy", "Quality", "Balanced accuracy", "the same, with all labels alike"),
    ("f1", "Quality", "Mean F1", "of the labels"),
    ("calibration_error", "Quality", "Calibration error", "how far probabilities are off (ECE)"),
    ("frechet", "Quality", "Fréchet distance", ""),
    ("kernel", "Quality", "Kernel distance", ""),
    (f"{SECOND}frechet", "Quality", "Fréchet distance, second network", ""),
    (f"{SECOND}kernel", "Quality", "Kernel distance, second network", ""),
    ("precision", "Quality", "Precision", "how many samples look real"),
    ("density", "Quality", "Density", "how near they are to real images"),
    ("composition", "Quality", "Composition", "attributes that are as the captions ask"),
    ("recall", "Diversity", "Recall", "how many real images could be samples"),
    ("coverage", "Diversity", "Coverage", "how many real images have a sample near"),
    ("diversity", "Diversity", "Diversity within a label", "that of real images is 1"),
    (
        _COPIES,
        "Memorisation",
        "Copies",
        f"nearer a training image than only {RARE:.0%} of real ones",
    ),
    ("memorised", "Memorisation", "Closeness", "to training images; that of real images is 0.5"),
    ("duplicates", "Memorisation", "Duplicates", "equal to an earlier sample"),
)
_NEITHER = ("memorised",)  # far away is not better either
_FIGURES: tuple[tuple[str, str, str, str, Literal["higher", "lower", ""]], ...] = (
    ("training_speed", "Speed", "Training", "images per second", "higher"),
    ("sampling_speed", "Speed", "Sampling", "images per second", "higher"),
    ("recognition_speed", "Speed", "Recognizing", "images per second", "higher"),
    ("peak_memory_bytes", "Cost", "Peak memory", "of the process that trains and scores", "lower"),
    ("parameters", "Cost", "Parameters", "of the model that samples", "lower"),
    ("model_bytes", "Cost", "Size on disk", "of the weights", "lower"),
    ("energy_wh", "Cost", "Energy", "of the processor, training and scoring", ""),
    ("core_hours", "Cost", "Core-hours", "of training and its scoring", ""),
)
GROUPS = ("Quality", "Diversity", "Memorisation", "Speed", "Cost")


def rows(comparison: Comparison) -> list[Row]:
    """Return the table: a row for each measured thing.

    The distance to quote comes first.
    """
    table = [_score_row(comparison.contestants, *each) for each in _SCORES]
    headlines = [one.headline.metric for one in comparison.finished if one.headline is not None]
    table.sort(key=lambda row: (GROUPS.index(row.group), row.key.removeprefix(SECOND) not in headlines[:1]))
    table += [_figure_row(comparison.contestants, *each) for each in _FIGURES]
    return [row for row in table if any(row.cells)]


def row(comparison: Comparison, key: str) -> Row | None:
    """Return one row of the table by its key."""
    return next((row for row in rows(comparison) if row.key == key), None)


def deciding_key(comparison: Comparison) -> str:
    """Return the key of the row that decides; "" without scores.

    It is the distance to quote, by the first network unless that flatters somebody and the second does not.
    """
    metric = next((one.headline.metric for one in comparison.finished if one.headline is not None), "")
    for key in (metric, f"{SECOND}{metric}"):
        scores = [one.score(key) for one in comparison.finished]
        if metric and all(score is not None and not score.flattered for score in scores):
            return key
    return metric


def _score_row(contestants: Sequence[Contestant], key: str, group: str, title: str, detail: str) -> Row:
    found = [one.score(key) for one in contestants]
    first = next((score for score in found if score is not None), None)
    better: Literal["higher", "lower", ""] = ""
    if first is not None and first.higher_is_better is not None and key not in _NEITHER:
        better = "higher" if first.higher_is_better else "lower"
    cells = tuple(None if score is None else _score_cell(score) for score in found)
    told = detail or ("" if first is None else first.name)
    marks = _marks_beyond_chance(cells, found) if key == _COPIES else _marks(cells, better, 0.0)
    return Row(key, group, title, told, better, cells, marks)


def chance(score: Score | None) -> float:
    """Return the share of copies that real images would have."""
    return float(score.settings.get("expected", RARE)) if score is not None else RARE


def _score_cell(score: Score) -> Cell:
    interval = score.interval
    between = " to ".join(_plain(bound) for bound in interval) if interval is not None else ""
    unit = f" {score.unit}" if score.unit else ""
    return Cell(score.value, interval, _plain(score.value) + unit, between, score.flattered)


def _plain(value: float) -> str:
    return number(0.0 if abs(value) < 1e-9 else value)


def _figure_row(
    contestants: Sequence[Contestant],
    key: str,
    group: str,
    title: str,
    detail: str,
    better: Literal["higher", "lower", ""],
) -> Row:
    cells = tuple(
        Cell(value, None, _figure_text(key, value)) if (value := one.measured.get(key)) is not None else None
        for one in contestants
    )
    noise = 0.0 if key in ("parameters", "model_bytes") else _NOISE
    return Row(key, group, title, detail, better, cells, _marks(cells, better, noise))


def _figure_text(key: str, value: float) -> str:
    if key.endswith("_bytes"):
        return memory(value)
    if key == "parameters":
        return count(value)
    if key == "energy_wh":
        return f"{value:,.3g} Wh"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _marks(cells: Sequence[Cell | None], better: str, noise: float) -> tuple[str, ...]:
    """Who is best, and who cannot be told from the best; nobody, where there is nobody to compare with.

    Flattered scores count only where there is no other.
    """
    if not all(cell is None or cell.flattered for cell in cells):
        cells = [None if cell is None or cell.flattered else cell for cell in cells]
    shown = [cell for cell in cells if cell is not None]
    if not better or len(shown) < 2:
        return ("",) * len(cells)
    best = (max if better == "higher" else min)(shown, key=lambda cell: cell.value)
    level = [cell is not None and _overlap(cell, best, noise) for cell in cells]
    mark = "tie" if sum(level) > 1 else "best"
    return tuple(mark if one else "" for one in level)


def _marks_beyond_chance(cells: Sequence[Cell | None], found: Sequence[Score | None]) -> tuple[str, ...]:
    """The marks of copies: fewer than by chance are not better, and if none has more, none is marked."""
    by_chance = [
        cell is not None and cell.interval is not None and cell.interval[0] <= chance(score)
        for cell, score in zip(cells, found, strict=True)
    ]
    if all(cell is None or alike for cell, alike in zip(cells, by_chance, strict=True)):
        return ("",) * len(cells)
    none_more = Cell(0.0, (0.0, 0.0), "")
    return _marks(
        [none_more if alike else cell for cell, alike in zip(cells, by_chance, strict=True)], "lower", 0.0
    )


def _overlap(one: Cell, other: Cell, noise: float) -> bool:
    if one.interval is None or other.interval is None:
        largest = max(abs(one.value), abs(other.value))
        return abs(one.value - other.value) <= noise * largest
    return one.interval[0] <= other.interval[1] and other.interval[0] <= one.interval[1]
