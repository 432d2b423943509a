"""Simulated raters: each has tastes and a side of their own, and some are careless."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from danqing.judging.ratings import fit
from danqing.judging.votes import LEFT, RIGHT, TIE, Votes

Floats = NDArray[np.float64]
_NODES = 41  # of the quadrature over tastes
LAZY = 0.75
"""The share of votes that a rater who clicks left casts without looking."""
FAVOURITE = 3
SLIP = 0.05
"""The share of attention checks that an honest rater fails."""


@dataclass(frozen=True)
class Population:
    """Whom raters are drawn from.

    ratings: of the contestants, for a rater without tastes of its own.
    taste: the standard deviation over raters of what each adds to each rating.
    side: the standard deviation over raters of their preference for the left side.
    tie: the log-odds of a tie between equals against either side winning; -inf for no ties.
    """

    ratings: Sequence[float]
    taste: float = 0.4
    side: float = 0.2
    tie: float = -0.7

    def truth(self) -> Floats:
        """Return the ratings that all raters together have: what many votes of many raters tend to.

        With tastes, it is nearer to equality than `ratings`. Exact but for the quadrature.
        """
        nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
        weights = weights / weights.sum()
        spread = np.sqrt(2 * self.taste**2 + self.side**2)
        k = len(self.ratings)
        pairs = np.array([(a, b) for a in range(k) for b in range(k) if a != b], np.int64)
        values = np.asarray(self.ratings, float)
        d = (values[pairs[:, 0]] - values[pairs[:, 1]])[:, None] + spread * nodes
        odds = np.exp(np.stack([d / 2, -d / 2, np.full_like(d, self.tie)]))
        shares = (odds / odds.sum(axis=0)) @ weights  # [3, pairs]
        counts = np.rint(shares * 1e9).astype(np.int64)
        votes = Votes(
            k,
            1,
            np.tile(pairs, (3, 1)),
            np.repeat([LEFT, RIGHT, TIE], len(pairs)),
            np.zeros(3 * len(pairs), np.int64),
            pair_count=counts.ravel(),
        )
        kept = counts.ravel() > 0
        votes = Votes(
            k,
            1,
            votes.pairs[kept],
            votes.outcome[kept],
            votes.pair_rater[kept],
            pair_count=counts.ravel()[kept],
        )
        return fit(votes, side=False).values


def pair_votes(
    population: Population, raters: int, each: int, generator: np.random.Generator, **odd: str
) -> Votes:
    """Return votes on random pairs.

    each: votes of each rater. odd: `rater0="left"` makes the first one careless: see `_outcomes`.
    """
    tastes, sides = _drawn(population, raters, generator)
    k = len(population.ratings)
    rater = np.repeat(np.arange(raters), each)
    left = generator.integers(0, k, rater.size)
    right = (left + generator.integers(1, k, rater.size)) % k
    d = tastes[rater, left] - tastes[rater, right] + sides[rater]
    outcome = _outcomes(d, population.tie, generator)
    for name, kind in odd.items():
        mine = rater == int(name.removeprefix("rater"))
        outcome[mine] = _odd(kind, np.stack([left, right], 1)[mine], d[mine], population.tie, generator)
    return Votes(k, raters, np.stack([left, right], axis=1), outcome, rater)


def four_votes(population: Population, raters: int, each: int, generator: np.random.Generator) -> Votes:
    """Return votes for the best and the worst of random fours."""
    tastes, _ = _drawn(population, raters, generator)
    k = len(population.ratings)
    rater = np.repeat(np.arange(raters), each)
    shown = np.argsort(generator.random((rater.size, k)), axis=1)[:, :4]
    liked = tastes[rater[:, None], shown] + generator.gumbel(size=shown.shape)
    places = np.argsort(-liked, axis=1)
    return Votes(
        k,
        raters,
        fours=np.take_along_axis(shown, places, axis=1),
        best_place=places[:, 0],
        four_rater=rater,
    )


def _drawn(population: Population, raters: int, generator: np.random.Generator) -> tuple[Floats, Floats]:
    values = np.asarray(population.ratings, float)
    tastes = values + population.taste * generator.normal(size=(raters, len(values)))
    return tastes, population.side * generator.normal(size=raters)


def _outcomes(d: Floats, tie: float, generator: np.random.Generator) -> NDArray[np.int64]:
    odds = np.exp(np.stack([d / 2, -d / 2, np.full_like(d, tie)]))
    ends = np.cumsum(odds / odds.sum(axis=0), axis=0)
    return np.asarray((generator.random(d.size) > ends[:2]).sum(axis=0), np.int64)


def _odd(
    kind: str, pairs: NDArray[np.int64], d: Floats, tie: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return the votes of a careless or biased rater.

    kind: "left" clicks left in three of four votes without looking; "random" never looks; "favours" always
        prefers the fourth contestant, where it is shown.
    """
    n = len(pairs)
    honest = _outcomes(d, tie, generator)
    if kind == "left":
        return np.where(generator.random(n) < LAZY, LEFT, honest)
    if kind == "random":
        return generator.integers(0, 3, n)
    return np.where(pairs[:, 0] == FAVOURITE, LEFT, np.where(pairs[:, 1] == FAVOURITE, RIGHT, honest))


def failed_checks(kind: str, answered: int, generator: np.random.Generator) -> int:
    """Return how many attention checks a rater fails; half are identical pictures, half a blurred one."""
    blind = {"left": LAZY, "random": 1.0}.get(kind, 0.0)
    looks_away = generator.random(answered) < blind
    slips = generator.random(answered) < SLIP
    # Who clicks left finds the sharp picture half of the time, who clicks anything finds each a third.
    is_identical = np.arange(answered) % 2 == 0
    lucky = np.where(is_identical, 0.0, 0.5) if kind == "left" else np.full(answered, 1 / 3)
    wrong = generator.random(answered) >= lucky
    return int(np.where(looks_away, wrong, slips).sum())
