"""Ratings from votes, with intervals that respect that votes of one rater resemble each other.

A pair is judged as in Bradley and Terry (1952), with ties as in Davidson (1970) and an advantage of the left
side as in Davidson and Beaver (1977): "left", "right" and "tie" have the log-odds `d/2`, `-d/2` and `nu`.
Here `d` is the difference of the two ratings plus the advantage. A best and worst of four is a ranking of
Plackett and Luce whose middle is unknown, so that both kinds of votes speak of the same ratings.
"""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing.judging.quantiles import normal_tail, student_quantile
from danqing.judging.votes import LEFT, RIGHT, TIE, Ints, Votes

Floats = NDArray[np.float64]
PRIOR = 0.01
"""The precision of a normal prior on each rating, so weak that it moves what 50 votes decide by less than a
thousandth."""
PRIOR_WITHOUT_BOUNDS = 0.5
"""The same where someone always wins, so that the votes alone would put the rating at infinity."""
_MOST_STEPS = 50
_SMALL = 1e-10
_LOG_2 = math.log(2)


class Difference(NamedTuple):
    """The difference of two ratings, and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Ratings:
    """The ratings of contestants, as log-odds whose mean is 0.

    values: `[k]`; a contestant is preferred to another with the odds `exp(difference)`.
    covariance: `[k, k]` of the values, clustered by rater.
    raters: who voted; votes: how many.
    tie: how likely ties are, as `nu`; -inf without any.
    side: the advantage of the left side in pairs, in log-odds.
    is_bounded: whether the votes alone bound all ratings: there is no group whose members never lose to
        others. Otherwise a prior keeps the ratings finite, and intervals are those of the model with it.
    """

    values: Floats
    covariance: Floats
    raters: int
    votes: int
    tie: float
    side: Difference | None
    is_bounded: bool

    @property
    def degrees(self) -> float:
        """Return the degrees of freedom: one less than the raters."""
        return max(1.0, self.raters - 1.0) if self.is_bounded else math.inf

    def difference(self, first: int, second: int) -> Difference:
        """Return how much higher one contestant is rated than another."""
        c = self.covariance
        variance = c[first, first] + c[second, second] - 2 * c[first, second]
        return Difference(
            float(self.values[first] - self.values[second]), math.sqrt(max(0.0, float(variance)))
        )

    def intervals(self, level: float = 0.95) -> Floats:
        """Return the interval of each rating, `[k, 2]`."""
        half = student_quantile((1 + level) / 2, self.degrees) * np.sqrt(np.diag(self.covariance))
        return np.stack([self.values - half, self.values + half], axis=1)

    def preferred(self, first: int, second: int, level: float = 0.95) -> tuple[float, float, float]:
        """Return how often one is preferred to another, with its interval.

        Ties do not count.
        """
        value, error = self.difference(first, second)
        half = student_quantile((1 + level) / 2, self.degrees) * error
        low, middle, high = (_logistic(value + part) for part in (-half, 0.0, half))
        return middle, low, high

    def side_probability(self) -> float | None:
        """Return the p-value of the left side's advantage; None without pairs."""
        if self.side is None or not self.side.error:
            return None
        scale = student_quantile(0.975, self.degrees) / student_quantile(0.975, math.inf)
        return normal_tail(self.side.value / self.side.error / scale)


class _Evaluated(NamedTuple):
    """The log-likelihood at some parameters.

    rows: for pairs and for fours, the derivative of each vote by its parameters, and which ones these are.
    information: minus the second derivative; bound: a positive matrix that is at least as large.
    """

    likelihood: float
    rows: tuple[tuple[Floats, Ints], ...]
    information: Floats
    bound: Floats


