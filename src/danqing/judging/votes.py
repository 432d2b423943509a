"""Votes of people between contestants: A or B, and best and worst of four."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
LEFT, RIGHT, TIE = 0, 1, 2
"""The outcomes of a pair."""


def _none(*shape: int) -> Ints:
    return np.zeros(shape, np.int64)


@dataclass(frozen=True)
class Votes:
    """Votes, as columns of whole numbers.

    contestants: how many there are; the others name them by their index.
    raters: how many there are.
    pairs: `[n, 2]`, left and right; outcome: `[n]`, LEFT, RIGHT or TIE.
    fours: `[m, 4]`, in the order of preference: best, two between in any order, worst.
    best_place: `[m]`, where the best of a four was shown, 0 to 3.
    pair_rater, four_rater: who voted.
    pair_count, four_count: how often each row occurred; votes of one row count as independent.
    """

    contestants: int
    raters: int
    pairs: Ints = field(default_factory=lambda: _none(0, 2))
    outcome: Ints = field(default_factory=lambda: _none(0))
    pair_rater: Ints = field(default_factory=lambda: _none(0))
    fours: Ints = field(default_factory=lambda: _none(0, 4))
    best_place: Ints = field(default_factory=lambda: _none(0))
    four_rater: Ints = field(default_factory=lambda: _none(0))
    pair_count: Ints | None = None
    four_count: Ints | None = None

    @property
    def count(self) -> int:
        """Return how many votes there are."""
        pairs = len(self.pairs) if self.pair_count is None else int(self.pair_count.sum())
        return pairs + (len(self.fours) if self.four_count is None else int(self.four_count.sum()))

    def only(self, raters: NDArray[np.bool_]) -> Self:
        """Return the votes of some raters; the others keep their numbers.

        raters: `[raters]`, which ones are kept.
        """
        pairs, fours = raters[self.pair_rater], raters[self.four_rater]
        return type(self)(
            self.contestants,
            self.raters,
            self.pairs[pairs],
            self.outcome[pairs],
            self.pair_rater[pairs],
            self.fours[fours],
            self.best_place[fours],
            self.four_rater[fours],
            None if self.pair_count is None else self.pair_count[pairs],
            None if self.four_count is None else self.four_count[fours],
        )

    def shown(self) -> Ints:
        """Return how often each contestant was judged, `[contestants]`."""
        return _counted(self.pairs, self.pair_count, self.contestants) + _counted(
            self.fours, self.four_count, self.contestants
        )

    def voters(self) -> Ints:
        """Return the raters who voted at least once."""
        return np.union1d(self.pair_rater, self.four_rater)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered ballot.

    order: the contestants from left to right, two or four.
    best, worst: places in `order`; both are None for a tie.
    subject: which picture of each contestant was shown.
    rater: an index.
    """

    order: tuple[int, ...]
    best: int | None
    worst: int | None
    subject: int
    rater: int


def collect(answers: Iterable[Answer], contestants: int, raters: int) -> Votes:
    """Return answers as columns."""
    pairs: list[tuple[int, int, int, int]] = []
    fours: list[tuple[int, int, int, int, int, int]] = []
    for one in answers:
        if len(one.order) == 2:
            outcome = TIE if one.best is None else (LEFT, RIGHT)[one.best]
            pairs.append((*one.order[:2], outcome, one.rater))
        else:
            assert one.best is not None
            assert one.worst is not None
            middle = [one.order[place] for place in range(4) if place not in (one.best, one.worst)]
            ranked = one.order[one.best], middle[0], middle[1], one.order[one.worst]
            fours.append((*ranked, one.best, one.rater))
    two, four = _columns(pairs, 4), _columns(fours, 6)
    return Votes(
        contestants,
        raters,
        two[:, :2],
        two[:, 2],
        two[:, 3],
        four[:, :4],
        four[:, 4],
        four[:, 5],
    )


def _columns(rows: Sequence[tuple[int, ...]], width: int) -> Ints:
    return np.array(rows, np.int64).reshape(len(rows), width)


def _counted(rows: Ints, counts: Ints | None, contestants: int) -> Ints:
    weights = None if counts is None else np.repeat(counts, rows.shape[1])
    return np.bincount(rows.ravel(), weights, contestants).astype(np.int64)
