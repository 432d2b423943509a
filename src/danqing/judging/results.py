"""What the votes of a contest say: ratings, raters, agreement and sides, ready to be read and written."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from danqing.judging.agreement import Agreement, krippendorff
from danqing.judging.quantiles import chi_square_tail_of_3
from danqing.judging.rater_checks import CheckCount, RaterCheck, careful, check_raters
from danqing.judging.ratings import Ratings, fit
from danqing.judging.stopping import is_decided, parted
from danqing.judging.votes import Answer, Votes, collect

FEWEST_RATERS = 5
"""With fewer, intervals that respect clusters are very wide, or do not exist."""


@dataclass(frozen=True)
class Standing:
    """The place of one contestant.

    ranks: the best and the worst place that the intervals allow. shown: in how many votes it was judged.
    against_real: how often it is preferred to a real image where there is no tie, with its interval; None
        without real images.
    """

    name: str
    rating: float
    interval: tuple[float, float]
    ranks: tuple[int, int]
    shown: int
    against_real: tuple[float, float, float] | None


@dataclass(frozen=True)
class Results:
    """What the votes of a contest say.

    standings: the best first. ratings: in the order of the contestants. raters: what was found about each, by
    its key; left_out: those whose votes are not used. agreement: of raters on the same pictures. places: the
    p-value that the best of four is equally often in each place. decided: whether more votes would hardly
    change the order.
    """

    standings: tuple[Standing, ...]
    ratings: Ratings
    raters: Mapping[str, RaterCheck]
    left_out: tuple[str, ...]
    agreement: Agreement
    places: float | None
    decided: bool
    contestants: tuple[str, ...]

    @property
    def notes(self) -> list[str]:
        """Return what readers should keep in mind."""
        notes = []
        if self.left_out:
            which = ", ".join(f"{key} ({', '.join(self.raters[key].reasons)})" for key in self.left_out)
            notes.append(f"the votes of these raters are not used: {which}")
        for key, one in self.raters.items():
            if "favours" in one.reasons and key not in self.left_out:
                favourite = self.contestants[one.favourite]
                notes.append(f"{key} prefers {favourite} more than others do; its votes are used")
        if not self.ratings.is_bounded and self.ratings.votes:
            notes.append(
                "a contestant always or never wins, or there is one rater: intervals are those of a prior"
            )
        elif 0 < self.ratings.raters < FEWEST_RATERS:
            notes.append(f"{self.ratings.raters} raters are few: read every rating with its interval")
        probability = self.ratings.side_probability()
        if probability is not None and probability < 0.01:
            notes.append(f"one side is preferred (p = {probability:.2g}); ratings are corrected for that")
        return notes

    def to_json(self) -> dict[str, Any]:
        """Return plain values; numbers that are not finite become None."""
        side = self.ratings.side
        return {
            "standings": [
                {
                    "name": one.name,
                    "rating": one.rating,
                    "interval": list(one.interval),
                    "ranks": list(one.ranks),
                    "shown": one.shown,
                    "preferred_to_real": None if one.against_real is None else list(one.against_real),
                }
                for one in self.standings
            ],
            "votes": self.ratings.votes,
            "raters": self.ratings.raters,
            "left_out": list(self.left_out),
            "by_rater": {key: _rater(one, self.contestants) for key, one in self.raters.items()},
            "agreement": {"alpha": _finite(self.agreement.alpha), "questions": self.agreement.units},
            "ties": _finite(self.ratings.tie),
            "left_side": None
            if side is None
            else {"log_odds": side.value, "error": side.error, "p": self.ratings.side_probability()},
            "places_p": self.places,
            "decided": self.decided,
            "notes": self.notes,
        }


def evaluate_votes(
    answers: Sequence[Answer],
    contestants: Sequence[str],
    raters: Sequence[str],
    *,
    checks: Mapping[int, CheckCount] | None = None,
    real: int | None = None,
    keep_all: bool = False,
) -> Results:
    """Estimate all that votes say of contestants and raters.

    raters: the keys that `Answer.rater` counts.
    checks: the attention checks by rater.
    real: which contestant are real images.
    keep_all: use the votes of careless raters as well.
    """
    votes = collect(answers, len(contestants), len(raters))
    found = check_raters(votes, checks)
    kept = np.ones(len(raters), bool) if keep_all or not careful(found).any() else careful(found)
    used = votes.only(kept)
    rated = fit(used)
    kept_answers = [one for one in answers if kept[one.rater]]
    order = np.argsort(-rated.values, kind="stable").tolist()
    intervals, shown = rated.intervals(), used.shown()
    standings = tuple(
        Standing(
            contestants[k],
            float(rated.values[k]),
            (float(intervals[k, 0]), float(intervals[k, 1])),
            _ranks(rated, k),
            int(shown[k]),
            None if real is None or k == real else rated.preferred(k, real),
        )
        for k in order
    )
    return Results(
        standings,
        rated,
        dict(zip(raters, found, strict=True)),
        tuple(key for key, used in zip(raters, kept, strict=True) if not used),
        _agreement(kept_answers),
        _places(used),
        is_decided(rated),
        tuple(contestants),
    )


def _ranks(rated: Ratings, k: int) -> tuple[int, int]:
    others = [other for other in range(len(rated.values)) if other != k]
    apart = [other for other in others if parted(rated, k, other)]
    above = sum(rated.values[other] > rated.values[k] for other in apart)
    below = sum(rated.values[other] < rated.values[k] for other in apart)
    return 1 + int(above), len(rated.values) - int(below)


def _agreement(answers: Sequence[Answer]) -> Agreement:
    """Return the agreement on pairs of the same pictures; a best and worst of four decides five of them."""
    units: dict[tuple[int, int, int], int] = {}
    unit, value, seen = [], [], set()
    for one in answers:
        for first, second, won in _decisions(one):
            low, high = sorted((first, second))
            question = units.setdefault((low, high, one.subject), len(units))
            if (question, one.rater) in seen:
                continue  # alpha knows one answer of each rater
            seen.add((question, one.rater))
            unit.append(question)
            value.append(float(won if first == low else -won))
    return krippendorff(np.array(unit, np.int64), np.array(value), distance="interval")


def _decisions(one: Answer) -> list[tuple[int, int, int]]:
    """Return pairs of contestants, with 1 if the first is preferred and 0 for a tie."""
    order = one.order
    if one.best is None or one.worst is None:
        return [(order[0], order[1], 0)]
    best, worst = order[one.best], order[one.worst]
    middle = [other for place, other in enumerate(order) if place not in (one.best, one.worst)]
    return [
        (best, worst, 1),
        *((best, other, 1) for other in middle),
        *((other, worst, 1) for other in middle),
    ]


def _places(votes: Votes) -> float | None:
    if not len(votes.fours):
        return None
    counts = np.bincount(votes.best_place, minlength=4)
    expected = counts.sum() / 4
    return chi_square_tail_of_3(float(((counts - expected) ** 2 / expected).sum()))


def _rater(one: RaterCheck, contestants: Sequence[str]) -> dict[str, Any]:
    return {
        "votes": one.votes,
        "checks": one.checks.answered,
        "failed": one.checks.failed,
        "left": _finite(one.left),
        "disagreement": _finite(one.fit),
        "favourite": contestants[one.favourite],
        "lean": _finite(one.lean),
        "reasons": list(one.reasons),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