class _Model:
    """The likelihood of votes, by the ratings, then the tie and the side if there are any."""

    def __init__(self, votes: Votes, *, side: bool, prior: float) -> None:
        self.votes, k = votes, votes.contestants
        self.tie = k if bool((votes.outcome == TIE).any()) else None
        self.side = k + (self.tie is not None) if side and len(votes.pairs) else None
        self.size = k + (self.tie is not None) + (self.side is not None)
        self.prior = np.full(self.size, PRIOR)
        self.prior[:k] = prior

    def evaluate(self, at: Floats) -> _Evaluated:
        """Return the log-posterior and its derivatives."""
        parts = []
        if len(self.votes.pairs):
            parts.append(self._pairs(at))
        if len(self.votes.fours):
            parts.append(self._fours(at))
        prior = np.diag(self.prior)
        return _Evaluated(
            sum(part.likelihood for part in parts) - float(self.prior @ at**2) / 2,
            tuple(row for part in parts for row in part.rows),
            sum((part.information for part in parts), prior),
            sum((part.bound for part in parts), prior),
        )

    def _pairs(self, at: Floats) -> _Evaluated:
        votes = self.votes
        weight = np.ones(len(votes.pairs)) if votes.pair_count is None else votes.pair_count.astype(float)
        d = at[votes.pairs[:, 0]] - at[votes.pairs[:, 1]]
        if self.side is not None:
            d = d + at[self.side]
        log_odds = np.stack([d / 2, -d / 2, np.full_like(d, -np.inf if self.tie is None else at[self.tie])])
        top = log_odds.max(axis=0)
        normal = top + np.log(np.exp(log_odds - top).sum(axis=0))
        p = np.exp(log_odds - normal)
        likelihood = float(weight @ (log_odds[votes.outcome, np.arange(len(d))] - normal))
        lean = p[LEFT] - p[RIGHT]
        by_d = (((votes.outcome == LEFT) * 1.0 - (votes.outcome == RIGHT)) - lean) / 2
        twice = (p[LEFT] + p[RIGHT] - lean**2) / 4
        columns, signs = [votes.pairs[:, 0], votes.pairs[:, 1]], [1.0, -1.0]
        if self.side is not None:
            columns.append(np.full(len(d), self.side))
            signs.append(1.0)
        rows = [sign * by_d for sign in signs]
        blocks = {(a, b): signs[a] * signs[b] * twice for a in range(len(signs)) for b in range(len(signs))}
        if self.tie is not None:
            last = len(columns)
            columns.append(np.full(len(d), self.tie))
            rows.append((votes.outcome == TIE) - p[TIE])
            blocks[last, last] = p[TIE] * (1 - p[TIE])
            for a, sign in enumerate(signs):
                blocks[a, last] = blocks[last, a] = -sign * lean * p[TIE] / 2
        which = np.stack(columns, axis=1)
        matrix = np.zeros((len(d), which.shape[1], which.shape[1]))
        for (a, b), values in blocks.items():
            matrix[:, a, b] = values
        information = self._scattered(matrix * weight[:, None, None], which)
        found = np.stack(rows, axis=1) * weight[:, None], which
        return _Evaluated(likelihood, (found,), information, information)

    def _fours(self, at: Floats) -> _Evaluated:
        """Sum over both orders of the middle.

        log p = b + m + n - lse(b, m, n, w) - lse(m, n, w) - lse(m, w) - lse(n, w) + lse(m, n, w + log 2)
        """
        votes = self.votes
        weight = np.ones(len(votes.fours)) if votes.four_count is None else votes.four_count.astype(float)
        ratings = at[votes.fours]
        likelihood = ratings[:, :3].sum(axis=1)
        rows = np.zeros_like(ratings)
        rows[:, :3] = 1
        bound = np.zeros((len(ratings), 4, 4))
        for places in ((0, 1, 2, 3), (1, 2, 3), (1, 3), (2, 3)):
            value, shares = _log_sum(ratings, places)
            likelihood = likelihood - value
            rows -= shares
            bound += _spread(shares)
        doubled = ratings.copy()
        doubled[:, 3] += _LOG_2
        value, shares = _log_sum(doubled, (1, 2, 3))
        rows += shares
        exact = (bound - _spread(shares)) * weight[:, None, None]
        return _Evaluated(
            float(weight @ (likelihood + value)),
            ((rows * weight[:, None], votes.fours),),
            self._scattered(exact, votes.fours),
            self._scattered(bound * weight[:, None, None], votes.fours),
        )

    def _scattered(self, blocks: Floats, which: Ints) -> Floats:
        places = which[:, :, None] * self.size + which[:, None, :]
        flat = np.bincount(places.ravel(), blocks.ravel(), self.size**2)
        return flat.reshape(self.size, self.size).astype(np.float64)

    def gradient(self, found: _Evaluated, at: Floats) -> Floats:
        """Return the derivative of the log-posterior."""
        total = -self.prior * at
        for rows, which in found.rows:
            total += np.bincount(which.ravel(), rows.ravel(), self.size)
        return total

    def by_rater(self, found: _Evaluated) -> Floats:
        """Return the derivative of each rater's log-likelihood, `[raters, size]`."""
        total = np.zeros(self.votes.raters * self.size)
        sources = [rater for rater in (self.votes.pair_rater, self.votes.four_rater) if len(rater)]
        for (rows, which), rater in zip(found.rows, sources, strict=True):
            places = rater[:, None] * self.size + which
            total += np.bincount(places.ravel(), rows.ravel(), total.size)
        return total.reshape(self.votes.raters, self.size)


def fit(votes: Votes, *, side: bool = True) -> Ratings:
    """Estimate the ratings that make votes most likely.

    side: whether the left side may have an advantage of its own.
    """
    k, voters, bounded = votes.contestants, len(votes.voters()), is_bounded(votes)
    model = _Model(votes, side=side, prior=PRIOR if bounded else PRIOR_WITHOUT_BOUNDS)
    at, found = _maximum(model)
    inverse = np.linalg.inv(found.information)
    covariance = inverse
    if bounded and voters > 1:
        scores = model.by_rater(found)
        covariance = inverse @ (scores.T @ scores) @ inverse * (voters / (voters - 1))
    centre = np.eye(k) - 1 / k
    chosen = None
    if model.side is not None:
        error = math.sqrt(max(0.0, float(covariance[model.side, model.side])))
        chosen = Difference(float(at[model.side]), error)
    return Ratings(
        values=centre @ at[:k],
        covariance=centre @ covariance[:k, :k] @ centre,
        raters=voters,
        votes=votes.count,
        tie=-math.inf if model.tie is None else float(at[model.tie]),
        side=chosen,
        is_bounded=bounded and voters > 1,
    )


def _maximum(model: _Model) -> tuple[Floats, _Evaluated]:
    """Return the parameters of the highest posterior, by Newton's method."""
    at = np.zeros(model.size)
    found = model.evaluate(at)
    for _ in range(_MOST_STEPS):
        gradient = model.gradient(found, at)
        for curvature in (found.information, found.bound, found.bound * 8):  # the second cannot overshoot far
            step = np.linalg.solve(curvature, gradient)
            trial = model.evaluate(at + step)
            if trial.likelihood >= found.likelihood - 1e-9:
                break
        at, found = at + step, trial
        if float(np.abs(step).max()) < _SMALL:
            break
    return at, found


def is_bounded(votes: Votes) -> bool:
    """Return whether no group of contestants never loses to the others.

    Only then are there finite ratings that make the votes most likely (Ford 1957).
    """
    beats = np.zeros((votes.contestants, votes.contestants), bool)
    left, right = votes.pairs[:, 0], votes.pairs[:, 1]
    wins = votes.outcome != RIGHT, votes.outcome != LEFT  # a tie is half of each
    beats[left[wins[0]], right[wins[0]]] = True
    beats[right[wins[1]], left[wins[1]]] = True
    for upper, lower in ((0, 1), (0, 2), (0, 3), (1, 3), (2, 3)):
        beats[votes.fours[:, upper], votes.fours[:, lower]] = True
    reach = beats | np.eye(votes.contestants, dtype=bool)
    for _ in range(max(1, votes.contestants.bit_length())):
        reach = (reach.astype(np.int64) @ reach.astype(np.int64)) > 0
    return bool(reach.all())


def probabilities(ratings: Ratings, pairs: Ints) -> Floats:
    """Return the probabilities of LEFT, RIGHT and TIE, `[n, 3]`.

    pairs: `[n, 2]`, left and right.
    """
    d = ratings.values[pairs[:, 0]] - ratings.values[pairs[:, 1]]
    if ratings.side is not None:
        d = d + ratings.side.value
    odds = np.exp(np.stack([d / 2, -d / 2, np.full_like(d, ratings.tie)], axis=1))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _log_sum(values: Floats, places: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Return the log of the sum of exponentials at some places, and each place's share of the sum."""
    shares = np.zeros_like(values)
    chosen = values[:, list(places)]
    top = chosen.max(axis=1, keepdims=True)
    odds = np.exp(chosen - top)
    total = odds.sum(axis=1, keepdims=True)
    shares[:, list(places)] = odds / total
    return (top + np.log(total))[:, 0], shares


def _spread(shares: Floats) -> Floats:
    """Return the second derivative of the log of a sum of exponentials."""
    return np.asarray(_diagonal(shares) - shares[:, :, None] * shares[:, None, :])


def _diagonal(shares: Floats) -> Floats:
    return shares[:, :, None] * _identity(shares.shape[1])


@functools.cache
def _identity(size: int) -> Floats:
    return np.eye(size)


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0
